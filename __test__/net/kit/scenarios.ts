/** What a call does on a path that is narrow, shared, or loses packets. The figures; what is good enough is the tests' matter. */
import { ChromiumCall } from './chromium-meter.js'
import { type Lab, now, Signaling, sleep } from './index.js'
import {
  type Came,
  dataRate,
  freezes,
  type Judged,
  type Look,
  Meter,
  makePath,
  mean,
  type PathOptions,
  type Picture,
  QueueWatch,
  quantile,
  rateOf,
  soundGaps,
} from './meter.js'

export type Stack = 'node' | 'chromium'

/** A scene that takes whatever bitrate it is given. */
const HARD: Judged = { width: 640, height: 360, noise: 10 }
const GREEDY = { video: { startBitrateBps: 3_000_000, maxBitrateBps: 8_000_000 } }
const WIDE = 5_000_000
const NARROW = 500_000
const QUEUE_MS = 300

/** One way, from `near` to `far`, by one of the stacks. */
class OneWay {
  static async open(
    lab: Lab,
    stack: Stack,
    path: PathOptions,
    judged: Judged,
    config: Record<string, unknown> = {},
    maxBitrateBps = 8_000_000,
  ): Promise<OneWay> {
    const { near, far } = await makePath(lab, path)
    const one = new OneWay(near, far)
    if (stack === 'chromium') {
      one.chromium = await ChromiumCall.open(near, far, judged, maxBitrateBps)
      return one
    }
    const signaling = await Signaling.start(await lab.host('signaling'))
    one.sender = await Meter.start(near, signaling, 'a', judged, config)
    one.receiver = await Meter.start(far, signaling, 'b', judged)
    await one.sender.connect('b')
    await one.sender.watch('b')
    await one.receiver.watch('a')
    return one
  }

  chromium: ChromiumCall | null = null
  sender!: Meter
  receiver!: Meter

  private constructor(
    readonly near: Awaited<ReturnType<Lab['host']>>,
    readonly far: Awaited<ReturnType<Lab['host']>>,
  ) {}

  async start(data = 0): Promise<void> {
    if (this.chromium) await this.chromium.start()
    else await this.sender.start({ to: 'b', data })
  }

  /** What was sent and what came. Ends it. */
  async end(): Promise<{
    sent: Look[]
    looks: Look[]
    came: Came
    receiver: Record<string, unknown>[]
    sender: Record<string, unknown>[]
  }> {
    if (this.chromium) {
      const sent = await this.chromium.sent()
      const { came, looks } = await this.chromium.received()
      const stats = await this.chromium.stats()
      await this.chromium.close()
      return { sent, looks, came, ...stats }
    }
    const sent = await this.sender.looks()
    const [looks, came] = [await this.receiver.looks(), await this.receiver.came()]
    // Read as those of Chromium: by name.
    const byName = async (agent: { stats(peer: string): Promise<object[]> }, peer: string) =>
      (await agent.stats(peer)) as Record<string, unknown>[]
    const receiver = await byName(this.receiver, 'a')
    const sender = await byName(this.sender, 'b')
    await this.sender.stop()
    return { sent, looks, came, receiver, sender }
  }
}

export interface ClampFigures {
  /** Bit/s sent in the five seconds before the clamp. */
  before: number
  /** Seconds from the clamp until what is sent fits through. */
  under: number
  /** Seconds from the clamp until the queue is under 100 ms for a second. */
  queueBack: number
  /** The queue from then to the release, ms: what 95 of 100 looks saw, and the longest. */
  queue95: number
  queueLongest: number
  /** Seconds from the release until 80 % of 5 Mbit/s are sent. */
  back: number
  /** Bit/s sent in the last eight seconds. */
  after: number
  /** Share of the sound that was made up, and the longest time without any, ms. */
  concealed: number
  silence: number
  longestFreeze: number
  psnr: { wide: number; narrow: number }
}

