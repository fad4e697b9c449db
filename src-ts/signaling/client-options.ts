import { randomBytes } from 'node:crypto'
import { checkKnownKeys, configError } from '../errors.js'
import { SIGNALING_LIMITS } from './limits.js'
import {
  DEFAULT_ROOM,
  isName,
  type JsonValue,
  MAX_CAPABILITIES,
  MAX_CAPABILITY_CHARS,
  MAX_LISTED_PEERS,
  NAME_RULE,
} from './protocol.js'

export interface SignalingClientOptions {
  /** `ws://` or `wss://` URL of the server. */
  url: string
  /** 1 to 128 of `A-Z a-z 0-9 . _ ~ : @ + = / -`, unique in the room. Generated when absent. */
  peerId?: string
  /** Same rule as `peerId`. Default `default`. */
  room?: string
  /** What this peer can do, e.g. `['audio', 'video', 'data']`: at most 32 strings of 1 to 64 characters. Default none. */
  capabilities?: string[]
  /** Anything JSON, at most 4 KiB, shown to every peer of the room. Default `null`. */
  userData?: JsonValue
  /** Credential for the server's `authorize`. */
  token?: string
  /** The only peers whose messages the server may hand to this one; at most 256. Default: all. */
  allowPeers?: string[]
  /** Peers whose messages the server must not hand to this one; at most 256. Default: none. */
  denyPeers?: string[]
  /**
   * Whoever offers to this peer by a request gets its answer, or `refuse`, as the result of that: for clients that expect so of a server
   * they call, as those of the existing RemoteMedia ecosystem do. Default false.
   */
  answersOffers?: boolean
  /** From an earlier connection's `resumeToken`: takes over its membership at once, even if the server thinks it alive. */
  resumeToken?: string
  /** Ends a `connect` that is under way with `ERR_ABORTED`. Has no effect later. */
  signal?: AbortSignal
  /** Time to connect and be announced, ms. Default 10 000, range 1 to 600 000. */
  timeoutMs?: number
  /** Time for the answer to one request, ms. Default 10 000, range 1 to 600 000. */
  requestTimeoutMs?: number
  /** Requests that may wait for answers at once; more are refused with `ERR_RATE_LIMITED`. Default 1 024, range 1 to 100 000. */
  maxInFlight?: number
  /**
   * Time between pings, ms. No sign of life within 3 s of one (or twice this time, if that is less), and the connection counts as
   * lost. Default 5 000, range 20 to 600 000.
   */
  heartbeatIntervalMs?: number
  /** Largest SDP to send, bytes. Default 49 152 as the server's, range 512 to 1 048 576. Larger: `ERR_MESSAGE_TOO_LARGE`. */
  maxSdpBytes?: number
  /** Largest message to send, bytes. Default 65 536 as the server's, range 1 024 to 1 048 576. Larger: `ERR_MESSAGE_TOO_LARGE`. */
  maxMessageBytes?: number
  /** What happens when the connection is lost after the first announce. */
  reconnect?: SignalingReconnectOptions
}

export interface SignalingReconnectOptions {
  /** Default true. */
  enabled?: boolean
  /** Tries before giving up. Default unlimited, range 1 to 1 000 000. */
  maxAttempts?: number
  /**
   * First delay, ms; doubles with each try, and counts from the beginning of the one before. Each is drawn from the upper half of its
   * range. After a connection that this side gave up as dead, the first try comes at once. Default 250, range 1 to 60 000.
   */
  initialDelayMs?: number
  /** Longest delay, ms. Default 4 000, range 1 to 600 000. */
  maxDelayMs?: number
}

/** Options with every default filled in. */
export interface ResolvedClientOptions {
  readonly url: URL
  readonly peerId: string
  readonly room: string
  /** `peer.announce` parameters, without a resume token. */
  readonly announce: { [key: string]: JsonValue }
  readonly timeoutMs: number
  readonly requestTimeoutMs: number
  readonly maxInFlight: number
  readonly heartbeatIntervalMs: number
  readonly maxSdpBytes: number
  readonly maxMessageBytes: number
  readonly reconnect: Required<SignalingReconnectOptions>
}

