/** A peer in a process of its own, in a namespace of its own. */
import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { PeerInfo, RTCStats, WebRtcConfig } from '@remotemedia/webrtc'
import type { Host } from './lab.js'
import { now, sleep } from './system.js'

/** Something that happened in the peer's process, with the time of the common clock. */
export interface AgentEvent {
  event: string
  at: number
  peerId?: string
  state?: string
  reason?: string
  code?: string
  message?: string
  peers?: string[]
  resumed?: boolean
  [name: string]: unknown
}

/** A number that came, and when. */
export type Arrival = [number: number, at: number]

/** A frame that came: when, its timestamp (µs), and its level (audio: dBFS; video: mean luma). */
export type FrameArrival = [at: number, timestampUs: number, level: number]

/** What a peer said through signaling. */
export interface Signal {
  at: number
  kind: 'offer' | 'answer' | 'candidate'
  to: string
  ufrag?: string
  sdp?: string
  candidate?: string
}

export interface Sent {
  sent: number
  refused: [number: number, at: number, code: string][]
}

export type TurnServer = { urls: string | string[]; username: string; credential: string }

export interface AgentOptions {
  /** Asked whenever the peer wants relay credentials: `turnServers` as a function. */
  turnServers?: () => TurnServer[]
  env?: Record<string, string>
}

const REQUEST_MS = 30_000

export class Agent {
  /** Everything that happened, oldest first. */
  readonly events: AgentEvent[] = []
  readonly #child: ChildProcessWithoutNullStreams
  readonly #pending = new Map<number, { resolve(result: never): void; reject(error: Error): void }>()
  readonly #turnServers: (() => TurnServer[]) | undefined
  #nextId = 1
  #stderr = ''

  /** Starts a peer's process on a host, and the peer in it. */
  static async start(host: Host, config: WebRtcConfig, options: AgentOptions = {}): Promise<Agent> {
    const agent = await Agent.bare(host, config.peerId ?? '', options)
    await agent.open(config)
    return agent
  }

  /** Starts the process alone. */
  static async bare(host: Host, name: string, options: AgentOptions = {}): Promise<Agent> {
    const script = join(__dirname, 'agent-process.mjs')
    const child = host.space.spawn(process.execPath, [script], { env: options.env ?? {} })
    const agent = new Agent(child, host, name, options)
    await agent.event((e) => e.event === 'ready', 'ready')
    return agent
  }

