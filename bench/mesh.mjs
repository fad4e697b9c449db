#!/usr/bin/env node
// How long a full mesh takes, and what a link costs: N Node peers in this process, one room, every pair connected.
//
//   node bench/mesh.mjs                        10 peers (45 channels), 20 runs, all joining at once
//   node bench/mesh.mjs --join one-by-one      each joins when the one before it has
//   node bench/mesh.mjs --cost 8,16,32         CPU time and memory of a link in meshes of these sizes, each in a fresh process
//   node bench/mesh.mjs --peers 32 --runs 3 --json
//
// The clock starts when the first create() is called, and stops when every channel is open at both ends: each of the N(N-1)
// ends has been `connected` and its connectPeer, called then, has resolved. The signaling server runs in the same process, so its
// work is in all figures.

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    peers: { type: 'string', default: '10' },
    runs: { type: 'string', default: '20' },
    join: { type: 'string', default: 'at-once' },
    cost: { type: 'string' },
    idle: { type: 'string', default: '5' },
    alone: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})
const peers = Number(values.peers)
const runs = Number(values.runs)
const idleSeconds = Number(values.idle)
const sizes = values.cost?.split(',').map(Number)
const oneByOne = values.join === 'one-by-one'
const whole = (value, low, high) => Number.isInteger(value) && value >= low && value <= high

if (values.help) {
  console.log(
    'node bench/mesh.mjs [--peers 10] [--runs 20] [--join at-once|one-by-one] [--cost 8,16,32 [--idle 5]] [--json]',
  )
} else if (!(whole(peers, 2, 64) && whole(runs, 1, 10_000) && idleSeconds >= 0)) {
  console.error('mesh: --peers is a whole number from 2 to 64, --runs one over 0, --idle seconds')
  process.exitCode = 2
} else if (!['at-once', 'one-by-one'].includes(values.join) || sizes?.some((n) => !whole(n, 2, 64))) {
  console.error('mesh: --join is at-once or one-by-one, --cost sizes from 2 to 64')
  process.exitCode = 2
} else if (process.env.MESH_BENCH_COST) {
  console.log(JSON.stringify(await cost()))
} else if (sizes) {
  costs()
} else {
  await times()
}

/** Opens a mesh and says how long that took. `rooms`: everybody in a room of their own, so that there is no link. */
async function open(
  { SignalingServer, WebRtcTransport },
  { n = peers, oneByOne = false, rooms = false } = {},
) {
  const server = await SignalingServer.listen({ port: 0 })
  const wanted = rooms ? 0 : n * (n - 1)
  let ready = 0
  let settle
  const all = new Promise((resolve, reject) => {
    settle = { resolve, reject }
  })
  const create = async (i) => {
    const member = await WebRtcTransport.create({
      signalingUrl: server.url,
      peerId: `peer-${i}`,
      maxPeers: n - 1,
      ...(rooms ? { room: `room-${i}` } : {}),
    })
    // Not before: a connectPeer that waits makes those present offer as well, which is other work than a plain mesh's.
    member.on('peerstatechange', ({ peerId, state }) => {
      if (state !== 'connected') return
      member.connectPeer(peerId, { timeoutMs: 60_000 }).then(() => {
        ready++
        if (ready === wanted) settle.resolve()
      }, settle.reject)
    })
    return member
  }
  const start = performance.now()
  const members = []
  if (oneByOne) for (let i = 0; i < n; i++) members.push(await create(i))
  else members.push(...(await Promise.all(Array.from({ length: n }, (_, i) => create(i)))))
  const joined = performance.now()
  if (wanted > 0) await all
  const done = performance.now()
  const close = async () => {
    const closing = performance.now()
    await Promise.all(members.map((member) => member.close()))
    await server.close()
    return performance.now() - closing
  }
  return { members, totalMs: done - start, afterJoinMs: done - joined, close }
}

async function times() {
  const webrtc = await import('../dist/index.js')
  const total = []
  const afterJoin = []
  const closing = []
  for (let i = 0; i < runs; i++) {
    const mesh = await open(webrtc, { oneByOne })
    for (const member of mesh.members) {
      const links = member.listPeers().filter(({ state }) => state === 'connected').length
      if (links !== peers - 1) throw new Error(`${member.peerId} has ${links} links`)
    }
    total.push(mesh.totalMs)
    afterJoin.push(mesh.afterJoinMs)
    closing.push(await mesh.close())
  }
  const channels = (peers * (peers - 1)) / 2
  const result = {
    peers,
    channels,
    runs,
    join: values.join,
    fromFirstCreateMs: spread(total),
    fromLastJoinMs: spread(afterJoin),
    closeMs: spread(closing),
  }
  if (values.json) return console.log(JSON.stringify(result))
  const show = ({ median, p90, max }) => `median ${median} ms, p90 ${p90}, max ${max}`
  console.log(`${peers} peers, ${channels} channels, ${runs} runs, joining ${values.join}:`)
  console.log(`  first create() to all open   ${show(result.fromFirstCreateMs)}`)
  console.log(`  last create() done to open   ${show(result.fromLastJoinMs)}`)
  console.log(`  close                        ${show(result.closeMs)}`)
}

