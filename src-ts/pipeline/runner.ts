import { fromNative, release, type Sendable, type TransportData, toNative } from '../data.js'
import { WebRtcError } from '../errors.js'
import type { NativePlan, NativeRunner, Task } from '../native/binding.cjs'
import { native } from '../native/load.js'
import { check, toError, unwrap } from '../native/result.js'
import { waker } from '../native/waker.js'
import { NodeCaller } from './caller.js'
import { Manifest, type ManifestObject } from './manifest.js'
import {
  checkNode,
  type NodeDefinition,
  type PortKind,
  type WorkerNodeDefinition,
  workerModule,
} from './node.js'
import { locateModels } from './onnx.js'
import { WorkerNode } from './worker-node.js'

/** A manifest, or what `Manifest.parse` takes. Keep the `Manifest`: models are loaded once for each. */
export type ManifestSource = Manifest | string | ManifestObject

/** @internal What a tap hears. */
interface TapOutput {
  peerId: string | undefined
  data: TransportData
}

/** Runs manifests: knows the node types, built in and your own, and runs items one by one. */
export class PipelineRunner implements Disposable {
  readonly #native: NativeRunner
  readonly #plans = new WeakMap<Manifest, NativePlan>()
  readonly #nodes = new Map<string, NodeDefinition>()
  readonly #caller: NodeCaller
  /** By the number of their desk. */
  readonly #workers = new Map<number, WorkerNode>()
  readonly #requests = new Map<
    number,
    { resolve(data: TransportData | null): void; reject(error: WebRtcError): void }
  >()
  readonly #taps = new Map<number, (output: TapOutput) => unknown>()
  /** Warnings told already. */
  readonly #told = new Set<string>()
  #nextRequest = 1
  #keeper: NodeJS.Timeout | undefined
  #closed = false

  constructor() {
    locateModels()
    this.#native = new native.NativeRunner(waker(this))
    this.#caller = new NodeCaller(this.#native, (type) => this.#nodes.get(type))
  }

  /** The names of all node types, sorted. */
  get nodeTypes(): string[] {
    return this.#native.nodeTypes()
  }