/** 5 Mbit/s, then 0.5, then 5 again, with 25 ms each way and a queue of 300 ms. */
export async function clamp(lab: Lab, stack: Stack): Promise<ClampFigures> {
  const call = await OneWay.open(lab, stack, { rate: WIDE, queueMs: QUEUE_MS }, HARD, GREEDY)
  const start = now()
  await call.start()
  const queue = new QueueWatch(call.near)
  await sleep(14_000)
  call.near.limit(NARROW, QUEUE_MS)
  const clamped = now()
  await sleep(12_000)
  call.near.limit(WIDE, QUEUE_MS)
  const released = now()
  await sleep(18_000)
  const end = now()
  const waits = (await queue.stop()).map(([at, bytes]): [number, number] => [
    at,
    (bytes * 8000) / (at > clamped && at < released ? NARROW : WIDE),
  ])
  const { sent, looks, came } = await call.end()
  const after = (from: number, to: number, holds: (at: number) => boolean) => {
    for (let at = from; at < to; at += 100) if (holds(at)) return (at - from) / 1000
    return Number.POSITIVE_INFINITY
  }
  const queueBack = after(clamped, released - 1000, (at) =>
    waits.every(([t, wait]) => t < at || t > at + 1000 || wait < 100),
  )
  const settled = waits
    .filter(([at]) => at > clamped + Math.max(5000, queueBack * 1000) && at < released)
    .map(([, wait]) => wait)
  const sound = soundGaps(came, looks, start + 1000, end)
  return {
    before: rateOf(sent, 'sent', clamped - 5000, clamped),
    under: after(clamped, released - 1000, (at) => rateOf(sent, 'sent', at, at + 600) < NARROW * 1.02),
    queueBack,
    queue95: quantile(settled, 0.95),
    queueLongest: Math.max(...settled),
    back: after(released, end - 1000, (at) => rateOf(sent, 'sent', at, at + 1100) > 0.8 * WIDE),
    after: rateOf(sent, 'sent', end - 8000, end),
    concealed: sound.concealed,
    silence: stack === 'node' ? sound.longest : Number.NaN,
    longestFreeze: freezes(came, start + 1000, end).longest,
    psnr: { wide: psnrOf(came, clamped - 5000, clamped), narrow: psnrOf(came, clamped + 5000, released) },
  }
}

export interface SharingFigures {
  /** Bit/s of each call, in the second half of the time. */
  rates: number[]
  /** What the first one has of both. */
  share: number
  queue95: number
  concealed: number[]
}

/** Two calls over one link of 3 Mbit/s, the second ten seconds after the first. */
export async function sharing(lab: Lab, seconds = 40): Promise<SharingFigures> {
  const rate = 3_000_000
  const { near, far } = await makePath(lab, { rate, queueMs: QUEUE_MS })
  const signaling = await Signaling.start(await lab.host('signaling'))
  const calls = []
  for (const n of [1, 2]) {
    const room = { ...GREEDY, room: `${n}` }
    const sender = await Meter.start(near, signaling, `a${n}`, HARD, room)
    const receiver = await Meter.start(far, signaling, `b${n}`, HARD, { room: `${n}` })
    await sender.connect(`b${n}`)
    await sender.watch(`b${n}`)
    await receiver.watch(`a${n}`)
    calls.push({ n, sender, receiver })
  }
  await calls[0]!.sender.start({ to: 'b1' })
  await sleep(10_000)
  await calls[1]!.sender.start({ to: 'b2' })
  const queue = new QueueWatch(near)
  await sleep((seconds * 1000) / 2)
  const half = now()
  await sleep((seconds * 1000) / 2)
  const end = now()
  const waits = (await queue.stop()).filter(([at]) => at > half).map(([, bytes]) => (bytes * 8000) / rate)
  const rates: number[] = []
  const concealed: number[] = []
  for (const { sender, receiver } of calls) {
    const looks = await receiver.looks()
    rates.push(rateOf(looks, 'received', half, end))
    concealed.push(soundGaps(await receiver.came(), looks, half, end).concealed)
    await sender.stop()
  }
  return { rates, share: rates[0]! / (rates[0]! + rates[1]!), queue95: quantile(waits, 0.95), concealed }
}

export interface BulkFigures {
  /** Bit/s without and with a bulk transfer beside. */
  video: { alone: number; beside: number }
  data: number
  queue95: number
  concealed: number
  silence: number
}

/** A call over 3 Mbit/s, and after a while as many messages of 16 KiB as the channel takes. */
export async function bulkBeside(lab: Lab): Promise<BulkFigures> {
  const rate = 3_000_000
  const call = await OneWay.open(lab, 'node', { rate, queueMs: QUEUE_MS }, HARD, GREEDY)
  await call.start()
  await sleep(12_000)
  const bulk = now()
  await call.sender.bulk('b', 16_384)
  await sleep(4_000)
  const settled = now()
  const queue = new QueueWatch(call.near)
  await sleep(12_000)
  const end = now()
  const waits = (await queue.stop()).map(([, bytes]) => (bytes * 8000) / rate)
  const { looks, came } = await call.end()
  const sound = soundGaps(came, looks, bulk, end)
  return {
    video: {
      alone: rateOf(looks, 'videoReceived', bulk - 4000, bulk),
      beside: rateOf(looks, 'videoReceived', settled, end),
    },
    data: dataRate(came, settled, end),
    queue95: quantile(waits, 0.95),
    concealed: sound.concealed,
    silence: sound.longest,
  }
}

