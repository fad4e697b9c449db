import { randomBytes } from 'node:crypto'
import type { VideoCodec } from './codecs.js'
import { checkKnownKeys, configError, WebRtcError } from './errors.js'
import {
  type IceTransportPolicy,
  stunServers,
  type TurnServer,
  type TurnServersFunction,
  trustedCertificates,
  turnServers,
} from './ice.js'
import type { TransportOptions, TurnServerOptions } from './native/binding.cjs'
import { isName, MAX_LISTED_PEERS, NAME_RULE } from './signaling/protocol.js'
import type { SignalingServer } from './signaling/server.js'

/** How the built-in data channel delivers (RFC 8831). `unordered`: not in order; `unreliable`: that, and nothing is sent again. */
export type DataChannelMode = 'reliable' | 'unordered' | 'unreliable'

export interface AudioConfig {
  /** bit/s, 6000 to 510 000. Default 32 000, 64 000 for stereo. */
  bitrateBps?: number
  /** 1 or 2, to send and to receive. Default 1. */
  channels?: 1 | 2
  /** Length of an Opus packet, ms: shorter is less delay and more overhead. Default 20. */
  frameMs?: 10 | 20 | 40 | 60
  /** In-band forward error correction. Default true. */
  fec?: boolean
  /** Discontinuous transmission: next to nothing is sent in silence. Default false. */
  dtx?: boolean
  /** Encoder complexity, 0 (fast) to 10 (good). Default 9. */
  complexity?: number
}

export interface VideoConfig {
  /** bit/s, 50 000 to 50 000 000. Default 4 000 000. */
  maxBitrateBps?: number
  /** bit/s, 50 000 to 50 000 000. Default by resolution, 1 500 000 at 1280x720. */
  startBitrateBps?: number
  /** Pictures beyond this rate are not encoded, 1 to 120. Default 30. */
  maxFps?: number
  /** Wider pictures are scaled down, 16 to 4096 pixels. Default 1920. */
  maxWidth?: number
  /** Higher pictures are scaled down, 16 to 4096 pixels. Default 1080. */
  maxHeight?: number
  /**
   * What the pictures show, which decides what gives way where the path is narrow: with `motion` the size, with `detail` the frame
   * rate; `text` is for screens: the frame rate gives way, and the encoder uses its tools for screens. Default `motion`.
   */
  content?: 'motion' | 'detail' | 'text'
}

export interface ReconnectConfig {
  /** Come back when signaling or a connection is lost. Default true. */
  enabled?: boolean
  /** Tries in a row before giving up, 1 to 1 000 000. Default: no limit. */
  maxAttempts?: number
  /** First delay, ms, 1 to 60 000; it doubles with each try, with jitter. Default 250. */
  initialDelayMs?: number
  /** Longest delay, ms, 1 to 600 000. Default 4 000. */
  maxDelayMs?: number
  /**
   * How long a connection that fell silent is kept and healed, ms, 1 000 to 3 600 000, as long as its peer is in the room. After
   * that it is `failed` and built anew. Default 150 000.
   */
  graceMs?: number
}

/**
 * Settings of a `WebRtcTransport`. A key that is unknown, or whose work is not built yet, is `ERR_CONFIG`: no option is accepted
 * and ignored.
 */
