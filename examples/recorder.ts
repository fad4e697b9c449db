// Records a peer, or the whole room in one picture, as WebM (VP9 and Opus).
//
//   npm install mediabunny                                           (it writes the file; not a part of the package)
//   npx remotemedia-webrtc signaling --port 8080
//   node examples/recorder.ts ws://127.0.0.1:8080 alice.webm --peer alice
//   node examples/recorder.ts ws://127.0.0.1:8080 room.webm --layout speaker
//
// Ctrl+C ends it, with a whole file. Node 22.18 or later runs TypeScript as it is. How it works: docs/recording.md

import { type FileHandle, open } from 'node:fs/promises'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import {
  type AudioData,
  AudioEncoder,
  Manifest,
  type SessionOutput,
  VideoEncoder,
  VideoFrame,
  WebRtcTransport,
} from '@remotemedia/webrtc'
import {
  EncodedAudioPacketSource,
  EncodedPacket,
  EncodedVideoPacketSource,
  Output,
  StreamTarget,
  type StreamTargetChunk,
  WebMOutputFormat,
} from 'mediabunny'

export interface RecorderOptions {
  signalingUrl: string
  /** Of the file, which is overwritten. */
  path: string
  room?: string
  /** Our own id in the room. Default `recorder`. */
  peerId?: string
  /** Records this peer, until it leaves. Default: everybody, in one picture and one sound, until `signal`. */
  peer?: string
  /** Of everybody's picture. Default `grid`. */
  layout?: 'grid' | 'speaker' | 'pip'
  /** Sends everybody's picture to everybody as well. Default false. */
  share?: boolean
  /** Pixels. Default 1280. */
  width?: number
  /** Pixels. Default 720. */
  height?: number
}

/** Records until `signal` is aborted or the one peer left; then the file is whole. Throws what the disk or a codec said. */
export async function record(options: RecorderOptions, signal: AbortSignal): Promise<Recorded> {
  const { signalingUrl, room, peerId = 'recorder', peer, width = 1280, height = 720 } = options
  const transport = await WebRtcTransport.create({ signalingUrl, peerId, ...(room ? { room } : {}) })
  let recording: WebmRecording | undefined
  try {
    const graph = peer ? ofPeer(width, height) : ofRoom(options.layout ?? 'grid', width, height)
    const session = await transport.stream(Manifest.parse(graph))
    recording = await WebmRecording.create(options.path, { width, height })
    const { picture, sound } = listeners(recording, peer)
    session.onOutput('picture', picture)
    session.onOutput('sound', sound)
    const from = peer ? [peer] : ('*' as const)
    // Nobody need be sent to: what leaves the graph is recorded in any case. The peer may come later.
    session.route({ from, track: 'audio', through: 'sound', to: [], mayBeAbsent: true })
    const to = options.share && !peer ? 'all' : []
    session.route({ from, track: 'video', through: 'picture', to, mayBeAbsent: true })
    await Promise.race([
      aborted(signal),
      aborted(recording.failed),
      new Promise<void>((resolve) => transport.on('peerleft', (left) => left.peerId === peer && resolve())),
    ])
    await session.close()
    return await recording.close()
  } finally {
    await recording?.close().catch(() => {})
    await transport.close()
  }
}

/** One peer's media, pictures brought to one size: what it sends gets smaller when its path does. */
function ofPeer(width: number, height: number) {
  return {
    version: 'v1' as const,
    nodes: [
      { id: 'picture', node_type: 'Scale', params: { width, height, fit: 'inside' } },
      { id: 'sound', node_type: 'Gain' },
    ],
  }
}

/** Everybody's media in one picture and one sound. Who speaks is shown large, where the layout has that; in a grid places stay. */
function ofRoom(layout: string, width: number, height: number) {
  return {
    version: 'v1' as const,
    nodes: [
      { id: 'picture', node_type: 'Compositor', params: { width, height, layout } },
      { id: 'sound', node_type: 'AudioMixer' },
    ],
    connections: layout === 'grid' ? [] : [{ from: 'sound.events', to: 'picture.control' }],
  }
}

function listeners(recording: WebmRecording, peer: string | undefined) {
  return {
    picture: ({ data: { data, timestampUs } }: SessionOutput) => {
      if (data.kind === 'video') recording.picture(data.frame, timestampUs)
    },
    sound: ({ peerId, data: { data, timestampUs } }: SessionOutput) => {
      // The mixer also makes mixes for one peer, which leave out that peer.
      if (data.kind === 'audio' && peerId === peer) recording.sound(data, timestampUs)
    },
  }
}

