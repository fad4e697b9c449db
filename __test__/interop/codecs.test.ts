import { every, hear, join, Lab, next } from '../api/support.js'
import { type Chromium, chromiumPath, launchChromium } from './chromium.js'

// What Chromium sends and takes in each form of a codec.

const describeWithBrowser = chromiumPath() === null ? describe.skip : describe
if (chromiumPath() === null)
  console.warn('SKIPPED: there is no Chromium; install it, or name one with CHROMIUM=/path')

jest.setTimeout(60_000)

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
      const stats = [...(await node.getStats('browser')).values()]
      const audio = stats.find((s) => s.type === 'inbound-rtp' && s.kind === 'audio')!
      return {
        at: Date.now(),
        packets: audio.packetsReceived as number,
        bytes: audio.bytesReceived as number,
      }
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
})
