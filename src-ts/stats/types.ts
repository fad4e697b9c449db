import type { IceCandidateType, PeerConnectionState, PeerId } from '../peers.js'

// Names and units are those of W3C webrtc-stats (https://www.w3.org/TR/webrtc-stats/): seconds, bytes, bits a second.
// Where something is not W3C's, its comment says so.

/** One object of a statistics report; `type` says which. Ids are stable as long as the connection lives. */
export type RTCStats =
  | RTCPeerConnectionStats
  | RTCTransportStats
  | RTCIceCandidatePairStats
  | RTCIceCandidateStats
  | RTCCertificateStats
  | RTCCodecStats
  | RTCMediaSourceStats
  | RTCInboundRtpStreamStats
  | RTCOutboundRtpStreamStats
  | RTCRemoteInboundRtpStreamStats
  | RTCRemoteOutboundRtpStreamStats
  | RTCDataChannelStats

/** W3C `RTCStatsType`, as far as there are such objects here. */
export type RTCStatsType = RTCStats['type']

/** The objects of one type. */
export type RTCStatsOf<T extends RTCStatsType> = Extract<RTCStats, { type: T }>

/** Audio or video. */
export type MediaKind = 'audio' | 'video'

interface Common<T extends string> {
  /** Other objects refer to this one by it. */
  id: string
  type: T
  /** When it was read: milliseconds since 1970. */
  timestamp: number
  /** The peer at the other end (not W3C's: there every connection has a report of its own). */
  peerId: PeerId
}

/** The connection to a peer. */
export interface RTCPeerConnectionStats extends Common<'peer-connection'> {
  /** Data channels that opened. */
  dataChannelsOpened: number
  /** Of these, those that closed. */
  dataChannelsClosed: number
  /** State of the connection (not W3C's). */
  connectionState: PeerConnectionState
}

/** ICE and DTLS under all of the connection. Bytes are those of UDP payloads, without connectivity checks. */
export interface RTCTransportStats extends Common<'transport'> {
  packetsSent: number
  packetsReceived: number
  bytesSent: number
  bytesReceived: number
  iceState?: 'new' | 'checking' | 'connected' | 'completed' | 'disconnected' | 'failed' | 'closed'
  dtlsState: 'new' | 'connecting' | 'connected' | 'closed' | 'failed'
  /** Who began DTLS; absent until it is agreed. */
  dtlsRole?: 'client' | 'server'
  localCertificateId?: string
  remoteCertificateId?: string
  selectedCandidatePairId?: string
  /** How often another pair came into use, the first one included. */
  selectedCandidatePairChanges: number
  /** ICE restarts that both sides agreed on (not W3C's). */
  iceRestarts: number
  /** Silences of the peer, while which the connection waited (not W3C's). */
  silences: number
  /** Times that the peer was heard from elsewhere than where it was, or saw us elsewhere (not W3C's). */
  pathSuspects: number
  /** DTLS datagrams sent again to open the connection sooner (not W3C's). */
  handshakeResends: number
  /** What was refused or thrown away, by reason; `docs/stats.md` lists them (not W3C's). */
  drops: Record<string, number>
}

/** The candidate pair in use. Counters are those of the connection. */
export interface RTCIceCandidatePairStats extends Common<'candidate-pair'> {
  transportId: string
  localCandidateId: string
  remoteCandidateId: string
  state: 'succeeded'
  nominated: true
  packetsSent: number
  packetsReceived: number
  bytesSent: number
  bytesReceived: number
  /** Seconds that the last connectivity check took. */
  currentRoundTripTime?: number
  /** Seconds that all answered checks took together. */
  totalRoundTripTime: number
  /** Connectivity checks sent. */
  requestsSent: number
  /** Answers to them. */
  responsesReceived: number
  /** Bits a second that the path is thought to carry; absent until the peer has reported how what we send arrives. */
  availableOutgoingBitrate?: number
}

/** One end of the pair. */
export interface RTCIceCandidateStats extends Common<'local-candidate' | 'remote-candidate'> {
  transportId: string
  address: string
  port: number
  protocol: 'udp'
  candidateType: IceCandidateType
  /** How our TURN server is reached, where our end is a relay. */
  relayProtocol?: 'udp' | 'tcp' | 'tls'
}

