import type { IncomingMessage } from 'node:http'
import { WebRtcError } from '../errors.js'
import type { AwaitedAnswers } from './answers.js'
import type { Call, Connection } from './connection.js'
import type { Counters } from './counters.js'
import type { HostedPeers } from './hosted.js'
import type { SignalingLimits } from './limits.js'
import {
  type Announce,
  badParam,
  checkRelayPayload,
  isObject,
  type JsonObject,
  type JsonValue,
  MAX_REASON_CHARS,
  type RelayMethod,
  RPC_ERRORS,
  RpcError,
  readAnnounce,
  readName,
  readText,
} from './protocol.js'
import type { Member, Rooms } from './rooms.js'

/** What an `authorize` hook may decide. Nothing, `undefined` or `true` lets the peer in as it asked; `false` does not. */
export type AuthorizeResult = undefined | boolean | { metadata?: JsonValue; userData?: JsonValue }

/**
 * Called for each announce that is well formed. `request` is the WebSocket's HTTP request (headers, URL, socket).
 * Throwing answers −32010 with the message of a `WebRtcError`, or none of another error's; `ERR_RATE_LIMITED` answers −32011,
 * `ERR_PEER_DENIED` −32013.
 */
export type Authorize = (
  announce: Readonly<Announce>,
  request: IncomingMessage,
  // biome-ignore lint/suspicious/noConfusingVoidType: a hook that returns nothing lets the peer in
) => AuthorizeResult | void | Promise<AuthorizeResult | void>

/** Whether a message from one peer may reach another of the same room. `false` answers −32013. */
export type Permit = (message: { from: string; to: string; room: string; method: RelayMethod }) => boolean

export interface MethodsContext {
  readonly limits: SignalingLimits
  readonly counters: Counters
  readonly rooms: Rooms
  readonly hosted: HostedPeers
  readonly answers: AwaitedAnswers
  readonly authorize: Authorize | undefined
  readonly permit: Permit | undefined
  readonly allowPeers: ReadonlySet<string> | undefined
  readonly denyPeers: ReadonlySet<string> | undefined
  uptimeMs(): number
}

/** The methods a client can call: checks, then does, then answers. */
export class Methods {
  readonly #context: MethodsContext

  constructor(context: MethodsContext) {
    this.#context = context
  }

  call(connection: Connection, call: Call): void {
    if (connection.waiting) {
      // A client need not wait for its announce before it offers; the order is kept while `authorize` thinks.
      if (connection.waiting.length < MAX_WAITING_CALLS) connection.waiting.push(call)
      else
        connection.refuse(
          call,
          new RpcError(RPC_ERRORS.RATE_LIMITED, 'too many messages before the announce is answered'),
        )
      return
    }
    try {
      this.#dispatch(connection, call)
    } catch (error) {
      if (!(error instanceof RpcError)) warn(call.method, error)
      connection.refuse(
        call,
        error instanceof RpcError ? error : new RpcError(RPC_ERRORS.INTERNAL_ERROR, 'internal error'),
      )
    }
  }

