import { fromNative, toNative } from '../data.js'
import { configError, WebRtcError } from '../errors.js'
import { VideoFrame } from '../frame.js'
import type { ItemIn, NativeError, NativeVideoFrame, Task } from '../native/binding.cjs'
import { check } from '../native/result.js'
import type { NodeContext, NodeDefinition, NodeInputs, NodeOutput, PortKind } from './node.js'

/** What a thread's calls come from and are answered to. */
export interface Desk {
  emit(
    call: number,
    port: string,
    item: ItemIn,
    frame?: NativeVideoFrame | undefined | null,
  ): NativeError | null
  reply(call: number, error?: string | undefined | null): void
}

/** @internal Runs nodes written in JavaScript, in whichever thread it is. */
export class NodeCaller {
  readonly #desk: Desk
  readonly #find: (nodeType: string) => NodeDefinition | undefined
  /** State of nodes, by instance and node. */
  readonly #states = new Map<string, Record<string, unknown>>()
  /** Calls that have not settled. */
  readonly #calls = new Map<number, { cancel(): void }>()

  constructor(desk: Desk, find: (nodeType: string) => NodeDefinition | undefined) {
    this.#desk = desk
    this.#find = find
  }

  /** Does what a task asks for, if that is a node's business. */
  take(task: Task): boolean {
    if (task.kind === 'call') void this.#call(task)
    else if (task.kind === 'cancel') this.#calls.get(task.id)?.cancel()
    else if (task.kind === 'release') this.#states.delete(stateKey(task))
    else return false
    return true
  }

  close(): void {
    for (const call of [...this.#calls.values()]) call.cancel()
    this.#states.clear()
  }

  /** One item for one node. Always answered, whatever the node does. */
  async #call(task: Task): Promise<void> {
    const { id, item } = task
    const input = fromNative(item!)
    const frame = input.data.kind === 'video' ? input.data.frame : undefined
    const controller = new AbortController()
    const cancel = () => {
      // Nobody waits for it any more. What it holds is given back, and its place is the next one's, even if it never settles.
      this.#calls.delete(id)
      this.#desk.reply(id, 'it has passed its deadline')
      frame?.close()
      controller.abort(new WebRtcError('ERR_ABORTED', 'the call has passed its deadline'))
    }
    this.#calls.set(id, { cancel })
    try {
      const node = this.#find(task.nodeType!)
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
      this.#desk.reply(id)
    } catch (error) {
      this.#desk.reply(id, error instanceof Error ? error.message : String(error))
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
      check(this.#desk.emit(call, port, item, frame))
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
