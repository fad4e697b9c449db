/** A small WebRTC peer that lives in a page: joins a room by signaling, calls others, and measures what they send. */
import { readPictures, Sources, summarize, until } from './media.js'
import type {
  FlashAndBeepReading,
  PeerOptions,
  PictureReading,
  Recording,
  StatsSummary,
  ToneReading,
  WireMessage,
} from './protocol.js'
import type { Recorder } from './recorder.js'

const RECORD_SEPARATOR = '\u001e'

/** Makes a peer and joins the room. The test side holds it as `window.peer` and calls it by name. */
export async function join(options: PeerOptions): Promise<Peer> {
  const peer = new Peer(options)
  await peer.open()
  return peer
}

export class Peer {
  /** Every notification of the server but the relayed signals, oldest first. */
  readonly presence: { method: string; params: Record<string, unknown> }[] = []
  readonly #options: PeerOptions
  readonly #links = new Map<string, Link>()
  readonly #pending = new Map<number, { resolve(result: unknown): void; reject(error: Error): void }>()
  readonly #sources = new Sources()
  #recorder: Recorder | undefined
  #socket!: WebSocket
  #nextId = 1

  constructor(options: PeerOptions) {
    this.#options = options
  }

  async open(): Promise<void> {
    const { signalingUrl, peerId, room, offers = true } = this.#options
    await this.#sources.open(this.#options)
    this.#socket = new WebSocket(signalingUrl)
    await new Promise<void>((resolve, reject) => {
      this.#socket.onopen = () => resolve()
      this.#socket.onclose = () => reject(new Error(`no connection to ${signalingUrl}`))
    })
    this.#socket.onclose = () => {
      for (const { reject } of this.#pending.values())
        reject(new Error('the signaling connection was closed'))
      this.#pending.clear()
    }
    this.#socket.onmessage = ({ data }) => this.#receive(JSON.parse(data as string))
    const announced = (await this.request('peer.announce', { peer_id: peerId, room, capabilities: [] })) as {
      other_peers: string[]
    }
    if (offers) for (const other of announced.other_peers) this.connect(other)
  }