export interface Losses {
  /** 0 to 1, each way. */
  share: number
  /** Each packet by itself, or by a Gilbert-Elliott model: four packets in a row meet the path bad, and three of them are lost. */
  kind: 'random' | 'bursts'
}

function shapeOf({ share, kind }: Losses): Record<string, number | string> {
  if (kind === 'random') return { loss: share }
  const [leave, lost] = [0.25, 0.75]
  const bad = share / lost
  return { bursts: `${(leave * bad) / (1 - bad)}/${leave}/${lost}` }
}

export interface LossFigures {
  /** Share of the sound that was made up; share that came out of copies (in-band FEC); how often it was made up, a minute. */
  concealed: number
  recovered: number
  /** The sound's mean wait in the jitter buffer, ms; packets that came too late for it, as a share. */
  wait: number
  late: number
  freezes: number
  longestFreeze: number
  psnr: number
  ssim: number
  bps: number
  keyframes: number
}

/** A call with a scene that is not hard, 25 ms each way, with losses both ways. */
export async function lossy(lab: Lab, stack: Stack, losses: Losses, seconds = 40): Promise<LossFigures> {
  const call = await OneWay.open(lab, stack, { shape: shapeOf(losses) }, { ...HARD, noise: 3 }, {}, 1_325_000)
  await call.start()
  await sleep(8_000)
  const start = now()
  await sleep(seconds * 1000)
  const end = now()
  const { looks, came, receiver, sender } = await call.end()
  const frozen = freezes(came, start, end)
  const of = (stats: Record<string, unknown>[], type: string, kind: string) =>
    (stats.find((s) => s.type === type && s.kind === kind) ?? {}) as Record<string, number>
  const audio = of(receiver, 'inbound-rtp', 'audio')
  // Chromium's name for the same is fecPacketsReceived, in packets.
  const recovered =
    audio.recoveredSamples ?? 960 * ((audio.fecPacketsReceived ?? 0) - (audio.fecPacketsDiscarded ?? 0))
  return {
    concealed: soundGaps(came, looks, start, end).concealed,
    recovered: recovered / audio.totalSamplesReceived!,
    wait: (1000 * audio.jitterBufferDelay!) / audio.jitterBufferEmittedCount!,
    late: (audio.packetsDiscarded ?? 0) / audio.packetsReceived!,
    freezes: (frozen.count * 60_000) / (end - start),
    longestFreeze: frozen.longest,
    psnr: psnrOf(came, start, end),
    ssim: mean(judged(came, start, end).map((picture) => picture[5]!)),
    bps: rateOf(looks, 'videoReceived', start, end),
    keyframes: of(sender, 'outbound-rtp', 'video').keyFramesEncoded ?? 0,
  }
}

export interface LatencyFigures {
  /** From `sendToPeer` to the event, ms: p50, p99. */
  video: [number, number]
  /** From the capture of a sample to when it could be played, ms: p50, p99. */
  audio: [number, number]
}

/** How late pictures (1280x720 at 30 a second) and sound are, with so many milliseconds each way. */
export async function latency(
  lab: Lab,
  delayMs: number,
  frameMs: 10 | 20,
  seconds = 20,
): Promise<LatencyFigures> {
  const judged = { width: 1280, height: 720, noise: 0 }
  const { near, far } = await makePath(lab, { delayMs })
  const signaling = await Signaling.start(await lab.host('signaling'))
  const a = await Meter.start(near, signaling, 'a', judged, { audio: { frameMs } })
  // What is not judged costs no time.
  const b = await Meter.start(far, signaling, 'b', null)
  await a.connect('b')
  await a.start({ to: 'b', audio: 'clicks', frameMs })
  await sleep(3000)
  const from = now()
  await sleep(seconds * 1000)
  const [sent, came] = [await a.sent(), await b.came()]
  await a.stop()
  const pictures = came.pictures
    .filter(([at, number]) => at > from && number !== null)
    .map(([at, number]) => at - sent.pictures[number!]!)
  const clicks = came.clicks
    .filter((at) => at > from)
    .map((at) => at - sent.clicks.findLast((time) => time < at)!)
  const of = (values: number[]): [number, number] => [quantile(values, 0.5), quantile(values, 0.99)]
  return { video: of(pictures), audio: of(clicks) }
}

function judged(came: Came, from: number, to: number): Picture[] {
  return came.pictures.filter((picture) => picture[0] > from && picture[0] <= to && picture[4] !== undefined)
}

function psnrOf(came: Came, from: number, to: number): number {
  return mean(judged(came, from, to).map((picture) => picture[4]!))
}
