import { isAbsolute } from 'node:path'
import { pathToFileURL } from 'node:url'
import type {
  AudioData,
  AudioMixData,
  BinaryData,
  DataKind,
  JsonData,
  RuntimeData,
  TextData,
} from '../data.js'
import { checkKnownKeys, configError } from '../errors.js'
import type { VideoFrame } from '../frame.js'

/** What a port takes or gives. `any`: whatever comes. */
export type PortKind = DataKind | 'any'

/** What a node is given, by the kind of its port: a picture comes as its `VideoFrame`, anything else as `RuntimeData`. */
export interface NodeInputs {
  audio: AudioData
  video: VideoFrame
  text: TextData
  json: JsonData
  binary: BinaryData
  audioMix: AudioMixData
  any: VideoFrame | Exclude<RuntimeData, { kind: 'video' }>
}

/** What a node gives out: an item for its only (or first) output, or nothing to drop the input. */
// biome-ignore lint/suspicious/noConfusingVoidType: a process() that returns nothing is usual
export type NodeOutput = VideoFrame | RuntimeData | null | undefined | void

export interface NodeContext {
  /** The node's id in the manifest. */
  readonly nodeId: string
  /** The input port. */
  readonly port: string
  /** The peer in whose instance it runs; undefined outside a peer's instance. */
  readonly peerId: string | undefined
  /** The definition's `params`, overridden by those of the manifest. */
  readonly params: Readonly<Record<string, unknown>>
  /** When the item was captured, in microseconds. */
  readonly timestampUs: number
  /** This node's own, for as long as its instance lives: keep state here, not in the definition. */
  readonly state: Record<string, unknown>
  /**
   * Aborted when the call has passed the node's deadline: nobody waits for its result any more, and its input is closed. Hand it to
   * what you wait for (`fetch`, timers).
   */
  readonly signal: AbortSignal
  /** Gives an item out at an output, by name; for nodes with several outputs or several items. */
  emit(port: string, item: VideoFrame | RuntimeData): void
}

export interface NodeDefinition<I extends Record<string, PortKind> = Record<string, PortKind>> {
  /** Its name in manifests (`node_type`). */
  type: string
  /** Input ports: name and kind. */
  inputs: I
  /** Output ports: name and kind. */
  outputs: Record<string, PortKind>
  /** Parameters and their defaults. */
  params?: Record<string, unknown>
  /** Runs `process` in a worker thread: see `defineNode`. Default false. */
  worker?: boolean
  /** `import.meta.url` of the module that exports this node, for `worker: true`. */
  module?: string | URL
  /**
   * Processes one item. Its inputs are closed when what it returns has settled; what it returns is handed on. It may be a function,
   * return a promise, or be an async generator. One that throws, or has not settled by the node's `deadline_ms` (2 s where it
   * takes audio, pictures or `any`, else 30 s), is handled by its `on_error`.
   */
  process(
    input: NodeInputs[I[keyof I]],
    context: NodeContext,
  ): NodeOutput | Promise<NodeOutput> | AsyncIterable<NodeOutput> | Iterable<NodeOutput>
}

/**
 * A node whose `process` is in another module and runs in a worker thread: what it computes doesn't hold up the main thread, and what
 * holds up the main thread doesn't hold it up.
 */
export interface WorkerNodeDefinition<I extends Record<string, PortKind> = Record<string, PortKind>>
  extends Omit<NodeDefinition<I>, 'process' | 'worker' | 'module'> {
  /** The URL of the module that exports the node, made by `defineNode` with this type and its `process`. */
  worker: string | URL
}

/**
 * Checks a node definition, for `runner.register`. Throws `ERR_CONFIG` naming the field.
 *
 * With `worker: true` and `module: import.meta.url`, in a module that exports the node, `process` runs in a worker thread that imports
 * the same module; or give `worker` the URL of the module that exports it. Items go to the thread and back without passing the main
 * thread, and pictures without being copied. One thread serves all instances of the type. A worker that ends, throws outside of
 * `process` or is stuck beyond its deadline is started again, with its nodes' state lost; the calls that it had fail.
 */
export function defineNode<const I extends Record<string, PortKind>>(
  definition: WorkerNodeDefinition<I>,
): WorkerNodeDefinition<I>
export function defineNode<const I extends Record<string, PortKind>>(
  definition: NodeDefinition<I>,
): NodeDefinition<I>
export function defineNode(
  definition: NodeDefinition | WorkerNodeDefinition,
): NodeDefinition | WorkerNodeDefinition {
  return checkNode(definition)
}

/** @internal */
export function checkNode<T extends object>(definition: T): T {
  checkKnownKeys('node', definition, ['type', 'inputs', 'outputs', 'params', 'process', 'worker', 'module'])
  const { type, inputs, outputs, params, process, worker, module } = definition as Partial<
    Omit<NodeDefinition, 'worker'> & { worker: unknown }
  >
  if (typeof type !== 'string' || type === '') throw configError('node.type', type, 'a name')
  const elsewhere = typeof worker === 'string' || worker instanceof URL
  if (worker !== undefined && typeof worker !== 'boolean' && !elsewhere) {
    throw configError('node.worker', worker, 'true, or the URL of a module')
  }
  if (elsewhere) moduleUrl('node.worker', worker)
  if (worker === true) {
    if (module === undefined) throw configError('node.module', module, 'import.meta.url, as worker is true')
    moduleUrl('node.module', module)
  } else if (module !== undefined) {
    throw configError('node.module', module, 'left out, unless worker is true')
  }
  if (typeof process !== 'function' && !(elsewhere && process === undefined)) {
    throw configError('node.process', process, 'a function')
  }
  if (params !== undefined && (typeof params !== 'object' || params === null)) {
    throw configError('node.params', params, 'an object of defaults')
  }
  checkPorts('node.inputs', inputs)
  checkPorts('node.outputs', outputs)
  return definition
}

/** @internal The module of a node that runs in a worker. */
export function workerModule(definition: NodeDefinition | WorkerNodeDefinition): string | undefined {
  const { worker } = definition
  if (worker === true) return moduleUrl('node.module', (definition as NodeDefinition).module)
  return worker === undefined || worker === false ? undefined : moduleUrl('node.worker', worker)
}

/** A file's path is taken for its URL. */
function moduleUrl(field: string, module: unknown): string {
  if (module instanceof URL) return module.href
  if (typeof module !== 'string' || module === '') throw configError(field, module, 'the URL of a module')
  if (isAbsolute(module)) return pathToFileURL(module).href
  if (!URL.canParse(module))
    throw configError(field, module, 'a URL, such as import.meta.url, or an absolute path')
  return module
}

const KINDS: readonly PortKind[] = ['audio', 'video', 'text', 'json', 'binary', 'audioMix', 'any']

function checkPorts(field: string, ports: unknown): void {
  if (typeof ports !== 'object' || ports === null || Object.keys(ports).length === 0) {
    throw configError(field, ports, "an object such as { in: 'video' }")
  }
  for (const [name, kind] of Object.entries(ports)) {
    if (!KINDS.includes(kind as PortKind))
      throw configError(`${field}.${name}`, kind, `one of ${KINDS.join(', ')}`)
  }
}
