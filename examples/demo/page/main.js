// The demo: joins the room, calls the pipeline's peer, and ties what happens to what is shown.

import { Call } from './call.js'
import { LevelMeter, openSource, percentile, ReturnMeter, StampedSource } from './media.js'
import { CONNECTION_FAILED, explain, PEER_MISSING } from './problems.js'
import { Signaling } from './signaling.js'
import { StatsReader } from './stats.js'
import { Ui } from './ui.js'

/** Someone who was in the room first waits this long for the newcomer's offer, then makes one. */
const OFFER_GRACE_MS = 5000
const FIGURES_EVERY_MS = 1000
const LEVELS_EVERY_MS = 66
/** Picture latency is shown over this many of the newest frames. */
const LATENCY_WINDOW = 60

const query = new URLSearchParams(location.search)
const ui = new Ui()
let session = null
let hearsVoice = false

/** From Start to Leave: the room, the sources, and one call at a time with the pipeline's peer. */
class Session {
  #signaling
  #stream
  #call = null
  #stamped = null
  #meter
  #audioContext = new AudioContext()
  #levels = {}
  #loudest = { local: -100, remote: -100 }
  #reader = null
  #timers = []
  #offerTimer
  #pings = new Map()
  #nextId = 1
  #echoes = []
  /** What came back for what was sent: `binary` counts only messages that are the same byte for byte. */
  #returnedData = { text: 0, json: 0, binary: 0 }
  #dataTrips = []
  #exercising = false
  #closed = false
  #node = null
  #startedAt = performance.now()
  #connectedAt = null

  constructor(source) {
    this.source = source
  }

  async start() {
    const config = await readConfig()
    this.config = config
    ui.showState('Opening camera …', 'busy')
    this.#stream = await openSource(this.source)
    if (this.#closed) {
      for (const track of this.#stream.getTracks()) track.stop()
      return
    }
    ui.showLocal(this.#stream, { mirrored: this.source === 'camera' })
    const microphone = this.#stream.getAudioTracks()[0]
    if (microphone) this.#levels.local = new LevelMeter(this.#audioContext, microphone)
    this.#meter = new ReturnMeter(ui.remote, () => this.#stamped)
    if (ui.measures) await this.measure(true)

    ui.showState('Joining …', 'busy')
    this.#signaling = new Signaling({
      url: config.signalingUrl,
      peerId: `you-${crypto.getRandomValues(new Uint32Array(1))[0].toString(16).padStart(8, '0')}`,
      room: config.room,
    })
    this.#listen()
    await this.#signaling.join()
    this.#timers.push(setInterval(() => this.#showFigures(), FIGURES_EVERY_MS))
    this.#timers.push(setInterval(() => this.#showLevels(), LEVELS_EVERY_MS))
  }

