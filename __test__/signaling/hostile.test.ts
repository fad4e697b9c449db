import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import type { SignalingServer } from '../../src-ts/signaling/server.js'
import { CANDIDATE, type Message, RawPeer, SDP, Servers } from './support.js'

const servers = new Servers()
afterEach(() => servers.closeAll())

/** An honest pair that must not notice anything. */
const honestPair = async (server: SignalingServer) => {
  const a = await RawPeer.announced(server.url, 'honest-a')
  const b = await RawPeer.announced(server.url, 'honest-b')
  await a.next('peer.joined')
  return async () => {
    expect((await a.request('peer.offer', { to: 'honest-b', sdp: SDP })).result).toEqual({ success: true })
    expect((await b.next('peer.offer')).params).toEqual({ from: 'honest-a', to: 'honest-b', sdp: SDP })
  }
}

test('broken messages are answered each with its error; the connection goes on', async () => {
  const server = await servers.listen()
  const stillWell = await honestPair(server)
  const peer = await RawPeer.announced(server.url, 'hostile')
  const deep = '['.repeat(30_000) + ']'.repeat(30_000)
  for (const [text, code] of [
    ['{', -32700],
    ['\u0000', -32700],
    [deep, -32600],
    [`{"jsonrpc":"2.0","id":1,"method":"x","params":${deep}}`, -32600],
    ['{"a":'.repeat(10_000), -32600],
    ['[{"jsonrpc":"2.0","id":1,"method":"server.info"}]', -32600],
    ['[]', -32600],
    ['"peer.announce"', -32600],
    ['{"jsonrpc":"2.0","id":[1],"method":"server.info"}', -32600],
    [`{"jsonrpc":"2.0","id":"${'i'.repeat(300)}","method":"server.info"}`, -32600],
    ['{"__proto__":{"method":"server.info","id":1,"jsonrpc":"2.0"}}', -32600],
  ] as const) {
    peer.sendText(text)
    expect((await peer.nextError()).error.code).toBe(code)
  }
  for (const method of ['__proto__', 'constructor', 'toString', 'peer.joined', '']) {
    expect((await peer.request(method, {})).error.code).toBe(-32601)
  }
  for (const to of [
    '__proto__',
    'constructor',
    'hasOwnProperty',
    { a: 1 },
    ['honest-a'],
    5,
    null,
    'x'.repeat(1000),
  ]) {
    const { error } = await peer.request('peer.offer', { to, sdp: SDP })
    expect([-32602, -32000]).toContain(error.code)
  }
  // An answer to nothing is not answered, or two programs could answer each other for ever.
  peer.send({ jsonrpc: '2.0', id: 99, result: {} })
  peer.send({ jsonrpc: '2.0', id: 99, error: { code: 1, message: 'x' } })
  await peer.settled()
  expect(peer.answers).toEqual([])
  expect(server.stats().dropped).toEqual({ '-32600': 2 })
  await stillWell()
})

test('prototype pollution keys stay data, in a relayed message too, and are refused in user_data', async () => {
  const server = await servers.listen()
  const a = await RawPeer.announced(server.url, 'a')
  const b = await RawPeer.open(server.url)
  const announce = (userData: string) =>
    b.sendText(
      `{"jsonrpc":"2.0","id":null,"method":"peer.announce","params":{"peer_id":"b","capabilities":[],"user_data":${userData}}}`,
    )
  announce('{"x":{"__proto__":{"admin":true}}}')
  expect((await b.nextError()).error).toMatchObject({
    code: -32602,
    message: expect.stringContaining('user_data'),
  })
  announce('{"constructor":{"prototype":{"admin":true}}}')
  expect((await b.nextError()).result.success).toBe(true)
  b.sendText(
    `{"jsonrpc":"2.0","id":null,"method":"peer.offer","params":{"to":"a","sdp":${JSON.stringify(SDP)},"__proto__":{"from":"a","admin":true}}}`,
  )
  expect((await a.next('peer.offer')).params.from).toBe('b')
  expect(({} as Message).admin).toBeUndefined()
})

test('10,000 candidates cost little, are counted, and disturb nobody', async () => {
  const server = await servers.listen()
  const stillWell = await honestPair(server)
  const peer = await RawPeer.announced(server.url, 'hostile')
  const started = performance.now()
  for (let i = 0; i < 5_000; i++) peer.notify('peer.ice_candidate', { to: 'honest-a', candidate: CANDIDATE })
  const answers = []
  for (let i = 0; i < 5_000; i++)
    answers.push(peer.request('peer.ice_candidate', { to: 'honest-a', candidate: CANDIDATE }))
  const codes = (await Promise.all(answers)).map((m) => m.error.code)
  expect(new Set(codes)).toEqual(new Set([-32011]))
  expect(performance.now() - started).toBeLessThan(5_000)
  const { relayed, dropped, errors } = server.stats()
  expect(relayed).toBe(64)
  expect(dropped['-32011']).toBe(5_000 - 64)
  expect(errors['-32011']).toBe(5_000)
  await stillWell()
})