  private constructor(
    child: ChildProcessWithoutNullStreams,
    readonly host: Host,
    readonly name: string,
    options: AgentOptions,
  ) {
    this.#child = child
    this.#turnServers = options.turnServers
    child.stdin.on('error', () => {})
    child.stderr.on('data', (chunk) => {
      this.#stderr = (this.#stderr + chunk).slice(-20_000)
    })
    createInterface(child.stdout).on('line', (line) => this.#receive(line))
    child.on('exit', (code, signal) => {
      for (const { reject } of this.#pending.values())
        reject(new Error(`${name} ended (${signal ?? code}): ${this.#stderr}`))
      this.#pending.clear()
    })
  }

  /** The process id: `ip` and `setpriv` become the program they start. */
  get pid(): number {
    return this.#child.pid!
  }

  /** What the process wrote to its standard error. */
  get stderr(): string {
    return this.#stderr
  }

  async open(config: WebRtcConfig): Promise<void> {
    await this.request('open', { config, relayCredentials: this.#turnServers !== undefined })
  }

  request<T>(op: string, parameters: Record<string, unknown> = {}): Promise<T> {
    const id = this.#nextId++
    return new Promise<T>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id)
        reject(new Error(`${this.name}: no answer to ${op} within ${REQUEST_MS} ms: ${this.#stderr}`))
      }, REQUEST_MS)
      const settle =
        <V>(end: (value: V) => void) =>
        (value: V) => {
          clearTimeout(timer)
          end(value)
        }
      this.#pending.set(id, { resolve: settle(resolve), reject: settle(reject) })
      this.#child.stdin.write(`${JSON.stringify({ id, op, ...parameters })}\n`)
    })
  }

  /** The first event since `since` that is wanted, waiting for it if need be. */
  async event(
    wanted: (event: AgentEvent) => boolean,
    what: string,
    { since = 0, timeoutMs = 15_000 } = {},
  ): Promise<AgentEvent> {
    const deadline = now() + timeoutMs
    for (;;) {
      const found = this.events.find((event) => event.at >= since && wanted(event))
      if (found) return found
      if (this.#child.exitCode !== null || this.#child.signalCode !== null)
        throw new Error(`${this.name} ended before ${what}: ${this.#stderr}`)
      if (now() > deadline) {
        const seen = this.events.filter(({ at }) => at >= since).slice(-15)
        throw new Error(
          `${this.name}: ${what}: not within ${timeoutMs} ms. Last events: ${seen.map((e) => JSON.stringify(e)).join('\n')}`,
        )
      }
      await sleep(10)
    }
  }

  /** The next time since `since` that the connection to a peer is in this state. */
  state(
    peerId: string,
    state: string,
    options: { since?: number; timeoutMs?: number } = {},
  ): Promise<AgentEvent> {
    return this.event(
      (e) => e.event === 'peerstatechange' && e.peerId === peerId && e.state === state,
      `${peerId} ${state}`,
      options,
    )
  }

  /** States of the connection to a peer since `since`. */
  statesOf(peerId: string, since: number): string[] {
    return this.events
      .filter((e) => e.event === 'peerstatechange' && e.peerId === peerId && e.at >= since)
      .map((e) => e.state!)
  }

  /** What happened and what was signalled, a line each, for a failed test's message. */
  async history(): Promise<string[]> {
    const told = ({ event, at, ...more }: AgentEvent) => [at, `${event} ${JSON.stringify(more)}`] as const
    const said = (await this.signals().catch(() => [])).map(
      ({ at, kind, to, ufrag, sdp = '', candidate }) => {
        const inside = [...new Set([...sdp.matchAll(/udp \d+ (\S+ \d+ typ \w+)/g)].map(([, one]) => one))]
        return [at, `${kind} to ${to} ${candidate ?? `${ufrag} [${inside.join(', ')}]`}`] as const
      },
    )
    return [...this.events.map(told), ...said].map(
      ([at, text]) => `${(at / 1000).toFixed(3)} ${this.name}: ${text}`,
    )
  }

  connect(peerId: string, timeoutMs = 20_000): Promise<string> {
    return this.request('connect', { peerId, timeoutMs })
  }

  peers(): Promise<PeerInfo[]> {
    return this.request('peers')
  }

  stats(peerId?: string): Promise<RTCStats[]> {
    return this.request('stats', { peerId })
  }

  counters(): Promise<Record<string, number>> {
    return this.request('counters')
  }

  /** Sends numbered messages, one every `intervalMs`, until `stop`; with `label`, on that channel. */
  sendNumbers(to: string, intervalMs = 20, size = 200, limit?: number, label?: string): Promise<number> {
    return this.request('sendNumbers', { to, intervalMs, size, limit, label })
  }

  /** Opens a further channel. */
  openChannel(peerId: string, label: string): Promise<void> {
    return this.request('openChannel', { peerId, label })
  }

  sendTone(to: string, hz = 440): Promise<number> {
    return this.request('sendTone', { to, hz })
  }

  sendVideo(to: string, fps = 15): Promise<number> {
    return this.request('sendVideo', { to, fps })
  }

  stop(sender: number): Promise<Sent> {
    return this.request('stop', { sender })
  }

  progress(sender: number): Promise<Sent> {
    return this.request('progress', { sender })
  }

  /** Numbers that came from a peer, in the order of their arrival. `from/label`: on that channel. */
  numbers(from: string): Promise<Arrival[]> {
    return this.request('numbers', { from })
  }

  media(from: string, kind: 'audio' | 'video', since = 0): Promise<FrameArrival[]> {
    return this.request('media', { from, kind, since })
  }

  /** What this peer said through signaling since `since`. */
  async signals(since = 0): Promise<Signal[]> {
    return (await this.request<Signal[]>('signals')).filter(({ at }) => at >= since)
  }

  census(): Promise<{ threads: number; files: number; sockets: number; rss: number }> {
    return this.request('census')
  }

  /** Sends a signal to the process; SIGKILL resolves when it is gone. */
  async signal(signal: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT'): Promise<void> {
    this.#child.kill(signal)
    if (signal === 'SIGKILL' && this.#child.exitCode === null && this.#child.signalCode === null)
      await once(this.#child, 'exit')
  }

  /** Closes the peer and ends the process. */
  async close(): Promise<void> {
    await this.request('close')
    this.#child.stdin.end()
    if (this.#child.exitCode === null) await once(this.#child, 'exit')
  }

  #receive(line: string): void {
    const message = JSON.parse(line) as AgentEvent & {
      id?: number
      result?: never
      error?: { message: string; code?: string }
    }
    if (message.event === 'question') {
      const answer = { op: 'answer', number: message.number, value: this.#turnServers?.() }
      this.#child.stdin.write(`${JSON.stringify(answer)}\n`)
    }
    if (message.event !== undefined) {
      this.events.push(message)
      return
    }
    const waiting = this.#pending.get(message.id!)
    this.#pending.delete(message.id!)
    const { error } = message
    if (error)
      waiting?.reject(Object.assign(new Error(`${this.name}: ${error.message}`), { code: error.code }))
    else waiting?.resolve(message.result!)
  }
}
