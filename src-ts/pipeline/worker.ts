// What a worker thread of a node runs: it finds the node in its module, sits down at the node's desk, and processes what comes there.
import { parentPort, workerData } from 'node:worker_threads'
import { native } from '../native/load.js'
import { waker } from '../native/waker.js'
import { NodeCaller } from './caller.js'
import type { NodeDefinition } from './node.js'

/** What the thread is started with. */
export interface WorkerStart {
  /** The number of its desk. */
  desk: number
  /** The URL of the module that exports the node. */
  module: string
  /** The node's type. */
  type: string
}

/** What the thread says of itself. */
export type WorkerMessage = { kind: 'ready' } | { kind: 'failed'; message: string }

async function run({ desk, module, type }: WorkerStart): Promise<void> {
  const node = find((await import(module)) as Record<string, unknown>, type)
  // The waker doesn't keep what it wakes: this does, as long as the thread lives.
  const worker = { drain: () => {} }
  const seat = new native.NativeWorker(desk, waker(worker))
  const caller = new NodeCaller(seat, () => node)
  worker.drain = () => {
    for (const task of seat.drain()) caller.take(task)
  }
  // A port with a listener keeps the thread; only its end, or that of the process, ends it.
  parentPort!.on('message', () => {})
  parentPort!.once('close', () => caller.close())
  keep = worker
  post({ kind: 'ready' })
  worker.drain()
}

let keep: unknown

/** The export that is a node of this type, or the only one there is. */
function find(exported: Record<string, unknown>, type: string): NodeDefinition {
  const nodes = Object.values(exported).filter(
    (value): value is NodeDefinition =>
      typeof value === 'object' &&
      value !== null &&
      typeof (value as Partial<NodeDefinition>).process === 'function',
  )
  const node = nodes.find((node) => node.type === type)
  if (!node) throw new Error(`it exports no node of type '${type}' with a process()`)
  return node
}

function post(message: WorkerMessage): void {
  parentPort!.postMessage(message)
}

if (parentPort) {
  run(workerData as WorkerStart).catch((error: unknown) => {
    post({ kind: 'failed', message: error instanceof Error ? error.message : String(error) })
    void keep
    process.exit(1)
  })
}
