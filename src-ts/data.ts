import { configError, WebRtcError } from './errors.js'
import { VideoFrame } from './frame.js'
import type { ItemIn, ItemOut, NativeVideoFrame } from './native/binding.cjs'

/** Samples, interleaved, nominally within -1 to 1. */
export interface AudioData {
  kind: 'audio'
  /** Interleaved: its length is a multiple of `channels`. */
  samples: Float32Array
  /** Hertz, 8000 to 192 000. */
  sampleRate: number
  /** 1 (mono) or 2 (left, right). */
  channels: number
}

export interface VideoData {
  kind: 'video'
  /** A native handle: whoever obtained it closes it. */
  frame: VideoFrame
}

export interface TextData {
  kind: 'text'
  text: string
}

export interface JsonData {
  kind: 'json'
  /** Anything that JSON can carry. */
  value: unknown
}

export interface BinaryData {
  kind: 'binary'
  data: Uint8Array
}

/** Audio of several sources at one time, to be summed. */
export interface AudioMixData {
  kind: 'audioMix'
  inputs: AudioData[]
}

/** One piece of media or data. */
export type RuntimeData = AudioData | VideoData | TextData | JsonData | BinaryData | AudioMixData

export type DataKind = RuntimeData['kind']

/** A piece of media or data with what is known about it. */
export interface TransportData {
  data: RuntimeData
  /**
   * When it was captured, in microseconds.
   *
   * Of what is received: on this transport's clock, zero at its start, plus the shortest way from the peer; what a peer captured
   * together has one timestamp, audio or video. It never goes back. Of what is sent: on any clock that runs in real time. Audio and
   * video for one peer belong on one clock; within 500 ms they are taken to be. Audio without timestamps is counted.
   */
  timestampUs: number
  /** The sender's count, where there is one. */
  sequence?: number
  /** Whatever the application attached. */
  metadata?: Record<string, string>
}

/** Anything that can be sent: with or without a timestamp. */
export type Sendable = TransportData | RuntimeData

/** @internal Splits what a caller gave into what the addon takes. Throws `ERR_CONFIG` naming the field. */
export function toNative(data: Sendable): { item: ItemIn; frame: NativeVideoFrame | undefined } {
  const { data: runtime, timestampUs, sequence, metadata } = withTimestamp(data)
  const item: ItemIn = { kind: runtime.kind }
  if (timestampUs !== undefined) item.timestampUs = timestampUs
  if (sequence !== undefined) item.sequence = sequence
  if (metadata !== undefined) item.metadata = metadata
  let frame: NativeVideoFrame | undefined
  switch (runtime.kind) {
    case 'audio':
      checkAudio('data', runtime)
      item.samples = runtime.samples
      item.sampleRate = runtime.sampleRate
      item.channels = runtime.channels
      break
    case 'video':
      if (!(runtime.frame instanceof VideoFrame))
        throw configError('frame', typeof runtime.frame, 'a VideoFrame')
      frame = runtime.frame.native
      break
    case 'text':
      if (typeof runtime.text !== 'string') throw configError('text', runtime.text, 'a string')
      item.text = runtime.text
      break
    case 'json':
      item.text = jsonText(runtime.value)
      break
    case 'binary':
      item.data = bytesOf(runtime.data)
      break
    case 'audioMix':
      if (!Array.isArray(runtime.inputs)) throw configError('inputs', runtime.inputs, 'an array of audio')
      runtime.inputs.forEach((input, i) => {
        checkAudio(`inputs[${i}]`, input)
      })
      item.inputs = runtime.inputs.map(({ samples, sampleRate, channels }) => ({
        samples,
        sampleRate,
        channels,
      }))
      break
    default:
      throw configError('kind', (runtime as RuntimeData).kind, KINDS)
  }
  return { item, frame }
}

