// A peer that sends stamped pictures, sound and bulk data, and writes down what comes and when: one process, driven as
// `agent-process.mjs` is. Times are milliseconds of the monotonic clock, which all processes of a machine share.
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'
import { makeScene, PERIOD, readStamp } from '../../../bench/lib/judged.mjs'

const library = process.env.REMOTEMEDIA_DIST
  ? pathToFileURL(`${process.env.REMOTEMEDIA_DIST}/index.js`).href
  : new URL('../../../dist/index.js', import.meta.url).href
const { VideoFrame, WebRtcTransport } = await import(library)

const RATE = 48_000
const CLICK_EVERY_MS = 500
const now = () => Number(process.hrtime.bigint()) / 1e6
const put = (message) => process.stdout.write(`${JSON.stringify(message)}\n`)

const speech = loadSpeech()
let transport
let scene
let running = false
/** What was sent: the time of each picture, by its number, and of each click. */
const sent = { pictures: [], clicks: [], dropped: 0 }
/** `[at, number, width, height, psnr, ssim]`, `[at, samples]`, `[at, capturedBefore]`, `[at, bytes]` */
const came = { pictures: [], sound: [], clicks: [], data: [] }
/** A look at the statistics every 100 ms. */
const looks = []

const operations = {
  async open({ config, judged }) {
    scene = judged ? makeScene(judged.width, judged.height, judged.noise) : null
    transport = await WebRtcTransport.create(config)
    transport.on('video', ({ data }) => sawPicture(data.data.frame))
    transport.on('audio', ({ data }) => heard(data.data.samples))
    transport.on('data', ({ data }) => came.data.push([now(), data.data.data.length]))
  },
  connect: ({ peerId }) => transport.connectPeer(peerId, { timeoutMs: 20_000 }),
  /** Sends until `stop`: pictures of the scene, speech or clicks, messages of `data` bytes as fast as they are taken. */
  start({ to, fps = 30, video = true, audio = 'speech', frameMs = 20, data = 0 }) {
    running = true
    const start = now()
    if (video) pace(start, 1000 / fps, (n) => sendPicture(to, n, fps))
    if (audio) pace(start, frameMs, (n) => sendSound(to, n, audio, frameMs))
    if (data > 0) void bulk(to, data)
  },
  stop() {
    running = false
  },
  /** More or less data while all else goes on. */
  bulk: ({ to, size }) => void bulk(to, size),
  watch({ peerId }) {
    pace(
      now(),
      100,
      () => look(peerId),
      () => true,
    )
  },
  came: () => came,
  sent: () => sent,
  looks: () => looks,
  stats: async ({ peerId }) => [...(await transport.getStats(peerId)).values()],
  cpu: () => process.cpuUsage(),
  close: () => transport.close(),
}

createInterface(process.stdin)
  .on('line', async (line) => {
    const { id, op, ...parameters } = JSON.parse(line)
    try {
      put({ id, result: (await operations[op](parameters)) ?? null })
    } catch (error) {
      put({ id, error: { message: String(error.message), code: error.code } })
    }
  })
  .on('close', () => process.exit(0))
put({ event: 'ready', at: now() })

/** Speech at 48 kHz: Opus makes copies (in-band FEC) of nothing else at such bitrates. */
function loadSpeech() {
  const bytes = readFileSync(new URL('../../../crates/pipeline/tests/data/speech_16k.s16', import.meta.url))
  const at16k = new Int16Array(bytes.buffer, bytes.byteOffset, bytes.length >> 1)
  return Float32Array.from({ length: at16k.length * 3 }, (_, i) => {
    const [before, after] = [
      at16k[Math.floor(i / 3)],
      at16k[Math.min(at16k.length - 1, Math.floor(i / 3) + 1)],
    ]
    return (before + ((after - before) * (i % 3)) / 3) / 32_768
  })
}

/** Calls as often as that, without drift, until `stop`; what is late is made up for. */
function pace(start, everyMs, call, goesOn = () => running) {
  let n = 0
  const tick = () => {
    if (!goesOn()) return
    while (now() >= start + n * everyMs) call(n++)
    setTimeout(tick, Math.max(1, start + n * everyMs - now()))
  }
  tick()
}

function sendPicture(to, n, fps) {
  const { width, height } = scene
  const number = n % PERIOD
  const frame = VideoFrame.from(scene.picture(number), {
    format: 'I420',
    width,
    height,
    timestampUs: Math.round((n * 1e6) / fps),
  })
  sent.pictures[number] = now()
  transport.sendToPeer(to, { kind: 'video', frame }).catch(() => sent.dropped++)
  frame.close()
}

function sendSound(to, n, kind, frameMs) {
  const count = (RATE * frameMs) / 1000
  const samples = new Float32Array(count)
  const every = CLICK_EVERY_MS / frameMs
  if (kind === 'speech') {
    for (let i = 0; i < count; i++) samples[i] = speech[(n * count + i) % speech.length]
  } else if (n % every === every - 1) {
    // The click's first sample was captured a whole frame before the frame could be sent.
    for (let i = 0; i < 240; i++) samples[i] = 0.8 * Math.sin((2 * Math.PI * 2000 * i) / RATE)
    sent.clicks.push(now() - frameMs)
  }
  const data = { kind: 'audio', samples, sampleRate: RATE, channels: 1 }
  transport.sendToPeer(to, { data, timestampUs: n * frameMs * 1000 }).catch(() => sent.dropped++)
}

async function bulk(to, size) {
  const data = new Uint8Array(size)
  while (running) await transport.sendToPeer(to, { kind: 'binary', data }).catch(() => pause(100))
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

let judgements = 0

function sawPicture(frame) {
  const at = now()
  const [luma] = frame.planes
  const number = readStamp(luma.data, luma.stride, frame.width)
  const entry = [at, number, frame.width, frame.height]
  // Judging costs more than decoding: some of them.
  if (scene && number !== null && judgements++ % 6 === 0) {
    const { psnr, ssim } = scene.judge(number, luma.data, luma.stride, frame.width, frame.height)
    entry.push(psnr, ssim)
  }
  came.pictures.push(entry)
}

function heard(samples) {
  const at = now()
  const click = samples.findIndex((sample) => Math.abs(sample) > 0.2)
  came.sound.push([at, samples.length])
  const last = came.clicks.at(-1) ?? Number.NEGATIVE_INFINITY
  if (click >= 0 && at - last > CLICK_EVERY_MS / 2) came.clicks.push(at + (click * 1000) / RATE)
}

async function look(peerId) {
  const all = [...(await transport.getStats(peerId)).values()]
  const of = (type, kind) => all.find((s) => s.type === type && (kind === undefined || s.kind === kind)) ?? {}
  const path = of('candidate-pair')
  looks.push({
    at: now(),
    estimate: path.availableOutgoingBitrate ?? null,
    sent: path.bytesSent,
    received: path.bytesReceived,
    videoSent: of('outbound-rtp', 'video').bytesSent,
    videoReceived: of('inbound-rtp', 'video').bytesReceived,
    samples: of('inbound-rtp', 'audio').totalSamplesReceived,
    concealed: of('inbound-rtp', 'audio').concealedSamples,
  })
}
