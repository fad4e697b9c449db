import { defineNode, type Received } from '@remotemedia/webrtc'
import { every, Lab, next, tone } from './support.js'

const GAIN = { version: 'v1' as const, nodes: [{ id: 'gain', node_type: 'Gain' }] }

let lab: Lab
beforeEach(async () => {
  lab = await new Lab().open()
})
afterEach(() => lab.close())

/** Number `n`, 1 KiB long. */
function numbered(n: number): { kind: 'binary'; data: Uint8Array } {
  const data = new Uint8Array(1024)
  new DataView(data.buffer).setUint32(0, n)
  return { kind: 'binary', data }
}

function numberOf({ data }: Received): number {
  if (data.data.kind !== 'binary') throw new Error(`not a number: ${data.data.kind}`)
  return new DataView(data.data.data.buffer, data.data.data.byteOffset).getUint32(0)
}

describe('messages that are not read', () => {
  test('make their sender wait, are all there when they are read, and hold up nobody else', async () => {
    const bob = await lab.join('bob')
    const alice = await lab.join('alice')
    const carol = await lab.join('carol')
    await Promise.all([alice.connectPeer('bob'), carol.connectPeer('bob')])
    await using session = await bob.stream(GAIN)
    // From the first call on, messages are kept.
    const first = session.recvFromAny({ kind: 'binary' })
    const COUNT = 20_000
    let accepted = 0
    const sent = (async () => {
      for (let n = 0; n < COUNT; n++) {
        await alice.sendToPeer('bob', numbered(n))
        accepted = n + 1
      }
    })()
    expect(numberOf((await first)!)).toBe(0)
    // The sender comes to a stop: what is on its way is bounded.
    let before = -1
    for (let still = 0; still < 10; still = accepted === before ? still + 1 : 0) {
      before = accepted
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    expect(accepted).toBeGreaterThan(1024)
    expect(accepted).toBeLessThan(COUNT)
    expect(bob.counters.heldPeers).toBe(1)
    expect(alice.listPeers().find(({ id }) => id === 'bob')!.bufferedAmount).toBeGreaterThan(262_144)
    // Another peer's messages come through, and so does the sender's own voice.
    await carol.sendToPeer('bob', { kind: 'text', text: 'I am carol' })
    expect((await session.recvFromPeer('carol', { kind: 'text', timeoutMs: 5000 }))?.data).toEqual({
      kind: 'text',
      text: 'I am carol',
    })
    const voice = every(20, (n) => void alice.sendToPeer('bob', tone(n, 440)))
    await next(bob, 'audio', ({ peerId }) => peerId === 'alice')
    voice.stop()
    expect(session.dropped).toBe(0)
    for (let n = 1; n < COUNT; n++) {
      const item = (await session.recvFromAny({ kind: 'binary', timeoutMs: 15_000 }))!
      if (numberOf(item) !== n) throw new Error(`${numberOf(item)} came instead of ${n}`)
    }
    await sent
    expect(session.dropped).toBe(0)
    expect(bob.counters.heldPeers).toBe(0)
  }, 60_000)

  test('hold up nobody once their session is closed', async () => {
    const [alice, bob] = await lab.pair()
    const session = await bob.stream(GAIN)
    const first = session.recvFromAny()
    for (let n = 0; n < 1500; n++) await alice.sendToPeer('bob', numbered(n))
    await first
    while (bob.counters.heldPeers === 0) await new Promise((resolve) => setTimeout(resolve, 10))
    await session.close()
    expect(bob.counters.heldPeers).toBe(0)
    const heard = next(bob, 'data', ({ data }) => data.data.kind === 'text')
    await alice.sendToPeer('bob', { kind: 'text', text: 'still there' })
    expect((await heard).data.data).toEqual({ kind: 'text', text: 'still there' })
  })

  test('that nobody asked for are not kept', async () => {
    const [alice, bob] = await lab.pair()
    await using session = await bob.stream(GAIN)
    // A session for pictures has nothing to do with messages.
    const picture = session.recvFromAny({ kind: 'video' })
    let heard = 0
    bob.on('data', () => heard++)
    for (let n = 0; n < 3000; n++) await alice.sendToPeer('bob', numbered(n))
    if (heard < 3000) await next(bob, 'data', () => heard >= 3000)
    expect([session.dropped, bob.counters.heldPeers]).toEqual([0, 0])
    await session.close()
    expect(await picture).toBeNull()
  })
})

describe('routes', () => {
  test('that name nobody who is there, or make no sense, are refused and leave what runs alone', async () => {
    const [alice, bob] = await lab.pair()
    await using session = await bob.stream(GAIN)
    const good = { from: '*', track: 'audio', through: 'gain', to: 'sender' } as const
    const route = session.route(good)
    const wrong: [object, string, RegExp][] = [
      [{ from: ['zed'] }, 'ERR_PEER_NOT_FOUND', /route\.from: 'zed' is not in the room.*mayBeAbsent/],
      [{ to: ['alice', 'zed'] }, 'ERR_PEER_NOT_FOUND', /route\.to: 'zed'/],
      [{ to: ['bob'] }, 'ERR_CONFIG', /to: 'bob' is this transport itself/],
      [{ track: 'video' }, 'ERR_CONFIG', /track: video doesn't lead to 'gain'.*takes: audio/],
      [{ through: 'gain.loud' }, 'ERR_CONFIG', /through: 'gain\.loud'.*gain/],
      [{ to: 'everyone' }, 'ERR_CONFIG', /route\.to/],
      [{ mayBeAbsent: 1 }, 'ERR_CONFIG', /mayBeAbsent/],
      [{ too: 'all' }, 'ERR_CONFIG', /too/],
    ]
    for (const [change, code, message] of wrong) {
      const refused = expect.objectContaining({ code, message: expect.stringMatching(message) })
      expect(() => session.route({ ...good, ...change } as never)).toThrow(refused)
      expect(() => route.update(change as never)).toThrow(refused)
    }
    expect(route.options).toEqual(good)
    session.route({ ...good, to: ['zed'], mayBeAbsent: true }).close()
    let heard = 0
    alice.on('audio', () => heard++)
    const voice = every(20, (n) => void alice.sendToPeer('bob', tone(n, 440)).catch(() => {}))
    await next(alice, 'audio', () => heard >= 10)
    voice.stop()
  })

  test("keep a peer's nodes while its connection is built anew, and give it new ones when it left", async () => {
    const [alice, bob] = await lab.pair()
    bob.runner.register(
      defineNode({
        type: 'Counter',
        inputs: { in: 'text' },
        outputs: { out: 'json' },
        process: (_, { state }) => {
          state.count = Number(state.count ?? 0) + 1
          return { kind: 'json', value: state.count }
        },
      }),
    )
    await using session = await bob.stream({ version: 'v1', nodes: [{ id: 'count', node_type: 'Counter' }] })
    session.route({ from: '*', track: 'data', through: 'count', to: 'sender' })
    const say = async (from: typeof alice) => {
      const answer = next(from, 'data', ({ data }) => data.data.kind === 'json')
      await from.sendToPeer('bob', { kind: 'text', text: 'one more' })
      return ((await answer).data.data as { value: number }).value
    }
    expect([await say(alice), await say(alice)]).toEqual([1, 2])
    await alice.disconnectPeer('bob')
    while (bob.listPeers()[0]!.state === 'connected') await new Promise((resolve) => setTimeout(resolve, 10))
    await alice.connectPeer('bob')
    expect(await say(alice)).toBe(3)
    const gone = next(bob, 'peerleft')
    await alice.close()
    await gone
    const again = await lab.join('alice')
    await again.connectPeer('bob')
    expect(await say(again)).toBe(1)
  })
})

test('a session that is closed sends what it has before it ends, and waits for no node that hangs', async () => {
  const [alice, bob] = await lab.pair()
  let release = () => {}
  const held = new Promise<void>((resolve) => {
    release = resolve
  })
  bob.runner.register(
    defineNode({
      type: 'Slow',
      inputs: { in: 'text' },
      outputs: { out: 'text' },
      process: async (text) => {
        await held
        return text
      },
    }),
  )
  const manifest = { version: 'v1' as const, nodes: [{ id: 'slow', node_type: 'Slow' }] }
  const session = await bob.stream(manifest)
  session.route({ from: '*', track: 'data', through: 'slow', to: 'sender' })
  const answers: string[] = []
  alice.on('data', ({ data }) => data.data.kind === 'text' && answers.push(data.data.text))
  for (const text of ['a', 'b', 'c']) await alice.sendToPeer('bob', { kind: 'text', text })
  while (session.stats().nodes[0]!.depth < 3) await new Promise((resolve) => setTimeout(resolve, 5))
  const closed = session.close()
  await expect(session.execute({ kind: 'text', text: 'late' })).rejects.toMatchObject({ code: 'ERR_CLOSED' })
  release()
  await closed
  if (answers.length < 3) await next(alice, 'data', () => answers.length === 3)
  expect(answers).toEqual(['a', 'b', 'c'])

  bob.runner.register(
    defineNode({
      type: 'Hangs',
      inputs: { in: 'text' },
      outputs: { out: 'text' },
      process: () => new Promise<never>(() => {}),
    }),
  )
  const hangs = await bob.stream({ version: 'v1', nodes: [{ id: 'slow', node_type: 'Hangs' }] })
  const outcome = hangs.execute({ kind: 'text', text: 'x' }).catch((error) => error.code)
  const since = performance.now()
  await hangs.close()
  expect(performance.now() - since).toBeLessThan(10_000)
  expect([null, 'ERR_CLOSED']).toContain(await outcome)
  expect(hangs.stats().nodes).toEqual([])
})
