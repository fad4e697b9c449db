/** A call under test: peers who never stop sending to each other, and what of it arrived. */
import type { WebRtcConfig } from '@remotemedia/webrtc'
import { Agent, type AgentOptions, type FrameArrival } from './agent.js'
import type { Host, Lab } from './lab.js'
import { Signaling } from './signaling.js'
import { now, until } from './system.js'

/** Peers by name, on these hosts, with a signaling server of their own. */
export class Call {
  readonly peers = new Map<string, Agent>()
  readonly #numbers: { from: Agent; to: string; sender: number; label?: string }[] = []
  readonly #media: { from: Agent; sender: number }[] = []

  static async open(
    lab: Lab,
    hosts: Record<string, Host>,
    config: Partial<WebRtcConfig> = {},
    options: AgentOptions & { signaling?: Signaling } = {},
  ): Promise<Call> {
    const signaling = options.signaling ?? (await Signaling.start(await lab.host('signaling')))
    const call = new Call(signaling)
    lab.witnesses.push(() => call.history())
    // One after the other, as people come to a room.
    for (const [peerId, host] of Object.entries(hosts)) await call.join(peerId, host, config, options)
    await call.connected()
    return call
  }

  private constructor(readonly signaling: Signaling) {}

  /** What happened at all peers, in the order of time. */
  async history(): Promise<string> {
    const all = await Promise.all([...this.peers.values()].map((peer) => peer.history()))
    return all
      .flat()
      .sort((a, b) => Number.parseFloat(a) - Number.parseFloat(b))
      .join('\n')
  }

  peer(name: string): Agent {
    const peer = this.peers.get(name)
    if (!peer) throw new Error(`there is no ${name}`)
    return peer
  }

  async join(
    peerId: string,
    host: Host,
    config: Partial<WebRtcConfig> = {},
    options: AgentOptions = {},
  ): Promise<Agent> {
    const signalingUrl = host.addresses.v4 ? this.signaling.url : this.signaling.urlV6
    const agent = await Agent.start(host, { signalingUrl, peerId, ...config }, options)
    this.peers.set(peerId, agent)
    return agent
  }

  /** Waits until everyone is connected to everyone. */
  async connected(timeoutMs = 20_000): Promise<void> {
    await Promise.all(this.#pairs().map(([from, to]) => from.connect(to.name, timeoutMs)))
  }

  /** Everyone sends numbers, and a tone, to everyone; `video`: a picture too; `label`: also numbers on a further channel. */
  async talk({ video = false, intervalMs = 20, label = '' } = {}): Promise<void> {
    for (const [from, to] of this.#pairs()) {
      const sender = await from.sendNumbers(to.name, intervalMs)
      this.#numbers.push({ from, to: to.name, sender })
      if (!label || from.name > to.name) continue
      await from.openChannel(to.name, label)
      const further = await from.sendNumbers(to.name, 5 * intervalMs, 200, undefined, label)
      this.#numbers.push({ from, to: to.name, sender: further, label })
    }
    for (const from of this.peers.values()) {
      this.#media.push({ from, sender: await from.sendTone('*') })
      if (video) this.#media.push({ from, sender: await from.sendVideo('*') })
    }
    await Promise.all(
      this.#pairs().map(([from, to]) =>
        until(
          `${to.name} hears ${from.name}`,
          20_000,
          async () => (await to.media(from.name, 'audio')).length > 50,
        ),
      ),
    )
  }

  /**
   * Ends the numbers, waits for those under way, and tells what is wrong with them: lost, doubled, out of order, refused. Empty: each
   * number that was ever sent arrived once and in order. `without`: peers that are gone.
   */
  async faults({ without = [] as string[], timeoutMs = 20_000 } = {}): Promise<string[]> {
    const faults: string[] = []
    const live = this.#numbers.filter(({ from, to }) => !without.includes(from.name) && !without.includes(to))
    await Promise.all(
      live.map(async ({ from, to, sender, label }) => {
        const { sent, refused } = await from.stop(sender)
        const name = `${from.name} to ${to}${label ? ` on ${label}` : ''}`
        const source = label ? `${from.name}/${label}` : from.name
        if (refused.length > 0) faults.push(`${name}: ${refused.length} refused, first ${refused[0]}`)
        const numbers = async () => (await this.peer(to).numbers(source)).map(([n]) => n)
        await until(name, timeoutMs, async () => (await numbers()).length >= sent - refused.length).catch(
          () => {},
        )
        const no = new Set(refused.map(([n]) => n))
        faults.push(
          ...orderFaults(
            name,
            await numbers(),
            [...Array(sent).keys()].filter((n) => !no.has(n)),
          ),
        )
      }),
    )
    return faults
  }

  /** Ends the tone and the pictures. */
  async hush(): Promise<void> {
    await Promise.all(this.#media.splice(0).map(({ from, sender }) => from.stop(sender).catch(() => {})))
  }

  #pairs(): [Agent, Agent][] {
    const all = [...this.peers.values()]
    return all.flatMap((from) => all.filter((to) => to !== from).map((to): [Agent, Agent] => [from, to]))
  }
}

/** What is wrong with the numbers that came, if these were sent. */
export function orderFaults(name: string, came: number[], sent: number[]): string[] {
  const faults: string[] = []
  const seen = new Set(came)
  const lost = sent.filter((n) => !seen.has(n))
  if (lost.length > 0)
    faults.push(`${name}: lost ${lost.length} of ${sent.length}: ${lost.slice(0, 5)} … ${lost.slice(-5)}`)
  if (seen.size < came.length) faults.push(`${name}: ${came.length - seen.size} came twice`)
  const early = came.findIndex((n, i) => i > 0 && n < came[i - 1]!)
  if (early > 0) faults.push(`${name}: ${came[early]} came after ${came[early - 1]}`)
  return faults
}

/** The longest time without a frame between `since` and `until`, and when it began. */
export function longestGap(frames: FrameArrival[], since: number, end = now()): { ms: number; at: number } {
  let longest = { ms: 0, at: since }
  let last = since
  for (const [at] of [...frames, [end] as [number]]) {
    if (at <= since || at > end) continue
    if (at - last > longest.ms) longest = { ms: at - last, at: last }
    last = at
  }
  return longest
}

/** Frames missing by their timestamps, `everyUs` apart, between the first and the last. */
export function missing(frames: FrameArrival[], everyUs: number): number {
  let count = 0
  for (let i = 1; i < frames.length; i++)
    count += Math.max(0, Math.round((frames[i]![1] - frames[i - 1]![1]) / everyUs) - 1)
  return count
}

/**
 * Waits until a peer hears another again: 25 frames of the tone at its level within a second. Resolves with how long after `since` the
 * first of them came.
 */
export async function mediaBack(to: Agent, from: string, since: number, timeoutMs = 20_000): Promise<number> {
  return until(
    `${to.name} hears ${from} again`,
    timeoutMs,
    async () => {
      const loud = (await to.media(from, 'audio', since)).filter(([, , level]) => Math.abs(level + 9) < 2)
      const start = loud.findIndex(([at], i) => (loud[i + 25]?.[0] ?? Number.POSITIVE_INFINITY) - at < 1000)
      return start < 0 ? null : Math.max(0.1, loud[start]![0] - since)
    },
    100,
  )
}
