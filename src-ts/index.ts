import { native } from './native/load.js'

export * from './errors.js'

/** What the native addon was built from: for bug reports. */
export interface BuildInfo {
  /** Version of the package. */
  version: string
  /** Rust target triple, such as `x86_64-unknown-linux-gnu`. */
  target: string
  /** Cargo profile: `release` or `debug`. */
  profile: string
  /** Video codecs that can be opened: `VP9`, `VP8`, and `H264` unless it was built without. */
  videoCodecs: string[]
}

/** What the native addon was built from. */
export function buildInfo(): BuildInfo {
  return native.buildInfo()
}
