import { type WebRtcConfig, type WebRtcError, WebRtcTransport } from '@remotemedia/webrtc'
import { SignalingClient } from '../../src-ts/signaling/client.js'
import { RawPeer } from '../signaling/support.js'
import { HostileServer } from './hostile.js'
import { Lab } from './support.js'

// Who may connect is enforced twice: by the signaling server, and here, should the server not do it.

const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

const enter = async (config: WebRtcConfig): Promise<WebRtcTransport> => {
  const transport = await WebRtcTransport.create(config)
  closers.push(() => transport.close())
  return transport
}

const LISTS: [string, Partial<WebRtcConfig>][] = [
  ['denied', { denyPeers: ['mallory'] }],
  ['not among those allowed', { allowPeers: ['bob'] }],
]

describe.each(LISTS)('a peer that is %s', (_, lists) => {
  test('gets −32013 from the server for all it sends, and no SDP, whoever was first', async () => {
    const lab = await new Lab().open()
    closers.push(() => lab.close())
    const early = await RawPeer.announced(lab.server.url, 'mallory')
    closers.push(() => early.close())
    const alice = await lab.join('alice', lists)
    await lab.join('bob')
    await alice.connectPeer('bob')
    const sdp = 'v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n'
    for (const [method, params] of [
      ['peer.offer', { sdp }],
      ['peer.answer', { sdp }],
      ['peer.ice_candidate', { candidate: '' }],
      ['peer.error', { code: -32000 }],
    ] as const) {
      const { error } = await early.request(method, { to: 'alice', ...params })
      expect([method, error.code]).toEqual([method, -32013])
    }
    // Longer than those present wait for a newcomer's offer before they offer themselves.
    await new Promise((resolve) => setTimeout(resolve, 3_500))
    const got = early.inbox.filter(({ params }) => params.from === 'alice')
    expect(got).toEqual([])
    await early.close()
    const mallory = await lab.join('mallory', { autoConnect: false })
    await expect(mallory.connectPeer('alice')).rejects.toMatchObject({
      code: 'ERR_PEER_DENIED',
      peerId: 'alice',
    })
    await expect(alice.connectPeer('mallory')).rejects.toMatchObject({
      code: 'ERR_PEER_DENIED',
      peerId: 'mallory',
    })
    expect(alice.counters.deniedOffers).toBe(0)
    expect(alice.listPeers().find(({ id }) => id === 'mallory')).toMatchObject({ state: 'new', path: null })
  }, 30_000)

  test('gets it from the peer itself where the server relays all the same', async () => {
    const server = await HostileServer.start()
    closers.push(() => server.close())
    const signalingUrl = server.url
    const alice = await enter({ signalingUrl, peerId: 'alice', ...lists })
    const errors: WebRtcError[] = []
    alice.on('error', (error) => errors.push(error))
    const bob = await enter({ signalingUrl, peerId: 'bob' })
    await bob.connectPeer('alice')
    // Its offer is a good one, and it offers as a newcomer does.
    const mallory = await enter({ signalingUrl, peerId: 'mallory' })
    await expect(mallory.connectPeer('alice')).rejects.toMatchObject({ code: 'ERR_PEER_DENIED' })
    await mallory.connectPeer('bob')
    await expect(alice.connectPeer('mallory')).rejects.toMatchObject({ code: 'ERR_PEER_DENIED' })
    await new Promise((resolve) => setTimeout(resolve, 3_500))
    const log = await server.log()
    expect(log.some(({ from, to, sdp }) => from === 'mallory' && to === 'alice' && sdp)).toBe(true)
    const back = log.filter(({ from, to }) => from === 'alice' && to === 'mallory')
    expect(back.length).toBeGreaterThan(0)
    for (const { method, code, sdp, candidate } of back) {
      expect({ method, code, sdp, candidate }).toEqual({
        method: 'peer.error',
        code: -32013,
        sdp: false,
        candidate: false,
      })
    }
    expect(alice.counters.deniedOffers).toBe(back.length)
    expect(errors.map(({ code, peerId }) => `${code} ${peerId}`)).toContain('ERR_PEER_DENIED mallory')
    expect(alice.listPeers().map(({ id, state }) => `${id} ${state}`)).toEqual([
      'bob connected',
      'mallory new',
    ])
  }, 30_000)
})

test('the server’s own lists keep a peer out of the room altogether', async () => {
  const { SignalingServer } = await import('../../src-ts/signaling/server.js')
  const server = await SignalingServer.listen({ port: 0, denyPeers: ['mallory'] })
  closers.push(() => server.close())
  await expect(WebRtcTransport.create({ signalingUrl: server.url, peerId: 'mallory' })).rejects.toMatchObject(
    { code: 'ERR_PEER_DENIED' },
  )
  await expect(SignalingClient.connect({ url: server.url, peerId: 'mallory' })).rejects.toMatchObject({
    signalingCode: -32013,
  })
})
