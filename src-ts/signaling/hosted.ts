import { configError, WebRtcError } from '../errors.js'
import type { Call, Connection } from './connection.js'
import { isName, type JsonValue, NAME_RULE, type RelayMethod, RPC_ERRORS, RpcError } from './protocol.js'
import type { Member, Rooms } from './rooms.js'

/** What reached a hosted peer from `from` in `room`. */
export interface HostedOffer {
  from: string
  to: string
  room: string
  sdp: string
}

export interface HostedCandidate {
  from: string
  to: string
  room: string
  /** Empty: end of candidates. */
  candidate: string
  sdpMid: string | null
  sdpMLineIndex: number | null
}

/** The program's side of a hosted peer. Whatever it throws becomes the protocol's error; it never harms the server. */
export interface HostedPeerHandler {
  /**
   * Answers an offer with an SDP. `signal` fires when the answer came too late (`hostedAnswerTimeoutMs`) or the peer is gone.
   * A `WebRtcError` is answered by its code (`ERR_CODEC` −32007, `ERR_PEER_LIMIT` −32001, `ERR_PEER_DENIED` −32013,
   * `ERR_UNAUTHORIZED` −32010, `ERR_CONNECT_TIMEOUT` −32006, `ERR_CONFIG` −32002), anything else is −32603.
   */
  offer(offer: HostedOffer, signal: AbortSignal): string | Promise<string>
  /** An answer to an offer that `HostedPeer.send` made. */
  answer?(answer: HostedOffer): void
  candidate?(candidate: HostedCandidate): void
  /** A peer this one had an offer from has left its room. */
  left?(peer: { peerId: string; room: string; reason: string }): void
}

/** A peer id that this process answers for. */
export interface HostedPeer {
  readonly peerId: string
  /** The only room it is in; undefined: it can be called from every room. */
  readonly room: string | undefined
  /** Sends an offer, answer or candidate to a peer. False when that peer isn't there. */
  send(
    method: RelayMethod,
    to: { peerId: string; room: string },
    payload: { [key: string]: JsonValue },
  ): boolean
  /** Gives the id back. Answers being prepared are aborted. Idempotent. */
  close(): void
}

/** The ids hosted by the server itself, and the offers they are answering. */
export class HostedPeers {
  readonly #rooms: Rooms
  readonly #timeoutMs: number
  readonly #entries = new Set<HostedEntry>()

  constructor(rooms: Rooms, timeoutMs: number) {
    this.#rooms = rooms
    this.#timeoutMs = timeoutMs
  }

