import type { ChannelOut, InboundOut, OutboundOut, PeerStatsOut, SourceOut } from '../native/binding.cjs'
import type { PeerConnectionState } from '../peers.js'
import {
  type MediaKind,
  type RTCCodecStats,
  type RTCIceCandidateStats,
  type RTCInboundRtpStreamStats,
  type RTCMediaSourceStats,
  type RTCOutboundRtpStreamStats,
  type RTCStats,
  RTCStatsReport,
  type RTCTransportStats,
} from './types.js'

/** @internal What the addon counted, under W3C's names. */
export function toReport(peers: PeerStatsOut[], timestamp: number): RTCStatsReport {
  const report = new RTCStatsReport()
  for (const peer of peers) new PeerReport(report, peer, timestamp).add()
  return report
}

type New<T> = T extends RTCStats ? Omit<T, 'id' | 'timestamp' | 'peerId'> : never

const MIME = { vp9: 'video/VP9', vp8: 'video/VP8', h264: 'video/H264' } as const

class PeerReport {
  readonly #transportId: string

  constructor(
    private readonly report: RTCStatsReport,
    private readonly peer: PeerStatsOut,
    private readonly timestamp: number,
  ) {
    this.#transportId = this.#id('transport')
  }

  add(): void {
    const { peer } = this
    this.#put('connection', {
      type: 'peer-connection',
      connectionState: peer.state as PeerConnectionState,
      dataChannelsOpened: peer.channelsOpened,
      dataChannelsClosed: peer.channelsClosed,
    })
    this.#addTransport()
    this.#addInbound('audio', peer.audioIn)
    this.#addInbound('video', peer.videoIn)
    this.#addOutbound('audio', peer.audioOut, this.#addSource('audio', peer.audioSource))
    this.#addOutbound('video', peer.videoOut, this.#addSource('video', peer.videoSource))
    for (const channel of peer.channels) this.#addChannel(channel)
  }

  #addTransport(): void {
    const { peer } = this
    const counts = {
      packetsSent: peer.packetsSent,
      packetsReceived: peer.packetsReceived,
      bytesSent: peer.bytesSent,
      bytesReceived: peer.bytesReceived,
    }
    this.#put('transport', {
      type: 'transport',
      ...counts,
      iceState: peer.iceState as NonNullable<RTCTransportStats['iceState']>,
      dtlsState: dtlsState(peer.state as PeerConnectionState),
      dtlsRole: peer.dtlsRole as NonNullable<RTCTransportStats['dtlsRole']>,
      localCertificateId: this.#addCertificate('local-certificate', peer.localFingerprint)!,
      remoteCertificateId: this.#addCertificate('remote-certificate', peer.remoteFingerprint)!,
      selectedCandidatePairId: this.#addPair(counts)!,
      selectedCandidatePairChanges: peer.pairChanges,
      iceRestarts: peer.iceRestarts,
      silences: peer.silences,
      pathSuspects: peer.pathSuspects,
      handshakeResends: peer.handshakeResends,
      drops: peer.drops,
    })
  }

  #addPair(
    counts: Pick<RTCTransportStats, 'packetsSent' | 'packetsReceived' | 'bytesSent' | 'bytesReceived'>,
  ): string | undefined {
    const { peer } = this
    if (!peer.localAddress || !peer.remoteAddress) return undefined
    return this.#put('pair', {
      type: 'candidate-pair',
      transportId: this.#transportId,
      localCandidateId: this.#addCandidate('local', peer.localAddress, peer.localKind, peer.relayProtocol),
      remoteCandidateId: this.#addCandidate('remote', peer.remoteAddress, peer.remoteKind),
      state: 'succeeded',
      nominated: true,
      ...counts,
      currentRoundTripTime: peer.roundTripTime!,
      totalRoundTripTime: peer.totalRoundTripTime,
      requestsSent: peer.requestsSent,
      responsesReceived: peer.responsesReceived,
      availableOutgoingBitrate: peer.availableOutgoingBitrate!,
    })
  }

  #addCandidate(end: 'local' | 'remote', at: string, kind?: string, relayProtocol?: string): string {
    const colon = at.lastIndexOf(':')
    return this.#put(end, {
      type: `${end}-candidate`,
      transportId: this.#transportId,
      address: at.slice(0, colon).replace(/^\[|\]$/g, ''),
      port: Number(at.slice(colon + 1)),
      protocol: 'udp',
      candidateType: kind as RTCIceCandidateStats['candidateType'],
      relayProtocol: relayProtocol as NonNullable<RTCIceCandidateStats['relayProtocol']>,
    })
  }

  #addCertificate(name: string, fingerprint: string): string | undefined {
    if (fingerprint === '') return undefined
    return this.#put(name, { type: 'certificate', fingerprint, fingerprintAlgorithm: 'sha-256' })
  }

  #addCodec(kind: MediaKind, payloadType: number | undefined, codec: string | undefined): string | undefined {
    const mimeType = kind === 'audio' ? 'audio/opus' : MIME[codec as keyof typeof MIME]
    if (payloadType === undefined || mimeType === undefined) return undefined
    return this.#put(`codec-${payloadType}`, {
      type: 'codec',
      transportId: this.#transportId,
      payloadType,
      mimeType,
      ...((kind === 'audio' ? { clockRate: 48_000, channels: 2 } : { clockRate: 90_000 }) as Pick<
        RTCCodecStats,
        'clockRate'
      >),
    })
  }

  #addSource(kind: MediaKind, source: SourceOut): string | undefined {
    if (!source.used) return undefined
    const values: Partial<RTCMediaSourceStats> =
      kind === 'audio'
        ? {
            audioLevel: source.audioLevel,
            totalAudioEnergy: source.totalAudioEnergy,
            totalSamplesDuration: source.totalSamplesDuration,
          }
        : {
            frames: source.frames,
            framesPerSecond: source.framesPerSecond,
            width: source.width,
            height: source.height,
          }
    return this.#put(`source-${kind}`, { type: 'media-source', kind, ...values })
  }

  #addInbound(kind: MediaKind, s: InboundOut): void {
    if (s.ssrc === undefined) return
    const common = {
      ssrc: s.ssrc,
      kind,
      transportId: this.#transportId,
      codecId: this.#addCodec(kind, s.payloadType, s.codec)!,
    }
    const id = this.#id(`inbound-${kind}`)
    const remoteId =
      s.remoteReports === 0
        ? undefined
        : this.#put(`remote-outbound-${kind}`, {
            type: 'remote-outbound-rtp',
            ...common,
            localId: id,
            packetsSent: s.remotePackets,
            bytesSent: s.remoteBytes,
            reportsSent: s.remoteReports,
            remoteTimestamp: s.remoteTimestamp!,
          })
    this.#put(`inbound-${kind}`, {
      type: 'inbound-rtp',
      ...common,
      remoteId: remoteId!,
      packetsReceived: s.packets,
      bytesReceived: s.bytes,
      headerBytesReceived: s.headerBytes,
      retransmittedPacketsReceived: s.retransmittedPackets,
      retransmittedBytesReceived: s.retransmittedBytes,
      lastPacketReceivedTimestamp: this.timestamp - (s.lastPacketMs ?? 0),
      packetsLost: s.lost,
      packetsMissing: s.missing,
      packetsDiscarded: s.packetsDiscarded,
      jitter: s.jitter,
      nackCount: s.nacks,
      decodeErrors: s.decodeErrors,
      ...(kind === 'audio' ? inboundAudio(s) : inboundVideo(s)),
    })
  }

  #addOutbound(kind: MediaKind, s: OutboundOut, mediaSourceId: string | undefined): void {
    if (s.ssrc === undefined) return
    const common = {
      ssrc: s.ssrc,
      kind,
      transportId: this.#transportId,
      codecId: this.#addCodec(kind, s.payloadType, this.peer.videoCodec)!,
    }
    const id = this.#id(`outbound-${kind}`)
    const remoteId =
      s.reports === 0
        ? undefined
        : this.#put(`remote-inbound-${kind}`, {
            type: 'remote-inbound-rtp',
            ...common,
            localId: id,
            packetsReceived: s.received!,
            packetsLost: s.lost,
            fractionLost: s.fractionLost,
            jitter: s.jitter,
            roundTripTime: s.roundTripTime!,
            totalRoundTripTime: s.totalRoundTripTime,
            roundTripTimeMeasurements: s.roundTripTimeMeasurements,
          })
    this.#put(`outbound-${kind}`, {
      type: 'outbound-rtp',
      ...common,
      remoteId: remoteId!,
      mediaSourceId: mediaSourceId!,
      packetsSent: s.packets,
      bytesSent: s.bytes,
      headerBytesSent: s.headerBytes,
      retransmittedPacketsSent: s.retransmittedPackets,
      retransmittedBytesSent: s.retransmittedBytes,
      nackCount: s.nacks,
      ...(kind === 'audio' ? {} : outboundVideo(s)),
    })
  }

  #addChannel(s: ChannelOut): void {
    this.#put(s.channel === 0 ? 'data' : `data-${s.channel}`, {
      type: 'data-channel',
      label: s.label,
      protocol: s.protocol,
      state: 'open',
      messagesSent: s.messagesSent,
      bytesSent: s.bytesSent,
      messagesReceived: s.messagesReceived,
      bytesReceived: s.bytesReceived,
      bufferedAmount: s.bufferedAmount,
    })
  }

  #id(name: string): string {
    return `${this.peer.peerId}/${name}`
  }

  /** Adds an object, without what it has no value for, and returns its id. */
  #put(name: string, values: New<RTCStats>): string {
    const id = this.#id(name)
    const known = Object.entries(values).filter(([, value]) => value !== undefined)
    const { timestamp } = this
    const stats = { id, timestamp, peerId: this.peer.peerId, ...Object.fromEntries(known) }
    this.report.set(id, stats as RTCStats)
    return id
  }
}

