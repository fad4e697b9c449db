import type { AudioData } from './data.js'
import { checkKnownKeys, configError } from './errors.js'
import { VideoFrame } from './frame.js'
import type {
  NativeAudioDecoder,
  NativeAudioEncoder,
  NativeVideoDecoder,
  NativeVideoEncoder,
  VideoEncoderChanges as NativeVideoEncoderChanges,
} from './native/binding.cjs'
import { native } from './native/load.js'
import { check, unwrap } from './native/result.js'

/** A codec to encode. */
export type VideoCodec = 'vp9' | 'vp8' | 'h264'

/** Opus (RFC 6716). */
export interface AudioEncoderOptions {
  /** 1 or 2. Default 1. */
  channels?: 1 | 2
  /** bit/s, 6000 to 510 000. Default 32 000, 64 000 for stereo. */
  bitrateBps?: number
  /** Length of a packet, ms. Default 20. */
  frameMs?: 10 | 20 | 40 | 60
  /** In-band forward error correction. Default true. */
  fec?: boolean
  /** Discontinuous transmission. Default false. */
  dtx?: boolean
  /** 0 (fast) to 10 (good). Default 9. */
  complexity?: number
  /** Packet loss to protect against, percent, 0 to 100. Default 0. */
  expectedLossPct?: number
}

export interface EncodedAudio {
  /** One Opus packet. */
  data: Uint8Array
  /** When its first sample was captured, in microseconds. */
  timestampUs: number
}

/** Makes Opus packets of audio of any rate and length. Each call takes well under a millisecond. */
export class AudioEncoder implements Disposable {
  readonly #native: NativeAudioEncoder

