import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface, type Interface } from 'node:readline'

export interface Logged {
  from: string
  to: string
  method: string
  code?: number
  sdp: boolean
  candidate: boolean
}

/** The process of `hostile-server.mjs`. */
export class HostileServer {
  url = ''
  readonly #child: ChildProcess
  readonly #lines: Interface

  static async start(): Promise<HostileServer> {
    const server = new HostileServer()
    server.url = (await server.#answer<{ url: string }>()).url
    return server
  }

  constructor() {
    this.#child = spawn(process.execPath, [join(__dirname, 'hostile-server.mjs')], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    this.#lines = createInterface({ input: this.#child.stdout! })
  }

  /** Sends `count` messages of a kind to a member; resolves when they have left. */
  async flood(kind: string, to: string, count: number, from = ''): Promise<void> {
    await this.#ask({ command: 'flood', kind, to, from, count })
  }

  /** What members sent to each other since the last call. */
  async log(): Promise<Logged[]> {
    return (await this.#ask<{ log: Logged[] }>({ command: 'log' })).log
  }

  async close(): Promise<void> {
    const gone = once(this.#child, 'exit')
    this.#child.stdin!.end()
    await gone
  }

  #ask<T>(command: object): Promise<T> {
    const answer = this.#answer<T>()
    this.#child.stdin!.write(`${JSON.stringify(command)}\n`)
    return answer
  }

  async #answer<T>(): Promise<T> {
    const [line] = (await once(this.#lines, 'line')) as [string]
    return JSON.parse(line) as T
  }
}
