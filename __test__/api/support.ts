import { type AudioData, type TransportEvents, type WebRtcConfig, WebRtcTransport } from '@remotemedia/webrtc'
import { SignalingServer } from '../../src-ts/signaling/server.js'

/** A signaling server and the transports of a test, all closed at its end. */
export class Lab {
  server!: SignalingServer
  readonly #transports: WebRtcTransport[] = []

  async open(): Promise<this> {
    this.server = await SignalingServer.listen({ port: 0 })
    return this
  }

  async join(peerId: string, config: Partial<WebRtcConfig> = {}): Promise<WebRtcTransport> {
    const transport = await WebRtcTransport.create({ signalingUrl: this.server.url, peerId, ...config })
    this.#transports.push(transport)
    return transport
  }

  /** Two transports with an open channel. */
  async pair(
    a: Partial<WebRtcConfig> = {},
    b: Partial<WebRtcConfig> = {},
  ): Promise<[WebRtcTransport, WebRtcTransport]> {
    const first = await this.join('alice', a)
    const second = await this.join('bob', b)
    await Promise.all([first.connectPeer('bob'), second.connectPeer('alice')])
    return [first, second]
  }

  async close(): Promise<void> {
    for (const stop of senders) stop()
    await Promise.all(this.#transports.splice(0).map((transport) => transport.close()))
    await this.server.close()
  }
}

/** The next event that satisfies `when`. */
export function next<K extends keyof TransportEvents>(
  transport: WebRtcTransport,
  name: K,
  when: (event: TransportEvents[K]) => boolean = () => true,
  timeoutMs = 15_000,
): Promise<TransportEvents[K]> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      transport.off(name, listener)
      reject(new Error(`no ${name} event within ${timeoutMs} ms`))
    }, timeoutMs)
    const listener = (event: TransportEvents[K]) => {
      if (!when(event)) return
      clearTimeout(timer)
      transport.off(name, listener)
      resolve(event)
    }
    transport.on(name, listener)
  })
}

/** 20 ms of a sine at 48 kHz, the `n`th. */
export function tone(n: number, hz: number, amplitude = 0.5): AudioData {
  const samples = new Float32Array(960)
  for (let i = 0; i < 960; i++) samples[i] = amplitude * Math.sin((2 * Math.PI * hz * (n * 960 + i)) / 48_000)
  return { kind: 'audio', samples, sampleRate: 48_000, channels: 1 }
}

/** Frequency by zero crossings, and RMS level in dB of full scale. */
export function hear(samples: Float32Array, sampleRate = 48_000): { hz: number; dbfs: number } {
  let crossings = 0
  let energy = 0
  for (let i = 0; i < samples.length; i++) {
    energy += samples[i]! ** 2
    if (i > 0 && samples[i - 1]! <= 0 && samples[i]! > 0) crossings++
  }
  return {
    hz: (crossings * sampleRate) / samples.length,
    dbfs: 10 * Math.log10(energy / samples.length + 1e-12),
  }
}

const senders = new Set<() => void>()

/** Calls `send(n)` every `intervalMs`, until `stop()` or the lab's end; a machine that falls behind catches up a few at a time. */
export function every(intervalMs: number, send: (n: number) => void): { stop(): void } {
  const start = performance.now()
  let n = 0
  const timer = setInterval(() => {
    for (let i = 0; i < 3 && (performance.now() - start) / intervalMs >= n; i++) send(n++)
  }, 5)
  const stop = () => {
    clearInterval(timer)
    senders.delete(stop)
  }
  senders.add(stop)
  return { stop }
}

export function join(parts: Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}
