/** Records a received track as it is played, with what the browser made up meanwhile. */
import type { Recording } from './protocol.js'

/** 16-bit samples, 100 ms a message. */
const WORKLET = `registerProcessor('recorder', class extends AudioWorkletProcessor {
  samples = new Int16Array(4800)
  at = 0
  process([input]) {
    const channel = input[0]
    for (let i = 0; i < 128; i++) {
      this.samples[this.at++] = channel ? Math.max(-32768, Math.min(32767, Math.round(channel[i] * 32768))) : 0
    }
    if (this.at > this.samples.length - 128) {
      this.port.postMessage(this.samples.slice(0, this.at))
      this.at = 0
    }
    return true
  }
})`

const now = () => performance.timeOrigin + performance.now()

export class Recorder {
  readonly #pc: RTCPeerConnection
  readonly #source: MediaStreamAudioSourceNode
  readonly #context: AudioContext
  readonly #timer: number
  #blocks: { at: number; samples: Int16Array }[] = []
  #disturbed: number[] = []
  #before = -1

  static async start(pc: RTCPeerConnection, context: AudioContext, stream: MediaStream): Promise<Recorder> {
    const url = URL.createObjectURL(new Blob([WORKLET], { type: 'text/javascript' }))
    await context.audioWorklet.addModule(url)
    await context.resume()
    return new Recorder(pc, context, stream)
  }

  private constructor(pc: RTCPeerConnection, context: AudioContext, stream: MediaStream) {
    this.#pc = pc
    this.#context = context
    this.#source = context.createMediaStreamSource(stream)
    const worklet = new AudioWorkletNode(context, 'recorder', { numberOfOutputs: 1, channelCount: 1 })
    worklet.port.onmessage = ({ data }) => this.#blocks.push({ at: now(), samples: data })
    this.#source.connect(worklet).connect(context.destination)
    this.#timer = window.setInterval(() => void this.#look(), 100)
  }

  /** What came since the last call. */
  take(): Recording {
    const blocks = this.#blocks.splice(0)
    const all = new Int16Array(blocks.reduce((sum, { samples }) => sum + samples.length, 0))
    let at = 0
    for (const { samples } of blocks) {
      all.set(samples, at)
      at += samples.length
    }
    const bytes = new Uint8Array(all.buffer)
    let binary = ''
    for (let i = 0; i < bytes.length; i += 8192) binary += String.fromCharCode(...bytes.subarray(i, i + 8192))
    return {
      pcm: btoa(binary),
      blocks: blocks.map(({ at, samples }) => ({ endedAt: at, frames: samples.length })),
      disturbedAt: this.#disturbed.splice(0),
    }
  }

  stop(): void {
    window.clearInterval(this.#timer)
    this.#source.disconnect()
  }

  get sampleRate(): number {
    return this.#context.sampleRate
  }

  /** Whether something was made up, or played faster or slower. */
  async #look(): Promise<void> {
    let made = 0
    // biome-ignore lint/suspicious/noExplicitAny: lib.dom types getStats' entries so
    for (const report of (await this.#pc.getStats()).values() as Iterable<any>) {
      if (report.type !== 'inbound-rtp' || report.kind !== 'audio') continue
      made += report.concealedSamples - (report.silentConcealedSamples ?? 0)
      made += report.insertedSamplesForDeceleration + report.removedSamplesForAcceleration
    }
    if (this.#before >= 0 && made !== this.#before) this.#disturbed.push(now())
    this.#before = made
  }
}
