/** Flashes and beeps at the same time, and how far apart they are where they arrive. */
import { VideoFrame, type WebRtcTransport } from '@remotemedia/webrtc'
import { every } from '../support.js'

/** Seconds from one flash to the next, and how long it and its beep last. */
export const PERIOD = 0.8
export const LENGTH = 0.1
export const BEEP_HZ = 1000
const FPS = 30

/** Luma at the beginning of a flash. It falls by one a millisecond, so that each picture of it says when it began. */
const BRIGHTEST = 220
const DARKEST_FLASH = BRIGHTEST - LENGTH * 1000 - 5
const DARK = 40

/**
 * Sends flashes (orange on blue, or `grey`) and beeps to a peer, timestamps in step, until it is stopped; nothing at all while
 * `pause` says so (seconds since the beginning).
 */
export function flashAndBeep(
  from: WebRtcTransport,
  peerId: string,
  { width = 640, height = 360, grey = false, pause = (_at: number): boolean => false } = {},
): { stop(): void } {
  const bytes = new Uint8Array(width * height * 1.5)
  const [luma, chroma] = [width * height, width * height * 1.25]
  const camera = every(1000 / FPS, (n) => {
    const at = n / FPS
    if (pause(at)) return
    const since = (at + 1e-6) % PERIOD
    const light = since < LENGTH
    bytes.fill(light ? BRIGHTEST - since * 1000 : DARK, 0, luma)
    bytes.fill(grey ? 128 : light ? 80 : 165, luma, chroma)
    bytes.fill(grey ? 128 : light ? 165 : 110, chroma)
    const timestampUs = Math.round(at * 1e6)
    const frame = VideoFrame.from(bytes, { format: 'I420', width, height, timestampUs })
    from.sendToPeer(peerId, { data: { kind: 'video', frame }, timestampUs }).catch(() => {})
    frame.close()
  })
  const microphone = every(20, (n) => {
    if (pause(n * 0.02)) return
    const samples = Float32Array.from({ length: 960 }, (_, i) => {
      const at = n * 0.02 + i / 48_000
      return (at + 1e-6) % PERIOD < LENGTH ? 0.5 * Math.sin(2 * Math.PI * BEEP_HZ * at) : 0
    })
    const data = { kind: 'audio' as const, samples, sampleRate: 48_000, channels: 1 }
    from.sendToPeer(peerId, { data, timestampUs: n * 20_000 }).catch(() => {})
  })
  return {
    stop: () => {
      camera.stop()
      microphone.stop()
    },
  }
}

/** Listens for beeps and looks for flashes. Times are in seconds, on one clock. */
export class SkewMeter {
  readonly flashes: number[] = []
  readonly beeps: number[] = []
  #loudAt = Number.NEGATIVE_INFINITY

  /** The luma of a picture, anywhere in it. A flash is known by whichever of its pictures came. */
  picture(luma: number, at: number): void {
    if (luma < DARKEST_FLASH || luma > BRIGHTEST + 8) return
    const began = at - Math.max(0, BRIGHTEST - luma) / 1000
    if (began - (this.flashes.at(-1) ?? Number.NEGATIVE_INFINITY) > PERIOD / 2) this.flashes.push(began)
  }

  /** Mono samples at 48 kHz. */
  sound(samples: Float32Array, at: number): void {
    for (let i = 0; i < samples.length; i++) {
      if (Math.abs(samples[i]!) < 0.1) continue
      const now = at + i / 48_000
      if (now - this.#loudAt > PERIOD / 2) this.beeps.push(now)
      this.#loudAt = now
    }
  }

  /** Milliseconds from each flash that has a beep to that beep, of those after `from` seconds. */
  skews(from = Number.NEGATIVE_INFINITY): number[] {
    return this.flashes
      .filter((flash) => flash >= from)
      .map((flash) => this.beeps.map((beep) => beep - flash).sort((a, b) => Math.abs(a) - Math.abs(b))[0])
      .filter((skew): skew is number => skew !== undefined && Math.abs(skew) < PERIOD / 2)
      .map((skew) => skew * 1000)
  }
}

/** The median, and the one farthest from zero. */
export function summary(skews: number[]): { p50: number; worst: number; count: number } {
  const sorted = [...skews].sort((a, b) => a - b)
  const round = (ms: number | undefined) => Math.round((ms ?? Number.NaN) * 10) / 10
  const worst = [...skews].sort((a, b) => Math.abs(b) - Math.abs(a))[0]
  return { p50: round(sorted[Math.floor(sorted.length / 2)]), worst: round(worst), count: skews.length }
}
