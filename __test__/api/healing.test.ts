import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, createServer, type Server, Socket } from 'node:net'
import { join } from 'node:path'
import { type WebRtcConfig, type WebRtcError, WebRtcTransport } from '@remotemedia/webrtc'
import { SignalingClient } from '../../src-ts/signaling/client.js'
import { every, Lab, next, tone } from './support.js'

// What happens to a call, and to who is in the room, when signaling goes away and comes back.

const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

const joinRoom = async (config: WebRtcConfig): Promise<WebRtcTransport> => {
  const transport = await WebRtcTransport.create(config)
  closers.push(() => transport.close())
  return transport
}

/** Everything about who is there that a transport told. */
const presence = (transport: WebRtcTransport): string[] => {
  const told: string[] = []
  transport.on('peerjoined', ({ peerId }) => told.push(`joined ${peerId}`))
  transport.on('peerleft', ({ peerId }) => told.push(`left ${peerId}`))
  transport.on('peerstatechange', ({ peerId, state }) => told.push(`${state} ${peerId}`))
  return told
}

const until = async (holds: () => boolean, ms: number): Promise<number> => {
  const started = performance.now()
  while (!holds()) {
    if (performance.now() - started > ms) throw new Error(`not so after ${ms} ms`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  return performance.now() - started
}

/** A signaling server in a process of its own, so that it can be killed. */
class ServerProcess {
  readonly url: string
  readonly #port: number
  #child: ChildProcess | undefined

  static async start(): Promise<ServerProcess> {
    const probe = createServer().listen(0, '127.0.0.1')
    await once(probe, 'listening')
    const { port } = probe.address() as AddressInfo
    await new Promise((resolve) => probe.close(resolve))
    const server = new ServerProcess(port)
    closers.push(() => server.kill('SIGKILL'))
    await server.start()
    return server
  }

  constructor(port: number) {
    this.#port = port
    this.url = `ws://127.0.0.1:${port}`
  }

  async start(): Promise<void> {
    const args = [join(__dirname, '../../dist/cli.js'), 'signaling', '--port', `${this.#port}`]
    this.#child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
    await once(this.#child.stdout!, 'data')
  }

  async kill(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const gone = once(child, 'exit')
    child.kill(signal)
    if (signal === 'SIGKILL') await gone
  }

  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal)
  }

  /** Who is in the room, as the server sees it. */
  async members(): Promise<string[]> {
    const inside = await SignalingClient.connect({ url: this.url, peerId: 'onlooker' })
    const ids = inside.peers.map(({ peerId }) => peerId)
    await inside.close()
    return ids.sort()
  }
}

test('the server is killed and comes back: nobody in a call notices, and all are members again within 5 s', async () => {
  const server = await ServerProcess.start()
  const ids = ['a', 'b', 'c', 'd']
  const all: WebRtcTransport[] = []
  for (const peerId of ids) all.push(await joinRoom({ signalingUrl: server.url, peerId }))
  await Promise.all(all.flatMap((t) => ids.filter((id) => id !== t.peerId).map((id) => t.connectPeer(id))))
  const tokens = all.map((t) => t.resumeToken)
  const told = all.map(presence)
  const signaling: string[][] = all.map((t) => {
    const states: string[] = []
    t.on('signalingstatechange', ({ state }) => states.push(state))
    return states
  })
  const [a, b] = all as [WebRtcTransport, WebRtcTransport]
  // Voice and numbered messages, through all that follows.
  const heard: number[] = []
  b.on('audio', () => heard.push(performance.now()))
  const numbers: number[] = []
  b.on('data', ({ data }) => numbers.push((data.data as { value: number }).value))
  const source = every(20, (n) => {
    void a.sendToPeer('b', { data: tone(n, 440), timestampUs: n * 20_000 })
    void a.sendToPeer('b', { kind: 'json', value: n })
  })
  await until(() => heard.length > 100, 10_000)
  const longest = () => Math.max(...heard.slice(1).map((at, i) => at - heard[i]!))
  const gapBefore = longest()

  await server.kill('SIGKILL')
  await until(() => all.every((t) => t.signalingState === 'reconnecting'), 2_000)
  for (const t of all) {
    expect(t.listPeers().map(({ id, state }) => `${id} ${state}`)).toEqual(
      ids.filter((id) => id !== t.peerId).map((id) => `${id} connected`),
    )
  }
  // Long enough for the delays between tries to have reached their longest.
  await new Promise((resolve) => setTimeout(resolve, 8_000))
  await server.start()
  const took = await until(() => all.every((t) => t.signalingState === 'connected'), 15_000)
  expect(took).toBeLessThan(5_000)
  // The onlooker's joins are told as well; nothing else is.
  expect((await server.members()).filter((id) => id !== 'onlooker')).toEqual(ids)
  await new Promise((resolve) => setTimeout(resolve, 1_000))
  source.stop()
  const sent = numbers.at(-1)! + 1
  await until(() => numbers.length >= sent, 5_000)

  for (const events of told) expect(events.filter((e) => !e.includes('onlooker'))).toEqual([])
  expect(signaling).toEqual(all.map(() => ['reconnecting', 'connected']))
  expect(numbers).toEqual(Array.from({ length: sent }, (_, i) => i))
  expect(longest()).toBeLessThan(Math.max(3 * gapBefore, 250))
  // The server that came back knew none of the tokens.
  all.forEach((t, i) => {
    expect(t.resumeToken).not.toBe(tokens[i])
  })
  // And signaling works: a newcomer is taken by all.
  const e = await joinRoom({ signalingUrl: server.url, peerId: 'e' })
  await Promise.all(ids.map((id) => e.connectPeer(id)))
}, 60_000)

test('a server that hangs is noticed, and found again when it goes on', async () => {
  const server = await ServerProcess.start()
  const a = await joinRoom({ signalingUrl: server.url, peerId: 'a' })
  const b = await joinRoom({ signalingUrl: server.url, peerId: 'b' })
  await a.connectPeer('b')
  const told = presence(a)
  server.signal('SIGSTOP')
  // A ping every 5 s, 3 s for its answer.
  await until(() => a.signalingState === 'reconnecting' && b.signalingState === 'reconnecting', 12_000)
  expect(a.listPeers()).toMatchObject([{ id: 'b', state: 'connected' }])
  await new Promise((resolve) => setTimeout(resolve, 3_000))
  server.signal('SIGCONT')
  const took = await until(() => a.signalingState === 'connected' && b.signalingState === 'connected', 15_000)
  expect(took).toBeLessThan(5_000)
  expect(await server.members()).toEqual(['a', 'b'])
  expect(told.filter((e) => !e.includes('onlooker'))).toEqual([])
}, 60_000)

describe('a peer that comes again under its id', () => {
  test('takes its place with the resume token, though the server thinks the old one alive', async () => {
    const lab = await new Lab().open()
    closers.push(() => lab.close())
    const line = await Line.to(lab.server.port)
    closers.push(() => line.close())
    const alice = await lab.join('alice')
    const old = await joinRoom({ signalingUrl: line.url, peerId: 'bob' })
    await alice.connectPeer('bob')
    const told = presence(alice)
    const { resumeToken } = old
    // The old one's machine is as good as gone for the server: it hears nothing, not even that the line ended.
    line.freeze()
    const refused = await WebRtcTransport.create({ signalingUrl: lab.server.url, peerId: 'bob' }).catch(
      (e) => e,
    )
    expect(refused).toMatchObject({ code: 'ERR_SIGNALING', signalingCode: -32012 })
    expect(refused.message).toContain('resumeToken')
    const again = await lab.join('bob', { resumeToken })
    await again.connectPeer('alice')
    const got = next(again, 'data')
    await alice.sendToPeer('bob', { kind: 'text', text: 'welcome back' })
    expect((await got).data.data).toEqual({ kind: 'text', text: 'welcome back' })
    expect(told).not.toContain('left bob')
    expect(told).not.toContain('joined bob')
    expect(alice.listPeers().map(({ id, state }) => `${id} ${state}`)).toEqual(['bob connected'])
    expect([...(await alice.getStats()).values()].filter((s) => s.type === 'peer-connection')).toHaveLength(1)
  }, 30_000)

  test('is told apart from the old one, which gives up and does not take the place back', async () => {
    const lab = await new Lab().open()
    closers.push(() => lab.close())
    const old = await lab.join('bob')
    const errors: WebRtcError[] = []
    old.on('error', (error) => errors.push(error))
    const closed = next(old, 'signalingstatechange', ({ state }) => state === 'closed')
    const again = await lab.join('bob', { resumeToken: old.resumeToken })
    expect((await closed).reason).toContain('4001')
    expect(errors.map(({ code }) => code)).toEqual(['ERR_SIGNALING'])
    expect(old.signalingState).toBe('closed')
    expect(again.signalingState).toBe('connected')
    await new Promise((resolve) => setTimeout(resolve, 1_000))
    expect(lab.server.peers().map(({ peerId }) => peerId)).toEqual(['bob'])
  })

  test('a resume token that is none, or without its id, is ERR_CONFIG', async () => {
    for (const config of [{ peerId: 'bob', resumeToken: 5 }, { resumeToken: 'x'.repeat(32) }]) {
      const error = await WebRtcTransport.create({
        signalingUrl: 'ws://127.0.0.1:9',
        ...config,
      } as never).catch((e) => e)
      expect(error).toMatchObject({ code: 'ERR_CONFIG' })
    }
  })
})

/** A TCP relay that can fall silent. */
class Line {
  readonly url: string
  readonly #server: Server
  readonly #sockets: Socket[]

  static async to(port: number): Promise<Line> {
    const sockets: Socket[] = []
    const server = createServer((client) => {
      const upstream = new Socket().connect(port, '127.0.0.1')
      for (const socket of [client, upstream]) socket.on('error', () => {})
      client.pipe(upstream, { end: false }).pipe(client, { end: false })
      sockets.push(client, upstream)
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new Line(server, sockets)
  }

  constructor(server: Server, sockets: Socket[]) {
    this.#server = server
    this.#sockets = sockets
    this.url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  freeze(): void {
    for (const socket of this.#sockets) {
      socket.unpipe()
      socket.pause()
    }
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy()
    this.#server.close()
  }
}
