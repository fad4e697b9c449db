/** Peers that announced `answers_offers`: an offer to them has its answer in the result of the request that brought it. */
import { SignalingClient } from '../../src-ts/signaling/client.js'
import type { SignalingServer } from '../../src-ts/signaling/server.js'
import { CANDIDATE, type Message, RawPeer, SDP, Servers } from './support.js'

const servers = new Servers()
afterEach(() => servers.closeAll())

const HOST = 'remotemedia-server'
const ANSWER = `${SDP}a=answer\r\n`

const host = (server: SignalingServer, params: Message = {}) =>
  RawPeer.announced(server.url, HOST, { answers_offers: true, ...params })
const offer = (peer: RawPeer) => peer.request('peer.offer', { to: HOST, sdp: SDP })

test('the answer is the result, and nothing else; requests of the two stay their own', async () => {
  const server = await servers.listen()
  const served = await host(server)
  expect(served.me.answers_offers).toBe(true)
  const [a, b] = [await RawPeer.announced(server.url, 'a'), await RawPeer.announced(server.url, 'b')]
  expect(a.me.answers_offers).toBeUndefined()
  expect(a.me.other_peers).toEqual([HOST])
  const asked = [offer(a), offer(b)]
  for (const from of ['a', 'b']) {
    expect((await served.next('peer.offer')).params).toEqual({ from, to: HOST, sdp: SDP })
  }
  // Candidates before the answer go their usual way.
  await served.request('peer.ice_candidate', { to: 'a', candidate: CANDIDATE })
  expect((await a.next('peer.ice_candidate')).params.from).toBe(HOST)
  // A candidate that is no good is no refusal of the offer.
  await served.request('peer.error', { to: 'a', code: -32004, message: 'no candidate' })
  expect((await a.next('peer.error')).params.code).toBe(-32004)
  expect((await served.request('peer.answer', { to: 'b', sdp: ANSWER })).result).toEqual({ success: true })
  expect((await served.request('peer.error', { to: 'a', code: -32007, message: 'no codec' })).result).toEqual(
    {
      success: true,
    },
  )
  expect((await asked[1])!.result).toEqual({ type: 'answer', sdp: ANSWER, from: HOST, to: 'b' })
  expect((await asked[0])!.error).toEqual({ code: -32007, message: 'no codec' })
  // As a notification it is answered by one, and what nobody waits for is told as ever.
  a.notify('peer.offer', { to: HOST, sdp: SDP })
  await served.next('peer.offer')
  served.notify('peer.answer', { to: 'a', sdp: ANSWER })
  expect((await a.next('peer.answer')).params).toEqual({ from: HOST, to: 'a', sdp: ANSWER })
  // Offers of its own are like any other's.
  expect((await served.request('peer.offer', { to: 'a', sdp: SDP })).result).toEqual({ success: true })
  await Promise.all([a.settled(), b.settled()])
  expect(b.inbox.map((m) => m.method)).toEqual([])
  expect(a.inbox.map((m) => m.method)).toEqual(['peer.joined', 'peer.offer'])
})

test('no request stays open for ever: time, goodbyes, lost connections and crossing offers end it', async () => {
  const server = await servers.listen({ limits: { hostedAnswerTimeoutMs: 150 } })
  let served = await host(server)
  const a = await RawPeer.announced(server.url, 'a')
  const late = offer(a)
  expect((await offer(a)).error.code).toBe(-32005)
  expect((await late).error).toEqual({ code: -32006, message: `${HOST} did not answer in time` })

  // Both offered: who answers has given up its own offer.
  const crossed = offer(a)
  await served.request('peer.offer', { to: 'a', sdp: SDP })
  await a.request('peer.answer', { to: HOST, sdp: ANSWER })
  expect((await crossed).result).toEqual({ success: true })
  await served.next('peer.answer')

  // Who resumed on another connection hears it there.
  const b = await RawPeer.announced(server.url, 'b')
  void offer(b)
  while ((await served.next('peer.offer')).params.from !== 'b');
  const again = await RawPeer.announced(server.url, 'b', { resume_token: b.me.resume_token })
  await served.request('peer.answer', { to: 'b', sdp: ANSWER })
  expect((await again.next('peer.answer')).params.sdp).toBe(ANSWER)

  // The asker goes: what comes for it is for nobody.
  void offer(again)
  await served.next('peer.offer')
  await again.close()
  await served.next('peer.left')
  expect((await served.request('peer.answer', { to: 'b', sdp: ANSWER })).error.code).toBe(-32000)

  // The one that should answer goes, and comes back as an ordinary peer.
  const orphaned = offer(a)
  await served.next('peer.offer')
  await served.close()
  expect((await orphaned).error.code).toBe(-32000)
  served = await host(server, { answers_offers: false })
  expect((await offer(a)).result).toEqual({ success: true })
  const bad = await (await RawPeer.open(server.url)).request('peer.announce', {
    peer_id: 'x',
    answers_offers: 'yes',
  })
  expect(bad.error).toMatchObject({ code: -32602, message: expect.stringContaining('answers_offers') })
})

test('SignalingClient: both sides, and a server that does not know of it', async () => {
  const server = await servers.listen()
  const connect = (peerId: string, answersOffers: boolean) =>
    SignalingClient.connect({ url: server.url, peerId, answersOffers })
  await using served = await connect(HOST, true)
  await using caller = await connect('a', false)
  expect([served.answersOffers, caller.answersOffers]).toEqual([true, false])
  served.on('offer', ({ from, sdp }) => void served.answer(from, `${sdp}a=answer\r\n`))
  const told: unknown[] = []
  caller.on('answer', (answer) => told.push(answer))
  expect(await caller.offer(HOST, SDP)).toEqual({ type: 'answer', sdp: ANSWER, from: HOST, to: 'a' })
  expect(told).toEqual([{ from: HOST, sdp: ANSWER }])
  await expect(connect('b', 'yes' as never)).rejects.toMatchObject({ code: 'ERR_CONFIG' })
})