  /** Sends any JSON-RPC request; resolves with its result, rejects with an Error `<code> <message>`. */
  request(method: string, params: Record<string, unknown>): Promise<unknown> {
    const id = this.#nextId++
    this.#socket.send(JSON.stringify({ jsonrpc: '2.0', id, method, params }))
    return new Promise((resolve, reject) => this.#pending.set(id, { resolve, reject }))
  }

  /** Offers to a peer. */
  connect(remoteId: string): void {
    this.#link(remoteId).start()
  }

  /** Resolves once the connection is up and (unless this peer has none) the data channel open. */
  async connected(remoteId: string, timeoutMs: number): Promise<void> {
    const wantsChannel = this.#options.dataChannel ?? true
    await until(
      timeoutMs,
      () => {
        const link = this.#links.get(remoteId)
        return (
          link?.pc.connectionState === 'connected' && (!wantsChannel || link.channel?.readyState === 'open')
        )
      },
      () =>
        `no connection with ${remoteId}: ${JSON.stringify(this.#links.get(remoteId)?.describe() ?? 'no offer yet')}`,
    )
  }

  /** Resolves with the connection state once it is one of `states`. */
  async inState(remoteId: string, states: string[], timeoutMs: number): Promise<string> {
    const state = () => this.#links.get(remoteId)?.pc.connectionState ?? 'none'
    await until(
      timeoutMs,
      () => states.includes(state()),
      () => `${remoteId} is ${state()}, not ${states.join(' or ')}`,
    )
    return state()
  }

  /** Sends and waits until the browser's own buffer is below 1 MiB. */
  async send(remoteId: string, message: WireMessage): Promise<void> {
    await this.#link(remoteId).send(message)
  }

  /** Sends `count` binary messages of `size` bytes as fast as backpressure allows; resolves with the milliseconds it took. */
  async flood(remoteId: string, size: number, count: number): Promise<number> {
    const link = this.#link(remoteId)
    const startedAt = performance.now()
    const bytes = new Uint8Array(size)
    for (let i = 0; i < count; i++) {
      if (size >= 4) new DataView(bytes.buffer).setUint32(0, i)
      await link.sendFrame(bytes)
    }
    return performance.now() - startedAt
  }

  /** Resolves with the next `count` messages of a peer and takes them away. */
  async received(remoteId: string, count: number, timeoutMs: number): Promise<WireMessage[]> {
    const inbox = () => this.#links.get(remoteId)?.inbox ?? []
    await until(
      timeoutMs,
      () => inbox().length >= count,
      () => `${inbox().length} of ${count} messages came from ${remoteId}`,
    )
    return inbox().splice(0, count)
  }

  /** Messages that have come and were not taken. */
  waiting(remoteId: string): number {
    return this.#links.get(remoteId)?.inbox.length ?? 0
  }

  async tone(remoteId: string, settleMs: number, timeoutMs: number): Promise<ToneReading> {
    const track = await this.#remoteTrack(remoteId, 'audio', timeoutMs)
    return this.#sources.measureTone(track, settleMs)
  }

  /** Records what a peer sends from here on. */
  async record(remoteId: string, timeoutMs: number): Promise<void> {
    const track = await this.#remoteTrack(remoteId, 'audio', timeoutMs)
    this.#recorder = await this.#sources.record(this.#existing(remoteId).pc, track)
  }

  /** What was recorded since the last call. */
  recorded(): Recording {
    if (!this.#recorder) throw new Error('nothing is recorded')
    return this.#recorder.take()
  }

  async pictures(remoteId: string, count: number, timeoutMs: number): Promise<PictureReading[]> {
    const track = await this.#remoteTrack(remoteId, 'video', timeoutMs)
    return readPictures(track, count, timeoutMs)
  }

  async flashesAndBeeps(remoteId: string, ms: number): Promise<FlashAndBeepReading> {
    const video = await this.#remoteTrack(remoteId, 'video', ms)
    const audio = await this.#remoteTrack(remoteId, 'audio', ms)
    return this.#sources.flashesAndBeeps(video, audio, ms)
  }

  async stats(remoteId: string): Promise<StatsSummary> {
    return summarize(this.#existing(remoteId).pc)
  }

  /** All of getStats. */
  async report(remoteId: string): Promise<Record<string, unknown>[]> {
    const report = (await this.#existing(remoteId).pc.getStats()) as unknown as Map<
      string,
      Record<string, unknown>
    >
    return [...report.values()]
  }

  /** Sends no more audio and video; everything else stays. */
  async hush(remoteId: string): Promise<void> {
    for (const sender of this.#existing(remoteId).pc.getSenders()) {
      const parameters = sender.getParameters()
      for (const encoding of parameters.encodings) encoding.active = false
      await sender.setParameters(parameters)
    }
  }

  /** What we told, with the candidates so far. */
  localSdp(remoteId: string): string {
    return this.#existing(remoteId).pc.localDescription?.sdp ?? ''
  }

  /** The remote description, for a look at what was negotiated. */
  remoteSdp(remoteId: string): string {
    return this.#existing(remoteId).pc.remoteDescription?.sdp ?? ''
  }

  /** Asks for a keyframe as a decoder does that can't go on. */
  async requestKeyframe(remoteId: string): Promise<void> {
    await this.#existing(remoteId).requestKeyframe()
  }

  /** New ICE credentials by a new offer. */
  restartIce(remoteId: string): void {
    this.#existing(remoteId).restartIce()
  }

  /** Adds a second video track (the pattern) by renegotiation, or takes it away again. */
  async addVideo(remoteId: string, width: number, height: number): Promise<void> {
    this.#existing(remoteId).addTrack(this.#sources.pattern(width, height, 15))
  }

  disconnect(remoteId: string): void {
    this.#links.get(remoteId)?.pc.close()
    this.#links.delete(remoteId)
  }

  close(): void {
    for (const id of [...this.#links.keys()]) this.disconnect(id)
    this.#recorder?.stop()
    this.#socket.close(1000)
    this.#sources.close()
  }

  async #remoteTrack(
    remoteId: string,
    kind: 'audio' | 'video',
    timeoutMs: number,
  ): Promise<MediaStreamTrack> {
    const find = () => this.#links.get(remoteId)?.tracks.find((track) => track.kind === kind)
    await until(
      timeoutMs,
      () => find() !== undefined,
      () => `${remoteId} has no ${kind} track`,
    )
    return find()!
  }

  #existing(remoteId: string): Link {
    const link = this.#links.get(remoteId)
    if (!link) throw new Error(`there is no link with ${remoteId}`)
    return link
  }

  #link(remoteId: string): Link {
    let link = this.#links.get(remoteId)
    if (!link) {
      const signal = (method: string, params: Record<string, unknown>) => {
        const sent = this.request(method, { from: this.#options.peerId, to: remoteId, ...params })
        // A late candidate for somebody who has left is no failure of the test.
        sent.catch((error: Error) =>
          this.presence.push({ method: 'refused', params: { method, message: error.message } }),
        )
      }
      link = new Link(this.#options, this.#options.peerId > remoteId, this.#sources, signal)
      this.#links.set(remoteId, link)
    }
    return link
  }

  #receive(message: {
    id?: number
    method?: string
    params?: Record<string, unknown>
    result?: unknown
    error?: { code: number; message: string }
  }): void {
    if (message.method === undefined) {
      const waiting = this.#pending.get(message.id ?? -1)
      this.#pending.delete(message.id ?? -1)
      if (message.error) waiting?.reject(new Error(`${message.error.code} ${message.error.message}`))
      else waiting?.resolve(message.result)
      return
    }
    const params = message.params ?? {}
    const from = params.from as string
    if (message.method === 'peer.offer') this.#link(from).onOffer(params.sdp as string)
    else if (message.method === 'peer.answer') this.#links.get(from)?.onAnswer(params.sdp as string)
    else if (message.method === 'peer.ice_candidate') this.#links.get(from)?.onCandidate(params)
    else this.presence.push({ method: message.method, params })
    if (message.method === 'peer.left') this.disconnect(params.peer_id as string)
  }
}

/** One connection: perfect negotiation as the wire contract wants it. */
class Link {
  readonly pc: RTCPeerConnection
  readonly inbox: WireMessage[] = []
  readonly tracks: MediaStreamTrack[] = []
  readonly problems: string[] = []
  channel: RTCDataChannel | null = null
  #negotiates = false
  #makingOffer = false
  #ignoring = false
  #steps: Promise<void> = Promise.resolve()

  constructor(
    private readonly options: PeerOptions,
    private readonly polite: boolean,
    private readonly sources: Sources,
    private readonly signal: (method: string, params: Record<string, unknown>) => void,
  ) {
    const pc = new RTCPeerConnection(options.connection)
    this.pc = pc
    pc.onnegotiationneeded = () => this.#offer()
    pc.onicecandidate = ({ candidate }) =>
      signal('peer.ice_candidate', {
        candidate: candidate?.candidate ?? '',
        sdp_mid: candidate?.sdpMid ?? undefined,
        sdp_m_line_index: candidate?.sdpMLineIndex ?? undefined,
      })
    pc.ondatachannel = ({ channel }) => this.#adopt(channel)
    pc.ontrack = ({ track, transceiver }) => {
      if (this.tracks.includes(track)) return
      this.tracks.push(track)
      if (options.echo) {
        transceiver.direction = 'sendrecv'
        void transceiver.sender.replaceTrack(track.kind === 'audio' ? sources.relay(track) : track)
      }
    }
  }

  start(): void {
    if (this.#negotiates) return
    this.#negotiates = true
    const { dataChannel = true, dataChannelInit } = this.options
    if (dataChannel) this.#adopt(this.pc.createDataChannel('data', dataChannelInit))
    for (const kind of ['audio', 'video']) {
      const track = this.sources.stream.getTracks().find((one) => one.kind === kind)
      this.#prefer(
        this.pc.addTransceiver(track ?? kind, { direction: 'sendrecv', streams: [this.sources.stream] }),
      )
    }
  }

  onOffer(sdp: string): void {
    this.#step(async () => {
      const { pc } = this
      this.#ignoring = !this.polite && (this.#makingOffer || pc.signalingState !== 'stable')
      if (this.#ignoring) return
      await pc.setRemoteDescription({ type: 'offer', sdp })
      for (const transceiver of pc.getTransceivers()) {
        const { kind } = transceiver.receiver.track
        const track = this.sources.stream.getTracks().find((one) => one.kind === kind)
        const taken = pc.getSenders().some((sender) => sender.track !== null && sender.track === track)
        if (track && !taken && !transceiver.sender.track) {
          transceiver.direction = 'sendrecv'
          await transceiver.sender.replaceTrack(track)
        }
        this.#prefer(transceiver)
      }
      await pc.setLocalDescription()
      this.signal('peer.answer', { sdp: pc.localDescription!.sdp })
      this.#negotiates = true
    })
  }

  onAnswer(sdp: string): void {
    this.#step(async () => {
      if (this.pc.signalingState === 'have-local-offer')
        await this.pc.setRemoteDescription({ type: 'answer', sdp })
    })
  }

  onCandidate(params: Record<string, unknown>): void {
    this.#step(async () => {
      const line = params.sdp_m_line_index as number | undefined
      const mid = params.sdp_mid as string | undefined
      const candidate = {
        candidate: params.candidate as string,
        sdpMid: mid ?? (line === undefined ? '0' : null),
        sdpMLineIndex: line ?? null,
      }
      await this.pc.addIceCandidate(candidate).catch((error: Error) => {
        if (!this.#ignoring) throw error
      })
    })
  }

