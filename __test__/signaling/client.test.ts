import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from 'node:net'
import { WebSocket, WebSocketServer } from 'ws'
import { WebRtcError } from '../../src-ts/errors.js'
import {
  SignalingClient,
  type SignalingClientEvents,
  type SignalingClientOptions,
} from '../../src-ts/signaling/client.js'
import { CANDIDATE, SDP, Servers } from './support.js'

const servers = new Servers()
const clients: SignalingClient[] = []
const ended: (() => void)[] = []
const connect = async (options: SignalingClientOptions): Promise<SignalingClient> => {
  const client = await SignalingClient.connect(options)
  clients.push(client)
  return client
}
const next = <K extends keyof SignalingClientEvents>(
  client: SignalingClient,
  name: K,
): Promise<SignalingClientEvents[K]> => new Promise((resolve) => client.once(name, resolve))

afterEach(async () => {
  jest.restoreAllMocks()
  await Promise.all(clients.splice(0).map((client) => client.close()))
  await servers.closeAll()
  for (const end of ended.splice(0)) end()
})

describe('a call between two', () => {
  test('presence, offer, answer, candidates, reason of leaving', async () => {
    const { url } = await servers.listen()
    const a = await connect({ url, peerId: 'a', capabilities: ['audio'], userData: { name: 'A' } })
    const joined = next(a, 'joined')
    const b = await connect({ url, peerId: 'b' })
    expect(b.peers).toEqual([{ peerId: 'a', capabilities: ['audio'], userData: { name: 'A' } }])
    expect(await joined).toEqual({ peerId: 'b', capabilities: [], userData: null })
    expect(a.peers.map((p) => p.peerId)).toEqual(['b'])
    const offer = next(a, 'offer')
    expect(await b.offer('a', SDP)).toBeUndefined()
    expect(await offer).toEqual({ from: 'b', sdp: SDP })
    const answer = next(b, 'answer')
    await a.answer('b', SDP)
    expect(await answer).toEqual({ from: 'a', sdp: SDP })
    const candidate = next(a, 'candidate')
    await b.candidate('a', { candidate: CANDIDATE, sdpMid: '0', sdpMLineIndex: 0 })
    expect(await candidate).toEqual({ from: 'b', candidate: CANDIDATE, sdpMid: '0', sdpMLineIndex: 0 })
    const end = next(a, 'candidate')
    await b.candidate('a', { candidate: '' })
    expect(await end).toEqual({ from: 'b', candidate: '', sdpMid: null, sdpMLineIndex: null })
    expect((await a.list()).map((p) => p.peerId)).toEqual(['a', 'b'])
    expect(await a.info()).toMatchObject({ name: 'remotemedia-webrtc', peers_count: 2 })
    const told: string[] = []
    a.on('disconnected', ({ reason }) => told.push(`disconnected ${reason}`))
    a.on('left', ({ reason }) => told.push(`left ${reason}`))
    const left = next(a, 'left')
    await b.disconnect('lunch')
    await left
    expect(told).toEqual(['disconnected lunch', 'left lunch'])
    expect(a.peers).toEqual([])
  })

  test('an offer to a hosted peer is answered in the result, and as an event', async () => {
    const server = await servers.listen()
    server.host('remotemedia-server', { offer: ({ sdp }) => `${sdp}a=hosted\r\n` })
    const a = await connect({ url: server.url, peerId: 'a' })
    const event = next(a, 'answer')
    const sdp = `${SDP}a=hosted\r\n`
    expect(await a.offer('remotemedia-server', SDP)).toEqual({
      type: 'answer',
      sdp,
      from: 'remotemedia-server',
      to: 'a',
    })
    expect(await event).toEqual({ from: 'remotemedia-server', sdp })
  })

  test('nothing is missed by listeners attached right after connect', async () => {
    // Everything in one packet: the announce's answer, then what a busy room sends.
    const wss = new WebSocketServer({ port: 0, host: '127.0.0.1' })
    await once(wss, 'listening')
    ended.push(() => wss.close())
    wss.on('connection', (ws: WebSocket & { _socket?: Socket }) => {
      ws.on('message', (data) => {
        ws._socket?.cork()
        const { id } = JSON.parse(String(data))
        ws.send(JSON.stringify({ jsonrpc: '2.0', id, result: { success: true, peers: [] } }))
        ws.send(
          JSON.stringify({
            jsonrpc: '2.0',
            method: 'peer.joined',
            params: { peer_id: 'b', capabilities: [] },
          }),
        )
        ws.send(
          JSON.stringify({ jsonrpc: '2.0', method: 'peer.offer', params: { from: 'b', to: 'a', sdp: SDP } }),
        )
        ws._socket?.uncork()
      })
    })
    const client = await connect({
      url: `ws://127.0.0.1:${(wss.address() as AddressInfo).port}`,
      peerId: 'a',
    })
    const seen: string[] = []
    client.on('joined', ({ peerId }) => seen.push(`joined ${peerId}`))
    const offer = next(client, 'offer')
    expect((await offer).from).toBe('b')
    expect(seen).toEqual(['joined b'])
    expect(client.peers.map((p) => p.peerId)).toEqual(['b'])
    wss.clients.forEach((ws) => {
      ws.terminate()
    })
  })

  test('connect and announce in a few milliseconds', async () => {
    const { url } = await servers.listen()
    const times: number[] = []
    for (let i = 0; i < 30; i++) {
      const started = performance.now()
      const client = await SignalingClient.connect({ url })
      times.push(performance.now() - started)
      await client.close()
    }
    expect(times.sort((x, y) => x - y)[15]).toBeLessThan(15)
  })
})

