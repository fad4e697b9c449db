import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { VideoFrame } from '@remotemedia/webrtc'
import { every, hear, join, Lab, next, tone } from '../api/support.js'
import { judgeLimitedLuma, patternI420 } from './browser/pattern.js'
import { type Chromium, chromiumPath, launchChromium } from './chromium.js'

// A real Chromium, as offerer and as answerer: what either end sends is measured at the other.

const describeWithBrowser = chromiumPath() === null ? describe.skip : describe
if (chromiumPath() === null)
  console.warn('SKIPPED: there is no Chromium; install it, or name one with CHROMIUM=/path')

jest.setTimeout(60_000)

/** Connects per role; CI runs few, `CONNECTS=200` shows it on many. */
const CONNECTS = Number(process.env.CONNECTS ?? 10)

/** Connects with a starved thread. */
const STARVED = 5

/** Lets the signaling threads of every browser that this process started run only when nothing else would, on one core. */
function starveSignalingThreads(): number {
  const children = (pid: number): number[] =>
    readdirSync(`/proc/${pid}/task`).flatMap((task) =>
      readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
    )
  const tree = (pid: number): number[] => {
    try {
      return children(pid).flatMap((child) => [child, ...tree(child)])
    } catch {
      // It ended while we looked.
      return []
    }
  }
  let starved = 0
  for (const pid of tree(process.pid)) {
    try {
      for (const task of readdirSync(`/proc/${pid}/task`)) {
        const name = readFileSync(`/proc/${pid}/task/${task}/comm`, 'utf8')
        if (name.startsWith('WebRTC_')) execFileSync('taskset', ['-pc', '0', task], { stdio: 'ignore' })
        if (!name.startsWith('WebRTC_Signal')) continue
        execFileSync('chrt', ['--idle', '--pid', '0', task])
        starved++
      }
    } catch {
      // As above.
    }
  }
  return starved
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

  /** The browser joins last, and so offers; or first, and answers. */
  async function meet(
    role: 'offers' | 'answers',
    options: Partial<Parameters<Chromium['newPeer']>[0]>,
    room: string,
    config = {},
  ) {
    const browserJoins = () =>
      browser.newPeer({ signalingUrl: lab.server.url, peerId: 'browser', room, ...options })
    if (role === 'offers') {
      const node = await lab.join('node', { room, ...config })
      const page = await browserJoins()
      await node.connectPeer('browser', { timeoutMs: 15_000 })
      return { node, page }
    }
    const page = await browserJoins()
    const node = await lab.join('node', { room, ...config })
    await node.connectPeer('browser', { timeoutMs: 15_000 })
    return { node, page }
  }

  describe.each(['offers', 'answers'] as const)('that %s', (role) => {
    test('hears our tone, sees our pattern, and we hear and see its own', async () => {
      const { node, page } = await meet(
        role,
        { audio: { toneHz: 1000 }, video: { width: 640, height: 360, fps: 30 }, videoCodec: 'VP9' },
        `media-${role}`,
      )
      const heard: Float32Array[] = []
      const psnr: number[] = []
      node.on('audio', ({ data }) => data.data.kind === 'audio' && heard.push(data.data.samples))
      node.on('video', ({ data }) => {
        if (data.data.kind !== 'video' || data.data.frame.width !== 640) return
        const [luma] = data.data.frame.planes
        const reading = judgeLimitedLuma(luma!.data, 640, 360, luma!.stride)
        if (reading) psnr.push(reading.psnrDb)
      })
      const voice = every(20, (n) => {
        void node.sendToPeer('browser', { data: tone(n, 440), timestampUs: n * 20_000 })
      })
      const camera = every(1000 / 30, (n) => {
        const frame = VideoFrame.from(patternI420(640, 360, n), {
          format: 'I420',
          width: 640,
          height: 360,
          timestampUs: Math.round(n * 33_333),
        })
        void node.sendToPeer('browser', { kind: 'video', frame })
        frame.close()
      })
      const there = await page.tone('node', 1000)
      expect(Math.abs(there.frequencyHz - 440)).toBeLessThan(3)
      expect(Math.abs(there.levelDbfs + 9.03)).toBeLessThan(1)
      const pictures = await page.pictures('node', 10)
      expect(Math.min(...pictures.map((p) => p.psnrDb))).toBeGreaterThan(25)
      expect(pictures[0]).toMatchObject({ width: 640, height: 360 })
      await next(node, 'video', () => psnr.length >= 20)
      if (heard.length < 150) await next(node, 'audio', () => heard.length >= 150)
      voice.stop()
      camera.stop()
      expect(Math.min(...psnr.slice(-10))).toBeGreaterThan(25)
      const here = hear(join(heard.slice(-50)))
      expect(Math.abs(here.hz - 1000)).toBeLessThan(5)
      expect(Math.abs(here.dbfs + 9.03)).toBeLessThan(1.5)
      // Chromium's own counters and ours agree on who decoded what.
      const theirs = await page.stats('node')
      expect(theirs.video.received).toMatchObject({ codec: 'VP9', frameWidth: 640 })
      expect(theirs.video.received!.frames).toBeGreaterThan(20)
      const [ours] = (await node.getStats('browser')).of('inbound-rtp', 'video')
      expect(ours!.framesDecoded).toBeGreaterThan(20)
      await page.close()
      await node.close()
    })

    test('exchanges text, JSON and binary', async () => {
      const { node, page } = await meet(role, { echo: true }, `data-${role}`)
      const sent = [
        { kind: 'text', text: 'grüße' },
        { kind: 'json', value: { n: [1, 2] } },
        { kind: 'binary', data: new Uint8Array(262_144).map((_, i) => i) },
      ] as const
      const got: unknown[] = []
      node.on('data', ({ data }) => got.push(data.data))
      for (const data of sent) await node.sendToPeer('browser', data)
      await next(node, 'data', () => got.length === 3)
      expect(got).toEqual(sent)
      await page.close()
      await node.close()
    })

    test(
      `the first message on open arrives, in ${CONNECTS} connects`,
      async () => {
        let arrived = 0
        for (let i = 0; i < CONNECTS; i++) {
          const room = `first-${role}-${i}`
          const messages = [{ kind: 'text', text: `first ${i}` }] as const
          const got: unknown[] = []
          const config = { room }
          const early = role === 'answers'
          const browserJoins = () =>
            browser.newPeer({
              signalingUrl: lab.server.url,
              peerId: 'browser',
              room,
              firstMessages: [...messages],
            })
          const page = early ? await browserJoins() : undefined
          const node = await lab.join('node', config)
          const first = next(node, 'data')
          const other = page ?? (await browserJoins())
          got.push((await first).data.data)
          expect(got).toEqual(messages)
          await node.sendToPeer('browser', { kind: 'text', text: 'back' })
          expect(await other.received('node', 1)).toEqual([{ kind: 'text', text: 'back' }])
          arrived++
          await other.close()
          await node.close()
        }
        expect(arrived).toBe(CONNECTS)
      },
      30_000 + CONNECTS * 3000,
    )
  })

  // Chromium announces a channel as open before its own transport is told so: what the page sends in between is lost, unless
  // our DATA_CHANNEL_OPEN comes before the end of the SCTP handshake. Starving its signaling thread makes that window wide.
  const testStarved = process.platform === 'linux' && process.getuid?.() === 0 ? test : test.skip
  testStarved(
    'the first message on open arrives when the signaling thread of the page is starved',
    async () => {
      const starved = await launchChromium()
      try {
        let arrived = 0
        for (let i = 0; i < STARVED; i++) {
          const room = `starved-${i}`
          const firstMessages = [{ kind: 'text', text: `first ${i}` }] as const
          const page = await starved.newPeer({
            signalingUrl: lab.server.url,
            peerId: 'browser',
            room,
            firstMessages: [...firstMessages],
          })
          // The thread is there from the first connection on.
          await page.page.evaluate(() => {
            Object.assign(globalThis, { warm: new RTCPeerConnection().createDataChannel('warm') })
          })
          expect(starveSignalingThreads()).toBeGreaterThan(0)
          const node = await lab.join('node', { room })
          const first = next(node, 'data')
          expect((await first).data.data).toEqual(firstMessages[0])
          arrived++
          await page.close()
          await node.close()
        }
        expect(arrived).toBe(STARVED)
      } finally {
        await starved.close()
      }
    },
    120_000,
  )

  test.each(['VP8', 'H264'])('falls back to %s when it has no other', async (codec) => {
    const room = `codec-${codec}`
    const { node, page } = await meet(
      'offers',
      { video: { width: 320, height: 240, fps: 15 }, videoCodec: codec, onlyThisVideoCodec: true },
      room,
    )
    expect(node.listPeers()[0]!.tracks.video).toBe(codec.toLowerCase())
    const camera = every(1000 / 15, (n) => {
      const frame = VideoFrame.from(patternI420(320, 240, n), {
        format: 'I420',
        width: 320,
        height: 240,
        timestampUs: n * 66_667,
      })
      node.sendToPeer('browser', { kind: 'video', frame }).catch(() => {})
      frame.close()
    })
    const seen = next(
      node,
      'video',
      ({ data }) => data.data.kind === 'video' && data.data.frame.width === 320,
    )
    expect((await page.pictures('node', 5)).length).toBe(5)
    await seen
    camera.stop()
    expect((await page.stats('node')).video.received).toMatchObject({ codec })
    await page.close()
    await node.close()
  })

  test('that asks for a keyframe gets one', async () => {
    const { node, page } = await meet('offers', { videoCodec: 'VP9' }, 'keyframe')
    const camera = every(1000 / 15, (n) => {
      using frame = VideoFrame.from(patternI420(320, 240, n), {
        format: 'I420',
        width: 320,
        height: 240,
        timestampUs: n * 66_667,
      })
      void node.sendToPeer('browser', { kind: 'video', frame })
    })
    await page.pictures('node', 5)
    const before = (await page.stats('node')).video.received!
    await page.requestKeyframe('node')
    const until = Date.now() + 10_000
    let after = before
    while (after.keyFrames <= before.keyFrames && Date.now() < until) {
      await page.pictures('node', 2)
      after = (await page.stats('node')).video.received!
    }
    camera.stop()
    expect(after.keyFrames).toBeGreaterThan(before.keyFrames)
    expect(after.pliCount).toBe(before.pliCount + 1)
    const [ours] = (await node.getStats('browser')).of('outbound-rtp', 'video')
    expect(ours!.pliCount).toBe(after.pliCount)
    await page.close()
    await node.close()
  })

  test('a peer that takes no codec of ours gets ERR_CODEC for video, and the rest goes on', async () => {
    const { node, page } = await meet(
      'offers',
      {
        audio: { toneHz: 500 },
        video: { width: 320, height: 240 },
        videoCodec: 'AV1',
        onlyThisVideoCodec: true,
      },
      'no-codec',
    )
    using frame = VideoFrame.from(patternI420(320, 240, 0), { format: 'I420', width: 320, height: 240 })
    await expect(node.sendToPeer('browser', { kind: 'video', frame })).rejects.toMatchObject({
      code: 'ERR_CODEC',
      peerId: 'browser',
    })
    const heard: Float32Array[] = []
    node.on('audio', ({ data }) => data.data.kind === 'audio' && heard.push(data.data.samples))
    await next(node, 'audio', () => heard.length >= 100)
    expect(Math.abs(hear(join(heard.slice(-25))).hz - 500)).toBeLessThan(5)
    await node.sendToPeer('browser', { kind: 'text', text: 'goes on' })
    expect(await page.received('node', 1)).toEqual([{ kind: 'text', text: 'goes on' }])
    await page.close()
    await node.close()
  })
})
