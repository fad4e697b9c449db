import { SignalingServer } from '../../src-ts/signaling/server.js'
import { judgeLimitedLuma, patternI420 } from './browser/pattern.js'
import { type Chromium, chromiumPath, launchChromium } from './chromium.js'

// The instruments themselves: two pages call each other, so that a test which measures this package by them can be believed.

const describeWithBrowser = chromiumPath() === null ? describe.skip : describe
if (chromiumPath() === null)
  console.warn('SKIPPED: there is no Chromium; install it, or name one with CHROMIUM=/path')

test('a frame of the pattern is told by its number and matches itself', () => {
  const frame = patternI420(320, 240, 1234)
  expect(judgeLimitedLuma(frame.subarray(0, 320 * 240), 320, 240)).toEqual({
    counter: 1234,
    psnrDb: expect.closeTo(59, -1),
  })
  expect(judgeLimitedLuma(new Uint8Array(320 * 240).fill(16), 320, 240)).toBeNull()
})

describeWithBrowser('two pages', () => {
  let server: SignalingServer
  let browser: Chromium
  beforeAll(async () => {
    server = await SignalingServer.listen({ port: 0 })
    browser = await launchChromium()
  })
  afterAll(async () => {
    await browser?.close()
    await server?.close()
  })

  test('measure each other: tone, level, picture and data', async () => {
    const signalingUrl = server.url
    const early = await browser.newPeer({
      signalingUrl,
      peerId: 'early',
      audio: { toneHz: 1000, amplitude: 0.5 },
      video: { width: 320, height: 240, fps: 15 },
      firstMessages: [{ kind: 'text', text: 'first' }],
    })
    const late = await browser.newPeer({ signalingUrl, peerId: 'late', videoCodec: 'VP9' })
    await Promise.all([early.connected('late'), late.connected('early')])

    expect(await late.received('early', 1)).toEqual([{ kind: 'text', text: 'first' }])
    await late.send('early', { kind: 'json', value: { n: 1 } })
    await late.send('early', { kind: 'binary', data: Uint8Array.of(0, 255, 30) })
    expect(await early.received('late', 2)).toEqual([
      { kind: 'json', value: { n: 1 } },
      { kind: 'binary', data: Uint8Array.of(0, 255, 30) },
    ])

    const tone = await late.tone('early', 1000)
    expect(tone.frequencyHz).toBeCloseTo(1000, -0.5)
    // A sine of amplitude 0.5: −9.03 dB.
    expect(Math.abs(tone.levelDbfs + 9.03)).toBeLessThan(1)

    const pictures = await late.pictures('early', 5)
    expect(Math.min(...pictures.map(({ psnrDb }) => psnrDb))).toBeGreaterThan(25)
    expect(pictures.at(-1)!.counter).toBeGreaterThan(pictures[0]!.counter)

    const { video } = await late.statsWhen('early', (stats) => (stats.video.received?.frames ?? 0) > 0)
    expect(video.received).toMatchObject({ codec: 'VP9', frameWidth: 320, frameHeight: 240 })
    await late.close()
    expect(await early.inState('late', ['none', 'disconnected', 'failed', 'closed'])).toBe('none')
    await early.close()
  })

  test('a peer with echo returns voice, picture and messages', async () => {
    const signalingUrl = server.url
    const mirror = await browser.newPeer({ signalingUrl, peerId: 'mirror', room: 'echo', echo: true })
    const caller = await browser.newPeer({
      signalingUrl,
      peerId: 'caller',
      room: 'echo',
      audio: { toneHz: 440 },
      video: { width: 320, height: 240, fps: 15 },
    })
    await caller.connected('mirror')
    await caller.send('mirror', { kind: 'text', text: 'hello' })
    expect(await caller.received('mirror', 1)).toEqual([{ kind: 'text', text: 'hello' }])
    expect((await caller.tone('mirror', 1000)).frequencyHz).toBeCloseTo(440, -0.5)
    expect((await caller.pictures('mirror', 3)).length).toBe(3)
    await caller.close()
    await mirror.close()
  })
})
