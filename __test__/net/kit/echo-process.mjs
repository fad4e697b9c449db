// Measures a path by datagrams: `serve PORT`, then `probe HOST PORT COUNT INTERVAL_MS BYTES`. All processes of a
// machine share the monotonic clock, so each direction is measured by itself.
import { createSocket } from 'node:dgram'
import { isIPv6 } from 'node:net'

const [mode, ...rest] = process.argv.slice(2)
/** A process that a busy machine lets wait must not look like a network that loses. */
const BUFFER = 1 << 21
const now = () => Number(process.hrtime.bigint()) / 1e6
if (mode === 'serve') serve(Number(rest[0]))
else probe(rest[0], ...rest.slice(1).map(Number))

function serve(port) {
  const socket = createSocket({ type: 'udp6', recvBufferSize: BUFFER })
  socket.on('message', (data, from) => {
    data.writeDoubleBE(now(), 12)
    socket.send(data, from.port, from.address)
  })
  socket.bind(port, '::', () => console.log('ready'))
}

function probe(host, port, count, intervalMs, bytes = 100) {
  const socket = createSocket({ type: isIPv6(host) ? 'udp6' : 'udp4', recvBufferSize: BUFFER })
  const echoes = []
  socket.on('message', (data) =>
    echoes.push({
      n: data.readUInt32BE(0),
      at: data.readDoubleBE(12),
      up: data.readDoubleBE(12) - data.readDoubleBE(4),
      down: now() - data.readDoubleBE(12),
    }),
  )
  const start = now()
  let sent = 0
  let lastAt = start
  const timer = setInterval(() => {
    while (sent < count && now() - start >= sent * intervalMs) {
      const data = Buffer.alloc(bytes)
      data.writeUInt32BE(sent++, 0)
      data.writeDoubleBE(now(), 4)
      socket.send(data, port, host)
      lastAt = now()
    }
    // What is under way gets a second at most.
    if (sent < count || (echoes.length < count && now() - lastAt < 1000)) return
    clearInterval(timer)
    console.log(JSON.stringify({ sent, echoes }))
    socket.close()
  }, 1)
}