test('a flood is rate limited, then ended with 1008; another connection has its own allowance', async () => {
  const limits = { messageBurst: 20, messagesPerSecond: 1, maxRateViolations: 50 }
  const server = await servers.listen({ limits })
  const peer = await RawPeer.announced(server.url, 'hostile')
  const other = await RawPeer.announced(server.url, 'other')
  const answers: Promise<Message>[] = []
  for (let i = 0; i < 200; i++) answers.push(peer.request('server.info'))
  const first = await Promise.all(answers.slice(0, 60))
  expect(first.filter((m) => m.result)).toHaveLength(19)
  expect(first.filter((m) => m.error?.code === -32011)).toHaveLength(41)
  expect((await peer.closed).code).toBe(1008)
  expect((await other.next('peer.left')).params).toEqual({ peer_id: 'hostile', reason: 'too many messages' })
  expect((await other.request('server.info')).result).toBeDefined()
  expect(server.stats().closed).toEqual({ flood: 1 })
})

test('the allowance of an address is shared by its connections', async () => {
  const server = await servers.listen({ limits: { addressMessageBurst: 10, addressMessagesPerSecond: 1 } })
  const peers = await Promise.all([RawPeer.open(server.url), RawPeer.open(server.url)])
  const answers = await Promise.all(
    [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1].map((i) => (peers[i] as RawPeer).request('server.info')),
  )
  expect(answers.filter((m) => m.result)).toHaveLength(10)
  expect(answers.filter((m) => m.error?.code === -32011)).toHaveLength(4)
})

test('a flood of pings is limited as messages are', async () => {
  const server = await servers.listen({
    limits: { messageBurst: 20, messagesPerSecond: 1, maxRateViolations: 50 },
  })
  const peer = await RawPeer.announced(server.url, 'hostile')
  let pongs = 0
  peer.ws.on('pong', () => pongs++)
  for (let i = 0; i < 200; i++) peer.ws.ping()
  expect((await peer.closed).code).toBe(1008)
  expect(pongs).toBeLessThanOrEqual(20)
})

test('a message over 64 KiB is −32014, then close 1009; just under passes', async () => {
  const server = await servers.listen()
  const peer = await RawPeer.announced(server.url, 'hostile')
  const message = (bytes: number) => {
    const text = '{"jsonrpc":"2.0","id":null,"method":"server.info","params":{"pad":""}}'
    return text.replace('""', `"${'x'.repeat(bytes - text.length)}"`)
  }
  peer.sendText(message(65_536))
  expect((await peer.nextError()).result.name).toBe('remotemedia-webrtc')
  peer.sendText(message(65_537))
  expect((await peer.nextError()).error).toMatchObject({ code: -32014 })
  expect((await peer.closed).code).toBe(1009)
  const giant = await RawPeer.open(server.url)
  giant.sendText('x'.repeat(16_000_000))
  expect((await giant.closed).code).toBe(1009)
  expect(server.stats().bytesIn).toBeLessThan(70_000)
})

test('binary frames are closed with 1003, invalid UTF-8 with 1007, broken frames with 1002', async () => {
  const server = await servers.listen()
  const stillWell = await honestPair(server)
  const binary = await RawPeer.open(server.url)
  binary.ws.send(Buffer.from('{"jsonrpc":"2.0","id":1,"method":"server.info"}'))
  expect((await binary.closed).code).toBe(1003)
  for (const [frame, code] of [
    [[0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28], 1007],
    [[0x81, 0x02, 0x7b, 0x7d], 1002],
    [[0xf1, 0x80, 0, 0, 0, 0], 1002],
    [[0xc1, 0x80, 0, 0, 0, 0], 1002],
    [[0x80, 0x80, 0, 0, 0, 0], 1002],
  ] as const) {
    const peer = await RawPeer.open(server.url)
    // Under the nose of the library, which would not send this.
    ;(peer.ws as unknown as { _socket: Socket })._socket.write(Buffer.from(frame))
    expect((await peer.closed).code).toBe(code)
  }
  await stillWell()
})

test('a message in thousands of fragments is refused', async () => {
  const server = await servers.listen()
  const peer = await RawPeer.open(server.url)
  for (let i = 0; i < 2_000; i++) peer.ws.send(' ', { fin: false })
  expect((await peer.closed).code).toBe(1008)
})

