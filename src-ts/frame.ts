import { configError, WebRtcError } from './errors.js'
import type { NativeVideoFrame } from './native/binding.cjs'
import { native } from './native/load.js'
import { check, unwrap } from './native/result.js'

/** How the bytes of a picture are laid out: planar YUV 4:2:0 (Y, then U, then V), or 4 bytes a pixel. Both tightly packed. */
export type PixelFormat = 'I420' | 'RGBA'

export interface VideoFrameInit {
  format: PixelFormat
  /** Pixels, 1 to 8192; width × height at most 16 777 216. */
  width: number
  /** Pixels, 1 to 8192. */
  height: number
  /** When it was captured, in microseconds on the media clock. Default 0. */
  timestampUs?: number
}

/** One plane of a picture: rows `stride` bytes apart. */
export interface VideoPlane {
  data: Uint8Array
  stride: number
}

/**
 * One picture in native memory: 8-bit I420, BT.601 limited range. Whoever obtained a frame closes it (`close()`, or `using`);
 * a frame that is forgotten is reclaimed by garbage collection, counted in `VideoFrame.forgotten` and warned about once.
 */
export class VideoFrame implements Disposable {
  /** Frames that were garbage collected without `close()`. */
  static get forgotten(): number {
    return forgotten
  }

  readonly #native: NativeVideoFrame
  #view: ArrayBuffer | undefined
  #planes: VideoPlane[] | undefined
  #closed = false

  /**
   * Makes a frame of tightly packed bytes, which are copied. Throws `ERR_CONFIG` when they don't hold a picture of this size.
   */
  static from(data: Uint8Array | ArrayBuffer, init: VideoFrameInit): VideoFrame {
    const { format, width, height, timestampUs = 0 } = init ?? {}
    if (format !== 'I420' && format !== 'RGBA') throw configError('format', format, "'I420' or 'RGBA'")
    for (const [name, value] of Object.entries({ width, height })) {
      if (!(Number.isInteger(value) && value >= 1 && value <= 8192)) {
        throw configError(name, value, 'an integer from 1 to 8192')
      }
    }
    if (!Number.isFinite(timestampUs))
      throw configError('timestampUs', timestampUs, 'a number of microseconds')
    const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : data
    if (!ArrayBuffer.isView(bytes)) throw configError('data', data, 'a Uint8Array')
    const u8 = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    return new VideoFrame(
      unwrap(native.NativeVideoFrame.from(u8, format, width, height, Math.round(timestampUs))),
    )
  }

  /** @internal */
  constructor(handle: NativeVideoFrame) {
    this.#native = handle
    handle.account()
    registry.register(this, undefined, this)
  }

  /** @internal The handle, for a native call that takes its own reference. */
  get native(): NativeVideoFrame {
    if (this.#closed) throw closed()
    return this.#native
  }

  /** Pixels. */
  get width(): number {
    return this.#native.width
  }

  /** Pixels. */
  get height(): number {
    return this.#native.height
  }

  /** When it was captured, in microseconds on the sender's media clock. */
  get timestampUs(): number {
    return this.#native.timestampUs
  }

  /** Whether `close()` was called. */
  get closed(): boolean {
    return this.#closed
  }

  /** Bytes that `copyTo` writes. */
  allocationSize(format: PixelFormat = 'I420'): number {
    const { width, height } = this
    if (format === 'RGBA') return width * height * 4
    return width * height + 2 * Math.ceil(width / 2) * Math.ceil(height / 2)
  }

  /** Copies the pixels into `buffer`, which must be `allocationSize(format)` bytes long. */
  copyTo(buffer: Uint8Array, options: { format?: PixelFormat } = {}): void {
    const { format = 'I420' } = options
    if (format !== 'I420' && format !== 'RGBA') throw configError('format', format, "'I420' or 'RGBA'")
    check(this.native.copyTo(buffer, format))
  }

  /**
   * The Y, U and V planes without a copy. They are detached (length 0) by `close()`. Read only: clones of the frame, and what
   * is being encoded, see the same bytes.
   */
  get planes(): VideoPlane[] {
    if (this.#closed) throw closed()
    this.#planes ??= this.#makePlanes()
    return this.#planes
  }

  /** Another handle on the same pixels, to be closed on its own. */
  clone(): VideoFrame {
    const clone = this.native.cloneHandle()
    if (!clone) throw closed()
    return new VideoFrame(clone)
  }

  /** Lets the pixels go. Idempotent. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    registry.unregister(this)
    const view = this.#view
    this.#view = undefined
    this.#native.close(view)
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #makePlanes(): VideoPlane[] {
    const view = this.#native.view()
    if (!view) throw closed()
    this.#view = view
    const { width, height } = this
    const [cw, ch] = [Math.ceil(width / 2), Math.ceil(height / 2)]
    const luma = width * height
    const chroma = cw * ch
    return [
      { data: new Uint8Array(view, 0, luma), stride: width },
      { data: new Uint8Array(view, luma, chroma), stride: cw },
      { data: new Uint8Array(view, luma + chroma, chroma), stride: cw },
    ]
  }
}

let forgotten = 0
const registry = new FinalizationRegistry<undefined>(() => {
  forgotten++
  if (forgotten === 1) {
    process.emitWarning(
      'A VideoFrame was garbage collected without close(). Close each frame you receive: its memory is native and large.',
      { code: 'REMOTEMEDIA_FRAME_NOT_CLOSED' },
    )
  }
})

function closed(): WebRtcError {
  return new WebRtcError('ERR_CLOSED', 'the frame is closed')
}