  restartIce(): void {
    this.pc.restartIce()
  }

  /** A transform that passes every frame on, and asks for a keyframe once, is where a page can say this. */
  async requestKeyframe(): Promise<void> {
    const receiver = this.pc.getReceivers().find(({ track }) => track.kind === 'video')
    if (!receiver) throw new Error('there is no video receiver')
    const work = `onrtctransform = async ({ transformer }) => {
      void transformer.readable.pipeTo(transformer.writable)
      await transformer.sendKeyFrameRequest()
      postMessage('asked')
    }`
    const worker = new Worker(URL.createObjectURL(new Blob([work], { type: 'text/javascript' })))
    const asked = new Promise<void>((resolve, reject) => {
      worker.onmessage = () => resolve()
      worker.onerror = ({ message }) => reject(new Error(message))
    })
    receiver.transform = new RTCRtpScriptTransform(worker, {})
    await asked
  }

  addTrack(track: MediaStreamTrack): void {
    this.pc.addTransceiver(track, { direction: 'sendrecv', streams: [this.sources.stream] })
  }

  async send(message: WireMessage): Promise<void> {
    if (message.kind === 'text') await this.sendFrame(message.text)
    else if (message.kind === 'json') await this.sendFrame(RECORD_SEPARATOR + JSON.stringify(message.value))
    else await this.sendFrame(Uint8Array.from(atob(message.base64), (char) => char.charCodeAt(0)))
  }