describe('errors', () => {
  test('the server’s codes become the package’s', async () => {
    const { url } = await servers.listen({
      denyPeers: ['denied'],
      limits: { maxPeersPerRoom: 2 },
      authorize: ({ token }) => token !== 'bad',
    })
    const a = await connect({ url, peerId: 'a' })
    const b = await connect({ url, peerId: 'b', denyPeers: ['a'] })
    const failure = (options: Partial<SignalingClientOptions>) =>
      connect({ url, ...options }).catch((error) => error)
    expect(await failure({ peerId: 'a' })).toMatchObject({ code: 'ERR_SIGNALING', signalingCode: -32012 })
    expect(await failure({ peerId: 'denied' })).toMatchObject({
      code: 'ERR_PEER_DENIED',
      signalingCode: -32013,
    })
    expect(await failure({ token: 'bad' })).toMatchObject({ code: 'ERR_UNAUTHORIZED', signalingCode: -32010 })
    expect(await failure({ peerId: 'c' })).toMatchObject({ code: 'ERR_PEER_LIMIT', signalingCode: -32001 })
    await expect(a.offer('nobody', SDP)).rejects.toMatchObject({
      code: 'ERR_PEER_NOT_FOUND',
      peerId: 'nobody',
      signalingCode: -32000,
    })
    await expect(a.offer('b', SDP)).rejects.toMatchObject({ code: 'ERR_PEER_DENIED', peerId: 'b' })
    await expect(b.offer('a', 'no sdp')).rejects.toMatchObject({
      code: 'ERR_SIGNALING',
      signalingCode: -32002,
    })
    await expect(b.offer('a', 'x'.repeat(49_153))).rejects.toMatchObject({
      code: 'ERR_MESSAGE_TOO_LARGE',
      peerId: 'a',
    })
    // Under the SDP's limit, over the message's once it is JSON.
    await expect(b.offer('a', `v=0${'\r\n'.repeat(20_000)}`)).rejects.toMatchObject({
      code: 'ERR_MESSAGE_TOO_LARGE',
    })
    await expect(b.offer('a b', SDP)).rejects.toMatchObject({
      code: 'ERR_CONFIG',
      message: expect.stringContaining('to:'),
    })
    const over = Promise.all(Array.from({ length: 65 }, () => b.candidate('a', { candidate: CANDIDATE })))
    await expect(over).rejects.toMatchObject({ code: 'ERR_RATE_LIMITED', signalingCode: -32011 })
    expect((await failure({ peerId: 'a' })) instanceof WebRtcError).toBe(true)
  })

  test('a refused connection names the URL and what to check, and no secret', async () => {
    const error = await SignalingClient.connect({ url: 'ws://user:pw@127.0.0.1:9/ws?token=secret' }).catch(
      (e) => e,
    )
    expect(error).toMatchObject({ code: 'ERR_SIGNALING' })
    expect(error.message).toContain('ws://127.0.0.1:9/ws: connect ECONNREFUSED')
    expect(error.message).toContain('check host and port')
    expect(error.message).not.toMatch(/secret|pw/)
  })

  test('a server that is none, that never answers, or that refuses', async () => {
    const web = createServer((_, response) => response.writeHead(404).end()).listen(0, '127.0.0.1')
    const mute = createTcpServer(() => {}).listen(0, '127.0.0.1')
    await Promise.all([once(web, 'listening'), once(mute, 'listening')])
    ended.push(
      () => web.close(),
      () => mute.close(),
    )
    const url = (server: Server) => `ws://127.0.0.1:${(server.address() as AddressInfo).port}`
    await expect(connect({ url: url(web) })).rejects.toMatchObject({
      code: 'ERR_SIGNALING',
      message: expect.stringContaining('404'),
    })
    await expect(connect({ url: url(mute), timeoutMs: 50 })).rejects.toMatchObject({
      code: 'ERR_SIGNALING',
      message: expect.stringContaining('within 50 ms'),
    })
    const full = await servers.listen({ limits: { maxConnections: 1, addressConnectionBurst: 1 } })
    await connect({ url: full.url })
    await expect(connect({ url: full.url })).rejects.toMatchObject({
      code: 'ERR_SIGNALING',
      message: expect.stringContaining('503'),
    })
  })

  test('an abort ends connect at once, and is not listened to afterwards', async () => {
    const mute = createTcpServer(() => {}).listen(0, '127.0.0.1')
    await once(mute, 'listening')
    ended.push(() => mute.close())
    const abort = new AbortController()
    const url = `ws://127.0.0.1:${(mute.address() as AddressInfo).port}`
    const connecting = connect({ url, signal: abort.signal })
    abort.abort(new Error('changed my mind'))
    await expect(connecting).rejects.toMatchObject({
      code: 'ERR_ABORTED',
      cause: { message: 'changed my mind' },
    })
    await expect(connect({ url, signal: abort.signal })).rejects.toMatchObject({ code: 'ERR_ABORTED' })
    const later = new AbortController()
    const client = await connect({ url: (await servers.listen()).url, signal: later.signal })
    later.abort()
    expect((await client.info()).name).toBe('remotemedia-webrtc')
  })

  test('bad options are ERR_CONFIG by name', async () => {
    const cycle: { self?: unknown } = {}
    cycle.self = cycle
    for (const [options, field] of [
      [{}, 'url'],
      [{ url: 'http://x' }, 'url'],
      [{ url: 'nonsense' }, 'url'],
      [{ peerId: 'a b' }, 'peerId'],
      [{ room: '' }, 'room'],
      [{ capabilities: 'audio' }, 'capabilities'],
      [{ userData: 'x'.repeat(5_000) }, 'userData'],
      [{ userData: cycle }, 'userData'],
      [{ token: 5 }, 'token'],
      [{ allowPeers: ['a b'] }, 'allowPeers'],
      [{ timeoutMs: 0 }, 'timeoutMs'],
      [{ signal: {} }, 'signal'],
      [{ reconnect: { maxDelay: 1 } }, 'reconnect.maxDelay'],
      [{ reconnect: { enabled: 'yes' } }, 'reconnect.enabled'],
      [{ peerID: 'a' }, 'peerID'],
    ] as const) {
      const given = { ...(field === 'url' ? {} : { url: 'ws://127.0.0.1:9' }), ...options }
      await expect(connect(given as never)).rejects.toMatchObject({
        code: 'ERR_CONFIG',
        message: expect.stringContaining(field),
      })
    }
  })

  test('requests have a bound in number and in time', async () => {
    const server = await servers.listen({ limits: { hostedAnswerTimeoutMs: 5_000 } })
    server.host('slow', { offer: () => new Promise<string>(() => {}) })
    const client = await connect({ url: server.url, maxInFlight: 2, requestTimeoutMs: 60 })
    const late = client.offer('slow', SDP)
    const info = client.info()
    await expect(client.info()).rejects.toMatchObject({ code: 'ERR_RATE_LIMITED' })
    await info
    await expect(late).rejects.toMatchObject({
      code: 'ERR_SIGNALING',
      peerId: 'slow',
      message: expect.stringContaining('60 ms'),
    })
  })
})

