/**
 * The signaling wire protocol: JSON-RPC 2.0 (jsonrpc.org/specification) in WebSocket text messages. What is parsed here
 * came from outside: nothing is trusted, every size has a bound, and no input throws anything but `RpcError`.
 */
import type { SignalingLimits } from './limits.js'

export type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue }
export type JsonObject = { [key: string]: JsonValue }
export type RpcId = string | number | null

/** A request (with `id`) or a notification (without). Parameters are always by name. */
export interface RpcCall {
  jsonrpc: '2.0'
  id?: RpcId
  method: string
  params?: JsonObject
}

export interface RpcErrorBody {
  code: number
  message: string
  data?: JsonValue
}

export interface RpcResponse {
  jsonrpc: '2.0'
  id: RpcId
  result?: JsonValue
  error?: RpcErrorBody
}

/** Error codes on the wire: JSON-RPC's own, the RemoteMedia ecosystem's from −32000, this package's from −32010. */
export const RPC_ERRORS = {
  PARSE_ERROR: -32700,
  INVALID_REQUEST: -32600,
  METHOD_NOT_FOUND: -32601,
  INVALID_PARAMS: -32602,
  INTERNAL_ERROR: -32603,
  PEER_NOT_FOUND: -32000,
  SESSION_LIMIT: -32001,
  OFFER_INVALID: -32002,
  ANSWER_INVALID: -32003,
  CANDIDATE_INVALID: -32004,
  NEGOTIATION_IN_PROGRESS: -32005,
  CONNECTION_TIMEOUT: -32006,
  CODEC_MISMATCH: -32007,
  UNAUTHORIZED: -32010,
  RATE_LIMITED: -32011,
  PEER_ID_TAKEN: -32012,
  DENIED: -32013,
  MESSAGE_TOO_LARGE: -32014,
} as const

/** WebSocket close codes the server uses (RFC 6455 §7.4; 4000 and up are this protocol's own). */
export const CLOSE_CODES = {
  NORMAL: 1000,
  GOING_AWAY: 1001,
  UNSUPPORTED_DATA: 1003,
  POLICY: 1008,
  MESSAGE_TOO_BIG: 1009,
  SLOW_READER: 1013,
  /** The same peer came back on a new connection with its resume token. */
  REPLACED: 4001,
} as const

/** W3C `RTCPeerConnectionState`, as `peer.state_change` carries it. */
export type ConnectionState = 'new' | 'connecting' | 'connected' | 'disconnected' | 'failed' | 'closed'

/** A peer as `peer.list` and the announce result show it. */
export interface WirePeer {
  peer_id: string
  capabilities: string[]
  user_data: JsonValue
}

/** What `peer.announce` asks for, checked. */
export interface Announce {
  peerId: string
  room: string
  capabilities: string[]
  userData: JsonValue
  token?: string
  publicKey?: string
  signature?: string
  resumeToken?: string
  /** Only these may send to this peer; absent: everyone. */
  allowPeers?: string[]
  /** These may not send to this peer, listed as allowed or not. */
  denyPeers?: string[]
  /** Requests that bring an offer to this peer are answered with its answer. */
  answersOffers?: boolean
}

export type RelayMethod = 'peer.offer' | 'peer.answer' | 'peer.ice_candidate' | 'peer.error'

/** A refusal that becomes a JSON-RPC error answer. */
export class RpcError extends Error {
  readonly code: number
  readonly data?: JsonValue

  constructor(code: number, message: string, data?: JsonValue) {
    super(message)
    this.name = 'RpcError'
    this.code = code
    if (data !== undefined) this.data = data
  }
}

export type Parsed =
  | { kind: 'call'; id: RpcId | undefined; method: string; params: JsonObject }
  | { kind: 'response'; id: RpcId; result?: JsonValue; error?: RpcErrorBody }
  | { kind: 'invalid'; id: RpcId; error: RpcError }

const MAX_ID_CHARS = 256
const MAX_METHOD_CHARS = 128