export interface Recorded {
  path: string
  /** From the first to the last that was written. */
  seconds: number
  /** Written. */
  pictures: number
  /** Packets of 20 ms, written. */
  sounds: number
  /** Pictures and pieces of sound that were not written, because the encoder or the disk was too slow. */
  dropped: number
  /** The same, because they were too late, or from before the beginning. */
  late: number
}

export interface RecordingOptions {
  /** Pixels: at most what pictures are. */
  width: number
  height: number
  /** bit/s. Default 2 000 000. */
  videoBitrateBps?: number
  /** bit/s. Default 64 000. */
  audioBitrateBps?: number
}

/**
 * A WebM file that is being written, from pictures and sound with timestamps on one clock. The first of them is its zero; where there
 * was nothing, there is nothing in the file for that time.
 *
 * The muxer writes in the order of time, so it keeps what one track has until the other has something later. When one of them pauses,
 * a silent packet or the last picture stands in for it once a second, and bounds that.
 */
export class WebmRecording {
  /** Aborted when nothing more can be written; `close` says why. */
  readonly failed: AbortSignal
  readonly #failure = new AbortController()
  readonly #path: string
  readonly #file: FileHandle
  readonly #options: RecordingOptions
  readonly #output: Output
  readonly #videoTrack = new EncodedVideoPacketSource('vp9')
  readonly #audioTrack = new EncodedAudioPacketSource('opus')
  readonly #videoEncoder: VideoEncoder
  readonly #audioEncoder: AudioEncoder
  readonly #video: TrackState = {
    lastUs: Number.NEGATIVE_INFINITY,
    writtenUs: Number.NEGATIVE_INFINITY,
    count: 0,
  }
  readonly #audio: TrackState = {
    lastUs: Number.NEGATIVE_INFINITY,
    writtenUs: Number.NEGATIVE_INFINITY,
    count: 0,
  }
  /** The timestamp that is the file's zero. */
  #zeroUs: number | undefined
  #keyframeUs = 0
  #picture: VideoFrame | undefined
  /** Samples that the encoder has and hasn't made a packet of. */
  #samplesLeft = 0
  #encoding = 0
  #encoded: Promise<unknown> = Promise.resolve()
  #writing = 0
  #written: Promise<unknown> = Promise.resolve()
  #dropped = 0
  #late = 0
  #closed: Promise<Recorded> | undefined

  /** Throws what keeps the file from being written. */
  static async create(path: string, options: RecordingOptions): Promise<WebmRecording> {
    const file = await open(path, 'w')
    let recording: WebmRecording | undefined
    try {
      recording = new WebmRecording(path, file, options)
      await recording.#output.start()
      return recording
    } catch (error) {
      if (recording) recording.#free()
      await file.close()
      throw error
    }
  }

  private constructor(path: string, file: FileHandle, options: RecordingOptions) {
    const { width, height, videoBitrateBps = 2_000_000, audioBitrateBps = 64_000 } = options
    this.#path = path
    this.#file = file
    this.#options = options
    this.failed = this.#failure.signal
    this.#output = new Output({
      format: new WebMOutputFormat(),
      // The piece is what a crash may cost: the default is 16 MiB.
      target: new StreamTarget(writable(file), { chunked: true, chunkSize: 65_536 }),
    })
    const codec = `vp09.00.${width * height > 983_040 ? 51 : 31}.08`
    const smpte = 'smpte170m' as const
    const colorSpace = { primaries: smpte, transfer: smpte, matrix: smpte, fullRange: false }
    this.#output.addVideoTrack(this.#videoTrack, {
      decoderConfig: { codec, codedWidth: width, codedHeight: height, colorSpace },
    })
    this.#output.addAudioTrack(this.#audioTrack, {
      decoderConfig: { codec: 'opus', numberOfChannels: 1, sampleRate: RATE, description: OPUS_HEAD },
    })
    this.#videoEncoder = new VideoEncoder({ codec: 'vp9', width, height, bitrateBps: videoBitrateBps })
    this.#audioEncoder = new AudioEncoder({ channels: 1, bitrateBps: audioBitrateBps, fec: false })
  }

  /** Takes its own reference to the frame. Never waits: what finds no room is dropped, and counted. */
  picture(frame: VideoFrame, timestampUs: number): void {
    const atUs = this.#admit(this.#video, timestampUs)
    if (atUs === undefined) return
    this.#standIn(this.#audio, atUs, (thenUs) => this.#writeSound(SILENCE, thenUs))
    this.#encode(frame, atUs)
    this.#picture?.close()
    this.#picture = frame.clone()
  }

  /** Never waits: what finds no room is dropped, and counted. */
  sound(audio: AudioData, timestampUs: number): void {
    const atUs = this.#admit(this.#audio, timestampUs)
    if (atUs === undefined) return
    this.#standIn(this.#video, atUs, (thenUs) => {
      this.#picture ??= black(this.#options)
      this.#encode(this.#picture, thenUs)
    })
    const { sampleRate, channels, samples } = audio
    const gapUs = atUs - this.#audio.lastUs
    // What is left of before a pause is completed by silence: a packet is one piece of time.
    if (gapUs > PACKET_US && this.#samplesLeft > 0) this.#completeSound()
    this.#encodeSound({ sampleRate, channels, samples }, atUs)
    this.#audio.lastUs = atUs + (samples.length / channels / sampleRate) * 1e6
  }

  /** Writes what is left, the index and the duration. Idempotent. Throws what kept it from writing. */
  close(): Promise<Recorded> {
    this.#closed ??= this.#finish()
    return this.#closed
  }

  /** The place of something in the file; undefined if it has none. */
  #admit(track: TrackState, timestampUs: number): number | undefined {
    if (this.#closed || this.failed.aborted) return undefined
    this.#zeroUs ??= timestampUs
    const atUs = timestampUs - this.#zeroUs
    if (atUs < 0 || atUs <= track.writtenUs) {
      this.#late++
      return undefined
    }
    if (this.#encoding >= MAX_ENCODING && track === this.#video) {
      this.#dropped++
      return undefined
    }
    if (this.#writing >= MAX_WRITING) {
      this.#dropped++
      return undefined
    }
    return atUs
  }

  /** Something for the other track, if that has nothing from before `atUs` that the muxer could go on with. */
  #standIn(other: TrackState, atUs: number, write: (thenUs: number) => void): void {
    if (atUs - Math.max(other.lastUs, 0) < 2 * STAND_IN_US) return
    const thenUs = atUs - STAND_IN_US
    other.lastUs = thenUs
    write(thenUs)
  }

  #encode(frame: VideoFrame, atUs: number): void {
    this.#video.lastUs = atUs
    this.#video.writtenUs = atUs
    // Where a player can begin: the file's index names these.
    const keyframe = atUs >= this.#keyframeUs
    if (keyframe) this.#keyframeUs = atUs + KEYFRAME_US
    this.#encoding++
    const encoded = this.#videoEncoder.encode(frame, { keyframe }).finally(() => this.#encoding--)
    this.#encoded = encoded.then(
      (picture) => {
        if (!picture) {
          this.#dropped++
          if (keyframe) this.#keyframeUs = 0
          return
        }
        const { data, keyframe: key } = picture
        this.#write(this.#video, data.length, () =>
          this.#videoTrack.add(new EncodedPacket(data, key ? 'key' : 'delta', atUs / 1e6, PICTURE_S)),
        )
      },
      (error) => this.#fail(error),
    )
  }

  #encodeSound(audio: Omit<AudioData, 'kind'>, atUs: number): void {
    const { sampleRate, channels, samples } = audio
    this.#samplesLeft += (samples.length / channels / sampleRate) * RATE
    try {
      for (const { data, timestampUs } of this.#audioEncoder.encode(audio, atUs)) {
        this.#samplesLeft -= PACKET_SAMPLES
        this.#writeSound(data, timestampUs)
      }
    } catch (error) {
      this.#fail(error)
    }
  }

  #completeSound(): void {
    const samples = new Float32Array(Math.max(0, Math.ceil(PACKET_SAMPLES - this.#samplesLeft)))
    this.#encodeSound({ sampleRate: RATE, channels: 1, samples }, this.#audio.lastUs)
    this.#samplesLeft = 0
  }

  #writeSound(data: Uint8Array, atUs: number): void {
    // What a decoder gives for a packet begins so much before what the encoder was given for it.
    const thenUs = Math.max(atUs - LOOKAHEAD_US, this.#audio.writtenUs, 0)
    this.#audio.writtenUs = thenUs
    this.#write(this.#audio, data.length, () =>
      this.#audioTrack.add(new EncodedPacket(data, 'key', thenUs / 1e6, PACKET_US / 1e6)),
    )
  }

  #write(track: TrackState, bytes: number, add: () => Promise<void>): void {
    track.count++
    this.#writing += bytes
    this.#written = this.#written
      .then(add)
      .catch((error) => this.#fail(error))
      .finally(() => {
        this.#writing -= bytes
      })
  }

  #fail(error: unknown): void {
    if (!this.failed.aborted) this.#failure.abort(error)
  }

  async #finish(): Promise<Recorded> {
    try {
      if (this.#samplesLeft > 0) this.#completeSound()
      await this.#encoded
      await this.#written
      if (this.failed.aborted) await this.#output.cancel()
      else await this.#output.finalize()
    } catch (error) {
      this.#fail(error)
    } finally {
      this.#free()
      // A stream that failed doesn't.
      await this.#file.close().catch((error) => this.#fail(error))
    }
    if (this.failed.aborted) throw this.failed.reason
    const lastUs = Math.max(this.#video.lastUs, this.#audio.lastUs, 0)
    const [pictures, sounds] = [this.#video.count, this.#audio.count]
    return {
      path: this.#path,
      seconds: lastUs / 1e6,
      pictures,
      sounds,
      dropped: this.#dropped,
      late: this.#late,
    }
  }

  #free(): void {
    this.#picture?.close()
    this.#videoEncoder.close()
    this.#audioEncoder.close()
  }
}

