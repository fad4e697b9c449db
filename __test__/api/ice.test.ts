import { WebRtcError } from '@remotemedia/webrtc'
import { resolveConfig } from '../../src-ts/config.js'
import { refreshAfter, stunServers, TurnServerSource, turnServers } from '../../src-ts/ice.js'

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
