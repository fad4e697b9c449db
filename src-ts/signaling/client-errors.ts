import type { IncomingMessage } from 'node:http'
import { WebRtcError, type WebRtcErrorCode } from '../errors.js'
import { RPC_ERRORS, type RpcErrorBody } from './protocol.js'

/** A server's error answer as what the caller of a method gets. */
export function fromRpcError(body: RpcErrorBody, what: string, peerId?: string): WebRtcError {
  const code = ANSWER_CODES.get(body.code) ?? 'ERR_SIGNALING'
  const advice = body.code === RPC_ERRORS.PEER_ID_TAKEN ? TAKEN : ''
  return new WebRtcError(code, `${what}: ${body.message} (${body.code})${advice}`, {
    peerId,
    signalingCode: body.code,
  })
}

const TAKEN =
  '; if that is an earlier run of yours, take it over with its resumeToken, or wait until the server notices that it is gone'

const ANSWER_CODES: ReadonlyMap<number, WebRtcErrorCode> = new Map<number, WebRtcErrorCode>([
  [RPC_ERRORS.PEER_NOT_FOUND, 'ERR_PEER_NOT_FOUND'],
  [RPC_ERRORS.SESSION_LIMIT, 'ERR_PEER_LIMIT'],
  [RPC_ERRORS.CONNECTION_TIMEOUT, 'ERR_CONNECT_TIMEOUT'],
  [RPC_ERRORS.CODEC_MISMATCH, 'ERR_CODEC'],
  [RPC_ERRORS.UNAUTHORIZED, 'ERR_UNAUTHORIZED'],
  [RPC_ERRORS.RATE_LIMITED, 'ERR_RATE_LIMITED'],
  [RPC_ERRORS.DENIED, 'ERR_PEER_DENIED'],
  [RPC_ERRORS.MESSAGE_TOO_LARGE, 'ERR_MESSAGE_TOO_LARGE'],
])

/** Trying again with the same options would end the same way. */
export function isPermanent(error: WebRtcError): boolean {
  return error.code === 'ERR_UNAUTHORIZED' || error.code === 'ERR_PEER_DENIED' || error.code === 'ERR_CONFIG'
}

/** A socket that could not be opened: names the URL, and what to look at. */
export function connectError(
  url: string,
  cause: Error & { code?: string; errors?: (Error & { code?: string })[] },
): WebRtcError {
  // A host with several addresses fails with one error for each.
  const code = cause.code ?? cause.errors?.[0]?.code ?? ''
  const advice = ADVICE[code] ?? 'is it the URL of a signaling server?'
  const detail = cause.message || cause.errors?.map((e) => e.message).join(', ') || code
  return new WebRtcError(
    'ERR_SIGNALING',
    `can't connect to the signaling server at ${url}: ${detail}; ${advice}`,
    { cause },
  )
}

const ADVICE: Record<string, string> = {
  ECONNREFUSED:
    'nothing listens there: check host and port, or start one with `npx remotemedia-webrtc signaling --port <port>`',
  ENOTFOUND: 'the host name is unknown: check its spelling and DNS',
  EAI_AGAIN: 'the host name could not be looked up: check the network and DNS',
  EHOSTUNREACH: 'the host is out of reach: check the network and firewalls',
  ENETUNREACH: 'the network is out of reach: check the network and firewalls',
  ETIMEDOUT: 'no answer: check the network and firewalls',
  ECONNRESET: 'it hung up: check that ws:// and wss:// match what the server speaks',
  EPROTO: 'TLS failed: check that ws:// and wss:// match what the server speaks',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is self-signed: add its authority with NODE_EXTRA_CA_CERTS',
  SELF_SIGNED_CERT_IN_CHAIN: 'its certificate authority is unknown: add it with NODE_EXTRA_CA_CERTS',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its certificate authority is unknown: add it with NODE_EXTRA_CA_CERTS',
  CERT_HAS_EXPIRED: 'its certificate has expired',
}

/** An HTTP answer where an upgrade was asked for. */
export function upgradeError(url: string, response: IncomingMessage): WebRtcError {
  const status = response.statusCode ?? 0
  const [code, advice] = UPGRADE_ANSWERS.get(status) ?? [
    'ERR_SIGNALING',
    'is it the URL of a signaling server?',
  ]
  return new WebRtcError(code, `the signaling server at ${url} answered HTTP ${status}: ${advice}`)
}

const UPGRADE_ANSWERS: ReadonlyMap<number, [WebRtcErrorCode, string]> = new Map<
  number,
  [WebRtcErrorCode, string]
>([
  [401, ['ERR_UNAUTHORIZED', 'it asks for a credential']],
  [403, ['ERR_UNAUTHORIZED', 'it does not take connections from here (its list of origins)']],
  [404, ['ERR_SIGNALING', 'no signaling at this path']],
  [429, ['ERR_RATE_LIMITED', 'too many connections from this address; wait, then try again']],
  [503, ['ERR_SIGNALING', 'it is full or shutting down; try again later']],
])

/** The connection ended before or after the announce. */
export function closedError(url: string, code: number, reason: string): WebRtcError {
  const why = reason === '' ? '' : `, ${reason}`
  return new WebRtcError(
    'ERR_SIGNALING',
    `the connection to the signaling server at ${url} ended (close code ${code}${why})`,
  )
}

/** A URL fit for messages: without user, password and query, where secrets travel. */
export function showUrl(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname === '/' ? '' : url.pathname}`
}