  async sendFrame(frame: string | Uint8Array<ArrayBuffer>): Promise<void> {
    const { channel } = this
    if (channel?.readyState !== 'open') throw new Error('the data channel is not open')
    if (typeof frame === 'string') channel.send(frame)
    else channel.send(frame)
    if (channel.bufferedAmount < 1 << 20) return
    channel.bufferedAmountLowThreshold = 1 << 19
    await new Promise<void>((resolve, reject) => {
      channel.addEventListener('bufferedamountlow', () => resolve(), { once: true })
      channel.addEventListener('close', () => reject(new Error('the data channel was closed')), {
        once: true,
      })
    })
  }

  /** Where the connection stands, for a failed test's message. */
  describe(): Record<string, unknown> {
    const { connectionState, iceConnectionState, iceGatheringState, signalingState } = this.pc
    const channel = this.channel?.readyState ?? 'none'
    return {
      connectionState,
      iceConnectionState,
      iceGatheringState,
      signalingState,
      channel,
      problems: this.problems,
    }
  }

  async #offer(): Promise<void> {
    if (!this.#negotiates) return
    this.#makingOffer = true
    try {
      await this.pc.setLocalDescription()
      this.signal('peer.offer', { sdp: this.pc.localDescription!.sdp })
    } catch (error) {
      this.problems.push(String(error))
    }
    this.#makingOffer = false
  }

  #adopt(channel: RTCDataChannel): void {
    channel.binaryType = 'arraybuffer'
    const opened = () => {
      if (this.channel?.readyState !== 'open') this.channel = channel
      for (const message of this.options.firstMessages ?? []) void this.send(message)
    }
    if (channel.readyState === 'open') queueMicrotask(opened)
    else channel.onopen = opened
    channel.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => {
      if (this.options.echo) {
        if (typeof data === 'string') channel.send(data)
        else channel.send(data)
      } else {
        this.inbox.push(toWire(data))
      }
    }
  }

  #prefer(transceiver: RTCRtpTransceiver): void {
    const { videoCodec, onlyThisVideoCodec } = this.options
    if (!videoCodec || transceiver.receiver.track.kind !== 'video') return
    const codecs = RTCRtpReceiver.getCapabilities('video')!.codecs
    const wanted = codecs.filter(
      (codec) => codec.mimeType.toLowerCase() === `video/${videoCodec.toLowerCase()}`,
    )
    if (wanted.length === 0) throw new Error(`this browser has no ${videoCodec}`)
    transceiver.setCodecPreferences(
      onlyThisVideoCodec ? wanted : [...wanted, ...codecs.filter((codec) => !wanted.includes(codec))],
    )
  }

  #step(run: () => Promise<void>): void {
    this.#steps = this.#steps.then(run).catch((error) => {
      this.problems.push(String(error))
    })
  }
}

function toWire(data: string | ArrayBuffer): WireMessage {
  if (typeof data === 'string') {
    if (!data.startsWith(RECORD_SEPARATOR)) return { kind: 'text', text: data }
    return { kind: 'json', value: JSON.parse(data.slice(1)) }
  }
  let binary = ''
  for (const byte of new Uint8Array(data)) binary += String.fromCharCode(byte)
  return { kind: 'binary', base64: btoa(binary) }
}
