// getStats, made readable: totals, and rates since the last reading.

/**
 * What one reading says about one direction of one kind.
 * @typedef {object} Flow
 * @property {string | null} codec 'VP9', 'opus', …
 * @property {number} width @property {number} height pixels, 0 for audio
 * @property {number} frames encoded and sent, or decoded
 * @property {number} fps frames a second since the last reading
 * @property {number} bitrateBps since the last reading
 * @property {number} packets sent or received
 * @property {number} packetsLost
 * @property {number | null} lossShare since the last reading, 0 to 1; for what we send, as the other side reports it
 */

/** Reads a connection's stats again and again. */
export class StatsReader {
  #before = new Map()

  constructor(pc) {
    this.pc = pc
  }

  async read() {
    const all = await this.pc.getStats()
    const reports = [...all.values()]
    const find = (type, kind) => reports.find((r) => r.type === type && r.kind === kind)
    const transport = reports.find((r) => r.type === 'transport')
    const pair =
      all.get(transport?.selectedCandidatePairId) ??
      reports.find((r) => r.type === 'candidate-pair' && r.nominated && r.state === 'succeeded')
    const reading = {
      connectionState: this.pc.connectionState,
      roundTripMs: pair?.currentRoundTripTime === undefined ? null : pair.currentRoundTripTime * 1000,
      path: describePath(all.get(pair?.localCandidateId), all.get(pair?.remoteCandidateId)),
      audio: {},
      video: {},
    }
    for (const kind of ['audio', 'video']) {
      const outbound = find('outbound-rtp', kind)
      const inbound = find('inbound-rtp', kind)
      reading[kind].sent = this.#flow(all, outbound, find('remote-inbound-rtp', kind))
      reading[kind].received = this.#flow(all, inbound, inbound)
    }
    const { received } = reading.audio
    const audio = find('inbound-rtp', 'audio')
    if (received) {
      received.totalAudioEnergy = audio.totalAudioEnergy ?? 0
      received.totalSamplesReceived = audio.totalSamplesReceived ?? 0
      received.totalSamplesDuration = audio.totalSamplesDuration ?? 0
      received.concealedSamples = audio.concealedSamples ?? 0
    }
    const video = find('inbound-rtp', 'video')
    if (reading.video.received) {
      reading.video.received.framesDropped = video.framesDropped ?? 0
      reading.video.received.freezeCount = video.freezeCount ?? 0
      reading.video.received.keyFrames = video.keyFramesDecoded ?? 0
      reading.video.received.pliCount = video.pliCount ?? 0
    }
    return reading
  }

  /** @returns {Flow | null} */
  #flow(all, rtp, losses) {
    if (!rtp) return null
    const bytes = rtp.bytesSent ?? rtp.bytesReceived ?? 0
    const frames = rtp.framesDecoded ?? rtp.framesSent ?? 0
    const packets = rtp.packetsSent ?? rtp.packetsReceived ?? 0
    const packetsLost = losses?.packetsLost ?? 0
    const before = this.#before.get(rtp.id) ?? {
      timestamp: rtp.timestamp,
      bytes,
      frames,
      packets,
      packetsLost,
    }
    this.#before.set(rtp.id, { timestamp: rtp.timestamp, bytes, frames, packets, packetsLost })
    const seconds = (rtp.timestamp - before.timestamp) / 1000
    const rate = (now, then) => (seconds > 0 ? Math.max(0, (now - then) / seconds) : 0)
    const lost = Math.max(0, packetsLost - before.packetsLost)
    const due = packets - before.packets + (rtp.type === 'inbound-rtp' ? lost : 0)
    return {
      codec: all.get(rtp.codecId)?.mimeType?.split('/')[1] ?? null,
      width: rtp.frameWidth ?? 0,
      height: rtp.frameHeight ?? 0,
      frames,
      fps: rate(frames, before.frames),
      bitrateBps: rate(bytes, before.bytes) * 8,
      packets,
      packetsLost,
      lossShare: losses && due > 0 ? Math.min(1, lost / due) : null,
    }
  }
}

function describePath(local, remote) {
  if (!local || !remote) return null
  return `${local.candidateType} → ${remote.candidateType}, ${local.relayProtocol ?? local.protocol}`
}
