// A process in front of a signaling server. Everybody who comes through it meets the hub at UDP doors of this process, where
// datagrams can be lost:
//
//   fork('lossy-relay.mjs', [signalingUrl, hubId])
//   <- { url }                  where to connect instead
//   -> { loss: 0.05 }           this share is lost from now on, of everybody and both ways
//   -> { stall: id, ms: 3000 }  nothing from or to this peer passes for so long
//   -> { log: true }            <- { log: [{ peer, way: 'up' | 'down', at }] }: sound that was lost, in milliseconds since the epoch
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import WebSocket, { WebSocketServer } from 'ws'

const [signalingUrl, hub] = process.argv.slice(2)
const HOST = '127.0.0.1'
/** The payload type of Opus in our offers and in Chromium's. */
const OPUS = 111

let loss = 0
const stalled = new Map()
const log = []
const paths = new Map()

const now = () => performance.timeOrigin + performance.now()

/** What one peer and the hub see of each other. */
class Path {
  ports = { up: 0, down: 0 }

  constructor(peer) {
    this.peer = peer
    // `up` stands for the hub, and takes what the peer sends.
    this.doors = { up: createSocket('udp4'), down: createSocket('udp4') }
    this.doors.up.on('message', (datagram) => this.#pass('up', datagram, this.doors.down))
    this.doors.down.on('message', (datagram) => this.#pass('down', datagram, this.doors.up))
  }

  async open() {
    for (const door of Object.values(this.doors)) {
      door.bind(0, HOST)
      await once(door, 'listening')
      door.setRecvBufferSize(1 << 20)
    }
    return this
  }

  #pass(way, datagram, out) {
    const stalls = (stalled.get(this.peer) ?? 0) > now()
    if (stalls || Math.random() < loss) {
      if (datagram[0] >> 6 === 2 && (datagram[1] & 0x7f) === OPUS)
        log.push({ peer: this.peer, way, at: now() })
    } else if (this.ports[way] !== 0) {
      out.send(datagram, this.ports[way], HOST)
    }
  }
}

async function pathOf(peer) {
  if (!paths.has(peer)) paths.set(peer, new Path(peer).open())
  return paths.get(peer)
}

/** The text with each loopback candidate led through a door, and without the others. */
function rewrite(text, path, fromHub) {
  const lines = text.split('\r\n').map((line) => {
    const at = line.indexOf('candidate:')
    if (at < 0) return line
    const fields = line.slice(at).split(' ')
    if (fields[4] !== HOST || fields[2].toLowerCase() !== 'udp') return null
    path.ports[fromHub ? 'up' : 'down'] = Number(fields[5])
    fields[5] = path.doors[fromHub ? 'up' : 'down'].address().port
    return line.slice(0, at) + fields.join(' ')
  })
  return lines.filter((line) => line !== null).join('\r\n')
}

/** A message on its way to the server; null: it stays here. */
async function tamper(message) {
  const { method, params } = message
  if (!['peer.offer', 'peer.answer', 'peer.ice_candidate'].includes(method)) return message
  const fromHub = params.from === hub
  const path = await pathOf(fromHub ? params.to : params.from)
  const key = method === 'peer.ice_candidate' ? 'candidate' : 'sdp'
  // Where all goes in one bundle, the first section's candidates are those of all.
  const ofAll = key === 'sdp' || (params.sdp_mid ?? '0') === '0'
  const text = ofAll ? rewrite(params[key], path, fromHub) : ''
  // An empty candidate is the end of them.
  if (text === '' && params[key] !== '') return null
  return { ...message, params: { ...params, [key]: text } }
}

const server = new WebSocketServer({ host: HOST, port: 0 })
server.on('connection', (client, request) => {
  const upstream = new WebSocket(new URL(request.url, signalingUrl))
  const opened = once(upstream, 'open')
  let steps = opened
  client.on('message', (data) => {
    steps = steps.then(async () => {
      const message = JSON.parse(data)
      const sent = await tamper(message)
      if (sent) upstream.send(JSON.stringify(sent))
      else if (message.id !== undefined)
        client.send(JSON.stringify({ jsonrpc: '2.0', id: message.id, result: { success: true } }))
    })
  })
  upstream.on('message', (data) => client.send(String(data)))
  client.on('close', () => upstream.close())
  upstream.on('close', () => client.close())
})
await once(server, 'listening')

process.on('message', (order) => {
  if (order.loss !== undefined) loss = order.loss
  if (order.stall !== undefined) stalled.set(order.stall, now() + order.ms)
  if (order.log) process.send({ log })
})
process.on('disconnect', () => process.exit())
process.send({ url: `ws://${HOST}:${server.address().port}` })
