import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { WEBRTC_ERROR_CODES, WebRtcError } from '../../src-ts/errors.js'
import { LIMIT_NAMES, resolveLimits, SIGNALING_LIMITS } from '../../src-ts/signaling/limits.js'
import {
  isDeeperThan,
  isName,
  parseMessage,
  RPC_ERRORS,
  readAnnounce,
} from '../../src-ts/signaling/protocol.js'
import { AddressTable, addressKey, TokenBucket } from '../../src-ts/signaling/rate.js'

const limits = resolveLimits()
const root = resolve(__dirname, '../..')

describe('parseMessage', () => {
  const codeOf = (text: string) => {
    const parsed = parseMessage(text, 16)
    return parsed.kind === 'invalid' ? [parsed.error.code, parsed.id] : parsed.kind
  }

  test('tells requests, notifications and responses apart', () => {
    expect(parseMessage('{"jsonrpc":"2.0","id":"a","method":"m","params":{"x":1}}', 16)).toEqual({
      kind: 'call',
      id: 'a',
      method: 'm',
      params: { x: 1 },
    })
    expect(parseMessage('{"jsonrpc":"2.0","method":"m"}', 16)).toEqual({
      kind: 'call',
      id: undefined,
      method: 'm',
      params: {},
    })
    expect(codeOf('{"jsonrpc":"2.0","id":1,"result":{}}')).toBe('response')
    expect(codeOf('{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}')).toBe('response')
    expect(parseMessage('{"jsonrpc":"2.0","id":null,"method":"m"}', 16)).toMatchObject({
      kind: 'call',
      id: null,
    })
  })

  test.each([
    ['', -32700, null],
    ['{', -32700, null],
    ['{"jsonrpc":"2.0","method":"m"} x', -32700, null],
    ['[]', -32600, null],
    ['[{"jsonrpc":"2.0","id":1,"method":"m"}]', -32600, null],
    ['null', -32600, null],
    ['42', -32600, null],
    ['{}', -32600, null],
    ['{"id":7,"method":"m"}', -32600, 7],
    ['{"jsonrpc":"1.0","id":7,"method":"m"}', -32600, 7],
    ['{"jsonrpc":"2.0","id":7}', -32600, 7],
    ['{"jsonrpc":"2.0","id":7,"method":5}', -32600, 7],
    ['{"jsonrpc":"2.0","id":{},"method":"m"}', -32600, null],
    ['{"jsonrpc":"2.0","id":true,"method":"m"}', -32600, null],
    ['{"jsonrpc":"2.0","id":7,"method":"m","params":"x"}', -32600, 7],
    ['{"jsonrpc":"2.0","id":7,"method":"m","params":[1]}', -32602, 7],
  ])('refuses %j', (text, code, id) => {
    expect(codeOf(text)).toEqual([code, id])
  })

  test('takes depth 16 and refuses 17, before any value is built', () => {
    const nested = (n: number) =>
      `{"jsonrpc":"2.0","method":"m","params":${'{"a":'.repeat(n)}1${'}'.repeat(n)}}`
    expect(parseMessage(nested(15), 16).kind).toBe('call')
    expect(codeOf(nested(16))).toEqual([-32600, null])
    expect(isDeeperThan('['.repeat(1_000_000), 16)).toBe(true)
    expect(isDeeperThan(`{"a":"${'['.repeat(1000)}\\"${'{'.repeat(1000)}"}`, 16)).toBe(false)
  })

  test('keys of a prototype are plain data', () => {
    const parsed = parseMessage(
      '{"jsonrpc":"2.0","id":1,"method":"m","params":{"__proto__":{"polluted":1}}}',
      16,
    )
    expect(parsed.kind).toBe('call')
    expect(({} as { polluted?: number }).polluted).toBeUndefined()
    expect(codeOf('{"__proto__":{"jsonrpc":"2.0","method":"m"}}')).toEqual([-32600, null])
  })
})

describe('parameters', () => {
  const announce = (params: object) => {
    try {
      return readAnnounce(params as never, limits)
    } catch (error) {
      return (error as { code: number }).code
    }
  }

  test('ids are 1 to 128 characters of a safe alphabet', () => {
    for (const id of ['a', 'peer-abc123', 'A.b_c~d:e@f+g=h/i-0', 'x'.repeat(128), 'constructor'])
      expect(isName(id)).toBe(true)
    for (const id of [
      '',
      'x'.repeat(129),
      'a b',
      'ä',
      'a\n',
      '<b>',
      '"',
      '__proto__',
      5,
      null,
      undefined,
      ['a'],
    ]) {
      expect(isName(id)).toBe(false)
    }
  })

  test('announce takes what it documents, with its bounds', () => {
    expect(announce({ peer_id: 'a' })).toEqual({
      peerId: 'a',
      room: 'default',
      capabilities: [],
      userData: null,
    })
    const most = {
      peer_id: 'a',
      capabilities: Array(32).fill('c'.repeat(64)),
      user_data: 'd'.repeat(4094),
      room: 'r',
    }
    expect(announce(most)).toMatchObject({ room: 'r', userData: 'd'.repeat(4094) })
    expect(announce({ ...most, user_data: 'd'.repeat(4095) })).toBe(RPC_ERRORS.MESSAGE_TOO_LARGE)
    expect(announce({ peer_id: 'a', capabilities: Array(33).fill('c') })).toBe(RPC_ERRORS.INVALID_PARAMS)
    expect(announce({ peer_id: 'a', capabilities: ['c'.repeat(65)] })).toBe(RPC_ERRORS.INVALID_PARAMS)
    expect(announce({ peer_id: 'a', capabilities: 'audio' })).toBe(RPC_ERRORS.INVALID_PARAMS)
    expect(announce({ peer_id: 'a', room: '' })).toBe(RPC_ERRORS.INVALID_PARAMS)
    expect(announce({ peer_id: 'a', room: null, user_data: null, token: null })).toMatchObject({
      room: 'default',
    })
    expect(announce({ peer_id: 'a', token: 5 })).toBe(RPC_ERRORS.INVALID_PARAMS)
    expect(announce({ peer_id: 'a', user_data: { x: [JSON.parse('{"__proto__":1}')] } })).toBe(
      RPC_ERRORS.INVALID_PARAMS,
    )
    expect(announce({})).toBe(RPC_ERRORS.INVALID_PARAMS)
  })
})

