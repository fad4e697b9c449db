import { defineNode, Manifest, PipelineRunner, VideoFrame, WebRtcError } from '@remotemedia/webrtc'
import { every, hear, join, Lab, next, tone } from './support.js'

const GAIN = `
version: v1
nodes:
  - { id: gain, node_type: Gain, params: { gain_db: -6 } }
`

function grey(level: number, timestampUs = 0): VideoFrame {
  const data = new Uint8Array(64 * 48 * 1.5).fill(128)
  data.fill(level, 0, 64 * 48)
  return VideoFrame.from(data, { format: 'I420', width: 64, height: 48, timestampUs })
}

const invert = defineNode({
  type: 'Invert',
  inputs: { in: 'video' },
  outputs: { out: 'video' },
  process(frame, ctx) {
    const data = new Uint8Array(frame.allocationSize())
    frame.copyTo(data)
    for (let i = 0; i < frame.width * frame.height; i++) data[i] = 255 - data[i]!
    ctx.state.count = Number(ctx.state.count ?? 0) + 1
    return VideoFrame.from(data, {
      format: 'I420',
      width: frame.width,
      height: frame.height,
      timestampUs: frame.timestampUs,
    })
  },
})

describe('the runner', () => {
  let runner: PipelineRunner
  beforeEach(() => {
    runner = new PipelineRunner()
  })
  afterEach(() => runner.close())

  test('runs one item through native nodes', async () => {
    const out = await runner.executeUnary(Manifest.parse(GAIN), { data: tone(0, 440), timestampUs: 5 })
    expect(out?.timestampUs).toBe(5)
    expect(out?.data.kind).toBe('audio')
    if (out?.data.kind === 'audio') expect(hear(out.data.samples).dbfs).toBeCloseTo(-9.03 - 6, 0)
  })

  test('runs nodes written in JavaScript, and closes their inputs', async () => {
    runner.register(invert)
    const manifest = Manifest.parse({
      version: 'v1',
      nodes: [
        { id: 'a', node_type: 'Invert' },
        { id: 'small', node_type: 'Scale', params: { width: 32, height: 24 } },
      ],
      connections: [{ from: 'a', to: 'small' }],
    })
    using frame = grey(50, 123)
    const out = await runner.executeUnary(manifest, { kind: 'video', frame })
    expect(frame.closed).toBe(false)
    if (out?.data.kind !== 'video') throw new Error('no picture came out')
    using result = out.data.frame
    expect([result.width, result.height, result.timestampUs]).toEqual([32, 24, 123])
    expect(result.planes[0]!.data[100]).toBeCloseTo(205, -0.5)
  })

  test('a node may be async, a generator, give nothing, or fail', async () => {
    const text = (process: Parameters<typeof defineNode>[0]['process']) => ({
      type: `T${Math.random().toString(36).slice(2)}`,
      inputs: { in: 'text' as const },
      outputs: { out: 'text' as const },
      process,
    })
    const run = async (process: Parameters<typeof text>[0], on_error?: 'fail') => {
      const node = text(process)
      runner.register(node)
      const nodes = [{ id: 'n', node_type: node.type, ...(on_error ? { on_error } : {}) }]
      return runner.executeUnary({ version: 'v1', nodes }, { kind: 'text', text: 'x' })
    }
    expect((await run(async () => ({ kind: 'text', text: 'async' })))?.data).toEqual({
      kind: 'text',
      text: 'async',
    })
    expect(
      (
        await run(async function* () {
          yield { kind: 'text', text: 'first' }
        })
      )?.data,
    ).toEqual({ kind: 'text', text: 'first' })
    expect(await run(() => undefined)).toBeNull()
    const error = await run(() => {
      throw new Error('my own fault')
    }, 'fail').catch((e) => e)
    expect(error).toBeInstanceOf(WebRtcError)
    expect(error.code).toBe('ERR_NODE')
    expect(error.message).toMatch(/"n".*my own fault/)
    // @ts-expect-error: garbage from untyped code
    await expect(run(() => 42, 'fail')).rejects.toMatchObject({ code: 'ERR_NODE' })
  })

  const refused: [string, string, RegExp][] = [
    ['not YAML', '{', /manifest/],
    ['another version', 'version: v2\nnodes: []', /version/],
    ['an unknown node type', 'version: v1\nnodes: [{ id: a, node_type: Nope }]', /"a".*Nope/],
    [
      'a parameter out of range',
      'version: v1\nnodes: [{ id: a, node_type: Gain, params: { gain_db: 99 } }]',
      /gain_db/,
    ],
    [
      'an unknown port',
      'version: v1\nnodes: [{ id: a, node_type: Gain }, { id: b, node_type: Gain }]\nconnections: [{ from: a.nope, to: b }]',
      /nope/,
    ],
    [
      'a cycle',
      'version: v1\nnodes: [{ id: a, node_type: Gain }, { id: b, node_type: Gain }]\nconnections: [{ from: a, to: b }, { from: b, to: a }]',
      /cycle/i,
    ],
  ]
  test.each(refused)('refuses %s and names the place', async (_, text, message) => {
    const error = await (async () => runner.executeUnary(Manifest.parse(text), tone(0, 1)))().catch((e) => e)
    expect(error).toBeInstanceOf(WebRtcError)
    expect(error.code).toBe('ERR_MANIFEST')
    expect(error.message).toMatch(message)
  })

  test('unknown fields are ignored with a warning', () => {
    const manifest = Manifest.parse('version: v1\nfuture: 1\nnodes: [{ id: a, node_type: Gain }]')
    expect(manifest.warnings.join()).toMatch(/future/)
  })
})