export interface WebRtcConfig {
  /** `ws://` or `wss://` URL of the signaling server. Required unless `signalingServer` is given. */
  signalingUrl?: string
  /** A signaling server of this process to join: one that runs, or where to start one (closed with the transport). */
  signalingServer?: SignalingServer | { port: number; host?: string }
  /**
   * STUN servers, `stun:host[:port]` (RFC 7064), at most 8: they tell this process its addresses outside of NATs. The port is
   * 3478 by default, the protocol UDP. One that fails is an `error` event (`ERR_ICE_SERVER`) and tried again. Default: none.
   */
  stunServers?: string[]
  /**
   * TURN servers, which relay where there is no direct way; at most 8 URLs. Or a function that gives them, for credentials
   * that expire. One that fails is an `error` event (`ERR_ICE_SERVER`) and tried again. Default: none.
   */
  turnServers?: TurnServer[] | TurnServersFunction
  /**
   * `relay`: peers are reached through TURN servers only, and learn no other address of this host, nor does any STUN server.
   * Needs `turnServers`. Default `all`.
   */
  iceTransportPolicy?: IceTransportPolicy
  /** 1 to 128 of `A-Z a-z 0-9 . _ ~ : @ + = / -`, unique in the room. Generated when absent; see `hosted`. */
  peerId?: string
  /**
   * Be the one that others call, as clients of the existing RemoteMedia ecosystem do: an offer to this peer, sent as a JSON-RPC
   * request, has its answer in the result of that request. `peerId` is then `remotemedia-server` unless given, and
   * `autoConnect` false. Offers of everyone else are answered as ever. Needs a `SignalingServer` of this package; with another one it is
   * an `error` event (`ERR_SIGNALING`). Default false.
   */
  hosted?: boolean
  /** Peers of one room see each other. Same characters as `peerId`. Default `default`. */
  room?: string
  /** Credential for the signaling server. */
  token?: string
  /**
   * `resumeToken` of an earlier transport with this `peerId`: takes its place in the room at once, though the server may think it
   * alive, as after a crash of its machine. The others connect anew.
   */
  resumeToken?: string
  /** Remote peers at most, 1 to 256. Default 10. */
  maxPeers?: number
  /** Default `opus`. */
  audioCodec?: 'opus'
  /** Preferred codec to send; falls back to what the peer has. Default `vp9`. */
  videoCodec?: VideoCodec
  /** Whether connections have a data channel. Default true. */
  enableDataChannel?: boolean
  /** Default `reliable`. */
  dataChannelMode?: DataChannelMode
  /** Connect to everyone announced in the room; else only `connectPeer` offers. Default true, false if `hosted`. */
  autoConnect?: boolean
  /** Only these peers are connected to, here and at the server; at most 256 ids. Default: everyone. */
  allowPeers?: string[]
  /** These peers are never connected to; at most 256 ids. Default: none. */
  denyPeers?: string[]
  reconnect?: ReconnectConfig
  audio?: AudioConfig
  video?: VideoConfig
}

/** @internal A configuration with every default filled in. */
export interface ResolvedConfig {
  peerId: string
  room: string
  token: string | undefined
  resumeToken: string | undefined
  signalingUrl: string | undefined
  signalingServer: WebRtcConfig['signalingServer']
  hosted: boolean
  capabilities: string[]
  lists: { allowPeers?: string[]; denyPeers?: string[] }
  reconnect: ReconnectConfig
  turnServersFunction: TurnServersFunction | undefined
  native: TransportOptions
}

const KEYS: readonly (keyof WebRtcConfig)[] = [
  ...([
    'signalingUrl',
    'signalingServer',
    'peerId',
    'hosted',
    'room',
    'token',
    'resumeToken',
    'maxPeers',
    'audioCodec',
  ] as const),
  ...([
    'videoCodec',
    'enableDataChannel',
    'dataChannelMode',
    'autoConnect',
    'allowPeers',
    'denyPeers',
  ] as const),
  ...(['stunServers', 'turnServers', 'iceTransportPolicy'] as const),
  ...(['reconnect', 'audio', 'video'] as const),
]

/** The id that clients of the existing ecosystem call. */
const HOSTED_PEER_ID = 'remotemedia-server'

/** Options of the contract whose work is still to come. */
const NOT_YET: Record<string, string> = {
  identity: 'signed identities are not built yet',
  trustedPeers: 'signed identities are not built yet',
}

