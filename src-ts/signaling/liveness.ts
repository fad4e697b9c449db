/**
 * Tells when the other end of a connection is dead: pings it, regularly and when asked to, and expects any sign of life in time.
 *
 * @internal
 */
export class Liveness {
  readonly #intervalMs: number
  readonly #ping: () => void
  readonly #dead: () => void
  #beat: NodeJS.Timeout | undefined
  #deadline: NodeJS.Timeout | undefined
  /** When the deadline is due, on the clock of `performance.now()`. */
  #dueAt = 0

  /** `dead` is called at most once between `start` and the next `start`. */
  constructor(intervalMs: number, ping: () => void, dead: () => void) {
    this.#intervalMs = intervalMs
    this.#ping = ping
    this.#dead = dead
  }

  start(): void {
    this.stop()
    const patienceMs = Math.min(BEAT_PATIENCE_MS, 2 * this.#intervalMs)
    this.#beat = setInterval(() => this.probe(patienceMs), this.#intervalMs)
    this.#beat.unref()
  }

  /** Something came. */
  heard(): void {
    clearTimeout(this.#deadline)
    this.#deadline = undefined
  }

  /** Pings; unless something is heard within `patienceMs`, it is dead. */
  probe(patienceMs: number): void {
    const dueAt = performance.now() + patienceMs
    if (this.#deadline && this.#dueAt <= dueAt) return
    this.#expect(patienceMs)
    this.#ping()
  }

  stop(): void {
    clearInterval(this.#beat)
    this.heard()
  }

  #expect(ms: number): void {
    clearTimeout(this.#deadline)
    this.#dueAt = performance.now() + ms
    this.#deadline = setTimeout(() => {
      // Timers come before what the sockets have: after a stall of this very process, the answer waits to be read.
      if (performance.now() > this.#dueAt + STALL_MS) {
        this.#expect(AFTER_STALL_MS)
      } else {
        this.stop()
        this.#dead()
      }
    }, ms)
    this.#deadline.unref()
  }
}

const BEAT_PATIENCE_MS = 3_000
/** A timer as late as this was not called in time because we were busy or asleep. */
const STALL_MS = 200
const AFTER_STALL_MS = 500
