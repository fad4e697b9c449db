import { type DataKind, release, type Sendable, type TransportData, toNative } from './data.js'
import { checkKnownKeys, configError, WebRtcError } from './errors.js'
import type { NativePlan, RouteOptions as NativeRoute, NativeTransport } from './native/binding.cjs'
import { check, unwrap } from './native/result.js'
import type { PipelineRunner } from './pipeline/runner.js'

/** Something that came from a peer. */
export interface Received {
  peerId: string
  data: TransportData
}

export interface ReceiveOptions {
  /** Only this kind. Default: any. */
  kind?: DataKind
  signal?: AbortSignal
  /** Then `ERR_ABORTED`. Default: no limit. */
  timeoutMs?: number
}

/** From peers, through the graph, on to peers: native, without JavaScript for each frame. */
export interface RouteOptions {
  /** Whose media. `'*'`: everybody's. */
  from: string[] | '*'
  track: 'audio' | 'video' | 'data'
  /** The output node whose items are sent. */
  through: string
  to: 'sender' | 'others' | 'all' | string[]
}

/** Counters of one node. */
export interface NodeStats {
  id: string
  nodeType: string
  itemsIn: number
  itemsOut: number
  /** Items that ended here, by reason: `queue`, `error`, `overrun`, `closed`. */
  dropped: Record<string, number>
  errors: number
  /** Items waiting. */
  depth: number
  /** Processing time in microseconds. */
  p50Us: number
  p95Us: number
  p99Us: number
}

/** What a session needs of its transport. @internal */
export interface SessionHost {
  readonly native: NativeTransport
  readonly runner: PipelineRunner
  sendToPeer(peerId: string, data: Sendable): Promise<void>
  broadcast(data: Sendable, exclude?: string[]): Promise<void>
  hasLeft(peerId: string): boolean
  /** Which media sessions want has changed. */
  wantsChanged(): void
  closed(session: MultiPeerSession): void
}

/**
 * A pipeline that lives as long as the call, with an instance of its graph for each peer. `recv*` give what peers sent, decoded
 * and not yet processed; `execute` runs the graph; `sendToPeer` and `broadcast` go to the peers; `route` does all of it natively.
 */
export class MultiPeerSession implements AsyncDisposable, AsyncIterable<Received> {
  readonly id: string
  readonly #host: SessionHost
  readonly #number: number
  readonly #queue: Received[] = []
  readonly #waiting = new Set<Waiting>()
  readonly #routes = new Set<Route>()
  #receiving = false
  #dropped = 0
  #closed: Promise<void> | undefined

  /** @internal */
  constructor(host: SessionHost, plan: NativePlan) {
    this.#host = host
    this.#number = unwrap(host.native.createSession(plan))
    this.id = `session-${this.#number}`
  }

  /** Items dropped because nobody read them: raw video is kept one a peer, audio 100 ms, messages 1024 in all. */
  get dropped(): number {
    return this.#dropped
  }

  sendToPeer(peerId: string, data: Sendable): Promise<void> {
    return this.#open(() => this.#host.sendToPeer(peerId, data))
  }

  broadcast(data: Sendable, exclude?: string[]): Promise<void> {
    return this.#open(() => this.#host.broadcast(data, exclude))
  }

  /** The next thing that any peer sent; close its frame. Null once the session is closed. What is not read is dropped, oldest first. */
  recvFromAny(options: ReceiveOptions = {}): Promise<Received | null> {
    return this.#receive(undefined, options)
  }

