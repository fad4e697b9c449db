import type { IncomingMessage } from 'node:http'
import { WebSocket } from 'ws'
import type { Counters } from './counters.js'
import type { SignalingLimits } from './limits.js'
import {
  CLOSE_CODES,
  type JsonObject,
  type JsonValue,
  parseMessage,
  RPC_ERRORS,
  type RpcError,
  type RpcId,
} from './protocol.js'
import { type AddressState, TokenBucket } from './rate.js'
import type { Member } from './rooms.js'

/** A request or notification that passed the parser. `id` is undefined for a notification. */
export interface Call {
  readonly id: RpcId | undefined
  readonly method: string
  readonly params: JsonObject
}

/** What a connection needs from its server. */
export interface ConnectionOwner {
  readonly limits: SignalingLimits
  readonly counters: Counters
  /** A call arrived, within its limits. */
  onCall(connection: Connection, call: Call): void
  /** The connection is over, or is certain to be; called once. */
  onEnd(connection: Connection, cause: CloseCause): void
  /** Its socket is gone; called once, after `onEnd` was due. */
  onClosed(connection: Connection): void
  /** It was quiet for a whole heartbeat (`false`), or is heard again (`true`). */
  onLiveness(connection: Connection, alive: boolean): void
}

export type CloseCause =
  | 'client'
  | 'error'
  | 'announceTimeout'
  | 'binary'
  | 'flood'
  | 'slowReader'
  | 'heartbeat'
  | 'replaced'
  | 'closing'

/** One WebSocket of the server: limits, parsing, the send queue's bound and the heartbeat. Knows no method. */
export class Connection {
  readonly request: IncomingMessage
  readonly address: AddressState
  /** Resolves when the socket is gone. */
  readonly closed: Promise<void>
  /** Set between a successful announce and the end of the membership. */
  member: Member | undefined
  /** Calls that came while an announce is being authorized, in order; undefined when none is. */
  waiting: Call[] | undefined

  readonly #owner: ConnectionOwner
  readonly #ws: SignalingSocket
  readonly #messages: TokenBucket
  readonly #violations: TokenBucket
  #announceTimer: NodeJS.Timeout | undefined
  #killTimer: NodeJS.Timeout | undefined
  #quietBeats = 0
  #cause: CloseCause | undefined
  #ended = false