  /**
   * Adds a node type, or replaces one of your own for manifests run later. One with `worker` gets its thread at once. Throws
   * `ERR_CONFIG`, `ERR_MANIFEST`, `ERR_CLOSED`.
   */
  register<const I extends Record<string, PortKind>>(
    definition: NodeDefinition<I> | WorkerNodeDefinition<I>,
  ): this {
    if (this.#closed) throw new WebRtcError('ERR_CLOSED', 'the pipeline runner is closed')
    const node = checkNode(definition) as unknown as NodeDefinition | WorkerNodeDefinition
    const ports = (given: Record<string, PortKind>) =>
      Object.entries(given).map(([name, kind]) => ({ name, kind }))
    const nodeType = { nodeType: node.type, inputs: ports(node.inputs), outputs: ports(node.outputs) }
    const module = workerModule(node)
    if (module === undefined) {
      check(this.#native.register(nodeType))
      this.#nodes.set(node.type, node as NodeDefinition)
    } else {
      const desk = unwrap(this.#native.registerWorker(nodeType))
      this.#workers.set(desk, new WorkerNode(this.#native, { desk, module, type: node.type }))
    }
    return this
  }

  /**
   * What this runner ignores or translates in a manifest, such as unknown fields and node types of other implementations. Each is a
   * process warning as well (`REMOTEMEDIA_MANIFEST`), once. Throws `ERR_MANIFEST`.
   */
  warnings(manifest: ManifestSource): readonly string[] {
    return this.plan(manifest).warnings
  }

  /**
   * Runs one item through fresh node state. Takes its own reference to a frame before it returns. Null: the item was dropped on
   * the way. Throws `ERR_MANIFEST`, `ERR_NODE`, `ERR_CLOSED`.
   */
  async executeUnary(manifest: ManifestSource, data: Sendable): Promise<TransportData | null> {
    const plan = this.plan(manifest)
    const { item, frame } = toNative(data)
    return this.request((request) => this.#native.executeUnary(request, plan, item, frame))
  }

  /** Ends what runs: calls under way get `ERR_CLOSED`. Idempotent. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    for (const worker of this.#workers.values()) worker.close()
    this.#workers.clear()
    this.#native.close()
    this.drain()
    for (const { reject } of this.#requests.values()) {
      reject(new WebRtcError('ERR_CLOSED', 'the pipeline runner is closed'))
    }
    this.#requests.clear()
    this.#keep()
    this.#taps.clear()
    this.#caller.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  /** @internal The addon's side. */
  get native(): NativeRunner {
    return this.#native
  }

  /** @internal Checks a manifest against the node types and loads what it needs; once a `Manifest`. */
  plan(source: ManifestSource): NativePlan {
    if (this.#closed) throw new WebRtcError('ERR_CLOSED', 'the pipeline runner is closed')
    const manifest = source instanceof Manifest ? source : Manifest.parse(source)
    let plan = this.#plans.get(manifest)
    if (!plan) {
      plan = unwrap(this.#native.compile(manifest.text))
      this.#plans.set(manifest, plan)
      this.#tell(plan.warnings, manifest.name)
    }
    return plan
  }

  /** A manifest that is given as text comes again and again. */
  #tell(warnings: readonly string[], name: string | undefined): void {
    const of = name === undefined ? 'manifest' : `manifest '${name}'`
    for (const warning of warnings) {
      const text = `${of}: ${warning}`
      if (this.#told.has(text) || this.#told.size >= MAX_TOLD) continue
      this.#told.add(text)
      process.emitWarning(text, { type: 'RemoteMediaManifestWarning', code: 'REMOTEMEDIA_MANIFEST' })
    }
  }

  /** @internal Starts something that a `done` task ends. */
  request(start: (request: number) => Parameters<typeof check>[0]): Promise<TransportData | null> {
    return new Promise((resolve, reject) => {
      const request = this.#number()
      this.#requests.set(request, { resolve, reject })
      this.#keep()
      const error = start(request)
      if (error) {
        this.#requests.delete(request)
        this.#keep()
        reject(toError(error))
      }
    })
  }

  /** @internal Takes what the addon has for us. */
  drain(): void {
    for (const task of this.#native.drain()) {
      if (this.#caller.take(task)) continue
      if (task.kind === 'output') void this.#output(task)
      else if (task.kind === 'late') this.#workers.get(task.id)?.late()
      else this.#done(task)
    }
  }

  /** @internal */
  addTap(listener: (output: TapOutput) => unknown): number {
    const tap = this.#number()
    this.#taps.set(tap, listener)
    return tap
  }

  /** @internal */
  removeTap(tap: number): void {
    this.#taps.delete(tap)
  }

  /** What the addon works on doesn't keep the process; that somebody waits for it does. */
  #keep(): void {
    if (this.#requests.size === 0) {
      clearInterval(this.#keeper)
      this.#keeper = undefined
    } else {
      this.#keeper ??= setInterval(() => {}, 0x7fff_ffff)
    }
  }

  #number(): number {
    const number = this.#nextRequest
    this.#nextRequest = (number % 0xffff_ffff) + 1
    return number
  }

  async #output(task: Task): Promise<void> {
    const data = fromNative(task.item!)
    try {
      await this.#taps.get(task.id)?.({ peerId: task.peerId ?? undefined, data })
    } catch (error) {
      // The same as of an event's listener: it is the application's own, and must not end the others.
      process.emitWarning(error instanceof Error ? error : String(error), 'RemoteMediaListenerWarning')
    } finally {
      release(data)
    }
  }

  #done({ id, item, error }: Task): void {
    const request = this.#requests.get(id)
    this.#requests.delete(id)
    this.#keep()
    const data = item ? fromNative(item) : null
    if (!request) {
      if (data?.data.kind === 'video') data.data.frame.close()
      return
    }
    if (error) request.reject(toError(error))
    else request.resolve(data)
  }
}

/** Warnings of manifests told at most: what is generated may be wrong in ever new ways. */
const MAX_TOLD = 1000