  /** The next thing that this peer sent; close its frame. Null once that peer left or the session is closed. */
  async recvFromPeer(peerId: string, options: ReceiveOptions = {}): Promise<TransportData | null> {
    return (await this.#receive(peerId, options))?.data ?? null
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Received> {
    for (let item = await this.recvFromAny(); item; item = await this.recvFromAny()) yield item
  }

  /**
   * Runs an item through the session's graph, in the instance of `peerId` where it is given. Takes its own reference to a frame
   * before it returns. Null: it was dropped on the way. Throws `ERR_NODE`, `ERR_CLOSED`.
   */
  execute(data: Sendable, options: { peerId?: string } = {}): Promise<TransportData | null> {
    return this.#open(() => {
      const { item, frame } = toNative(data)
      const { native, runner } = this.#host
      return runner.request((request) =>
        native.execute(this.#number, runner.native, request, options.peerId, item, frame),
      )
    })
  }

  /** Starts a route. Throws `ERR_CONFIG` naming the field. */
  route(options: RouteOptions): Route {
    if (this.#closed) throw this.#gone()
    const number = unwrap(this.#host.native.addRoute(this.#number, toNativeRoute(options)))
    const route = new Route(this.#host.native, number, options, () => this.#routes.delete(route))
    this.#routes.add(route)
    return route
  }

  /** Changes a node's parameter in every instance, from the next item on. Throws `ERR_NODE` naming what is allowed. */
  setParam(node: string, name: string, value: unknown): void {
    if (this.#closed) throw this.#gone()
    check(this.#host.native.setParam(this.#number, node, name, JSON.stringify(value) ?? 'null'))
  }

  /** Switches a node on or off, from the next item on: one that is off passes on what it gets. */
  setEnabled(node: string, enabled: boolean): void {
    if (this.#closed) throw this.#gone()
    if (typeof enabled !== 'boolean') throw configError('enabled', enabled, 'true or false')
    check(this.#host.native.setEnabled(this.#number, node, enabled))
  }

  /** Counters of each node, over all peers, in the order they run. */
  stats(): NodeStats[] {
    if (this.#closed) return []
    return this.#host.native.sessionStats(this.#number).map(({ dropped, ...rest }) => ({
      ...rest,
      dropped: Object.fromEntries(dropped as [string, number][]),
    }))
  }

  /** Ends the session, its routes and its instances; `recv*` give null. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= this.#end()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** @internal Whether what peers send has to come to JavaScript for this session. */
  get receiving(): boolean {
    return this.#receiving && !this.#closed
  }

  /** @internal Takes an item over. */
  deliver(item: Received): void {
    for (const waiting of this.#waiting) {
      if (matches(waiting, item)) {
        waiting.settle(item)
        return
      }
    }
    this.#keep(item)
  }

  /** @internal */
  peerLeft(peerId: string): void {
    for (const waiting of [...this.#waiting]) if (waiting.peerId === peerId) waiting.settle(null)
  }

  /** Bounds what nobody reads: video newest only, audio 100 ms, messages oldest first. */
  #keep(item: Received): void {
    const queue = this.#queue
    const same = (other: Received) =>
      other.peerId === item.peerId && other.data.data.kind === item.data.data.kind
    const drop = (index: number) => {
      this.#dropped++
      for (const { data } of queue.splice(index, 1)) release(data)
    }
    const { data } = item.data
    if (data.kind === 'video') {
      const old = queue.findIndex(same)
      if (old >= 0) drop(old)
    } else if (data.kind === 'audio') {
      let waiting = audioMs(item.data)
      for (const other of queue) if (same(other)) waiting += audioMs(other.data)
      while (waiting > MAX_AUDIO_MS) {
        const old = queue.findIndex(same)
        if (old < 0) break
        waiting -= audioMs(queue[old]!.data)
        drop(old)
      }
    } else if (queue.length >= MAX_MESSAGES) {
      const old = queue.findIndex((other) => !['audio', 'video'].includes(other.data.data.kind))
      if (old >= 0) drop(old)
    }
    queue.push(item)
  }

  #receive(peerId: string | undefined, options: ReceiveOptions): Promise<Received | null> {
    const { kind, signal, timeoutMs } = options
    if (timeoutMs !== undefined && !(timeoutMs >= 0))
      throw configError('timeoutMs', timeoutMs, 'milliseconds')
    if (this.#closed) return Promise.resolve(null)
    if (signal?.aborted) return Promise.reject(aborted(signal))
    if (!this.#receiving) {
      this.#receiving = true
      this.#host.wantsChanged()
    }
    const index = this.#queue.findIndex((item) => matches({ peerId, kind }, item))
    if (index >= 0) return Promise.resolve(this.#queue.splice(index, 1)[0]!)
    if (peerId !== undefined && this.#host.hasLeft(peerId)) return Promise.resolve(null)
    return new Promise((resolve, reject) => {
      const finish = () => {
        this.#waiting.delete(waiting)
        clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
      }
      const waiting: Waiting = {
        peerId,
        kind,
        settle: (item) => {
          finish()
          resolve(item)
        },
      }
      const onAbort = () => {
        finish()
        reject(aborted(signal!))
      }
      const timer =
        timeoutMs === undefined
          ? undefined
          : setTimeout(() => {
              finish()
              reject(new WebRtcError('ERR_ABORTED', `nothing came within ${timeoutMs} ms`))
            }, timeoutMs)
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#waiting.add(waiting)
    })
  }

  async #end(): Promise<void> {
    for (const waiting of [...this.#waiting]) waiting.settle(null)
    for (const { data } of this.#queue.splice(0)) release(data)
    this.#routes.clear()
    this.#host.native.closeSession(this.#number)
    this.#host.closed(this)
  }

  async #open<T>(call: () => Promise<T>): Promise<T> {
    if (this.#closed) throw this.#gone()
    return call()
  }

  #gone(): WebRtcError {
    return new WebRtcError('ERR_CLOSED', 'the session is closed')
  }
}

/** A route that runs until it is closed, or its session is. */
export class Route {
  readonly #native: NativeTransport
  readonly #number: number
  readonly #onClose: () => void
  #options: RouteOptions
  #closed = false

  /** @internal */
  constructor(transport: NativeTransport, route: number, options: RouteOptions, onClose: () => void) {
    this.#native = transport
    this.#number = route
    this.#options = { ...options }
    this.#onClose = onClose
  }

  get options(): RouteOptions {
    return { ...this.#options }
  }

  /** Changes some of it while it runs; receivers see one stream go on. */
  update(changes: Partial<RouteOptions>): void {
    if (this.#closed) throw new WebRtcError('ERR_CLOSED', 'the route is closed')
    const next = { ...this.#options, ...changes }
    check(this.#native.updateRoute(this.#number, toNativeRoute(next)))
    this.#options = next
  }

  /** Ends it. Idempotent. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#native.removeRoute(this.#number)
    this.#onClose()
  }
}

interface Waiting {
  peerId: string | undefined
  kind: DataKind | undefined
  settle(item: Received | null): void
}

const MAX_AUDIO_MS = 100
const MAX_MESSAGES = 1024

function matches(
  wanted: { peerId: string | undefined; kind: DataKind | undefined },
  item: Received,
): boolean {
  return (
    (wanted.peerId === undefined || wanted.peerId === item.peerId) &&
    (wanted.kind === undefined || wanted.kind === item.data.data.kind)
  )
}

function audioMs({ data }: TransportData): number {
  return data.kind === 'audio' ? (data.samples.length / data.channels / data.sampleRate) * 1000 : 0
}

function toNativeRoute(options: RouteOptions): NativeRoute {
  checkKnownKeys('route', options, ['from', 'track', 'through', 'to'])
  const { from, track, through, to } = options
  if (from !== '*' && !isIds(from)) throw configError('route.from', from, "peer ids or '*'")
  if (!['audio', 'video', 'data'].includes(track))
    throw configError('route.track', track, "'audio', 'video' or 'data'")
  if (typeof through !== 'string') throw configError('route.through', through, 'the id of an output node')
  if (!isIds(to) && !['sender', 'others', 'all'].includes(to)) {
    throw configError('route.to', to, "'sender', 'others', 'all' or peer ids")
  }
  return {
    ...(from === '*' ? {} : { from }),
    track,
    through,
    ...(isIds(to) ? { toPeers: to } : { to }),
  }
}

function isIds(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((id) => typeof id === 'string')
}

function aborted(signal: AbortSignal): WebRtcError {
  return new WebRtcError('ERR_ABORTED', 'the call was aborted', { cause: signal.reason })
}
