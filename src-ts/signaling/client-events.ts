import type { WebRtcError } from '../errors.js'
import {
  type ConnectionState,
  isName,
  isObject,
  type JsonObject,
  type JsonValue,
  MAX_REASON_CHARS,
  type WirePeer,
} from './protocol.js'

/** A peer of the room, as it announced itself. */
export interface SignalingPeer {
  peerId: string
  capabilities: string[]
  userData: JsonValue
}

export interface SignalingDescription {
  from: string
  sdp: string
}

export interface SignalingCandidate {
  /** RFC 8839 candidate line, `candidate:…`; empty: end of candidates. */
  candidate: string
  sdpMid?: string | null
  sdpMLineIndex?: number | null
}

/** What a peer has to say against an offer, answer or candidate it got. */
export interface SignalingRefusal {
  from: string
  /** JSON-RPC error code (`docs/signaling.md`, Errors). */
  code: number
  message: string
}

export interface SignalingAnswer {
  type: 'answer'
  sdp: string
  from: string
  to: string
}

export interface SignalingClientEvents {
  /** A peer announced itself: it offers, this one waits. */
  joined: SignalingPeer
  /** A peer's membership ended, for whatever reason. */
  left: { peerId: string; reason: string }
  /** A peer said goodbye; its `left` follows. */
  disconnected: { peerId: string; reason: string }
  /** A peer's signaling connection went quiet (`disconnected`) or is back (`connected`); it is a member all the while. */
  stateChange: { peerId: string; connectionState: ConnectionState }
  offer: SignalingDescription
  answer: SignalingDescription
  candidate: { from: string } & Required<SignalingCandidate>
  /** A peer did not accept what was sent to it. */
  refused: SignalingRefusal
  /** Something went wrong that no call was waiting for. Without a listener it is a process warning, never a throw. */
  error: WebRtcError
  /** The connection is lost; the next try begins in `delayMs`. Calls are refused with `ERR_SIGNALING` until `reconnected`. */
  reconnecting: { attempt: number; delayMs: number; error: WebRtcError }
  /**
   * Announced again, under the same id. `peers` is who is there now. Peers that this one knew and that are missing may be on their
   * way back as well (a server that restarted lost them all), so no `left` is emitted for them. `resumed`: the others never saw
   * this one leave.
   */
  reconnected: { peers: SignalingPeer[]; resumed: boolean }
  /** The end, once: `close()`, or a loss that is not to be repaired, which `error` then names. */
  close: { code: number; reason: string; error?: WebRtcError }
}

/** A notification as the event it becomes. */
export type ClientEvent = { [K in Told]: { name: K; data: SignalingClientEvents[K] } }[Told]

type Told = 'joined' | 'left' | 'disconnected' | 'stateChange' | 'offer' | 'answer' | 'candidate' | 'refused'

/** A notification as an event; undefined when it is malformed, null when its method is unknown. */
export function readNotification(method: string, params: JsonObject): ClientEvent | undefined | null {
  const { from, sdp, peer_id: peerId } = params
  switch (method) {
    case 'peer.offer':
    case 'peer.answer': {
      if (!isName(from) || typeof sdp !== 'string') return undefined
      return { name: method === 'peer.offer' ? 'offer' : 'answer', data: { from, sdp } }
    }
    case 'peer.ice_candidate': {
      if (!isName(from) || typeof params.candidate !== 'string') return undefined
      const sdpMid = typeof params.sdp_mid === 'string' ? params.sdp_mid : null
      const sdpMLineIndex = typeof params.sdp_m_line_index === 'number' ? params.sdp_m_line_index : null
      return { name: 'candidate', data: { from, candidate: params.candidate, sdpMid, sdpMLineIndex } }
    }
    case 'peer.error': {
      if (!isName(from) || !Number.isInteger(params.code)) return undefined
      const message = typeof params.message === 'string' ? params.message.slice(0, MAX_REASON_CHARS) : ''
      return { name: 'refused', data: { from, code: params.code as number, message } }
    }
    case 'peer.joined': {
      const [peer] = readPeers([params])
      return peer && { name: 'joined', data: peer }
    }
    case 'peer.left':
    case 'peer.disconnected': {
      if (!isName(peerId)) return undefined
      const reason = typeof params.reason === 'string' ? params.reason : ''
      return { name: method === 'peer.left' ? 'left' : 'disconnected', data: { peerId, reason } }
    }
    case 'peer.state_change': {
      if (!isName(peerId) || !STATES.has(String(params.connection_state))) return undefined
      return {
        name: 'stateChange',
        data: { peerId, connectionState: params.connection_state as ConnectionState },
      }
    }
    default:
      return null
  }
}

/** The well-formed entries of a list of peers. */
export function readPeers(value: unknown): SignalingPeer[] {
  if (!Array.isArray(value)) return []
  const peers: SignalingPeer[] = []
  for (const entry of value as Partial<WirePeer>[]) {
    if (!isObject(entry) || !isName(entry.peer_id)) continue
    const { capabilities } = entry
    peers.push({
      peerId: entry.peer_id,
      capabilities: Array.isArray(capabilities) ? capabilities.filter((c) => typeof c === 'string') : [],
      userData: (entry.user_data ?? null) as JsonValue,
    })
  }
  return peers
}

const STATES: ReadonlySet<string> = new Set<ConnectionState>([
  'new',
  'connecting',
  'connected',
  'disconnected',
  'failed',
  'closed',
])
