/** What crosses between a test and the peer in the page: plain values that survive `page.evaluate`. */

/** A message on a data channel; bytes travel as base64. */
export type WireMessage =
  | { kind: 'text'; text: string }
  | { kind: 'json'; value: unknown }
  | { kind: 'binary'; base64: string }

export interface PeerOptions {
  signalingUrl: string
  peerId: string
  /** Default 'default'. */
  room?: string
  /** Offer to everyone in the announce result, as a newcomer does (the default), or wait for their offers. */
  offers?: boolean
  /**
   * Send a sine of this frequency (Hz) and level (peak amplitude 0 to 1, default 0.5), or the fake microphone. With `rightHz` it is
   * stereo, and with `silentAfterMs` it ends.
   */
  audio?: { toneHz: number; rightHz?: number; amplitude?: number; silentAfterMs?: number } | 'microphone'
  /** Send the moving pattern, or the fake camera. */
  video?: { width: number; height: number; fps?: number } | 'camera'
  /** Send flashes and beeps instead, both together. */
  flashAndBeep?: boolean
  /** Put first in our offers and answers, as 'VP9', 'VP8' or 'H264'. */
  videoCodec?: string
  /** Take every other video codec out as well: for a peer without a common codec. */
  onlyThisVideoCodec?: boolean
  /** Create the channel `data` when offering. Default true. */
  dataChannel?: boolean
  /** Options of that channel: default reliable and ordered. */
  dataChannelInit?: { ordered?: boolean; maxRetransmits?: number }
  /** Sent in the very turn in which a channel opens, on every channel. */
  firstMessages?: WireMessage[]
  /** ICE servers and policy. Default: none, all. */
  connection?: RTCConfiguration
  /** Send back what comes: each track in place of ours, each message byte for byte. */
  echo?: boolean
}

/** What a received tone measures as. */
export interface ToneReading {
  frequencyHz: number
  /** Root mean square, dB relative to full scale: a sine of amplitude 1 is −3.01. */
  levelDbfs: number
}

/** When flashes and beeps began, in seconds of the page's clock: as they are shown and heard. */
export interface FlashAndBeepReading {
  flashes: number[]
  beeps: number[]
}

/** One received frame of the pattern. */
export interface PictureReading {
  counter: number
  psnrDb: number
  width: number
  height: number
}

/** The part of getStats that tests look at. */
export interface StatsSummary {
  connectionState: string
  iceConnectionState: string
  signalingState: string
  dtlsState: string | null
  roundTripMs: number | null
  localCandidate: { type: string; protocol: string; address: string } | null
  remoteCandidate: { type: string; protocol: string; address: string } | null
  audio: { sent: RtpSummary | null; received: RtpSummary | null }
  video: { sent: RtpSummary | null; received: RtpSummary | null }
}

/** Counters of one RTP stream under their W3C names; what a direction doesn't have is 0. */
export interface RtpSummary {
  codec: string | null
  packets: number
  bytes: number
  packetsLost: number
  nackCount: number
  pliCount: number
  firCount: number
  /** Video: encoded and sent, or decoded. */
  frames: number
  framesReceived: number
  framesDropped: number
  keyFrames: number
  frameWidth: number
  frameHeight: number
  retransmittedPackets: number
  /** Audio: decoded energy and samples. */
  totalAudioEnergy: number
  totalSamplesReceived: number
  concealedSamples: number
}

/** A stretch of received sound. Times are in milliseconds since the epoch. */
export interface Recording {
  /** 16-bit samples at 48 kHz, mono, little endian, as base64. */
  pcm: string
  /** When its pieces were whole. */
  blocks: { endedAt: number; frames: number }[]
  /** When it was seen, every 100 ms, that the browser made something up or changed its pace. */
  disturbedAt: number[]
}
