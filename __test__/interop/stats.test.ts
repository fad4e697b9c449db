import { type MediaKind, type RTCStatsReport, VideoFrame, type WebRtcTransport } from '@remotemedia/webrtc'
import { every, Lab, next, tone } from '../api/support.js'
import { patternI420 } from './browser/pattern.js'
import { type BrowserPeer, type Chromium, chromiumPath, launchChromium } from './chromium.js'

// What we count against what a real Chromium counts of the same streams at the other end.

const describeWithBrowser = chromiumPath() === null ? describe.skip : describe
if (chromiumPath() === null)
  console.warn('SKIPPED: there is no Chromium; install it, or name one with CHROMIUM=/path')

jest.setTimeout(90_000)

/** W3C's dictionaries, by name of field. */
type Stats = Record<string, unknown>

/** The numbers may differ by this much. */
const TOLERANCE = 0.02

const SECONDS = 6

const one = (all: Stats[], type: string, kind?: MediaKind): Stats => {
  const found = all.find((s) => s.type === type && (kind === undefined || s.kind === kind))
  if (!found) throw new Error(`no ${type} ${kind ?? ''} among ${all.map((s) => s.type).join(' ')}`)
  return found
}

/** Both ends' statistics, once nothing of media or messages moves any more. */
async function settled(node: WebRtcTransport, page: BrowserPeer) {
  const read = async () => {
    const report = await node.getStats('browser')
    const ours = [...report.values()] as unknown as Stats[]
    return { report, ours, theirs: await page.report('node') }
  }
  const moving = ({ ours, theirs }: Awaited<ReturnType<typeof read>>) =>
    JSON.stringify(
      [ours, theirs].flatMap((all) =>
        all
          .filter(({ type }) =>
            /^(inbound-rtp|outbound-rtp|remote-inbound-rtp|data-channel)$/.test(type as string),
          )
          .flatMap((s) => [
            s.packetsSent,
            s.packetsReceived,
            s.framesDecoded,
            s.messagesReceived,
            s.packetsLost,
          ])
          .concat(all.filter(({ type }) => type === 'remote-inbound-rtp').map((s) => s.jitter)),
      ),
    )
  let last = await read()
  // Chromium reports of sound every 5 s at most.
  let still = 0
  for (const deadline = Date.now() + 40_000; still < 6; ) {
    await new Promise((resolve) => setTimeout(resolve, 1000))
    const latest = await read()
    still = moving(latest) === moving(last) ? still + 1 : 0
    last = latest
    if (Date.now() > deadline) throw new Error(`still moving: ${moving(last)}`)
  }
  return last
}

/** Differences over the tolerance, in words. */
class Comparison {
  readonly wrong: string[] = []
  readonly figures: string[] = []

  /** The same field, or one of ours and one of theirs. `least`: a difference that is none. */
  fields(what: string, ours: Stats, theirs: Stats, names: (string | [string, string])[], least = 0): void {
    for (const name of names) {
      const [our, their] = typeof name === 'string' ? [name, name] : name
      const [a, b] = [ours[our], theirs[their]] as [number, number]
      const line = `${what}: ${our} ${a}, ${their === our ? '' : `${their} `}${b} in Chromium`
      this.figures.push(line)
      const off = Math.abs(a - b)
      if (
        !(typeof a === 'number' && typeof b === 'number' && off <= Math.max(least, Math.abs(b) * TOLERANCE))
      )
        this.wrong.push(line)
    }
  }
}

