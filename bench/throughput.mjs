#!/usr/bin/env node
// How much the reliable data channel moves through the public API, two Node peers in one process on this machine.
//
//   node bench/throughput.mjs [--seconds 3] [--size 65536]
//
// Socket buffers are as large as the system grants: on Linux at most `sysctl net.core.rmem_max` and `net.core.wmem_max`.

import { parseArgs } from 'node:util'
import { SignalingServer, WebRtcTransport } from '../dist/index.js'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '3' },
    size: { type: 'string', default: '1024,16384,65536' },
  },
})

const server = await SignalingServer.listen({ port: 0 })
for (const size of values.size.split(',').map(Number)) {
  const a = await WebRtcTransport.create({ signalingUrl: server.url, peerId: 'a', room: `${size}` })
  const b = await WebRtcTransport.create({ signalingUrl: server.url, peerId: 'b', room: `${size}` })
  await a.connectPeer('b')
  let received = 0
  b.on('data', ({ data }) => {
    received += data.data.data.length
  })
  const data = new Uint8Array(size)
  const end = performance.now() + Number(values.seconds) * 1000
  const cpu = process.cpuUsage()
  const start = performance.now()
  let sent = 0
  while (performance.now() < end) {
    // A few at a time: awaiting each one measures promises more than the channel.
    await Promise.all(Array.from({ length: 16 }, () => a.sendToPeer('b', { kind: 'binary', data })))
    sent += 16 * size
    await new Promise(setImmediate)
  }
  while (received < sent) await new Promise((resolve) => setTimeout(resolve, 5))
  const seconds = (performance.now() - start) / 1000
  const used = process.cpuUsage(cpu)
  const cores = (used.user + used.system) / 1e6 / seconds
  console.log(
    `${size} byte messages: ${(received / seconds / 1e6).toFixed(0)} MB/s, ${cores.toFixed(2)} cores for both ends`,
  )
  await Promise.all([a.close(), b.close()])
}
await server.close()