/** @internal Throws `ERR_CONFIG` naming the field, its value and what is allowed. */
export function resolveConfig(config: WebRtcConfig): ResolvedConfig {
  refuseNotYet(config)
  checkKnownKeys('config', config, KEYS)
  const { signalingUrl, signalingServer, room = 'default', token, resumeToken } = config
  const hosted = bool('hosted', config.hosted, false)
  const peerId = config.peerId ?? (hosted ? HOSTED_PEER_ID : `peer-${randomBytes(8).toString('hex')}`)
  if (!isName(peerId)) throw configError('peerId', peerId, NAME_RULE)
  if (!isName(room)) throw configError('room', room, NAME_RULE)
  if (token !== undefined && typeof token !== 'string')
    throw configError('token', 'what was given', 'a string')
  if (resumeToken !== undefined && typeof resumeToken !== 'string')
    throw configError('resumeToken', 'what was given', 'a string')
  if (resumeToken !== undefined && config.peerId === undefined)
    throw configError('peerId', config.peerId, 'the id that the resumeToken belongs to')
  if ((signalingUrl === undefined) === (signalingServer === undefined)) {
    throw new WebRtcError('ERR_CONFIG', 'signalingUrl, signalingServer: give one of the two')
  }
  if (signalingUrl !== undefined && typeof signalingUrl !== 'string') {
    throw configError('signalingUrl', signalingUrl, 'a ws:// or wss:// URL')
  }
  if (config.audioCodec !== undefined) oneOf('audioCodec', config.audioCodec, ['opus'])
  const preferred = oneOf('videoCodec', config.videoCodec ?? 'vp9', ['vp9', 'vp8', 'h264'])
  const data = bool('enableDataChannel', config.enableDataChannel, true)
  const mode = oneOf('dataChannelMode', config.dataChannelMode ?? 'reliable', [
    'reliable',
    'unordered',
    'unreliable',
  ])
  const audio = config.audio ?? {}
  const video = config.video ?? {}
  const reconnect = config.reconnect ?? {}
  checkKnownKeys('audio', audio, ['bitrateBps', 'channels', 'frameMs', 'fec', 'dtx', 'complexity'])
  checkKnownKeys('video', video, [
    'maxBitrateBps',
    'startBitrateBps',
    'maxFps',
    'maxWidth',
    'maxHeight',
    'content',
  ])
  checkKnownKeys('reconnect', reconnect, [
    'enabled',
    'maxAttempts',
    'initialDelayMs',
    'maxDelayMs',
    'graceMs',
  ])
  const lists = { ...peerList('allowPeers', config.allowPeers), ...peerList('denyPeers', config.denyPeers) }
  const { turnServersFunction, native: ice } = iceConfig(config)
  const maxBitrate = integer('video.maxBitrateBps', video.maxBitrateBps ?? 4_000_000, 50_000, 50_000_000)
  return {
    peerId,
    room,
    token,
    resumeToken,
    signalingUrl,
    signalingServer,
    hosted,
    capabilities: ['audio', 'video', ...(data ? ['data'] : [])],
    lists,
    reconnect,
    turnServersFunction,
    native: {
      peerId,
      ...ice,
      graceMs: integer('reconnect.graceMs', reconnect.graceMs ?? 150_000, 1000, 3_600_000),
      maxPeers: integer('maxPeers', config.maxPeers ?? 10, 1, 256),
      autoConnect: bool('autoConnect', config.autoConnect, !hosted),
      ...(data ? { dataMode: mode } : {}),
      videoCodecs: [preferred, ...(['vp9', 'vp8', 'h264', 'av1'] as const).filter((c) => c !== preferred)],
      ...lists,
      retryEnabled: bool('reconnect.enabled', reconnect.enabled, true),
      ...(reconnect.maxAttempts === undefined
        ? {}
        : { retryMaxAttempts: integer('reconnect.maxAttempts', reconnect.maxAttempts, 1, 1_000_000) }),
      retryInitialDelayMs: integer('reconnect.initialDelayMs', reconnect.initialDelayMs ?? 250, 1, 60_000),
      retryMaxDelayMs: integer('reconnect.maxDelayMs', reconnect.maxDelayMs ?? 4000, 1, 600_000),
      ...(audio.bitrateBps === undefined
        ? {}
        : { audioBitrateBps: integer('audio.bitrateBps', audio.bitrateBps, 6000, 510_000) }),
      audioChannels: oneOf('audio.channels', audio.channels ?? 1, [1, 2]),
      audioFrameMs: oneOf('audio.frameMs', audio.frameMs ?? 20, [10, 20, 40, 60]),
      audioFec: bool('audio.fec', audio.fec, true),
      audioDtx: bool('audio.dtx', audio.dtx, false),
      audioComplexity: integer('audio.complexity', audio.complexity ?? 9, 0, 10),
      ...(video.startBitrateBps === undefined
        ? {}
        : {
            videoStartBitrateBps: integer('video.startBitrateBps', video.startBitrateBps, 50_000, 50_000_000),
          }),
      videoMaxBitrateBps: maxBitrate,
      videoMaxFps: integer('video.maxFps', video.maxFps ?? 30, 1, 120),
      videoMaxWidth: integer('video.maxWidth', video.maxWidth ?? 1920, 16, 4096),
      videoMaxHeight: integer('video.maxHeight', video.maxHeight ?? 1080, 16, 4096),
      videoContent: oneOf('video.content', video.content ?? 'motion', ['motion', 'detail', 'text']),
    },
  }
}