/** Throws `ERR_CONFIG` naming the field, its value and what is allowed. */
export function resolveClientOptions(options: SignalingClientOptions): ResolvedClientOptions {
  checkKnownKeys('options', options, OPTION_KEYS)
  const reconnect = options.reconnect ?? {}
  checkKnownKeys('reconnect', reconnect, ['enabled', 'maxAttempts', 'initialDelayMs', 'maxDelayMs'])
  const peerId = options.peerId ?? `peer-${randomBytes(8).toString('hex')}`
  const room = options.room ?? DEFAULT_ROOM
  if (!isName(peerId)) throw configError('peerId', peerId, NAME_RULE)
  if (!isName(room)) throw configError('room', room, NAME_RULE)
  const { enabled = true } = reconnect
  if (typeof enabled !== 'boolean') throw configError('reconnect.enabled', enabled, 'true or false')
  if (options.signal !== undefined && typeof options.signal?.addEventListener !== 'function') {
    throw configError('signal', options.signal, 'an AbortSignal')
  }
  const { maxSdpBytes, maxMessageBytes, heartbeatIntervalMs } = SIGNALING_LIMITS
  return {
    url: checkUrl(options.url),
    peerId,
    room,
    announce: announceParams(options, peerId, room),
    timeoutMs: checkInteger('timeoutMs', options.timeoutMs, 10_000, 1, 600_000),
    requestTimeoutMs: checkInteger('requestTimeoutMs', options.requestTimeoutMs, 10_000, 1, 600_000),
    maxInFlight: checkInteger('maxInFlight', options.maxInFlight, 1_024, 1, 100_000),
    heartbeatIntervalMs: checkSpec('heartbeatIntervalMs', options.heartbeatIntervalMs, {
      ...heartbeatIntervalMs,
      default: 5_000,
    }),
    maxSdpBytes: checkSpec('maxSdpBytes', options.maxSdpBytes, maxSdpBytes),
    maxMessageBytes: checkSpec('maxMessageBytes', options.maxMessageBytes, maxMessageBytes),
    reconnect: {
      enabled,
      maxAttempts:
        reconnect.maxAttempts === Number.POSITIVE_INFINITY
          ? reconnect.maxAttempts
          : checkInteger(
              'reconnect.maxAttempts',
              reconnect.maxAttempts,
              Number.POSITIVE_INFINITY,
              1,
              1_000_000,
            ),
      initialDelayMs: checkInteger('reconnect.initialDelayMs', reconnect.initialDelayMs, 250, 1, 60_000),
      maxDelayMs: checkInteger('reconnect.maxDelayMs', reconnect.maxDelayMs, 4_000, 1, 600_000),
    },
  }
}

function announceParams(
  options: SignalingClientOptions,
  peerId: string,
  room: string,
): { [key: string]: JsonValue } {
  const { capabilities = [], userData, token, resumeToken, answersOffers = false } = options
  const capable =
    Array.isArray(capabilities) &&
    capabilities.length <= MAX_CAPABILITIES &&
    capabilities.every((c) => typeof c === 'string' && c.length >= 1 && c.length <= MAX_CAPABILITY_CHARS)
  if (!capable) {
    throw configError(
      'capabilities',
      capabilities,
      `at most ${MAX_CAPABILITIES} strings of 1 to ${MAX_CAPABILITY_CHARS} characters`,
    )
  }
  const params: { [key: string]: JsonValue } = { peer_id: peerId, room, capabilities: [...capabilities] }
  if (userData !== undefined) params.user_data = checkUserData(userData)
  if (typeof answersOffers !== 'boolean') throw configError('answersOffers', answersOffers, 'true or false')
  if (answersOffers) params.answers_offers = true
  for (const [field, value] of Object.entries({ token, resumeToken })) {
    if (value !== undefined && typeof value !== 'string')
      throw configError(field, 'what was given', 'a string')
  }
  if (token !== undefined) params.token = token
  for (const field of ['allowPeers', 'denyPeers'] as const) {
    const ids = options[field]
    if (ids === undefined) continue
    if (!(Array.isArray(ids) && ids.length <= MAX_LISTED_PEERS && ids.every(isName))) {
      throw configError(field, ids, `at most ${MAX_LISTED_PEERS} peer ids`)
    }
    params[field === 'allowPeers' ? 'allow_peers' : 'deny_peers'] = [...ids]
  }
  return params
}

function checkUserData(userData: JsonValue): JsonValue {
  let text: string | undefined
  try {
    text = JSON.stringify(userData)
  } catch {
    // Cycles and bigints: told below.
  }
  const max = SIGNALING_LIMITS.maxUserDataBytes.default
  if (text === undefined || Buffer.byteLength(text) > max) {
    throw configError('userData', userData, `a JSON value of at most ${max} bytes`)
  }
  // A copy: what is announced again after a reconnect is what was given here.
  return JSON.parse(text) as JsonValue
}

function checkUrl(text: unknown): URL {
  let url: URL | undefined
  try {
    url = new URL(String(text))
  } catch {
    // Told below.
  }
  if (typeof text !== 'string' || !url || !['ws:', 'wss:'].includes(url.protocol)) {
    throw configError('url', text, 'a ws:// or wss:// URL')
  }
  url.hash = ''
  return url
}

function checkSpec(
  field: string,
  value: number | undefined,
  spec: { default: number; min: number; max: number },
): number {
  return checkInteger(field, value, spec.default, spec.min, spec.max)
}

function checkInteger(
  field: string,
  value: number | undefined,
  fallback: number,
  min: number,
  max: number,
): number {
  if (value === undefined) return fallback
  if (!(Number.isInteger(value) && value >= min && value <= max)) {
    throw configError(field, value, `an integer from ${min} to ${max}`)
  }
  return value
}

const OPTION_KEYS: readonly (keyof SignalingClientOptions)[] = [
  'url',
  'peerId',
  'room',
  'capabilities',
  'userData',
  'token',
  'allowPeers',
  'denyPeers',
  'answersOffers',
  'resumeToken',
  'signal',
  'timeoutMs',
  'requestTimeoutMs',
  'maxInFlight',
  'heartbeatIntervalMs',
  'maxSdpBytes',
  'maxMessageBytes',
  'reconnect',
]
