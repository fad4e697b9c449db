import { randomBytes } from 'node:crypto'
import { WebSocket } from 'ws'
import { configError, WebRtcError } from '../errors.js'
import {
  closedError,
  connectError,
  fromRpcError,
  isPermanent,
  showUrl,
  upgradeError,
} from './client-errors.js'
import {
  readNotification,
  readPeers,
  type SignalingAnswer,
  type SignalingCandidate,
  type SignalingClientEvents,
  type SignalingPeer,
} from './client-events.js'
import {
  type ResolvedClientOptions,
  resolveClientOptions,
  type SignalingClientOptions,
} from './client-options.js'
import { TypedEvents } from './events.js'
import { Liveness } from './liveness.js'
import {
  CLOSE_CODES,
  isName,
  isObject,
  type JsonObject,
  type JsonValue,
  MAX_REASON_CHARS,
  NAME_RULE,
  parseMessage,
  type RpcErrorBody,
} from './protocol.js'
import { TokenBucket } from './rate.js'

export type SignalingClientState = 'connected' | 'reconnecting' | 'closed'

/**
 * A peer's end of signaling: announced in one room, told of the others, and able to reach each of them. Comes back by itself when
 * the connection is lost.
 */
export class SignalingClient extends TypedEvents<SignalingClientEvents> implements AsyncDisposable {
  readonly #options: ResolvedClientOptions
  /** For messages: the URL without what may be secret. */
  readonly #shownUrl: string
  readonly #peers = new Map<string, SignalingPeer>()
  readonly #pending = new Map<number, Pending>()
  #ws: WebSocket | undefined
  #state: SignalingClientState | 'connecting' = 'connecting'
  #resumeToken: string
  #nextId = 1
  #malformed = 0
  readonly #complaints = new TokenBucket(1, 16, performance.now())
  readonly #liveness: Liveness
  /** The connection was given up by this side, as it seemed dead. */
  #givenUp = false
  #answersOffers = false
  /** Ends the attempt or the waiting of a reconnect. */
  #interrupt: ((error: WebRtcError) => void) | undefined
  /** Makes the next try of a reconnect come sooner, if that is not due anyway. */
  #hurry: (() => void) | undefined
  /** Events that came before the caller of `connect` could listen. */
  #held: (() => void)[] | undefined = []
  #closed: Promise<void> | undefined

  /**
   * Connects and announces; one round trip after the WebSocket is open. Listeners attached right after the `await` miss nothing.
   * Throws `ERR_CONFIG`, `ERR_SIGNALING` (the message names the URL and what to check; `signalingCode` −32012: the id is taken),
   * `ERR_UNAUTHORIZED`, `ERR_PEER_DENIED`, `ERR_PEER_LIMIT`, `ERR_RATE_LIMITED`, `ERR_ABORTED`.
   */
  static async connect(options: SignalingClientOptions): Promise<SignalingClient> {
    const client = new SignalingClient(options)
    await client.#attempt(client.#options.timeoutMs, options.signal)
    client.#release()
    return client
  }

  private constructor(options: SignalingClientOptions) {
    super()
    this.#options = resolveClientOptions(options)
    this.#shownUrl = showUrl(this.#options.url)
    // One of our own to begin with: should the answer to the announce be lost, we can take over what that has made.
    this.#resumeToken = options.resumeToken ?? randomBytes(24).toString('base64url')
    this.#liveness = new Liveness(
      this.#options.heartbeatIntervalMs,
      () => {
        if (this.#ws?.readyState === WebSocket.OPEN) this.#ws.ping()
      },
      () => {
        this.#givenUp = true
        this.#ws?.terminate()
      },
    )
  }

  get peerId(): string {
    return this.#options.peerId
  }

  get room(): string {
    return this.#options.room
  }

  get state(): SignalingClientState {
    return this.#state === 'connecting' ? 'reconnecting' : this.#state
  }

  /** Lets this membership be taken over by another connection: keep it secret. */
  get resumeToken(): string {
    return this.#resumeToken
  }

  /** Whether the server takes `answersOffers` into account; always false where that was not asked for. */
  get answersOffers(): boolean {
    return this.#answersOffers
  }

  /** Messages of the server that made no sense. Not more than some a second are told as an `error` as well. */
  get malformed(): number {
    return this.#malformed
  }

