// The Node side of the call: every picture and every voice goes through a pipeline and back to who sent it; the data
// channel carries the chat and the settings.

import { fileURLToPath } from 'node:url'

const COUNTERS_EVERY_MS = 1000
const DEFAULTS = { blur: { enabled: true, radius: 12 }, voice: { gainDb: 0 } }
const RANGES = { radius: [1, 40], gainDb: [-24, 12] }

const HELP = `I run the pipeline. Say:
“blur on” or “blur off”
“radius 20” (1 to 40 pixels)
“gain -6” (−24 to 12 dB)
“stats” for what I have seen so far
Anything else I say back.`

/**
 * Joins the room and serves everybody in it.
 * @param {typeof import('@remotemedia/webrtc')} webrtc the package
 * @param {{signalingUrl: string, peerId: string, room: string, videoCodec?: string, log?: (line: string) => void}} options
 */
export async function startPipelinePeer(
  webrtc,
  { signalingUrl, peerId, room, videoCodec = 'vp9', log = () => {} },
) {
  const { Manifest, WebRtcTransport } = webrtc
  const transport = await WebRtcTransport.create({ signalingUrl, peerId, room, videoCodec })
  const peer = new PipelinePeer(transport, log)
  try {
    const file = (name) => fileURLToPath(new URL(name, import.meta.url))
    await peer.open(await Manifest.fromFile(file('blur.yaml')), await Manifest.fromFile(file('voice.yaml')))
  } catch (error) {
    await peer.close()
    throw error
  }
  return peer
}

class PipelinePeer {
  #transport
  #log
  #picture
  #voice
  #settings = structuredClone(DEFAULTS)
  #messages = { received: 0, sent: 0 }
  #timer

  constructor(transport, log) {
    this.#transport = transport
    this.#log = log
  }

