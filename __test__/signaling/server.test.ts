import { once } from 'node:events'
import { createServer, get, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { WebSocket } from 'ws'
import { WebRtcError } from '../../src-ts/errors.js'
import { SignalingServer } from '../../src-ts/signaling/server.js'
import { CANDIDATE, type Message, RawPeer, SDP, Servers } from './support.js'

const servers = new Servers()
afterEach(async () => {
  jest.restoreAllMocks()
  await servers.closeAll()
})

const http = async (url: string): Promise<{ status: number; body: string }> => {
  const [response] = (await once(get(url, { agent: false }), 'response')) as [IncomingMessage]
  let body = ''
  for await (const chunk of response) body += chunk
  return { status: response.statusCode ?? 0, body }
}

/** The HTTP status that an upgrade is answered with; 101 when it succeeds. */
const upgradeStatus = (url: string, options = {}): Promise<number> =>
  new Promise((resolve) => {
    const ws = new WebSocket(url, options)
    ws.on('open', () => {
      ws.close()
      ws.on('close', () => resolve(101))
    })
    ws.on('unexpected-response', (request, response) => {
      request.destroy()
      resolve(response.statusCode ?? 0)
    })
    ws.on('error', () => {})
  })

describe('announce', () => {
  test('answers with who is there; those present are told; a list has everyone', async () => {
    const { url } = await servers.listen()
    const alice = await RawPeer.open(url)
    const first = await alice.request('peer.announce', {
      peer_id: 'alice',
      capabilities: ['audio', 'video', 'data'],
      user_data: { name: 'Alice' },
    })
    expect(first).toEqual({
      jsonrpc: '2.0',
      id: 1,
      result: {
        success: true,
        peer_id: 'alice',
        room: 'default',
        peers_count: 1,
        other_peers: [],
        peers: [],
        resume_token: expect.stringMatching(/^[\w-]{32}$/),
        resumed: false,
      },
    })
    const bob = await RawPeer.announced(url, 'bob')
    const aliceEntry = {
      peer_id: 'alice',
      capabilities: ['audio', 'video', 'data'],
      user_data: { name: 'Alice' },
    }
    const bobEntry = { peer_id: 'bob', capabilities: ['data'], user_data: null }
    expect(bob.me).toMatchObject({ peers_count: 2, other_peers: ['alice'], peers: [aliceEntry] })
    expect(await alice.next('peer.joined')).toEqual({
      jsonrpc: '2.0',
      method: 'peer.joined',
      params: bobEntry,
    })
    for (const method of ['peer.list', 'list_peers']) {
      expect((await bob.request(method)).result.peers).toEqual([aliceEntry, bobEntry])
    }
    expect(bob.inbox).toEqual([])
  })

  test('any path is accepted', async () => {
    const { url } = await servers.listen()
    for (const path of ['', '/', '/ws', '/any/thing?x=1'])
      await (await RawPeer.announced(url + path, 'p')).close()
  })

  test('rooms do not see each other; the same id may be in two', async () => {
    const server = await servers.listen()
    const a = await RawPeer.announced(server.url, 'same', { room: 'one' })
    const b = await RawPeer.announced(server.url, 'same', { room: 'two' })
    const c = await RawPeer.announced(server.url, 'other', { room: 'two' })
    expect([a.me.peers_count, b.me.peers_count, c.me.peers_count]).toEqual([1, 1, 2])
    expect((await b.next('peer.joined')).params.peer_id).toBe('other')
    await a.settled()
    expect(a.inbox).toEqual([])
    expect((await a.request('peer.offer', { to: 'other', sdp: SDP })).error.code).toBe(-32000)
    expect(server.stats()).toMatchObject({ rooms: 2, peers: 3, connections: 3 })
    expect(server.peers('two').map((p) => p.peerId)).toEqual(['same', 'other'])
  })

  test('a taken id is −32012, on this connection too; another id on an announced connection is −32600', async () => {
    const { url } = await servers.listen()
    const a = await RawPeer.announced(url, 'a')
    const b = await RawPeer.open(url)
    const announce = { peer_id: 'a', capabilities: [] }
    expect((await b.request('peer.announce', announce)).error.code).toBe(-32012)
    expect((await b.request('peer.announce', { ...announce, resume_token: 'guess' })).error.code).toBe(-32012)
    expect((await a.request('peer.announce', announce)).error.code).toBe(-32012)
    expect((await a.request('peer.announce', { ...announce, peer_id: 'z' })).error.code).toBe(-32600)
    expect((await b.request('peer.announce', { ...announce, peer_id: 'b' })).result.success).toBe(true)
    expect((await a.next('peer.joined')).params.peer_id).toBe('b')
  })

  test('a resume token replaces the old connection at once: nobody sees a leave or a join', async () => {
    const server = await servers.listen()
    const a = await RawPeer.announced(server.url, 'a')
    const b = await RawPeer.announced(server.url, 'b')
    await a.next('peer.joined')
    // Half-open: it will never answer anything again.
    a.ws.pause()
    const again = await RawPeer.announced(server.url, 'a', {
      resume_token: a.me.resume_token,
      user_data: 'new',
    })
    expect(again.me).toMatchObject({ resumed: true, peers_count: 2, resume_token: a.me.resume_token })
    expect((await b.next('peer.state_change')).params).toEqual({
      peer_id: 'a',
      connection_state: 'connected',
    })
    expect((await b.request('peer.offer', { to: 'a', sdp: SDP })).result).toEqual({ success: true })
    expect((await again.next('peer.offer')).params.from).toBe('b')
    expect((await b.request('peer.list')).result.peers[0]).toMatchObject({ peer_id: 'a', user_data: 'new' })
    a.ws.resume()
    expect((await a.closed).code).toBe(4001)
    expect(b.inbox).toEqual([])
    expect(server.stats()).toMatchObject({ peers: 2, resumed: 1, closed: { replaced: 1 } })
  })

  test('5 s to announce (here 60 ms), then close 1008', async () => {
    const server = await servers.listen({ limits: { announceTimeoutMs: 60 } })
    const silent = await RawPeer.open(server.url)
    const kept = await RawPeer.announced(server.url, 'kept')
    expect((await silent.closed).code).toBe(1008)
    await kept.settled()
    expect(server.stats().closed).toEqual({ announceTimeout: 1 })
  })

  test('nothing but announce and server.info before it', async () => {
    const { url } = await servers.listen()
    const peer = await RawPeer.open(url)
    for (const [method, params] of [
      ['peer.list', {}],
      ['peer.offer', { to: 'a', sdp: SDP }],
      ['peer.disconnect', { peer_id: 'a' }],
    ] as const) {
      expect((await peer.request(method, params)).error).toMatchObject({ code: -32600 })
    }
    expect((await peer.request('server.info')).result).toMatchObject({
      name: 'remotemedia-webrtc',
      peers_count: 0,
      limits: { max_message_bytes: 65_536, max_sdp_bytes: 49_152, max_candidates_per_negotiation: 64 },
    })
  })
})

describe('relay', () => {
  const pair = async (options = {}) => {
    const server = await servers.listen(options)
    const a = await RawPeer.announced(server.url, 'a')
    const b = await RawPeer.announced(server.url, 'b')
    await a.next('peer.joined')
    return { server, a, b }
  }

  test('is answered {success: true} and arrives as a notification with the same params', async () => {
    const { a, b } = await pair()
    for (const [method, params] of [
      ['peer.offer', { from: 'b', to: 'a', sdp: SDP, can_trickle_ice_candidates: true }],
      ['peer.answer', { from: 'b', to: 'a', sdp: SDP }],
      ['peer.ice_candidate', { from: 'b', to: 'a', candidate: CANDIDATE, sdp_mid: '0', sdp_m_line_index: 0 }],
      ['peer.ice_candidate', { from: 'b', to: 'a', candidate: '', sdp_mid: null, sdp_m_line_index: null }],
    ] as const) {
      expect(await b.request(method, params, 'id-7')).toEqual({
        jsonrpc: '2.0',
        id: 'id-7',
        result: { success: true },
      })
      expect(await a.next(method)).toEqual({ jsonrpc: '2.0', method, params })
    }
  })

  test('a missing from is stamped; another’s is −32602, as a notification dropped and counted', async () => {
    const { server, a, b } = await pair()
    await b.request('peer.offer', { to: 'a', sdp: SDP })
    expect((await a.next('peer.offer')).params).toEqual({ from: 'b', to: 'a', sdp: SDP })
    expect((await b.request('peer.offer', { from: 'a', to: 'a', sdp: SDP })).error.code).toBe(-32602)
    expect((await b.request('peer.offer', { from: 'c', to: 'a', sdp: SDP })).error.code).toBe(-32602)
    b.notify('peer.offer', { from: 'c', to: 'a', sdp: SDP })
    b.notify('peer.answer', { to: 'a', sdp: SDP })
    expect((await a.next('peer.answer')).params.from).toBe('b')
    await b.settled()
    expect(a.inbox).toEqual([])
    expect(b.answers).toEqual([])
    expect(server.stats()).toMatchObject({ dropped: { '-32602': 1 }, errors: { '-32602': 2 }, relayed: 2 })
  })

  test('is for its target alone; an absent one is −32000, oneself −32602', async () => {
    const { server, a, b } = await pair()
    const c = await RawPeer.announced(server.url, 'c')
    await Promise.all([a.next('peer.joined'), b.next('peer.joined')])
    await c.request('peer.offer', { to: 'a', sdp: SDP })
    await a.next('peer.offer')
    await b.settled()
    expect(b.inbox).toEqual([])
    expect((await c.request('peer.answer', { to: 'nobody', sdp: SDP })).error.code).toBe(-32000)
    expect((await c.request('peer.offer', { to: 'c', sdp: SDP })).error.code).toBe(-32602)
    await a.close()
    await c.next('peer.left')
    expect((await c.request('peer.ice_candidate', { to: 'a', candidate: CANDIDATE })).error.code).toBe(-32000)
  })

  test('what is no offer, answer or candidate has its own error', async () => {
    const { a, b } = await pair()
    const codeOf = async (method: string, params: object) =>
      (await b.request(method, { to: 'a', ...params })).error.code
    expect(await codeOf('peer.offer', { sdp: 'hello' })).toBe(-32002)
    expect(await codeOf('peer.answer', { sdp: '' })).toBe(-32003)
    expect(await codeOf('peer.ice_candidate', { candidate: 'hello' })).toBe(-32004)
    expect(await codeOf('peer.offer', {})).toBe(-32602)
    expect(await codeOf('peer.offer', { sdp: 5 })).toBe(-32602)
    expect(await codeOf('peer.ice_candidate', {})).toBe(-32602)
    expect(await codeOf('peer.ice_candidate', { candidate: '', sdp_m_line_index: -1 })).toBe(-32602)
    expect(await codeOf('peer.ice_candidate', { candidate: '', sdp_mid: 5 })).toBe(-32602)
    expect(await codeOf('peer.offer', { sdp: `v=0${'x'.repeat(48 * 1024)}` })).toBe(-32014)
    expect(
      (await b.request('peer.offer', { to: 'a', sdp: `v=0${'x'.repeat(48 * 1024 - 3)}` })).result.success,
    ).toBe(true)
    expect(await codeOf('peer.unknown', {})).toBe(-32601)
    await a.next('peer.offer')
    expect(a.inbox).toEqual([])
  })

  test('a peer’s own error reaches who sent the offer, and no candidate count starts again for it', async () => {
    const { server, a, b } = await pair({ limits: { maxCandidatesPerNegotiation: 1 } })
    const refusal = { to: 'b', code: -32001, message: 'no room' }
    expect((await a.request('peer.error', refusal)).result).toEqual({ success: true })
    expect((await b.next('peer.error')).params).toEqual({ ...refusal, from: 'a' })
    await a.request('peer.ice_candidate', { to: 'b', candidate: CANDIDATE })
    await a.request('peer.error', refusal)
    const { error } = await a.request('peer.ice_candidate', { to: 'b', candidate: CANDIDATE })
    expect(error.code).toBe(-32011)
    for (const wrong of [{ code: 'x' }, { code: 1.5 }, { code: undefined }, { message: 'm'.repeat(257) }]) {
      expect((await a.request('peer.error', { ...refusal, ...wrong })).error.code).toBe(-32602)
    }
    expect(server.stats().relayed).toBe(3)
  })

  test('64 candidates a negotiation, then −32011 until a new offer or answer', async () => {
    const { a, b } = await pair()
    const send = async (count: number) => {
      const answers = []
      for (let i = 0; i < count; i++)
        answers.push(b.request('peer.ice_candidate', { to: 'a', candidate: CANDIDATE }))
      return (await Promise.all(answers)).filter((m: Message) => m.result?.success).length
    }
    expect(await send(70)).toBe(64)
    const refused = await b.request('peer.ice_candidate', { to: 'a', candidate: CANDIDATE })
    expect(refused.error.code).toBe(-32011)
    await b.request('peer.offer', { to: 'a', sdp: SDP })
    expect(await send(65)).toBe(64)
    await a.request('peer.answer', { to: 'b', sdp: SDP })
    expect(await send(65)).toBe(64)
    // The other direction has its own count.
    expect((await a.request('peer.ice_candidate', { to: 'b', candidate: CANDIDATE })).result.success).toBe(
      true,
    )
  })

  test('a peer’s own allow and deny lists are enforced by the server: no SDP gets through', async () => {
    const server = await servers.listen()
    const shy = await RawPeer.announced(server.url, 'shy', { deny_peers: ['a'] })
    const strict = await RawPeer.announced(server.url, 'strict', { allow_peers: ['b'] })
    const a = await RawPeer.announced(server.url, 'a')
    const b = await RawPeer.announced(server.url, 'b')
    expect((await a.request('peer.offer', { to: 'shy', sdp: SDP })).error.code).toBe(-32013)
    expect((await a.request('peer.ice_candidate', { to: 'strict', candidate: CANDIDATE })).error.code).toBe(
      -32013,
    )
    expect((await b.request('peer.offer', { to: 'strict', sdp: SDP })).result.success).toBe(true)
    await Promise.all([shy.settled(), strict.next('peer.offer')])
    expect([...shy.inbox, ...strict.inbox].filter((m) => m.method !== 'peer.joined')).toEqual([])
  })
})

describe('leaving', () => {
  test('peer.disconnect is told as peer.disconnected with its reason, then peer.left', async () => {
    const server = await servers.listen()
    const a = await RawPeer.announced(server.url, 'a')
    const b = await RawPeer.announced(server.url, 'b')
    await a.next('peer.joined')
    expect((await b.request('peer.disconnect', { peer_id: 'a' })).error.code).toBe(-32602)
    expect((await b.request('peer.disconnect', { peer_id: 'b', reason: 'lunch' })).result).toEqual({
      success: true,
    })
    await a.next('peer.left').then(() => expect(a.inbox.map((m) => m.method)).toEqual(['peer.disconnected']))
    expect((await a.next('peer.disconnected')).params).toEqual({ peer_id: 'b', reason: 'lunch' })
    // The connection lives, and may announce again.
    expect((await b.request('peer.list')).error.code).toBe(-32600)
    expect((await b.request('peer.announce', { peer_id: 'b2', capabilities: [] })).result.peers_count).toBe(2)
    expect((await a.next('peer.joined')).params.peer_id).toBe('b2')
  })

  test('a closed or cut connection is peer.left, and frees the id and the room', async () => {
    const server = await servers.listen()
    const a = await RawPeer.announced(server.url, 'a')
    const b = await RawPeer.announced(server.url, 'b')
    const c = await RawPeer.announced(server.url, 'c')
    await b.close()
    expect((await a.next('peer.left')).params).toEqual({ peer_id: 'b', reason: 'connection closed' })
    c.ws.terminate()
    expect((await a.next('peer.left')).params.peer_id).toBe('c')
    await (await RawPeer.announced(server.url, 'b')).close()
    await a.close()
    const last = await RawPeer.open(server.url)
    await last.settled()
    expect(server.stats()).toMatchObject({ rooms: 0, peers: 0, connections: 1 })
  })

  test('a silent peer is told as disconnected, then gone; one that stays alive is kept', async () => {
    const { url } = await servers.listen({ limits: { heartbeatIntervalMs: 40 } })
    const a = await RawPeer.announced(url, 'a')
    const b = await RawPeer.announced(url, 'b')
    b.ws.pause()
    expect((await a.next('peer.state_change')).params).toEqual({
      peer_id: 'b',
      connection_state: 'disconnected',
    })
    expect((await a.next('peer.left')).params).toEqual({ peer_id: 'b', reason: 'connection lost' })
    b.ws.terminate()
    await a.settled()
    expect(a.inbox.filter((m) => m.method !== 'peer.joined')).toEqual([])
  })
})

describe('hosted peers', () => {
  const offer = { to: 'remotemedia-server', sdp: SDP }

  test('an offer is answered in the result, as a notification by one; candidates flow both ways', async () => {
    const server = await servers.listen()
    const seen: unknown[] = []
    const hosted = server.host('remotemedia-server', {
      offer: async ({ from, sdp }) => `${sdp}a=for:${from}\r\n`,
      candidate: (candidate) => seen.push(candidate),
      left: ({ peerId, reason }) => seen.push([peerId, reason]),
    })
    const a = await RawPeer.announced(server.url, 'a')
    const answer = { sdp: `${SDP}a=for:a\r\n`, from: 'remotemedia-server', to: 'a' }
    expect((await a.request('peer.offer', offer)).result).toEqual({ type: 'answer', ...answer })
    a.notify('peer.offer', offer)
    expect((await a.next('peer.answer')).params).toEqual(answer)
    const candidate = { to: 'remotemedia-server', candidate: CANDIDATE, sdp_mid: '0' }
    expect((await a.request('peer.ice_candidate', candidate)).result).toEqual({ success: true })
    const to = { peerId: 'a', room: 'default' }
    expect(hosted.send('peer.ice_candidate', to, { candidate: CANDIDATE })).toBe(true)
    expect(hosted.send('peer.ice_candidate', { ...to, peerId: 'nobody' }, { candidate: CANDIDATE })).toBe(
      false,
    )
    expect((await a.next('peer.ice_candidate')).params).toEqual({
      candidate: CANDIDATE,
      from: 'remotemedia-server',
      to: 'a',
    })
    await a.request('peer.disconnect', { peer_id: 'a', reason: 'done' })
    expect(seen).toEqual([
      {
        from: 'a',
        to: 'remotemedia-server',
        room: 'default',
        candidate: CANDIDATE,
        sdpMid: '0',
        sdpMLineIndex: null,
      },
      ['a', 'done'],
    ])
  })

  test('its id is taken; closed, it is gone', async () => {
    const server = await servers.listen()
    const hosted = server.host('host', { offer: () => SDP }, { room: 'r' })
    const a = await RawPeer.open(server.url)
    expect(
      (await a.request('peer.announce', { peer_id: 'host', capabilities: [], room: 'r' })).error.code,
    ).toBe(-32012)
    await a.request('peer.announce', { peer_id: 'host', capabilities: [] })
    const b = await RawPeer.announced(server.url, 'b', { room: 'r' })
    expect((await b.request('peer.offer', { to: 'host', sdp: SDP })).result.type).toBe('answer')
    hosted.close()
    expect((await b.request('peer.offer', { to: 'host', sdp: SDP })).error.code).toBe(-32000)
    expect(() => server.host('bad id', { offer: () => SDP })).toThrow(
      expect.objectContaining({ code: 'ERR_CONFIG' }),
    )
    expect(() => server.host('b', { offer: () => SDP }, { room: 'r' })).toThrow(/peerId/)
  })

  test('failures become the protocol’s errors, one offer a peer at a time, none for ever', async () => {
    const server = await servers.listen({ limits: { hostedAnswerTimeoutMs: 60 } })
    const warned = jest.spyOn(process, 'emitWarning').mockImplementation(() => {})
    server.host('no-codec', { offer: () => Promise.reject(new WebRtcError('ERR_CODEC', 'no common codec')) })
    server.host('broken', {
      offer: () => {
        throw new Error('secret detail')
      },
    })
    const signals: AbortSignal[] = []
    server.host('slow', {
      offer: (_, signal) => {
        signals.push(signal)
        return new Promise<string>(() => {})
      },
    })
    const a = await RawPeer.announced(server.url, 'a')
    expect((await a.request('peer.offer', { to: 'no-codec', sdp: SDP })).error).toEqual({
      code: -32007,
      message: 'no common codec',
    })
    expect((await a.request('peer.offer', { to: 'broken', sdp: SDP })).error).toEqual({
      code: -32603,
      message: 'internal error',
    })
    expect(String(warned.mock.calls[0]?.[0])).toContain('secret detail')
    const late = a.request('peer.offer', { to: 'slow', sdp: SDP })
    expect((await a.request('peer.offer', { to: 'slow', sdp: SDP })).error.code).toBe(-32005)
    expect((await late).error.code).toBe(-32006)
    expect(signals.map((s) => s.aborted)).toEqual([true])
  })
})

describe('who may enter', () => {
  test('authorize sees token and request, and decides; calls sent meanwhile keep their place', async () => {
    const server = await servers.listen({
      authorize: async (announce, request) => {
        await new Promise((resolve) => setImmediate(resolve))
        if (announce.token === 'throw') throw new Error('database password wrong')
        if (announce.token === 'limit') throw new WebRtcError('ERR_RATE_LIMITED', 'later')
        if (announce.token !== 'good') throw new WebRtcError('ERR_UNAUTHORIZED', 'token expired')
        return { metadata: { agent: request.headers['x-agent'] ?? null }, userData: 'vetted' }
      },
    })
    const warned = jest.spyOn(process, 'emitWarning').mockImplementation(() => {})
    const peer = await RawPeer.open(server.url, { headers: { 'x-agent': 'test' } })
    const announce = (token?: string) =>
      peer.request('peer.announce', { peer_id: 'a', capabilities: [], token })
    expect((await announce()).error).toEqual({ code: -32010, message: 'token expired' })
    expect((await announce('limit')).error.code).toBe(-32011)
    expect((await announce('throw')).error).toEqual({ code: -32010, message: 'not authorized' })
    expect(String(warned.mock.calls[0]?.[0])).toContain('database password wrong')
    const [announced, list] = await Promise.all([announce('good'), peer.request('peer.list')])
    expect(announced.result.success).toBe(true)
    expect(list.result.peers).toEqual([{ peer_id: 'a', capabilities: [], user_data: 'vetted' }])
    expect(server.peers()).toEqual([
      { peerId: 'a', room: 'default', capabilities: [], userData: 'vetted', metadata: { agent: 'test' } },
    ])
  })

  test('while authorize thinks, little is read of what a client goes on sending', async () => {
    let allow = () => {}
    const asked = new Promise<void>((tell) => {
      allow = tell
    })
    const server = await servers.listen({
      authorize: () => asked.then(() => true),
      limits: { messageBurst: 5_000 },
    })
    const peer = await RawPeer.open(server.url)
    const announced = peer.request('peer.announce', { peer_id: 'a', capabilities: [] })
    const answers = Array.from({ length: 1_000 }, (_, i) =>
      peer.request('server.info', { pad: 'x'.repeat(10_000) }, `i${i}`),
    )
    const other = await RawPeer.open(server.url)
    for (let i = 0; i < 50; i++) await http(`http://127.0.0.1:${server.port}/healthz`)
    expect(server.stats().bytesIn).toBeLessThan(1_000_000)
    allow()
    expect((await announced).result.success).toBe(true)
    expect((await Promise.all(answers)).filter((a) => a.result)).toHaveLength(1_000)
    await other.close()
  })

  test('two announces of one id, authorized at the same time: one gets it', async () => {
    const { url } = await servers.listen({
      authorize: () => new Promise<undefined>((resolve) => setImmediate(() => resolve(undefined))),
    })
    const peers = await Promise.all([RawPeer.open(url), RawPeer.open(url)])
    const answers = await Promise.all(
      peers.map((p) => p.request('peer.announce', { peer_id: 'a', capabilities: [] })),
    )
    expect(answers.filter((a) => a.result)).toHaveLength(1)
    expect(answers.find((a) => a.error).error.code).toBe(-32012)
  })

  test('allow and deny lists of the server, and its permit hook', async () => {
    const server = await servers.listen({
      allowPeers: ['a', 'b', 'c'],
      denyPeers: ['c'],
      permit: ({ from, to, method }) => !(from === 'a' && to === 'b' && method === 'peer.offer'),
    })
    const x = await RawPeer.open(server.url)
    for (const id of ['c', 'd']) {
      expect((await x.request('peer.announce', { peer_id: id, capabilities: [] })).error.code).toBe(-32013)
    }
    const a = await RawPeer.announced(server.url, 'a')
    const b = await RawPeer.announced(server.url, 'b')
    expect((await a.request('peer.offer', { to: 'b', sdp: SDP })).error.code).toBe(-32013)
    expect((await b.request('peer.offer', { to: 'a', sdp: SDP })).result.success).toBe(true)
  })

  test('origins: listed ones and clients without one may connect', async () => {
    const server = await servers.listen({ allowedOrigins: ['https://app.example'] })
    expect(await upgradeStatus(server.url, { origin: 'https://app.example' })).toBe(101)
    expect(await upgradeStatus(server.url)).toBe(101)
    expect(await upgradeStatus(server.url, { origin: 'https://evil.example' })).toBe(403)
    expect(await upgradeStatus(server.url, { origin: 'null' })).toBe(403)
    expect(server.stats().refused).toEqual({ origin: 2 })
  })

  test('as many connections, rooms and peers as configured', async () => {
    const server = await servers.listen({ limits: { maxConnections: 3, maxRooms: 1, maxPeersPerRoom: 2 } })
    await RawPeer.announced(server.url, 'a')
    await RawPeer.announced(server.url, 'b')
    const c = await RawPeer.open(server.url)
    expect((await c.request('peer.announce', { peer_id: 'c', capabilities: [] })).error.code).toBe(-32001)
    expect((await c.request('peer.announce', { peer_id: 'c', capabilities: [], room: 'x' })).error.code).toBe(
      -32001,
    )
    expect(await upgradeStatus(server.url)).toBe(503)
    await c.close()
    expect(await upgradeStatus(server.url)).toBe(101)
  })

  test('as many connections an address as configured, and no faster', async () => {
    const limits = {
      maxConnectionsPerAddress: 2,
      addressConnectionBurst: 3,
      addressConnectionsPerSecond: 0.01,
    }
    const server = await servers.listen({
      limits,
      clientAddress: (r) => String(r.headers['x-forwarded-for']),
    })
    const from = (address: string) => ({ headers: { 'x-forwarded-for': address } })
    await RawPeer.open(server.url, from('192.0.2.1'))
    const second = await RawPeer.open(server.url, from('192.0.2.1'))
    expect(await upgradeStatus(server.url, from('192.0.2.1'))).toBe(429)
    await second.close()
    expect(await upgradeStatus(server.url, from('192.0.2.1'))).toBe(101)
    expect(await upgradeStatus(server.url, from('192.0.2.1'))).toBe(429)
    expect(await upgradeStatus(server.url, from('192.0.2.2'))).toBe(101)
    expect(server.stats().refused).toEqual({ addressConnections: 1, rate: 1 })
  })
})

describe('HTTP', () => {
  test('/healthz on the same port; anything else is told to upgrade', async () => {
    const server = await servers.listen()
    await RawPeer.announced(server.url, 'a')
    const base = `http://127.0.0.1:${server.port}`
    const health = await http(`${base}/healthz`)
    expect(health.status).toBe(200)
    expect(JSON.parse(health.body)).toEqual({
      status: 'ok',
      uptime: expect.any(Number),
      rooms: 1,
      peers: 1,
      connections: 1,
    })
    expect((await http(`${base}/`)).status).toBe(426)
  })

  test('shares a server that exists already, at one path, and leaves it running', async () => {
    const shared = createServer((request, response) => {
      if (!server.handleRequest(request, response)) response.end('mine')
    })
    const server = await servers.listen({ server: shared, path: '/signaling' })
    const others: string[] = []
    shared.on('upgrade', (request, socket) => {
      if (request.url === '/signaling') return
      others.push(request.url ?? '')
      socket.end('HTTP/1.1 418 Teapot\r\n\r\n')
    })
    shared.listen(0, '127.0.0.1')
    await once(shared, 'listening')
    const { port } = shared.address() as AddressInfo
    expect(server.url).toBe(`ws://127.0.0.1:${port}/signaling`)
    const peer = await RawPeer.announced(server.url, 'a')
    expect(await upgradeStatus(`ws://127.0.0.1:${port}/other`)).toBe(418)
    expect(others).toEqual(['/other'])
    expect((await http(`http://127.0.0.1:${port}/healthz`)).status).toBe(200)
    await server.close()
    expect((await peer.closed).code).toBe(1001)
    expect((await http(`http://127.0.0.1:${port}/`)).body).toBe('mine')
    shared.close()
    await once(shared, 'close')
  })
})

describe('lifecycle', () => {
  test('close says 1001, frees the port, is idempotent and bounded by closeTimeoutMs', async () => {
    const server = await servers.listen({ limits: { closeTimeoutMs: 100 } })
    const { port, url } = server
    const polite = await RawPeer.announced(url, 'a')
    const deaf = await RawPeer.announced(url, 'b')
    deaf.ws.pause()
    // Not even a request, let alone an upgrade.
    const idle = (await import('node:net')).connect(port, '127.0.0.1')
    idle.on('error', () => {})
    await once(idle, 'connect')
    const started = performance.now()
    await Promise.all([server.close(), server.close()])
    expect(performance.now() - started).toBeLessThan(1_000)
    expect(await polite.closed).toEqual({ code: 1001, reason: 'server is closing' })
    deaf.ws.terminate()
    idle.destroy()
    await expect(RawPeer.open(url)).rejects.toThrow(/ECONNREFUSED/)
    const next = await SignalingServer.listen({ port })
    await next.close()
  })

  test('a taken port is ERR_SIGNALING with advice; bad options are ERR_CONFIG by name', async () => {
    const { port } = await servers.listen()
    await expect(SignalingServer.listen({ port })).rejects.toMatchObject({
      code: 'ERR_SIGNALING',
      message: expect.stringContaining(`127.0.0.1:${port}: the port is taken`),
    })
    for (const [options, field] of [
      [{}, 'port'],
      [{ port: -1 }, 'port'],
      [{ port: 1.5 }, 'port'],
      [{ port: '80' }, 'port'],
      [{ port: 0, prot: 1 }, 'prot'],
      [{ port: 0, host: '' }, 'host'],
      [{ port: 0, path: 'ws' }, 'path'],
      [{ port: 0, allowedOrigins: ['app.example'] }, 'allowedOrigins'],
      [{ port: 0, allowedOrigins: 'https://app.example' }, 'allowedOrigins'],
      [{ port: 0, denyPeers: ['a b'] }, 'denyPeers'],
      [{ port: 0, authorize: true }, 'authorize'],
      [{ port: 0, limits: { maxDepth: 0 } }, 'limits.maxDepth'],
    ] as const) {
      await expect(SignalingServer.listen(options as never)).rejects.toMatchObject({
        code: 'ERR_CONFIG',
        message: expect.stringContaining(field),
      })
    }
  })
})