describe('a hostile or confused server', () => {
  test('is complained about, and harms nobody', async () => {
    const wss = new WebSocketServer({ port: 0, host: '127.0.0.1' })
    await once(wss, 'listening')
    ended.push(() => wss.close())
    wss.on('connection', (ws) => {
      ws.once('message', (data) => {
        const { id } = JSON.parse(String(data))
        const peers = [{ peer_id: 'ok' }, { peer_id: 5 }, null, { peer_id: '__proto__' }]
        ws.send(JSON.stringify({ jsonrpc: '2.0', id, result: { peers } }))
        ws.send('{')
        ws.send('['.repeat(10_000))
        ws.send(Buffer.from([1, 2, 3]))
        ws.send(JSON.stringify({ jsonrpc: '2.0', id: 77, result: 1 }))
        ws.send(JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'peer.offer', params: {} }))
        ws.send(JSON.stringify({ jsonrpc: '2.0', method: 'peer.offer', params: { from: 'b' } }))
        ws.send(
          JSON.stringify({
            jsonrpc: '2.0',
            method: 'peer.state_change',
            params: { peer_id: 'b', connection_state: 'x' },
          }),
        )
        ws.send(JSON.stringify({ jsonrpc: '2.0', method: 'of.the.future', params: {} }))
        ws.send(JSON.stringify({ jsonrpc: '2.0', id: null, error: { code: -32700, message: 'what?' } }))
        ws.send(JSON.stringify({ jsonrpc: '2.0', method: 'peer.left', params: { peer_id: 'gone' } }))
      })
    })
    const client = await connect({ url: `ws://127.0.0.1:${(wss.address() as AddressInfo).port}` })
    const errors: WebRtcError[] = []
    client.on('error', (error) => errors.push(error))
    await next(client, 'left')
    expect(client.peers.map((p) => p.peerId)).toEqual(['ok'])
    expect(errors.map((e) => e.code)).toEqual(Array(7).fill('ERR_SIGNALING'))
    wss.clients.forEach((ws) => {
      ws.terminate()
    })
  })

  test('an error nobody listens to is a warning, a listener that throws an error', async () => {
    const { url } = await servers.listen()
    const a = await connect({ url, peerId: 'a' })
    const warnings = jest.spyOn(process, 'emitWarning').mockImplementation(() => {})
    a.on('joined', () => {
      throw new Error('oops')
    })
    const joined = next(a, 'joined')
    await connect({ url, peerId: 'b' })
    await joined
    expect(String(warnings.mock.calls[0]?.[0])).toContain('oops')
    const error = next(a, 'error')
    await connect({ url, peerId: 'c' })
    expect((await error).message).toContain("a listener of 'joined' threw")
  })
})

