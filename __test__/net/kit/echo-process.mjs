// Measures a path by datagrams: `serve PORT`, then `probe HOST PORT COUNT INTERVAL_MS BYTES`. All processes of a
// machine share the monotonic clock, so each direction is measured by itself.
import { createSocket } from 'node:dgram'
import { isIPv6 } from 'node:net'

const [mode, ...rest] = process.argv.slice(2)
const now = () => Number(process.hrtime.bigint()) / 1e6
if (mode === 'serve') serve(Number(rest[0]))
else probe(rest[0], ...rest.slice(1).map(Number))

function serve(port) {
  const socket = createSocket('udp6')
  socket.on('message', (data, from) => {
    data.writeDoubleBE(now(), 12)
    socket.send(data, from.port, from.address)
  })
  socket.bind(port, '::', () => console.log('ready'))
}

function probe(host, port, count, intervalMs, bytes = 100) {
  const socket = createSocket(isIPv6(host) ? 'udp6' : 'udp4')
  const echoes = []
  socket.on('message', (data) =>
    echoes.push({
      n: data.readUInt32BE(0),
      up: data.readDoubleBE(12) - data.readDoubleBE(4),
      down: now() - data.readDoubleBE(12),
    }),
  )
  const start = now()
  let sent = 0
  const timer = setInterval(() => {
    while (sent < count && now() - start >= sent * intervalMs) {
      const data = Buffer.alloc(bytes)
      data.writeUInt32BE(sent++, 0)
      data.writeDoubleBE(now(), 4)
      socket.send(data, port, host)
    }
    // What is under way gets a second at most.
    if (sent < count || (echoes.length < count && now() - start < count * intervalMs + 1000)) return
    clearInterval(timer)
    console.log(JSON.stringify({ sent, echoes }))
    socket.close()
  }, 1)
}