  /** Throws `ERR_CONFIG` when the id is malformed, or hosted or announced already. */
  add(peerId: string, handler: HostedPeerHandler, room: string | undefined): HostedPeer {
    if (!isName(peerId)) throw configError('peerId', peerId, NAME_RULE)
    if (room !== undefined && !isName(room)) throw configError('room', room, NAME_RULE)
    for (const entry of this.#entries) {
      const meets = entry.room === undefined || room === undefined || entry.room === room
      if (entry.peerId === peerId && meets)
        throw configError('peerId', peerId, 'an id that is not hosted yet')
    }
    if (room !== undefined && this.#rooms.get(room)?.members.has(peerId)) {
      throw configError('peerId', peerId, 'an id that no peer in the room has')
    }
    const entry: HostedEntry = { peerId, room, handler, answering: new Map(), callers: new Set() }
    this.#entries.add(entry)
    const rooms = this.#rooms
    return {
      peerId,
      room,
      send: (method, to, payload) => {
        if (!this.#entries.has(entry) || (room !== undefined && to.room !== room)) return false
        const member = rooms.get(to.room)?.members.get(to.peerId)
        return member?.connection.notify(method, { ...payload, from: peerId, to: to.peerId }) ?? false
      },
      close: () => {
        if (this.#entries.delete(entry)) abortAll(entry)
      },
    }
  }

  find(peerId: string, room: string): HostedEntry | undefined {
    for (const entry of this.#entries) {
      if (entry.peerId === peerId && (entry.room === undefined || entry.room === room)) return entry
    }
    return undefined
  }

  ids(room: string | undefined): string[] {
    return [...this.#entries].filter((e) => e.room === undefined || e.room === room).map((e) => e.peerId)
  }

  /** Hands a call to a hosted peer and answers it: an offer with the answer, the rest with `{success: true}`. */
  deliver(entry: HostedEntry, member: Member, call: Call): void {
    const { params } = call
    // The one that asked: by the time of the answer the peer may have resumed on another.
    const { connection } = member
    if (call.method === 'peer.offer') {
      this.#answer(entry, member, call, connection).catch((error: unknown) =>
        connection.refuse(call, toRpcError(error)),
      )
      return
    }
    const { handler } = entry
    const at = { from: member.peerId, to: entry.peerId, room: member.room.name }
    try {
      if (call.method === 'peer.answer') {
        handler.answer?.({ ...at, sdp: params.sdp as string })
      } else if (call.method === 'peer.ice_candidate') {
        handler.candidate?.({
          ...at,
          candidate: params.candidate as string,
          sdpMid: (params.sdp_mid ?? null) as string | null,
          sdpMLineIndex: (params.sdp_m_line_index ?? null) as number | null,
        })
      }
      connection.answer(call, { success: true })
    } catch (error) {
      connection.refuse(call, toRpcError(error))
    }
  }

  /** A member has left: its offers are aborted, and those it called are told. */
  memberLeft(member: Member, reason: string): void {
    for (const entry of this.#entries) {
      entry.answering.get(member)?.abort()
      if (!entry.callers.delete(member)) continue
      try {
        entry.handler.left?.({ peerId: member.peerId, room: member.room.name, reason })
      } catch (error) {
        process.emitWarning(
          `hosted peer ${entry.peerId}: left() threw: ${String(error)}`,
          'RemoteMediaSignaling',
        )
      }
    }
  }

  close(): void {
    for (const entry of this.#entries) abortAll(entry)
    this.#entries.clear()
  }

  async #answer(entry: HostedEntry, member: Member, call: Call, connection: Connection): Promise<void> {
    if (entry.answering.has(member)) {
      throw new RpcError(RPC_ERRORS.NEGOTIATION_IN_PROGRESS, 'an offer of yours is being answered')
    }
    const abort = new AbortController()
    entry.answering.set(member, abort)
    entry.callers.add(member)
    let timer: NodeJS.Timeout | undefined
    try {
      const late = new Promise<never>((_, reject) => {
        abort.signal.addEventListener('abort', () => {
          reject(new RpcError(RPC_ERRORS.CONNECTION_TIMEOUT, `${entry.peerId} did not answer in time`))
        })
        timer = setTimeout(() => abort.abort(), this.#timeoutMs)
      })
      const offer = {
        from: member.peerId,
        to: entry.peerId,
        room: member.room.name,
        sdp: call.params.sdp as string,
      }
      const sdp = await Promise.race([callOffer(entry.handler, offer, abort.signal), late])
      const answer = { sdp, from: entry.peerId, to: member.peerId }
      // Who sent the offer as a notification has no result to look at.
      if (call.id === undefined) connection.notify('peer.answer', answer)
      else connection.answer(call, { type: 'answer', ...answer })
    } finally {
      clearTimeout(timer)
      entry.answering.delete(member)
    }
  }
}

export interface HostedEntry {
  readonly peerId: string
  readonly room: string | undefined
  readonly handler: HostedPeerHandler
  /** One offer a peer at a time. */
  readonly answering: Map<Member, AbortController>
  /** Members that have sent an offer. */
  readonly callers: Set<Member>
}

async function callOffer(
  handler: HostedPeerHandler,
  offer: HostedOffer,
  signal: AbortSignal,
): Promise<string> {
  const sdp: unknown = await handler.offer(offer, signal)
  if (typeof sdp !== 'string') throw new TypeError('offer() gave no SDP')
  return sdp
}

function abortAll(entry: HostedEntry): void {
  for (const abort of entry.answering.values()) abort.abort()
}

/** What a client may know of a handler's failure: its code, and the message of errors that were made to be read. */
function toRpcError(error: unknown): RpcError {
  if (error instanceof RpcError) return error
  if (error instanceof WebRtcError) {
    const code = HOSTED_CODES.get(error.code)
    if (code !== undefined) return new RpcError(code, error.message)
  }
  process.emitWarning(`hosted peer handler threw: ${String(error)}`, 'RemoteMediaSignaling')
  return new RpcError(RPC_ERRORS.INTERNAL_ERROR, 'internal error')
}

const HOSTED_CODES: ReadonlyMap<string, number> = new Map([
  ['ERR_CODEC', RPC_ERRORS.CODEC_MISMATCH],
  ['ERR_PEER_LIMIT', RPC_ERRORS.SESSION_LIMIT],
  ['ERR_PEER_DENIED', RPC_ERRORS.DENIED],
  ['ERR_UNAUTHORIZED', RPC_ERRORS.UNAUTHORIZED],
  ['ERR_CONNECT_TIMEOUT', RPC_ERRORS.CONNECTION_TIMEOUT],
  ['ERR_CONFIG', RPC_ERRORS.OFFER_INVALID],
])
