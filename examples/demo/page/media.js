// Where pictures come from (camera or test pattern), the stamp over them, and how long they take to come back.

import { drawStamp, readStamp, STAMP_PERIOD, stampHeight } from './stamp.js'

const WIDTH = 640
const HEIGHT = 360
const FPS = 30
/** A stamp older than this is taken for noise that happened to pass the check. */
const LONGEST_LATENCY_MS = 10_000

/**
 * Camera and microphone, or microphone and a drawn pattern. Rejects as getUserMedia does.
 * @param {'camera' | 'pattern'} source
 */
export async function openSource(source) {
  if (!navigator.mediaDevices) throw new DOMException('no secure context', 'SecurityError')
  const audio = { echoCancellation: true, noiseSuppression: false, autoGainControl: false }
  if (source === 'camera') {
    const video = { width: { ideal: WIDTH }, height: { ideal: HEIGHT }, frameRate: { ideal: FPS } }
    return navigator.mediaDevices.getUserMedia({ audio, video })
  }
  const stream = await navigator.mediaDevices.getUserMedia({ audio }).catch(() => new MediaStream())
  stream.addTrack(patternTrack())
  return stream
}

/** A moving picture for those without a camera: slow colours and a disc that goes round. */
function patternTrack() {
  const canvas = Object.assign(document.createElement('canvas'), { width: WIDTH, height: HEIGHT })
  const context = canvas.getContext('2d', { alpha: false })
  const [track] = canvas.captureStream(FPS).getVideoTracks()
  const draw = () => {
    const t = performance.now() / 1000
    const sky = context.createLinearGradient(0, 0, WIDTH, HEIGHT)
    sky.addColorStop(0, `hsl(${(t * 12) % 360} 60% 62%)`)
    sky.addColorStop(1, `hsl(${(t * 12 + 80) % 360} 60% 38%)`)
    context.fillStyle = sky
    context.fillRect(0, 0, WIDTH, HEIGHT)
    context.fillStyle = '#ffffffdd'
    context.beginPath()
    context.arc(WIDTH / 2 + 150 * Math.cos(t), HEIGHT / 2 + 80 * Math.sin(t), 46, 0, 2 * Math.PI)
    context.fill()
  }
  draw()
  const timer = setInterval(() => (track.readyState === 'ended' ? clearInterval(timer) : draw()), 1000 / FPS)
  return track
}

/**
 * Draws a playing video into a canvas with a stamp over it, and remembers when. `track` is what to send; it has a frame exactly
 * when the source has one.
 */
export class StampedSource {
  #video
  #canvas = document.createElement('canvas')
  #context = this.#canvas.getContext('2d', { alpha: false })
  #drawnAt = new Float64Array(STAMP_PERIOD).fill(-Infinity)
  #handle

  constructor(video) {
    this.#video = video
    this.#canvas.width = video.videoWidth || WIDTH
    this.#canvas.height = video.videoHeight || HEIGHT
    this.track = this.#canvas.captureStream(0).getVideoTracks()[0]
    this.frames = 0
    this.#next()
  }

  /** When the frame of this counter was drawn (performance.now()), or null when that is too long ago. */
  drawnAt(counter, now) {
    const at = this.#drawnAt[counter]
    return now - at < LONGEST_LATENCY_MS ? at : null
  }

  stop() {
    this.#video.cancelVideoFrameCallback(this.#handle)
    this.track.stop()
  }

  #next() {
    this.#handle = this.#video.requestVideoFrameCallback(() => {
      const { width, height } = this.#canvas
      this.#context.drawImage(this.#video, 0, 0, width, height)
      drawStamp(this.#context, width, this.frames)
      this.#drawnAt[this.frames % STAMP_PERIOD] = performance.now()
      this.frames++
      this.track.requestFrame()
      this.#next()
    })
  }
}

/** Watches the returned video: first frame, frames shown, and the latency of every frame whose stamp can be read. */
export class ReturnMeter {
  #video
  #canvas = document.createElement('canvas')
  #context = this.#canvas.getContext('2d', { alpha: false, willReadFrequently: true })
  #handle
  #lastCounter = -1

  /** @param {() => StampedSource | null} source the stamps to compare with, when there are any */
  constructor(video, source) {
    this.#video = video
    this.source = source
    this.framesShown = 0
    this.firstFrameAt = null
    /** Milliseconds from drawing to presentation, one a new frame, newest last. */
    this.latencies = []
    this.unreadable = 0
    // One cell is 8 pixels here: reading back a strip of 128 by 8 costs next to nothing.
    this.#canvas.width = 128
    this.#canvas.height = 8
    this.#next()
  }

  stop() {
    this.#video.cancelVideoFrameCallback(this.#handle)
  }

  #next() {
    this.#handle = this.#video.requestVideoFrameCallback((now, metadata) => {
      const shownAt = metadata.presentationTime ?? now
      this.framesShown++
      this.firstFrameAt ??= shownAt
      const source = this.source()
      if (source) this.#measure(source, shownAt)
      this.#next()
    })
  }

  #measure(source, shownAt) {
    const { width, height } = this.#canvas
    const videoWidth = this.#video.videoWidth
    this.#context.drawImage(this.#video, 0, 0, videoWidth, stampHeight(videoWidth), 0, 0, width, height)
    const counter = readStamp(this.#context.getImageData(0, 0, width, height).data, width, height)
    const drawnAt = counter === null ? null : source.drawnAt(counter, shownAt)
    if (drawnAt === null) {
      this.unreadable++
    } else if (counter !== this.#lastCounter) {
      this.#lastCounter = counter
      this.latencies.push(shownAt - drawnAt)
      if (this.latencies.length > 20_000) this.latencies.splice(0, 10_000)
    }
  }
}

/** Loudness of a track in dBFS over the newest 85 ms; −100 is silence. */
export class LevelMeter {
  #analyser
  #source
  #samples

  constructor(context, track) {
    this.#analyser = new AnalyserNode(context, { fftSize: 4096 })
    this.#samples = new Float32Array(this.#analyser.fftSize)
    this.#source = context.createMediaStreamSource(new MediaStream([track]))
    this.#source.connect(this.#analyser)
  }

  read() {
    this.#analyser.getFloatTimeDomainData(this.#samples)
    let sum = 0
    for (const sample of this.#samples) sum += sample * sample
    return Math.max(-100, 10 * Math.log10(sum / this.#samples.length + 1e-10))
  }

  stop() {
    this.#source.disconnect()
  }
}

/** The value below which `share` (0 to 1) of the numbers lie, or null for none. */
export function percentile(numbers, share) {
  if (numbers.length === 0) return null
  const sorted = [...numbers].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]
}
