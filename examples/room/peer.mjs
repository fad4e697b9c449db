// One Node peer of the room: connects to everyone, and tells everyone once a second how its links are.
//
//   node examples/room/peer.mjs <signaling URL> <room> <peer id>

import { WebRtcTransport } from '../../dist/index.js'

const TELL_EVERY_MS = 1000

const [signalingUrl, room, peerId] = process.argv.slice(2)
const transport = await WebRtcTransport.create({ signalingUrl, room, peerId, maxPeers: 63 })

const tell = () => {
  const links = transport
    .listPeers()
    .map(({ id, state, path, roundTripMs }) => ({ id, state, path, roundTripMs }))
  transport.broadcast({ kind: 'json', value: { type: 'links', links } }).catch(() => {
    // Somebody left in this very moment.
  })
}
const timer = setInterval(tell, TELL_EVERY_MS)
// What changed is told at once.
transport.on('peerstatechange', tell)
transport.on('error', ({ code, peerId: about, message }) =>
  process.stderr.write(`${peerId}: ${code} ${about ?? ''} ${message}\n`),
)

let closing = false
const close = async () => {
  if (closing) return
  closing = true
  clearInterval(timer)
  await transport.close()
  if (process.connected) process.disconnect()
}
process.once('SIGTERM', close)
process.once('disconnect', close)
process.on('SIGINT', () => {
  // The one who started us ends us.
})
process.send?.(true)
