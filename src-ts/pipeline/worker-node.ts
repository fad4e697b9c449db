import { Worker } from 'node:worker_threads'
import type { NativeRunner } from '../native/binding.cjs'
import type { WorkerMessage, WorkerStart } from './worker.js'

/** How long a worker may not react to a call that was given up, before it is ended. */
const REACT_MS = 1000
/** Pauses before a worker is started again, by how often it ended without having processed for a while. */
const RESTART_MS = [0, 250, 1000, 4000, 15_000, 30_000]
/** A worker that lived so long has earned a fresh start. */
const WELL_MS = 60_000

/** @internal The worker thread of one node type: started, watched, and started again when it ends. */
export class WorkerNode {
  readonly #native: NativeRunner
  readonly #start: WorkerStart
  #worker: Worker | undefined
  #startedAt = 0
  #failures = 0
  #timer: NodeJS.Timeout | undefined
  #watch: NodeJS.Timeout | undefined
  #closed = false

  constructor(native: NativeRunner, start: WorkerStart) {
    this.#native = native
    this.#start = start
    this.#run()
  }

  /** A call that it has was given up: unless it lets go of it soon, it is stuck, and nothing but its end helps. */
  late(): void {
    if (this.#watch || this.#closed) return
    const worker = this.#worker
    this.#watch = setTimeout(() => {
      this.#watch = undefined
      if (this.#closed || this.#native.lateCalls(this.#start.desk) === 0) return
      // Another has taken its place meanwhile, and has a late call too: it gets its own time.
      if (worker !== this.#worker) return this.late()
      this.#end(worker, 'it was stuck and was ended')
      void worker?.terminate()
    }, REACT_MS).unref()
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#timer)
    clearTimeout(this.#watch)
    void this.#worker?.terminate()
    this.#worker = undefined
  }

  #run(): void {
    const worker = new Worker(new URL('./worker.js', import.meta.url), { workerData: this.#start })
    this.#worker = worker
    this.#startedAt = performance.now()
    let why = 'it ended'
    let hopeless = false
    worker.on('message', (message: WorkerMessage) => {
      if (message.kind !== 'failed') return
      why = message.message
      // What could not be loaded won't be loaded the next time.
      hopeless = true
    })
    worker.on('error', (error) => {
      why = error instanceof Error ? error.message : String(error)
    })
    worker.on('exit', () => this.#end(worker, why, hopeless))
    // A call under way keeps the process by what else it has; the thread alone doesn't.
    worker.unref()
  }

  #end(worker: Worker | undefined, why: string, hopeless = false): void {
    if (this.#closed || worker !== this.#worker) return
    this.#worker = undefined
    const { desk, type } = this.#start
    if (performance.now() - this.#startedAt > WELL_MS) this.#failures = 0
    const pause = hopeless ? undefined : RESTART_MS[this.#failures++]
    const again = pause !== undefined
    this.#native.workerEnded(desk, `the worker of node type '${type}' ended: ${why}`, again)
    const then = again ? `; it is started again in ${pause} ms` : '; it is not started again'
    process.emitWarning(`the worker of node type '${type}' ended: ${why}${then}`, 'RemoteMediaWorkerWarning')
    if (!again) return
    this.#timer = setTimeout(() => this.#run(), pause).unref()
  }
}