  /** Puts stamps on the outgoing picture, or takes them off. */
  async measure(on) {
    if (on === (this.#stamped !== null) || !this.#stream) return
    const [plain] = this.#stream.getVideoTracks()
    if (!on) {
      await this.#call?.replaceVideo(plain)
      this.#stamped.stop()
      this.#stamped = null
      return
    }
    if (ui.local.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) {
      await new Promise((resolve) => ui.local.addEventListener('loadeddata', resolve, { once: true }))
    }
    this.#stamped = new StampedSource(ui.local)
    await this.#call?.replaceVideo(this.#stamped.track)
  }

  apply(settings) {
    if (this.#call?.open) this.#call.sendJson({ type: 'control', id: this.#nextId++, settings })
  }

  chat(text) {
    if (!this.#call?.open) return
    this.#call.sendText(text)
    ui.addChat('you', text)
  }

  enable(kind, on) {
    for (const track of this.#stream?.getTracks() ?? []) if (track.kind === kind) track.enabled = on
  }

  close() {
    if (this.#closed) return
    this.#closed = true
    for (const timer of this.#timers) clearInterval(timer)
    clearTimeout(this.#offerTimer)
    this.#call?.close()
    this.#call = null
    this.#signaling?.close()
    this.#meter?.stop()
    this.#stamped?.stop()
    for (const level of Object.values(this.#levels)) level.stop()
    this.#audioContext.close()
    for (const track of this.#stream?.getTracks() ?? []) track.stop()
    ui.remote.srcObject = null
    ui.voice.srcObject = null
  }

  /**
   * Sends `count` messages of each kind and waits for all to come back, at most `timeoutMs`. The peer answers a chat text
   * with one text, a ping with a pong and a binary message with the same bytes.
   */
  async exerciseData(count, timeoutMs) {
    const call = this.#call
    if (!call?.open) throw new Error('the data channel is not open')
    const returned = this.#returnedData
    this.#exercising = true
    const goal = { text: returned.text + count, json: returned.json + count, binary: returned.binary + count }
    for (let i = 0; i < count; i++) {
      call.sendText(`message ${i + 1} of ${count}, ünïcödé 🙂`)
      this.#ping()
      const bytes = new Uint8Array(1 + 997 * i)
      for (let j = 0; j < bytes.length; j++) bytes[j] = (i * 31 + j * 7) & 0xff
      this.#echoes.push(bytes)
      call.sendBinary(bytes)
    }
    const deadline = performance.now() + timeoutMs
    const missing = () => Object.keys(goal).some((kind) => returned[kind] < goal[kind])
    while (missing() && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20))
    this.#exercising = false
  }

  async report() {
    const reading = this.#call ? await new StatsReader(this.#call.pc).read() : null
    const latencies = this.#meter?.latencies ?? []
    const call = this.#call
    return {
      peerId: this.#signaling?.peerId ?? null,
      connectionState: call?.pc.connectionState ?? 'closed',
      connectMs: this.#since(this.#connectedAt),
      firstFrameMs: this.#since(this.#meter?.firstFrameAt),
      framesStamped: this.#stamped?.frames ?? 0,
      framesShown: this.#meter?.framesShown ?? 0,
      stampsUnreadable: this.#meter?.unreadable ?? 0,
      roundTripMs: reading?.roundTripMs ?? null,
      path: reading?.path ?? null,
      video: reading?.video ?? null,
      audio: reading?.audio ?? null,
      loudestDbfs: this.#loudest,
      data: {
        sent: call?.sent ?? null,
        returned: { ...this.#returnedData },
        roundTripMs: { p50: percentile(this.#dataTrips, 0.5), p99: percentile(this.#dataTrips, 0.99) },
      },
      latencyMs: {
        samples: latencies.length,
        p50: percentile(latencies, 0.5),
        p99: percentile(latencies, 0.99),
      },
      latencies,
      node: this.#node,
    }
  }

  #listen() {
    const signaling = this.#signaling
    const on = (type, listener) => signaling.addEventListener(type, ({ detail }) => listener(detail))
    const isPeer = (detail) => (detail.peer_id ?? detail.from) === this.config.peer
    on('announced', ({ other_peers: others }) => {
      // After a reconnection of signaling alone the call is still there.
      if (this.#call && this.#call.pc.connectionState !== 'failed') return
      if (others.includes(this.config.peer)) {
        this.#newCall().start()
      } else {
        ui.showState('Waiting for the pipeline', 'busy')
        ui.showProblem(PEER_MISSING)
      }
    })
    on('lost', () => {
      if (!this.#call) ui.showState('Signaling lost, reconnecting …', 'busy')
    })
    on('refused', ({ error }) => fail(this, error))
    on('peer.joined', (detail) => {
      if (!isPeer(detail)) return
      ui.showProblem(null)
      this.#dropCall()
      ui.showState('Waiting for an offer …', 'busy')
      this.#offerTimer = setTimeout(() => this.#newCall().start(), OFFER_GRACE_MS)
    })
    on('peer.left', (detail) => {
      if (!isPeer(detail)) return
      this.#dropCall()
      ui.addChatNote('The pipeline left the room.')
      ui.showState('The pipeline left', 'busy')
      ui.showProblem(PEER_MISSING)
    })
    for (const method of ['peer.offer', 'peer.answer', 'peer.ice_candidate']) {
      on(method, (detail) => {
        if (!isPeer(detail)) return
        if (method === 'peer.offer') clearTimeout(this.#offerTimer)
        const call = this.#call ?? (method === 'peer.offer' ? this.#newCall() : null)
        call?.signal(method, detail)
      })
    }
  }

  #newCall() {
    clearTimeout(this.#offerTimer)
    this.#call?.close()
    const outgoing = new MediaStream(this.#stream.getAudioTracks())
    outgoing.addTrack(this.#stamped?.track ?? this.#stream.getVideoTracks()[0])
    const call = new Call({
      signaling: this.#signaling,
      remoteId: this.config.peer,
      stream: outgoing,
      codec: query.get('codec') ?? undefined,
    })
    this.#call = call
    this.#reader = new StatsReader(call.pc)
    const on = (type, listener) =>
      call.addEventListener(type, ({ detail }) => {
        if (this.#call === call) listener(detail)
      })
    on('state', ({ connectionState }) => this.#showConnection(connectionState))
    on('track', ({ track }) => this.#play(track))
    on('channel', () => {
      ui.showChannel(true)
      ui.addChatNote('Connected. Type “help” to see what the pipeline understands.')
      this.apply(ui.settings)
    })
    on('text', ({ text }) => {
      this.#returnedData.text++
      if (!this.#exercising) ui.addChat('Pipeline', text)
    })
    on('json', ({ value }) => this.#receiveJson(value))
    on('binary', ({ data }) => this.#receiveBinary(new Uint8Array(data)))
    on('problem', ({ error }) => {
      if (call.pc.connectionState !== 'connected') ui.showProblem(explain(error, this.config.signalingUrl))
    })
    ui.showState('Connecting …', 'busy')
    return call
  }

  #dropCall() {
    this.#call?.close()
    this.#call = null
    this.#levels.remote?.stop()
    delete this.#levels.remote
    ui.showChannel(false)
    ui.showReturned(false)
    ui.remote.srcObject = null
    ui.voice.srcObject = null
  }

  #showConnection(state) {
    if (state === 'connected') {
      this.#connectedAt ??= performance.now()
      ui.showProblem(null)
      ui.showState('Connected', 'good')
    } else if (state === 'disconnected') {
      ui.showState('Connection interrupted …', 'busy')
    } else if (state === 'failed') {
      ui.showState('Connection failed', 'bad')
      ui.showProblem(CONNECTION_FAILED)
    } else if (state === 'connecting') {
      ui.showState('Connecting …', 'busy')
    }
  }

  #play(track) {
    if (track.kind === 'video') {
      ui.remote.srcObject = new MediaStream([track])
      ui.remote.onloadeddata = () => ui.showReturned(true)
    } else {
      ui.voice.srcObject = new MediaStream([track])
      ui.voice.muted = !hearsVoice
      this.#levels.remote?.stop()
      this.#levels.remote = new LevelMeter(this.#audioContext, track)
    }
  }

  #receiveJson(value) {
    // A reply carries the id of what it answers; counters and others' settings come unasked.
    if (value?.id !== undefined) this.#returnedData.json++
    if (value?.type === 'pong') {
      const sentAt = this.#pings.get(value.id)
      if (sentAt === undefined) return
      this.#pings.delete(value.id)
      this.#dataTrips.push(performance.now() - sentAt)
      if (this.#dataTrips.length > 2000) this.#dataTrips.splice(0, 1000)
    } else if (value?.type === 'settings') {
      if (value.error) ui.showRefusedSettings(value.error)
      else ui.settings = value.settings
    } else if (value?.type === 'counters') {
      this.#node = value.counters
    }
  }

  #receiveBinary(bytes) {
    const expected = this.#echoes.shift()
    if (expected?.length === bytes.length && expected.every((byte, i) => byte === bytes[i]))
      this.#returnedData.binary++
  }

  #ping() {
    const id = this.#nextId++
    this.#pings.set(id, performance.now())
    if (this.#pings.size > 100) this.#pings.delete(this.#pings.keys().next().value)
    this.#call.sendJson({ type: 'ping', id })
  }

  async #showFigures() {
    const reader = this.#reader
    if (!this.#call) return
    if (this.#call.open) this.#ping()
    const reading = await reader.read()
    if (reader !== this.#reader || session !== this) return
    ui.showFigures(reading, {
      dataTripMs: this.#dataTrips.at(-1) ?? null,
      pictureMs: this.#stamped ? percentile(this.#meter.latencies.slice(-LATENCY_WINDOW), 0.5) : null,
      node: this.#node,
    })
  }

  #showLevels() {
    const levels = { local: this.#levels.local?.read() ?? -100, remote: this.#levels.remote?.read() ?? -100 }
    this.#loudest.local = Math.max(this.#loudest.local, levels.local)
    this.#loudest.remote = Math.max(this.#loudest.remote, levels.remote)
    ui.showLevels(levels)
  }

  #since(time) {
    return time === null || time === undefined ? null : time - this.#startedAt
  }
}

async function start(source) {
  if (session) return
  ui.showProblem(null)
  ui.showInCall(true)
  const mine = new Session(source)
  session = mine
  try {
    await mine.start()
  } catch (error) {
    // Whoever left meanwhile is not told about it.
    if (session === mine) fail(mine, error)
  }
}

function leave() {
  session?.close()
  session = null
  ui.showInCall(false)
  ui.showProblem(null)
  ui.showState('Not started', 'idle')
}

function fail(which, error) {
  if (which !== session) return
  const url = which.config?.signalingUrl
  leave()
  ui.showState('Could not start', 'bad')
  ui.showProblem(explain(error, url))
}

/** What the demo's server says, with the address bar's word above it. */
async function readConfig() {
  const scheme = location.protocol === 'https:' ? 'wss' : 'ws'
  const fallback = { signalingUrl: `${scheme}://${location.host}/signaling`, peer: 'blur', room: 'default' }
  const served = await fetch('config.json')
    .then((response) => (response.ok ? response.json() : {}))
    .catch(() => ({}))
  const asked = { signalingUrl: query.get('signaling'), peer: query.get('peer'), room: query.get('room') }
  const given = Object.fromEntries(Object.entries(asked).filter(([, value]) => value))
  return { ...fallback, ...served, ...given }
}

const source = query.get('source') === 'pattern' ? 'pattern' : 'camera'
ui.measures = query.get('stamp') === '1'
ui.addEventListener('start', () => start(source))
ui.addEventListener('pattern', () => start('pattern'))
ui.addEventListener('retry', () => {
  leave()
  start(source)
})
ui.addEventListener('leave', leave)
ui.addEventListener('mic', ({ detail }) => session?.enable('audio', !detail.muted))
ui.addEventListener('camera', ({ detail }) => session?.enable('video', !detail.off))
ui.addEventListener('hear', ({ detail }) => {
  hearsVoice = detail.on
  ui.voice.muted = !detail.on
})
ui.addEventListener('measure', ({ detail }) => session?.measure(detail.on))
ui.addEventListener('pipeline', ({ detail }) => session?.apply(detail.settings))
ui.addEventListener('chat', ({ detail }) => session?.chat(detail.text))
addEventListener('pagehide', leave)

/** For scripts that drive the page: the same things the buttons do, and all the figures at once. */
window.demo = {
  start: () => start(source),
  leave,
  report: async () => (session ? session.report() : null),
  exerciseData: (count = 10, timeoutMs = 5000) => session?.exerciseData(count, timeoutMs),
}
if (query.get('auto') === '1') start(source)
