import { type DataKind, type Sendable, type TransportData, toNative } from './data.js'
import { checkKnownKeys, configError, WebRtcError } from './errors.js'
import { Inbox, type Received, type ReceiveOptions } from './inbox.js'
import { sessionMetrics } from './metrics.js'
import type { NativePlan, RouteOptions as NativeRoute, NativeTransport } from './native/binding.cjs'
import { check, unwrap } from './native/result.js'
import type { ManifestSource, PipelineRunner } from './pipeline/runner.js'

export type { Received, ReceiveOptions }

/** Something that left a session's graph. */
export interface SessionOutput {
  /**
   * In whose instance, or for whom alone a node made it that peers share (`AudioMixer`). Undefined in the instance that belongs to
   * no peer, and for what such a node makes for more than one.
   */
  peerId: string | undefined
  data: TransportData
}

/** From peers, through the graph, on to peers: native, without JavaScript for each frame. */
export interface RouteOptions {
  /** Whose media. `'*'`: everybody's, also of those who come later. */
  from: string[] | '*'
  /** What of theirs goes into the graph. What comes out may be of another kind, as the events of a `Vad`. */
  track: 'audio' | 'video' | 'data'
  /**
   * The output that is sent on: `node.port`, or `node` for those of a node's outputs that give the track's kind (all where none does).
   * Text and JSON go as messages.
   */
  through: string
  /**
   * To whom: back to the `sender`; to the `others`, which are all connected peers but the sender; to `all`; or to these. What a shared
   * node makes of several peers' media comes from nobody: `others` is `all` then, and a mixer leaves out each listener's own part.
   */
  to: 'sender' | 'others' | 'all' | string[]
  /** Peers that are named needn't be in the room yet. Default false: `ERR_PEER_NOT_FOUND`. */
  mayBeAbsent?: boolean
}

/** Times, in microseconds. Each percentile is exact to a quarter of an octave. */
export interface Latency {
  /** How many were measured. */
  count: number
  /** All of them together. */
  sumUs: number
  p50Us: number
  p95Us: number
  p99Us: number
}

/** Why an item ended without coming out of a node. */
export type DropReason = 'queue' | 'error' | 'deadline' | 'overrun' | 'closed'

/** Counters of one node. */
export interface NodeStats {
  id: string
  nodeType: string
  itemsIn: number
  itemsOut: number
  /** Items that ended here, by reason; reasons that didn't occur are left out. */
  dropped: Partial<Record<DropReason, number>>
  errors: number
  /** Times its state was made anew after a failure. */
  restarts: number
  /** Items waiting before it or, of a node in JavaScript, away at it. */
  depth: number
  /** How long it takes an item; of a node in JavaScript, until its answer. */
  latency: Latency
}

/** Counters of one connection. */
export interface EdgeStats {
  /** The output, as `node.port`. */
  from: string
  /** The input, as `node.port`. */
  to: string
  /** Items that it carried. */
  items: number
  /** Items that ended here, by reason. */
  dropped: Partial<Record<DropReason, number>>
  /** Items waiting. */
  depth: number
  /** How long they waited. Between native nodes nothing waits, and nothing is measured. */
  wait: Latency
}

/** Counters of the queue before the instance of one peer. */
export interface InstanceStats {
  /** Undefined: the instance that belongs to no peer. */
  peerId: string | undefined
  /** Items waiting. */
  depth: number
  /** Items taken in. */
  items: number
  /** Items that made room for newer ones. */
  dropped: number
  /** Items that were refused. */
  refused: number
}

/** Counters of a session. Those of nodes and connections are over all peers, also those that left, and go on over a reload. */
export interface SessionStats {
  /** In the order they run. */
  nodes: NodeStats[]
  /** In the manifest's order. */
  edges: EdgeStats[]
  /** The instances there are now. */
  instances: InstanceStats[]
}

/** What a session needs of its transport. @internal */
export interface SessionHost {
  readonly native: NativeTransport
  readonly peerId: string
  readonly runner: PipelineRunner
  sendToPeer(peerId: string, data: Sendable): Promise<void>
  broadcast(data: Sendable, exclude?: string[]): Promise<void>
  hasLeft(peerId: string): boolean
  /** Who is in the room, or connected. */
  known(): Iterable<string>
  /** Which media sessions want has changed. */
  wantsChanged(): void
  /** A session doesn't read this peer's messages, or does again. */
  hold(session: MultiPeerSession, peerId: string, hold: boolean): void
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
  readonly #inbox: Inbox
  readonly #routes = new Set<Route>()
  readonly #taps = new Set<() => void>()
  #warnings: readonly string[]
  #ended: (() => void) | undefined
  #closed: Promise<void> | undefined