/** @internal What came from the addon, as the caller sees it. */
export function fromNative(item: ItemOut): TransportData {
  const out: TransportData = { data: runtimeOf(item), timestampUs: item.timestampUs }
  if (item.sequence != null) out.sequence = item.sequence
  if (item.metadata != null) out.metadata = item.metadata
  return out
}

/** @internal A second reference for another receiver. */
export function share(data: TransportData): TransportData {
  if (data.data.kind !== 'video') return data
  return { ...data, data: { kind: 'video', frame: data.data.frame.clone() } }
}

/** @internal Lets go what a receiver did not take. */
export function release(data: TransportData | null | undefined): void {
  if (data?.data.kind === 'video') data.data.frame.close()
}

/** @internal */
export function withTimestamp(data: Sendable): Omit<TransportData, 'timestampUs'> & { timestampUs?: number } {
  if (typeof data !== 'object' || data === null) throw configError('data', data, 'an object with a kind')
  if ('kind' in data) return { data }
  const { timestampUs, sequence, metadata } = data
  if (typeof data.data !== 'object' || data.data === null) throw configError('data', data.data, KINDS)
  if (timestampUs !== undefined && !Number.isFinite(timestampUs)) {
    throw configError('timestampUs', timestampUs, 'a number of microseconds')
  }
  return {
    data: data.data,
    ...(timestampUs === undefined ? {} : { timestampUs: Math.round(timestampUs) }),
    ...(sequence === undefined ? {} : { sequence }),
    ...(metadata === undefined ? {} : { metadata }),
  }
}

/** @internal */
export function jsonText(value: unknown): string {
  let text: string | undefined
  try {
    text = JSON.stringify(value)
  } catch (cause) {
    throw new WebRtcError('ERR_CONFIG', 'value: not something that JSON can carry', { cause })
  }
  if (text === undefined) throw configError('value', value, 'something that JSON can carry')
  return text
}

/** @internal */
export function bytesOf(data: unknown): Uint8Array {
  if (data instanceof Uint8Array) return data
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  // Not instanceof: another realm's (a vm context's, a test runner's) ArrayBuffer is one too.
  if (Object.prototype.toString.call(data) === '[object ArrayBuffer]')
    return new Uint8Array(data as ArrayBuffer)
  throw configError('data', data, 'a Uint8Array or ArrayBuffer')
}

function runtimeOf(item: ItemOut): RuntimeData {
  switch (item.kind) {
    case 'audio':
      return audioOf(item)
    case 'video':
      return { kind: 'video', frame: new VideoFrame(item.frame!) }
    case 'text':
      return { kind: 'text', text: item.text! }
    case 'json':
      return { kind: 'json', value: JSON.parse(item.text!) as unknown }
    case 'audioMix':
      return { kind: 'audioMix', inputs: item.inputs!.map(audioOf) }
    default:
      return { kind: 'binary', data: item.data! }
  }
}

function audioOf(item: ItemOut): AudioData {
  return { kind: 'audio', samples: item.samples!, sampleRate: item.sampleRate!, channels: item.channels! }
}

function checkAudio(field: string, audio: AudioData): void {
  const { samples, sampleRate, channels } = audio ?? {}
  if (!(Object.prototype.toString.call(samples) === '[object Float32Array]')) {
    throw configError(`${field}.samples`, typeof samples, 'a Float32Array')
  }
  if (!(Number.isInteger(sampleRate) && sampleRate >= 8000 && sampleRate <= 192_000)) {
    throw configError(`${field}.sampleRate`, sampleRate, 'an integer from 8000 to 192000')
  }
  if (channels !== 1 && channels !== 2) throw configError(`${field}.channels`, channels, '1 or 2')
  if (samples.length % channels !== 0) {
    throw configError(`${field}.samples.length`, samples.length, `a multiple of ${channels} channels`)
  }
}

const KINDS = "data of kind 'audio', 'video', 'text', 'json', 'binary' or 'audioMix'"
