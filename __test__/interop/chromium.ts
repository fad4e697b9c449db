/** A real Chromium for the interop tests: fake devices, a fresh profile, and peers that live in its pages. */
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { transform } from '@swc/core'
import { type BrowserContext, chromium, type Page } from 'playwright-core'
import type { callServer } from './browser/caller.js'
import type { Peer } from './browser/peer.js'
import type {
  FlashAndBeepReading,
  PeerOptions,
  PictureReading,
  StatsSummary,
  ToneReading,
  WireMessage,
} from './browser/protocol.js'

export type {
  PeerOptions,
  PictureReading,
  RtpSummary,
  StatsSummary,
  ToneReading,
} from './browser/protocol.js'

/** What a data channel carries, as the package's own `RuntimeData` names it. */
export type PeerMessage =
  | { kind: 'text'; text: string }
  | { kind: 'json'; value: unknown }
  | { kind: 'binary'; data: Uint8Array }

/** A peer in a page. Every `timeoutMs` defaults to 10 000; a rejection says how far things got. */
export interface BrowserPeer {
  readonly id: string
  readonly page: Page
  /** Offers to a peer, beyond those it offered to as a newcomer. */
  connect(remoteId: string): Promise<void>
  /** Resolves once connected, with the data channel open. */
  connected(remoteId: string, timeoutMs?: number): Promise<void>
  /** Resolves with the W3C connection state once it is one of `states`; 'none' when there is no connection. */
  inState(remoteId: string, states: string[], timeoutMs?: number): Promise<string>
  send(remoteId: string, message: PeerMessage): Promise<void>
  /** Sends `count` binary messages of `size` bytes, the first four their number (big endian). Resolves with milliseconds. */
  flood(remoteId: string, size: number, count: number): Promise<number>
  /** Resolves with the next `count` messages, oldest first, and takes them away. */
  received(remoteId: string, count: number, timeoutMs?: number): Promise<PeerMessage[]>
  /** How many messages came that were not taken. */
  waiting(remoteId: string): Promise<number>
  /** Listens for `settleMs` (default 500), then measures the strongest tone and the level. */
  tone(remoteId: string, settleMs?: number, timeoutMs?: number): Promise<ToneReading>
  /** The next `count` pictures of the moving pattern (`browser/pattern.ts`), each with its PSNR. */
  pictures(remoteId: string, count: number, timeoutMs?: number): Promise<PictureReading[]>
  /** Looks and listens for `ms`: when flashes were shown and beeps heard. */
  flashesAndBeeps(remoteId: string, ms: number): Promise<FlashAndBeepReading>
  stats(remoteId: string): Promise<StatsSummary>
  /** Looks at the stats every 50 ms until `holds`. */
  statsWhen(
    remoteId: string,
    holds: (stats: StatsSummary) => boolean,
    timeoutMs?: number,
  ): Promise<StatsSummary>
  /** All of getStats. */
  report(remoteId: string): Promise<Record<string, unknown>[]>
  /** Sends no more audio and video. */
  hush(remoteId: string): Promise<void>
  remoteSdp(remoteId: string): Promise<string>
  requestKeyframe(remoteId: string): Promise<void>
  restartIce(remoteId: string): Promise<void>
  /** Adds one more video track by renegotiation. */
  addVideo(remoteId: string, width: number, height: number): Promise<void>
  /** Presence notifications so far. */
  presence(): Promise<{ method: string; params: Record<string, unknown> }[]>
  disconnect(remoteId: string): Promise<void>
  /** Leaves the room and closes the page. */
  close(): Promise<void>
}

export interface Chromium {
  readonly context: BrowserContext
  /** Where the pages come from: a secure context. */
  readonly origin: string
  /** An empty page of that origin, with `window.peers.join` loaded. */
  newPage(): Promise<Page>
  /** A new page with a peer that has joined the room. */
  newPeer(options: PeerOptions): Promise<BrowserPeer>
  close(): Promise<void>
}

/** Path of the browser, or null where there is none: such a test skips loudly. */
export function chromiumPath(): string | null {
  const path = process.env.CHROMIUM ?? '/usr/bin/chromium'
  return existsSync(path) ? path : null
}