  /** @internal */
  constructor(host: SessionHost, plan: NativePlan) {
    this.#host = host
    this.#number = unwrap(host.native.createSession(plan))
    this.id = `session-${this.#number}`
    this.#warnings = plan.warnings
    this.#inbox = new Inbox({
      hold: (peerId, hold) => host.hold(this, peerId, hold),
      wantsChanged: () => host.wantsChanged(),
      hasLeft: (peerId) => host.hasLeft(peerId),
    })
  }

  /**
   * Items dropped because nobody read them: raw video is kept one a peer, audio 100 ms a peer. Messages are not dropped: with 1024 or
   * 4 MiB unread the peer is made to wait.
   */
  get dropped(): number {
    return this.#inbox.dropped
  }

  /** What is ignored or translated in its manifest; also process warnings. */
  get warnings(): readonly string[] {
    return this.#warnings
  }

  sendToPeer(peerId: string, data: Sendable): Promise<void> {
    return this.#open(() => this.#host.sendToPeer(peerId, data))
  }

  broadcast(data: Sendable, exclude?: string[]): Promise<void> {
    return this.#open(() => this.#host.broadcast(data, exclude))
  }

  /**
   * The next thing that any peer sent; close its frame. Null once the session is closed. From the first call on, what is asked for is
   * kept until it is read: media as far as `dropped` says, messages all of them, for which a peer is made to wait.
   */
  recvFromAny(options: ReceiveOptions = {}): Promise<Received | null> {
    return this.#inbox.take(undefined, options)
  }

  /** The next thing that this peer sent; close its frame. Null once that peer left or the session is closed. */
  async recvFromPeer(peerId: string, options: ReceiveOptions = {}): Promise<TransportData | null> {
    return (await this.#inbox.take(peerId, options))?.data ?? null
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

  /**
   * Starts a route. Throws `ERR_CONFIG` naming the field (an output that the graph doesn't have, a track that doesn't lead there),
   * `ERR_PEER_NOT_FOUND` for a peer that is named and not in the room.
   *
   * A receiver has one audio and one video track. Several streams of sound to one receiver are mixed for it. Of several streams of
   * pictures it is shown the first, until that one is quiet for 2 s; `counters.picturesInConflict` counts the others.
   */
  route(options: RouteOptions): Route {
    if (this.#closed) throw this.#gone()
    const config = toNativeRoute(options)
    checkKnown(this.#host, options)
    const number = unwrap(this.#host.native.addRoute(this.#number, config))
    const route = new Route(this.#host, number, options, () => this.#routes.delete(route))
    this.#routes.add(route)
    return route
  }

  /**
   * Changes a node's parameter in every instance, from the next item on. With `peerId`, tells a shared node something about this peer,
   * who may come later: of a mixer, `gain_db` and `muted`; it is forgotten when the peer leaves. Throws `ERR_NODE` naming what is
   * allowed.
   */
  setParam(node: string, name: string, value: unknown, options: { peerId?: string } = {}): void {
    if (this.#closed) throw this.#gone()
    checkKnownKeys('options', options, ['peerId'])
    const { peerId } = options
    const json = JSON.stringify(value) ?? 'null'
    if (peerId === undefined) check(this.#host.native.setParam(this.#number, node, name, json))
    else if (typeof peerId !== 'string') throw configError('peerId', peerId, "a peer's id")
    else check(this.#host.native.setPeerParam(this.#number, node, peerId, name, json))
  }

  /** Switches a node on or off, from the next item on: one that is off passes on what it gets. */
  setEnabled(node: string, enabled: boolean): void {
    if (this.#closed) throw this.#gone()
    if (typeof enabled !== 'boolean') throw configError('enabled', enabled, 'true or false')
    check(this.#host.native.setEnabled(this.#number, node, enabled))
  }

  /**
   * Runs another manifest from each peer's next item on. A node whose id and type are in both keeps its state, its queue and its
   * counters, and gets the parameters of the new one; what `setParam` and `setEnabled` changed is forgotten. Throws `ERR_MANIFEST`,
   * and `ERR_CONFIG` while a route or a listener needs an output that it doesn't have; then nothing changes.
   */
  reload(manifest: ManifestSource): void {
    if (this.#closed) throw this.#gone()
    const { native, runner } = this.#host
    const plan = runner.plan(manifest)
    check(native.reloadSession(this.#number, plan))
    this.#warnings = plan.warnings
  }

  /**
   * Calls `listener` with everything that leaves the graph by an output, given as `node` or `node.port`, of all peers; it goes where
   * it goes besides. What goes in is what routes and `execute` bring; a route `to: []` sends nothing on. A frame is closed when what the listener returns has settled. What is not taken in time is dropped: beyond 2
   * pictures, 32 pieces of audio, 1024 others. Throws `ERR_NODE` naming the outputs. Call what it returns to end it.
   */
  onOutput(output: string, listener: (item: SessionOutput) => unknown): () => void {
    if (this.#closed) throw this.#gone()
    if (typeof listener !== 'function') throw configError('listener', listener, 'a function')
    const { native, runner } = this.#host
    const tap = runner.addTap(listener)
    let number: number
    try {
      number = unwrap(native.tapSession(this.#number, runner.native, String(output), tap))
    } catch (error) {
      runner.removeTap(tap)
      throw error
    }
    const end = () => {
      if (!this.#taps.delete(end)) return
      runner.removeTap(tap)
      native.removeTap(this.#number, number)
    }
    this.#taps.add(end)
    return end
  }

  /** Counters of each node and each connection. Empty once the session is closed. */
  stats(): SessionStats {
    const stats = this.#closed ? null : this.#host.native.sessionStats(this.#number)
    if (!stats) return { nodes: [], edges: [], instances: [] }
    const byName = (dropped: [string, number][]) =>
      Object.fromEntries(dropped as [DropReason, number][]) as Partial<Record<DropReason, number>>
    return {
      nodes: stats.nodes.map((node) => ({ ...node, dropped: byName(node.dropped) })),
      edges: stats.edges.map((edge) => ({ ...edge, dropped: byName(edge.dropped) })),
      instances: stats.instances.map((instance) => ({ ...instance, peerId: instance.peerId ?? undefined })),
    }
  }

  /** The counters in Prometheus' text format 0.0.4; `metricsText` gives those of a whole transport. */
  metrics(): string {
    return sessionMetrics(this.#host.peerId, this)
  }

  /**
   * Ends the session: takes nothing in any more, runs and sends what waits (2 s at most; the rest is dropped), and frees its routes and
   * instances. `recv*` give null at once, and what was not read is dropped. Resolves when all of that is done. Idempotent.
   */
  close(): Promise<void> {
    this.#closed ??= this.#end()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** @internal Whether this has to come to JavaScript for this session. */
  wants(kind: DataKind): boolean {
    return this.#inbox.wants(kind)
  }

  /** @internal Takes an item over; `bytes` long, if it is a message. */
  deliver(item: Received, bytes: number): void {
    this.#inbox.deliver(item, bytes)
  }

  /** @internal */
  peerLeft(peerId: string): void {
    this.#inbox.peerLeft(peerId)
  }

  /** @internal What `finishSession` began is done. */
  finished(number: number): void {
    if (number === this.#number) this.#ended?.()
  }

  async #end(): Promise<void> {
    this.#inbox.close()
    await new Promise<void>((resolve) => {
      this.#ended = resolve
      this.#host.native.finishSession(this.#number)
    })
    for (const route of [...this.#routes]) route.close()
    for (const end of [...this.#taps]) end()
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
  readonly #host: SessionHost
  readonly #number: number
  readonly #onClose: () => void
  #options: RouteOptions
  #closed = false

  /** @internal */
  constructor(host: SessionHost, route: number, options: RouteOptions, onClose: () => void) {
    this.#host = host
    this.#number = route
    this.#options = { ...options }
    this.#onClose = onClose
  }

  get options(): RouteOptions {
    return { ...this.#options }
  }

  /**
   * Changes some of it, between two frames: receivers that stay hear and see one stream go on. Throws as `session.route`; then it runs
   * on as it was.
   */
  update(changes: Partial<RouteOptions>): void {
    if (this.#closed) throw new WebRtcError('ERR_CLOSED', 'the route is closed')
    const next = { ...this.#options, ...changes }
    const config = toNativeRoute(next)
    checkKnown(this.#host, next, this.#options)
    check(this.#host.native.updateRoute(this.#number, config))
    this.#options = next
  }

  /** Ends it. Idempotent. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#host.native.removeRoute(this.#number)
    this.#onClose()
  }
}

function toNativeRoute(options: RouteOptions): NativeRoute {
  checkKnownKeys('route', options, ['from', 'track', 'through', 'to', 'mayBeAbsent'])
  const { from, track, through, to, mayBeAbsent = false } = options
  if (typeof mayBeAbsent !== 'boolean') throw configError('route.mayBeAbsent', mayBeAbsent, 'true or false')
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

/** Peers that a route names must be there, but for those that it named before. */
function checkKnown(host: SessionHost, options: RouteOptions, before?: RouteOptions): void {
  if (options.mayBeAbsent) return
  for (const field of ['from', 'to'] as const) {
    const named = options[field]
    if (!isIds(named)) continue
    const old = [before?.from, before?.to].filter(isIds).flat()
    const fine = new Set<string>([host.peerId, ...host.known(), ...old])
    const unknown = named.find((id) => !fine.has(id))
    if (unknown === undefined) continue
    throw new WebRtcError(
      'ERR_PEER_NOT_FOUND',
      `route.${field}: '${unknown}' is not in the room; wait for it (connectPeer), or say mayBeAbsent: true`,
      { peerId: unknown },
    )
  }
}

function isIds(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((id) => typeof id === 'string')
}