  /** @internal */
  constructor(owner: ConnectionOwner, ws: SignalingSocket, request: IncomingMessage, address: AddressState) {
    const { limits } = owner
    const now = performance.now()
    this.#owner = owner
    this.#ws = ws
    this.request = request
    this.address = address
    this.#messages = new TokenBucket(limits.messagesPerSecond, limits.messageBurst, now)
    this.#violations = new TokenBucket(limits.messagesPerSecond, limits.maxRateViolations, now)
    ws.tooBig = () =>
      this.#sendError(
        null,
        RPC_ERRORS.MESSAGE_TOO_LARGE,
        `message: larger than ${limits.maxMessageBytes} bytes`,
      )
    ws.on('message', (data, isBinary) => this.#onMessage(data as Buffer, isBinary))
    ws.on('ping', (data) => this.#onPing(data))
    ws.on('pong', () => this.#heard())
    // ws closes the connection by itself after an error; without a listener the process would end.
    ws.on('error', () => {
      this.#cause ??= 'error'
      this.#cutLater()
      this.#end()
    })
    this.closed = new Promise((resolve) => {
      ws.on('close', () => {
        this.#onClosed()
        resolve()
      })
    })
    this.expectAnnounce()
  }

  get isOpen(): boolean {
    return !this.#ended && this.#ws.readyState === WebSocket.OPEN
  }

  /** Starts the time in which the peer has to announce itself. */
  expectAnnounce(): void {
    clearTimeout(this.#announceTimer)
    this.#announceTimer = setTimeout(() => {
      this.close(CLOSE_CODES.POLICY, 'no announce in time', 'announceTimeout')
    }, this.#owner.limits.announceTimeoutMs)
  }

  /** The peer has announced itself. */
  announceDone(): void {
    clearTimeout(this.#announceTimer)
    this.#announceTimer = undefined
  }

  /** Queues one message. False when the connection is over, also when this very message was one too many for a slow reader. */
  send(text: Buffer): boolean {
    if (!this.isOpen) return false
    const { limits, counters } = this.#owner
    const queued = this.#ws.bufferedAmount
    if (queued > 0 && queued + text.length > limits.maxSendQueueBytes) {
      this.close(CLOSE_CODES.SLOW_READER, 'reads too slowly', 'slowReader')
      return false
    }
    counters.messagesOut++
    counters.bytesOut += text.length
    this.#ws.send(text, { binary: false }, ignore)
    return true
  }

  notify(method: string, params: JsonObject): boolean {
    return this.send(encode({ jsonrpc: '2.0', method, params }))
  }

  /** Answers a request; a notification has no answer. */
  answer(call: Call, result: JsonValue): void {
    if (call.id !== undefined) this.send(encode({ jsonrpc: '2.0', id: call.id, result }))
  }

  /** Answers a request with an error; a notification is dropped and counted. */
  refuse(call: Pick<Call, 'id'>, error: RpcError): void {
    if (call.id === undefined) this.#owner.counters.count('dropped', error.code)
    else this.#sendError(call.id, error.code, error.message, error.data)
  }

  /** One beat of the server's heartbeat: pings, tells of silence, and ends what stays silent. */
  beat(): void {
    if (this.#ended) return
    if (!this.isOpen) {
      // It said goodbye and then didn't hang up.
      this.#cutLater()
      this.#end()
      return
    }
    if (this.#quietBeats >= 2) {
      this.#cause ??= 'heartbeat'
      this.#ws.terminate()
      this.#end()
      return
    }
    this.#quietBeats++
    if (this.#quietBeats === 2) this.#owner.onLiveness(this, false)
    this.#ws.ping(undefined, undefined, ignore)
  }

  /** Closes with a code, and cuts the connection when the other side doesn't answer in time. The membership ends at once. */
  close(code: number, reason: string, cause: CloseCause): void {
    if (this.#ended) return
    this.#cause ??= cause
    this.#ws.close(code, reason)
    this.#cutLater()
    this.#end()
  }

  /** Reads no more than what has arrived. */
  pause(): void {
    this.#ws.pause()
  }

  resume(): void {
    this.#ws.resume()
  }

  #onMessage(data: Buffer, isBinary: boolean): void {
    if (!this.isOpen) return
    const { limits, counters } = this.#owner
    counters.messagesIn++
    counters.bytesIn += data.length
    this.#heard()
    if (isBinary) {
      this.close(CLOSE_CODES.UNSUPPORTED_DATA, 'text messages only', 'binary')
      return
    }
    if (!this.#mayGoOn()) {
      this.#refuseForRate(data)
      return
    }
    const parsed = parseMessage(data.toString('utf8'), limits.maxDepth)
    if (parsed.kind === 'invalid') this.#sendError(parsed.id, parsed.error.code, parsed.error.message)
    // This server asks its clients nothing; answering an answer could go on for ever.
    else if (parsed.kind === 'response') counters.count('dropped', RPC_ERRORS.INVALID_REQUEST)
    else this.#owner.onCall(this, parsed)
  }

  #mayGoOn(): boolean {
    const now = performance.now()
    return this.#messages.take(now) && this.address.messages.take(now)
  }

  /** A request within reason is told; then patience ends. */
  #refuseForRate(data: Buffer): void {
    const { limits, counters } = this.#owner
    if (!this.#violations.take(performance.now())) {
      this.close(CLOSE_CODES.POLICY, 'too many messages', 'flood')
      return
    }
    // The id of a request is worth a small parse, not a large one.
    const parsed = data.length <= 4_096 ? parseMessage(data.toString('utf8'), limits.maxDepth) : undefined
    if (parsed?.kind === 'call' && parsed.id !== undefined) {
      this.#sendError(parsed.id, RPC_ERRORS.RATE_LIMITED, 'too many messages; slow down')
    } else {
      counters.count('dropped', RPC_ERRORS.RATE_LIMITED)
    }
  }

  /** Pongs wait in the same queue as messages, so a ping costs what a message costs. */
  #onPing(data: Buffer): void {
    this.#heard()
    if (!this.isOpen) return
    if (!this.#mayGoOn()) {
      if (!this.#violations.take(performance.now()))
        this.close(CLOSE_CODES.POLICY, 'too many messages', 'flood')
      return
    }
    if (this.#ws.bufferedAmount < this.#owner.limits.maxSendQueueBytes) this.#ws.pong(data, undefined, ignore)
  }

  #heard(): void {
    const wasQuiet = this.#quietBeats >= 2
    this.#quietBeats = 0
    if (wasQuiet && !this.#ended) this.#owner.onLiveness(this, true)
  }

  #sendError(id: RpcId, code: number, message: string, data?: JsonValue): void {
    this.#owner.counters.count('errors', code)
    const error: JsonObject = data === undefined ? { code, message } : { code, message, data }
    this.send(encode({ jsonrpc: '2.0', id, error }))
  }

  #cutLater(): void {
    this.#killTimer ??= setTimeout(() => this.#ws.terminate(), this.#owner.limits.closeTimeoutMs)
  }

  #onClosed(): void {
    clearTimeout(this.#killTimer)
    this.#end()
    this.#owner.onClosed(this)
  }

  #end(): void {
    if (this.#ended) return
    this.#ended = true
    this.announceDone()
    this.waiting = undefined
    const cause = this.#cause ?? 'client'
    this.#owner.counters.count('closed', cause)
    // Not within the send that found a slow reader: the room would change under a broadcast.
    process.nextTick(() => this.#owner.onEnd(this, cause))
  }
}

/**
 * `ws` closes with 1009 before anyone hears of a message that is too large. This says −32014 first, so that a client learns
 * the reason in the protocol's own terms.

 * @internal
 */
export class SignalingSocket extends WebSocket {
  tooBig: (() => void) | undefined

  override close(code?: number, data?: string | Buffer): void {
    if (code === CLOSE_CODES.MESSAGE_TOO_BIG) this.tooBig?.()
    super.close(code, data)
  }
}

/** One message as the bytes to send; the same ones can go to many. */
export function encode(message: JsonObject): Buffer {
  return Buffer.from(JSON.stringify(message))
}

/** A send that fails has its connection closed by `ws`, which is where it's handled. */
function ignore(): void {}
