#!/usr/bin/env node

// The room: signaling, a web page that draws the mesh, and Node peers in processes of their own.

import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { serveWeb } from '../common/web-server.mjs'

const ROOM = 'room'
const SIGNALING_PATH = '/signaling'
const MAX_NODE_PEERS = 16
const CUT_MS = 5000

const USAGE = `Usage: node examples/room/main.mjs [options]

Starts signaling, a web page and some Node peers. Open the printed address in as many tabs as you like: each is a peer too.

  --port <n>       port of the page and of signaling, 0 for a free one (default 8090)
  --host <address> address to listen on (default 127.0.0.1)
  --peers <n>      Node peers to begin with, 0 to ${MAX_NODE_PEERS} (default 3)
  --help           this text
`

class UsageError extends Error {}

/** The Node peers: one process each, so that one can be cut off or end without the others. */
class NodePeers {
  #signalingUrl
  #peers = new Map()
  #next = 1

  constructor(signalingUrl) {
    this.#signalingUrl = signalingUrl
  }

  /** Starts one; resolves with its id once it is in the room. */
  async add() {
    if (this.#peers.size >= MAX_NODE_PEERS)
      throw new Error(`${MAX_NODE_PEERS} Node peers are as many as may be`)
    const id = `node-${this.#next++}`
    const child = fork(fileURLToPath(new URL('./peer.mjs', import.meta.url)), [this.#signalingUrl, ROOM, id])
    const gone = once(child, 'exit').then(() => this.#peers.delete(id))
    this.#peers.set(id, { child, gone, thaw: null })
    const [joined] = await Promise.race([once(child, 'message'), gone.then(() => [false])])
    if (!joined) throw new Error(`${id} could not join`)
    return id
  }

  /** Ends one as a program ends: it says goodbye. */
  async remove(id) {
    const { child, gone, thaw } = this.#find(id)
    thaw?.()
    child.kill('SIGTERM')
    await gone
  }

  /** Stops one's process for some seconds: not a byte goes in or out, and it does not know. */
  cut(id) {
    const peer = this.#find(id)
    if (peer.thaw) return
    peer.child.kill('SIGSTOP')
    const timer = setTimeout(() => peer.thaw?.(), CUT_MS)
    peer.thaw = () => {
      clearTimeout(timer)
      peer.thaw = null
      peer.child.kill('SIGCONT')
    }
  }

  async close() {
    await Promise.all([...this.#peers.keys()].map((id) => this.remove(id)))
  }

  #find(id) {
    const peer = this.#peers.get(id)
    if (!peer) throw new Error(`there is no Node peer ${id}`)
    return peer
  }
}

/** What the page's buttons ask for: POST /peers, DELETE /peers/<id>, POST /peers/<id>/cut. */
function controls(peers) {
  return (request, response) => {
    const [, id, action] = /^\/peers(?:\/([\w-]+)(?:\/(cut))?)?$/.exec(request.url) ?? [null]
    if (!request.url.startsWith('/peers')) return false
    const answer = (status, body) => {
      response.writeHead(status, { 'content-type': 'application/json' })
      response.end(JSON.stringify(body))
    }
    // Only the page itself can send this header: a browser asks first for anybody else's.
    if (request.headers['x-room'] === undefined) {
      answer(403, { error: 'only the page may do this' })
      return true
    }
    const call = `${request.method} ${id ? 'one' : 'all'}${action ? ' cut' : ''}`
    const act = {
      'POST all': () => peers.add(),
      'DELETE one': () => peers.remove(id),
      'POST one cut': () => peers.cut(id),
    }[call]
    if (!act) answer(405, { error: 'no such action' })
    else
      Promise.resolve()
        .then(act)
        .then(
          (result) => answer(200, { id: result ?? id }),
          (error) => answer(409, { error: error.message }),
        )
    return true
  }
}

async function main() {
  const options = readOptions()
  if (options.help) {
    process.stdout.write(USAGE)
    return
  }
  const { SignalingServer } = await importPackage()
  let peers
  const web = await serveWeb({
    port: options.port,
    host: options.host,
    page: new URL('./page/', import.meta.url),
    config: { room: ROOM, cutMs: CUT_MS },
    handle: (request, response) => peers?.handle(request, response) ?? false,
  })
  const { origin, hostname, port } = new URL(web.url)
  const local = ['localhost', '127.0.0.1', '[::1]']
  const signaling = await SignalingServer.listen({
    server: web.server,
    path: SIGNALING_PATH,
    allowedOrigins: local.includes(hostname) ? local.map((name) => `http://${name}:${port}`) : [origin],
  })
  const nodes = new NodePeers(new URL(SIGNALING_PATH, web.url.replace('http', 'ws')).href)
  peers = { handle: controls(nodes) }
  const stopped = new Promise((resolve) => {
    for (const name of ['SIGINT', 'SIGTERM']) process.once(name, resolve)
  })
  try {
    for (let i = 0; i < options.peers; i++) await nodes.add()
    process.stdout.write(
      `\n  The room is open.\n\n    Open   ${web.url}   (once more in another tab)\n\n  Ctrl-C ends it.\n\n`,
    )
    await stopped
  } finally {
    await nodes.close()
    await signaling.close()
    await web.close()
  }
}

async function importPackage() {
  try {
    return await import('../../dist/index.js')
  } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error
    throw new Error('the package is not built yet: run "npm run build" first', { cause: error })
  }
}

function readOptions() {
  let values
  try {
    ;({ values } = parseArgs({
      options: {
        port: { type: 'string', default: '8090' },
        host: { type: 'string', default: '127.0.0.1' },
        peers: { type: 'string', default: '3' },
        help: { type: 'boolean', default: false },
      },
    }))
  } catch (error) {
    throw new UsageError(error.message)
  }
  const number = (name, high) => {
    const value = Number(values[name])
    if (values[name] === '' || !(Number.isInteger(value) && value >= 0 && value <= high))
      throw new UsageError(`--${name} is a whole number from 0 to ${high}, not ${values[name]}`)
    return value
  }
  return { ...values, port: number('port', 65_535), peers: number('peers', MAX_NODE_PEERS) }
}

main().catch((error) => {
  const text = error.code === 'EADDRINUSE' ? 'the port is taken: choose another with --port' : error.message
  process.stderr.write(error instanceof UsageError ? `${text}\n\n${USAGE}` : `room: ${text}\n`)
  process.exitCode = error instanceof UsageError ? 2 : 1
})
