/** Flashes and beeps as a source, and as they come out: what `__test__/api/kit/flash-and-beep.ts` is in Node. */
import type { FlashAndBeepReading } from './protocol.js'

const PERIOD = 0.8
const LENGTH = 0.1
const BEEP_HZ = 1000
const BRIGHTEST = 220

/** A canvas and a Web Audio graph by one clock. `stop` ends both. */
export function flashAndBeepSource(context: AudioContext): { tracks: MediaStreamTrack[]; stop(): void } {
  const destination = context.createMediaStreamDestination()
  const period = context.createBuffer(1, PERIOD * context.sampleRate, context.sampleRate)
  const samples = period.getChannelData(0)
  for (let i = 0; i < LENGTH * context.sampleRate; i++) {
    samples[i] = 0.5 * Math.sin((2 * Math.PI * BEEP_HZ * i) / context.sampleRate)
  }
  const beeps = new AudioBufferSourceNode(context, { buffer: period, loop: true })
  beeps.connect(destination)
  const start = context.currentTime + 0.1
  beeps.start(start)

  const canvas = Object.assign(document.createElement('canvas'), { width: 640, height: 360 })
  const picture = canvas.getContext('2d', { alpha: false })!
  const [track] = canvas.captureStream(0).getVideoTracks() as CanvasCaptureMediaStreamTrack[]
  const draw = () => {
    const since = context.currentTime - start
    const ms = (((since % PERIOD) + PERIOD) % PERIOD) * 1000
    // Limited range makes luma 16 of 0 and 235 of 255; the picture falls by one in luma a millisecond.
    const luma = since >= 0 && ms < LENGTH * 1000 ? BRIGHTEST - ms : 40
    const level = Math.round(((luma - 16) * 255) / 219)
    picture.fillStyle = `rgb(${level} ${level} ${level})`
    picture.fillRect(0, 0, 640, 360)
    track!.requestFrame()
  }
  const timer = setInterval(draw, 1000 / 30)
  return {
    tracks: [track!, destination.stream.getAudioTracks()[0]!],
    stop: () => {
      clearInterval(timer)
      beeps.stop()
    },
  }
}

/** Of a track's sound as it leaves the receiver, before any sound card (W3C mediacapture-transform). */
declare class MediaStreamTrackProcessor {
  constructor(init: { track: MediaStreamTrack; maxBufferSize: number })
  readonly readable: ReadableStream<{
    sampleRate: number
    numberOfFrames: number
    copyTo(samples: Float32Array, options: { planeIndex: number; format: string }): void
    close(): void
  }>
}

/** Looks and listens for a time. The sound has to be played somewhere, or there is none. */
export async function readFlashesAndBeeps(
  video: MediaStreamTrack,
  audio: MediaStreamTrack,
  ms: number,
): Promise<FlashAndBeepReading> {
  const found: FlashAndBeepReading = { flashes: [], beeps: [] }
  const add = (times: number[], at: number) => {
    if (at - (times.at(-1) ?? Number.NEGATIVE_INFINITY) > PERIOD / 2) times.push(at)
  }

  // The beginning of each beep, to the sample, counted in samples, as the receiver gives out so many a second; and the page's clock
  // less that: the least of the second before, since a page gets its turn late now and then.
  let count = 0
  const offsets: { at: number; offset: number }[] = []
  const reader = new MediaStreamTrackProcessor({ track: audio, maxBufferSize: 1000 }).readable.getReader()
  const listen = async () => {
    let loud = Number.NEGATIVE_INFINITY
    for (let next = await reader.read(); next.value; next = await reader.read()) {
      const { sampleRate, numberOfFrames } = next.value
      const samples = new Float32Array(numberOfFrames)
      next.value.copyTo(samples, { planeIndex: 0, format: 'f32-planar' })
      next.value.close()
      const from = count / sampleRate
      count += numberOfFrames
      const at = performance.now() / 1000
      offsets.push({ at, offset: at - count / sampleRate })
      while (offsets[0]!.at < at - 1) offsets.shift()
      for (let i = 0; i < samples.length; i++) {
        if (Math.abs(samples[i]!) < 0.1) continue
        const now = from + i / sampleRate
        if (now - loud > PERIOD / 2) add(found.beeps, now + Math.min(...offsets.map(({ offset }) => offset)))
        loud = now
      }
    }
  }
  const listening = listen()

  const element = Object.assign(document.createElement('video'), {
    srcObject: new MediaStream([video]),
    muted: true,
  })
  document.body.append(element)
  const canvas = Object.assign(document.createElement('canvas'), { width: 16, height: 9 })
  const picture = canvas.getContext('2d', { alpha: false, willReadFrequently: true })!
  const look: VideoFrameRequestCallback = (_now, { expectedDisplayTime }) => {
    picture.drawImage(element, 0, 0, 16, 9)
    const luma = (picture.getImageData(8, 4, 1, 1).data[1]! * 219) / 255 + 16
    const since = BRIGHTEST - luma
    if (since > -8 && since < LENGTH * 1000 + 5)
      add(found.flashes, (expectedDisplayTime - Math.max(0, since)) / 1000)
    element.requestVideoFrameCallback(look)
  }
  element.requestVideoFrameCallback(look)
  await element.play()

  await new Promise((resolve) => setTimeout(resolve, ms))
  await reader.cancel()
  await listening
  element.remove()
  return found
}
