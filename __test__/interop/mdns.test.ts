import { Lab } from '../api/support.js'
import { type Chromium, chromiumPath, launchChromium } from './chromium.js'

// A Chromium as most users have it: its candidates name no address, and multicast DNS tells what they stand for.

const describeWithBrowser = chromiumPath() === null ? describe.skip : describe
if (chromiumPath() === null)
  console.warn('SKIPPED: there is no Chromium; install it, or name one with CHROMIUM=/path')

jest.setTimeout(60_000)

describeWithBrowser('Chromium that hides its addresses', () => {
  let lab: Lab
  let browser: Chromium
  beforeAll(async () => {
    lab = await new Lab().open()
    browser = await launchChromium({ mdns: true })
  })
  afterAll(async () => {
    await browser?.close()
    await lab?.close()
  })

  test.each(['offers', 'answers'] as const)('is found by its names when it %s', async (role) => {
    const room = `mdns-${role}`
    const browserJoins = () => browser.newPeer({ signalingUrl: lab.server.url, peerId: 'browser', room })
    const nodeJoins = () => lab.join('node', { room })
    const [node, page] =
      role === 'offers'
        ? [await nodeJoins(), await browserJoins()]
        : await browserJoins().then(async (page) => [await nodeJoins(), page] as const)
    await node.connectPeer('browser', { timeoutMs: 15_000 })
    await node.sendToPeer('browser', { kind: 'text', text: 'found' })
    expect(await page.received('node', 1)).toEqual([{ kind: 'text', text: 'found' }])
    expect(await page.page.evaluate(() => window.peer.localSdp('node'))).toMatch(/ \S+\.local \d+ typ host/)
    // It tells its names one a second, after announcing each twice. Until the one in use is known, its address is a check's.
    const remote = () => node.listPeers().find(({ id }) => id === 'browser')?.path?.remote
    const limit = performance.now() + 12_000
    while (remote() !== 'host' && performance.now() < limit) await page.page.waitForTimeout(20)
    expect(remote()).toBe('host')
    expect(node.counters.namesResolved).toBeGreaterThan(0)
    await page.close()
    await node.close()
  })
})
