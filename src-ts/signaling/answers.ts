import type { Call, Connection } from './connection.js'
import { type JsonObject, type RelayMethod, RPC_ERRORS, RpcError } from './protocol.js'
import type { Member } from './rooms.js'

/**
 * Offers to members that announced `answers_offers`: the request stays open until the member answers, and the answer is its result.
 * One at a time from a peer to a member, each within `timeoutMs`.
 */
export class AwaitedAnswers {
  readonly #timeoutMs: number
  /** By who offered, then by whom the answer is awaited from. */
  readonly #open = new Map<Member, Map<Member, Awaited>>()

  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs
  }

  /** Keeps the request open. Throws −32005 while an earlier one is. */
  expect(from: Member, to: Member, call: Call): void {
    const open = this.#open.get(from) ?? new Map<Member, Awaited>()
    if (open.has(to)) {
      throw new RpcError(RPC_ERRORS.NEGOTIATION_IN_PROGRESS, 'an offer of yours is being answered')
    }
    const timer = setTimeout(() => {
      const text = `${to.peerId} did not answer in time`
      this.#take(from, to)?.refuse(new RpcError(RPC_ERRORS.CONNECTION_TIMEOUT, text))
    }, this.#timeoutMs)
    // The one that asked: by the time of the answer the peer may have resumed on another.
    const { connection } = from
    // Without its SDP.
    const asked = { ...call, params: {} }
    open.set(to, {
      connection,
      timer,
      answer: (result) => connection.answer(asked, result),
      refuse: (error) => connection.refuse(asked, error),
    })
    this.#open.set(from, open)
  }

  /**
   * What `from` says to `to`, on its way there. True: it was what an open request waited for and went out with that, so it is not to be
   * told again.
   */
  passes(from: Member, to: Member, method: RelayMethod, params: JsonObject): boolean {
    // Whoever answers an offer of the other has given up its own: nothing will come of that any more.
    if (method === 'peer.answer') this.#take(from, to)?.answer({ success: true })
    const refuses = method === 'peer.error' && params.code !== RPC_ERRORS.CANDIDATE_INVALID
    if (method !== 'peer.answer' && !refuses) return false
    const awaited = this.#take(to, from)
    // On another connection than the one that asked it is news like any other.
    if (!awaited?.connection.isOpen || awaited.connection !== to.connection) return false
    if (refuses) awaited.refuse(new RpcError(params.code as number, (params.message ?? '') as string))
    else awaited.answer({ type: 'answer', sdp: params.sdp as string, from: from.peerId, to: to.peerId })
    return true
  }

  /** The offer could not be handed over: its request is answered otherwise. */
  forget(from: Member, to: Member): void {
    this.#take(from, to)
  }

  /** A member is gone: nobody waits for what it offered, and it answers nobody. */
  left(member: Member): void {
    for (const to of [...(this.#open.get(member)?.keys() ?? [])]) this.#take(member, to)
    for (const from of [...this.#open.keys()]) {
      const text = `to: ${member.peerId} left before it answered`
      this.#take(from, member)?.refuse(new RpcError(RPC_ERRORS.PEER_NOT_FOUND, text))
    }
  }

  close(): void {
    for (const open of this.#open.values()) for (const { timer } of open.values()) clearTimeout(timer)
    this.#open.clear()
  }

  #take(from: Member, to: Member): Awaited | undefined {
    const open = this.#open.get(from)
    const awaited = open?.get(to)
    if (!open || !awaited) return undefined
    clearTimeout(awaited.timer)
    open.delete(to)
    if (open.size === 0) this.#open.delete(from)
    return awaited
  }
}

interface Awaited {
  readonly connection: Connection
  readonly timer: NodeJS.Timeout
  answer(result: JsonObject): void
  refuse(error: RpcError): void
}
