import { checkKnownKeys, configError } from '../errors.js'

/**
 * Every bound of the signaling server. All are optional where they are given; the table in `docs/signaling.md` repeats
 * range and default. A limit that is reached is answered with its protocol error or closes the connection, and is counted
 * in `SignalingServer.stats()`.
 */
export interface SignalingLimits {
  /** Bytes of one WebSocket message to the server. Default 65 536, range 1 024 to 1 048 576. Larger: −32014, close 1009. */
  maxMessageBytes: number
  /** Bytes (UTF-8) of one SDP. Default 49 152, range 512 to 1 048 576. Larger: −32014. */
  maxSdpBytes: number
  /** Bytes (UTF-8) of one ICE candidate line. Default 2 048, range 128 to 65 536. Larger: −32014. */
  maxCandidateBytes: number
  /** Bytes (UTF-8, as JSON) of `user_data`. Default 4 096, range 0 to 65 536. Larger: −32014. */
  maxUserDataBytes: number
  /** Nested arrays and objects in a message, the message itself counted. Default 16, range 4 to 64. Deeper: −32600. */
  maxDepth: number
  /** Candidates from one peer to another after an offer or answer between them. Default 64, range 1 to 10 000. More: −32011. */
  maxCandidatesPerNegotiation: number
  /** Time for a connection to announce itself, ms. Default 5 000, range 50 to 600 000. Later: close 1008. */
  announceTimeoutMs: number
  /** Messages a second from one connection, sustained. Default 200, range 1 to 1 000 000. More: −32011. */
  messagesPerSecond: number
  /** Messages one connection may send at once on top of the rate. Default 1 000, range 1 to 1 000 000. */
  messageBurst: number
  /** Messages a second from all connections of one address. Default 2 000, range 1 to 10 000 000. More: −32011. */
  addressMessagesPerSecond: number
  /** Messages one address may send at once on top of the rate. Default 20 000, range 1 to 10 000 000. */
  addressMessageBurst: number
  /** New connections a second from one address. Default 100, range 0.01 to 1 000 000. More: HTTP 429. */
  addressConnectionsPerSecond: number
  /** Connections one address may open at once on top of the rate. Default 500, range 1 to 1 000 000. */
  addressConnectionBurst: number
  /** Rate-limited messages a connection is forgiven, regained at `messagesPerSecond`. Default 10 000, range 1 to 1 000 000. More: close 1008. */
  maxRateViolations: number
  /** Bytes waiting for one slow reader. Default 1 048 576, range 4 096 to 268 435 456. More: close 1013. */
  maxSendQueueBytes: number
  /** Time between pings, ms; two without any sign of life end the connection. Default 10 000, range 20 to 600 000. */
  heartbeatIntervalMs: number
  /** WebSocket connections at once. Default 10 000, range 1 to 1 000 000. More: HTTP 503. */
  maxConnections: number
  /** WebSocket connections at once from one address. Default 2 000, range 1 to 1 000 000. More: HTTP 429. */
  maxConnectionsPerAddress: number
  /** Rooms at once. Default 10 000, range 1 to 1 000 000. More: −32001. */
  maxRooms: number
  /** Peers in one room. Default 100, range 1 to 10 000. More: −32001. */
  maxPeersPerRoom: number
  /** Time a hosted peer has to answer an offer, ms. Default 10 000, range 10 to 600 000. Later: −32006. */
  hostedAnswerTimeoutMs: number
  /** Time `close()` waits for clients to say goodbye before it cuts them off, ms. Default 1 000, range 0 to 60 000. */
  closeTimeoutMs: number
}

export interface LimitSpec {
  readonly default: number
  readonly min: number
  readonly max: number
  readonly unit: 'bytes' | 'ms' | 'count' | 'per second'
}

const MIB = 1_048_576

/** Default, range and unit of each limit: what `resolveLimits`, the command line and the documentation go by. */
export const SIGNALING_LIMITS: Readonly<Record<keyof SignalingLimits, LimitSpec>> = {
  maxMessageBytes: { default: 65_536, min: 1_024, max: MIB, unit: 'bytes' },
  maxSdpBytes: { default: 49_152, min: 512, max: MIB, unit: 'bytes' },
  maxCandidateBytes: { default: 2_048, min: 128, max: 65_536, unit: 'bytes' },
  maxUserDataBytes: { default: 4_096, min: 0, max: 65_536, unit: 'bytes' },
  maxDepth: { default: 16, min: 4, max: 64, unit: 'count' },
  maxCandidatesPerNegotiation: { default: 64, min: 1, max: 10_000, unit: 'count' },
  announceTimeoutMs: { default: 5_000, min: 50, max: 600_000, unit: 'ms' },
  messagesPerSecond: { default: 200, min: 1, max: 1_000_000, unit: 'per second' },
  messageBurst: { default: 1_000, min: 1, max: 1_000_000, unit: 'count' },
  addressMessagesPerSecond: { default: 2_000, min: 1, max: 10_000_000, unit: 'per second' },
  addressMessageBurst: { default: 20_000, min: 1, max: 10_000_000, unit: 'count' },
  addressConnectionsPerSecond: { default: 100, min: 0.01, max: 1_000_000, unit: 'per second' },
  addressConnectionBurst: { default: 500, min: 1, max: 1_000_000, unit: 'count' },
  maxRateViolations: { default: 10_000, min: 1, max: 1_000_000, unit: 'count' },
  maxSendQueueBytes: { default: MIB, min: 4_096, max: 256 * MIB, unit: 'bytes' },
  heartbeatIntervalMs: { default: 10_000, min: 20, max: 600_000, unit: 'ms' },
  maxConnections: { default: 10_000, min: 1, max: 1_000_000, unit: 'count' },
  maxConnectionsPerAddress: { default: 2_000, min: 1, max: 1_000_000, unit: 'count' },
  maxRooms: { default: 10_000, min: 1, max: 1_000_000, unit: 'count' },
  maxPeersPerRoom: { default: 100, min: 1, max: 10_000, unit: 'count' },
  hostedAnswerTimeoutMs: { default: 10_000, min: 10, max: 600_000, unit: 'ms' },
  closeTimeoutMs: { default: 1_000, min: 0, max: 60_000, unit: 'ms' },
}

export const LIMIT_NAMES = Object.keys(SIGNALING_LIMITS) as (keyof SignalingLimits)[]

/** Defaults with `given` laid over them. Throws `ERR_CONFIG` for an unknown key or a value out of range. */
export function resolveLimits(given: Partial<SignalingLimits> = {}): SignalingLimits {
  checkKnownKeys('limits', given, LIMIT_NAMES)
  const limits = {} as SignalingLimits
  for (const name of LIMIT_NAMES) limits[name] = checkLimit(name, given[name], `limits.${name}`)
  return limits
}

/** One limit's value, or its default for `undefined`. Throws `ERR_CONFIG` under the name `field`. */
export function checkLimit(name: keyof SignalingLimits, value: number | undefined, field: string): number {
  const spec = SIGNALING_LIMITS[name]
  if (value === undefined) return spec.default
  const whole = spec.unit !== 'per second'
  const fits =
    typeof value === 'number' && value >= spec.min && value <= spec.max && (!whole || Number.isInteger(value))
  if (!fits)
    throw configError(field, value, `${whole ? 'an integer' : 'a number'} from ${spec.min} to ${spec.max}`)
  return value
}
