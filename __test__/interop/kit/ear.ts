/** What a listener heard, and how loud each tone was in it. Times are in milliseconds since the epoch. */

export const RATE = 48_000

export const now = () => performance.timeOrigin + performance.now()

/** A piece of what was heard. */
export interface Window {
  startedAt: number
  endedAt: number
  samples: Float32Array
}

export class Ear {
  /** When something here was made up, or played at another pace. */
  readonly disturbedAt: number[] = []
  readonly #pieces: { endedAt: number; samples: Float32Array }[] = []

  hear(samples: Float32Array, endedAt: number): void {
    this.#pieces.push({ endedAt, samples })
  }

  /** What was heard from one time to another, in windows of this length, each half over the one before. */
  windows(ms: number, from: number, to: number): Window[] {
    const pieces = this.#pieces.filter(({ endedAt }) => endedAt > from && endedAt <= to)
    const all = new Float32Array(pieces.reduce((sum, { samples }) => sum + samples.length, 0))
    const ends: { index: number; at: number }[] = []
    let index = 0
    for (const { samples, endedAt } of pieces) {
      all.set(samples, index)
      index += samples.length
      ends.push({ index, at: endedAt })
    }
    const length = (ms * RATE) / 1000
    const windows: Window[] = []
    for (let start = 0; start + length <= all.length; start += length / 2) {
      const first = ends.find((end) => end.index > start)!
      const last = ends.find((end) => end.index >= start + length)!
      windows.push({
        startedAt: first.at - ((first.index - start) / RATE) * 1000,
        endedAt: last.at,
        samples: all.subarray(start, start + length),
      })
    }
    return windows
  }
}

/** The amplitude of a tone: Goertzel's algorithm under a Hann window. */
export function amplitude(samples: Float32Array, hz: number): number {
  const turn = 2 * Math.cos((2 * Math.PI * hz) / RATE)
  const hann = hannWindow(samples.length)
  let a = 0
  let b = 0
  for (let i = 0; i < samples.length; i++) {
    const next = samples[i]! * hann[i]! + turn * a - b
    b = a
    a = next
  }
  return (4 * Math.sqrt(Math.max(0, a * a + b * b - turn * a * b))) / samples.length
}

const hannWindows = new Map<number, Float32Array>()

function hannWindow(length: number): Float32Array {
  let hann = hannWindows.get(length)
  if (!hann) {
    hann = Float32Array.from({ length }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / length))
    hannWindows.set(length, hann)
  }
  return hann
}

export const decibels = (ratio: number) => 20 * Math.log10(Math.max(ratio, 1e-6))

export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}
