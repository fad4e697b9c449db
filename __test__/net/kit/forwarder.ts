/** A link with delay, jitter, losses and a rate: the program `tun-forward` of crates/testkit between two namespaces. */
import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Namespace } from './lab.js'
import { ROOT } from './system.js'

/** What happened to the packets of one direction. */
export interface DirectionCounts {
  taken: number
  bytes: number
  given: number
  lost: number
  queueFull: number
  overflow: number
  peak: number
  refused: number
}

export class Forwarder {
  readonly #child: ChildProcessWithoutNullStreams
  readonly #waiting: { resolve(line: string): void; reject(error: Error): void }[] = []
  #ended: string | null = null

  /** Makes both devices. `up` is what leaves `inside`. */
  static async start(
    inside: Namespace,
    device: string,
    outside: Namespace,
    port: string,
    { condition, seed }: { condition: string; seed: number },
  ): Promise<Forwarder> {
    const program = process.env.TUN_FORWARD ?? join(ROOT, 'target', 'debug', 'tun-forward')
    if (!existsSync(program))
      throw new Error(`${program} is not there: cargo build -p remotemedia-testkit --bin tun-forward`)
    // The router's namespace is where it runs, so that it goes with the laboratory.
    const args = [inside.name, device, '-', port, condition, `seed=${seed}`]
    const forwarder = new Forwarder(outside.spawn(program, args))
    await forwarder.#answer()
    return forwarder
  }

  private constructor(child: ChildProcessWithoutNullStreams) {
    this.#child = child
    let said = ''
    child.stderr.on('data', (chunk) => {
      said += chunk
    })
    createInterface(child.stdout).on('line', (line) => this.#waiting.shift()?.resolve(line))
    child.stdin.on('error', () => {})
    child.on('exit', (code, signal) => {
      this.#ended = `tun-forward ended (${signal ?? code}): ${said.trim()}`
      for (const { reject } of this.#waiting.splice(0)) reject(new Error(this.#ended))
    })
  }

  /** Behaves as this condition from now on. */
  async condition(name: string): Promise<void> {
    await this.#command(`condition ${name}`)
  }

  /** Changes single settings, e.g. `set('up', { loss: 0.3, delay: 100 })`. Milliseconds, shares, bits a second. */
  async set(direction: 'up' | 'down', settings: Record<string, number | string>): Promise<void> {
    const words = Object.entries(settings).map(([key, value]) => `${key}=${value}`)
    await this.#command(`${direction} ${words.join(' ')}`)
  }

  async stats(): Promise<{ up: DirectionCounts; down: DirectionCounts }> {
    return JSON.parse(await this.#command('stats'))
  }

  async #command(line: string): Promise<string> {
    this.#child.stdin.write(`${line}\n`)
    const answer = await this.#answer()
    if (answer.startsWith('error ')) throw new Error(`tun-forward: ${answer.slice(6)}`)
    return answer
  }

  #answer(): Promise<string> {
    if (this.#ended) return Promise.reject(new Error(this.#ended))
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }))
  }
}