interface TrackState {
  /** Where what was given ends, in the file's time. */
  lastUs: number
  /** Of the last packet. */
  writtenUs: number
  count: number
}

/** Pictures on their way through the encoder: a second at 15 a second. */
const MAX_ENCODING = 15
/** Bytes that the disk has not taken. */
const MAX_WRITING = 8 << 20
const KEYFRAME_US = 5_000_000
const STAND_IN_US = 1_000_000
/** Of a picture whose next is not known. */
const PICTURE_S = 1 / 30
const RATE = 48_000
const PACKET_SAMPLES = 960
const PACKET_US = 20_000
const LOOKAHEAD_US = 6500
/** A packet of 20 ms that holds nothing. */
const SILENCE = new Uint8Array([0xf8, 0xff, 0xfe])
/** RFC 7845, 5.1: version 1, one channel, nothing to skip, 48 kHz, no gain. */
const OPUS_HEAD = new Uint8Array([
  ...[...'OpusHead'].map((c) => c.charCodeAt(0)),
  ...[1, 1, 0, 0, 0x80, 0xbb, 0, 0, 0, 0, 0],
])

function writable(file: FileHandle): WritableStream<StreamTargetChunk> {
  return new WritableStream({
    write: async ({ data, position }) => {
      for (let done = 0; done < data.length; ) {
        done += (await file.write(data, done, data.length - done, position + done)).bytesWritten
      }
    },
    close: () => file.close(),
    abort: () => file.close(),
  })
}