describe('reconnecting', () => {
  const quick = { initialDelayMs: 10, maxDelayMs: 40 }

  test('a cut connection is resumed with its token: the others never saw it leave', async () => {
    const server = await servers.listen()
    const proxy = await TcpProxy.to(server.port)
    const a = await connect({ url: proxy.url, peerId: 'a', reconnect: quick })
    const b = await connect({ url: server.url, peerId: 'b' })
    const seen: string[] = []
    for (const name of ['joined', 'left'] as const) b.on(name, ({ peerId }) => seen.push(`${name} ${peerId}`))
    const again = next(a, 'reconnected')
    const delays: number[] = []
    a.on('reconnecting', ({ delayMs }) => delays.push(delayMs))
    // The server doesn't learn of it, as when a cable is pulled.
    proxy.cutClientSide()
    expect(await again).toEqual({ peers: [{ peerId: 'b', capabilities: [], userData: null }], resumed: true })
    expect(delays.every((d) => d >= 5 && d <= 10)).toBe(true)
    const offer = next(a, 'offer')
    await b.offer('a', SDP)
    expect((await offer).from).toBe('b')
    expect(seen).toEqual([])
    proxy.close()
  })

  test('a server that was away is found again; calls meanwhile fail', async () => {
    const first = await servers.listen()
    const a = await connect({ url: first.url, peerId: 'a', reconnect: quick })
    const waiting = next(a, 'reconnecting')
    const { port } = first
    await first.close()
    const { attempt, error } = await waiting
    expect(attempt).toBe(1)
    expect(error.message).toContain('1001')
    expect(a.state).toBe('reconnecting')
    await expect(a.offer('b', SDP)).rejects.toMatchObject({ code: 'ERR_SIGNALING', peerId: 'b' })
    const again = next(a, 'reconnected')
    await servers.listen({ port })
    expect(await again).toEqual({ peers: [], resumed: false })
    expect(a.state).toBe('connected')
    expect((await a.list()).map((p) => p.peerId)).toEqual(['a'])
  })

  test('requests under way when the connection is lost are rejected', async () => {
    const server = await servers.listen()
    server.host('slow', { offer: () => new Promise<string>(() => {}) })
    const a = await connect({ url: server.url, reconnect: quick })
    const refused = expect(a.offer('slow', SDP)).rejects.toMatchObject({
      code: 'ERR_SIGNALING',
      peerId: 'slow',
    })
    // Its turn comes after the offer's.
    await a.info()
    await server.close()
    await refused
  })

  test('it gives up after maxAttempts, when refused for good, and when another took its place', async () => {
    jest.spyOn(process, 'emitWarning').mockImplementation(() => {})
    const first = await servers.listen()
    const a = await connect({ url: first.url, reconnect: { ...quick, maxAttempts: 2 } })
    const b = await connect({ url: first.url, reconnect: { enabled: false } })
    const closings = Promise.all([next(a, 'close'), next(b, 'close')])
    await first.close()
    const [closeA, closeB] = await closings
    expect(closeA.error?.message).toContain('ECONNREFUSED')
    expect(closeB).toMatchObject({ code: 1001, reason: 'server is closing' })
    expect(a.state).toBe('closed')
    await expect(a.list()).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    let open = true
    const second = await servers.listen({ authorize: () => open })
    const c = await connect({ url: second.url, peerId: 'c', reconnect: quick })
    const closeC = next(c, 'close')
    const thief = await connect({
      url: second.url,
      peerId: 'c',
      resumeToken: c.resumeToken,
      reconnect: quick,
    })
    expect(await closeC).toMatchObject({ code: 4001 })
    open = false
    const closeThief = next(thief, 'close')
    const { port } = second
    await second.close()
    await servers.listen({ port, authorize: () => open })
    expect((await closeThief).error?.code).toBe('ERR_UNAUTHORIZED')
  })

  test('a server that went silent is left for a new connection', async () => {
    const server = await servers.listen()
    const proxy = await TcpProxy.to(server.port)
    const a = await connect({ url: proxy.url, peerId: 'a', heartbeatIntervalMs: 30, reconnect: quick })
    const again = next(a, 'reconnected')
    proxy.freeze()
    expect((await again).resumed).toBe(true)
    proxy.close()
  })

  test('probe() finds a dead connection within 1.5 s and makes a new one at once', async () => {
    const server = await servers.listen()
    const proxy = await TcpProxy.to(server.port)
    const a = await connect({ url: proxy.url, peerId: 'a' })
    const b = await connect({ url: server.url, peerId: 'b' })
    const told: string[] = []
    for (const name of ['joined', 'left'] as const) b.on(name, ({ peerId }) => told.push(`${name} ${peerId}`))
    proxy.freeze()
    const trying = next(a, 'reconnecting')
    const again = next(a, 'reconnected')
    const started = performance.now()
    a.probe()
    const { attempt, delayMs, error } = await trying
    expect({ attempt, delayMs }).toEqual({ attempt: 1, delayMs: 0 })
    expect(error.message).toContain('fell silent')
    expect((await again).resumed).toBe(true)
    const took = performance.now() - started
    expect(took).toBeGreaterThan(1_490)
    expect(took).toBeLessThan(2_500)
    await b.info()
    expect(told).toEqual([])
    proxy.close()
  })

  test('probe() does not harm a connection that lives, even after this process was stalled', async () => {
    const a = await connect({ url: (await servers.listen()).url })
    const lost: unknown[] = []
    a.on('reconnecting', (event) => lost.push(event))
    a.probe()
    const until = performance.now() + 2_000
    // The server is of this process too: its pong is not even sent when the deadline has passed.
    while (performance.now() < until);
    await a.info()
    await new Promise((resolve) => setTimeout(resolve, 800))
    expect(lost).toEqual([])
    expect(a.state).toBe('connected')
  })

  test('probe() while waiting for the next try tries now, but not in a loop', async () => {
    const first = await servers.listen()
    const a = await connect({ url: first.url, reconnect: { initialDelayMs: 60_000, maxDelayMs: 60_000 } })
    const waiting = next(a, 'reconnecting')
    const { port } = first
    await first.close()
    expect((await waiting).delayMs).toBeGreaterThanOrEqual(29_000)
    const attempts: number[] = []
    a.on('reconnecting', ({ attempt }) => attempts.push(attempt))
    const hurried = next(a, 'reconnecting')
    for (let i = 0; i < 100; i++) a.probe()
    await hurried
    expect(attempts).toEqual([2])
    const again = next(a, 'reconnected')
    await servers.listen({ port })
    const started = performance.now()
    for (let i = 0; i < 100; i++) a.probe()
    await again
    expect(performance.now() - started).toBeLessThan(2_000)
  })

  test('a try that hangs is given up after 2.5 s, and the delay counts from its beginning', async () => {
    const first = await servers.listen()
    const a = await connect({ url: first.url, reconnect: { initialDelayMs: 2_000, maxDelayMs: 2_000 } })
    const { port } = first
    await first.close()
    // Takes the connection and never says a word, like a server that hangs.
    const mute = createTcpServer((socket) => socket.on('error', () => {})).listen(port, '127.0.0.1')
    const sockets: Socket[] = []
    mute.on('connection', (socket) => sockets.push(socket))
    ended.push(() => {
      for (const socket of sockets) socket.destroy()
      mute.close()
    })
    const tries: { attempt: number; delayMs: number; at: number }[] = []
    a.on('reconnecting', ({ attempt, delayMs }) => tries.push({ attempt, delayMs, at: performance.now() }))
    await once(mute, 'connection')
    const started = performance.now()
    await next(a, 'reconnecting')
    expect(performance.now() - started).toBeGreaterThan(2_400)
    expect(performance.now() - started).toBeLessThan(3_500)
    expect(tries.at(-1)?.delayMs).toBe(0)
  })

  test('an announce whose answer was lost is taken over by the next one', async () => {
    const server = await servers.listen()
    const upstream = server.url
    // Hands everything to the server; its first answer after `cut` is never delivered, and the server does not learn of that.
    const wss = new WebSocketServer({ port: 0, host: '127.0.0.1' })
    await once(wss, 'listening')
    let cut = false
    const lines: WebSocket[] = []
    wss.on('connection', (client) => {
      const line = new WebSocket(upstream)
      lines.push(line)
      const lose = cut
      cut = false
      client.on('message', async (data) => {
        if (line.readyState === WebSocket.CONNECTING) await once(line, 'open')
        line.send(String(data))
      })
      line.on('message', (data) => {
        if (lose) client.terminate()
        else client.send(String(data))
      })
    })
    ended.push(() => {
      for (const line of lines) line.terminate()
      for (const client of wss.clients) client.terminate()
      wss.close()
    })
    const url = `ws://127.0.0.1:${(wss.address() as AddressInfo).port}`
    const a = await connect({ url, peerId: 'a', reconnect: quick })
    // A new server does not know the token; its answer to the announce is lost, with the token it gives.
    await new Promise<void>((resolve) => {
      lines[0]?.once('close', () => resolve())
      lines[0]?.close()
    })
    cut = true
    const again = next(a, 'reconnected')
    for (const client of wss.clients) client.terminate()
    expect((await again).resumed).toBe(true)
    expect(server.peers().map((p) => p.peerId)).toEqual(['a'])
  })

  test('an id that somebody else has meanwhile is told once as an error, and asked for until it is free', async () => {
    const server = await servers.listen()
    const proxy = await TcpProxy.to(server.port)
    const a = await connect({
      url: proxy.url,
      peerId: 'a',
      reconnect: { initialDelayMs: 400, maxDelayMs: 400 },
    })
    const errors: WebRtcError[] = []
    a.on('error', (error) => errors.push(error))
    const tries: number[] = []
    a.on('reconnecting', ({ attempt }) => tries.push(attempt))
    const lost = next(a, 'reconnecting')
    proxy.cut()
    await lost
    const thief = await connect({ url: server.url, peerId: 'a' })
    while (tries.length < 4) await next(a, 'reconnecting')
    expect(errors.map((e) => [e.code, e.signalingCode])).toEqual([['ERR_SIGNALING', -32012]])
    expect(errors[0]?.message).toContain('resumeToken')
    const again = next(a, 'reconnected')
    await thief.close()
    await again
    expect(server.peers().map((p) => p.peerId)).toEqual(['a'])
    proxy.close()
  })
})