  async open(pictureManifest, voiceManifest) {
    const transport = this.#transport
    this.#picture = await transport.stream(pictureManifest)
    this.#picture.route({ from: '*', track: 'video', through: 'blur', to: 'sender' })
    this.#voice = await transport.stream(voiceManifest)
    this.#voice.route({ from: '*', track: 'audio', through: 'gain', to: 'sender' })

    transport.on('data', ({ peerId, data }) => this.#receive(peerId, data.data))
    transport.on('peerstatechange', ({ peerId, state }) => this.#log(`${peerId}: ${state}`))
    transport.on('peerleft', ({ peerId }) => this.#log(`${peerId}: left`))
    transport.on('error', (error) =>
      this.#log(`${error.peerId ?? 'transport'}: ${error.code} ${error.message}`),
    )
    this.#timer = setInterval(() => this.#tellCounters(), COUNTERS_EVERY_MS)
  }

  /** What this side has seen of one peer: frames decoded and encoded, voice packets in and out, messages. */
  async counters(peerId) {
    const stats = [...(await this.#transport.getStats(peerId)).values()]
    const rtp = (type, kind) => stats.find((report) => report.type === type && report.kind === kind)
    const codecOf = (report) => stats.find((other) => other.id === report?.codecId)?.mimeType ?? null
    const videoIn = rtp('inbound-rtp', 'video')
    const videoOut = rtp('outbound-rtp', 'video')
    const audioIn = rtp('inbound-rtp', 'audio')
    const audioOut = rtp('outbound-rtp', 'audio')
    return {
      videoIn: videoIn?.framesDecoded ?? 0,
      videoOut: videoOut?.framesEncoded ?? videoOut?.framesSent ?? 0,
      videoLost: videoIn?.packetsLost ?? 0,
      videoCodecIn: codecOf(videoIn),
      videoCodecOut: codecOf(videoOut),
      audioIn: audioIn?.packetsReceived ?? 0,
      audioOut: audioOut?.packetsSent ?? 0,
      audioLost: audioIn?.packetsLost ?? 0,
      messagesReceived: this.#messages.received,
      messagesSent: this.#messages.sent,
    }
  }

  async close() {
    clearInterval(this.#timer)
    await this.#picture?.close()
    await this.#voice?.close()
    await this.#transport.close()
  }

  async #receive(peerId, data) {
    this.#messages.received++
    try {
      if (data.kind === 'text')
        await this.#send(peerId, { kind: 'text', text: await this.#answerChat(peerId, data.text) })
      else if (data.kind === 'binary') await this.#send(peerId, data)
      else if (data.kind === 'json') await this.#receiveJson(peerId, data.value)
    } catch (error) {
      // The peer may have left while we were answering.
      this.#log(`${peerId}: ${error.code ?? error.name} ${error.message}`)
    }
  }

  async #receiveJson(peerId, value) {
    const say = (reply) => this.#send(peerId, { kind: 'json', value: reply })
    if (value?.type === 'ping') {
      await say({ type: 'pong', id: value.id })
    } else if (value?.type === 'control') {
      try {
        await this.#apply(value.settings)
        await say({ type: 'settings', id: value.id, settings: this.#settings })
      } catch (error) {
        await say({ type: 'settings', id: value.id, error: error.message })
      }
    }
  }

  async #answerChat(peerId, text) {
    const [, word, argument] = /^\s*(\S+)\s*(\S*)\s*$/.exec(text.toLowerCase()) ?? []
    const change = readCommand(word, argument)
    if (change) {
      try {
        await this.#apply(change)
      } catch (error) {
        return error.message
      }
      await this.#send(peerId, { kind: 'json', value: { type: 'settings', settings: this.#settings } })
      const { blur, voice } = this.#settings
      return `Blur is ${blur.enabled ? `on, radius ${blur.radius} px` : 'off'}; voice gain is ${voice.gainDb} dB.`
    }
    if (word === 'help' && !argument) return HELP
    if (word === 'stats' && !argument) {
      const seen = await this.counters(peerId)
      return `${seen.videoIn} frames in, ${seen.videoOut} out; ${seen.audioIn} voice packets in, ${seen.audioOut} out.`
    }
    return `You said: ${text}`
  }

  /** Everybody in the room shares one pipeline's settings; a part that is absent stays as it is. */
  async #apply(settings) {
    const blur = settings?.blur ?? {}
    const voice = settings?.voice ?? {}
    const next = { blur: { ...this.#settings.blur }, voice: { ...this.#settings.voice } }
    if (blur.enabled !== undefined) next.blur.enabled = blur.enabled === true
    if (blur.radius !== undefined) next.blur.radius = within('radius', blur.radius)
    if (voice.gainDb !== undefined) next.voice.gainDb = within('gainDb', voice.gainDb)
    await this.#picture.setEnabled('blur', next.blur.enabled)
    await this.#picture.setParam('blur', 'radius', next.blur.radius)
    await this.#voice.setParam('gain', 'gain_db', next.voice.gainDb)
    this.#settings = next
  }

  async #send(peerId, data) {
    await this.#transport.sendToPeer(peerId, data)
    this.#messages.sent++
  }

  async #tellCounters() {
    for (const { id, state } of this.#transport.listPeers()) {
      if (state !== 'connected') continue
      try {
        const counters = await this.counters(id)
        await this.#transport.sendToPeer(id, { kind: 'json', value: { type: 'counters', counters } })
      } catch (error) {
        this.#log(`${id}: ${error.code ?? error.name} ${error.message}`)
      }
    }
  }
}

/** The change that a chat message asks for, or null when it asks for none. */
function readCommand(word, argument) {
  if (word === 'blur' && (argument === 'on' || argument === 'off'))
    return { blur: { enabled: argument === 'on' } }
  if (word === 'radius' && argument) return { blur: { radius: Number(argument) } }
  if (word === 'gain' && argument) return { voice: { gainDb: Number(argument) } }
  return null
}

function within(name, value) {
  const [low, high] = RANGES[name]
  if (typeof value === 'number' && value >= low && value <= high) return value
  throw new RangeError(`${name} must be a number from ${low} to ${high}`)
}