function black({ width, height }: RecordingOptions): VideoFrame {
  const luma = width * height
  const bytes = new Uint8Array(luma + 2 * Math.ceil(width / 2) * Math.ceil(height / 2)).fill(16, 0, luma)
  return VideoFrame.from(bytes.fill(128, luma), { format: 'I420', width, height })
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      peer: { type: 'string' },
      layout: { type: 'string', default: 'grid' },
      room: { type: 'string' },
      share: { type: 'boolean', default: false },
      size: { type: 'string', default: '1280x720' },
    },
  })
  const layout = (['grid', 'speaker', 'pip'] as const).find((one) => one === values.layout)
  if (!layout) throw new Error(`--layout: ${values.layout} is none of grid, speaker, pip`)
  const [width, height] = values.size.split('x').map(Number)
  if (!width || !height) throw new Error(`--size: ${values.size} is not like 1280x720`)
  const [signalingUrl = 'ws://127.0.0.1:8080', path = 'recording.webm'] = positionals
  const { peer, room, share } = values
  const ended = new AbortController()
  process.once('SIGINT', () => ended.abort())
  process.once('SIGTERM', () => ended.abort())
  console.log(`recording ${peer ?? 'the room'} to ${path}; Ctrl+C ends it`)
  const names = { ...(peer ? { peer } : {}), ...(room ? { room } : {}) }
  const options = { signalingUrl, path, layout, share, width, height, ...names }
  console.log(JSON.stringify(await record(options, ended.signal)))
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) void main()
