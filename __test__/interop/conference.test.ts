import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import type { WebRtcTransport } from '@remotemedia/webrtc'
import { type ActiveSpeaker, conferenceMixer } from '../../examples/conference-mixer.js'
import { every, Lab, tone } from '../api/support.js'
import { type BrowserPeer, type Chromium, chromiumPath, launchChromium } from './chromium.js'
import { amplitude, decibels, Ear, median, now } from './kit/ear.js'

// The example's conference with three pages of a real Chromium and two Node peers, all of them behind a lossy path. Everybody has
// a tone; who hears which is measured in the sound that arrives.

const describeWithBrowser = chromiumPath() === null ? describe.skip : describe
if (chromiumPath() === null)
  console.warn('SKIPPED: there is no Chromium; install it, or name one with CHROMIUM=/path')

/** How long it is listened to, in seconds. CI has no time for more; `CONFERENCE_SECONDS=60` for long drifts. */
const SECONDS = Number(process.env.CONFERENCE_SECONDS ?? 16)
jest.setTimeout(SECONDS * 2000 + 180_000)

/** None is near a harmonic of another, or where two of them beat. */
const TONES: Record<string, number> = { ann: 280, bob: 390, cy: 530, dee: 690, eve: 870 }
const NAMES = Object.keys(TONES)
const PAGES = ['cy', 'dee', 'eve']
/** How much faster the clock of a Node peer runs, in parts per million. */
const DRIFT_PPM: Record<string, number> = { ann: 200, bob: -200 }
const AMPLITUDE = 0.1
const LOSS = 0.05
/**
 * When what happened is heard by a listener, in milliseconds after it: what was lost on the way to the mixer, or from it, passes one or
 * two jitter buffers; what a buffer made up is noticed up to 100 ms later.
 */
const HEARD = { lostUp: [0, 400], lostDown: [0, 250], madeUpAtMixer: [-100, 300], madeUpHere: [-150, 50] }

/** Stretches without anything made up that it takes to judge. */
const LEAST = 3

interface Reading {
  listener: string
  speaker: string
  db: number
  windows: number
  fine: boolean
}

/** When something happened, and when it is heard. */
type Disturbance = [number[], number[]]

interface Lost {
  peer: string
  way: 'up' | 'down'
  at: number
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** A process between everybody and the signaling server, with UDP doors that lose datagrams. */
class LossyRelay {
  readonly url: string
  readonly #child: ChildProcess

  static async start(signalingUrl: string, hub: string): Promise<LossyRelay> {
    const child = fork(join(__dirname, 'kit/lossy-relay.mjs'), [signalingUrl, hub])
    const [{ url }] = (await once(child, 'message')) as [{ url: string }]
    return new LossyRelay(child, url)
  }

  private constructor(child: ChildProcess, url: string) {
    this.#child = child
    this.url = url
  }

  tell(order: { loss: number } | { stall: string; ms: number }): void {
    this.#child.send(order)
  }