interface IceConfig {
  turnServersFunction: TurnServersFunction | undefined
  native: Pick<TransportOptions, 'stunServers' | 'turnServers' | 'relayOnly' | 'tlsRoots'>
}

function iceConfig(config: WebRtcConfig): IceConfig {
  const policy = oneOf('iceTransportPolicy', config.iceTransportPolicy ?? 'all', ['all', 'relay'])
  const given = config.turnServers ?? []
  const ask = typeof given === 'function' ? given : undefined
  const turn: TurnServerOptions[] = ask ? [] : turnServers(given)
  if (policy === 'relay' && !ask && turn.length === 0) {
    throw new WebRtcError('ERR_CONFIG', "iceTransportPolicy: 'relay' needs turnServers; there are none")
  }
  const overTls = ask || turn.some(({ protocol }) => protocol === 'tls')
  return {
    turnServersFunction: ask,
    native: {
      stunServers: stunServers(config.stunServers ?? []),
      ...(ask ? {} : { turnServers: turn }),
      relayOnly: policy === 'relay',
      ...(overTls ? { tlsRoots: trustedCertificates() } : {}),
    },
  }
}

function refuseNotYet(options: unknown): void {
  if (typeof options !== 'object' || options === null) return
  for (const key of Object.keys(options)) {
    const why = NOT_YET[key]
    if (why) throw new WebRtcError('ERR_CONFIG', `${key}: ${why}; leave it out`)
  }
}

function peerList(field: 'allowPeers' | 'denyPeers', ids: string[] | undefined): ResolvedConfig['lists'] {
  if (ids === undefined) return {}
  if (!(Array.isArray(ids) && ids.length <= MAX_LISTED_PEERS && ids.every(isName))) {
    throw configError(field, ids, `at most ${MAX_LISTED_PEERS} peer ids`)
  }
  return { [field]: [...ids] }
}

function bool(field: string, value: unknown, fallback: boolean): boolean {
  if (value === undefined) return fallback
  if (typeof value !== 'boolean') throw configError(field, value, 'true or false')
  return value
}

function integer(field: string, value: unknown, min: number, max: number): number {
  if (Number.isInteger(value) && (value as number) >= min && (value as number) <= max) return value as number
  throw configError(field, value, `an integer from ${min} to ${max}`)
}

function oneOf<T>(field: string, value: T, allowed: readonly T[]): T {
  if (allowed.includes(value)) return value
  throw configError(field, value, `one of ${allowed.join(', ')}`)
}
