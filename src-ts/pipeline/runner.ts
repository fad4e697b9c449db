import { fromNative, type Sendable, type TransportData, toNative } from '../data.js'
import { configError, WebRtcError } from '../errors.js'
import { VideoFrame } from '../frame.js'
import type { NativePlan, NativeRunner, Task } from '../native/binding.cjs'
import { native } from '../native/load.js'
import { check, toError, unwrap } from '../native/result.js'
import { waker } from '../native/waker.js'
import { Manifest, type ManifestObject } from './manifest.js'
import {
  defineNode,
  type NodeContext,
  type NodeDefinition,
  type NodeInputs,
  type NodeOutput,
  type PortKind,
} from './node.js'
import { locateModels } from './onnx.js'

/** A manifest, or what `Manifest.parse` takes. Keep the `Manifest`: models are loaded once for each. */
export type ManifestSource = Manifest | string | ManifestObject

/** Runs manifests: knows the node types, built in and your own, and runs items one by one. */
export class PipelineRunner implements Disposable {
  readonly #native: NativeRunner
  readonly #plans = new WeakMap<Manifest, NativePlan>()
  readonly #nodes = new Map<string, NodeDefinition>()
  /** State of JavaScript nodes, by instance and node. */
  readonly #states = new Map<string, Record<string, unknown>>()
  /** Calls of JavaScript nodes that have not settled. */
  readonly #calls = new Map<number, { cancel(): void }>()
  readonly #requests = new Map<
    number,
    { resolve(data: TransportData | null): void; reject(error: WebRtcError): void }
  >()
  #nextRequest = 1
  #closed = false

  constructor() {
    locateModels()
    this.#native = new native.NativeRunner(waker(this))
  }

  /** The names of all node types, sorted. */
  get nodeTypes(): string[] {
    return this.#native.nodeTypes()
  }

  /** Adds a node type, or replaces one of your own for manifests run later. Throws `ERR_CONFIG`, `ERR_MANIFEST`. */
  register<const I extends Record<string, PortKind>>(definition: NodeDefinition<I>): this {
    const node = defineNode(definition) as unknown as NodeDefinition
    const ports = (given: Record<string, PortKind>) =>
      Object.entries(given).map(([name, kind]) => ({ name, kind }))
    check(
      this.#native.register({
        nodeType: node.type,
        inputs: ports(node.inputs),
        outputs: ports(node.outputs),
      }),
    )
    this.#nodes.set(node.type, node)
    return this
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
    this.#native.close()
    this.drain()
    for (const { reject } of this.#requests.values()) {
      reject(new WebRtcError('ERR_CLOSED', 'the pipeline runner is closed'))
    }
    this.#requests.clear()
    for (const call of [...this.#calls.values()]) call.cancel()
    this.#states.clear()
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
    }
    return plan
  }

  /** @internal Starts something that a `done` task ends. */
  request(start: (request: number) => Parameters<typeof check>[0]): Promise<TransportData | null> {
    return new Promise((resolve, reject) => {
      const request = this.#nextRequest
      this.#nextRequest = (request % 0xffff_ffff) + 1
      this.#requests.set(request, { resolve, reject })
      const error = start(request)
      if (error) {
        this.#requests.delete(request)
        reject(toError(error))
      }
    })
  }

  /** @internal Takes what the addon has for us. */
  drain(): void {
    for (const task of this.#native.drain()) {
      if (task.kind === 'call') void this.#call(task)
      else if (task.kind === 'cancel') this.#calls.get(task.id)?.cancel()
      else if (task.kind === 'release') this.#states.delete(stateKey(task))
      else this.#done(task)
    }
  }

  #done({ id, item, error }: Task): void {
    const request = this.#requests.get(id)
    this.#requests.delete(id)
    const data = item ? fromNative(item) : null
    if (!request) {
      if (data?.data.kind === 'video') data.data.frame.close()
      return
    }
    if (error) request.reject(toError(error))
    else request.resolve(data)
  }

  /** One item for one JavaScript node. Always answered, whatever the node does. */
  async #call(task: Task): Promise<void> {
    const { id, item } = task
    const input = fromNative(item!)
    const frame = input.data.kind === 'video' ? input.data.frame : undefined
    const controller = new AbortController()
    const cancel = () => {
      // Nobody waits for it any more. What it holds is given back, and its place is the next one's, even if it never settles.
      this.#calls.delete(id)
      this.#native.reply(id, 'it has passed its deadline')
      frame?.close()
      controller.abort(new WebRtcError('ERR_ABORTED', 'the call has passed its deadline'))
    }
    this.#calls.set(id, { cancel })
    try {
      const node = this.#nodes.get(task.nodeType!)
      if (!node) throw new Error(`node type '${task.nodeType}' is not registered here`)
      const first = Object.keys(node.outputs)[0]!
      const context = this.#context(task, node, input.timestampUs, frame, controller.signal)
      const given = (frame ?? input.data) as NodeInputs[PortKind]
      const result = node.process(given, context)
      if (isIterable(result)) {
        for await (const output of result) this.#emit(id, first, output, frame)
      } else {
        this.#emit(id, first, (await result) as NodeOutput, frame)
      }
      this.#native.reply(id)
    } catch (error) {
      this.#native.reply(id, error instanceof Error ? error.message : String(error))
    } finally {
      this.#calls.delete(id)
      frame?.close()
    }
  }

  /** What a node gives out is handed on: a frame of its own making is closed here, its input when the call is over. */
  #emit(call: number, port: string, output: NodeOutput, input: VideoFrame | undefined): void {
    if (output === undefined || output === null) return
    const data = output instanceof VideoFrame ? ({ kind: 'video', frame: output } as const) : output
    if (typeof data !== 'object' || !('kind' in data)) {
      throw configError('what process() returned', data, 'a VideoFrame, data with a kind, or nothing')
    }
    try {
      const timestampUs = data.kind === 'video' ? data.frame.timestampUs : undefined
      const { item, frame } = toNative(timestampUs === undefined ? data : { data, timestampUs })
      check(this.#native.emit(call, port, item, frame))
    } finally {
      if (data.kind === 'video' && data.frame !== input) data.frame.close()
    }
  }

  #context(
    task: Task,
    node: NodeDefinition,
    timestampUs: number,
    input: VideoFrame | undefined,
    signal: AbortSignal,
  ): NodeContext {
    const key = stateKey(task)
    let state = this.#states.get(key)
    if (!state) {
      state = {}
      this.#states.set(key, state)
    }
    return {
      nodeId: task.nodeId!,
      port: task.port!,
      peerId: task.peerId ?? undefined,
      params: { ...node.params, ...(JSON.parse(task.params ?? '{}') as Record<string, unknown>) },
      timestampUs,
      state,
      signal,
      emit: (port, item) => this.#emit(task.id, port, item, input),
    }
  }
}

function stateKey(task: Task): string {
  return `${task.instance}/${task.nodeId}`
}

function isIterable(value: unknown): value is AsyncIterable<NodeOutput> {
  return (
    typeof value === 'object' &&
    value !== null &&
    !ArrayBuffer.isView(value) &&
    (Symbol.asyncIterator in value || Symbol.iterator in value)
  )
}