function inboundAudio(s: InboundOut): Partial<RTCInboundRtpStreamStats> {
  return {
    packetsDecoded: s.framesDecoded,
    totalSamplesReceived: s.samples,
    concealedSamples: s.concealedSamples,
    recoveredSamples: s.recoveredSamples,
    concealmentEvents: s.concealments,
    jitterBufferDelay: s.jitterBufferDelay,
    jitterBufferTargetDelay: s.jitterBufferTargetDelay,
    jitterBufferEmittedCount: s.samples,
    audioLevel: s.audioLevel,
    totalAudioEnergy: s.totalAudioEnergy,
    totalSamplesDuration: s.totalSamplesDuration,
  }
}

function inboundVideo(s: InboundOut): Partial<RTCInboundRtpStreamStats> {
  return {
    framesReceived: s.framesReceived,
    framesDecoded: s.framesDecoded,
    keyFramesDecoded: s.keyFrames,
    framesDropped: s.framesDropped,
    framesPerSecond: s.framesPerSecond,
    frameWidth: s.width,
    frameHeight: s.height,
    totalDecodeTime: s.decodeTime,
    totalInterFrameDelay: s.interFrameDelay,
    totalSquaredInterFrameDelay: s.squaredInterFrameDelay,
    freezeCount: s.freezes,
    totalFreezesDuration: s.freezesDuration,
    pauseCount: s.pauses,
    totalPausesDuration: s.pausesDuration,
    pliCount: s.plis,
    firCount: s.firs,
  }
}

function outboundVideo(s: OutboundOut): Partial<RTCOutboundRtpStreamStats> {
  return {
    framesSent: s.frames,
    framesEncoded: s.frames,
    keyFramesEncoded: s.keyFrames,
    framesPerSecond: s.framesPerSecond,
    frameWidth: s.width,
    frameHeight: s.height,
    pliCount: s.plis,
    firCount: s.firs,
  }
}

/** DTLS outlives a silence. */
function dtlsState(state: PeerConnectionState): RTCTransportStats['dtlsState'] {
  return state === 'disconnected' ? 'connected' : state
}
