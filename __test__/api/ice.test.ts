import { createSocket } from 'node:dgram'
import { SignalingClient, WebRtcError, type WebRtcTransport } from '@remotemedia/webrtc'
import { resolveConfig } from '../../src-ts/config.js'
import { refreshAfter, stunServers, TurnServerSource, turnServers } from '../../src-ts/ice.js'
import { Lab } from './support.js'

// What stunServers, turnServers and iceTransportPolicy take, and when a turnServers function is called.

const base = { signalingUrl: 'ws://127.0.0.1:1' }
const user = { username: 'u', credential: 'secret-of-u' }

function configError(run: () => unknown): WebRtcError {
  try {
    run()
  } catch (error) {
    expect(error).toBeInstanceOf(WebRtcError)
    expect((error as WebRtcError).code).toBe('ERR_CONFIG')
    return error as WebRtcError
  }
  throw new Error('nothing was thrown')
}

describe('URLs', () => {
  test.each([
    ['stun:stun.example', { host: 'stun.example', port: 3478 }],
    ['STUN:192.0.2.1:19302', { host: '192.0.2.1', port: 19302 }],
    ['stun:[2001:db8::1]:5000', { host: '2001:db8::1', port: 5000 }],
    ['stun:[::1]', { host: '::1', port: 3478 }],
  ])('%s', (url, expected) => {
    expect(stunServers([url])).toEqual([expected])
  })

  test.each([
    ['turn:turn.example', 'udp', 'turn.example', 3478],
    ['turn:turn.example?transport=udp', 'udp', 'turn.example', 3478],
    ['turn:turn.example:443?transport=TCP', 'tcp', 'turn.example', 443],
    ['turns:turn.example', 'tls', 'turn.example', 5349],
    ['turns:[2001:db8::1]:443?transport=tcp', 'tls', '2001:db8::1', 443],
  ])('%s', (urls, protocol, host, port) => {
    expect(turnServers([{ urls, ...user }])).toEqual([{ protocol, host, port, ...user }])
  })

  test('several URLs of a server are a server each, with its credentials', () => {
    const list = turnServers([{ urls: ['turn:a', 'turns:b'], ...user }])
    expect(list.map(({ host, protocol }) => `${protocol} ${host}`)).toEqual(['udp a', 'tls b'])
  })

  test.each([
    ['stun://stun.example'],
    ['stun:'],
    ['stun:a b'],
    ['stun:host:0'],
    ['stun:host:65536'],
    ['stun:192.0.2'],
    ['stun:192.0.2.256'],
    ['stun:[1.2.3.4]'],
    ['stun:2001:db8::1'],
    ['stuns:stun.example'],
    ['stun:host?transport=tcp'],
    ['turn:host'],
    [`stun:${'x'.repeat(254)}`],
    [7],
    [null],
  ])('%j is no STUN server', (url) => {
    expect(configError(() => stunServers([url])).message).toMatch(/^stunServers\[0\]: /)
  })

  test.each([
    ['turn:host?transport=sctp'],
    ['turn:host?transport=udp&x=1'],
    ['turns:host?transport=udp'],
    ['stun:host'],
    ['turn://host'],
    [[]],
    [['turn:good', 'turn:bad:port']],
    [undefined],
  ])('%j is no TURN server', (urls) => {
    expect(configError(() => turnServers([{ urls, ...user }])).message).toMatch(/^turnServers\[0\]\.urls: /)
  })
})

describe('configuration', () => {
  test.each<[object, RegExp]>([
    [{ stunServers: 'stun:host' }, /^stunServers: /],
    [{ stunServers: Array(9).fill('stun:host') }, /^stunServers: .*at most 8/],
    [{ turnServers: {} }, /^turnServers: /],
    [{ turnServers: [{ urls: 'turn:a', ...user, username: '' }] }, /^turnServers\[0\]\.username: "" /],
    [{ turnServers: [{ urls: 'turn:a', username: 'u' }] }, /^turnServers\[0\]\.credential: /],
    [
      { turnServers: [{ urls: 'turn:a', ...user, password: 'x' }] },
      /turnServers\[0\]\.password: unknown key/,
    ],
    [{ turnServers: Array(9).fill({ urls: 'turn:a', ...user }) }, /^turnServers: .*at most 8/],
    [{ iceTransportPolicy: 'public' }, /^iceTransportPolicy: "public" .*all, relay/],
    [{ iceTransportPolicy: 'relay' }, /^iceTransportPolicy: 'relay' needs turnServers/],
    [{ iceTransportPolicy: 'relay', stunServers: ['stun:a'], turnServers: [] }, /needs turnServers/],
    [{ reconnect: { graceMs: 999 } }, /^reconnect\.graceMs: 999 .*1000 to 3600000/],
    [{ reconnect: { graceMs: 1.5e6 + 0.5 } }, /^reconnect\.graceMs: /],
  ])('%j is refused by name', (config, message) => {
    const error = configError(() => resolveConfig({ ...base, ...config }))
    expect(error.message).toMatch(message)
    expect(error.message).not.toContain('secret-of-u')
  })

  test('defaults, and what is handed down', () => {
    const plain = resolveConfig(base).native
    expect(plain).toMatchObject({ stunServers: [], turnServers: [], relayOnly: false, graceMs: 150_000 })
    expect(plain.tlsRoots).toBeUndefined()
    const full = resolveConfig({
      ...base,
      stunServers: ['stun:a:1'],
      turnServers: [{ urls: 'turns:b', ...user }],
      iceTransportPolicy: 'relay',
      reconnect: { graceMs: 30_000 },
    }).native
    expect(full).toMatchObject({ stunServers: [{ host: 'a', port: 1 }], relayOnly: true, graceMs: 30_000 })
    // What a server's certificate is checked against.
    expect(full.tlsRoots?.match(/BEGIN CERTIFICATE/g)?.length).toBeGreaterThan(100)
    const asked = resolveConfig({ ...base, turnServers: () => [], iceTransportPolicy: 'relay' })
    expect(asked.native.turnServers).toBeUndefined()
    expect(asked.turnServersFunction).toBeInstanceOf(Function)
  })
})