describeWithBrowser('statistics beside those of Chromium', () => {
  let lab: Lab
  let browser: Chromium
  beforeAll(async () => {
    lab = await new Lab().open()
    browser = await launchChromium()
  })
  afterAll(async () => {
    await browser?.close()
    await lab?.close()
  })

  test('agree within 2 %, both ways, field by field', async () => {
    const page = await browser.newPeer({
      signalingUrl: lab.server.url,
      peerId: 'browser',
      audio: { toneHz: 500 },
      video: { width: 640, height: 360, fps: 30 },
      videoCodec: 'VP9',
    })
    const node = await lab.join('node', { autoConnect: false })
    const qualities: string[] = []
    node.on('quality', ({ peerId, quality }) => qualities.push(`${peerId} ${quality}`))
    // Media is decoded while somebody listens: from its first packet on.
    let pictures = 0
    node.on('audio', () => {})
    node.on('video', () => {
      pictures++
    })
    await node.connectPeer('browser', { timeoutMs: 15_000 })
    const voice = every(20, (n) => {
      void node.sendToPeer('browser', { data: tone(n, 440), timestampUs: n * 20_000 })
    })
    const camera = every(1000 / 30, (n) => {
      using frame = VideoFrame.from(patternI420(480, 270, n), {
        format: 'I420',
        width: 480,
        height: 270,
        timestampUs: Math.round(n * 33_333),
      })
      void node.sendToPeer('browser', { kind: 'video', frame })
    })
    await page.pictures('node', 5)
    await page.tone('node', 100)
    await next(node, 'video', () => pictures > 5)
    await page.requestKeyframe('node')
    const begun = Date.now()
    for (let n = 0; n < 50; n++) {
      await node.sendToPeer('browser', { kind: 'text', text: `a message ${n}` })
      await page.send('node', { kind: 'binary', data: new Uint8Array(100 + n) })
    }
    // The rates, while it runs: the medians of some readings, for a busy machine stumbles now and then.
    const rates: Record<'oursOut' | 'theirsIn' | 'theirsOut' | 'oursIn', number[]> = {
      oursOut: [],
      theirsIn: [],
      theirsOut: [],
      oursIn: [],
    }
    // Chromium forgets it when it stops sending.
    let size: Stats = {}
    const fps = (s: Stats | undefined) => (s?.framesPerSecond as number) ?? 0
    while (Date.now() - begun < SECONDS * 1000) {
      await new Promise((resolve) => setTimeout(resolve, 500))
      const report = await node.getStats('browser')
      const theirs = await page.report('node')
      rates.oursOut.push(fps(report.of('outbound-rtp', 'video')[0] as unknown as Stats))
      rates.oursIn.push(fps(report.of('inbound-rtp', 'video')[0] as unknown as Stats))
      rates.theirsIn.push(fps(one(theirs, 'inbound-rtp', 'video')))
      rates.theirsOut.push(fps(one(theirs, 'outbound-rtp', 'video')))
      size = one(theirs, 'outbound-rtp', 'video')
    }
    voice.stop()
    camera.stop()
    await page.hush('node')
    const { report, ours, theirs } = await settled(node, page)
    // Left out there as long as there are none.
    one(theirs, 'inbound-rtp', 'video').retransmittedPacketsReceived ??= 0

    const compared = new Comparison()
    for (const kind of ['audio', 'video'] as const) {
      const video = kind === 'video'
      compared.fields(`${kind} out`, one(ours, 'outbound-rtp', kind), one(theirs, 'inbound-rtp', kind), [
        ['packetsSent', 'packetsReceived'],
        ['bytesSent', 'bytesReceived'],
        ['headerBytesSent', 'headerBytesReceived'],
        ...(video
          ? ([
              ['framesSent', 'framesReceived'],
              ['framesEncoded', 'framesDecoded'],
              ['keyFramesEncoded', 'keyFramesDecoded'],
              ['retransmittedPacketsSent', 'retransmittedPacketsReceived'],
              'frameWidth',
              'frameHeight',
              'nackCount',
              'pliCount',
              'firCount',
            ] as const)
          : []),
      ] as (string | [string, string])[])
      compared.fields(`${kind} in`, one(ours, 'inbound-rtp', kind), one(theirs, 'outbound-rtp', kind), [
        ['packetsReceived', 'packetsSent'],
        ['bytesReceived', 'bytesSent'],
        ['headerBytesReceived', 'headerBytesSent'],
        ...(video
          ? ([
              ['framesReceived', 'framesSent'],
              ['framesDecoded', 'framesEncoded'],
              ['keyFramesDecoded', 'keyFramesEncoded'],
              'nackCount',
              'pliCount',
              'firCount',
            ] as const)
          : []),
      ] as (string | [string, string])[])
      // What either end says of what it receives is what the other has of it. RTCP has whole ticks of the stream's clock.
      const tick = 1 / (video ? 90_000 : 48_000)
      const told = one(ours, 'remote-inbound-rtp', kind)
      compared.fields(`${kind} reported to us`, told, one(theirs, 'inbound-rtp', kind), ['packetsLost'])
      compared.fields(`${kind} reported to us`, told, one(theirs, 'inbound-rtp', kind), ['jitter'], 0.001)
      const telling = one(theirs, 'remote-inbound-rtp', kind)
      compared.fields(`${kind} reported by us`, one(ours, 'inbound-rtp', kind), telling, ['packetsLost'])
      compared.fields(`${kind} reported by us`, one(ours, 'inbound-rtp', kind), telling, ['jitter'], 2 * tick)
      compared.fields(`${kind} round trip`, told, telling, ['roundTripTime'], 0.05)
      expect(told.fractionLost).toBe(0)
    }
    compared.fields('transport', one(ours, 'transport'), one(theirs, 'transport'), [
      ['packetsSent', 'packetsReceived'],
      ['packetsReceived', 'packetsSent'],
      ['bytesSent', 'bytesReceived'],
      ['bytesReceived', 'bytesSent'],
    ])
    const pair = theirs.find((s) => s.id === one(theirs, 'transport').selectedCandidatePairId)!
    compared.fields('pair', one(ours, 'candidate-pair'), pair, ['currentRoundTripTime'], 0.05)
    compared.fields('channel', one(ours, 'data-channel'), one(theirs, 'data-channel'), [
      ['messagesSent', 'messagesReceived'],
      ['messagesReceived', 'messagesSent'],
      ['bytesSent', 'bytesReceived'],
      ['bytesReceived', 'bytesSent'],
    ])
    compared.fields('size in', one(ours, 'inbound-rtp', 'video'), size, ['frameWidth', 'frameHeight'])
    const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!
    const rate = (name: keyof typeof rates) => ({ framesPerSecond: median(rates[name]) })
    // A frame may fall on either side of the second's end.
    compared.fields('frames out', rate('oursOut'), rate('theirsIn'), ['framesPerSecond'], 1)
    compared.fields('frames in', rate('oursIn'), rate('theirsOut'), ['framesPerSecond'], 1)
    if (process.env.FIGURES) console.log(compared.figures.join('\n'))
    expect(compared.wrong).toEqual([])
    expect(one(ours, 'data-channel').messagesSent).toBe(50)
    expect(one(ours, 'outbound-rtp', 'video').pliCount).toBeGreaterThan(0)
    expect(one(ours, 'transport').drops).toMatchObject({ rtpUnknown: 0, rtcpUnknown: 0, rtcpLimited: 0 })
    expectReferences(report)
    // The certificate that we have of it is its own.
    const { fingerprint } = report.get(report.of('transport')[0]!.remoteCertificateId!) as {
      fingerprint: string
    }
    expect(theirs.find((s) => s.id === one(theirs, 'transport').localCertificateId)?.fingerprint).toBe(
      fingerprint,
    )
    expect(qualities[0]).toMatch(/^browser (excellent|good|fair)$/)
    expect(node.listPeers()[0]!.quality).toMatchObject({ quality: expect.any(String) })
    await page.close()
    await node.close()
  })
})

/** Every id that an object names is one of the report's. */
function expectReferences(report: RTCStatsReport): void {
  let references = 0
  for (const stats of report.values())
    for (const [name, value] of Object.entries(stats)) {
      if (!/Id$/.test(name) || name === 'peerId') continue
      expect([stats.id, name, report.has(value as string)]).toEqual([stats.id, name, true])
      references++
    }
  expect(references).toBeGreaterThan(20)
  for (const type of ['codec', 'media-source', 'remote-outbound-rtp', 'certificate'] as const)
    expect(report.of(type).length).toBeGreaterThanOrEqual(2)
}
