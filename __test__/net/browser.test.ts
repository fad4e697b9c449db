import {
  type BrowserPeer,
  type Chromium,
  chromiumPath,
  type LaunchOptions,
  launchChromium,
  type PeerMessage,
} from '../interop/chromium.js'
import { Agent, type TurnServer } from './kit/agent.js'
import { mediaBack } from './kit/call.js'
import { Coturn, hasCoturn } from './kit/coturn.js'
import { figure, tellFigures } from './kit/figures.js'
import {
  describeNetWith,
  type Family,
  type Host,
  inLab,
  type Lab,
  now,
  Signaling,
  sleep,
  until,
} from './kit/index.js'

// A browser in a network of its own: through the relay, over IPv6, and with the names that it gives for its addresses.

afterAll(tellFigures)

const describeBrowser = describeNetWith({ Chromium: chromiumPath() !== null, coturn: hasCoturn() })

const browsers: Chromium[] = []

/** A laboratory whose browsers are closed before it is. */
const inLabWithBrowsers = (scenario: (lab: Lab) => Promise<void>) =>
  inLab(async (lab) => {
    try {
      await scenario(lab)
    } finally {
      await Promise.all(browsers.splice(0).map((browser) => browser.close()))
    }
  })

/** A browser on that host, with a page that is a peer: it sends a tone of 1000 Hz. */
async function browse(
  host: Host,
  signaling: Signaling,
  { iceServers = [] as TurnServer[], ...options }: LaunchOptions & { iceServers?: TurnServer[] } = {},
): Promise<BrowserPeer> {
  const browser = await launchChromium({
    netns: host.space.name,
    // Pages of this machine may talk to every network of this machine.
    disableFeatures: ['LocalNetworkAccessChecks', 'LocalNetworkAccessChecksWebSockets'],
    ...options,
  })
  browsers.push(browser)
  return browser.newPeer({
    signalingUrl: host.addresses.v4 ? signaling.url : signaling.urlV6,
    peerId: 'browser',
    audio: { toneHz: 1000 },
    connection: { iceServers },
  })
}

/** Each hears the other, and 200 messages arrive once and in order, both ways. */
async function expectWhole(node: Agent, page: BrowserPeer): Promise<void> {
  await Promise.all([node.connect('browser'), page.connected('node', 20_000)])
  await node.sendTone('browser', 440)
  const sender = await node.sendNumbers('browser', 5, 200, 200)
  await page.flood('node', 200, 200)
  const tone = await page.tone('node', 1000)
  expect(Math.abs(tone.frequencyHz - 440)).toBeLessThan(5)
  const heard = await until('the tone of the browser', 10_000, async () => {
    const frames = await node.media('browser', 'audio')
    return frames.filter(([, , level]) => Math.abs(level + 9) < 2).length > 50
  })
  expect(heard).toBe(true)
  const all = [...Array(200).keys()]
  expect(numbers(await page.received('node', 200))).toEqual(all)
  await until(
    'the messages of the browser',
    10_000,
    async () => (await node.numbers('browser')).length >= 200,
  )
  expect((await node.numbers('browser')).map(([n]) => n)).toEqual(all)
  expect((await node.stop(sender)).refused).toEqual([])
}

const numbers = (messages: PeerMessage[]) =>
  messages.map((message) => {
    if (message.kind !== 'binary') throw new Error(`a number came as ${message.kind}`)
    return new DataView(message.data.buffer, message.data.byteOffset).getUint32(0)
  })

const meet = async (
  lab: Lab,
  families: Family[],
): Promise<{ signaling: Signaling; at: { node: Host; browser: Host } }> => ({
  signaling: await Signaling.start(await lab.host('signaling')),
  at: { node: await lab.host('node', { families }), browser: await lab.host('browser', { families }) },
})

const urlOf = (signaling: Signaling, host: Host) => (host.addresses.v4 ? signaling.url : signaling.urlV6)

