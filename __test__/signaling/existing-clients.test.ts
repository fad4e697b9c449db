/** Messages of RemoteMedia clients that exist already, word for word: they must go on working. */
import { type Message, RawPeer, SDP, Servers } from './support.js'

const servers = new Servers()
afterEach(() => servers.closeAll())

const ANNOUNCE = `{
  "jsonrpc": "2.0",
  "method": "peer.announce",
  "params": {
    "peer_id": "peer-abc123",
    "capabilities": ["audio", "video", "data"]
  }
}`
const OFFER = `{
  "jsonrpc": "2.0",
  "method": "peer.offer",
  "params": {
    "from": "peer-abc123",
    "to": "peer-def456",
    "sdp": "v=0\\r\\no=- ... (full SDP offer)"
  }
}`
const ANSWER = `{
  "jsonrpc": "2.0",
  "method": "peer.answer",
  "params": {
    "from": "peer-def456",
    "to": "peer-abc123",
    "sdp": "v=0\\r\\no=- ... (full SDP answer)"
  }
}`
const CANDIDATE = `{
  "jsonrpc": "2.0",
  "method": "peer.ice_candidate",
  "params": {
    "from": "peer-abc123",
    "to": "peer-def456",
    "candidate": "candidate:... (ICE candidate)"
  }
}`
const DISCONNECT = `{
  "jsonrpc": "2.0",
  "method": "peer.disconnect",
  "params": {
    "peer_id": "peer-abc123"
  }
}`

test('a call in notifications only, as the protocol was first written down', async () => {
  const server = await servers.listen()
  const def = await RawPeer.announced(server.url, 'peer-def456')
  const abc = await RawPeer.open(server.url)
  abc.sendText(ANNOUNCE)
  expect((await def.next('peer.joined')).params).toEqual({
    peer_id: 'peer-abc123',
    capabilities: ['audio', 'video', 'data'],
    user_data: null,
  })
  for (const text of [OFFER, CANDIDATE]) {
    abc.sendText(text)
    const sent = JSON.parse(text)
    expect(await def.next(sent.method)).toEqual(sent)
  }
  def.sendText(ANSWER)
  expect(await abc.next('peer.answer')).toEqual(JSON.parse(ANSWER))
  abc.sendText(DISCONNECT)
  expect((await def.next('peer.disconnected')).params.peer_id).toBe('peer-abc123')
  expect((await def.next('peer.left')).params.peer_id).toBe('peer-abc123')
  await abc.settled()
  expect(abc.answers).toEqual([])
  expect(server.stats()).toMatchObject({ dropped: {}, errors: {} })
})

test('a client of a hosted peer: string ids, announce not waited for, extra parameters, null mids', async () => {
  const server = await servers.listen()
  const seen: Message[] = []
  server.host('remotemedia-server', { offer: () => SDP, candidate: (candidate) => seen.push(candidate) })
  const client = await RawPeer.open(`${server.url}/ws`)
  const me = { from: 'calculator-client', to: 'remotemedia-server' }
  const [announced, answer, iced] = await Promise.all([
    client.request(
      'peer.announce',
      { peer_id: 'calculator-client', capabilities: ['audio', 'data'], user_data: { type: 'demo' } },
      'announce-1',
    ),
    client.request('peer.offer', { ...me, sdp: SDP, can_trickle_ice_candidates: true }, 'offer-2'),
    client.request(
      'peer.ice_candidate',
      { ...me, candidate: 'candidate:1 1 udp 1 192.0.2.1 9 typ host', sdp_m_line_index: 0, sdp_mid: null },
      'ice-3',
    ),
  ])
  expect(announced).toMatchObject({
    id: 'announce-1',
    result: { success: true, peer_id: 'calculator-client', peers_count: 1, other_peers: [] },
  })
  expect(answer).toEqual({
    jsonrpc: '2.0',
    id: 'offer-2',
    result: { type: 'answer', sdp: SDP, from: 'remotemedia-server', to: 'calculator-client' },
  })
  expect(iced.result.success).toBe(true)
  expect(seen).toHaveLength(1)
})