/**
 * What a mesh of `peers` costs this fresh process: CPU time of all threads for opening and closing, and while it is idle, and memory.
 * A mesh of three was opened and closed before, so that what is loaded once is not counted.
 */
async function cost() {
  const webrtc = await import('../dist/index.js')
  const rooms = values.alone
  const warm = await open(webrtc, { n: 3 })
  await warm.close()
  const settle = async () => {
    for (let i = 0; i < 3; i++) {
      globalThis.gc()
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
  await settle()
  const before = { cpu: process.cpuUsage(), rss: residentBytes() }
  const mesh = await open(webrtc, { rooms, oneByOne })
  const opened = process.cpuUsage(before.cpu)
  await settle()
  const open_ = { cpu: process.cpuUsage(), rss: residentBytes() }
  await new Promise((resolve) => setTimeout(resolve, idleSeconds * 1000))
  const idle = process.cpuUsage(open_.cpu)
  const idleRss = residentBytes()
  const closing = process.cpuUsage()
  await mesh.close()
  const closed = process.cpuUsage(closing)
  const ms = ({ user, system }) => (user + system) / 1000
  return {
    totalMs: mesh.totalMs,
    setupCpuMs: ms(opened),
    closeCpuMs: ms(closed),
    idleCpuMsPerSecond: idleSeconds > 0 ? ms(idle) / idleSeconds : 0,
    rssBytes: Math.max(open_.rss, idleRss) - before.rss,
  }
}

/**
 * The cost of a link: that of a mesh less that of as many transports alone, divided by the number of links. Each figure is the
 * median of several fresh processes.
 */
function costs() {
  const measure = (n, alone) => {
    const samples = []
    for (let i = 0; i < Math.min(runs, 5); i++) {
      const args = ['--expose-gc', fileURLToPath(import.meta.url)]
      args.push('--peers', `${n}`, '--idle', values.idle, '--join', values.join)
      const { status, stdout, stderr } = spawnSync(process.execPath, alone ? [...args, '--alone'] : args, {
        encoding: 'utf8',
        env: { ...process.env, MESH_BENCH_COST: '1' },
      })
      if (status !== 0) throw new Error(`a mesh of ${n} ended with ${status}: ${stderr}`)
      samples.push(JSON.parse(stdout))
    }
    const median = (key) =>
      spread(
        samples.map((sample) => sample[key]),
        3,
      ).median
    return Object.fromEntries(Object.keys(samples[0]).map((key) => [key, median(key)]))
  }
  const rows = sizes.map((n) => {
    const links = (n * (n - 1)) / 2
    const mesh = measure(n, false)
    const alone = measure(n, true)
    const each = (key, digits) => Number(((mesh[key] - alone[key]) / links).toFixed(digits))
    return {
      peers: n,
      links,
      totalMs: mesh.totalMs,
      setupCpuMsPerLink: each('setupCpuMs', 2),
      closeCpuMsPerLink: each('closeCpuMs', 2),
      idleCpuMsPerLinkSecond: each('idleCpuMsPerSecond', 3),
      kibPerLink: Number(((mesh.rssBytes - alone.rssBytes) / links / 1024).toFixed(0)),
      kibPerTransport: Number((alone.rssBytes / n / 1024).toFixed(0)),
      setupCpuMsPerTransport: Number((alone.setupCpuMs / n).toFixed(2)),
    }
  })
  if (values.json) return console.log(JSON.stringify(rows))
  console.table(rows)
}

/** Resident memory without file pages: what the process has for itself. */
function residentBytes() {
  const match = /^RssAnon:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))
  return match ? Number(match[1]) * 1024 : process.memoryUsage().rss
}

function spread(list, digits = 1) {
  const sorted = list.toSorted((a, b) => a - b)
  const at = (share) =>
    Number(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))].toFixed(digits))
  return { median: at(0.5), p90: at(0.9), max: at(1) }
}