describe('a turnServers function', () => {
  beforeEach(() => jest.useFakeTimers({ now: 1_800_000_000_000 }))
  afterEach(() => jest.useRealTimers())

  const server = (username: string) => [{ urls: 'turn:turn.example', username, credential: 'c' }]
  const tick = () => jest.advanceTimersByTimeAsync(0)

  function source(ask: () => never[] | Promise<never[]> | ReturnType<typeof server>) {
    const given: string[] = []
    const errors: WebRtcError[] = []
    const calls = jest.fn(ask)
    const made = new TurnServerSource(
      calls as never,
      (servers) => given.push(servers.map(({ username }) => username).join()),
      (error) => errors.push(error),
    )
    return { made, calls, given, errors }
  }

  test('is called once at a time', async () => {
    let settle: (list: never[]) => void = () => {}
    const { made, calls, given } = source(() => new Promise((resolve) => (settle = resolve)))
    made.refresh()
    made.refresh()
    await tick()
    expect(calls).toHaveBeenCalledTimes(1)
    settle(server('u') as never)
    await tick()
    expect(given).toEqual(['u'])
    made.refresh()
    expect(calls).toHaveBeenCalledTimes(2)
    made.close()
    settle(server('v') as never)
    await tick()
    expect(given).toEqual(['u'])
  })

  test('is called again a minute before its credentials expire', async () => {
    const now = 1_800_000_000
    const users = [`${now + 3600}:ann`, `${now + 7200}:ann`]
    const { made, calls, given } = source(() => server(users[calls.mock.calls.length - 1] ?? 'static'))
    made.refresh()
    await tick()
    await jest.advanceTimersByTimeAsync(3539_000)
    expect(calls).toHaveBeenCalledTimes(1)
    await jest.advanceTimersByTimeAsync(2_000)
    expect(given).toEqual(users)
    // The third never expires.
    await jest.advanceTimersByTimeAsync(86_400_000)
    expect(calls).toHaveBeenCalledTimes(3)
  })

  test('that fails is told, named, and called again with backoff', async () => {
    const { made, calls, given, errors } = source(() => {
      const n = calls.mock.calls.length
      if (n === 1) throw new Error('token service is down')
      if (n === 2) return Promise.reject(new Error('still down'))
      if (n === 3) return [{ urls: 'http://x' }] as never
      return server('u')
    })
    made.refresh()
    await tick()
    await jest.advanceTimersByTimeAsync(60_000)
    expect(errors.map(({ code, message }) => `${code} ${message}`)).toEqual([
      'ERR_ICE_SERVER turnServers(): token service is down',
      'ERR_ICE_SERVER turnServers(): still down',
      expect.stringMatching(/^ERR_ICE_SERVER turnServers\(\): turnServers\(\)\[0\]\.username: /),
    ])
    expect(given).toEqual(['u'])
    expect(calls).toHaveBeenCalledTimes(4)
  })

  test('when to ask again', () => {
    const now = 1_800_000_000_000
    const delay = (...users: string[]) =>
      refreshAfter(
        users.map((u) => turnServers(server(u))[0]!),
        now,
      )
    expect(delay('u')).toBeUndefined()
    expect(delay(`${now / 1000 + 600}:u`)).toBe(540_000)
    expect(delay(`${now / 1000 + 600}:u`, `${now / 1000 + 100}:v`)).toBe(80_000)
    expect(delay(`${now / 1000 + 1}:u`)).toBe(1000)
    expect(delay(`${now / 1000 - 1}:u`)).toBeUndefined()
    expect(delay('99999999999:u')).toBe(2 ** 31 - 1)
  })
})