/** Parses one message. Depth is checked on the text, before any value is built. Batches are refused. */
export function parseMessage(text: string, maxDepth: number): Parsed {
  if (isDeeperThan(text, maxDepth)) {
    return invalid(null, RPC_ERRORS.INVALID_REQUEST, `nested deeper than ${maxDepth} levels`)
  }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return invalid(null, RPC_ERRORS.PARSE_ERROR, 'not JSON')
  }
  if (Array.isArray(value)) {
    return invalid(null, RPC_ERRORS.INVALID_REQUEST, 'batches are not supported; send each message by itself')
  }
  if (!isObject(value)) return invalid(null, RPC_ERRORS.INVALID_REQUEST, 'not a JSON object')

  const hasId = Object.hasOwn(value, 'id')
  const idIsValid = hasId && isRpcId(value.id)
  const id = idIsValid ? (value.id as RpcId) : null
  if (hasId && !idIsValid) {
    return invalid(
      null,
      RPC_ERRORS.INVALID_REQUEST,
      `id: expected a number, null or a string of at most ${MAX_ID_CHARS} characters`,
    )
  }
  if (value.jsonrpc !== '2.0') return invalid(id, RPC_ERRORS.INVALID_REQUEST, 'jsonrpc: expected "2.0"')
  if (!Object.hasOwn(value, 'method')) {
    if (hasId && Object.hasOwn(value, 'error') && isErrorBody(value.error)) {
      return { kind: 'response', id, error: value.error }
    }
    if (hasId && Object.hasOwn(value, 'result'))
      return { kind: 'response', id, result: value.result as JsonValue }
    return invalid(id, RPC_ERRORS.INVALID_REQUEST, 'method: missing')
  }
  if (typeof value.method !== 'string' || value.method.length > MAX_METHOD_CHARS) {
    return invalid(
      id,
      RPC_ERRORS.INVALID_REQUEST,
      `method: expected a string of at most ${MAX_METHOD_CHARS} characters`,
    )
  }
  const params = Object.hasOwn(value, 'params') ? value.params : {}
  if (Array.isArray(params))
    return invalid(id, RPC_ERRORS.INVALID_PARAMS, 'params: expected an object, parameters go by name')
  if (!isObject(params)) return invalid(id, RPC_ERRORS.INVALID_REQUEST, 'params: expected an object')
  return { kind: 'call', id: hasId ? id : undefined, method: value.method, params: params as JsonObject }
}

/** The parameters of `peer.announce`, checked. Throws `RpcError`. */
export function readAnnounce(params: JsonObject, limits: SignalingLimits): Announce {
  const announce: Announce = {
    peerId: readName(params, 'peer_id'),
    room: isAbsent(params, 'room') ? DEFAULT_ROOM : readName(params, 'room'),
    capabilities: readCapabilities(params),
    userData: readUserData(params, limits.maxUserDataBytes),
  }
  const token = readText(params, 'token', MAX_TOKEN_CHARS)
  const publicKey = readText(params, 'public_key', MAX_KEY_CHARS)
  const signature = readText(params, 'signature', MAX_KEY_CHARS)
  const resumeToken = readText(params, 'resume_token', MAX_KEY_CHARS)
  const allowPeers = readPeerIds(params, 'allow_peers')
  const denyPeers = readPeerIds(params, 'deny_peers')
  if (token !== undefined) announce.token = token
  if (publicKey !== undefined) announce.publicKey = publicKey
  if (signature !== undefined) announce.signature = signature
  if (resumeToken !== undefined) announce.resumeToken = resumeToken
  if (allowPeers !== undefined) announce.allowPeers = allowPeers
  if (denyPeers !== undefined) announce.denyPeers = denyPeers
  if (!isAbsent(params, 'answers_offers')) {
    if (typeof params.answers_offers !== 'boolean') throw badParam('answers_offers', 'expected true or false')
    announce.answersOffers = params.answers_offers
  }
  return announce
}

/** Checks what a relayed message carries besides `from` and `to`. Throws `RpcError`. */
export function checkRelayPayload(method: RelayMethod, params: JsonObject, limits: SignalingLimits): void {
  if (method === 'peer.ice_candidate') {
    checkCandidate(params, limits)
    return
  }
  if (method === 'peer.error') {
    if (!Number.isInteger(params.code)) throw badParam('code', 'expected an integer')
    readText(params, 'message', MAX_REASON_CHARS)
    return
  }
  const { sdp } = params
  if (typeof sdp !== 'string') throw badParam('sdp', 'expected a string')
  if (Buffer.byteLength(sdp) > limits.maxSdpBytes) throw tooLarge('sdp', limits.maxSdpBytes)
  // The rest of the SDP is its receiver's to judge; what is plainly none is refused before it travels (RFC 8866 §5.1).
  if (!sdp.startsWith('v=0')) {
    const code = method === 'peer.offer' ? RPC_ERRORS.OFFER_INVALID : RPC_ERRORS.ANSWER_INVALID
    throw new RpcError(code, 'sdp: does not begin with "v=0"')
  }
}

function checkCandidate(params: JsonObject, limits: SignalingLimits): void {
  const { candidate } = params
  if (typeof candidate !== 'string') throw badParam('candidate', 'expected a string')
  if (Buffer.byteLength(candidate) > limits.maxCandidateBytes)
    throw tooLarge('candidate', limits.maxCandidateBytes)
  if (candidate !== '' && !/^(a=)?candidate:/.test(candidate)) {
    throw new RpcError(RPC_ERRORS.CANDIDATE_INVALID, 'candidate: does not begin with "candidate:"')
  }
  readText(params, 'sdp_mid', MAX_MID_CHARS)
  const line = params.sdp_m_line_index
  if (
    !isAbsent(params, 'sdp_m_line_index') &&
    !(Number.isInteger(line) && (line as number) >= 0 && (line as number) <= 65_535)
  ) {
    throw badParam('sdp_m_line_index', 'expected an integer from 0 to 65535')
  }
}