  #dispatch(connection: Connection, call: Call): void {
    switch (call.method) {
      case 'peer.offer':
      case 'peer.answer':
      case 'peer.ice_candidate':
      case 'peer.error':
        this.#relay(connection, call, call.method)
        break
      case 'peer.announce':
        this.#announce(connection, call)
        break
      case 'peer.disconnect':
        this.#disconnect(connection, call)
        break
      case 'peer.list':
      case 'list_peers':
        this.#list(connection, call)
        break
      case 'server.info':
        this.#info(connection, call)
        break
      default:
        throw new RpcError(RPC_ERRORS.METHOD_NOT_FOUND, 'no such method')
    }
  }

  #announce(connection: Connection, call: Call): void {
    const { limits, allowPeers, denyPeers, authorize, hosted } = this.#context
    const announce = readAnnounce(call.params, limits)
    const { member } = connection
    if (member && !(member.peerId === announce.peerId && member.room.name === announce.room)) {
      throw new RpcError(
        RPC_ERRORS.INVALID_REQUEST,
        `announced already, as ${member.peerId} in ${member.room.name}`,
      )
    }
    if (denyPeers?.has(announce.peerId) || allowPeers?.has(announce.peerId) === false) {
      throw new RpcError(RPC_ERRORS.DENIED, `peer_id: ${announce.peerId} is not allowed here`)
    }
    if (hosted.find(announce.peerId, announce.room)) {
      throw new RpcError(RPC_ERRORS.PEER_ID_TAKEN, `peer_id: ${announce.peerId} is taken in this room`)
    }
    if (!authorize) {
      this.#join(connection, call, announce, null)
      return
    }
    const waiting: Call[] = []
    connection.waiting = waiting
    // What is read already is little; the rest waits with its sender.
    connection.pause()
    this.#authorize(authorize, connection, call, announce).then(() => {
      if (connection.waiting !== waiting) return
      connection.waiting = undefined
      connection.resume()
      for (const next of waiting) this.call(connection, next)
    })
  }

  /** Never rejects. */
  async #authorize(
    authorize: Authorize,
    connection: Connection,
    call: Call,
    announce: Announce,
  ): Promise<void> {
    try {
      const result = await authorize(announce, connection.request)
      if (result === false) throw new RpcError(RPC_ERRORS.UNAUTHORIZED, 'not authorized')
      if (!connection.isOpen) return
      const granted = typeof result === 'object' ? result : {}
      if (granted.userData !== undefined) announce.userData = granted.userData
      this.#join(connection, call, announce, granted.metadata ?? null)
    } catch (error) {
      connection.refuse(call, toAuthorizeError(error))
    }
  }

  #join(connection: Connection, call: Call, announce: Announce, metadata: JsonValue): void {
    const { rooms, counters } = this.#context
    const { member, resumed } = rooms.join(connection, announce, metadata)
    connection.announceDone()
    counters.announced++
    if (resumed) counters.resumed++
    const { room } = member
    const peers = room.wirePeers(member)
    connection.answer(call, {
      success: true,
      peer_id: member.peerId,
      room: room.name,
      peers_count: room.members.size,
      other_peers: peers.map((p) => p.peer_id),
      peers: peers as unknown as JsonValue[],
      resume_token: member.resumeToken,
      resumed,
      ...(member.answersOffers ? { answers_offers: true } : {}),
    })
    // After the answer: a newcomer knows who is there before any of them can reach it.
    if (!resumed) room.tell('peer.joined', member.toWire() as unknown as JsonObject, member)
  }

  #relay(connection: Connection, call: Call, method: RelayMethod): void {
    const { rooms, hosted, answers, limits, permit, counters } = this.#context
    const { params } = call
    const member = announced(connection)
    checkFrom(params, member)
    const to = readName(params, 'to')
    if (to === member.peerId) throw badParam('to', 'expected another peer')
    checkRelayPayload(method, params, limits)

    const entry = hosted.find(to, member.room.name)
    const target = rooms.get(member.room.name)?.members.get(to)
    if (!entry && !target) throw notFound(to)
    const { peerId } = member
    if (
      target?.accepts(peerId) === false ||
      permit?.({ from: peerId, to, room: member.room.name, method }) === false
    ) {
      throw new RpcError(RPC_ERRORS.DENIED, `to: ${to} does not take messages from ${peerId}`)
    }
    if (method === 'peer.offer' || method === 'peer.answer') {
      member.forget(to)
      target?.forget(peerId)
    } else if (
      method === 'peer.ice_candidate' &&
      !member.countCandidate(to, limits.maxCandidatesPerNegotiation)
    ) {
      throw new RpcError(
        RPC_ERRORS.RATE_LIMITED,
        `candidate: more than ${limits.maxCandidatesPerNegotiation} in one negotiation with ${to}`,
      )
    }
    if (entry) hosted.deliver(entry, member, call)
    else if (target) this.#hand(connection, call, method, member, target, answers)
    counters.relayed++
  }

  /** Hands a message to a member, and answers it, unless it is an offer whose answer is its result. */
  #hand(
    connection: Connection,
    call: Call,
    method: RelayMethod,
    from: Member,
    to: Member,
    answers: AwaitedAnswers,
  ): void {
    const waits = method === 'peer.offer' && call.id !== undefined && to.answersOffers
    if (waits) answers.expect(from, to, call)
    const told =
      answers.passes(from, to, method, call.params) ||
      to.connection.notify(method, { ...call.params, from: from.peerId })
    if (!told) {
      if (waits) answers.forget(from, to)
      throw notFound(to.peerId)
    }
    if (!waits) connection.answer(call, { success: true })
  }

  #disconnect(connection: Connection, call: Call): void {
    const member = announced(connection)
    if (readName(call.params, 'peer_id') !== member.peerId) throw badParam('peer_id', 'expected your own')
    const reason = readText(call.params, 'reason', MAX_REASON_CHARS) ?? 'disconnected'
    this.end(member, reason, true)
    connection.answer(call, { success: true })
    // The same connection may announce again, or is closed for not doing so.
    connection.expectAnnounce()
  }

  #list(connection: Connection, call: Call): void {
    const { room } = announced(connection)
    const peers = room.wirePeers()
    connection.answer(call, { peers: peers as unknown as JsonValue[], count: peers.length })
  }

  #info(connection: Connection, call: Call): void {
    const { limits, hosted, uptimeMs } = this.#context
    const room = connection.member?.room
    connection.answer(call, {
      name: 'remotemedia-webrtc',
      protocol_version: 1,
      uptime_ms: Math.round(uptimeMs()),
      room: room?.name ?? null,
      peers_count: room?.members.size ?? 0,
      hosted_peers: hosted.ids(room?.name),
      limits: {
        max_message_bytes: limits.maxMessageBytes,
        max_sdp_bytes: limits.maxSdpBytes,
        max_depth: limits.maxDepth,
        max_candidates_per_negotiation: limits.maxCandidatesPerNegotiation,
        announce_timeout_ms: limits.announceTimeoutMs,
        max_peers_per_room: limits.maxPeersPerRoom,
        heartbeat_interval_ms: limits.heartbeatIntervalMs,
      },
    })
  }

  /** Ends a membership, for everyone who may care. */
  end(member: Member, reason: string, disconnected = false): void {
    this.#context.rooms.leave(member, reason, disconnected)
    this.#context.hosted.memberLeft(member, reason)
    this.#context.answers.left(member)
  }
}