describe('frames', () => {
  test('planes are zero-copy, shared by clones, and detached by close', () => {
    const frame = grey(77)
    const clone = frame.clone()
    const [plane] = frame.planes
    const [other] = clone.planes
    expect([plane!.data[0], other!.data[0]]).toEqual([77, 77])
    frame.close()
    frame.close()
    expect(plane!.data.length).toBe(0)
    expect(other!.data[0]).toBe(77)
    expect(() => frame.planes).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }))
    clone.close()
    expect(other!.data.length).toBe(0)
  })

  test('bytes that do not make a picture of that size are refused with both sizes', () => {
    const make = () => VideoFrame.from(new Uint8Array(10), { format: 'I420', width: 640, height: 480 })
    expect(make).toThrow(
      expect.objectContaining({ code: 'ERR_CONFIG', message: expect.stringMatching(/460800.*10/) }),
    )
    expect(() => VideoFrame.from(new Uint8Array(0), { format: 'RGBA', width: 16384, height: 16384 })).toThrow(
      /width/,
    )
    using frame = grey(1)
    expect(() => frame.copyTo(new Uint8Array(5))).toThrow(expect.objectContaining({ code: 'ERR_CONFIG' }))
  })
})

describe('sessions', () => {
  let lab: Lab
  beforeEach(async () => {
    lab = await new Lab().open()
  })
  afterEach(() => lab.close())

  test('a native route sends a peer its own voice back, 6 dB quieter, and follows a new parameter', async () => {
    const [alice, bob] = await lab.pair()
    await using session = await bob.stream(Manifest.parse(GAIN))
    session.route({ from: '*', track: 'audio', through: 'gain', to: 'sender' })
    const heard: Float32Array[] = []
    alice.on('audio', ({ data }) => data.data.kind === 'audio' && heard.push(data.data.samples))
    const source = every(20, (n) => {
      void alice.sendToPeer('bob', tone(n, 600))
    })
    await next(alice, 'audio', () => heard.length >= 60)
    const before = hear(join(heard.slice(30, 60)))
    expect(Math.abs(before.hz - 600)).toBeLessThan(3)
    expect(Math.abs(before.dbfs - -15.03)).toBeLessThan(1)
    session.setParam('gain', 'gain_db', -20)
    heard.length = 0
    await next(alice, 'audio', () => heard.length >= 60)
    source.stop()
    expect(Math.abs(hear(join(heard.slice(30, 60))).dbfs - -29.03)).toBeLessThan(1)
    expect(() => session.setParam('gain', 'gain_db', 99)).toThrow(
      expect.objectContaining({ code: 'ERR_NODE' }),
    )
    const [stats] = session.stats().nodes
    expect(stats).toMatchObject({ id: 'gain', nodeType: 'Gain', errors: 0 })
    expect(stats!.itemsIn).toBeGreaterThan(60)
  })

  test("recv, execute and send in the seed's loop, with a node of JavaScript's", async () => {
    const [alice, bob] = await lab.pair()
    bob.runner.register(invert)
    await using session = await bob.stream({ version: 'v1', nodes: [{ id: 'i', node_type: 'Invert' }] })
    const loop = (async () => {
      for (
        let r = await session.recvFromAny({ kind: 'video' });
        r;
        r = await session.recvFromAny({ kind: 'video' })
      ) {
        const { peerId, data } = r
        const output = await session.execute(data, { peerId })
        if (data.data.kind === 'video') data.data.frame.close()
        if (!output) continue
        await session.sendToPeer(peerId, output)
        if (output.data.kind === 'video') output.data.frame.close()
      }
    })()
    const levels: number[] = []
    alice.on('video', ({ data }) => {
      if (data.data.kind === 'video') levels.push(data.data.frame.planes[0]!.data[500]!)
    })
    const source = every(1000 / 30, (n) => {
      const frame = grey(60, n * 33_333)
      alice.sendToPeer('bob', { kind: 'video', frame }).catch(() => {})
      frame.close()
    })
    await next(alice, 'video', () => levels.length >= 15)
    source.stop()
    expect(Math.abs(levels.at(-1)! - 195)).toBeLessThan(6)
    await session.close()
    await loop
    expect(VideoFrame.forgotten).toBe(0)
  })

  test('recvFromPeer ends with the peer, and its options abort it', async () => {
    const [alice, bob] = await lab.pair()
    await using session = await alice.stream(Manifest.parse(GAIN))
    await expect(session.recvFromPeer('bob', { timeoutMs: 50 })).rejects.toMatchObject({
      code: 'ERR_ABORTED',
    })
    const message = session.recvFromPeer('bob', { kind: 'text' })
    await bob.sendToPeer('alice', { kind: 'text', text: 'hello' })
    expect((await message)?.data).toEqual({ kind: 'text', text: 'hello' })
    const ended = session.recvFromPeer('bob')
    await bob.close()
    expect(await ended).toBeNull()
  })

  test('a route through a node that is no output is refused by name', async () => {
    const alice = await lab.join('alice')
    await using session = await alice.stream(Manifest.parse(GAIN))
    expect(() => session.route({ from: '*', track: 'audio', through: 'nope', to: 'all' })).toThrow(
      expect.objectContaining({ code: 'ERR_CONFIG', message: expect.stringMatching(/nope.*gain/) }),
    )
  })
})
