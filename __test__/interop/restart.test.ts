import { readdirSync, readFileSync } from 'node:fs'
import type { PeerConnectionState, TransportData } from '@remotemedia/webrtc'
import { Lab } from '../api/support.js'
import { type Chromium, chromiumPath, launchChromium } from './chromium.js'

// ICE restarts between a real Chromium and us, by either side and whoever had offered: the data channel goes on, and nothing is
// lost on it.

const describeWithBrowser = chromiumPath() === null ? describe.skip : describe
if (chromiumPath() === null)
  console.warn('SKIPPED: there is no Chromium; install it, or name one with CHROMIUM=/path')

jest.setTimeout(90_000)

const SIZE = 2000
const BURST = 100

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** Every process that this one started, and theirs. */
function descendants(pid: number): number[] {
  try {
    const children = readdirSync(`/proc/${pid}/task`).flatMap((task) =>
      readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
    )
    return children.flatMap((child) => [child, ...descendants(child)])
  } catch {
    // It ended while we looked.
    return []
  }
}

function signalBrowser(signal: 'SIGSTOP' | 'SIGCONT'): void {
  for (const pid of descendants(process.pid)) {
    try {
      if (readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('chrom')) process.kill(pid, signal)
    } catch {
      // As above.
    }
  }
}

const numbered = (n: number) => {
  const data = new Uint8Array(SIZE)
  new DataView(data.buffer).setUint32(0, n)
  return data
}

const numberOf = ({ data }: TransportData) =>
  data.kind === 'binary' ? new DataView(data.data.buffer, data.data.byteOffset).getUint32(0) : -1

const ufrag = (sdp: string) => /a=ice-ufrag:(\S+)/.exec(sdp)?.[1]

describeWithBrowser('an ICE restart with Chromium', () => {
  let lab: Lab
  let browser: Chromium
  beforeAll(async () => {
    lab = await new Lab().open()
    browser = await launchChromium()
  })
  afterAll(async () => {
    signalBrowser('SIGCONT')
    await browser?.close()
    await lab?.close()
  })

  /** Both send numbered messages until `stop`, which waits until all have arrived, in order and once. */
  async function call(role: 'offers' | 'answers', room: string) {
    const joins = () => browser.newPeer({ signalingUrl: lab.server.url, peerId: 'browser', room })
    const early = role === 'answers' ? await joins() : null
    const node = await lab.join('node', { room })
    const page = early ?? (await joins())
    await node.connectPeer('browser', { timeoutMs: 15_000 })
    const states: [PeerConnectionState, string][] = []
    node.on('peerstatechange', ({ state, code }) => states.push([state, code]))
    const undelivered: unknown[] = []
    node.on('undelivered', (event) => undelivered.push(event))
    const got: number[] = []
    node.on('data', ({ data }) => {
      got.push(numberOf(data))
    })
    let [sent, flooded, going] = [0, 0, true]
    const ours = (async () => {
      for (; going; await sleep(20)) {
        for (let n = 0; n < 5; n++)
          await node.sendToPeer('browser', { kind: 'binary', data: numbered(sent++) })
      }
    })()
    const theirs = (async () => {
      for (; going; await sleep(50)) {
        await page.flood('node', SIZE, BURST)
        flooded++
      }
    })()
    await sleep(1000)
    const stop = async () => {
      going = false
      await Promise.all([ours, theirs])
      const there = await page.received('node', sent, 30_000)
      const numbers = there.map((message) =>
        message.kind === 'binary' ? new DataView(message.data.buffer).getUint32(0) : -1,
      )
      expect(numbers).toEqual(Array.from({ length: sent }, (_, n) => n))
      for (let n = 0; got.length < flooded * BURST && n < 600; n++) await sleep(50)
      expect(got).toEqual(Array.from({ length: flooded * BURST }, (_, n) => n % BURST))
      expect(await page.waiting('node')).toBe(0)
      expect(undelivered).toEqual([])
      expect(node.listPeers().map(({ state }) => state)).toEqual(['connected'])
      await page.close()
      await node.close()
    }
    return { node, page, states, stop }
  }

  test.each(['offers', 'answers'] as const)('by the page that %s first', async (role) => {
    const { page, states, stop } = await call(role, `page-${role}`)
    const before = ufrag(await page.remoteSdp('node'))
    for (let n = 0; n < 3; n++) {
      await page.restartIce('node')
      await sleep(1500)
    }
    expect(ufrag(await page.remoteSdp('node'))).not.toBe(before)
    await stop()
    // Each restart is told, and each is over.
    expect(states.filter(([state]) => state === 'connected').length).toBe(3)
    expect(states.filter(([, code]) => code === 'ice-restart').length).toBe(3)
    expect(states.map(([state]) => state)).not.toContain('disconnected')
  })

  const testStopped = process.platform === 'linux' ? test : test.skip
  testStopped.each(['offers', 'answers'] as const)(
    'by us, when the browser that %s first has stood still for 8 s',
    async (role) => {
      const { page, states, stop } = await call(role, `node-${role}`)
      const before = ufrag(await page.remoteSdp('node'))
      signalBrowser('SIGSTOP')
      await sleep(8000)
      signalBrowser('SIGCONT')
      const awake = performance.now()
      while (states.at(-1)?.[0] !== 'connected') {
        expect(performance.now() - awake).toBeLessThan(10_000)
        await sleep(20)
      }
      await sleep(2000)
      expect(ufrag(await page.remoteSdp('node'))).not.toBe(before)
      expect(states[0]).toEqual(['disconnected', 'interrupted'])
      expect(states.map(([state]) => state)).not.toContain('failed')
      await stop()
    },
  )
})
