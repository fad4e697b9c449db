/** What a peer in a page sends, and the instruments that measure what it receives. */
import { flashAndBeepSource, readFlashesAndBeeps } from './flash-and-beep.js'
import { judgeLuma, patternLuma } from './pattern.js'
import type {
  FlashAndBeepReading,
  PeerOptions,
  PictureReading,
  RtpSummary,
  StatsSummary,
  ToneReading,
} from './protocol.js'
import { Recorder } from './recorder.js'

/** What a peer sends, and its ear. */
export class Sources {
  readonly stream = new MediaStream()
  #audio: AudioContext | null = null
  readonly #stops: (() => void)[] = []

  async open({ audio, video, flashAndBeep }: PeerOptions): Promise<void> {
    if (flashAndBeep) {
      const { tracks, stop } = flashAndBeepSource(this.#context)
      for (const track of tracks) this.stream.addTrack(track)
      this.#stops.push(stop)
    }
    if (audio === 'microphone' || video === 'camera') {
      const constraints = { audio: audio === 'microphone', video: video === 'camera' }
      for (const track of (await navigator.mediaDevices.getUserMedia(constraints)).getTracks())
        this.stream.addTrack(track)
    }
    if (typeof audio === 'object') {
      const destination = this.#context.createMediaStreamDestination()
      const gain = new GainNode(this.#context, { gain: audio.amplitude ?? 0.5 })
      const stereo = new ChannelMergerNode(this.#context, { numberOfInputs: 2 })
      const tones = [audio.toneHz, ...(audio.rightHz === undefined ? [] : [audio.rightHz])]
      for (const [channel, frequency] of tones.entries()) {
        const oscillator = new OscillatorNode(this.#context, { frequency })
        oscillator.start()
        if (audio.silentAfterMs !== undefined)
          oscillator.stop(this.#context.currentTime + audio.silentAfterMs / 1000)
        if (audio.rightHz === undefined) oscillator.connect(gain)
        else oscillator.connect(stereo, 0, channel)
      }
      if (audio.rightHz !== undefined) stereo.connect(gain)
      gain.connect(destination)
      this.stream.addTrack(destination.stream.getAudioTracks()[0]!)
    }
    if (typeof video === 'object')
      this.stream.addTrack(this.pattern(video.width, video.height, video.fps ?? 30))
  }

  pattern(width: number, height: number, fps: number): MediaStreamTrack {
    const canvas = Object.assign(document.createElement('canvas'), { width, height })
    const context = canvas.getContext('2d', { alpha: false })!
    const image = context.createImageData(width, height)
    const [track] = canvas.captureStream(0).getVideoTracks() as CanvasCaptureMediaStreamTrack[]
    let counter = 0
    const draw = () => {
      const luma = patternLuma(width, height, counter++)
      for (let i = 0; i < luma.length; i++) {
        image.data[4 * i] = image.data[4 * i + 1] = image.data[4 * i + 2] = luma[i]!
        image.data[4 * i + 3] = 255
      }
      context.putImageData(image, 0, 0)
      track!.requestFrame()
    }
    draw()
    const timer = setInterval(draw, 1000 / fps)
    this.#stops.push(() => {
      clearInterval(timer)
      track!.stop()
    })
    return track!
  }

  /**
   * The strongest frequency between 50 Hz and 16 kHz, after listening for `settleMs`: of five stretches the one of median
   * level, since on a busy machine this page's own sound has gaps.
   */
  async measureTone(track: MediaStreamTrack, settleMs: number): Promise<ToneReading> {
    const stream = playing(track)
    const context = this.#context
    await context.resume()
    const analyser = new AnalyserNode(context, { fftSize: 16_384, smoothingTimeConstant: 0 })
    const source = context.createMediaStreamSource(stream)
    source.connect(analyser)
    await pause(settleMs)
    const readings: ToneReading[] = []
    while (readings.length < 5) {
      await pause((1000 * analyser.fftSize) / context.sampleRate)
      readings.push(readTone(analyser))
    }
    source.disconnect()
    return readings.sort((a, b) => a.levelDbfs - b.levelDbfs)[2]!
  }

  async flashesAndBeeps(
    video: MediaStreamTrack,
    audio: MediaStreamTrack,
    ms: number,
  ): Promise<FlashAndBeepReading> {
    playing(audio)
    return readFlashesAndBeeps(video, audio, ms)
  }

  record(pc: RTCPeerConnection, track: MediaStreamTrack): Promise<Recorder> {
    return Recorder.start(pc, this.#context, playing(track))
  }

  /** A received voice as a track of our own: Chromium doesn't send a remote audio track on. */
  relay(track: MediaStreamTrack): MediaStreamTrack {
    const destination = this.#context.createMediaStreamDestination()
    this.#context.createMediaStreamSource(playing(track)).connect(destination)
    return destination.stream.getAudioTracks()[0]!
  }

  close(): void {
    for (const stop of this.#stops) stop()
    for (const track of this.stream.getTracks()) track.stop()
    void this.#audio?.close()
  }

  get #context(): AudioContext {
    this.#audio ??= new AudioContext({ sampleRate: 48_000 })
    return this.#audio
  }
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** What an analyser heard last. */
function readTone(analyser: AnalyserNode): ToneReading {
  const bins = new Float32Array(analyser.frequencyBinCount)
  const samples = new Float32Array(analyser.fftSize)
  analyser.getFloatFrequencyData(bins)
  analyser.getFloatTimeDomainData(samples)
  const binHz = analyser.context.sampleRate / analyser.fftSize
  let peak = Math.ceil(50 / binHz)
  for (let i = peak; i < 16_000 / binHz; i++) if (bins[i]! > bins[peak]!) peak = i
  // The window's main lobe is close to a parabola in dB: its top lies between bins.
  const [left, top, right] = [bins[peak - 1]!, bins[peak]!, bins[peak + 1]!]
  const offset = (left - right) / (2 * (left - 2 * top + right))
  const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length
  return {
    frequencyHz: (peak + (Number.isFinite(offset) ? offset : 0)) * binHz,
    levelDbfs: 10 * Math.log10(power + 1e-12),
  }
}

/** Chromium decodes a remote track for Web Audio only while an element plays it too: once for each track, silently. */
function playing(track: MediaStreamTrack): MediaStream {
  let stream = played.get(track)
  if (!stream) {
    stream = new MediaStream([track])
    played.set(track, stream)
    const element = new Audio()
    element.muted = true
    element.srcObject = stream
    void element.play()
  }
  return stream
}
const played = new WeakMap<MediaStreamTrack, MediaStream>()

/** The next `count` frames whose stamp can be read, each compared with the pattern it should be. */
export async function readPictures(
  track: MediaStreamTrack,
  count: number,
  timeoutMs: number,
): Promise<PictureReading[]> {
  const video = Object.assign(document.createElement('video'), {
    srcObject: new MediaStream([track]),
    muted: true,
  })
  document.body.append(video)
  const canvas = document.createElement('canvas')
  const context = canvas.getContext('2d', { alpha: false, willReadFrequently: true })!
  const readings: PictureReading[] = []
  let shown = 0
  const look = () => {
    shown++
    const { videoWidth: width, videoHeight: height } = video
    if (canvas.width !== width) canvas.width = width
    if (canvas.height !== height) canvas.height = height
    context.drawImage(video, 0, 0)
    const { data } = context.getImageData(0, 0, width, height)
    const luma = Uint8Array.from({ length: width * height }, (_, i) => data[4 * i + 1]!)
    const judged = judgeLuma(luma, width, height)
    if (judged) readings.push({ ...judged, width, height })
    if (readings.length < count) video.requestVideoFrameCallback(look)
  }
  video.requestVideoFrameCallback(look)
  await video.play()
  await until(
    timeoutMs,
    () => readings.length >= count,
    () => `${readings.length} of ${count} pictures could be read, ${shown} were shown`,
  ).finally(() => video.remove())
  return readings
}

/** What tests look at, out of getStats. */
export async function summarize(pc: RTCPeerConnection): Promise<StatsSummary> {
  // biome-ignore lint/suspicious/noExplicitAny: lib.dom types getStats' entries so
  const all: Map<string, any> = new Map([...(await pc.getStats())] as [string, any][])
  const reports = [...all.values()]
  const transport = reports.find((report) => report.type === 'transport')
  const pair = all.get(transport?.selectedCandidatePairId)
  const candidate = (id?: string) => {
    const one = id === undefined ? undefined : all.get(id)
    return one ? { type: one.candidateType, protocol: one.protocol, address: one.address } : null
  }
  const flow = (kind: string) => {
    const of = (type: string) => reports.find((report) => report.type === type && report.kind === kind)
    const rtp = (report: Record<string, number | string> | undefined, losses = report): RtpSummary | null => {
      if (!report) return null
      const number = (...names: string[]) => {
        for (const name of names) if (typeof report[name] === 'number') return report[name]
        return 0
      }
      return {
        codec: all.get(report.codecId as string)?.mimeType?.split('/')[1] ?? null,
        packets: number('packetsSent', 'packetsReceived'),
        bytes: number('bytesSent', 'bytesReceived'),
        packetsLost: (losses?.packetsLost as number) ?? 0,
        nackCount: number('nackCount'),
        pliCount: number('pliCount'),
        firCount: number('firCount'),
        frames: number('framesSent', 'framesDecoded'),
        framesReceived: number('framesReceived'),
        framesDropped: number('framesDropped'),
        keyFrames: number('keyFramesEncoded', 'keyFramesDecoded'),
        frameWidth: number('frameWidth'),
        frameHeight: number('frameHeight'),
        retransmittedPackets: number('retransmittedPacketsSent', 'retransmittedPacketsReceived'),
        totalAudioEnergy: number('totalAudioEnergy'),
        totalSamplesReceived: number('totalSamplesReceived'),
        concealedSamples: number('concealedSamples'),
      }
    }
    return { sent: rtp(of('outbound-rtp'), of('remote-inbound-rtp')), received: rtp(of('inbound-rtp')) }
  }
  return {
    connectionState: pc.connectionState,
    iceConnectionState: pc.iceConnectionState,
    signalingState: pc.signalingState,
    dtlsState: transport?.dtlsState ?? null,
    roundTripMs: pair?.currentRoundTripTime === undefined ? null : pair.currentRoundTripTime * 1000,
    localCandidate: candidate(pair?.localCandidateId),
    remoteCandidate: candidate(pair?.remoteCandidateId),
    audio: flow('audio'),
    video: flow('video'),
  }
}

/** Looks every 5 ms; rejects with what `why` says when the time is over. */
export async function until(timeoutMs: number, holds: () => boolean, why: () => string): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`${why()} after ${timeoutMs} ms`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
