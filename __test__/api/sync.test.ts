import { flashAndBeep, PERIOD, SkewMeter, summary } from './kit/flash-and-beep.js'
import { Lab } from './support.js'

/** A graph that works on both. */
const GRAPH = {
  version: 'v1' as const,
  nodes: [
    { id: 'small', node_type: 'Scale', params: { width: 480, height: 270 } },
    { id: 'named', node_type: 'OverlayText', params: { text: 'live', position: 'top-left' } },
    { id: 'gain', node_type: 'Gain', params: { gain_db: -3 } },
  ],
  connections: [{ from: 'small', to: 'named' }],
}

let lab: Lab
beforeEach(async () => {
  lab = await new Lab().open()
})
afterEach(() => lab.close())

describe('sound and picture of a peer', () => {
  test('are within 40 ms of each other after the pipeline of another', async () => {
    const pipeline = await lab.join('pipeline')
    const source = await lab.join('source')
    const sink = await lab.join('sink')
    await Promise.all([source.connectPeer('pipeline'), sink.connectPeer('pipeline')])
    await using session = await pipeline.stream(GRAPH)
    const common = { from: ['source'], to: ['sink'] }
    session.route({ ...common, track: 'video', through: 'named' })
    session.route({ ...common, track: 'audio', through: 'gain' })
    const meter = new SkewMeter()
    sink.on('video', ({ data: { data, timestampUs } }) => {
      if (data.kind !== 'video') return
      const [luma] = data.frame.planes
      const middle = luma!.stride * Math.floor(data.frame.height / 2) + Math.floor(data.frame.width / 2)
      meter.picture(luma!.data[middle]!, timestampUs / 1e6)
    })
    sink.on('audio', ({ data: { data, timestampUs } }) => {
      if (data.kind === 'audio') meter.sound(data.samples, timestampUs / 1e6)
    })
    const scene = flashAndBeep(source, 'pipeline')
    // Sender reports bring both streams together; the first come within a second or two on each of the two ways.
    const SETTLED = 3
    while (meter.flashes.length * PERIOD < SETTLED + 6)
      await new Promise((resolve) => setTimeout(resolve, 100))
    scene.stop()
    const skews = meter.skews(meter.flashes[0]! + SETTLED)
    console.log(`beep after flash, ms: ${JSON.stringify(summary(skews))}`)
    expect(skews.length).toBeGreaterThanOrEqual(6)
    expect(Math.max(...skews.map(Math.abs))).toBeLessThanOrEqual(40)
  }, 60_000)
})