/** Calls that may wait for one announce to be authorized. */
const MAX_WAITING_CALLS = 256

function announced(connection: Connection): Member {
  if (!connection.member)
    throw new RpcError(RPC_ERRORS.INVALID_REQUEST, 'not announced: call peer.announce first')
  return connection.member
}

/** A missing `from` is stamped later; another peer's is refused. */
function checkFrom(params: JsonObject, member: Member): void {
  const from = params.from ?? null
  if (from !== null && from !== member.peerId) throw badParam('from', 'expected your own peer id, or none')
}

function notFound(to: string): RpcError {
  return new RpcError(RPC_ERRORS.PEER_NOT_FOUND, `to: no peer ${to} in this room`)
}

function toAuthorizeError(error: unknown): RpcError {
  if (error instanceof RpcError) return error
  if (!(error instanceof WebRtcError)) {
    warn('authorize', error)
    // What another error says may be for the server's eyes only.
    return new RpcError(RPC_ERRORS.UNAUTHORIZED, 'not authorized')
  }
  if (error.code === 'ERR_RATE_LIMITED') return new RpcError(RPC_ERRORS.RATE_LIMITED, error.message)
  if (error.code === 'ERR_PEER_DENIED') return new RpcError(RPC_ERRORS.DENIED, error.message)
  return new RpcError(RPC_ERRORS.UNAUTHORIZED, error.message)
}

function warn(what: string, error: unknown): void {
  const text = isObject(error) && typeof error.message === 'string' ? error.message : String(error)
  process.emitWarning(`${what}: ${text}`, 'RemoteMediaSignaling')
}