const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--use-fake-device-for-media-stream',
  '--use-fake-ui-for-media-stream',
  '--allow-loopback-in-peer-connection',
  '--autoplay-policy=no-user-gesture-required',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  // Pages that are not in front go on at full speed.
  '--disable-renderer-backgrounding',
  '--disable-background-timer-throttling',
  '--disable-backgrounding-occluded-windows',
]

declare global {
  interface Window {
    peers: { join(options: PeerOptions): Promise<Peer> }
    peer: Peer
    callServer: typeof callServer
  }
}

export interface LaunchOptions {
  /** Added to the flags. */
  args?: string[]
  /** Features to switch off, besides those that tests never want. */
  disableFeatures?: string[]
  /** Host candidates carry names of multicast DNS instead of addresses, as for every user without a microphone. Default false. */
  mdns?: boolean
  /** The network namespace that it lives in. Default: ours. */
  netns?: string
}

/** Launches the browser. */
export async function launchChromium(options: LaunchOptions = {}): Promise<Chromium> {
  const { args = [], disableFeatures = [], mdns = false, netns } = options
  const path = chromiumPath()
  if (path === null) throw new Error('there is no Chromium: install it, or name one with CHROMIUM=/path')
  const profile = await mkdtemp(join(tmpdir(), 'remotemedia-chromium-'))
  const executablePath = netns === undefined ? path : await inNamespace(path, netns, profile)
  // The last flag of a name is the only one that counts, so the features are named in one.
  const disabled = [...disableFeatures, ...(mdns ? [] : ['WebRtcHideLocalIpsWithMdns'])]
  const server = netns === undefined ? await serveScripts() : null
  const origin = server?.origin ?? 'http://localhost:8000'
  const tidy = async () => {
    await server?.close()
    await rm(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })
  }
  let context: BrowserContext
  try {
    context = await chromium.launchPersistentContext(profile, {
      executablePath,
      args: [
        // Who may use the microphone is shown real addresses.
        ...FLAGS.filter((flag) => !(mdns && /fake-ui|allow-loopback/.test(flag))),
        ...(disabled.length > 0 ? [`--disable-features=${disabled.join(',')}`] : []),
        ...args,
      ],
      handleSIGINT: false,
      handleSIGTERM: false,
      handleSIGHUP: false,
    })
  } catch (error) {
    await tidy()
    throw error
  }
  if (netns !== undefined) {
    // Our server can't be reached from there: the pages come through the debugging pipe.
    await context.route(`${origin}/**`, async (route) => {
      const { type, body } = await serve(new URL(route.request().url()).pathname)
      await route.fulfill({ status: body === null ? 404 : 200, contentType: type, body: body ?? '' })
    })
  }
  const newPage = async () => {
    const page = await context.newPage()
    await page.goto(origin)
    await page.waitForFunction(() => window.peers !== undefined)
    return page
  }
  return {
    context,
    origin,
    newPage,
    newPeer: async (options) => {
      const page = await newPage()
      await page.evaluate(async (given) => {
        window.peer = await window.peers.join(given)
      }, options)
      return wrap(page, options.peerId)
    },
    close: async () => {
      await context.close()
      await tidy()
    },
  }
}