/** A certificate: what proves who somebody is in DTLS. */
export interface RTCCertificateStats extends Common<'certificate'> {
  /** Hexadecimal, in upper case, with colons. */
  fingerprint: string
  fingerprintAlgorithm: 'sha-256'
}

/** A codec in use. */
export interface RTCCodecStats extends Common<'codec'> {
  transportId: string
  /** RTP payload type. */
  payloadType: number
  mimeType: 'audio/opus' | 'video/VP9' | 'video/VP8' | 'video/H264'
  /** Hertz. */
  clockRate: number
  /** Of audio: 2, whatever is in it (RFC 7587). */
  channels?: number
}

/** What was given to be sent, before it is encoded. */
export interface RTCMediaSourceStats extends Common<'media-source'> {
  kind: MediaKind
  /** Video: pictures given. */
  frames?: number
  /** Video: pictures in the last second. */
  framesPerSecond?: number
  /** Video: pixels of the last picture. */
  width?: number
  /** Video: pixels of the last picture. */
  height?: number
  /** Audio: root mean square of the last samples, 0 to 1. */
  audioLevel?: number
  /** Audio: seconds times the square of the level. */
  totalAudioEnergy?: number
  /** Audio: seconds of sound. */
  totalSamplesDuration?: number
}

interface Rtp<T extends string> extends Common<T> {
  ssrc: number
  kind: MediaKind
  transportId: string
  codecId?: string
}

/** What comes from the peer, from its first packet on. */
export interface RTCInboundRtpStreamStats extends Rtp<'inbound-rtp'> {
  /** The peer's own account of it. */
  remoteId?: string
  /** RTP packets, retransmissions included. */
  packetsReceived: number
  /** Payload bytes in them, without headers and padding. */
  bytesReceived: number
  /** RTP headers and padding in them, in bytes. */
  headerBytesReceived: number
  /** Packets that came by RTX. */
  retransmittedPacketsReceived: number
  /** Payload bytes in them. */
  retransmittedBytesReceived: number
  /** When the last packet came: milliseconds since 1970. */
  lastPacketReceivedTimestamp?: number
  /**
   * Packets expected less packets received (RFC 3550). What comes again by RTX is a stream of its own and doesn't lower it, as in
   * browsers; see `packetsMissing`. Negative: more came twice than were lost.
   */
  packetsLost: number
  /** Packets lost and not come by RTX either, so far (not W3C's). */
  packetsMissing: number
  /** Packets that came too late to be used, or found no room. */
  packetsDiscarded: number
  /** Seconds (RFC 3550, section 6.4.1). */
  jitter: number
  /** NACK messages sent. */
  nackCount: number
  /** Video: PLI messages sent. */
  pliCount?: number
  /** Video: FIR messages sent, to a peer that takes no PLI. */
  firCount?: number
  /** Video: whole pictures that came. Media is only decoded while somebody here wants it. */
  framesReceived?: number
  framesDecoded?: number
  /** Of these, keyframes. */
  keyFramesDecoded?: number
  /** Video: pictures that came and could not be shown. */
  framesDropped?: number
  /** Video: pictures decoded in the last second. */
  framesPerSecond?: number
  /** Pixels of the last picture. */
  frameWidth?: number
  /** Pixels of the last picture. */
  frameHeight?: number
  /** Seconds. */
  totalDecodeTime?: number
  /** Seconds between decoded pictures, all together. */
  totalInterFrameDelay?: number
  /** Their squares. */
  totalSquaredInterFrameDelay?: number
  /** Times that pictures stood still: for three times the mean of the last 30 intervals and 150 ms more than it at least. */
  freezeCount?: number
  /** Seconds that these took. */
  totalFreezesDuration?: number
  /** Times that no picture came for over 5 s. */
  pauseCount?: number
  /** Seconds that these took. */
  totalPausesDuration?: number
  /** Pictures or packets that the decoder refused (not W3C's). */
  decodeErrors: number
  /** Audio: packets decoded (not W3C's). */
  packetsDecoded?: number
  /** Audio: samples of one channel at 48 kHz given out, whether they came or were made up. */
  totalSamplesReceived?: number
  /** Audio: of these, those made up. */
  concealedSamples?: number
  /** Audio: holes that were made up for. */
  concealmentEvents?: number
  /** Audio: samples recovered by in-band FEC (not W3C's). */
  recoveredSamples?: number
  /** Audio: seconds that samples waited in the jitter buffer, all together. */
  jitterBufferDelay?: number
  /** Audio: seconds that they were meant to wait. */
  jitterBufferTargetDelay?: number
  /** Audio: samples that have left it. */
  jitterBufferEmittedCount?: number
  /** Audio: root mean square of the last samples, 0 to 1. */
  audioLevel?: number
  /** Audio: seconds times the square of the level. */
  totalAudioEnergy?: number
  /** Audio: seconds of sound. */
  totalSamplesDuration?: number
}