/** The room of an announce that names none. */
export const DEFAULT_ROOM = 'default'
/** Characters of a peer id or room. */
export const MAX_NAME_CHARS = 128
/** Entries of `capabilities`, and characters of each. */
export const MAX_CAPABILITIES = 32
export const MAX_CAPABILITY_CHARS = 64
/** Entries of `allow_peers` and of `deny_peers`. */
export const MAX_LISTED_PEERS = 256
/** Characters of `reason`, and of the `message` of a `peer.error`. */
export const MAX_REASON_CHARS = 256
const MAX_TOKEN_CHARS = 8_192
const MAX_KEY_CHARS = 1_024
const MAX_MID_CHARS = 256

/**
 * Peer ids and rooms: 1 to 128 of ASCII letters, digits and `. _ ~ : @ + = / -`. ASCII, because the greater of two ids is the
 * polite one and every language must order them alike. `__proto__` is refused, since ids become keys in users' objects.
 */
export function isName(value: unknown): value is string {
  return typeof value === 'string' && NAME.test(value) && value !== '__proto__'
}

export const NAME_RULE = `1 to ${MAX_NAME_CHARS} of A-Z a-z 0-9 . _ ~ : @ + = / -`
const NAME = /^[A-Za-z0-9._~:@+=/-]{1,128}$/

/** A required peer id or room. Throws `RpcError`. */
export function readName(params: JsonObject, key: string): string {
  const value = params[key]
  if (!isName(value)) throw badParam(key, `expected ${NAME_RULE}`)
  return value
}

/** An optional string; `null` counts as absent, as some clients write it. Throws `RpcError`. */
export function readText(params: JsonObject, key: string, maxChars: number): string | undefined {
  if (isAbsent(params, key)) return undefined
  const value = params[key]
  if (typeof value !== 'string' || value.length > maxChars) {
    throw badParam(key, `expected a string of at most ${maxChars} characters`)
  }
  return value
}

function readCapabilities(params: JsonObject): string[] {
  if (isAbsent(params, 'capabilities')) return []
  const value = params.capabilities
  const fits =
    Array.isArray(value) &&
    value.length <= MAX_CAPABILITIES &&
    value.every((c) => typeof c === 'string' && c.length >= 1 && c.length <= MAX_CAPABILITY_CHARS)
  if (!fits) {
    throw badParam(
      'capabilities',
      `expected an array of at most ${MAX_CAPABILITIES} strings of 1 to ${MAX_CAPABILITY_CHARS} characters`,
    )
  }
  return value as string[]
}

function readUserData(params: JsonObject, maxBytes: number): JsonValue {
  if (isAbsent(params, 'user_data')) return null
  const value = params.user_data as JsonValue
  if (Buffer.byteLength(JSON.stringify(value)) > maxBytes) throw tooLarge('user_data', maxBytes)
  // Every other peer gets this value, and many a program copies keys into an object of its own.
  if (hasProtoKey(value)) throw badParam('user_data', 'the key __proto__ is not allowed')
  return value
}

function readPeerIds(params: JsonObject, key: string): string[] | undefined {
  if (isAbsent(params, key)) return undefined
  const value = params[key]
  if (!Array.isArray(value) || value.length > MAX_LISTED_PEERS || !value.every(isName)) {
    throw badParam(key, `expected an array of at most ${MAX_LISTED_PEERS} peer ids`)
  }
  return value
}

/** Recursion is bounded: the message passed the depth check. */
function hasProtoKey(value: JsonValue): boolean {
  if (typeof value !== 'object' || value === null) return false
  if (Array.isArray(value)) return value.some(hasProtoKey)
  return Object.keys(value).some((key) => key === '__proto__' || hasProtoKey(value[key] as JsonValue))
}

/** Whether brackets nest deeper than `max`: one pass over the text, no recursion, no allocation. */
export function isDeeperThan(text: string, max: number): boolean {
  let depth = 0
  let inString = false
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i)
    if (inString) {
      if (c === BACKSLASH) i++
      else if (c === QUOTE) inString = false
    } else if (c === QUOTE) {
      inString = true
    } else if (c === OPEN_BRACE || c === OPEN_BRACKET) {
      if (++depth > max) return true
    } else if (c === CLOSE_BRACE || c === CLOSE_BRACKET) {
      depth--
    }
  }
  return false
}

const QUOTE = 0x22
const BACKSLASH = 0x5c
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d

/** −32602 naming the parameter. */
export function badParam(key: string, expected: string): RpcError {
  return new RpcError(RPC_ERRORS.INVALID_PARAMS, `${key}: ${expected}`)
}

function tooLarge(key: string, maxBytes: number): RpcError {
  return new RpcError(RPC_ERRORS.MESSAGE_TOO_LARGE, `${key}: larger than ${maxBytes} bytes`)
}

function invalid(id: RpcId, code: number, message: string): Parsed {
  return { kind: 'invalid', id, error: new RpcError(code, message) }
}

function isAbsent(params: JsonObject, key: string): boolean {
  return !Object.hasOwn(params, key) || params[key] === null
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isRpcId(value: unknown): value is RpcId {
  return (
    value === null || typeof value === 'number' || (typeof value === 'string' && value.length <= MAX_ID_CHARS)
  )
}

function isErrorBody(value: unknown): value is RpcErrorBody {
  return isObject(value) && typeof value.code === 'number' && typeof value.message === 'string'
}