  /** The others in the room, as last heard. */
  get peers(): SignalingPeer[] {
    return [...this.#peers.values()]
  }

  /**
   * Sends an offer; resolves when it is handed to the peer. A peer hosted by the server, or with `answersOffers`, answers at once: the
   * answer is then both the result and an `answer` event. Throws `ERR_PEER_NOT_FOUND`, `ERR_PEER_DENIED`, `ERR_MESSAGE_TOO_LARGE`, …
   */
  async offer(to: string, sdp: string): Promise<SignalingAnswer | undefined> {
    this.#checkSdp(to, sdp)
    const result = await this.#request('peer.offer', { from: this.peerId, to, sdp }, to)
    if (!isObject(result) || result.type !== 'answer' || typeof result.sdp !== 'string') return undefined
    this.#emit('answer', { from: to, sdp: result.sdp })
    return { type: 'answer', sdp: result.sdp, from: to, to: this.peerId }
  }

  /** Sends an answer; resolves when it is handed to the peer. */
  async answer(to: string, sdp: string): Promise<void> {
    this.#checkSdp(to, sdp)
    await this.#request('peer.answer', { from: this.peerId, to, sdp }, to)
  }

  /** Sends an ICE candidate, an empty one for the end of candidates; resolves when it is handed to the peer. */
  async candidate(to: string, candidate: SignalingCandidate): Promise<void> {
    if (!isName(to)) throw configError('to', to, NAME_RULE)
    if (typeof candidate?.candidate !== 'string')
      throw configError('candidate', candidate, '{ candidate, sdpMid?, sdpMLineIndex? }')
    const params: JsonObject = { from: this.peerId, to, candidate: candidate.candidate }
    if (candidate.sdpMid != null) params.sdp_mid = candidate.sdpMid
    if (candidate.sdpMLineIndex != null) params.sdp_m_line_index = candidate.sdpMLineIndex
    await this.#request('peer.ice_candidate', params, to)
  }

  /**
   * Tells a peer that its offer, answer or candidate was not accepted, with a code of the protocol and at most 256 characters for people;
   * resolves when it is handed to the peer.
   */
  async refuse(to: string, code: number, message = ''): Promise<void> {
    if (!isName(to)) throw configError('to', to, NAME_RULE)
    if (!Number.isInteger(code)) throw configError('code', code, 'an error code of the protocol')
    const text = message.slice(0, MAX_REASON_CHARS)
    await this.#request('peer.error', { from: this.peerId, to, code, message: text }, to)
  }

  /** Everyone in the room, this peer included. */
  async list(): Promise<SignalingPeer[]> {
    const result = await this.#request('peer.list', {})
    return readPeers(isObject(result) ? result.peers : undefined)
  }

  /** What the server says of itself: name, uptime, limits (snake_case, as on the wire). */
  async info(): Promise<{ [key: string]: JsonValue }> {
    const result = await this.#request('server.info', {})
    return isObject(result) ? (result as JsonObject) : {}
  }

  /**
   * Call this when something suggests that the connection may be dead, as when peers fall silent or addresses change. Pings;
   * unless anything is heard within 1.5 s, the connection is given up and made anew at once. One that is lost already is tried again
   * without waiting for the next delay to end.
   */
  probe(): void {
    if (this.#state === 'connected') this.#liveness.probe(PROBE_PATIENCE_MS)
    else this.#hurry?.()
  }

  /** Says goodbye with a reason (at most 256 characters), then closes. */
  async disconnect(reason = 'disconnected'): Promise<void> {
    if (this.#state === 'connected') {
      await this.#request('peer.disconnect', { peer_id: this.peerId, reason }).catch(() => {
        // It is over either way: closing tells the others.
      })
    }
    await this.close()
  }