/** What goes to the peer, from its first packet on. */
export interface RTCOutboundRtpStreamStats extends Rtp<'outbound-rtp'> {
  /** The peer's own account of it. */
  remoteId?: string
  mediaSourceId?: string
  /** RTP packets that left, retransmissions included. */
  packetsSent: number
  /** Payload bytes in them, without headers and padding. */
  bytesSent: number
  /** RTP headers in them, in bytes. */
  headerBytesSent: number
  retransmittedPacketsSent: number
  /** Payload bytes in them. */
  retransmittedBytesSent: number
  /** NACK messages received. */
  nackCount: number
  /** Video: PLI messages received. */
  pliCount?: number
  /** Video: FIR messages received. */
  firCount?: number
  /** Video: pictures encoded for this peer. One encoding may serve several. */
  framesEncoded?: number
  /** Of these, keyframes. */
  keyFramesEncoded?: number
  framesSent?: number
  /** Pictures of the last second. */
  framesPerSecond?: number
  /** Pixels of the last picture. */
  frameWidth?: number
  /** Pixels of the last picture. */
  frameHeight?: number
}

/** What the peer says of what we send, by its receiver reports. */
export interface RTCRemoteInboundRtpStreamStats extends Rtp<'remote-inbound-rtp'> {
  /** Our account of it. */
  localId: string
  /** Packets that it has: those sent until its report less those lost. */
  packetsReceived?: number
  packetsLost: number
  /** Share of packets lost between its last two reports, 0 to 1. */
  fractionLost: number
  /** Seconds. */
  jitter: number
  /** Seconds, by its last report that answered one of ours. */
  roundTripTime?: number
  /** Seconds, all of these together. */
  totalRoundTripTime: number
  /** How many there were. */
  roundTripTimeMeasurements: number
}

/** What the peer says of what it sends, by its sender reports. */
export interface RTCRemoteOutboundRtpStreamStats extends Rtp<'remote-outbound-rtp'> {
  /** Our account of it. */
  localId: string
  packetsSent: number
  /** Payload bytes. */
  bytesSent: number
  /** Sender reports that came. */
  reportsSent: number
  /** Its clock at the last one: milliseconds since 1970. */
  remoteTimestamp?: number
}

/** A data channel that is open. */
export interface RTCDataChannelStats extends Common<'data-channel'> {
  label: string
  protocol: string
  state: 'open'
  messagesSent: number
  /** Payload bytes accepted for sending. */
  bytesSent: number
  messagesReceived: number
  bytesReceived: number
  /** Bytes that the peer has not acknowledged (not W3C's). */
  bufferedAmount: number
}

/** Statistics by id, as W3C's `RTCStatsReport`. */
export class RTCStatsReport extends Map<string, RTCStats> {
  /** The objects of one type: `report.of('inbound-rtp', 'video')`. `kind` picks those of audio or video. */
  of<T extends RTCStatsType>(type: T, kind?: MediaKind): RTCStatsOf<T>[] {
    const fits = (stats: RTCStats): stats is RTCStatsOf<T> =>
      stats.type === type && (kind === undefined || ('kind' in stats && stats.kind === kind))
    return [...this.values()].filter(fits)
  }
}
