import type { NativeEvent, NativePath, NativePeer } from './native/binding.cjs'
import type { SignalingPeer } from './signaling/client-events.js'
import { type PeerQuality, toQuality } from './stats/quality.js'

/** The id of a peer. */
export type PeerId = string

/** W3C `RTCPeerConnectionState`. */
export type PeerConnectionState = 'new' | 'connecting' | 'connected' | 'disconnected' | 'failed' | 'closed'

/** Kind of an ICE candidate, W3C `RTCIceCandidateType`. */
export type IceCandidateType = 'host' | 'srflx' | 'prflx' | 'relay'

/** The way to a peer: the ICE candidate pair in use. */
export interface PeerPath {
  /** What our end of it is. */
  local: IceCandidateType
  /** What the peer's end is, as far as we were told. */
  remote: IceCandidateType
  /** `tcp` or `tls` where our end is a relay whose TURN server is reached by that; else `udp`. */
  protocol: 'udp' | 'tcp' | 'tls'
  /** Address family between the two ends. */
  family: 'IPv4' | 'IPv6'
}

/** Why something is as it is. */
export interface PeerReason {
  /** A stable word: `docs/peer-states.md` lists them. */
  code: string
  /** The same with details, for people. */
  text: string
}

export interface PeerInfo {
  id: PeerId
  /** State of the connection; `new` until there is one. */
  state: PeerConnectionState
  /** Why the state is what it is: the last change's reason. */
  reason: PeerReason
  /** The way to it; `null` while there is none. While `disconnected`, the last one. */
  path: PeerPath | null
  /** Round trip of the last STUN check on that path, ms; refreshed every second. `null` before the first. */
  roundTripMs: number | null
  /** How good the connection is; `null` while there is none, and for its first second. */
  quality: PeerQuality | null
  /** What it announced that it can do. */
  capabilities: string[]
  /** Its own data, as announced. */
  metadata: unknown
  /** What it can be sent, once connected. */
  tracks: { audio: boolean; video: 'vp9' | 'vp8' | 'h264' | null }
  /** Bytes sent on the data channel and not yet acknowledged. */
  bufferedAmount: number
}

/** What a change of the connection to a peer tells. */
export interface PeerStateChange {
  peerId: PeerId
  state: PeerConnectionState
  /** Why, for people. */
  reason: string
  /** Why, as a stable word (`docs/peer-states.md`). */
  code: string
  /** As in `PeerInfo`. */
  path: PeerPath | null
  /** As in `PeerInfo`. */
  roundTripMs: number | null
}

/** @internal A member of the room, with the link to it if there is one. */
export function peerInfo(
  { peerId, capabilities, userData }: SignalingPeer,
  link: NativePeer | undefined,
): PeerInfo {
  return {
    id: peerId,
    state: (link?.state ?? 'new') as PeerConnectionState,
    reason: { code: link?.reasonCode ?? 'announced', text: link?.reason ?? 'announced' },
    path: path(link?.path),
    roundTripMs: link?.roundTripMs ?? null,
    quality: link?.quality ? toQuality(link.quality) : null,
    capabilities: [...capabilities],
    metadata: userData,
    tracks: {
      audio: link?.audio ?? false,
      video: (link?.videoCodec ?? null) as PeerInfo['tracks']['video'],
    },
    bufferedAmount: link?.bufferedAmount ?? 0,
  }
}

/** @internal */
export function stateChange(event: NativeEvent): PeerStateChange {
  return {
    peerId: event.peerId!,
    state: event.text as PeerConnectionState,
    reason: event.detail ?? '',
    code: event.code ?? '',
    path: path(event.path),
    roundTripMs: event.roundTripMs ?? null,
  }
}

function path(native: NativePath | undefined): PeerPath | null {
  return native ? ({ ...native } as PeerPath) : null
}