  async log(): Promise<Lost[]> {
    const answer = once(this.#child, 'message')
    this.#child.send({ log: true })
    const [{ log }] = (await answer) as [{ log: Lost[] }]
    return log
  }

  close(): void {
    this.#child.disconnect()
  }
}

describeWithBrowser("the seed's conference", () => {
  let lab: Lab
  let browser: Chromium
  let relay: LossyRelay
  let mixer: WebRtcTransport
  const speakers: ActiveSpeaker[] = []
  const pages = new Map<string, BrowserPeer>()
  const nodes = new Map<string, WebRtcTransport>()
  const ears = new Map(NAMES.map((name) => [name, new Ear()]))
  /** When what came from a peer was made up at the mixer. */
  const uplinks = new Map(NAMES.map((name) => [name, [] as number[]]))
  const stops: (() => void)[] = []

  beforeAll(async () => {
    lab = await new Lab().open()
    relay = await LossyRelay.start(lab.server.url, 'mixer')
    const signalingUrl = relay.url
    mixer = await conferenceMixer({ signalingUrl, onSpeaker: (speaker) => speakers.push(speaker) })
    browser = await launchChromium()
    for (const peerId of PAGES) {
      const audio = { toneHz: TONES[peerId]!, amplitude: AMPLITUDE }
      const page = await browser.newPeer({ signalingUrl, peerId, room: 'conference', offers: false, audio })
      pages.set(peerId, page)
      await page.connect('mixer')
      await page.connected('mixer', 20_000)
      await page.page.evaluate(() => window.peer.record('mixer', 10_000))
    }
    for (const [name, ppm] of Object.entries(DRIFT_PPM)) {
      const node = await lab.join(name, { signalingUrl, room: 'conference', allowPeers: ['mixer'] })
      nodes.set(name, node)
      await node.connectPeer('mixer', { timeoutMs: 20_000 })
      node.on('audio', ({ data }) => {
        if (data.data.kind === 'audio') ears.get(name)!.hear(data.data.samples, now())
      })
      const voice = every(20 / (1 + ppm / 1e6), (n) => {
        const data = tone(n, TONES[name]!, AMPLITUDE)
        node.sendToPeer('mixer', { data, timestampUs: n * 20_000 }).catch(() => {})
      })
      stops.push(voice.stop)
      watch(node, 'mixer', ears.get(name)!.disturbedAt)
    }
    for (const name of NAMES) watch(mixer, name, uplinks.get(name)!)
  })

  afterAll(async () => {
    for (const stop of stops) stop()
    await browser?.close()
    await mixer?.close()
    await lab?.close()
    relay?.close()
  })

  /** Notes when sound of a peer was made up. */
  function watch(transport: WebRtcTransport, peer: string, into: number[]): void {
    let before = -1
    const look = async () => {
      const stats = await transport.getStats(peer)
      for (const entry of stats.values()) {
        if (entry.type !== 'inbound-rtp' || entry.kind !== 'audio') continue
        const made = Number(entry.concealedSamples)
        if (before >= 0 && made !== before) into.push(now())
        before = made
      }
    }
    const timer = setInterval(() => void look().catch(() => {}), 100)
    stops.push(() => clearInterval(timer))
  }

  /** Takes over what the pages recorded. */
  async function collect(): Promise<void> {
    for (const [name, { page }] of pages) {
      const { pcm, blocks, disturbedAt } = await page.evaluate(() => window.peer.recorded())
      const bytes = Buffer.from(pcm, 'base64')
      let at = 0
      for (const { endedAt, frames } of blocks) {
        const samples = Float32Array.from(
          { length: frames },
          (_, i) => bytes.readInt16LE(2 * (at + i)) / 32768,
        )
        ears.get(name)!.hear(samples, endedAt)
        at += frames
      }
      ears.get(name)!.disturbedAt.push(...disturbedAt)
    }
  }

  /**
   * How loud each tone was for each listener, in dB of how it was sent, over stretches in which nothing was made up. Of one's own, which
   * must not be there, what the codecs' noise beside it doesn't explain.
   */
  function readings(lost: Lost[], ms: number, from: number, to: number, silent: string[]): Reading[] {
    const rows: Reading[] = []
    const level = (samples: Float32Array, hz: number) => amplitude(samples, hz) / AMPLITUDE
    for (const [listener, ear] of ears) {
      if (silent.includes(listener)) continue
      const windows = ear.windows(ms, from, to)
      const times = (way: 'up' | 'down', peer: string) =>
        lost.filter((one) => one.way === way && one.peer === peer).map(({ at }) => at)
      const here: Disturbance[] = [
        [times('down', listener), HEARD.lostDown],
        [ear.disturbedAt, HEARD.madeUpHere],
      ]
      for (const speaker of NAMES) {
        const gone = speaker === listener || silent.includes(speaker)
        const before: Disturbance[] = [
          [times('up', speaker), HEARD.lostUp],
          [uplinks.get(speaker)!, HEARD.madeUpAtMixer],
        ]
        const disturbances = gone ? here : [...here, ...before]
        const whole = windows.filter(
          ({ startedAt, endedAt }) =>
            !disturbances.some(([times, [from, to]]) =>
              times.some((at) => at + from! < endedAt && at + to! > startedAt),
            ),
        )
        const levels = (hz: number) => whole.map(({ samples }) => level(samples, hz))
        const hz = TONES[speaker]!
        const beside = [-30, -20, 20, 30].flatMap((by) => levels(hz + by))
        const own = Math.sqrt(Math.max(0, meanSquare(levels(hz)) - meanSquare(beside)))
        const db = decibels(gone ? own : median(levels(hz)))
        const fine = whole.length >= LEAST && (gone ? db <= -40 : Math.abs(db) <= 1)
        rows.push({ listener, speaker, db, windows: whole.length, fine })
      }
    }
    return rows
  }

  /** Listens for at least so long, and until everybody is heard as it should: a machine that is held up makes up a lot by itself. */
  async function phase(what: string, seconds: number, ms: number): Promise<void> {
    const from = now()
    const until = from + seconds * 1000 + 30_000
    for (let wait = seconds * 1000; ; wait = 2000) {
      await sleep(wait)
      await collect()
      const rows = readings(await relay.log(), ms, from, now(), [])
      if (rows.every(({ fine }) => fine)) return tell(what, rows)
      if (now() > until) {
        tell(what, rows)
        throw new Error(`${what}: ${wrongOf(rows)}`)
      }
    }
  }

  /** The figures, for those who want to see them. */
  function tell(what: string, rows: Reading[]): void {
    if (!process.env.CONFERENCE_FIGURES) return
    const lines = NAMES.map((name) => {
      const cells = rows.filter(({ listener }) => listener === name)
      return `${name} hears ${cells.map(({ speaker, db, windows }) => `${speaker} ${db.toFixed(2)} (${windows})`).join(', ')}`
    })
    process.stderr.write(`${what}: dB (stretches)\n  ${lines.join('\n  ')}\n`)
  }

  test('everybody hears all the others and not itself, with clocks that drift, losses, and one who stalls', async () => {
    // Every encoder and every jitter buffer has settled.
    await sleep(2500)
    await phase('clean', SECONDS * 0.25, 400)

    relay.tell({ loss: LOSS })
    const lossy = now()
    await phase('with losses', SECONDS * 0.5, 120)
    relay.tell({ loss: 0 })
    const during = (await relay.log()).filter(({ at }) => at > lossy)
    // Ten streams of 50 packets a second.
    expect(during.length).toBeGreaterThan(((now() - lossy) / 1000) * 500 * LOSS * 0.7)

    // The others hear each other throughout, at full level all the time.
    for (let attempt = 1; ; attempt++) {
      await sleep(1500)
      const stall = now()
      relay.tell({ stall: 'bob', ms: 3000 })
      await sleep(3200)
      await collect()
      const rows = readings(await relay.log(), 200, stall + 1000, stall + 3000, ['bob'])
      tell('one stalls', rows)
      if (rows.every(({ fine }) => fine)) break
      if (attempt === 3) throw new Error(`one stalls: ${wrongOf(rows)}`)
    }
    await phase('he is back', 2 + SECONDS * 0.1, 200)

    // All are as loud as each other: one of them speaks, and it is not always another.
    expect(speakers.length).toBeGreaterThan(0)
    expect(speakers.length).toBeLessThan(10)
    expect(NAMES).toContain(speakers[0]!.main)
  })
})

function wrongOf(rows: Reading[]): string {
  const wrong = rows.filter(({ fine }) => !fine)
  return wrong
    .map(
      (row) => `${row.listener} hears ${row.speaker} at ${row.db.toFixed(2)} dB (${row.windows} stretches)`,
    )
    .join(', ')
}

function meanSquare(values: number[]): number {
  return values.reduce((sum, value) => sum + value * value, 0) / Math.max(values.length, 1)
}