test('a reader too slow for its queue is closed and counted; the others get everything', async () => {
  const server = await servers.listen({
    limits: { maxSendQueueBytes: 262_144, messageBurst: 10_000, closeTimeoutMs: 100 },
  })
  const a = await RawPeer.announced(server.url, 'a')
  const slow = await RawPeer.announced(server.url, 'slow')
  const b = await RawPeer.announced(server.url, 'b')
  slow.ws.pause()
  const sdp = `v=0${'x'.repeat(40_000)}`
  let sent = 0
  // The kernel takes a few megabytes before anything waits here.
  for (; sent < 2_000; sent++) {
    if ((await a.request('peer.offer', { to: 'slow', sdp })).error) break
  }
  expect(sent).toBeLessThan(2_000)
  expect((await b.next('peer.left')).params).toEqual({ peer_id: 'slow', reason: 'reads too slowly' })
  expect(server.stats().closed).toEqual({ slowReader: 1 })
  expect((await a.request('peer.offer', { to: 'b', sdp })).result).toEqual({ success: true })
  expect((await b.next('peer.offer')).params.sdp).toBe(sdp)
  slow.ws.terminate()
})

test('requests that are no WebSocket handshake, or never become one, are turned away', async () => {
  const server = await servers.listen({ limits: { announceTimeoutMs: 300 } })
  const talk = async (text: string): Promise<string> => {
    const socket = connect(server.port, '127.0.0.1')
    socket.on('error', () => {})
    let answer = ''
    socket.on('data', (data) => {
      answer += data
    })
    socket.write(text)
    await once(socket, 'close')
    return answer.split('\r\n', 1)[0] ?? ''
  }
  const upgrade = 'GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n'
  expect(await talk('\x16\x03\x01\x02\x00garbage\r\n\r\n')).toBe('HTTP/1.1 400 Bad Request')
  expect(await talk(`${upgrade}\r\n`)).toBe('HTTP/1.1 400 Bad Request')
  expect(await talk(`${upgrade}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n`)).toBe(
    'HTTP/1.1 400 Bad Request',
  )
  expect(await talk(`GET / HTTP/1.1\r\nX: ${'x'.repeat(100_000)}\r\n\r\n`)).toBe(
    'HTTP/1.1 431 Request Header Fields Too Large',
  )
  expect(await talk('GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')).toBe('HTTP/1.1 200 OK')
  // Begins a request and never ends it.
  expect(await talk('GET / HTTP/1.1\r\nHost: x\r\n')).toBe('HTTP/1.1 408 Request Timeout')
  expect(server.stats().connections).toBe(0)
})

test('1,000 random messages out of true ones’ pieces: an answer or nothing, never an end', async () => {
  const seed = Number(process.env.SEED ?? 20_260)
  let state = seed
  const random = (n: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * n)
  }
  const pick = <T>(values: readonly T[]): T => values[random(values.length)] as T
  const value = (depth = 0): Message => {
    if (depth > 4) return null
    const simple = [null, true, 0, -1, 1e308, '', 'a', 'honest-a', '__proto__', SDP, CANDIDATE, [], {}]
    return pick([...simple, [value(depth + 1)], { [pick(['a', 'to', 'peer_id'])]: value(depth + 1) }])
  }
  const keys = [
    'from',
    'to',
    'sdp',
    'candidate',
    'peer_id',
    'room',
    'capabilities',
    'user_data',
    'reason',
    'resume_token',
  ]
  const methods = [
    'peer.announce',
    'peer.offer',
    'peer.answer',
    'peer.ice_candidate',
    'peer.disconnect',
    'peer.list',
    'x',
  ]
  const server = await servers.listen({ limits: { messageBurst: 5_000 } })
  const stillWell = await honestPair(server)
  const peer = await RawPeer.announced(server.url, 'hostile')
  for (let i = 0; i < 1_000; i++) {
    const params = Object.fromEntries(Array.from({ length: random(5) }, () => [pick(keys), value()]))
    const message = {
      jsonrpc: pick(['2.0', '2.0', '2.0', 2]),
      id: value(),
      method: pick([...methods, value()]),
      params: pick([params, params, value()]),
    }
    let text = JSON.stringify(message)
    if (random(4) === 0)
      text =
        text.slice(0, random(text.length)) +
        pick(['', '}', '"', '\\', '[[[']) +
        text.slice(random(text.length))
    peer.sendText(text)
  }
  const { result, error } = await peer.request('server.info')
  if (!result) throw new Error(`seed ${seed}: ${JSON.stringify(error)}`)
  expect(server.stats().errors['-32603']).toBeUndefined()
  await stillWell()
})
