// A signaling server that keeps to no rule: it relays whatever anybody sends to anybody, lists and limits notwithstanding, and on
// command sends floods. A process of its own, so that what the floods cost their victim can be told from what they cost to send.
//
// stdin: one JSON command a line; stdout: one JSON answer a line.

import { createInterface } from 'node:readline'
import { WebSocketServer } from 'ws'

const members = new Map()
/** What members sent, without what it carries: {from, to, method, code?, sdp: boolean}. */
let log = []
const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`)
const text = (method, params) => JSON.stringify({ jsonrpc: '2.0', method, params })

const server = new WebSocketServer({ host: '127.0.0.1', port: 0, maxPayload: 1 << 26 })
server.on('listening', () => say({ url: `ws://127.0.0.1:${server.address().port}` }))
server.on('connection', (ws) => {
  ws.on('message', (data) => {
    const { id, method, params = {} } = JSON.parse(data.toString())
    const answer = (result) => id !== undefined && ws.send(JSON.stringify({ jsonrpc: '2.0', id, result }))
    if (method === 'peer.announce') {
      const { peer_id, capabilities, user_data = null } = params
      const peers = [...members.values()].map(({ wire }) => wire)
      ws.peerId = peer_id
      const wire = { peer_id, capabilities, user_data }
      answer({ success: true, peer_id, room: params.room, peers, resume_token: 'none', resumed: false })
      for (const { ws: other } of members.values()) other.send(text('peer.joined', wire))
      members.set(peer_id, { ws, wire })
      return
    }
    answer({ success: true })
    if (params.to === undefined) return
    const { to, code, sdp, candidate } = params
    log.push({
      from: ws.peerId,
      to,
      method,
      code,
      sdp: sdp !== undefined,
      candidate: candidate !== undefined,
    })
    members.get(to)?.ws.send(text(method, { ...params, from: ws.peerId }))
    if (method === 'peer.offer') lastOffer = sdp
  })
  ws.on('close', () => {
    if (members.get(ws.peerId)?.ws === ws) members.delete(ws.peerId)
  })
})

let lastOffer = ''
const CANDIDATE = 'candidate:1 1 udp 2113937151 192.0.2.1 54400 typ host'
const garbage = (bytes) => `v=0\r\n${'a=x:y\r\n'.repeat(Math.floor(bytes / 7))}`
/** An offer as of another process each time: the session id in `o=` is another. */
const offer = (n) => lastOffer.replace(/^o=\S+ \d+/m, `o=- ${1_000_000 + n}`)

/** What the `n`th message of each flood is; `from` is who seems to send it. */
const floods = {
  joined: (n, from) => ['peer.joined', { peer_id: from, capabilities: ['data'], user_data: { n } }],
  strangers: (n) => ['peer.joined', { peer_id: `stranger-${n}`, capabilities: [] }],
  strangersLeft: (n) => ['peer.left', { peer_id: `stranger-${n}`, reason: 'gone' }],
  answers: (_, from) => ['peer.answer', { from, sdp: offer(1) }],
  candidates: (_, from) => ['peer.ice_candidate', { from, candidate: CANDIDATE, sdp_mid: '0' }],
  offers: (n, from) => ['peer.offer', { from, sdp: offer(n) }],
  manyOffers: (n) => ['peer.offer', { from: `stranger-${n}`, sdp: offer(n) }],
  garbage: (_, from) => ['peer.offer', { from, sdp: garbage(48_000) }],
  errors: (_, from) => ['peer.error', { from, code: -32000, message: 'no' }],
  nonsense: (n) => [`peer.offer`, { from: n, sdp: [] }],
}

for await (const line of createInterface({ input: process.stdin })) {
  const { command, kind, to, from, count } = JSON.parse(line)
  if (command === 'flood') {
    const { ws } = members.get(to)
    for (let n = 0; n < count; n++) {
      ws.send(text(...floods[kind](n, from)))
      // In pieces, or they would wait here and not at the victim.
      if (ws.bufferedAmount > 1 << 20) await new Promise((resolve) => setTimeout(resolve, 1))
    }
    while (ws.bufferedAmount > 0) await new Promise((resolve) => setTimeout(resolve, 1))
    say({ sent: count })
  } else if (command === 'log') {
    say({ log })
    log = []
  }
}
for (const ws of server.clients) ws.terminate()
server.close()
