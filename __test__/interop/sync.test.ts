import { flashAndBeep, PERIOD, SkewMeter, summary } from '../api/kit/flash-and-beep.js'
import { Lab } from '../api/support.js'
import { type Chromium, chromiumPath, launchChromium } from './chromium.js'

const describeWithBrowser = chromiumPath() === null ? describe.skip : describe
if (chromiumPath() === null)
  console.warn('SKIPPED: there is no Chromium; install it, or name one with CHROMIUM=/path')

const GRAPH = {
  version: 'v1' as const,
  nodes: [
    { id: 'small', node_type: 'Scale', params: { width: 480, height: 270 } },
    { id: 'gain', node_type: 'Gain', params: { gain_db: -1 } },
  ],
}
/** Seconds that the streams have for their first sender reports, on both ways. */
const SETTLED = 3
const LONG = 5

describeWithBrowser('sound and picture, with Chromium at an end', () => {
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

  async function pipeline(room: string, from: string, to: string) {
    const middle = await lab.join('pipeline', { room })
    const session = await middle.stream(GRAPH)
    const who = { from: [from], to: [to], mayBeAbsent: true }
    session.route({ ...who, track: 'video', through: 'small' })
    session.route({ ...who, track: 'audio', through: 'gain' })
    return middle
  }

  test('of a page are within 40 ms of each other at a third, after a pipeline', async () => {
    const room = 'from'
    const middle = await pipeline(room, 'page', 'sink')
    const sink = await lab.join('sink', { room })
    await sink.connectPeer('pipeline')
    const options = { signalingUrl: lab.server.url, peerId: 'page', room, flashAndBeep: true }
    const page = await browser.newPeer({ ...options, videoCodec: 'VP9' })
    await middle.connectPeer('page')
    const meter = new SkewMeter()
    sink.on('video', ({ peerId, data: { data, timestampUs } }) => {
      if (data.kind !== 'video' || peerId !== 'pipeline') return
      const [luma] = data.frame.planes
      const middle = luma!.stride * Math.floor(data.frame.height / 2) + Math.floor(data.frame.width / 2)
      meter.picture(luma!.data[middle]!, timestampUs / 1e6)
    })
    sink.on('audio', ({ peerId, data: { data, timestampUs } }) => {
      if (data.kind === 'audio' && peerId === 'pipeline') meter.sound(data.samples, timestampUs / 1e6)
    })
    while (meter.flashes.length * PERIOD < SETTLED + LONG)
      await new Promise((resolve) => setTimeout(resolve, 100))
    await page.close()
    const skews = meter.skews(meter.flashes[0]! + SETTLED)
    console.log(`from Chromium, beep after flash, ms: ${JSON.stringify(summary(skews))}`)
    expect(skews.length).toBeGreaterThanOrEqual(5)
    expect(Math.max(...skews.map(Math.abs))).toBeLessThanOrEqual(40)
  }, 60_000)

  test('are within 40 ms of each other, in the middle, as a page shows and plays them, after a pipeline', async () => {
    const room = 'to'
    const middle = await pipeline(room, 'source', 'page')
    const source = await lab.join('source', { room })
    await source.connectPeer('pipeline')
    const page = await browser.newPeer({ signalingUrl: lab.server.url, peerId: 'page', room })
    await middle.connectPeer('page')
    const scene = flashAndBeep(source, 'pipeline', { grey: true })
    // Chromium keeps what it doesn't play, and then plays it faster for a long time: it has to play from the beginning.
    await page.flashesAndBeeps('pipeline', SETTLED * 1000)
    // When a page plays something is its own affair: it brings the two together by and by, and a busy machine throws it off.
    let found = { p50: Number.NaN, worst: Number.NaN, count: 0 }
    for (let tries = 0; tries < 5 && !(found.count >= 4 && Math.abs(found.p50) <= 40); tries++) {
      const meter = new SkewMeter()
      Object.assign(meter, await page.flashesAndBeeps('pipeline', 5000))
      found = summary(meter.skews())
      console.log(`in Chromium, beep after flash, ms: ${JSON.stringify(found)}`)
    }
    scene.stop()
    expect(found.count).toBeGreaterThanOrEqual(4)
    expect(Math.abs(found.p50)).toBeLessThanOrEqual(40)
  }, 60_000)
})
