import { DataChannel, type DataChannelOptions, sendMessage } from './channel.js'
import { type ResolvedConfig, resolveConfig, type WebRtcConfig } from './config.js'
import {
  fromNative,
  release,
  type Sendable,
  share,
  type TransportData,
  toNative,
  withTimestamp,
} from './data.js'
import { checkKnownKeys, configError, WebRtcError } from './errors.js'
import { TurnServerSource } from './ice.js'
import { Membership, type SignalingChange } from './membership.js'
import { listenMetrics, type MetricsOptions, type MetricsServer } from './metrics.js'
import type { ItemOut, NativeCounters, NativeEvent, NativeTransport } from './native/binding.cjs'
import { native } from './native/load.js'
import { check, toError, unwrap } from './native/result.js'
import { waker } from './native/waker.js'
import { type PeerId, type PeerInfo, type PeerStateChange, peerInfo, stateChange } from './peers.js'
import { type ManifestSource, PipelineRunner } from './pipeline/runner.js'
import { MultiPeerSession, type Received, type SessionHost } from './session.js'
import type { SignalingClientState } from './signaling/client.js'
import type { SignalingPeer } from './signaling/client-events.js'
import { TypedEvents } from './signaling/events.js'
import { type QualityChange, toQuality } from './stats/quality.js'
import { toReport } from './stats/report.js'
import type { RTCStatsReport } from './stats/types.js'

/** How the messages fared that were accepted for a reliable channel which has ended: together these are all of them. */
export interface Undelivered {
  peerId: PeerId
  /** Absent for the built-in channel. */
  channel?: DataChannel
  /** How many of them the peer's side is known to have. Its application may not have read them if its process died. */
  acknowledged: number
  /** Those that were sent and may have arrived, in the order of their sending. */
  unknown: TransportData[]
  /** Those that were not sent, which follow on the ones above. */
  unsent: TransportData[]
}

export interface TransportEvents {
  /** A peer announced itself in the room. */
  peerjoined: { peerId: PeerId; capabilities: string[]; metadata: unknown }
  /**
   * A peer is gone: it left the room, and there is no connection to it. One whose signaling connection broke is kept as long as the
   * connection to it lives.
   */
  peerleft: { peerId: PeerId; reason: string; code: string }
  /** The connection to a peer changed, and why. */
  peerstatechange: PeerStateChange
  /** The connection to a peer took another way, in the same state; noticed within a second. */
  peerpathchange: PeerStateChange
  /** The connection to a peer is better or worse than before, and by what; first told about a second after it is connected. */
  quality: QualityChange
  /** The connection to the signaling server was lost, is back, or was given up. Connections to peers live on meanwhile. */
  signalingstatechange: SignalingChange
  /** A message on the built-in channel. */
  data: Received
  /** Decoded audio. */
  audio: Received
  /** A decoded picture: its frame is closed when the promises that listeners return have settled. */
  video: Received
  /** A reliable channel ended before all its messages were acknowledged: the connection had to be built anew, or the peer is gone. */
  undelivered: Undelivered
  /** A peer opened a further channel. */
  channel: { peerId: PeerId; channel: DataChannel }
  /** Something failed that no call waits for. Without a listener it is a process warning, never a throw. */
  error: WebRtcError
}

export interface ConnectOptions {
  signal?: AbortSignal
  /** Default 10 000. */
  timeoutMs?: number
}

/** Totals of one transport. */
export interface TransportCounters extends NativeCounters {
  /** Offers, answers and candidates that were not looked at because a peer, or all together, sent too many. */
  signalsLimited: number
  /** Messages of the signaling server that made no sense. */
  signalsMalformed: number
}

/** Runs pipelines over what peers send. */
export interface PipelineTransport {
  execute(manifest: ManifestSource, data: Sendable): Promise<TransportData | null>
  stream(manifest: ManifestSource): Promise<MultiPeerSession>
}