  /** Leaves the room. Resolves when the socket and every timer are gone; calls still waiting get `ERR_CLOSED`. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= this.#shutDown()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** One connection up to the answered announce. Rejects with a `WebRtcError`, the socket gone or going. */
  #attempt(timeoutMs: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(aborted(signal))
      const ws = new WebSocket(this.#options.url, {
        perMessageDeflate: false,
        maxPayload: MAX_INCOMING_BYTES,
      })
      this.#ws = ws
      let settled = false
      const settle = (error: WebRtcError | undefined) => {
        if (settled) return
        settled = true
        clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
        this.#interrupt = undefined
        if (!error) return resolve()
        ws.terminate()
        this.#failPending(error)
        reject(error)
      }
      const timer = setTimeout(() => {
        const text = `the signaling server at ${this.#shownUrl} did not let us in within ${timeoutMs} ms; check host, port and firewalls`
        settle(new WebRtcError('ERR_SIGNALING', text))
      }, timeoutMs)
      const onAbort = () => settle(signal && aborted(signal))
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#interrupt = settle

      ws.on('open', () => {
        const params = { ...this.#options.announce, resume_token: this.#resumeToken }
        // Settled within the message event: what comes right behind the answer must find this done.
        const onResult = (result: JsonValue) => {
          if (settled) return
          this.#joined(isObject(result) ? result : {})
          settle(undefined)
        }
        this.#send(
          ws,
          { method: 'peer.announce', peerId: undefined, resolve: onResult, reject: settle },
          params,
        )
      })
      ws.on('message', (data, isBinary) => this.#onMessage(data as Buffer, isBinary))
      ws.on('ping', () => this.#liveness.heard())
      ws.on('pong', () => this.#liveness.heard())
      ws.on('unexpected-response', (request, response) => {
        request.destroy()
        settle(upgradeError(this.#shownUrl, response))
      })
      ws.on('error', (error) => settle(connectError(this.#shownUrl, error)))
      ws.on('close', (code, reason) => {
        const wasUp = settled && this.#ws === ws && this.#state === 'connected'
        const error =
          wasUp && this.#givenUp
            ? new WebRtcError('ERR_SIGNALING', `the signaling server at ${this.#shownUrl} fell silent`)
            : closedError(this.#shownUrl, code, reason.toString())
        settle(error)
        if (wasUp) this.#lost(code, reason.toString(), error)
      })
    })
  }

  #joined(result: { [key: string]: unknown }): void {
    const again = this.#state === 'reconnecting'
    if (typeof result.resume_token === 'string') this.#resumeToken = result.resume_token
    this.#answersOffers = result.answers_offers === true
    this.#peers.clear()
    for (const peer of readPeers(result.peers)) this.#peers.set(peer.peerId, peer)
    this.#state = 'connected'
    this.#liveness.start()
    if (again) this.#emit('reconnected', { peers: this.peers, resumed: result.resumed === true })
  }

  #lost(code: number, reason: string, error: WebRtcError): void {
    const givenUp = this.#givenUp
    this.#givenUp = false
    this.#liveness.stop()
    this.#failPending(error)
    if (this.#closed) return
    // Whoever took this id over has the token: taking it back would begin a tug of war.
    if (!this.#options.reconnect.enabled || code === CLOSE_CODES.REPLACED) {
      this.#finish(code, reason, error)
      return
    }
    this.#state = 'reconnecting'
    void this.#reconnect(code, reason, error, givenUp)
  }

  /** Never rejects. */
  async #reconnect(code: number, reason: string, cause: WebRtcError, atOnce: boolean): Promise<void> {
    const { maxAttempts, initialDelayMs, maxDelayMs } = this.#options.reconnect
    let error = cause
    let told: number | undefined
    let triedAt = performance.now()
    for (let attempt = 1; attempt <= maxAttempts && !this.#closed; attempt++) {
      const range = Math.min(maxDelayMs, initialDelayMs * 2 ** Math.min(attempt - 1, 30))
      // From try to try, so that one that hangs does not add to the delay after it. When it was us who gave the connection up, there
      // is no crowd that comes back together with us.
      const dueAt = atOnce && attempt === 1 ? triedAt : triedAt + range * (0.5 + Math.random() / 2)
      const delayMs = Math.max(0, Math.round(dueAt - performance.now()))
      this.#emit('reconnecting', { attempt, delayMs, error })
      await this.#pause(delayMs, triedAt + MIN_RETRY_MS)
      if (this.#closed) return
      triedAt = performance.now()
      try {
        await this.#attempt(Math.min(this.#options.timeoutMs, RECONNECT_TIMEOUT_MS))
        return
      } catch (failure) {
        error = failure as WebRtcError
        if (isPermanent(error)) break
        // An answer is more than a server that is away: it may stay like that until somebody does something.
        if (error.signalingCode !== undefined && error.signalingCode !== told) this.#emit('error', error)
        told = error.signalingCode
      }
    }
    if (!this.#closed) this.#finish(code, reason, error)
  }

  /** Waits `ms`; no longer than `soonest` from when somebody is in a hurry. */
  #pause(ms: number, soonest: number): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer)
        this.#interrupt = undefined
        this.#hurry = undefined
        resolve()
      }
      const dueAt = performance.now() + ms
      let timer = setTimeout(end, ms)
      this.#interrupt = end
      this.#hurry = () => {
        if (soonest >= dueAt) return
        clearTimeout(timer)
        timer = setTimeout(end, Math.max(0, soonest - performance.now()))
      }
    })
  }

  /** The end of a client that nobody closed. */
  #finish(code: number, reason: string, error: WebRtcError): void {
    this.#state = 'closed'
    this.#closed ??= Promise.resolve()
    this.#emit('error', error)
    this.#emit('close', { code, reason, error })
  }

  async #shutDown(): Promise<void> {
    const ws = this.#ws
    const error = new WebRtcError('ERR_CLOSED', 'the signaling client was closed')
    // `#closed` is set when this returns its promise, which is before anything below can be noticed.
    await null
    this.#liveness.stop()
    this.#state = 'closed'
    this.#failPending(error)
    this.#interrupt?.(error)
    if (ws && ws.readyState !== WebSocket.CLOSED) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(() => ws.terminate(), CLOSE_TIMEOUT_MS)
        ws.once('close', () => {
          clearTimeout(timer)
          resolve()
        })
        ws.close(CLOSE_CODES.NORMAL)
      })
    }
    this.#emit('close', { code: CLOSE_CODES.NORMAL, reason: '' })
  }

  #request(method: string, params: JsonObject, peerId?: string): Promise<JsonValue> {
    const ws = this.#ws
    if (this.#closed || this.#state === 'closed') {
      return Promise.reject(
        new WebRtcError('ERR_CLOSED', `${method}: the signaling client is closed`, { peerId }),
      )
    }
    if (this.#state !== 'connected' || ws?.readyState !== WebSocket.OPEN) {
      const text = `${method}: not sent, the connection to ${this.#shownUrl} is being re-established`
      return Promise.reject(new WebRtcError('ERR_SIGNALING', text, { peerId }))
    }
    return new Promise((resolve, reject) => {
      this.#send(ws, { method, peerId, resolve, reject }, params)
    })
  }

  /** Sends a request; `call` is settled once, by the answer, the clock or the end of the connection. */
  #send(ws: WebSocket, call: PendingCall, params: JsonObject): void {
    const { maxInFlight, maxMessageBytes, requestTimeoutMs } = this.#options
    const { method, peerId } = call
    const id = this.#nextId++
    const text = JSON.stringify({ jsonrpc: '2.0', id, method, params })
    const bytes = Buffer.byteLength(text)
    if (bytes > maxMessageBytes) {
      const message = `${method}: ${bytes} bytes, more than the ${maxMessageBytes} of one message`
      call.reject(new WebRtcError('ERR_MESSAGE_TOO_LARGE', message, { peerId }))
      return
    }
    if (this.#pending.size >= maxInFlight || ws.bufferedAmount > MAX_QUEUED_BYTES) {
      const message = `${method}: ${this.#pending.size} requests are waiting for answers already`
      call.reject(new WebRtcError('ERR_RATE_LIMITED', message, { peerId }))
      return
    }
    const timer = setTimeout(() => {
      this.#pending.delete(id)
      const message = `${method}: no answer from ${this.#shownUrl} within ${requestTimeoutMs} ms`
      call.reject(new WebRtcError('ERR_SIGNALING', message, { peerId }))
    }, requestTimeoutMs)
    this.#pending.set(id, { ...call, timer })
    ws.send(text)
  }

  #failPending(cause: WebRtcError): void {
    for (const [id, pending] of this.#pending) {
      clearTimeout(pending.timer)
      this.#pending.delete(id)
      const { method, peerId } = pending
      const text = `${method}: not answered, ${cause.message}`
      pending.reject(
        method === 'peer.announce' ? cause : new WebRtcError(cause.code, text, { peerId, cause }),
      )
    }
  }

  #onMessage(data: Buffer, isBinary: boolean): void {
    this.#liveness.heard()
    if (isBinary) {
      this.#complain('sent a binary message')
      return
    }
    const message = parseMessage(data.toString('utf8'), MAX_INCOMING_DEPTH)
    if (message.kind === 'invalid') this.#complain(`sent a message that is none: ${message.error.message}`)
    else if (message.kind === 'response') this.#onResponse(message)
    else if (message.id !== undefined) this.#complain('asked something; servers only tell')
    else this.#onNotification(message.method, message.params)
  }

  #onResponse(response: { id: string | number | null; result?: JsonValue; error?: RpcErrorBody }): void {
    const { id, error } = response
    if (id === null && error) {
      this.#emit('error', fromRpcError(error, 'the signaling server'))
      return
    }
    const pending = typeof id === 'number' ? this.#pending.get(id) : undefined
    // Unknown ids are answers that came after their time.
    if (!pending) return
    this.#pending.delete(id as number)
    clearTimeout(pending.timer)
    if (error) pending.reject(fromRpcError(error, pending.method, pending.peerId))
    else pending.resolve(response.result ?? null)
  }

  #onNotification(method: string, params: JsonObject): void {
    const event = readNotification(method, params)
    if (event === undefined) this.#complain(`sent a malformed ${method}`)
    // Others may be added to the protocol; they are no business of this version.
    if (!event) return
    if (event.name === 'joined' && this.#peers.size < MAX_ROSTER)
      this.#peers.set(event.data.peerId, event.data)
    if (event.name === 'left') this.#peers.delete(event.data.peerId)
    this.#emit(event.name, event.data)
  }

  #complain(what: string): void {
    this.#malformed++
    if (!this.#complaints.take(performance.now())) return
    this.#emit('error', new WebRtcError('ERR_SIGNALING', `the signaling server at ${this.#shownUrl} ${what}`))
  }

  #emit<K extends keyof SignalingClientEvents>(name: K, event: SignalingClientEvents[K]): void {
    if (this.#held && this.#held.length < MAX_HELD_EVENTS) {
      this.#held.push(() => this.#deliver(name, event))
      return
    }
    this.#deliver(name, event)
  }

  #deliver<K extends keyof SignalingClientEvents>(name: K, event: SignalingClientEvents[K]): void {
    const heard = this.dispatch(name, event, (cause) => {
      const error = new WebRtcError(
        'ERR_SIGNALING',
        `a listener of '${String(name)}' threw: ${String(cause)}`,
        { cause },
      )
      // Not to the listeners of 'error', when it is one of them.
      if (name === 'error' || !this.dispatch('error', error, () => {})) warn(error)
    })
    if (!heard && name === 'error') warn(event as WebRtcError)
  }

  /** Lets events flow once the caller of `connect` has had its turn. */
  #release(): void {
    setImmediate(() => {
      const held = this.#held ?? []
      this.#held = undefined
      for (const deliver of held) deliver()
    })
  }

  #checkSdp(to: string, sdp: string): void {
    if (!isName(to)) throw configError('to', to, NAME_RULE)
    if (typeof sdp !== 'string') throw configError('sdp', sdp, 'a string')
    const { maxSdpBytes } = this.#options
    const bytes = Buffer.byteLength(sdp)
    if (bytes > maxSdpBytes) {
      const text = `sdp: ${bytes} bytes, more than the ${maxSdpBytes} of one SDP`
      throw new WebRtcError('ERR_MESSAGE_TOO_LARGE', text, { peerId: to })
    }
  }
}

