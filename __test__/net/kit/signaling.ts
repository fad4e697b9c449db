/** The signaling server as users run it, on a host of a laboratory. */
import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Host } from './lab.js'
import { ROOT } from './system.js'

const PORT = 8080

export class Signaling {
  #child!: ChildProcessWithoutNullStreams

  static async start(host: Host): Promise<Signaling> {
    const signaling = new Signaling(host)
    await signaling.start()
    return signaling
  }

  private constructor(readonly host: Host) {}

  /** For peers with IPv4, or `urlV6`. */
  get url(): string {
    return `ws://${this.host.addresses.v4}:${PORT}`
  }

  get urlV6(): string {
    return `ws://[${this.host.addresses.v6}]:${PORT}`
  }

  /** Starts the server, again after a `kill` on the same port. */
  async start(): Promise<void> {
    const cli = join(process.env.REMOTEMEDIA_DIST ?? join(ROOT, 'dist'), 'cli.js')
    if (!existsSync(cli)) throw new Error(`${cli} is not there: npm run build:ts`)
    const args = [cli, 'signaling', '--host', '::', '--port', `${PORT}`, '--json']
    this.#child = this.host.space.spawn(process.execPath, args)
    let said = ''
    this.#child.stderr.on('data', (chunk) => {
      said += chunk
    })
    await new Promise<void>((resolve, reject) => {
      createInterface(this.#child.stdout).on('line', (line) => {
        if (JSON.parse(line).event === 'listening') resolve()
      })
      this.#child.once('exit', () => reject(new Error(`the signaling server did not start: ${said}`)))
    })
  }

  /** Ends it without a word to anyone. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, 'exit')
  }
}
