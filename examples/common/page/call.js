// One RTCPeerConnection to one peer: perfect negotiation, one audio and one video transceiver, one data channel.

/** A string frame that begins with this is JSON (RFC 7464's record separator); any other string is text. */
const RECORD_SEPARATOR = '\u001e'

/**
 * A call with one peer. Events (all `CustomEvent`):
 * - `state` {connectionState}: W3C's names
 * - `track` {track}: a track of the other side
 * - `channel`: the data channel is open
 * - `text` {text}, `json` {value}, `binary` {data: ArrayBuffer}: what came over it
 * - `problem` {error}: a negotiation step failed
 */
export class Call extends EventTarget {
  #signaling
  #stream
  #codec
  #polite
  #channel = null
  #makingOffer = false
  #ignoreOffer = false
  #negotiates = false
  #steps = Promise.resolve()
  #remoteTracks = new Set()

  /**
   * @param {{signaling: import('./signaling.js').Signaling, remoteId: string, stream: MediaStream, codec?: string}} options
   * `codec` ('vp9', 'vp8', 'h264') is put first in our offers and answers; the other side may prefer another.
   */
  constructor({ signaling, remoteId, stream, codec }) {
    super()
    this.#signaling = signaling
    this.remoteId = remoteId
    this.#stream = stream
    this.#codec = codec
    // When offers cross, the greater id gives way.
    this.#polite = signaling.peerId > remoteId
    this.sent = { text: 0, json: 0, binary: 0 }
    this.received = { text: 0, json: 0, binary: 0 }

    const pc = new RTCPeerConnection()
    this.pc = pc
    pc.onnegotiationneeded = () => this.#offer()
    pc.onicecandidate = ({ candidate }) =>
      this.#signal('peer.ice_candidate', {
        candidate: candidate?.candidate ?? '',
        sdp_mid: candidate?.sdpMid ?? undefined,
        sdp_m_line_index: candidate?.sdpMLineIndex ?? undefined,
      })
    pc.onconnectionstatechange = () => {
      this.#emit('state', { connectionState: pc.connectionState })
      if (pc.connectionState === 'failed' && this.#negotiates) pc.restartIce()
    }
    pc.ontrack = ({ track }) => {
      if (this.#remoteTracks.has(track)) return
      this.#remoteTracks.add(track)
      this.#emit('track', { track })
    }
    pc.ondatachannel = ({ channel }) => this.#adopt(channel)
  }

  /** The newcomer's part: offers both tracks and the data channel. Whoever was there first waits for `signal`. */
  start() {
    this.#negotiates = true
    this.#adopt(this.pc.createDataChannel('data'))
    for (const kind of ['audio', 'video']) {
      const track = this.#trackOf(kind)
      const transceiver = this.pc.addTransceiver(track ?? kind, {
        direction: 'sendrecv',
        streams: [this.#stream],
      })
      this.#prefer(transceiver, kind)
    }
  }

  /** Hands in a relayed message. Steps run one after another, so a candidate never overtakes its description. */
  signal(method, params) {
    this.#steps = this.#steps
      .then(() => this.#step(method, params))
      .catch((error) => {
        if (this.pc.connectionState !== 'closed') this.#emit('problem', { error })
      })
  }

  get open() {
    return this.#channel?.readyState === 'open'
  }

  sendText(text) {
    this.#send('text', text)
  }

  sendJson(value) {
    this.#send('json', RECORD_SEPARATOR + JSON.stringify(value))
  }

  sendBinary(data) {
    this.#send('binary', data)
  }

  /** Puts another picture on the wire without renegotiation. */
  async replaceVideo(track) {
    const sender = this.pc.getTransceivers().find((t) => t.receiver.track.kind === 'video')?.sender
    await sender?.replaceTrack(track)
  }

  close() {
    this.pc.close()
    this.#emit('state', { connectionState: 'closed' })
  }

  async #offer() {
    if (!this.#negotiates) return
    try {
      this.#makingOffer = true
      await this.pc.setLocalDescription()
      await this.#signal('peer.offer', { sdp: this.pc.localDescription.sdp })
    } catch (error) {
      if (this.pc.connectionState !== 'closed') this.#emit('problem', { error })
    } finally {
      this.#makingOffer = false
    }
  }

  async #step(method, params) {
    const pc = this.pc
    if (pc.signalingState === 'closed') return
    if (method === 'peer.ice_candidate') {
      try {
        await pc.addIceCandidate({
          candidate: params.candidate,
          sdpMid: params.sdp_mid ?? (params.sdp_m_line_index === undefined ? '0' : null),
          sdpMLineIndex: params.sdp_m_line_index ?? null,
        })
      } catch (error) {
        if (!this.#ignoreOffer) throw error
      }
      return
    }
    if (method === 'peer.answer') {
      // After a rollback the answer to the offer we took back may still arrive.
      if (pc.signalingState !== 'have-local-offer') return
      await pc.setRemoteDescription({ type: 'answer', sdp: params.sdp })
      return
    }
    const crossing = this.#makingOffer || pc.signalingState !== 'stable'
    this.#ignoreOffer = crossing && !this.#polite
    if (this.#ignoreOffer) return
    await pc.setRemoteDescription({ type: 'offer', sdp: params.sdp })
    this.#attachTracks()
    await pc.setLocalDescription()
    await this.#signal('peer.answer', { sdp: pc.localDescription.sdp })
    this.#negotiates = true
  }

  /** Gives each transceiver of the other side's offer our track, once. */
  #attachTracks() {
    for (const transceiver of this.pc.getTransceivers()) {
      const { kind } = transceiver.receiver.track
      const track = this.#trackOf(kind)
      const taken = this.pc.getSenders().some((sender) => sender.track === track)
      if (!track || taken || transceiver.sender.track) continue
      transceiver.direction = 'sendrecv'
      transceiver.sender.replaceTrack(track)
      transceiver.sender.setStreams?.(this.#stream)
      this.#prefer(transceiver, kind)
    }
  }

  #prefer(transceiver, kind) {
    if (kind !== 'video' || !this.#codec) return
    const { codecs } = RTCRtpReceiver.getCapabilities('video')
    const wanted = `video/${this.#codec}`.toLowerCase()
    const isWanted = (codec) => codec.mimeType.toLowerCase() === wanted
    if (!codecs.some(isWanted)) return
    transceiver.setCodecPreferences([
      ...codecs.filter(isWanted),
      ...codecs.filter((codec) => !isWanted(codec)),
    ])
  }

  #trackOf(kind) {
    return this.#stream.getTracks().find((track) => track.kind === kind)
  }

  /** When offers crossed there may be two channels: all are heard, the first that is open is spoken on. */
  #adopt(channel) {
    channel.binaryType = 'arraybuffer'
    const use = () => {
      if (this.open) return
      this.#channel = channel
      this.#emit('channel')
    }
    if (channel.readyState === 'open') queueMicrotask(use)
    else channel.onopen = use
    channel.onmessage = ({ data }) => this.#receive(data)
  }

  #receive(data) {
    if (typeof data !== 'string') {
      this.received.binary++
      this.#emit('binary', { data })
    } else if (data.startsWith(RECORD_SEPARATOR)) {
      let value
      try {
        value = JSON.parse(data.slice(1))
      } catch (error) {
        this.#emit('problem', { error })
        return
      }
      this.received.json++
      this.#emit('json', { value })
    } else {
      this.received.text++
      this.#emit('text', { text: data })
    }
  }

  #send(kind, frame) {
    if (!this.open) throw new Error('the data channel is not open')
    this.#channel.send(frame)
    this.sent[kind]++
  }

  async #signal(method, params) {
    try {
      await this.#signaling.request(method, { from: this.#signaling.peerId, to: this.remoteId, ...params })
    } catch (error) {
      // The peer may be gone by the time a late candidate reaches the server; presence tells that story.
      if (method !== 'peer.ice_candidate') this.#emit('problem', { error })
    }
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }))
  }
}