/**
 * A member of a room: meets its peers through signaling, connects to each of them, and exchanges audio, video and data.
 *
 * Close it (`close()`, or `await using`): it owns sockets and threads.
 */
export class WebRtcTransport
  extends TypedEvents<TransportEvents>
  implements PipelineTransport, AsyncDisposable
{
  /** Node types of your own are registered here. */
  readonly runner = new PipelineRunner()
  readonly #config: ResolvedConfig
  readonly #native: NativeTransport
  readonly #turnServers: TurnServerSource | undefined
  /** Errors from before anybody could listen. */
  #early: WebRtcError[] | undefined = []
  readonly #host: SessionHost
  readonly #roster = new Map<PeerId, SignalingPeer>()
  readonly #sessions = new Set<MultiPeerSession>()
  readonly #metrics = new Set<MetricsServer>()
  readonly #channels = new Map<string, DataChannel>()
  readonly #opening = new Map<string, Settle<DataChannel> & { label: string }>()
  readonly #connects = new Map<number, Settle<PeerId>>()
  readonly #statistics = new Map<number, Settle<RTCStatsReport>>()
  /** Sessions that have enough of a peer's messages. */
  readonly #holders = new Map<PeerId, Set<MultiPeerSession>>()
  readonly #drains = new Map<PeerId, Settle<void>[]>()
  #membership: Membership | undefined
  #nextRequest = 1
  #subscribed = { audio: false, video: false }
  #closed: Promise<void> | undefined

  /**
   * Joins signaling, announces itself and starts to connect to everyone in the room. Throws `ERR_CONFIG` naming the field,
   * `ERR_SIGNALING`, `ERR_UNAUTHORIZED`, `ERR_PEER_DENIED`, `ERR_RATE_LIMITED`.
   */
  static async create(config: WebRtcConfig): Promise<WebRtcTransport> {
    const transport = new WebRtcTransport(resolveConfig(config))
    try {
      transport.#membership = await Membership.join(transport.#config, transport.#native, {
        signalingChanged: (change) => transport.#emit('signalingstatechange', change),
        failed: (error) => transport.#error(error),
      })
    } catch (error) {
      await transport.close()
      throw error
    }
    setImmediate(() => transport.#tellEarly())
    return transport
  }

  private constructor(config: ResolvedConfig) {
    super()
    this.#config = config
    this.#native = unwrap(native.NativeTransport.open(config.native, waker(this)))
    if (config.turnServersFunction) {
      this.#turnServers = new TurnServerSource(
        config.turnServersFunction,
        (servers) => check(this.#native.setTurnServers(servers)),
        (error) => this.#error(error),
      )
    }
    this.#host = {
      native: this.#native,
      peerId: config.peerId,
      runner: this.runner,
      sendToPeer: (peerId, data) => this.sendToPeer(peerId, data),
      broadcast: (data, exclude) => this.broadcast(data, exclude),
      hasLeft: (peerId) => this.#gone.has(peerId),
      // The room's list as well: what it tells has yet to reach the other two.
      known: () => [
        ...this.#roster.keys(),
        ...this.#native.peers().map(({ peerId }) => peerId),
        ...(this.#membership?.peerIds ?? []),
      ],
      wantsChanged: () => this.#subscribe(),
      hold: (session, peerId, hold) => this.#hold(session, peerId, hold),
      closed: (session) => {
        this.#sessions.delete(session)
        this.#subscribe()
      },
    }
  }

  readonly #gone = new Set<PeerId>()

  get peerId(): PeerId {
    return this.#config.peerId
  }

  get room(): string {
    return this.#config.room
  }

  /** Where the signaling server is: the one that `signalingServer` started, too. */
  get signalingUrl(): string {
    return this.#membership?.url ?? ''
  }

  /** `connected`; `reconnecting` while it is lost; `closed` when it is over or was given up. Connections to peers don't depend on it. */
  get signalingState(): SignalingClientState {
    return this.#membership?.state ?? 'closed'
  }

  /**
   * Lets another process take this one's place in the room at once, under the same id (`resumeToken` of the configuration), even
   * if the server thinks that this one is alive. A secret. It changes when signaling joins again: read it late, or after each
   * `signalingstatechange`.
   */
  get resumeToken(): string {
    return this.#membership?.resumeToken ?? ''
  }

  /** Connects to a peer, or waits until that is done: it must announce itself and its data channel must open within the timeout. */
  connectPeer(peerId: PeerId, options: ConnectOptions = {}): Promise<PeerId> {
    checkId(peerId)
    checkKnownKeys('options', options, ['signal', 'timeoutMs'])
    const { signal, timeoutMs = 10_000 } = options
    if (!(Number.isFinite(timeoutMs) && timeoutMs > 0))
      throw configError('timeoutMs', timeoutMs, 'milliseconds over 0')
    if (this.#closed) return Promise.reject(closedError())
    if (signal?.aborted) return Promise.reject(abortedError(signal, peerId))
    return new Promise((resolve, reject) => {
      const request = this.#request()
      const onAbort = () => {
        this.#connects.delete(request)
        this.#native.cancelConnect(request)
        reject(abortedError(signal!, peerId))
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      const settled = () => signal?.removeEventListener('abort', onAbort)
      this.#connects.set(request, {
        resolve: (id) => {
          settled()
          resolve(id)
        },
        reject: (error) => {
          settled()
          reject(error)
        },
      })
      this.#native.connectPeer(peerId, request, timeoutMs)
    })
  }

  /** Ends the connection to a peer. It is not offered to again by itself; its own offers are answered. */
  async disconnectPeer(peerId: PeerId): Promise<void> {
    checkId(peerId)
    if (this.#closed) throw closedError()
    this.#native.disconnectPeer(peerId, 'disconnectPeer')
  }

  /**
   * Everyone announced in the room, sorted by id, with the state of the connection to each. Those with a connection that lives stay
   * in it while signaling is lost, here or there.
   */
  listPeers(): PeerInfo[] {
    if (this.#closed) return []
    const links = new Map(this.#native.peers().map((peer) => [peer.peerId, peer]))
    return [...this.#roster.values()]
      .map((peer) => peerInfo(peer, links.get(peer.peerId)))
      .sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  /**
   * Sends to one peer. Messages (text, JSON, binary) resolve when they are accepted below the high-water mark of 1 MiB. Audio and
   * video resolve when they wait for the encoder; a picture that still waits is replaced by the next. Takes its own reference to
   * a frame before it returns.
   *
   * Throws `ERR_PEER_NOT_FOUND` (no such peer, or not connected), `ERR_MESSAGE_TOO_LARGE` before anything is sent, `ERR_CODEC`
   * when there is no common codec, `ERR_RATE_LIMITED` when 64 MiB wait because sends are not awaited.
   */
  async sendToPeer(peerId: PeerId, data: Sendable): Promise<void> {
    checkId(peerId)
    if (this.#closed) throw closedError()
    const { data: runtime } = withTimestamp(data)
    switch (runtime.kind) {
      case 'text':
      case 'json':
      case 'binary':
        if (!sendMessage(this.#native, peerId, 0, runtime)) await this.#drained(peerId)
        return
      case 'audio':
      case 'video': {
        const { item, frame } = toNative(data)
        check(this.#native.sendMedia(peerId, item, frame))
        return
      }
      default:
        toNative(data)
        throw configError(
          'kind',
          runtime.kind,
          'audio, video, text, json or binary; a mix goes through a pipeline first',
        )
    }
  }

  /**
   * Sends to every connected peer but `exclude`. Audio and video are encoded once for all who take the same codec. No peer waits
   * for another; rejects with the first error, its `cause` an `AggregateError` of `WebRtcError`s by `peerId`.
   */
  async broadcast(data: Sendable, exclude: PeerId[] = []): Promise<void> {
    if (this.#closed) throw closedError()
    if (!Array.isArray(exclude)) throw configError('exclude', exclude, 'peer ids')
    const { kind } = withTimestamp(data).data
    if (kind === 'audio' || kind === 'video') {
      const { item, frame } = toNative(data)
      throwAll(this.#native.broadcastMedia(exclude, item, frame).map((error) => toError(error)))
      return
    }
    const peers = this.listPeers().filter(({ id, state }) => state === 'connected' && !exclude.includes(id))
    const results = await Promise.allSettled(peers.map(({ id }) => this.sendToPeer(id, data)))
    throwAll(
      results.flatMap((result) => (result.status === 'rejected' ? [result.reason as WebRtcError] : [])),
    )
  }

  /** Opens a further data channel to a connected peer. */
  openChannel(peerId: PeerId, label: string, options: DataChannelOptions = {}): Promise<DataChannel> {
    checkId(peerId)
    checkKnownKeys('options', options, ['mode', 'protocol'])
    const { mode = 'reliable', protocol = '' } = options
    if (typeof label !== 'string' || label === 'data' || Buffer.byteLength(label) > 1024) {
      throw configError('label', label, "a string of at most 1024 bytes, and not 'data'")
    }
    if (this.#closed) return Promise.reject(closedError())
    return new Promise((resolve, reject) => {
      const channel = unwrap(this.#native.openChannel(peerId, label, mode, protocol))
      this.#opening.set(`${channel}/${peerId}`, { resolve, reject, label })
    })
  }

  /** One run of a manifest with fresh node state. */
  execute(manifest: ManifestSource, data: Sendable): Promise<TransportData | null> {
    return this.runner.executeUnary(manifest, data)
  }

  /** Starts a session: a pipeline that lives as long as the call. Throws `ERR_MANIFEST` naming the place. */
  async stream(manifest: ManifestSource): Promise<MultiPeerSession> {
    if (this.#closed) throw closedError()
    const session = new MultiPeerSession(this.#host, this.runner.plan(manifest))
    this.#sessions.add(session)
    return session
  }

  /** The sessions that are open. */
  get sessions(): readonly MultiPeerSession[] {
    return [...this.#sessions]
  }

  /** Statistics of one peer or of all: W3C names and units (`docs/stats.md`). Empty for a peer there is no connection to. */
  getStats(peerId?: PeerId): Promise<RTCStatsReport> {
    if (this.#closed) return Promise.reject(closedError())
    return new Promise((resolve, reject) => {
      const request = this.#request()
      this.#statistics.set(request, { resolve, reject })
      this.#native.requestStats(request, peerId)
    })
  }

  /** What was dropped or refused so far, in the whole transport. */
  get counters(): TransportCounters {
    const { limited = 0, malformed = 0 } = this.#membership ?? {}
    return { ...this.#native.counters(), signalsLimited: limited, signalsMalformed: malformed }
  }

  /**
   * Starts an HTTP server for Prometheus, which gives `metricsText` of this transport at `/metrics`. It ends with the transport, or
   * by its own `close()`. Throws `ERR_CONFIG` (also when it can't listen there), `ERR_CLOSED`.
   */
  async serveMetrics(options: MetricsOptions = {}): Promise<MetricsServer> {
    if (this.#closed) throw closedError()
    const server = await listenMetrics(this, options)
    this.#metrics.add(server)
    if (this.#closed) {
      await server.close()
      throw closedError()
    }
    return server
  }

  /** Leaves the room and ends every connection and session. Idempotent; resolves when sockets and threads are gone. */
  close(): Promise<void> {
    this.#closed ??= this.#shutDown()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  override on<K extends keyof TransportEvents>(
    name: K,
    listener: (event: TransportEvents[K]) => unknown,
  ): this {
    super.on(name, listener)
    this.#subscribe()
    return this
  }

  override once<K extends keyof TransportEvents>(
    name: K,
    listener: (event: TransportEvents[K]) => unknown,
  ): this {
    super.once(name, listener)
    this.#subscribe()
    return this
  }

  override off<K extends keyof TransportEvents>(
    name: K,
    listener: (event: TransportEvents[K]) => unknown,
  ): this {
    super.off(name, listener)
    this.#subscribe()
    return this
  }

  // Events

  /** @internal Takes what the addon has for us. */
  drain(): void {
    const events = this.#native.drain(MAX_EVENTS_A_TURN)
    for (const event of events) this.#handle(event)
    // The rest waits until others had their turn.
    if (events.length >= MAX_EVENTS_A_TURN) setImmediate(() => this.drain())
  }

  #handle(event: NativeEvent): void {
    const peerId = event.peerId ?? ''
    switch (event.kind) {
      case 'offer':
      case 'answer':
      case 'candidate':
      case 'signalError':
        this.#membership?.send(event)
        break
      case 'connected': {
        const waiting = take(this.#connects, event.number!)
        if (event.error) waiting?.reject(toError(event.error))
        else waiting?.resolve(peerId)
        break
      }
      case 'joined': {
        const peer: SignalingPeer = {
          peerId,
          capabilities: JSON.parse(event.detail ?? '[]') as string[],
          userData: JSON.parse(event.text ?? 'null'),
        }
        this.#roster.set(peerId, peer)
        this.#gone.delete(peerId)
        this.#emit('peerjoined', { peerId, capabilities: peer.capabilities, metadata: peer.userData })
        break
      }
      case 'left':
        this.#roster.delete(peerId)
        this.#forget(peerId)
        for (const session of this.#sessions) session.peerLeft(peerId)
        this.#emit('peerleft', { peerId, reason: event.text ?? '', code: event.code ?? '' })
        break
      case 'state': {
        const change = stateChange(event)
        const { state } = change
        if (state === 'closed' || state === 'failed') this.#failDrains(peerId, `the connection is ${state}`)
        // The network may be gone for signaling as well, which would notice much later.
        if (state === 'disconnected') this.#membership?.probe()
        this.#emit('peerstatechange', change)
        break
      }
      case 'path':
        this.#emit('peerpathchange', stateChange(event))
        break
      case 'quality':
        this.#emit('quality', { peerId, ...toQuality(event.quality!) })
        break
      case 'message':
        this.#message(peerId, event.number!, event.item!)
        break
      case 'media': {
        const data = fromNative(event.item!)
        this.#give(data.data.kind as 'audio' | 'video', { peerId, data })
        break
      }
      case 'drained':
        this.#drainedNow(peerId, event.number!)
        break
      case 'channelOpen':
        this.#channelOpen(peerId, event.number!, event.text ?? '')
        break
      case 'channelClosed':
        this.#channelClosed(peerId, event.number!)
        break
      case 'undelivered': {
        const channel = this.#channels.get(`${event.number!}/${peerId}`)
        this.#emit('undelivered', {
          peerId,
          ...(channel === undefined ? {} : { channel }),
          acknowledged: event.acknowledged!,
          unknown: event.unknown!.map(fromNative),
          unsent: event.unsent!.map(fromNative),
        })
        break
      }
      case 'stats':
        take(this.#statistics, event.number!)?.resolve(toReport(event.stats ?? [], Date.now()))
        break
      case 'sessionClosed':
        for (const session of this.#sessions) session.finished(event.number!)
        break
      case 'turnServersNeeded':
        this.#turnServers?.refresh()
        break
      case 'addresses':
        this.#membership?.probe()
        break
      case 'error':
        this.#error(toError(event.error!, event.peerId ?? undefined))
        break
    }
  }

  /** A peer waits with its messages as long as one session has enough of them. */
  #hold(session: MultiPeerSession, peerId: PeerId, hold: boolean): void {
    const holders = this.#holders.get(peerId) ?? new Set()
    if (hold) this.#holders.set(peerId, holders.add(session))
    else if (holders.delete(session) && holders.size === 0) this.#holders.delete(peerId)
    if (!this.#closed) this.#native.holdMessages(peerId, holders.size > 0)
  }

  #message(peerId: PeerId, channel: number, item: ItemOut): void {
    let data: TransportData
    try {
      data = fromNative(item)
    } catch (cause) {
      this.#error(
        new WebRtcError('ERR_SIGNALING', 'a message marked as JSON is not JSON; dropped', { peerId, cause }),
      )
      return
    }
    if (channel === 0) {
      this.#give('data', { peerId, data }, 2 * (item.text?.length ?? 0) + (item.data?.length ?? 0))
    } else if (data.data.kind === 'text' || data.data.kind === 'json' || data.data.kind === 'binary') {
      this.#channels.get(`${channel}/${peerId}`)?.receive(data.data, (error) => this.#threw(error))
    }
  }

  /** Each session and the listeners get a reference of their own. */
  #give(name: 'audio' | 'video' | 'data', received: Received, bytes = 0): void {
    for (const session of this.#sessions) {
      if (session.wants(received.data.data.kind))
        session.deliver({ ...received, data: share(received.data) }, bytes)
    }
    const returned: unknown[] = []
    this.dispatch(name, received, (error) => this.#threw(error), returned)
    const pending = returned.filter((value) => value instanceof Promise || isThenable(value))
    if (pending.length === 0) {
      release(received.data)
      return
    }
    void Promise.allSettled(pending).then((results) => {
      release(received.data)
      for (const result of results) if (result.status === 'rejected') this.#threw(result.reason)
    })
  }

  #emit<K extends keyof TransportEvents>(name: K, event: TransportEvents[K]): void {
    this.dispatch(name, event, (error) => this.#threw(error))
  }

  #error(error: WebRtcError): void {
    if (this.#early) {
      if (this.#early.length < MAX_EARLY) this.#early.push(error)
      return
    }
    if (this.dispatch('error', error, (thrown) => warn(thrown))) return
    warn(error)
  }

  #tellEarly(): void {
    const early = this.#early ?? []
    this.#early = undefined
    for (const error of early) this.#error(error)
  }

  /** A listener threw: its own fault, and nobody else's. */
  #threw(cause: unknown): void {
    this.#error(
      new WebRtcError('ERR_NODE', `a listener threw: ${(cause as Error)?.message ?? cause}`, { cause }),
    )
  }

  /** Media comes to JavaScript only while somebody there wants it. */
  #subscribe(): void {
    if (this.#closed) return
    const wanted = (kind: 'audio' | 'video') => [...this.#sessions].some((session) => session.wants(kind))
    const audio = wanted('audio') || this.listenerCount('audio') > 0
    const video = wanted('video') || this.listenerCount('video') > 0
    if (audio === this.#subscribed.audio && video === this.#subscribed.video) return
    this.#subscribed = { audio, video }
    this.#native.subscribe(audio, video)
  }

  // Channels and backpressure

  #drained(peerId: PeerId): Promise<void> {
    return new Promise((resolve, reject) => {
      const waiting = this.#drains.get(peerId) ?? []
      waiting.push({ resolve, reject })
      this.#drains.set(peerId, waiting)
    })
  }

  #drainedNow(peerId: PeerId, channel: number): void {
    if (channel !== 0) {
      this.#channels.get(`${channel}/${peerId}`)?.drained((error) => this.#threw(error))
      return
    }
    for (const { resolve } of take(this.#drains, peerId) ?? []) resolve()
  }

  #failDrains(peerId: PeerId, why: string): void {
    for (const { reject } of take(this.#drains, peerId) ?? []) {
      reject(
        new WebRtcError('ERR_PEER_NOT_FOUND', `what waited for peer '${peerId}' was not sent: ${why}`, {
          peerId,
        }),
      )
    }
  }

  #channelOpen(peerId: PeerId, number: number, label: string): void {
    const key = `${number}/${peerId}`
    const channel = new DataChannel(this.#native, peerId, number, label)
    this.#channels.set(key, channel)
    const waiting = take(this.#opening, key)
    if (waiting) waiting.resolve(channel)
    else this.#emit('channel', { peerId, channel })
  }

  #channelClosed(peerId: PeerId, number: number): void {
    const key = `${number}/${peerId}`
    const waiting = take(this.#opening, key)
    waiting?.reject(new WebRtcError('ERR_CLOSED', `channel '${waiting.label}' did not open`, { peerId }))
    take(this.#channels, key)?.ended((error) => this.#threw(error))
  }

  #forget(peerId: PeerId): void {
    this.#failDrains(peerId, 'it left')
    this.#holders.delete(peerId)
    this.#gone.add(peerId)
    // Only to answer recvFromPeer for those who left lately.
    if (this.#gone.size > MAX_REMEMBERED) this.#gone.delete(this.#gone.values().next().value!)
  }

  // The end

  async #shutDown(): Promise<void> {
    this.#turnServers?.close()
    await Promise.all([...this.#metrics].map((server) => server.close()))
    await Promise.all([...this.#sessions].map((session) => session.close()))
    // Both say goodbye at once, so that peers learn of it as soon as can be.
    await Promise.all([this.#native.close(), this.#membership?.leave()])
    await this.#membership?.closeServer()
    this.runner.close()
    const error = closedError()
    for (const map of [this.#connects, this.#statistics, this.#opening] as Map<unknown, Settle<never>>[]) {
      for (const { reject } of map.values()) reject(error)
      map.clear()
    }
    for (const waiting of this.#drains.values()) for (const { reject } of waiting) reject(error)
    this.#drains.clear()
    for (const channel of this.#channels.values()) channel.ended((thrown) => warn(thrown))
    this.#channels.clear()
    // Frames that were on their way.
    for (const { item } of this.#native.drain(MAX_EVENTS_A_TURN)) if (item?.frame) item.frame.close()
  }

  #request(): number {
    const request = this.#nextRequest
    this.#nextRequest = (request % 0xffff_ffff) + 1
    return request
  }
}

interface Settle<T> {
  resolve(value: T): void
  reject(error: WebRtcError): void
}

const MAX_EVENTS_A_TURN = 512
const MAX_EARLY = 64
const MAX_REMEMBERED = 1024

function take<K, V>(map: Map<K, V>, key: K): V | undefined {
  const value = map.get(key)
  map.delete(key)
  return value
}

function throwAll(errors: WebRtcError[]): void {
  const [first] = errors
  if (!first) return
  const cause = new AggregateError(errors, 'not every peer was sent to')
  const { code, message, peerId } = first
  const more = errors.length > 1 ? ` (and ${errors.length - 1} more: see cause.errors)` : ''
  throw new WebRtcError(code, message + more, { peerId, cause })
}

function checkId(peerId: unknown): void {
  if (typeof peerId !== 'string' || peerId === '') throw configError('peerId', peerId, "a peer's id")
}

function closedError(): WebRtcError {
  return new WebRtcError('ERR_CLOSED', 'the transport is closed')
}

function abortedError(signal: AbortSignal, peerId: string): WebRtcError {
  return new WebRtcError('ERR_ABORTED', 'the call was aborted', { peerId, cause: signal.reason })
}

function isThenable(value: unknown): boolean {
  return typeof (value as { then?: unknown } | undefined)?.then === 'function'
}

function warn(error: unknown): void {
  process.emitWarning(error instanceof Error ? error : String(error), { code: 'REMOTEMEDIA_UNHANDLED' })
}
