import type { NativeQuality } from '../native/binding.cjs'
import type { PeerId } from '../peers.js'

/** How good the connection to a peer is: `docs/quality.md` has the thresholds, and why they are what they are. */
export interface PeerQuality {
  /** `lost`: nothing has come from the peer for 4 s. */
  quality: 'excellent' | 'good' | 'fair' | 'poor' | 'lost'
  /** What is worst; `null` while it is excellent. */
  cause: 'loss' | 'round-trip' | 'jitter' | 'freezes' | 'bandwidth' | 'silence' | null
  /** The measurements behind it, smoothed over some seconds; those there is nothing to measure by are absent. */
  measured: {
    /** Share of the RTP packets that the path lost, before any repair; the worse direction. 0 to 1. */
    loss?: number
    /** Seconds. */
    roundTripTime?: number
    /** Interarrival jitter of sound, the worse direction, in seconds. */
    jitter?: number
    /** Share of the time that the peer's pictures stood still. 0 to 1. */
    frozen?: number
    /** Share that the path carries of what our pictures are worth at full size. 0 to 1. */
    bandwidth?: number
    /** Seconds since the peer was last heard. */
    silent: number
  }
}

/** The connection to a peer became better or worse. */
export interface QualityChange extends PeerQuality {
  peerId: PeerId
}

/** @internal */
export function toQuality(native: NativeQuality): PeerQuality {
  const { quality, cause, ...rest } = native
  const known = Object.entries(rest).filter(([, value]) => value !== undefined && value !== null)
  return {
    quality: quality as PeerQuality['quality'],
    cause: (cause ?? null) as PeerQuality['cause'],
    measured: Object.fromEntries(known) as unknown as PeerQuality['measured'],
  }
}
