import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, request } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { join as path } from 'node:path'
import {
  defineNode,
  Manifest,
  METRICS_CONTENT_TYPE,
  metricsHandler,
  metricsText,
  PipelineRunner,
  type SessionOutput,
  VideoFrame,
  type WebRtcError,
  type WebRtcTransport,
} from '@remotemedia/webrtc'
import { every, hear, join, Lab, next, tone } from './support.js'

const GAIN = 'version: v1\nnodes: [{ id: gain, node_type: Gain, params: { gain_db: -6 } }]'

function grey(level: number, timestampUs = 0): VideoFrame {
  const data = new Uint8Array(320 * 240 * 1.5).fill(128)
  data.fill(level, 0, 320 * 240)
  return VideoFrame.from(data, { format: 'I420', width: 320, height: 240, timestampUs })
}

let lab: Lab
beforeEach(async () => {
  lab = await new Lab().open()
})
afterEach(() => lab.close())

describe('a node in JavaScript that blocks its event loop', () => {
  // A process of its own: its event loop is the one that is blocked, and nobody else's. It echoes sound and carol's pictures natively,
  // and alice's pictures through a node in JavaScript that blocks for 2 s when it is told to. It also listens to all sound.
  const CHILD = `
import { defineNode, VideoFrame, WebRtcTransport } from './dist/index.js'
const transport = await WebRtcTransport.create({ signalingUrl: process.argv[1], peerId: 'bob' })
let block = 0
transport.runner.register(defineNode({
  type: 'Careless',
  inputs: { in: 'video' },
  outputs: { out: 'video' },
  process(frame) {
    const until = performance.now() + block
    block = 0
    while (performance.now() < until);
    return frame
  },
}))
const native = await transport.stream('{version: v1, nodes: [{id: gain, node_type: Gain, params: {gain_db: -6}}]}')
native.route({ from: '*', track: 'audio', through: 'gain', to: 'sender' })
const flip = await transport.stream('{version: v1, nodes: [{id: flip, node_type: Flip}]}')
flip.route({ from: ['carol'], track: 'video', through: 'flip', to: 'sender' })
transport.on('audio', () => {})
const careless = await transport.stream(
  '{version: v1, nodes: [{id: js, node_type: Careless, on_error: drop, deadline_ms: 500}]}')
careless.route({ from: ['alice'], track: 'video', through: 'js', to: 'sender' })
const errors = []
transport.on('error', (error) => errors.push(error.message))
transport.on('data', ({ data }) => {
  if (data.data.text === 'block') block = 2000
})
const tell = () => process.send({
  rss: process.memoryUsage().rss,
  errors,
  forgotten: VideoFrame.forgotten,
  node: careless.stats().nodes[0],
})
process.on('message', tell)
await Promise.all([transport.connectPeer('alice'), transport.connectPeer('carol')])
process.send('ready')
`
  let child: ChildProcess
  afterEach(() => child?.kill('SIGKILL'))

  /** The child's memory, seen from outside: it can't say itself while it is blocked. */
  const memory = () =>
    process.platform === 'linux'
      ? 4096 * Number(readFileSync(`/proc/${child.pid}/statm`, 'utf8').split(' ')[1])
      : 0

  const ask = async () => {
    const answer = once(child, 'message')
    child.send('tell')
    return (await answer)[0] as {
      rss: number
      errors: string[]
      forgotten: number
      node: { dropped: Record<string, number>; depth: number; itemsIn: number; itemsOut: number }
    }
  }

  test('drops frames by policy; native routes, links and memory are undisturbed', async () => {
    const [alice, carol] = [await lab.join('alice'), await lab.join('carol')]
    child = spawn(process.execPath, ['--input-type=module', '--eval', CHILD, lab.server.url], {
      cwd: path(__dirname, '../..'),
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    await once(child, 'message')
    await Promise.all([alice.connectPeer('bob'), carol.connectPeer('bob')])

    const sounds: number[] = []
    const pictures: number[] = []
    alice.on('audio', () => sounds.push(performance.now()))
    alice.on('video', () => pictures.push(performance.now()))
    const flipped: number[] = []
    carol.on('video', () => flipped.push(performance.now()))
    const states: string[] = []
    for (const peer of [alice, carol]) peer.on('peerstatechange', ({ state }) => states.push(state))
    const voice = every(20, (n) => alice.sendToPeer('bob', tone(n, 600)).catch(() => {}))
    const camera = every(1000 / 30, (n) => {
      const frame = grey(60 + (n % 100), n * 33_333)
      for (const peer of [alice, carol]) peer.sendToPeer('bob', { kind: 'video', frame }).catch(() => {})
      frame.close()
    })
    try {
      await next(alice, 'video', () => pictures.length >= 20)
      await next(alice, 'audio', () => sounds.length >= 50)
      await next(carol, 'video', () => flipped.length >= 20)
      const before = await ask()
      const rss = memory()
      const blocked = performance.now()
      await alice.sendToPeer('bob', { kind: 'text', text: 'block' })
      let most = 0
      while (performance.now() - blocked < 2000) {
        await new Promise((resolve) => setTimeout(resolve, 50))
        most = Math.max(most, memory())
      }
      expect(most - rss).toBeLessThan(40 * 2 ** 20)
      const inTime = (times: number[]) => times.filter((at) => at > blocked + 100 && at < blocked + 1900)
      const longest = (times: number[]) => Math.max(...times.slice(1).map((at, n) => at - times[n]!))
      const during = inTime(sounds)
      // 90 pieces in 1.8 s, were the machine always on time.
      expect(during.length).toBeGreaterThan(75)
      expect(longest(during)).toBeLessThan(250)
      // 54 pictures.
      expect(inTime(flipped).length).toBeGreaterThan(36)
      expect(longest(inTime(flipped))).toBeLessThan(350)
      const seen = pictures.filter((at) => at > blocked + 300 && at < blocked + 1700)
      expect(seen.length).toBeLessThan(5)
      // It goes on by itself.
      const resumed = performance.now()
      await next(alice, 'video', () => pictures.filter((at) => at > resumed).length >= 20)
      const after = await ask()
      const dropped = Object.values(after.node.dropped).reduce((sum, count) => sum + count, 0)
      // 60 pictures came while it was blocked, one every 33 ms; a busy machine's camera makes fewer.
      expect(dropped).toBeGreaterThanOrEqual(30)
      expect(after.node.dropped.deadline).toBeGreaterThan(0)
      expect(after.node.depth).toBeLessThanOrEqual(2)
      expect(after.errors.join()).toMatch(/"js" did not answer within 500 ms/)
      expect(after.rss - before.rss).toBeLessThan(40 * 2 ** 20)
      expect(after.forgotten).toBe(0)
      expect(states).toEqual([])
      for (const peer of [alice, carol]) {
        expect(peer.listPeers().find(({ id }) => id === 'bob')).toMatchObject({ state: 'connected' })
      }
    } finally {
      voice.stop()
      camera.stop()
    }
  }, 60_000)

  test('one that never settles is given up, its frame is given back, and the next frame has its turn', async () => {
    const runner = new PipelineRunner()
    const aborted: unknown[] = []
    const frames: VideoFrame[] = []
    runner.register(
      defineNode({
        type: 'Never',
        inputs: { in: 'video' },
        outputs: { out: 'video' },
        process(frame, { signal }) {
          frames.push(frame)
          signal.addEventListener('abort', () => aborted.push(signal.reason))
          return new Promise<VideoFrame>(() => {})
        },
      }),
    )
    const manifest = Manifest.parse({
      version: 'v1',
      nodes: [{ id: 'n', node_type: 'Never', deadline_ms: 50, on_error: 'fail' }],
    })
    for (let n = 0; n < 3; n++) {
      using frame = grey(n)
      await expect(runner.executeUnary(manifest, { kind: 'video', frame })).rejects.toMatchObject({
        code: 'ERR_NODE',
        message: expect.stringMatching(/"n" did not answer within 50 ms/),
      })
    }
    expect(aborted).toHaveLength(3)
    expect(aborted[0]).toMatchObject({ code: 'ERR_ABORTED' })
    expect(frames.every((frame) => frame.closed)).toBe(true)
    runner.close()
  })
})

test('whatever a node in JavaScript does, it is told as an error, and the session goes on', async () => {
  const alice = await lab.join('alice')
  const closed = grey(1)
  closed.close()
  const ways: Record<string, () => unknown> = {
    throws: () => {
      throw new Error('my own fault')
    },
    'throws nothing': () => {
      throw undefined
    },
    rejects: () => Promise.reject(new TypeError('later')),
    'never settles': () => new Promise(() => {}),
    'returns a number': () => 42,
    'returns an object': () => ({ text: 'x' }),
    'returns a kind there is not': () => ({ kind: 'smell', text: 'x' }),
    'returns another kind': () => ({ kind: 'binary', data: new Uint8Array(1) }),
    'returns sound that is none': () => ({
      kind: 'audio',
      samples: new Float32Array(3),
      sampleRate: 0,
      channels: 7,
    }),
    'returns a closed frame': () => closed,
    'gives out too much': function* () {
      for (let n = 0; n < 300; n++) yield { kind: 'text', text: String(n) }
    },
    'fails in the middle': async function* () {
      yield { kind: 'text', text: 'first' }
      throw new Error('in the middle')
    },
  }
  let way: (() => unknown) | undefined
  alice.runner.register(
    defineNode({
      type: 'Odd',
      inputs: { in: 'text' },
      outputs: { out: 'text' },
      process: (text) => (way ? (way() as never) : text),
    }),
  )
  await using session = await alice.stream({
    version: 'v1',
    nodes: [{ id: 'odd', node_type: 'Odd', deadline_ms: 150 }],
  })
  const say = () => session.execute({ kind: 'text', text: 'hello' })
  for (const [name, does] of Object.entries(ways)) {
    way = does
    const told = next(alice, 'error')
    await expect(say().then(() => name)).rejects.toMatchObject({ code: 'ERR_NODE' })
    way = undefined
    expect([name, (await say())?.data]).toEqual([name, { kind: 'text', text: 'hello' }])
    const { code, message } = await told
    expect([name, code, message]).toEqual([name, 'ERR_NODE', expect.stringContaining('"odd"')])
  }
  expect(session.stats().nodes[0]).toMatchObject({ errors: 12, itemsIn: 24, itemsOut: 12, depth: 0 })
})

test('what a peer sends and no node takes is told, once for each kind; and what there is no room for', async () => {
  const [alice, bob] = await lab.pair()
  const errors: WebRtcError[] = []
  bob.on('error', (error) => errors.push(error))
  let go = () => {}
  const gate = new Promise<void>((resolve) => {
    go = resolve
  })
  bob.runner.register(
    defineNode({
      type: 'Slow',
      inputs: { in: 'text' },
      outputs: { out: 'text' },
      process: (text) => gate.then(() => text),
    }),
  )
  await using session = await bob.stream({
    version: 'v1',
    nodes: [
      { id: 'gain', node_type: 'Gain' },
      { id: 'slow', node_type: 'Slow', deadline_ms: 60_000 },
    ],
  })
  // A track that can't lead there is refused at the call; of messages it shows when they come.
  expect(() => session.route({ from: '*', track: 'video', through: 'slow', to: 'sender' })).toThrow(
    expect.objectContaining({
      code: 'ERR_CONFIG',
      message: expect.stringMatching(/video doesn't lead to 'slow'/),
    }),
  )
  session.route({ from: '*', track: 'data', through: 'slow', to: 'sender' })
  const send = async (n: number) => {
    const frame = grey(100, n * 40_000)
    await alice.sendToPeer('bob', { kind: 'video', frame })
    frame.close()
    await alice.sendToPeer('bob', { kind: 'json', value: n })
  }
  const source = every(40, (n) => void send(n).catch(() => {}))
  await next(bob, 'error', () => errors.length >= 1)
  let came = 0
  bob.on('video', () => came++)
  await next(bob, 'video', () => came >= 10)
  source.stop()
  expect(errors.map(({ code, peerId, message }) => [code, peerId, message]).sort()).toEqual([
    ['ERR_NODE', 'alice', 'the graph takes audio or text, not json'],
  ])
  // 16 away at the node and 64 before it by the policy of its connection, 64 at the entrance.
  errors.length = 0
  const full = next(bob, 'error', ({ message }) => /no room for another text/.test(message))
  for (let n = 0; n < 200; n++) await alice.sendToPeer('bob', { kind: 'text', text: String(n) })
  await full
  go()
  let echoed = 0
  await next(alice, 'data', () => ++echoed >= 64)
}, 30_000)

test('a manifest is reloaded in a call: the sound changes without a gap, and counters go on', async () => {
  const [alice, bob] = await lab.pair()
  await using session = await bob.stream(GAIN)
  session.route({ from: '*', track: 'audio', through: 'gain', to: 'sender' })
  const heard: Float32Array[] = []
  alice.on('audio', ({ data }) => data.data.kind === 'audio' && heard.push(data.data.samples))
  const source = every(20, (n) => alice.sendToPeer('bob', tone(n, 600)).catch(() => {}))
  await next(alice, 'audio', () => heard.length >= 60)
  expect(Math.abs(hear(join(heard.slice(30, 60))).dbfs - -15.03)).toBeLessThan(1)
  const before = session.stats().nodes[0]!.itemsIn

  session.reload(`
version: v1
nodes:
  - { id: clean, node_type: Limiter }
  - { id: gain, node_type: Gain, params: { gain_db: -20 } }
connections: [{ from: clean, to: gain }]
`)
  heard.length = 0
  await next(alice, 'audio', () => heard.length >= 60)
  expect(Math.abs(hear(join(heard.slice(30, 60))).dbfs - -29.03)).toBeLessThan(1)
  const { nodes, edges } = session.stats()
  expect(nodes.map((node) => node.id)).toEqual(['clean', 'gain'])
  expect(nodes[1]!.itemsIn).toBeGreaterThan(before + 30)
  expect(edges).toMatchObject([{ from: 'clean.out', to: 'gain.in', dropped: {}, depth: 0 }])
  expect(edges[0]!.items).toBeGreaterThan(30)

  const refused = () => session.reload('version: v1\nnodes: [{ id: other, node_type: Gain }]')
  expect(refused).toThrow(
    expect.objectContaining({ code: 'ERR_CONFIG', message: expect.stringMatching(/gain.*other/) }),
  )
  const broken = () =>
    session.reload('version: v1\nnodes: [{ id: gain, node_type: Gain, params: { gain_db: 99 } }]')
  expect(broken).toThrow(expect.objectContaining({ code: 'ERR_MANIFEST' }))
  heard.length = 0
  await next(alice, 'audio', () => heard.length >= 20)
  source.stop()
}, 30_000)

test('what leaves the graph by an output is heard by who listens, besides where it goes', async () => {
  const [alice, bob] = await lab.pair()
  await using session = await bob.stream(
    'version: v1\nnodes: [{ id: meter, node_type: LevelMeter, params: { interval_ms: 100 } }]',
  )
  session.route({ from: '*', track: 'audio', through: 'meter.out', to: 'sender' })
  const levels: SessionOutput[] = []
  const stop = session.onOutput('meter.level', (output) => levels.push(output))
  expect(() => session.onOutput('meter.loudness', () => {})).toThrow(
    expect.objectContaining({ code: 'ERR_NODE', message: expect.stringMatching(/meter\.level/) }),
  )
  let echoed = 0
  const messages: unknown[] = []
  alice.on('audio', () => echoed++)
  alice.on('data', (event) => messages.push(event))
  const source = every(20, (n) => alice.sendToPeer('bob', tone(n, 600)).catch(() => {}))
  await next(alice, 'audio', () => echoed >= 40 && levels.length >= 5)
  const last = levels.at(-1)!
  expect(last.peerId).toBe('alice')
  if (last.data.data.kind !== 'json') throw new Error('no level')
  const level = last.data.data.value as { rmsDb: number; peakDb: number }
  expect(Math.abs(level.rmsDb - -9.03)).toBeLessThan(1.5)
  expect(Math.abs(level.peakDb - -6.02)).toBeLessThan(1.5)
  stop()
  stop()
  const count = levels.length
  await next(alice, 'audio', () => echoed >= 80)
  source.stop()
  expect(levels.length - count).toBeLessThanOrEqual(1)
  expect(messages).toEqual([])
}, 30_000)

describe('metrics', () => {
  interface Sample {
    name: string
    labels: Record<string, string>
    value: number
  }

  /** Prometheus' text format 0.0.4, as strictly as its documentation has it. */
  function parse(text: string): { samples: Sample[]; types: Map<string, string> } {
    expect(text.endsWith('\n')).toBe(true)
    const types = new Map<string, string>()
    const samples: Sample[] = []
    const done = new Set<string>()
    let family = ''
    for (const line of text.slice(0, -1).split('\n')) {
      const comment = /^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$/.exec(line)
      if (comment) {
        const [, kind, name, rest] = comment as unknown as [string, string, string, string]
        if (name !== family) {
          // All lines of one metric are in one group.
          expect(done.has(name)).toBe(false)
          if (family) done.add(family)
          family = name
        }
        if (kind === 'TYPE') {
          expect(types.has(name)).toBe(false)
          expect(['counter', 'gauge', 'summary']).toContain(rest)
          types.set(name, rest)
        }
        continue
      }
      const sample = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/.exec(line)
      if (!sample) throw new Error(`not a line of the format: ${line}`)
      const [, name, inside = '', number] = sample as unknown as [string, string, string, string]
      const base = types.get(family) === 'summary' ? name.replace(/_(sum|count)$/, '') : name
      expect(base).toBe(family)
      const labels: Record<string, string> = {}
      const rest = inside.replace(
        /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,|$)/g,
        (_, label: string, value: string) => {
          expect(labels[label]).toBeUndefined()
          labels[label] = value.replace(/\\(.)/g, (_, c: string) => (c === 'n' ? '\n' : c))
          return ''
        },
      )
      expect(rest).toBe('')
      expect(number).toMatch(/^(NaN|[+-]?Inf|[+-]?[\d.]+(e[+-]?\d+)?)$/i)
      samples.push({ name, labels, value: Number(number) })
    }
    const series = samples.map(({ name, labels }) => name + JSON.stringify(Object.entries(labels).sort()))
    expect(new Set(series).size).toBe(series.length)
    return { samples, types }
  }

  async function inACall(): Promise<[WebRtcTransport, WebRtcTransport]> {
    const [alice, bob] = await lab.pair()
    return [alice, bob]
  }

  test('metricsText is in the text format 0.0.4, counts what happened, and is served', async () => {
    const [alice, bob] = await inACall()
    bob.runner.register(
      defineNode({
        type: 'Picky',
        inputs: { in: 'audio' },
        outputs: { out: 'audio' },
        process(audio, { state }) {
          state.n = Number(state.n ?? 0) + 1
          if (Number(state.n) % 10 === 0) throw new Error('not this one')
          return audio
        },
      }),
    )
    bob.on('error', () => {})
    await using session = await bob.stream(`
version: v1
nodes: [{ id: gain, node_type: Gain }, { id: js, node_type: Picky, on_error: drop }]
connections: [{ from: gain, to: js }]
`)
    session.route({ from: '*', track: 'audio', through: 'js', to: 'sender' })
    let echoed = 0
    alice.on('audio', () => echoed++)
    const source = every(20, (n) => alice.sendToPeer('bob', tone(n, 600)).catch(() => {}))
    await next(alice, 'audio', () => echoed >= 60)
    source.stop()

    const { samples, types } = parse(metricsText(bob))
    const value = (name: string, labels: Record<string, string>) => {
      const found = samples.filter(
        (sample) =>
          sample.name === name &&
          Object.entries(labels).every(([label, text]) => sample.labels[label] === text),
      )
      expect([name, found.length]).toEqual([name, 1])
      return found[0]!.value
    }
    const js = { transport: 'bob', session: session.id, node: 'js', type: 'Picky' }
    const at = 'remotemedia_pipeline'
    expect(value(`${at}_node_items_in_total`, js)).toBeGreaterThanOrEqual(60)
    expect(value(`${at}_node_errors_total`, js)).toBeGreaterThanOrEqual(6)
    expect(value(`${at}_node_dropped_total`, { ...js, reason: 'error' })).toBe(
      value(`${at}_node_errors_total`, js),
    )
    expect(types.get(`${at}_node_seconds`)).toBe('summary')
    const count = value(`${at}_node_seconds_count`, js)
    const sum = value(`${at}_node_seconds_sum`, js)
    const median = value(`${at}_node_seconds`, { ...js, quantile: '0.5' })
    expect(count).toBeGreaterThanOrEqual(60)
    expect(sum).toBeGreaterThan(0)
    expect(median).toBeLessThanOrEqual(value(`${at}_node_seconds`, { ...js, quantile: '0.99' }))
    expect(sum).toBeLessThan(count * 2)
    const edge = { from: 'gain.out', to: 'js.in' }
    expect(value(`${at}_edge_items_total`, edge)).toBeGreaterThanOrEqual(60)
    expect(value(`${at}_edge_wait_seconds_count`, edge)).toBeGreaterThanOrEqual(60)
    expect(value('remotemedia_peers', { transport: 'bob', state: 'connected' })).toBe(1)
    expect(value('remotemedia_sessions', { transport: 'bob' })).toBe(1)
    expect(types.get('remotemedia_transport_events_dropped_total')).toBe('counter')
    expect(types.get('remotemedia_transport_message_bytes')).toBe('gauge')
    expect(parse(session.metrics()).samples.every((sample) => sample.labels.session === session.id)).toBe(
      true,
    )
    // Two transports in one answer, each series once.
    parse(metricsText([alice, bob]))

    const server = createServer(metricsHandler([alice, bob])).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const get = async (method: string) => {
      const [response] = await once(request({ port, host: '127.0.0.1', method }).end(), 'response')
      let text = ''
      for await (const chunk of response) text += chunk
      return { status: response.statusCode, type: response.headers['content-type'], text }
    }
    const answer = await get('GET')
    expect([answer.status, answer.type]).toEqual([200, 'text/plain; version=0.0.4; charset=utf-8'])
    expect(parse(answer.text).samples.length).toBeGreaterThan(60)
    expect(await get('HEAD')).toMatchObject({ status: 200, text: '' })
    expect((await get('POST')).status).toBe(405)
    server.close()
  }, 30_000)

  test('serveMetrics listens on this machine only, and ends with its transport', async () => {
    const alice = await lab.join('alice')
    const metrics = await alice.serveMetrics({ port: 0 })
    expect(metrics.url).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/metrics$/)
    const answer = await fetch(metrics.url)
    expect([answer.status, answer.headers.get('content-type')]).toEqual([200, METRICS_CONTENT_TYPE])
    expect(parse(await answer.text()).samples.length).toBeGreaterThan(10)
    expect((await fetch(new URL('/', metrics.url))).status).toBe(404)
    const port = Number(new URL(metrics.url).port)
    // The code of what it rejects with; the error is of another realm than this one's.
    const refused = (options: object) =>
      alice.serveMetrics(options).then(
        () => 'listens',
        ({ code }) => code as string,
      )
    expect(await refused({ port })).toBe('ERR_CONFIG')
    expect(await refused({ port: -1 })).toBe('ERR_CONFIG')
    expect(await refused({ path: '/' })).toBe('ERR_CONFIG')
    // A connection that is open and says nothing doesn't hold it up.
    const idle = connect(port, '127.0.0.1')
    await once(idle, 'connect')
    await alice.close()
    await expect(fetch(metrics.url)).rejects.toThrow()
    idle.destroy()
    expect(await refused({ port: 0 })).toBe('ERR_CLOSED')
  })

  test('labels that need it are escaped', async () => {
    const alice = await lab.join('alice')
    const odd = 'a"b\\c\nd'
    const { samples } = parse(
      metricsText({
        peerId: odd,
        sessions: [],
        counters: { packetsRefused: 3 },
        listPeers: () => [],
      } as unknown as WebRtcTransport),
    )
    expect(samples.find(({ name }) => name === 'remotemedia_transport_packets_refused_total')).toMatchObject({
      labels: { transport: odd },
      value: 3,
    })
    expect(parse(metricsText(alice)).samples.length).toBeGreaterThan(10)
  })
})