describeBrowser('Chromium', () => {
  test(
    'in a network where only the relay can be reached',
    () =>
      inLabWithBrowsers(async (lab) => {
        const { signaling, at } = await meet(lab, ['v4'])
        const relay = await Coturn.start(await lab.host('relay'))
        lab.onlyVia(signaling.host, relay.host)
        const turnServers = [relay.server()]
        const node = await Agent.start(at.node, { signalingUrl: signaling.url, peerId: 'node', turnServers })
        const page = await browse(at.browser, signaling, { iceServers: turnServers })
        await expectWhole(node, page)
        const { localCandidate } = await page.stats('node')
        const [peer] = await node.peers()
        expect([localCandidate?.type, peer?.path?.local]).toContain('relay')
      }),
    60_000,
  )

  test(
    'over IPv6 alone',
    () =>
      inLabWithBrowsers(async (lab) => {
        const { signaling, at } = await meet(lab, ['v6'])
        const node = await Agent.start(at.node, { signalingUrl: urlOf(signaling, at.node), peerId: 'node' })
        const page = await browse(at.browser, signaling)
        await expectWhole(node, page)
        const { localCandidate } = await page.stats('node')
        expect(localCandidate).toMatchObject({ type: 'host', address: at.browser.addresses.v6 })
      }),
    60_000,
  )

  test(
    'whose host candidates are names of multicast DNS',
    () =>
      inLabWithBrowsers(async (lab) => {
        // Both at home, on one LAN without STUN: the browser's name is all that there is, and it offers nothing else.
        const signaling = await Signaling.start(await lab.host('signaling'))
        const home = await lab.nat('home')
        const at = {
          node: await lab.host('node', { behind: home }),
          browser: await lab.host('browser', { behind: home }),
        }
        // Who is spoken to first is let in, so it has to be us: the browser's checks don't tell where it is.
        at.node.space.nft(`table inet firewall {
  chain input {
    type filter hook input priority 0; policy drop;
    iifname "lo" accept
    ct state established,related accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    udp sport 5353 accept
  }
}`)
        const node = await Agent.start(at.node, { signalingUrl: signaling.url, peerId: 'node' })
        const page = await browse(at.browser, signaling, { mdns: true })
        await expectWhole(node, page)
        const candidates = await page.page.evaluate(() => window.peer.localSdp('node'))
        expect(candidates).toMatch(/candidate:.* \S+\.local \d+ typ host/)
        expect(candidates).not.toContain(at.browser.addresses.v4)
      }),
    60_000,
  )

  test.each([
    ['whose UDP was gone for 10 s', 10_000],
    ['to a peer with a new address', 0],
  ])(
    '%s is heard again, and nothing is lost',
    (_, outageMs) =>
      inLabWithBrowsers(async (lab) => {
        const { signaling, at } = await meet(lab, ['v4'])
        const node = await Agent.start(at.node, { signalingUrl: signaling.url, peerId: 'node' })
        const page = await browse(at.browser, signaling)
        await Promise.all([node.connect('browser'), page.connected('node', 20_000)])
        await node.sendTone('browser')
        const sender = await node.sendNumbers('browser', 20)
        await mediaBack(node, 'browser', 0)
        const brokenAt = now()
        if (outageMs > 0) {
          at.browser.cut('udp')
          await sleep(outageMs)
          at.browser.heal()
        } else {
          at.node.renumber()
        }
        const healedAt = now()
        const back = await mediaBack(node, 'browser', healedAt + 100)
        figure(`Chromium ${_}: heard again after`, back)
        expect(Math.abs((await page.tone('node', 500)).frequencyHz - 440)).toBeLessThan(5)
        const { sent, refused } = await node.stop(sender)
        expect(refused).toEqual([])
        expect(numbers(await page.received('node', sent, 20_000))).toEqual([...Array(sent).keys()])
        expect(await page.waiting('node')).toBe(0)
        expect(node.statesOf('browser', brokenAt)).not.toContain('failed')
        expect(back).toBeLessThan(5000)
      }),
    90_000,
  )
})