  /** Throws `ERR_CONFIG` naming the field. */
  constructor(options: AudioEncoderOptions = {}) {
    checkKnownKeys('options', options, [
      ...['channels', 'bitrateBps', 'frameMs', 'fec', 'dtx', 'complexity', 'expectedLossPct'],
    ])
    const { channels = 1, frameMs = 20, fec = true, dtx = false } = options
    const bitrate = integer(
      'bitrateBps',
      options.bitrateBps ?? (channels === 2 ? 64_000 : 32_000),
      6000,
      510_000,
    )
    this.#native = unwrap(
      native.NativeAudioEncoder.open({
        channels: integer('channels', channels, 1, 2),
        bitrateBps: bitrate,
        frameMs: oneOf('frameMs', frameMs, [10, 20, 40, 60]),
        fec,
        dtx,
        complexity: integer('complexity', options.complexity ?? 9, 0, 10),
        expectedLossPct: integer('expectedLossPct', options.expectedLossPct ?? 0, 0, 100),
      }),
    )
  }

  /** Takes samples; gives the packets that are whole, none or more. */
  encode(audio: Omit<AudioData, 'kind'>, timestampUs = 0): EncodedAudio[] {
    integer('sampleRate', audio.sampleRate, 8000, 192_000)
    integer('channels', audio.channels, 1, 2)
    return unwrap(
      this.#native.encode(audio.samples, audio.sampleRate, audio.channels, Math.round(timestampUs)),
    )
  }

  /** From the next packet on, in bit/s. */
  setBitrate(bitrateBps: number): void {
    check(this.#native.setBitrate(integer('bitrateBps', bitrateBps, 6000, 510_000)))
  }

  /** Frees the codec. Idempotent. */
  close(): void {
    this.#native.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** Decodes Opus packets to 48 kHz float samples. */
export class AudioDecoder implements Disposable {
  readonly #native: NativeAudioDecoder

  constructor(options: { channels?: 1 | 2 } = {}) {
    checkKnownKeys('options', options, ['channels'])
    this.#native = unwrap(native.NativeAudioDecoder.open(integer('channels', options.channels ?? 1, 1, 2)))
  }

  /** Throws `ERR_CODEC` for a packet that is none; the decoder goes on with the next. */
  decode(packet: Uint8Array): AudioData {
    return this.#audio(packet, 0)
  }

  /** Makes up `samples` (a channel, default 960) for a packet that was lost. */
  conceal(samples = 960): AudioData {
    return this.#audio(undefined, integer('samples', samples, 120, 5760))
  }

  /** Frees the codec. Idempotent. */
  close(): void {
    this.#native.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #audio(packet: Uint8Array | undefined, lost: number): AudioData {
    const { samples, sampleRate, channels } = unwrap(this.#native.decode(packet, lost, 0))
    return { kind: 'audio', samples: samples!, sampleRate: sampleRate!, channels: channels! }
  }
}

export interface VideoEncoderOptions {
  codec: VideoCodec
  /**
   * Pixels, of the first frame. A frame of another size is a keyframe, except for VP9 one of at most the first size and at least half
   * the largest since the last keyframe.
   */
  width: number
  /** Pixels. */
  height: number
  /** bit/s, 10 000 to 100 000 000. Default 1 500 000. */
  bitrateBps?: number
  /** Frames a second to expect, 1 to 240. Default 30. */
  maxFps?: number
  /** Speed step, 0 (good) to 16 (fast). Default: adapts to how long encoding takes. */
  cpuUsed?: number
  /**
   * What the pictures show: with `motion` they rather get coarse, with `detail` and `text` rather rare; `text` also uses the
   * codec's tools for screens. Default `motion`.
   */
  content?: 'motion' | 'detail' | 'text'
  /**
   * Temporal layers, 1 to 3; H264 has one. A picture needs none of a higher layer than its own: who passes the stream on may leave
   * out the highest layers, each of which halves the frame rate. Default 1.
   */
  temporalLayers?: number
}

/** What of a `VideoEncoder` can change while it runs. The size follows the frames. */
export interface VideoEncoderChanges {
  /** bit/s, 10 000 to 100 000 000. */
  bitrateBps?: number
  /** Frames a second to expect, 1 to 240. */
  maxFps?: number
  /** Temporal layers, 1 to 3; H264 has one. */
  temporalLayers?: number
}

export interface EncodedVideo {
  /** A VP8 or VP9 frame, or an H.264 access unit in Annex B form. */
  data: Uint8Array
  /** Decodable without anything before it. */
  keyframe: boolean
  timestampUs: number
  width: number
  height: number
  /** 0 for what others need. */
  temporalLayer: number
}

/** Encodes pictures for real-time transmission, off the JavaScript thread and in the order of the calls. */
export class VideoEncoder implements Disposable {
  readonly #native: NativeVideoEncoder
  #last: Promise<unknown> = Promise.resolve()

  /** Throws `ERR_CONFIG` naming the field, `ERR_CODEC` when this build has no such codec. */
  constructor(options: VideoEncoderOptions) {
    checkKnownKeys('options', options, [
      ...['codec', 'width', 'height', 'bitrateBps', 'maxFps', 'cpuUsed', 'content', 'temporalLayers'],
    ])
    const cpuUsed =
      options.cpuUsed === undefined ? {} : { cpuUsed: integer('cpuUsed', options.cpuUsed, 0, 16) }
    this.#native = unwrap(
      native.NativeVideoEncoder.open({
        codec: oneOf('codec', options.codec, ['vp9', 'vp8', 'h264']),
        width: integer('width', options.width, 1, 8192),
        height: integer('height', options.height, 1, 8192),
        bitrateBps: integer('bitrateBps', options.bitrateBps ?? 1_500_000, 10_000, 100_000_000),
        maxFps: integer('maxFps', options.maxFps ?? 30, 1, 240),
        content: oneOf('content', options.content ?? 'motion', ['motion', 'detail', 'text']),
        temporalLayers: integer('temporalLayers', options.temporalLayers ?? 1, 1, 3),
        ...cpuUsed,
      }),
    )
  }

  /** Takes its own reference to the frame. Null when rate control dropped the picture. */
  encode(frame: VideoFrame, options: { keyframe?: boolean } = {}): Promise<EncodedVideo | null> {
    // Cloned before it returns: the caller may close the frame at once.
    const own = frame.clone()
    const result = this.#last.then(async () => {
      try {
        return unwrap(await this.#native.encode(own.native, options.keyframe ?? false)) ?? null
      } finally {
        own.close()
      }
    })
    this.#last = result.catch(() => {})
    return result
  }

  /** Changes the bitrate from the next picture on, in bit/s. */
  setBitrate(bitrateBps: number): void {
    this.reconfigure({ bitrateBps })
  }

  /**
   * Changes settings from the next picture on, without a keyframe. Throws `ERR_CONFIG` naming the field, and changes nothing then.
   */
  reconfigure(changes: VideoEncoderChanges): void {
    checkKnownKeys('changes', changes, ['bitrateBps', 'maxFps', 'temporalLayers'])
    const native: NativeVideoEncoderChanges = {}
    const { bitrateBps, maxFps, temporalLayers } = changes
    if (bitrateBps !== undefined) native.bitrateBps = integer('bitrateBps', bitrateBps, 10_000, 100_000_000)
    if (maxFps !== undefined) native.maxFps = integer('maxFps', maxFps, 1, 240)
    if (temporalLayers !== undefined) native.temporalLayers = integer('temporalLayers', temporalLayers, 1, 3)
    check(this.#native.reconfigure(native))
  }

  /** Frees the codec; calls under way end with `ERR_CLOSED`. Idempotent. */
  close(): void {
    void this.#last.then(() => this.#native.close())
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** Decodes pictures, off the JavaScript thread and in the order of the calls. */
export class VideoDecoder implements Disposable {
  readonly #native: NativeVideoDecoder
  #last: Promise<unknown> = Promise.resolve()

  constructor(options: { codec: VideoCodec | 'av1' }) {
    checkKnownKeys('options', options, ['codec'])
    this.#native = unwrap(
      native.NativeVideoDecoder.open(oneOf('codec', options.codec, ['vp9', 'vp8', 'h264', 'av1'])),
    )
  }

  /**
   * Decodes one frame, access unit or (AV1) temporal unit; close what it gives. Null when it shows nothing. Throws `ERR_CODEC` for damaged data; it
   * then goes on with the next keyframe.
   */
  decode(data: Uint8Array, timestampUs = 0): Promise<VideoFrame | null> {
    const copy = data.slice()
    const result = this.#last.then(async () => {
      const frame = unwrap(await this.#native.decode(copy, Math.round(timestampUs)))
      return frame ? new VideoFrame(frame) : null
    })
    this.#last = result.catch(() => {})
    return result
  }

  /** Frees the codec. Idempotent. */
  close(): void {
    void this.#last.then(() => this.#native.close())
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

function integer(field: string, value: unknown, min: number, max: number): number {
  if (Number.isInteger(value) && (value as number) >= min && (value as number) <= max) return value as number
  throw configError(field, value, `an integer from ${min} to ${max}`)
}

function oneOf<T>(field: string, value: T, allowed: readonly T[]): T {
  if (allowed.includes(value)) return value
  throw configError(field, value, `one of ${allowed.join(', ')}`)
}
