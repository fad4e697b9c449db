// One peer in a process of its own, driven over standard input and output: a line of JSON for each request
// `{id, op, ...}`, each answer `{id, result}` or `{id, error}`, and each event `{event, at, ...}`. Times are milliseconds of the
// monotonic clock, which all processes of a machine share. Ends with its standard input.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const library = process.env.REMOTEMEDIA_DIST
  ? pathToFileURL(`${process.env.REMOTEMEDIA_DIST}/index.js`).href
  : new URL('../../../dist/index.js', import.meta.url).href
const { SignalingClient, VideoFrame, WebRtcTransport } = await import(library)

const now = () => Number(process.hrtime.bigint()) / 1e6
const put = (message) => process.stdout.write(`${JSON.stringify(message)}\n`)
const tell = (event, more = {}) => put({ event, at: now(), ...more })

let transport
/** What this peer said through signaling. */
const signals = []
/** By peer: the numbers that came, `[number, at]`. */
const numbers = new Map()
/** By peer and kind: `[at, timestampUs, level]` of each frame. Audio: dB of full scale. Video: mean luma. */
const media = new Map()
const senders = new Map()
let nextSender = 1

watchSignals()

const operations = {
  async open({ config, relayCredentials }) {
    const full = { ...config }
    if (relayCredentials) full.turnServers = () => ask('turnServers')
    transport = await WebRtcTransport.create(full)
    for (const name of ['peerjoined', 'peerleft', 'peerstatechange'])
      transport.on(name, (event) => tell(name, event))
    transport.on('error', (error) =>
      tell('error', { code: error.code, message: error.message, peerId: error.peerId }),
    )
    transport.on('data', ({ peerId, data }) => receive(peerId, data.data))
    transport.on('audio', ({ peerId, data }) =>
      frame(peerId, 'audio', data.timestampUs, levelOf(data.data.samples)),
    )
    transport.on('video', ({ peerId, data }) =>
      frame(peerId, 'video', data.timestampUs, lumaOf(data.data.frame)),
    )
    transport.on('channel', ({ peerId, channel }) => {
      tell('channel', { peerId, label: channel.label })
      adopt(peerId, channel)
    })
    return transport.peerId
  },
  connect: ({ peerId, timeoutMs }) => transport.connectPeer(peerId, { timeoutMs }),
  peers: () => transport.listPeers(),
  stats: async ({ peerId }) => [...(await transport.getStats(peerId)).values()],
  counters: () => transport.counters,

  /** Sends numbers without end, one every `intervalMs`, `size` bytes each; with `label`, on that channel. */
  sendNumbers({ to, intervalMs, size, limit = Number.POSITIVE_INFINITY, label }) {
    return repeat(intervalMs, limit, async (n) => {
      const data = new Uint8Array(Math.max(4, size))
      new DataView(data.buffer).setUint32(0, n)
      if (label) await channels.get(`${to}/${label}`).send({ kind: 'binary', data })
      else if (to === '*') await transport.broadcast({ kind: 'binary', data })
      else await transport.sendToPeer(to, { kind: 'binary', data })
    })
  },
  /** A sine at half of full scale, 20 ms a time. */
  sendTone({ to, hz }) {
    return repeat(20, Number.POSITIVE_INFINITY, async (n) => {
      const samples = new Float32Array(960)
      for (let i = 0; i < 960; i++) samples[i] = 0.5 * Math.sin((2 * Math.PI * hz * (n * 960 + i)) / 48_000)
      const item = {
        data: { kind: 'audio', samples, sampleRate: 48_000, channels: 1 },
        timestampUs: n * 20_000,
      }
      if (to === '*') await transport.broadcast(item)
      else await transport.sendToPeer(to, item)
    })
  },
  /** Grey pictures, 160x120, whose brightness goes up with each in steps of 6 from 32, 32 of them. */
  sendVideo({ to, fps }) {
    return repeat(1000 / fps, Number.POSITIVE_INFINITY, async (n) => {
      const pixels = new Uint8Array(160 * 120 * 1.5).fill(128)
      pixels.fill(32 + 6 * (n % 32), 0, 160 * 120)
      const timestampUs = Math.round((n * 1e6) / fps)
      const picture = VideoFrame.from(pixels, { format: 'I420', width: 160, height: 120, timestampUs })
      try {
        if (to === '*') await transport.broadcast({ kind: 'video', frame: picture })
        else await transport.sendToPeer(to, { kind: 'video', frame: picture })
      } finally {
        picture.close()
      }
    })
  },
  /** Ends one of these; what it sent, and what was refused: `[number, at, code]`. */
  stop({ sender }) {
    const { timer, state } = senders.get(sender)
    clearInterval(timer)
    senders.delete(sender)
    return state
  },
  /** What a sender has done so far. */
  progress: ({ sender }) => senders.get(sender).state,

  numbers: ({ from }) => numbers.get(from) ?? [],
  media: ({ from, kind, since = 0 }) => (media.get(`${from}/${kind}`) ?? []).filter(([at]) => at >= since),
  signals: () => signals,
  census: () => ({
    threads: readdirSync('/proc/self/task').length,
    files: readdirSync('/proc/self/fd').length,
    sockets: readdirSync('/proc/self/fd').filter((fd) => isSocket(fd)).length,
    rss: Number(/VmRSS:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024,
  }),
  async openChannel({ peerId, label, mode }) {
    adopt(peerId, await transport.openChannel(peerId, label, { mode }))
  },
  disconnect: ({ peerId }) => transport.disconnectPeer(peerId),
  close: () => transport.close(),
}

/** Further channels by `peer/label`. */
const channels = new Map()

function adopt(peerId, channel) {
  const key = `${peerId}/${channel.label}`
  channels.set(key, channel)
  channel.on('message', (message) => receive(key, message))
  channel.on('close', () => tell('channelclosed', { peerId, label: channel.label }))
}

/** Questions to whoever drives us, by number. */
const questions = new Map()
let nextQuestion = 1

function ask(question) {
  const number = nextQuestion++
  tell('question', { question, number })
  return new Promise((resolve) => questions.set(number, resolve))
}

createInterface(process.stdin)
  .on('line', async (line) => {
    const { id, op, ...parameters } = JSON.parse(line)
    if (op === 'answer') {
      questions.get(parameters.number)?.(parameters.value)
      questions.delete(parameters.number)
      return
    }
    try {
      put({ id, result: (await operations[op](parameters)) ?? null })
    } catch (error) {
      put({ id, error: { message: error.message, code: error.code, stack: error.stack } })
    }
  })
  .on('close', () => process.exit(0))
tell('ready')

function receive(from, data) {
  if (data.kind !== 'binary') {
    tell('message', { from, data })
    return
  }
  const all = numbers.get(from) ?? []
  all.push([new DataView(data.data.buffer, data.data.byteOffset).getUint32(0), now()])
  numbers.set(from, all)
}

function frame(from, kind, timestampUs, level) {
  const key = `${from}/${kind}`
  const all = media.get(key) ?? []
  all.push([now(), timestampUs, level])
  media.set(key, all)
}

function levelOf(samples) {
  let energy = 0
  for (const sample of samples) energy += sample * sample
  return Math.round(100 * Math.log10(energy / samples.length + 1e-12)) / 10
}

function lumaOf(picture) {
  const [luma] = picture.planes
  let sum = 0
  for (let y = 8; y < picture.height; y += 16)
    for (let x = 8; x < picture.width; x += 16) sum += luma.data[y * luma.stride + x]
  return sum / (Math.ceil((picture.height - 8) / 16) * Math.ceil((picture.width - 8) / 16))
}

/** Calls `send(n)` at an even pace; a process that was held up catches up. */
function repeat(intervalMs, limit, send) {
  const sender = nextSender++
  const start = now()
  const state = { sent: 0, refused: [] }
  const timer = setInterval(() => {
    for (let i = 0; i < 8 && state.sent < limit && now() - start >= state.sent * intervalMs; i++) {
      const n = state.sent++
      send(n).catch((error) => {
        state.refused.push([n, now(), error.code ?? error.message])
      })
    }
  }, 5)
  senders.set(sender, { timer, state })
  return sender
}

function isSocket(fd) {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`).startsWith('socket:')
  } catch {
    return false
  }
}

function watchSignals() {
  for (const kind of ['offer', 'answer', 'candidate']) {
    const original = SignalingClient.prototype[kind]
    SignalingClient.prototype[kind] = function (to, what) {
      const text = typeof what === 'string' ? what : what.candidate
      const ufrag = /a=ice-ufrag:(\S+)/.exec(text)?.[1]
      signals.push({
        at: now(),
        kind,
        to,
        ...(kind === 'candidate' ? { candidate: text } : { ufrag, sdp: text }),
      })
      return original.call(this, to, what)
    }
  }
  const { connect } = SignalingClient
  SignalingClient.connect = async function (...given) {
    const client = await connect.apply(this, given)
    client.on('reconnecting', ({ attempt, delayMs }) => tell('signalinglost', { attempt, delayMs }))
    client.on('reconnected', ({ peers, resumed }) =>
      tell('signalingback', { peers: peers.map(({ peerId }) => peerId), resumed }),
    )
    client.on('joined', ({ peerId }) => tell('roomjoined', { peerId }))
    client.on('left', ({ peerId, reason }) => tell('roomleft', { peerId, reason }))
    return client
  }
}
