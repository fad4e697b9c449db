/** Two peers with instruments, one link between them, and what they measured. */
import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { RTCStats, WebRtcConfig } from '@remotemedia/webrtc'
import type { Host, Lab } from './lab.js'
import type { Signaling } from './signaling.js'
import { now, sleep } from './system.js'

export interface Look {
  at: number
  /** The sender's estimate of the path, bit/s. */
  estimate: number | null
  /** Bytes of datagrams. */
  sent: number
  received: number
  videoSent: number
  videoReceived: number
  samples: number
  concealed: number
}

export type Picture = [
  at: number,
  number: number | null,
  width: number,
  height: number,
  psnr?: number,
  ssim?: number,
]

export interface Came {
  pictures: Picture[]
  /** When, how many samples. */
  sound: [at: number, samples: number][]
  clicks: number[]
  data: [at: number, bytes: number][]
}

export interface StartOptions {
  to: string
  fps?: number
  video?: boolean
  audio?: 'speech' | 'clicks' | false
  frameMs?: number
  /** Size of messages sent as fast as they are taken; 0: none. */
  data?: number
}

/** What the pictures are. */
export interface Judged {
  width: number
  height: number
  noise: number
}

const REQUEST_MS = 30_000

/** A peer in a process and a namespace of its own. */
export class Meter {
  readonly #child: ChildProcessWithoutNullStreams
  readonly #pending = new Map<number, { resolve(result: never): void; reject(error: Error): void }>()
  #nextId = 1
  #stderr = ''

  static async start(
    host: Host,
    signaling: Signaling,
    name: string,
    judged: Judged | null,
    config: Partial<WebRtcConfig> = {},
  ): Promise<Meter> {
    const child = host.space.spawn(process.execPath, [join(__dirname, 'meter-process.mjs')])
    const meter = new Meter(child, name)
    await meter.request('open', { config: { signalingUrl: signaling.url, peerId: name, ...config }, judged })
    return meter
  }

  private constructor(
    child: ChildProcessWithoutNullStreams,
    readonly name: string,
  ) {
    this.#child = child
    child.stdin.on('error', () => {})
    child.stderr.on('data', (chunk) => {
      this.#stderr = (this.#stderr + chunk).slice(-20_000)
    })
    createInterface(child.stdout).on('line', (line) => {
      const { id, result, error } = JSON.parse(line)
      const waiting = this.#pending.get(id)
      this.#pending.delete(id)
      if (error) waiting?.reject(Object.assign(new Error(`${name}: ${error.message}`), { code: error.code }))
      else waiting?.resolve(result as never)
    })
    child.on('exit', (code, signal) => {
      for (const { reject } of this.#pending.values())
        reject(new Error(`${name} ended (${signal ?? code}): ${this.#stderr}`))
      this.#pending.clear()
    })
  }

  request<T>(op: string, parameters: Record<string, unknown> = {}): Promise<T> {
    const id = this.#nextId++
    return new Promise<T>((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`${this.name}: no answer to ${op}: ${this.#stderr}`)),
        REQUEST_MS,
      )
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

  connect = (peerId: string): Promise<string> => this.request('connect', { peerId })
  start = (options: StartOptions): Promise<void> => this.request('start', { ...options })
  stop = (): Promise<void> => this.request('stop')
  bulk = (to: string, size: number): Promise<void> => this.request('bulk', { to, size })
  watch = (peerId: string): Promise<void> => this.request('watch', { peerId })
  came = (): Promise<Came> => this.request('came')
  sent = (): Promise<{ pictures: number[]; clicks: number[]; dropped: number }> => this.request('sent')
  looks = (): Promise<Look[]> => this.request('looks')
  stats = (peerId: string): Promise<RTCStats[]> => this.request('stats', { peerId })
  cpu = (): Promise<NodeJS.CpuUsage> => this.request('cpu')
}

/** What waits in front of a host's uplink, looked at while something else goes on. */
export class QueueWatch {
  /** `[at, bytes]` */
  readonly looks: [at: number, bytes: number][] = []
  #on = true
  #done: Promise<void>

  constructor(
    readonly host: Host,
    everyMs = 150,
  ) {
    this.#done = this.#run(everyMs)
  }

  async stop(): Promise<[at: number, bytes: number][]> {
    this.#on = false
    await this.#done
    return this.looks
  }

  async #run(everyMs: number): Promise<void> {
    while (this.#on) {
      this.looks.push([now(), this.host.backlog()])
      await sleep(everyMs)
    }
  }
}

/** A call from `near` to `far`: the narrow uplink is near's, the delay and the losses are far's. */
export interface PathOptions {
  /** One way, ms. Default 25. */
  delayMs?: number
  /** Bit/s and the longest queue, ms, of near's link. Default: no limit. */
  rate?: number
  queueMs?: number
  /** As `tun-forward` takes them, both ways: `{ loss: 0.05 }`. */
  shape?: Record<string, number | string>
}

export async function makePath(lab: Lab, { delayMs = 25, rate, queueMs = 500, shape = {} }: PathOptions) {
  const near = await lab.host('near')
  const far = await lab.host('far', { condition: 'clear' })
  for (const way of ['up', 'down'] as const) await far.forwarder!.set(way, { delay: delayMs, ...shape })
  if (rate) near.limit(rate, queueMs)
  return { near, far }
}

/** Bits a second by a counter of bytes between two times. */
export function rateOf(
  looks: Look[],
  counter: 'sent' | 'received' | 'videoSent' | 'videoReceived',
  from: number,
  to: number,
): number {
  const within = looks.filter(({ at }) => at >= from && at <= to)
  const [first, last] = [within[0], within.at(-1)]
  if (!first || !last || first === last) return 0
  return ((last[counter] - first[counter]) * 8000) / (last.at - first.at)
}

export function dataRate(came: Came, from: number, to: number): number {
  const bytes = came.data.reduce((sum, [at, size]) => (at >= from && at <= to ? sum + size : sum), 0)
  return (bytes * 8000) / (to - from)
}

/** Freezes as webrtc-stats counts none: times of more than `longMs` without a new picture. */
export function freezes(
  came: Came,
  from: number,
  to: number,
  longMs = 200,
): { count: number; ms: number; longest: number } {
  let [count, ms, longest, last] = [0, 0, 0, from]
  for (const at of [...came.pictures.map(([at]) => at).filter((at) => at > from && at <= to), to]) {
    const gap = at - last
    if (gap > longMs) {
      count++
      ms += gap
    }
    longest = Math.max(longest, gap)
    last = at
  }
  return { count, ms, longest }
}

/** The share of the sound that was made up, 0 to 1, and the longest time in which none came, ms. */
export function soundGaps(
  came: Came,
  looks: Look[],
  from: number,
  to: number,
): { concealed: number; longest: number } {
  const within = looks.filter(({ at, samples }) => at >= from && at <= to && samples !== undefined)
  const [first, last] = [within[0], within.at(-1)]
  const samples = first && last ? last.samples - first.samples : 0
  const concealed = first && last && samples > 0 ? (last.concealed - first.concealed) / samples : 1
  let [longest, before] = [0, from]
  for (const at of [...came.sound.map(([at]) => at).filter((at) => at > from && at <= to), to]) {
    longest = Math.max(longest, at - before)
    before = at
  }
  return { concealed, longest }
}

export function mean(values: number[]): number {
  return values.length === 0 ? Number.NaN : values.reduce((sum, one) => sum + one, 0) / values.length
}

export function quantile(values: number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN
}