describe('closing', () => {
  test('is idempotent, ends calls with ERR_CLOSED, and tells the others', async () => {
    const server = await servers.listen()
    server.host('slow', { offer: () => new Promise<string>(() => {}) })
    const a = await connect({ url: server.url, peerId: 'a' })
    const b = await connect({ url: server.url, peerId: 'b' })
    const left = next(a, 'left')
    const closes: unknown[] = []
    b.on('close', (event) => closes.push(event))
    const offer = b.offer('slow', SDP)
    const closing = b.close()
    expect(b.close()).toBe(closing)
    await expect(offer).rejects.toMatchObject({ code: 'ERR_CLOSED', peerId: 'slow' })
    await closing
    expect(closes).toEqual([{ code: 1000, reason: '' }])
    expect((await left).peerId).toBe('b')
    await expect(b.offer('a', SDP)).rejects.toMatchObject({ code: 'ERR_CLOSED' })
    await b.disconnect()
  })

  test('while reconnecting, and against a server that does not say goodbye', async () => {
    const server = await servers.listen()
    const a = await connect({ url: server.url, reconnect: { initialDelayMs: 60_000 } })
    const waiting = next(a, 'reconnecting')
    await server.close()
    await waiting
    await a.close()
    const other = await servers.listen()
    const proxy = await TcpProxy.to(other.port)
    const b = await connect({ url: proxy.url })
    proxy.freeze()
    const started = performance.now()
    await b.close()
    expect(performance.now() - started).toBeLessThan(1_500)
    proxy.close()
  })
})

