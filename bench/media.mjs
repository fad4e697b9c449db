#!/usr/bin/env node
// How late pictures and sound are, from `sendToPeer` here to the `video` and `audio` events there: two Node peers in one process on
// this machine, through the public API. Each picture carries its number; the sound is silence with a click every half second.
//
//   node bench/media.mjs [--seconds 10] [--size 1280x720] [--fps 30] [--codec vp9] [--frame-ms 20] [--json]
//
// Sound is timed from the moment a sample would have been captured to the moment it could be played: a frame of 20 ms costs 20 ms
// before anything is sent, and Opus itself 6.5 ms.

import { parseArgs } from 'node:util'
import { SignalingServer, VideoFrame, WebRtcTransport } from '../dist/index.js'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '10' },
    size: { type: 'string', default: '1280x720' },
    fps: { type: 'string', default: '30' },
    codec: { type: 'string', default: 'vp9' },
    'frame-ms': { type: 'string', default: '20' },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) {
  console.log(
    'node bench/media.mjs [--seconds 10] [--size 1280x720] [--fps 30] [--codec vp9|vp8|h264] [--frame-ms 10|20] [--json]',
  )
  process.exit(0)
}

const [width, height] = values.size.split('x').map(Number)
const fps = Number(values.fps)
const frameMs = Number(values['frame-ms'])
const RATE = 48_000
const BLOCK = 16
const BITS = 12

const server = await SignalingServer.listen({ port: 0 })
const config = { signalingUrl: server.url, videoCodec: values.codec, audio: { frameMs } }
const a = await WebRtcTransport.create({ ...config, peerId: 'a' })
const b = await WebRtcTransport.create({ ...config, peerId: 'b' })
await a.connectPeer('b')

const pictures = { sentAt: [], latencies: [], seen: 0 }
const sound = { sentAt: [], latencies: [] }
const pool = scene()

b.on('video', ({ data }) => {
  const now = performance.now()
  const [luma] = data.data.frame.planes
  let number = 0
  for (let bit = 0; bit < BITS; bit++) {
    const at = (BLOCK / 2) * luma.stride + bit * BLOCK + BLOCK / 2
    if (luma.data[at] > 128) number |= 1 << bit
  }
  pictures.seen++
  const sentAt = pictures.sentAt[number]
  if (sentAt !== undefined && data.data.frame.width === width) pictures.latencies.push(now - sentAt)
})

let lastClick = 0
b.on('audio', ({ data }) => {
  const now = performance.now()
  const { samples } = data.data
  const at = samples.findIndex((sample) => Math.abs(sample) > 0.2)
  if (at < 0 || now - lastClick < 250) return
  lastClick = now
  const heardAt = now + (at * 1000) / RATE
  const captured = sound.sentAt.findLast((time) => time < heardAt)
  if (captured !== undefined) sound.latencies.push(heardAt - captured)
})

const start = performance.now()
const cpu = process.cpuUsage()
const rssBefore = process.memoryUsage.rss()
let shown = 0
let spoken = 0
const end = start + Number(values.seconds) * 1000
while (performance.now() < end) {
  const now = performance.now()
  if (now - start >= (shown * 1000) / fps) {
    // There and back, so that nothing jumps.
    const turn = shown % (2 * pool.length - 2)
    const picture = pool[turn < pool.length ? turn : 2 * pool.length - 2 - turn]
    stamp(picture, shown % 2 ** BITS)
    const frame = VideoFrame.from(picture, {
      format: 'I420',
      width,
      height,
      timestampUs: Math.round((shown * 1e6) / fps),
    })
    pictures.sentAt[shown % 2 ** BITS] = performance.now()
    void a.sendToPeer('b', { kind: 'video', frame })
    frame.close()
    shown++
  }
  if (now - start >= (spoken + 1) * frameMs) {
    const samples = new Float32Array((RATE * frameMs) / 1000)
    const clickEvery = 500 / frameMs
    if (spoken % clickEvery === clickEvery - 1) {
      // The click's first sample was captured a whole frame before the frame could be sent.
      for (let i = 0; i < 240; i++) samples[i] = 0.8 * Math.sin((2 * Math.PI * 2000 * i) / RATE)
      sound.sentAt.push(performance.now() - frameMs)
    }
    void a.sendToPeer('b', {
      data: { kind: 'audio', samples, sampleRate: RATE, channels: 1 },
      timestampUs: spoken * frameMs * 1000,
    })
    spoken++
  }
  await new Promise((resolve) => setTimeout(resolve, 1))
}
await new Promise((resolve) => setTimeout(resolve, 300))
const used = process.cpuUsage(cpu)
const stats = [...(await a.getStats('b')).values()].find(
  (s) => s.type === 'outbound-rtp' && s.kind === 'video',
)
const seconds = (performance.now() - start) / 1000
const result = {
  codec: values.codec,
  size: values.size,
  video: { sent: shown, seen: pictures.seen, ...summary(pictures.latencies.slice(fps)) },
  videoKbps: Math.round((stats.bytesSent * 8) / seconds / 1000),
  audio: { clicks: sound.sentAt.length, ...summary(sound.latencies.slice(1)) },
  cores: round((used.user + used.system) / 1e6 / seconds, 2),
  rssGrowthMiB: round((process.memoryUsage.rss() - rssBefore) / 2 ** 20, 0),
}
await Promise.all([a.close(), b.close()])
await server.close()
if (values.json) console.log(JSON.stringify(result))
else {
  const line = (name, { p50, p99, max, samples }) =>
    `${name} p50 ${p50} ms, p99 ${p99}, max ${max} (${samples} samples)`
  console.log(line(`${values.codec} ${values.size} at ${fps}, ${result.videoKbps} kbit/s:`, result.video))
  console.log(line(`sound in frames of ${frameMs} ms:`, result.audio))
  console.log(`${result.cores} cores for both ends`)
}

/** Half a second of a textured scene that moves, as I420. */
function scene() {
  const frames = []
  let seed = 7
  const random = () => {
    seed = (seed * 1103515245 + 12345) & 0x7fffffff
    return seed / 0x7fffffff
  }
  const texture = Array.from({ length: 256 * 256 }, () => random() * 30 - 15)
  for (let n = 0; n < 15; n++) {
    const frame = new Uint8Array((width * height * 3) / 2)
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const u = x + n * 4
        const smooth = 120 + 60 * Math.sin(u / 61) * Math.cos(y / 47)
        frame[y * width + x] = smooth + texture[((y >> 1) & 255) * 256 + ((u >> 1) & 255)]
      }
    }
    frame.fill(110, width * height, (width * height * 5) / 4)
    frame.fill(140, (width * height * 5) / 4)
    frames.push(frame)
  }
  return frames
}

/** The number as black and white blocks in the top row. */
function stamp(frame, number) {
  for (let bit = 0; bit < BITS; bit++) {
    const level = number & (1 << bit) ? 235 : 16
    for (let y = 0; y < BLOCK; y++) {
      frame.fill(level, y * width + bit * BLOCK, y * width + (bit + 1) * BLOCK)
    }
  }
}

function summary(times) {
  const sorted = [...times].sort((x, y) => x - y)
  const at = (q) => round(sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN, 1)
  return { samples: sorted.length, p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1) }
}

function round(value, digits) {
  return Number(value.toFixed(digits))
}
