/**
 * Everything this package throws is a `WebRtcError`. `code` is a stable string: switch on it, never on `message`.
 * The table of codes, causes and what to do is in `docs/errors.md`.
 */
export class WebRtcError extends Error {
  /** Stable, documented string. */
  readonly code: WebRtcErrorCode
  /** The remote peer the error is about, when there is one. */
  readonly peerId?: string
  /** The JSON-RPC error code the signaling server answered with (`docs/signaling.md`, Errors), when it was one. */
  readonly signalingCode?: number

  constructor(code: WebRtcErrorCode, message: string, options: WebRtcErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'WebRtcError'
    this.code = code
    if (options.peerId !== undefined) this.peerId = options.peerId
    if (options.signalingCode !== undefined) this.signalingCode = options.signalingCode
  }
}

export interface WebRtcErrorOptions {
  peerId?: string | undefined
  signalingCode?: number | undefined
  cause?: unknown
}

/** Every code a `WebRtcError` can have. New ones may be added in a minor version; none changes its meaning. */
export const WEBRTC_ERROR_CODES = [
  /** A configuration key is unknown, or its value is not allowed. The message names field, value and what is allowed. */
  'ERR_CONFIG',
  /** The signaling connection failed, timed out, or the server refused a message for a reason with no code of its own. */
  'ERR_SIGNALING',
  /** The signaling server did not accept the credential, or asks for one. */
  'ERR_UNAUTHORIZED',
  /** Too many messages or connections; wait, then try again. */
  'ERR_RATE_LIMITED',
  /** No such peer in the room. */
  'ERR_PEER_NOT_FOUND',
  /** An allow or deny list forbids this peer. */
  'ERR_PEER_DENIED',
  /** The room, the server or this transport has as many peers as it may. */
  'ERR_PEER_LIMIT',
  /** The peer is there, but no connection came about in time. */
  'ERR_CONNECT_TIMEOUT',
  /** A STUN or TURN server can't be used: unreachable, its name unknown, or the credentials refused. It is tried again. */
  'ERR_ICE_SERVER',
  /** The peer's identity key is not the one that was pinned for it. */
  'ERR_IDENTITY_MISMATCH',
  /** No codec in common for this kind, or a codec refused its input. */
  'ERR_CODEC',
  /** A pipeline manifest is malformed, or names a node type or port that does not exist. */
  'ERR_MANIFEST',
  /** A pipeline node failed while it ran. */
  'ERR_NODE',
  /** A message is larger than its receiver or the protocol takes; nothing was sent. */
  'ERR_MESSAGE_TOO_LARGE',
  /** The object was closed already, or was closed while the call was waiting. */
  'ERR_CLOSED',
  /** The caller's `AbortSignal` fired. */
  'ERR_ABORTED',
] as const

export type WebRtcErrorCode = (typeof WEBRTC_ERROR_CODES)[number]

/** An `ERR_CONFIG` that says which field, what it was given, and what it takes. */
export function configError(field: string, value: unknown, allowed: string): WebRtcError {
  return new WebRtcError('ERR_CONFIG', `${field}: ${show(value)} is not allowed; expected ${allowed}`)
}

/** Throws `ERR_CONFIG` when `options` is not an object, or has a key that is not in `known`. */
export function checkKnownKeys(what: string, options: unknown, known: readonly string[]): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw configError(what, options, 'an object')
  }
  for (const key of Object.keys(options)) {
    if (!known.includes(key)) {
      throw new WebRtcError('ERR_CONFIG', `${what}.${key}: unknown key; expected one of ${known.join(', ')}`)
    }
  }
}

/** A value as it may stand in a message: short, on one line, and never an exception of its own. */
function show(value: unknown): string {
  let text: string | undefined
  try {
    text =
      typeof value === 'function'
        ? 'a function'
        : typeof value === 'bigint'
          ? `${value}n`
          : JSON.stringify(value)
  } catch {
    text = undefined
  }
  if (typeof value === 'number' && !Number.isFinite(value)) text = String(value)
  text ??= String(value)
  return text.length > 80 ? `${text.slice(0, 77)}...` : text
}