interface PendingCall {
  readonly method: string
  readonly peerId: string | undefined
  readonly resolve: (result: JsonValue) => void
  readonly reject: (error: WebRtcError) => void
}

interface Pending extends PendingCall {
  readonly timer: NodeJS.Timeout
}

/** The largest answer: everyone in a full room with all they may announce. */
const MAX_INCOMING_BYTES = 4 * 1_048_576
/** A peer's `user_data` sits deeper in a list of peers than in its announce. */
const MAX_INCOMING_DEPTH = 80
/** Bytes that may wait for a server that doesn't read. */
const MAX_QUEUED_BYTES = 4 * 1_048_576
const MAX_ROSTER = 10_000
const MAX_HELD_EVENTS = 10_000
const CLOSE_TIMEOUT_MS = 1_000
/** One try of a reconnect: one that hangs must not outlast the server's return by much. */
const RECONNECT_TIMEOUT_MS = 2_500
/** Between the beginnings of two tries, however great the hurry. */
const MIN_RETRY_MS = 250
const PROBE_PATIENCE_MS = 1_500

function warn(error: WebRtcError): void {
  process.emitWarning(error.message, error.name, error.code)
}

function aborted(signal: AbortSignal): WebRtcError {
  return new WebRtcError('ERR_ABORTED', 'connecting to the signaling server was aborted', {
    cause: signal.reason,
  })
}

export type {
  SignalingAnswer,
  SignalingCandidate,
  SignalingClientEvents,
  SignalingDescription,
  SignalingPeer,
  SignalingRefusal,
} from './client-events.js'
export type { SignalingClientOptions, SignalingReconnectOptions } from './client-options.js'
