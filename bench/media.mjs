#!/usr/bin/env node
// How late pictures and sound are, from `sendToPeer` here to the `video` and `audio` events there: two Node peers in one process on
// this machine, through the public API. Each picture carries its number; the sound is silence with a click every half second.
//
//   node bench/media.mjs [--seconds 10] [--size 1280x720] [--fps 30] [--codec vp9] [--frame-ms 20] [--through blur.yaml] [--json]
//
// With `--through` pictures go through the pipeline of a manifest first (its last node's output), examples/demo/blur.yaml for one.
// Sound is timed from the moment a sample would have been captured to the moment it could be played: a frame of 20 ms costs 20 ms
// before anything is sent, and Opus itself 6.5 ms.

import { parseArgs } from 'node:util'
import { Manifest, SignalingServer, VideoFrame, WebRtcTransport } from '../dist/index.js'
import { click, round, scene, summary } from './lib/scene.mjs'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '10' },
    size: { type: 'string', default: '1280x720' },
    fps: { type: 'string', default: '30' },
    codec: { type: 'string', default: 'vp9' },
    'frame-ms': { type: 'string', default: '20' },
    through: { type: 'string' },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) {
  console.log(
    'node bench/media.mjs [--seconds 10] [--size 1280x720] [--fps 30] [--codec vp9|vp8|h264] [--frame-ms 10|20] [--through manifest] [--json]',
  )
  process.exit(0)
}

const [width, height] = values.size.split('x').map(Number)
const fps = Number(values.fps)
const frameMs = Number(values['frame-ms'])
const RATE = 48_000

const server = await SignalingServer.listen({ port: 0 })
const config = { signalingUrl: server.url, videoCodec: values.codec, audio: { frameMs } }
const a = await WebRtcTransport.create({ ...config, peerId: 'a' })
const b = await WebRtcTransport.create({ ...config, peerId: 'b' })
await a.connectPeer('b')

const pictures = { sentAt: [], latencies: [], seen: 0 }
const sound = { sentAt: [], latencies: [] }
// Large enough to be read through a blur.
const stamped = scene(width, height, values.through ? 64 : 16)

function seen(frame) {
  const now = performance.now()
  pictures.seen++
  const sentAt = pictures.sentAt[stamped.read(frame.planes[0])]
  if (sentAt !== undefined && frame.width === width) pictures.latencies.push(now - sentAt)
}
if (values.through) {
  const manifest = await Manifest.fromFile(values.through)
  const session = await b.stream(manifest)
  const last = manifest.nodeIds.at(-1)
  session.route({ from: ['a'], track: 'video', through: last, to: [] })
  session.onOutput(last, ({ data }) => seen(data.data.frame))
} else b.on('video', ({ data }) => seen(data.data.frame))

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
    const picture = stamped.picture(shown)
    const frame = VideoFrame.from(picture, {
      format: 'I420',
      width,
      height,
      timestampUs: Math.round((shown * 1e6) / fps),
    })
    pictures.sentAt[shown % stamped.numbers] = performance.now()
    void a.sendToPeer('b', { kind: 'video', frame })
    frame.close()
    shown++
  }
  if (now - start >= (spoken + 1) * frameMs) {
    const length = (RATE * frameMs) / 1000
    let samples = new Float32Array(length)
    const clickEvery = 500 / frameMs
    if (spoken % clickEvery === clickEvery - 1) {
      // The click's first sample was captured a whole frame before the frame could be sent.
      samples = click(length, RATE)
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
const [stats] = (await a.getStats('b')).of('outbound-rtp', 'video')
const seconds = (performance.now() - start) / 1000
const result = {
  codec: values.codec,
  through: values.through ?? null,
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