/** A TCP relay whose lines can be cut or frozen. */
class TcpProxy {
  readonly url: string
  readonly #server: Server
  readonly #pairs: { client: Socket; upstream: Socket }[]

  static async to(port: number): Promise<TcpProxy> {
    const pairs: { client: Socket; upstream: Socket }[] = []
    const server = createTcpServer((client) => {
      const upstream = new (client.constructor as typeof Socket)()
      upstream.connect(port, '127.0.0.1')
      for (const socket of [client, upstream]) socket.on('error', () => {})
      client.pipe(upstream, { end: false }).pipe(client, { end: false })
      pairs.push({ client, upstream })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new TcpProxy(server, pairs)
  }

  constructor(server: Server, pairs: { client: Socket; upstream: Socket }[]) {
    this.#server = server
    this.#pairs = pairs
    this.url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  /** Ends the client's connections; the server's stay. */
  cutClientSide(): void {
    for (const { client } of this.#pairs) client.resetAndDestroy()
  }

  /** Ends the lines there are, for both sides. */
  cut(): void {
    for (const { client, upstream } of this.#pairs.splice(0)) {
      client.resetAndDestroy()
      upstream.resetAndDestroy()
    }
  }

  /** Lets nothing more through on the lines there are. */
  freeze(): void {
    for (const { client, upstream } of this.#pairs) {
      client.unpipe(upstream)
      upstream.unpipe(client)
      client.pause()
      upstream.pause()
    }
  }

  close(): void {
    for (const { client, upstream } of this.#pairs) {
      client.destroy()
      upstream.destroy()
    }
    this.#server.close()
  }
}
