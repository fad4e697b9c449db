import type { InboundOut, OutboundOut, PeerStatsOut } from './native/binding.cjs'

/** One object of a statistics report: W3C names and units (webrtc-stats), with the peer it is about. */
export interface RTCStats {
  id: string
  type:
    | 'peer-connection'
    | 'transport'
    | 'candidate-pair'
    | 'local-candidate'
    | 'remote-candidate'
    | 'codec'
    | 'inbound-rtp'
    | 'outbound-rtp'
    | 'remote-inbound-rtp'
    | 'data-channel'
  /** Milliseconds since 1970. */
  timestamp: number
  peerId: string
  [name: string]: unknown
}

const MIME = { vp9: 'video/VP9', vp8: 'video/VP8', h264: 'video/H264' } as const

/** @internal */
export function toReport(peers: PeerStatsOut[], timestamp: number): Map<string, RTCStats> {
  const report = new Map<string, RTCStats>()
  for (const peer of peers) {
    const { peerId } = peer
    const add = (type: RTCStats['type'], name: string, values: Record<string, unknown>) => {
      const id = `${peerId}/${name}`
      report.set(id, { id, type, timestamp, peerId, ...values })
      return id
    }
    add('peer-connection', 'connection', { connectionState: peer.state })
    addPath(peer, add)
    const audioCodec = add('codec', 'codec-audio', { mimeType: 'audio/opus', clockRate: 48_000 })
    const mimeType = peer.videoCodec ? MIME[peer.videoCodec as keyof typeof MIME] : undefined
    const videoCodec = mimeType && add('codec', 'codec-video', { mimeType, clockRate: 90_000 })
    add('inbound-rtp', 'inbound-audio', { ...inbound('audio', peer.audioIn), codecId: audioCodec })
    add('inbound-rtp', 'inbound-video', { ...inbound('video', peer.videoIn), codecId: videoCodec })
    add('outbound-rtp', 'outbound-audio', { ...outbound('audio', peer.audioOut), codecId: audioCodec })
    add('outbound-rtp', 'outbound-video', { ...outbound('video', peer.videoOut), codecId: videoCodec })
    for (const [kind, out] of [['audio', peer.audioOut] as const, ['video', peer.videoOut] as const]) {
      const localId = `${peerId}/outbound-${kind}`
      const values = { kind, packetsLost: out.lost, fractionLost: out.fractionLost, localId }
      add('remote-inbound-rtp', `remote-inbound-${kind}`, values)
    }
    add('data-channel', 'data', {
      label: 'data',
      messagesSent: peer.messagesSent,
      messagesReceived: peer.messagesReceived,
      bufferedAmount: peer.bufferedAmount,
    })
  }
  return report
}

type Add = (type: RTCStats['type'], name: string, values: Record<string, unknown>) => string

function addPath(peer: PeerStatsOut, add: Add): void {
  const counts = {
    packetsSent: peer.packetsSent,
    packetsReceived: peer.packetsReceived,
    bytesSent: peer.bytesSent,
    bytesReceived: peer.bytesReceived,
  }
  let pair: string | undefined
  if (peer.localAddress && peer.remoteAddress) {
    const candidate = (address: string, candidateType: string | undefined) => {
      const colon = address.lastIndexOf(':')
      const host = address.slice(0, colon).replace(/^\[|\]$/g, '')
      return { address: host, port: Number(address.slice(colon + 1)), candidateType, protocol: 'udp' }
    }
    pair = add('candidate-pair', 'pair', {
      localCandidateId: add('local-candidate', 'local', candidate(peer.localAddress, peer.localKind)),
      remoteCandidateId: add('remote-candidate', 'remote', candidate(peer.remoteAddress, peer.remoteKind)),
      nominated: true,
      state: 'succeeded',
      currentRoundTripTime: peer.roundTripTime,
      availableOutgoingBitrate: peer.availableOutgoingBitrate,
      ...counts,
    })
  }
  add('transport', 'transport', { ...counts, selectedCandidatePairId: pair, dtlsState: peer.state })
}

function inbound(kind: 'audio' | 'video', s: InboundOut): Record<string, unknown> {
  const common = {
    kind,
    packetsReceived: s.packets,
    bytesReceived: s.bytes,
    packetsLost: s.lost,
    jitter: s.jitter,
    packetsDiscarded: s.packetsDiscarded,
    nackCount: s.nacks,
  }
  if (kind === 'audio')
    return {
      ...common,
      packetsDecoded: s.framesDecoded,
      totalSamplesReceived: s.samples,
      concealedSamples: s.concealedSamples,
      recoveredSamples: s.recoveredSamples,
      concealmentEvents: s.concealments,
      jitterBufferDelay: s.jitterBufferDelay,
      jitterBufferTargetDelay: s.jitterBufferTargetDelay,
      jitterBufferEmittedCount: s.samples,
    }
  return {
    ...common,
    framesReceived: s.framesReceived,
    framesDecoded: s.framesDecoded,
    framesDropped: s.framesDropped,
    frameWidth: s.width,
    frameHeight: s.height,
    pliCount: s.plis,
    firCount: s.firs,
  }
}

function outbound(kind: 'audio' | 'video', s: OutboundOut): Record<string, unknown> {
  const common = { kind, packetsSent: s.packets, bytesSent: s.bytes, nackCount: s.nacks }
  if (kind === 'audio') return common
  return {
    ...common,
    framesSent: s.frames,
    framesEncoded: s.frames,
    keyFramesEncoded: s.keyframes,
    frameWidth: s.width,
    frameHeight: s.height,
    pliCount: s.plis,
    firCount: s.firs,
  }
}
