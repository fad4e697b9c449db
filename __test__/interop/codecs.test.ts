import { VideoFrame, type WebRtcTransport } from '@remotemedia/webrtc'
import { every, hear, join, Lab, next } from '../api/support.js'
import { judgeLimitedLuma, patternI420 } from './browser/pattern.js'
import { type Chromium, chromiumPath, launchChromium } from './chromium.js'

// What Chromium sends and takes in each form of a codec.

const describeWithBrowser = chromiumPath() === null ? describe.skip : describe
if (chromiumPath() === null)
  console.warn('SKIPPED: there is no Chromium; install it, or name one with CHROMIUM=/path')

jest.setTimeout(60_000)

/** The PSNR of so many pictures of the pattern, as they come. */
async function watch(node: WebRtcTransport, width: number, height: number, count: number): Promise<number[]> {
  const psnr: number[] = []
  node.on('video', ({ data }) => {
    if (data.data.kind !== 'video' || data.data.frame.width !== width) return
    const [luma] = data.data.frame.planes
    const reading = judgeLimitedLuma(luma!.data, width, height, luma!.stride)
    if (reading) psnr.push(reading.psnrDb)
  })
  await next(node, 'video', () => psnr.length >= count)
  return psnr
}

describeWithBrowser('Chromium', () => {
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

  test('sends Opus in stereo, in packets of 60 ms, and next to nothing in silence, where that is asked for', async () => {
    const room = 'opus'
    const node = await lab.join('node', { room, audio: { channels: 2, frameMs: 60, dtx: true } })
    const silentAfterMs = 8000
    const audio = { toneHz: 440, rightHz: 1000, silentAfterMs }
    const startedAt = Date.now()
    const page = await browser.newPeer({ signalingUrl: lab.server.url, peerId: 'browser', room, audio })
    await node.connectPeer('browser', { timeoutMs: 15_000 })
    expect(await page.remoteSdp('node')).toMatch(/a=fmtp:111 .*stereo=1.*usedtx=1/)

    const heard: Float32Array[] = []
    node.on('audio', ({ data }) => {
      if (data.data.kind !== 'audio') return
      expect(data.data.channels).toBe(2)
      heard.push(data.data.samples)
    })
    await next(node, 'audio', () => heard.length >= 35)
    const both = join(heard.slice(-17))
    for (const [channel, hz] of [440, 1000].entries()) {
      const one = hear(both.filter((_, n) => n % 2 === channel))
      expect(Math.abs(one.hz - hz)).toBeLessThan(5)
      expect(Math.abs(one.dbfs + 9.03)).toBeLessThan(1.5)
    }

    const received = async () => {
      const audio = (await node.getStats('browser')).of('inbound-rtp', 'audio')[0]!
      return { at: Date.now(), packets: audio.packetsReceived, bytes: audio.bytesReceived }
    }
    /** Packets and bits a second over so long. */
    const rate = async (ms: number) => {
      const before = await received()
      await new Promise((resolve) => setTimeout(resolve, ms))
      const after = await received()
      const seconds = (after.at - before.at) / 1000
      return {
        packets: (after.packets - before.packets) / seconds,
        bps: ((after.bytes - before.bytes) * 8) / seconds,
      }
    }
    const sounding = await rate(1500)
    expect(Date.now() - startedAt).toBeLessThan(silentAfterMs)
    expect(sounding.packets).toBeGreaterThan(14)
    expect(sounding.packets).toBeLessThan(19)
    await new Promise((resolve) => setTimeout(resolve, startedAt + silentAfterMs + 2500 - Date.now()))
    const silent = await rate(2000)
    expect(silent.bps).toBeLessThan(sounding.bps / 8)
    await page.close()
    await node.close()
  })

  test('hears stereo as the mean of both sides, from packets of 10 ms', async () => {
    const room = 'opus-mono'
    const node = await lab.join('node', { room, audio: { channels: 2, frameMs: 10 } })
    const page = await browser.newPeer({ signalingUrl: lab.server.url, peerId: 'browser', room })
    await node.connectPeer('browser', { timeoutMs: 15_000 })
    const voice = every(20, (n) => {
      const samples = new Float32Array(1920)
      for (let i = 0; i < 960; i++)
        samples[2 * i] = 0.8 * Math.sin((2 * Math.PI * 440 * (n * 960 + i)) / 48_000)
      const data = { kind: 'audio', samples, sampleRate: 48_000, channels: 2 } as const
      void node.sendToPeer('browser', { data, timestampUs: n * 20_000 })
    })
    const there = await page.tone('node', 1500)
    const { audio } = await page.stats('node')
    voice.stop()
    expect(Math.abs(there.frequencyHz - 440)).toBeLessThan(3)
    // 0.8 on the left alone is 0.4 in the mean.
    expect(Math.abs(there.levelDbfs - 20 * Math.log10(0.4 / Math.SQRT2))).toBeLessThan(1)
    expect(audio.received!.codec).toBe('opus')
    await page.close()
    await node.close()
  })

  test('sends and takes H264 constrained baseline in non-interleaved mode, and VP9 of profile 0', async () => {
    for (const [videoCodec, format] of [
      ['H264', /a=fmtp:(\d+) (?=\S*packetization-mode=1)\S*profile-level-id=42[ce]0[0-9a-f]{2}/i],
      ['VP9', /a=fmtp:(\d+) profile-id=0/],
    ] as const) {
      const room = `profile-${videoCodec}`
      const node = await lab.join('node', { room })
      const video = { width: 320, height: 240, fps: 15 }
      const only = { videoCodec, onlyThisVideoCodec: true }
      const page = await browser.newPeer({
        signalingUrl: lab.server.url,
        peerId: 'browser',
        room,
        video,
        ...only,
      })
      await node.connectPeer('browser', { timeoutMs: 15_000 })
      // What we answered: one format of this codec, and its retransmission.
      const answer = (await page.remoteSdp('node'))
        .split('m=')
        .find((section) => section.startsWith('video'))!
      const [, type] = answer.match(format)!
      expect(answer.match(/^video \d+ \S+ (.*)$/m)![1]!.split(' ')[0]).toBe(type)
      expect(answer.match(/a=rtpmap:\d+ (?!rtx)\S+/g)).toEqual([`a=rtpmap:${type} ${videoCodec}/90000`])
      const psnr = await watch(node, 320, 240, 10)
      expect(Math.min(...psnr)).toBeGreaterThan(25)
      await page.close()
      await node.close()
    }
  })

  test('sends AV1, and is sent none', async () => {
    const room = 'av1'
    const node = await lab.join('node', { room })
    const video = { width: 640, height: 360, fps: 15 }
    const only = { videoCodec: 'AV1', onlyThisVideoCodec: true }
    const page = await browser.newPeer({
      signalingUrl: lab.server.url,
      peerId: 'browser',
      room,
      video,
      ...only,
    })
    await node.connectPeer('browser', { timeoutMs: 15_000 })
    const psnr = await watch(node, 640, 360, 30)
    expect(Math.min(...psnr.slice(-15))).toBeGreaterThan(25)
    expect((await page.stats('node')).video.sent).toMatchObject({ codec: 'AV1' })
    // It is not sent.
    using frame = VideoFrame.from(patternI420(640, 360, 0), { format: 'I420', width: 640, height: 360 })
    await expect(node.sendToPeer('browser', { kind: 'video', frame })).rejects.toMatchObject({
      code: 'ERR_CODEC',
    })
    await page.close()
    await node.close()
  })
})
