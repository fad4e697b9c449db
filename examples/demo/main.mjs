#!/usr/bin/env node
// The demo: signaling, a web page, and a Node peer that blurs what is behind you.

import { parseArgs } from 'node:util'
import { serveWeb } from '../common/web-server.mjs'
import { startPipelinePeer } from './pipeline-peer.mjs'

const PEER_ID = 'blur'
const ROOM = 'demo'
const SIGNALING_PATH = '/signaling'

const USAGE = `Usage: npm run demo -- [options]

Starts signaling, a web page and a Node peer that runs the blur. Open the printed address in a browser.

  --port <n>       port of the page and of signaling, 0 for a free one (default 8080)
  --host <address> address to listen on (default 127.0.0.1)
  --codec <name>   vp9, vp8 or h264: what to prefer for video (default vp9)
  --verbose        tell who comes and goes, and what goes wrong
  --headless       call with a real Chromium, a fake camera and a fake microphone, then end.
                   Exits 0 only when media and data flowed both ways. CHROMIUM names the browser.
  --seconds <n>    length of the headless call (default 10)
  --source <name>  headless: camera or pattern (default camera)
  --json           headless: end with one line of JSON
  --screenshot <f> headless: save a picture of the page (PNG)
  --help           this text
`

const OPTIONS = {
  port: { type: 'string', default: '8080' },
  host: { type: 'string', default: '127.0.0.1' },
  codec: { type: 'string', default: 'vp9' },
  verbose: { type: 'boolean', default: false },
  headless: { type: 'boolean', default: false },
  seconds: { type: 'string', default: '10' },
  source: { type: 'string', default: 'camera' },
  json: { type: 'boolean', default: false },
  screenshot: { type: 'string' },
  help: { type: 'boolean', default: false },
}

async function main() {
  const options = readOptions()
  if (options.help) {
    process.stdout.write(USAGE)
    return 0
  }
  const log = (line) => {
    if (options.verbose) process.stderr.write(`${line}\n`)
  }
  // A headless run minds its own business: two at once, or one beside a demo, are no trouble.
  const demo = await startDemo({
    ...options,
    port: options.headless && !options.portGiven ? 0 : options.port,
    log,
  })
  const stopped = new AbortController()
  for (const name of ['SIGINT', 'SIGTERM']) process.once(name, () => stopped.abort(name))
  try {
    if (options.headless) return await runHeadless(demo, options, stopped.signal)
    process.stdout.write(greeting(demo.url))
    await new Promise((resolve) => stopped.signal.addEventListener('abort', resolve, { once: true }))
    process.stdout.write('\nClosing …\n')
    return 0
  } finally {
    await demo.close()
  }
}

async function runHeadless(demo, options, signal) {
  const { callHeadless } = await import('./headless.mjs')
  if (!options.json) process.stdout.write(`Calling for ${options.seconds} s with a real Chromium …\n`)
  const result = await callHeadless({
    url: demo.url,
    seconds: options.seconds,
    source: options.source,
    screenshot: options.screenshot,
    signal,
    nodeCounters: (peerId) => demo.peer.counters(peerId),
  }).catch((error) => {
    if (signal.aborted) return null
    throw error
  })
  if (result === null) return 130
  process.stdout.write(options.json ? `${JSON.stringify(result)}\n` : summary(result))
  return result.ok ? 0 : 1
}

/** Everything that the demo runs, and one `close` for all of it. */
async function startDemo({ port, host, codec, log }) {
  const webrtc = await importPackage()
  const closers = []
  const close = async () => {
    for (const closer of closers.splice(0).reverse()) await closer()
  }
  try {
    const web = await serveWeb({
      port,
      host,
      page: new URL('./page/', import.meta.url),
      config: { peer: PEER_ID, room: ROOM },
    })
    closers.push(() => web.close())
    const signaling = await webrtc.SignalingServer.listen({
      server: web.server,
      path: SIGNALING_PATH,
      allowedOrigins: origins(web.url),
    })
    closers.push(() => signaling.close())
    const signalingUrl = new URL(SIGNALING_PATH, web.url.replace('http', 'ws')).href
    const peer = await startPipelinePeer(webrtc, {
      signalingUrl,
      peerId: PEER_ID,
      room: ROOM,
      videoCodec: codec,
      log,
    })
    closers.push(() => peer.close())
    return { url: web.url, peer, close }
  } catch (error) {
    await close()
    if (error.code === 'EADDRINUSE')
      throw new Error(`port ${port} is taken: choose another with --port`, { cause: error })
    throw error
  }
}

/** Only the demo's own page may join, whichever name of this machine it was opened by. */
function origins(url) {
  const { origin, hostname, port } = new URL(url)
  const local = ['localhost', '127.0.0.1', '[::1]']
  return local.includes(hostname) ? local.map((name) => `http://${name}:${port}`) : [origin]
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
  let portGiven
  try {
    const parsed = parseArgs({ options: OPTIONS, tokens: true })
    values = parsed.values
    portGiven = parsed.tokens.some((token) => token.name === 'port')
  } catch (error) {
    throw new UsageError(error.message)
  }
  const oneOf = (name, allowed) => {
    if (!allowed.includes(values[name]))
      throw new UsageError(`--${name} is one of ${allowed.join(', ')}, not ${values[name]}`)
    return values[name]
  }
  const number = (name, low, high) => {
    const value = Number(values[name])
    if (values[name] === '' || !(value >= low && value <= high)) {
      throw new UsageError(`--${name} is a number from ${low} to ${high}, not ${values[name]}`)
    }
    return value
  }
  return {
    ...values,
    portGiven,
    port: Math.trunc(number('port', 0, 65_535)),
    seconds: number('seconds', 1, 3600),
    codec: oneOf('codec', ['vp9', 'vp8', 'h264']),
    source: oneOf('source', ['camera', 'pattern']),
  }
}

class UsageError extends Error {}

function greeting(url) {
  const bold = (text) => (process.stdout.isTTY ? `\u001b[1m${text}\u001b[0m` : text)
  return `
  Call with blur is running.

    Open   ${bold(url)}
    Press  Start the call, and allow camera and microphone

  Ctrl-C ends it.

`
}

function summary(r) {
  const { video, audio, data, latencyMs } = r
  return `
  ${r.ok ? 'Media and data flowed both ways.' : `Not everything worked:\n${r.problems.map((p) => `    - ${p}`).join('\n')}`}

  Connection   ${r.connectionState} after ${r.connectMs} ms (${r.path}), first picture back after ${r.firstFrameMs} ms
  Video        ${video.codecSent} → ${video.codecReturned} at ${video.resolution}: ${video.sent} frames sent, ${video.receivedByNode} received by Node, ${video.processed} processed,
               ${video.decodedInPage} decoded in the page; packets lost ${video.packetsLostUp} up, ${video.packetsLostDown} down
  Voice        ${audio.codecSent} → ${audio.codecReturned}: ${audio.packetsSent} packets sent, ${audio.packetsReceivedByNode} received by Node, ${audio.packetsReturned} returned, ${audio.packetsReceivedInPage} received in the page
  Latency      picture there and back p50 ${latencyMs.p50} ms, p99 ${latencyMs.p99} ms (${latencyMs.samples} frames); data p50 ${r.roundTripMs.dataP50} ms
  Data         ${data.sent} messages sent, ${data.returned} came back

`
}

main().then(
  (code) => {
    process.exitCode = code
  },
  (error) => {
    process.stderr.write(
      error instanceof UsageError ? `${error.message}\n\n${USAGE}` : `demo: ${error.message}\n`,
    )
    process.exitCode = error instanceof UsageError ? 2 : 1
  },
)