/** The page's peer as an object on the test's side. */
function wrap(page: Page, id: string): BrowserPeer {
  const DEFAULT_TIMEOUT_MS = 10_000
  const stats = (remote: string) => page.evaluate((r) => window.peer.stats(r), remote)
  return {
    id,
    page,
    connect: (remote) => page.evaluate((r) => window.peer.connect(r), remote),
    connected: (remote, ms = DEFAULT_TIMEOUT_MS) =>
      page.evaluate(([r, t]) => window.peer.connected(r, t), [remote, ms] as const),
    inState: (remote, states, ms = DEFAULT_TIMEOUT_MS) =>
      page.evaluate(([r, s, t]) => window.peer.inState(r, s, t), [remote, states, ms] as const),
    send: (remote, message) =>
      page.evaluate(([r, m]) => window.peer.send(r, m), [remote, toWire(message)] as const),
    flood: (remote, size, count) =>
      page.evaluate(([r, s, c]) => window.peer.flood(r, s, c), [remote, size, count] as const),
    received: async (remote, count, ms = DEFAULT_TIMEOUT_MS) => {
      const messages = await page.evaluate(([r, c, t]) => window.peer.received(r, c, t), [
        remote,
        count,
        ms,
      ] as const)
      return messages.map(fromWire)
    },
    waiting: (remote) => page.evaluate((r) => window.peer.waiting(r), remote),
    tone: (remote, settleMs = 500, ms = DEFAULT_TIMEOUT_MS) =>
      page.evaluate(([r, s, t]) => window.peer.tone(r, s, t), [remote, settleMs, ms] as const),
    pictures: (remote, count, ms = DEFAULT_TIMEOUT_MS) =>
      page.evaluate(([r, c, t]) => window.peer.pictures(r, c, t), [remote, count, ms] as const),
    flashesAndBeeps: (remote, ms) =>
      page.evaluate(([r, t]) => window.peer.flashesAndBeeps(r, t), [remote, ms] as const),
    stats,
    statsWhen: async (remote, holds, ms = DEFAULT_TIMEOUT_MS) => {
      const deadline = performance.now() + ms
      for (;;) {
        const latest = await stats(remote)
        if (holds(latest)) return latest
        if (performance.now() > deadline) throw new Error(`after ${ms} ms: ${JSON.stringify(latest)}`)
        await page.waitForTimeout(50)
      }
    },
    report: (remote) => page.evaluate((r) => window.peer.report(r), remote),
    hush: (remote) => page.evaluate((r) => window.peer.hush(r), remote),
    remoteSdp: (remote) => page.evaluate((r) => window.peer.remoteSdp(r), remote),
    requestKeyframe: (remote) => page.evaluate((r) => window.peer.requestKeyframe(r), remote),
    restartIce: (remote) => page.evaluate((r) => window.peer.restartIce(r), remote),
    addVideo: (remote, width, height) =>
      page.evaluate(([r, w, h]) => window.peer.addVideo(r, w, h), [remote, width, height] as const),
    presence: () => page.evaluate(() => window.peer.presence),
    disconnect: (remote) => page.evaluate((r) => window.peer.disconnect(r), remote),
    close: async () => {
      await page.evaluate(() => window.peer.close())
      await page.close()
    },
  }
}

function toWire(message: PeerMessage): WireMessage {
  if (message.kind !== 'binary') return message
  return { kind: 'binary', base64: Buffer.from(message.data).toString('base64') }
}

function fromWire(message: WireMessage): PeerMessage {
  if (message.kind !== 'binary') return message
  return { kind: 'binary', data: new Uint8Array(Buffer.from(message.base64, 'base64')) }
}

/** A program that starts the browser in a namespace. */
async function inNamespace(path: string, netns: string, folder: string): Promise<string> {
  const script = join(folder, 'start')
  await writeFile(
    script,
    `#!/bin/sh\nexec ip netns exec ${netns} setpriv --pdeathsig KILL -- ${path} "$@"\n`,
    {
      mode: 0o755,
    },
  )
  return script
}

/** Serves an empty page and the scripts of `browser/`, made plain JavaScript on the way. */
async function serveScripts(): Promise<{ origin: string; close(): Promise<void> }> {
  const server = createServer(async (request, response) => {
    try {
      const { type, body } = await serve(request.url ?? '')
      response.writeHead(body === null ? 404 : 200, { 'content-type': type }).end(body)
    } catch (error) {
      response.writeHead(500).end(String(error))
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

async function serve(path: string): Promise<{ type: string; body: string | null }> {
  const script = /^\/(peer|caller|media|pattern|flash-and-beep|recorder)\.js$/.exec(path)?.[1]
  if (script) {
    const body = await plainScript(join(__dirname, 'browser', `${script}.ts`))
    return { type: 'text/javascript; charset=utf-8', body }
  }
  return { type: 'text/html; charset=utf-8', body: path === '/' ? PAGE : null }
}

const PAGE = `<!doctype html><meta charset="utf-8"><title>peer</title><link rel="icon" href="data:,">
<script type="module">
import { callServer } from './caller.js'
import { join } from './peer.js'
window.callServer = callServer
window.peers = { join }
</script>`

async function plainScript(path: string): Promise<string> {
  const { code } = await transform(await readFile(path, 'utf8'), {
    filename: path,
    configFile: false,
    swcrc: false,
    jsc: { parser: { syntax: 'typescript' }, target: 'es2022' },
    module: { type: 'es6' },
  })
  return code
}
