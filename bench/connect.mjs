#!/usr/bin/env node
// How long it takes from create() to an open data channel, two Node peers on this machine.
//
//   node bench/connect.mjs                     200 connects, clean
//   node bench/connect.mjs --loss 1            with 1 % of the UDP datagrams lost (root; Linux; in a network namespace of its own)
//   node bench/connect.mjs --runs 20 --json    one line of JSON

import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '200' },
    loss: { type: 'string', default: '0' },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})
const runs = Number(values.runs)
const loss = Number(values.loss)

if (values.help) {
  console.log('node bench/connect.mjs [--runs 200] [--loss PERCENT] [--json]')
} else if (!(Number.isInteger(runs) && runs > 0 && loss >= 0 && loss <= 50)) {
  console.error('connect: --runs takes a whole number over 0, --loss a percentage from 0 to 50')
  process.exitCode = 2
} else if (loss > 0 && !process.env.CONNECT_BENCH_INSIDE) {
  process.exitCode = inLossyNamespace()
} else {
  await measure()
}

/** Runs this again where the kernel drops that share of all datagrams, and nothing else is disturbed. */
function inLossyNamespace() {
  const share = Math.round(loss * 100)
  const script = [
    'set -e',
    'ip link set lo up',
    'nft add table inet lossy',
    "nft 'add chain inet lossy input { type filter hook input priority 0; }'",
    `nft 'add rule inet lossy input meta l4proto udp numgen random mod 10000 < ${share} drop'`,
    'exec "$@"',
  ].join('\n')
  const args = [
    '--net',
    'sh',
    '-c',
    script,
    'sh',
    process.execPath,
    fileURLToPath(import.meta.url),
    ...process.argv.slice(2),
  ]
  const { status, error } = spawnSync('unshare', args, {
    stdio: 'inherit',
    env: { ...process.env, CONNECT_BENCH_INSIDE: '1' },
  })
  if (error || status === null) {
    console.error(`connect: --loss needs unshare, ip and nft, as root (${error?.message ?? 'killed'})`)
    return 1
  }
  return status
}

async function measure() {
  const { SignalingServer, WebRtcTransport } = await import('../dist/index.js')
  const server = await SignalingServer.listen({ port: 0 })
  const times = []
  for (let i = 0; i < runs; i++) {
    const room = `run-${i}`
    const present = await WebRtcTransport.create({ signalingUrl: server.url, peerId: 'present', room })
    const start = performance.now()
    const newcomer = await WebRtcTransport.create({ signalingUrl: server.url, peerId: 'newcomer', room })
    await newcomer.connectPeer('present', { timeoutMs: 30_000 })
    times.push(performance.now() - start)
    await Promise.all([present.close(), newcomer.close()])
  }
  await server.close()
  times.sort((a, b) => a - b)
  const at = (share) => Number(times[Math.min(times.length - 1, Math.floor(times.length * share))].toFixed(1))
  const result = { runs, lossPercent: loss, medianMs: at(0.5), p90Ms: at(0.9), maxMs: at(1) }
  if (values.json) console.log(JSON.stringify(result))
  else
    console.log(
      `create() to open channel, ${runs} runs, ${loss} % loss: median ${result.medianMs} ms, p90 ${result.p90Ms} ms, max ${result.maxMs} ms`,
    )
}
