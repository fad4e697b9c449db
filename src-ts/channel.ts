import { WebRtcError } from './errors.js'
import { DataChannelMessage, type DataChannelMessageData } from './message.js'
import type { NativeTransport } from './native/binding.cjs'
import { unwrap } from './native/result.js'
import { TypedEvents } from './signaling/events.js'

export interface DataChannelOptions {
  /** Default `reliable`. */
  mode?: 'reliable' | 'unordered' | 'unreliable'
  /** Subprotocol, at most 255 bytes. Default none. */
  protocol?: string
}

export interface DataChannelEvents {
  message: DataChannelMessageData
  /** What waits has fallen to `bufferedAmountLowThreshold` or below. */
  bufferedamountlow: undefined
  close: undefined
}

/** A further data channel to one peer, opened by `openChannel` here or there (W3C `RTCDataChannel`). */
export class DataChannel extends TypedEvents<DataChannelEvents> {
  readonly peerId: string
  readonly label: string
  readonly #native: NativeTransport
  readonly #number: number
  readonly #waiting: { resolve(): void; reject(error: WebRtcError): void }[] = []
  #open = true

  /** Bytes: `bufferedamountlow` is emitted when no more wait. Fixed. */
  readonly bufferedAmountLowThreshold = 262_144

  /** @internal */
  constructor(transport: NativeTransport, peerId: string, channel: number, label: string) {
    super()
    this.#native = transport
    this.#number = channel
    this.peerId = peerId
    this.label = label
  }

  get readyState(): 'open' | 'closed' {
    return this.#open ? 'open' : 'closed'
  }

  /** Bytes accepted and not yet acknowledged by the peer. */
  get bufferedAmount(): number {
    return this.#open ? this.#native.bufferedAmount(this.peerId, this.#number) : 0
  }

  /** Resolves when the message is accepted below the high-water mark of 1 MiB. */
  send(message: DataChannelMessageData | string | Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      if (!this.#open) throw this.#gone()
      if (sendMessage(this.#native, this.peerId, this.#number, toMessage(message))) resolve()
      else this.#waiting.push({ resolve, reject })
    })
  }

  /** Closes it at both ends. Idempotent. */
  close(): void {
    if (this.#open) this.#native.closeChannel(this.peerId, this.#number)
  }

  /** @internal */
  receive(message: DataChannelMessageData, onThrow: (error: unknown) => void): void {
    this.dispatch('message', message, onThrow)
  }

  /** @internal */
  drained(onThrow: (error: unknown) => void): void {
    for (const { resolve } of this.#waiting.splice(0)) resolve()
    this.dispatch('bufferedamountlow', undefined, onThrow)
  }

  /** @internal */
  ended(onThrow: (error: unknown) => void): void {
    if (!this.#open) return
    this.#open = false
    for (const { reject } of this.#waiting.splice(0)) reject(this.#gone())
    this.dispatch('close', undefined, onThrow)
  }

  #gone(): WebRtcError {
    return new WebRtcError('ERR_CLOSED', `channel '${this.label}' is closed`, { peerId: this.peerId })
  }
}

/** @internal True: there is room for more. */
export function sendMessage(
  transport: NativeTransport,
  peerId: string,
  channel: number,
  message: DataChannelMessageData,
): boolean {
  if (message.kind === 'binary') {
    const frame = DataChannelMessage.encode(message) as Uint8Array
    return unwrap(transport.sendBinary(peerId, channel, frame))
  }
  const frame = DataChannelMessage.encode(message) as string
  const json = message.kind === 'json'
  return unwrap(transport.sendText(peerId, channel, json ? frame.slice(1) : frame, json))
}

function toMessage(message: DataChannelMessageData | string | Uint8Array): DataChannelMessageData {
  if (typeof message === 'string') return { kind: 'text', text: message }
  if (ArrayBuffer.isView(message)) return { kind: 'binary', data: message }
  return message
}