describe('limits', () => {
  test('every default is in its range; unknown keys and values out of range are ERR_CONFIG by name', () => {
    for (const name of LIMIT_NAMES) {
      const { default: value, min, max } = SIGNALING_LIMITS[name]
      expect(value).toBeGreaterThanOrEqual(min)
      expect(value).toBeLessThanOrEqual(max)
      for (const bad of [min - 1, max + 1, Number.NaN, '5', null]) {
        expect(() => resolveLimits({ [name]: bad })).toThrow(
          expect.objectContaining({ code: 'ERR_CONFIG', message: expect.stringContaining(`limits.${name}`) }),
        )
      }
    }
    expect(() => resolveLimits({ maxPears: 1 } as never)).toThrow(/limits\.maxPears: unknown key/)
    expect(resolveLimits()).toMatchObject({
      maxMessageBytes: 65_536,
      maxSdpBytes: 49_152,
      maxDepth: 16,
      maxCandidatesPerNegotiation: 64,
      announceTimeoutMs: 5_000,
    })
  })

  test('the documentation has each limit with its default and range', () => {
    const page = readFileSync(resolve(root, 'docs/signaling.md'), 'utf8')
    const source = readFileSync(resolve(root, 'src-ts/signaling/limits.ts'), 'utf8')
    const spaced = (n: number) => String(n).replace(/\B(?=(\d{3})+$)/g, ' ')
    for (const name of LIMIT_NAMES) {
      const { default: value, min, max } = SIGNALING_LIMITS[name]
      const range = `${spaced(min)} to ${spaced(max)}`
      expect(page).toContain(`| \`${name}\` | ${spaced(value)} | ${range} |`)
      const comment = new RegExp(`/\\*\\*([^*]+)\\*/\\s+${name}: number`).exec(source)?.[1]
      expect(comment).toContain(`Default ${spaced(value)}`)
      expect(comment).toContain(`range ${range}`)
    }
  })

  test('the documentation has each error code', () => {
    const errors = readFileSync(resolve(root, 'docs/errors.md'), 'utf8')
    for (const code of WEBRTC_ERROR_CODES) expect(errors).toContain(`| \`${code}\` |`)
    const page = readFileSync(resolve(root, 'docs/signaling.md'), 'utf8')
    for (const code of Object.values(RPC_ERRORS)) expect(page).toContain(`| −${-code} |`)
  })
})

describe('rate limits', () => {
  test('a bucket lets a burst through, then its rate, and a clock that steps back gives nothing', () => {
    const bucket = new TokenBucket(10, 5, 0)
    const taken = (now: number, tries: number) =>
      Array.from({ length: tries }, () => bucket.take(now)).filter(Boolean).length
    expect(taken(0, 100)).toBe(5)
    expect(taken(100, 100)).toBe(1)
    expect(taken(1_100, 100)).toBe(5)
    expect(taken(500, 100)).toBe(0)
    expect(bucket.isFull(10_000)).toBe(true)
  })

  test('addresses: IPv4-mapped as IPv4, IPv6 by /64', () => {
    expect(addressKey('192.0.2.7')).toBe('192.0.2.7')
    expect(addressKey('::ffff:192.0.2.7')).toBe('192.0.2.7')
    expect(addressKey('2001:db8:0:7::1')).toBe(addressKey('2001:db8:0:7:ffff:0:0:2'))
    expect(addressKey('2001:db8:0:7::1')).not.toBe(addressKey('2001:db8:0:8::1'))
    expect(addressKey('fe80::1%eth0')).toBe(addressKey('fe80::2'))
  })

  test('the table of addresses is bounded and forgets idle ones', () => {
    const table = new AddressTable(limits, 100)
    for (let i = 0; i < 10_000; i++) table.get(`10.0.${i >> 8}.${i & 255}`, 0).connects.take(0)
    expect(table.size).toBe(100)
    const busy = table.get('10.1.1.1', 0)
    busy.connections++
    table.sweep(1e9)
    expect(table.size).toBe(1)
    expect(table.get('10.1.1.1', 1e9)).toBe(busy)
  })
})

test('WebRtcError is an Error with code, peer and cause', () => {
  const cause = new Error('below')
  const error = new WebRtcError('ERR_CODEC', 'none in common', { peerId: 'b', cause })
  expect(error).toBeInstanceOf(Error)
  expect(error).toMatchObject({
    name: 'WebRtcError',
    code: 'ERR_CODEC',
    peerId: 'b',
    cause,
    message: 'none in common',
  })
})