describe('servers that can not be used', () => {
  let lab: Lab
  beforeAll(async () => {
    lab = await new Lab().open()
  })
  afterAll(() => lab.close())

  /** The next errors of servers; those of before create() returned are among them. */
  function errorsOf(transport: WebRtcTransport, count: number): Promise<WebRtcError[]> {
    const errors: WebRtcError[] = []
    return new Promise((resolve) => {
      transport.on('error', (error) => {
        if (error.code === 'ERR_ICE_SERVER') errors.push(error)
        if (errors.length === count) resolve(errors)
      })
    })
  }

  test('are error events that name them, and no obstacle', async () => {
    const began = performance.now()
    const transport = await lab.join('alone', {
      room: 'servers',
      stunServers: ['stun:no-such-name.invalid'],
      // Nobody listens at the discard port.
      turnServers: [{ urls: 'turn:127.0.0.1:9?transport=tcp', ...user }],
    })
    expect(performance.now() - began).toBeLessThan(5000)
    const messages = (await errorsOf(transport, 2)).map(({ message }) => message).sort()
    expect(messages).toEqual([
      expect.stringMatching(/^stun:no-such-name\.invalid:3478: the name can't be resolved: /),
      expect.stringMatching(/^turn:127\.0\.0\.1:9\?transport=tcp: Connection refused/),
    ])
    const other = await lab.join('other', { room: 'servers' })
    await other.connectPeer('alone')
    await Promise.all([transport.close(), other.close()])
  })

  test('leave connectPeer an answer when only relays are to be used', async () => {
    const transport = await lab.join('relayed', {
      room: 'policy',
      iceTransportPolicy: 'relay',
      turnServers: [{ urls: 'turn:127.0.0.1:9?transport=tcp', ...user }],
    })
    const [told] = await errorsOf(transport, 1)
    const other = await lab.join('direct', { room: 'policy' })
    await expect(transport.connectPeer('direct', { timeoutMs: 500 })).rejects.toMatchObject({
      code: 'ERR_CONNECT_TIMEOUT',
      peerId: 'direct',
      message: expect.stringContaining(
        `iceTransportPolicy is 'relay' and there is no relay: ${told!.message}`,
      ),
    })
    await Promise.all([transport.close(), other.close()])
  })

  test('a function is asked, its failure told, and its servers used', async () => {
    let asked = 0
    const transport = await lab.join('asks', {
      room: 'function',
      turnServers: async () => {
        if (++asked === 1) throw new Error('not today')
        return [{ urls: 'turn:127.0.0.1:9?transport=tcp', ...user }]
      },
    })
    const [first, second] = await errorsOf(transport, 2)
    expect(first!.message).toBe('turnServers(): not today')
    expect(second!.message).toMatch(/^turn:127\.0\.0\.1:9\?transport=tcp: Connection refused/)
    expect(asked).toBe(2)
    await transport.close()
  })

  test('what a STUN server sees is told the peer', async () => {
    // Answers every binding request with an address of its own choice.
    const server = createSocket('udp4')
    await new Promise<void>((resolve) => server.bind(0, '127.0.0.1', resolve))
    server.on('message', (request, { port, address }) => {
      const attribute = Buffer.from([0, 0x20, 0, 8, 0, 1, 0, 0, 203, 0, 113, 7])
      attribute.writeUInt16BE(4242 ^ 0x2112, 6)
      for (let i = 0; i < 4; i++) attribute[8 + i]! ^= request[4 + i]!
      const header = Buffer.from(request.subarray(0, 20))
      header.writeUInt16BE(0x0101, 0)
      header.writeUInt16BE(attribute.length, 2)
      server.send(Buffer.concat([header, attribute]), port, address)
    })
    const told: string[] = []
    const room = 'reflexive'
    const listener = await SignalingClient.connect({ url: lab.server.url, peerId: 'listener', room })
    listener.on('offer', ({ sdp }) => told.push(...sdp.split('\r\n')))
    listener.on('candidate', ({ candidate }) => told.push(candidate))
    const stunUrl = `stun:127.0.0.1:${server.address().port}`
    const transport = await lab.join('seen', { room, stunServers: [stunUrl] })
    await transport.connectPeer('listener', { timeoutMs: 1000 }).catch(() => {})
    expect(told).toContainEqual(
      expect.stringMatching(/ udp \d+ 203\.0\.113\.7 4242 typ srflx raddr 127\.0\.0\.1 rport \d+$/),
    )
    // The end of candidates comes after it.
    expect(told.at(-1)).toBe('')
    await Promise.all([transport.close(), listener.disconnect()])
    server.close()
  })
})
