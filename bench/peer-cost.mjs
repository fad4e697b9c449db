#!/usr/bin/env node
// What a peer costs with media: one process calls 0, 1, 2 … others, each a process of its own, and all send 720p30 VP9 and sound to each
// other as raw pictures and samples. Told are the CPU time and the memory of the first process alone.
//
//   node bench/peer-cost.mjs [--peers 2] [--seconds 10] [--size 1280x720] [--fps 30] [--codec vp9] [--json]

import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { SignalingServer, VideoFrame, WebRtcTransport } from '../dist/index.js'
import { round, scene } from './lib/scene.mjs'

const { values } = parseArgs({
  options: {
    peers: { type: 'string', default: '2' },
    seconds: { type: 'string', default: '10' },
    size: { type: 'string', default: '1280x720' },
    fps: { type: 'string', default: '30' },
    codec: { type: 'string', default: 'vp9' },
    url: { type: 'string' },
    name: { type: 'string' },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) {
  console.log(
    'node bench/peer-cost.mjs [--peers 2] [--seconds 10] [--size 1280x720] [--fps 30] [--codec vp9] [--json]',
  )
  process.exit(0)
}

const [width, height] = values.size.split('x').map(Number)
const fps = Number(values.fps)
const RATE = 48_000
const FRAME_MS = 20

if (values.url) await member(values.url, values.name)
else await lead()

/** Starts a process for the peer that is measured and one for each other, and reads the first one's counters. */
async function lead() {
  const server = await SignalingServer.listen({ port: 0 })
  const children = []
  const start = async (name) => {
    const args = ['--url', server.url, '--name', name, '--size', values.size, '--fps', values.fps]
    const child = fork(fileURLToPath(import.meta.url), [...args, '--codec', values.codec])
    children.push(child)
    await once(child, 'message')
    return child
  }
  const subject = await start('subject')
  const ask = async () => {
    subject.send('count')
    const [counters] = await once(subject, 'message')
    return counters
  }
  const rows = []
  for (let peers = 0; peers <= Number(values.peers); peers++) {
    if (peers > 0) await start(`other-${peers}`)
    await wait(3000)
    const before = await ask()
    await wait(Number(values.seconds) * 1000)
    const after = await ask()
    const seconds = (after.at - before.at) / 1000
    rows.push({
      peers,
      cores: round((after.cpu - before.cpu) / seconds, 3),
      rssMiB: round(after.rss / 2 ** 20, 1),
      picturesInPerSecond: round((after.pictures - before.pictures) / seconds, 1),
      picturesOutPerSecond: round((after.sent - before.sent) / seconds, 1),
      soundInPerSecond: round((after.heard - before.heard) / seconds, 2),
    })
    if (!values.json) {
      const row = rows.at(-1)
      console.log(
        `${peers} peers: ${row.cores} cores, ${row.rssMiB} MiB; pictures ${row.picturesOutPerSecond}/s made, ` +
          `${row.picturesInPerSecond}/s seen; ${row.soundInPerSecond} s of sound a second heard`,
      )
    }
  }
  for (const child of children) child.send('end')
  await Promise.all(children.map((child) => once(child, 'exit')))
  await server.close()
  const last = rows.at(-1)
  const perPeer = (key) => round((last[key] - rows[0][key]) / last.peers, 3)
  const result = {
    codec: values.codec,
    size: values.size,
    rows,
    coresAPeer: perPeer('cores'),
    MiBAPeer: perPeer('rssMiB'),
  }
  if (values.json) console.log(JSON.stringify(result))
  else
    console.log(
      `a peer: ${result.coresAPeer} cores, ${result.MiBAPeer} MiB (our own pictures are made and sampled either way)`,
    )
}

/** A peer that sends pictures and sound to everybody there is, and takes theirs. */
async function member(url, peerId) {
  const transport = await WebRtcTransport.create({ signalingUrl: url, peerId, videoCodec: values.codec })
  const stamped = scene(width, height)
  let pictures = 0
  let heard = 0
  let shown = 0
  let spoken = 0
  transport.on('video', () => pictures++)
  transport.on('audio', ({ data }) => {
    heard += data.data.samples.length / data.data.channels / data.data.sampleRate
  })
  transport.on('error', (error) => console.error(`${peerId}: ${error.message}`))
  const start = performance.now()
  const timer = setInterval(() => {
    const elapsed = performance.now() - start
    while (elapsed >= (shown * 1000) / fps) {
      const timestampUs = Math.round((shown * 1e6) / fps)
      const frame = VideoFrame.from(stamped.picture(shown++), { format: 'I420', width, height, timestampUs })
      void transport.broadcast({ kind: 'video', frame })
      frame.close()
    }
    while (elapsed >= (spoken + 1) * FRAME_MS) {
      const samples = new Float32Array((RATE * FRAME_MS) / 1000)
      const at = spoken * samples.length
      for (let i = 0; i < samples.length; i++)
        samples[i] = 0.3 * Math.sin((2 * Math.PI * 300 * (at + i)) / RATE)
      void transport.broadcast({
        data: { kind: 'audio', samples, sampleRate: RATE, channels: 1 },
        timestampUs: spoken++ * FRAME_MS * 1000,
      })
    }
  }, 4)
  process.on('message', async (message) => {
    if (message === 'count') {
      globalThis.gc?.()
      const { user, system } = process.cpuUsage()
      const rss = process.memoryUsage.rss()
      process.send({ at: performance.now(), cpu: (user + system) / 1e6, rss, pictures, heard, sent: shown })
      return
    }
    clearInterval(timer)
    await transport.close()
    process.disconnect()
  })
  process.send('ready')
}

function wait(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
