import type { PeerPath, RTCIceCandidateStats, RTCStats } from '@remotemedia/webrtc'
import { Call, mediaBack } from './kit/call.js'
import { Coturn, type CoturnOptions, hasCoturn, type RelayTransport } from './kit/coturn.js'
import { figure, tellFigures } from './kit/figures.js'
import {
  type Agent,
  describeNetWith,
  type Family,
  ipOf,
  type Lab,
  type NatKind,
  now,
  Signaling,
  sleep,
  together,
  until,
} from './kit/index.js'

// Peers that can't simply reach each other: NAT boxes, and networks where only the relay can be reached.

afterAll(tellFigures)

const describeTraversal = describeNetWith({ coturn: hasCoturn() })

const isRemote = (s: RTCStats): s is RTCIceCandidateStats => s.type === 'remote-candidate'

/** A signaling server and a relay in the internet. */
async function services(lab: Lab, options: CoturnOptions = {}) {
  const signaling = await Signaling.start(await lab.host('signaling'))
  const relay = await Coturn.start(await lab.host('relay'), options)
  return { signaling, relay }
}

/** What an agent says of its path to a peer. */
async function pathOf(agent: Agent, peer: string): Promise<PeerPath> {
  return until(
    `${agent.name} has a path to ${peer}`,
    5000,
    async () => (await agent.peers()).find(({ id }) => id === peer)?.path,
  )
}

/** Everything sent arrives: messages all, media steadily. */
async function expectWhole(call: Call): Promise<void> {
  const from = now()
  await call.talk()
  await sleep(1500)
  for (const agent of call.peers.values()) {
    for (const other of call.peers.keys()) if (other !== agent.name) await mediaBack(agent, other, from)
  }
  expect(await call.faults()).toEqual([])
}

const onlyTheRelay =
  (transport: RelayTransport, family: Family = 'v4') =>
  async (lab: Lab) => {
    const { signaling, relay } = await services(lab)
    const families = [family]
    const hosts = { alice: await lab.host('alice', { families }), bob: await lab.host('bob', { families }) }
    lab.onlyVia(signaling.host, relay.host)
    const startedAt = now()
    const call = await Call.open(
      lab,
      hosts,
      { turnServers: [relay.server(transport, family)] },
      { signaling, env: { NODE_EXTRA_CA_CERTS: relay.certificate } },
    )
    figure(`only the relay, ${transport} ${family}: both connected after`, now() - startedAt)
    await expectWhole(call)
    expect((await relayedPath(call)).protocol).toBe(transport)
  }

/** The path of the side that uses its relay; the other may be reached at its own address by it. */
async function relayedPath(call: Call): Promise<PeerPath> {
  const paths = [await pathOf(call.peer('alice'), 'bob'), await pathOf(call.peer('bob'), 'alice')]
  expect(paths.map(({ local }) => local)).toContain('relay')
  return paths.find(({ local }) => local === 'relay')!
}

const behindNats = (kinds: [NatKind, NatKind], expected: 'direct' | 'relay') => async (lab: Lab) => {
  const { signaling, relay } = await services(lab)
  const boxes = [await lab.nat('box-a', kinds[0]), await lab.nat('box-b', kinds[1])] as const
  const hosts = {
    alice: await lab.host('alice', { behind: boxes[0] }),
    bob: await lab.host('bob', { behind: boxes[1] }),
  }
  const startedAt = now()
  const config =
    expected === 'direct'
      ? { stunServers: [relay.stunUrl()] }
      : { stunServers: [relay.stunUrl()], turnServers: [relay.server()] }
  const call = await Call.open(lab, hosts, config, { signaling })
  figure(`behind NATs, ${kinds.join(' and ')}: both connected after`, now() - startedAt)
  await expectWhole(call)
  if (expected === 'relay') {
    await relayedPath(call)
    return
  }
  const path = await pathOf(call.peer('alice'), 'bob')
  expect(path.local).not.toBe('relay')
  expect(['srflx', 'prflx']).toContain(path.remote)
  // The packets themselves: between the boxes, in both directions.
  const pair = (await call.peer('alice').stats('bob')).find(isRemote)
  expect(pair?.address).toBe(boxes[1].publicAddress)
}

/** Counts the UDP and TCP packets that leave and reach a host: of those it may talk to, and all others. */
function countAtPort(
  lab: Lab,
  host: { port: string },
  allowed: { addresses: Partial<Record<Family, string>> }[],
) {
  const of = (end: 'saddr' | 'daddr', counter: string) =>
    allowed.flatMap(({ addresses }) =>
      (['v4', 'v6'] as const)
        .filter((family) => addresses[family])
        .map((family) => `${ipOf(family)} ${end} ${addresses[family]} counter name ${counter} return`),
    )
  lab.net.space.nft(`table netdev watch-${host.port} {
  counter allowed { }
  counter other { }
  chain in {
    type filter hook ingress device "${host.port}" priority -10;
    ${of('daddr', 'allowed').join('\n    ')}
    meta l4proto { udp, tcp } counter name other
  }
  chain out {
    type filter hook egress device "${host.port}" priority -10;
    ${of('saddr', 'allowed').join('\n    ')}
    meta l4proto { udp, tcp } counter name other
  }
}`)
  // For a failed test's message, where there is a tcpdump: what it was.
  const hosts = allowed.flatMap(({ addresses }) =>
    Object.values(addresses).map((address) => `host ${address}`),
  )
  const filter = `(udp or tcp) and not (${hosts.join(' or ')})`
  const dump = lab.net.space.spawn('tcpdump', ['-lni', host.port, '--immediate-mode', ...filter.split(' ')])
  let seen = ''
  dump.stdout.on('data', (chunk) => {
    seen += chunk
  })
  lab.witnesses.push(async () => `other packets at ${host.port}:\n${seen}`)
  return () => lab.net.space.counters(`netdev watch-${host.port}`)
}

describeTraversal('peers', () => {
  together(
    {
      'meet where only the relay can be reached: UDP': onlyTheRelay('udp'),
      'meet where only the relay can be reached: TCP': onlyTheRelay('tcp'),
      'meet where only the relay can be reached: TLS': onlyTheRelay('tls'),
      'meet where only the relay can be reached: IPv6': onlyTheRelay('udp', 'v6'),
      'meet through two NATs by what STUN tells': behindNats(
        ['port-restricted', 'port-restricted'],
        'direct',
      ),
      'meet through two symmetric NATs by the relay': behindNats(['symmetric', 'symmetric'], 'relay'),
      'meet through a symmetric and a port-restricted NAT by the relay': behindNats(
        ['symmetric', 'port-restricted'],
        'relay',
      ),
    },
    60_000,
  )
})

describeTraversal('peers on their own', () => {
  together(
    {
      'meet over IPv6 alone': async (lab) => {
        const families: Family[] = ['v6']
        const hosts = {
          alice: await lab.host('alice', { families }),
          bob: await lab.host('bob', { families }),
        }
        const call = await Call.open(lab, hosts)
        await expectWhole(call)
        expect(await pathOf(call.peer('alice'), 'bob')).toMatchObject({ local: 'host', family: 'IPv6' })
      },

      'relay only: nothing else is told, sent or received': async (lab) => {
        const { signaling, relay } = await services(lab)
        const hosts = { alice: await lab.host('alice'), bob: await lab.host('bob') }
        const counts = [hosts.alice, hosts.bob].map((host) =>
          countAtPort(lab, host, [signaling.host, relay.host]),
        )
        const call = await Call.open(
          lab,
          hosts,
          {
            iceTransportPolicy: 'relay',
            stunServers: [relay.stunUrl()],
            turnServers: [relay.server('udp'), relay.server('tcp')],
          },
          { signaling },
        )
        await expectWhole(call)
        for (const agent of call.peers.values()) {
          const other = agent.name === 'alice' ? 'bob' : 'alice'
          expect(await pathOf(agent, other)).toMatchObject({ local: 'relay' })
          // Its kind may be `prflx`, when its packets came before we were told; its address is the relay's.
          const remote = (await agent.stats(other)).find(isRemote)
          expect(Object.values(relay.host.addresses)).toContain(remote?.address)
          const signals = await agent.signals()
          const told = signals.flatMap(({ sdp, candidate }) =>
            [...(sdp ?? candidate ?? '').matchAll(/candidate:.*/g)].map(([line]) => line),
          )
          expect(told.length).toBeGreaterThan(0)
          expect(told.filter((line) => !line.includes(' typ relay'))).toEqual([])
          const all = signals.map(({ sdp, candidate }) => sdp ?? candidate).join('\n')
          for (const address of Object.values(agent.host.addresses)) expect(all).not.toContain(address)
        }
        for (const read of counts) {
          const { allowed, other } = read()
          expect(allowed).toBeGreaterThan(200)
          expect(other).toBe(0)
        }
      },

      'relay only, to a peer that allows everything': async (lab) => {
        const { signaling, relay } = await services(lab)
        const hosts = { alice: await lab.host('alice'), bob: await lab.host('bob') }
        const call = await Call.open(
          lab,
          { alice: hosts.alice },
          { iceTransportPolicy: 'relay', turnServers: [relay.server()] },
          { signaling },
        )
        const count = countAtPort(lab, hosts.alice, [signaling.host, relay.host])
        await call.join('bob', hosts.bob)
        await call.connected()
        await expectWhole(call)
        expect(await pathOf(call.peer('alice'), 'bob')).toMatchObject({ local: 'relay', protocol: 'udp' })
        // What bob sends to alice's own address would be seen at her port; he can't know it.
        expect(count().other).toBe(0)
      },

      'come back through the relay after an outage': async (lab) => {
        const { signaling, relay } = await services(lab)
        const hosts = { alice: await lab.host('alice'), bob: await lab.host('bob') }
        lab.onlyVia(signaling.host, relay.host)
        const call = await Call.open(lab, hosts, { turnServers: [relay.server()] }, { signaling })
        await call.talk()
        const brokenAt = now()
        hosts.alice.cut()
        await call.peer('bob').state('alice', 'disconnected', { since: brokenAt })
        await sleep(10_000 - (now() - brokenAt))
        hosts.alice.heal()
        const healedAt = now()
        const back = await Promise.all([
          mediaBack(call.peer('alice'), 'bob', healedAt),
          mediaBack(call.peer('bob'), 'alice', healedAt),
        ])
        figure('outage of 10 s on the relay: media back after', Math.max(...back))
        expect(await call.faults()).toEqual([])
        expect(Math.max(...back)).toBeLessThan(5000)
      },

      'keep a relayed call over nonces and credentials that expire': async (lab) => {
        const { signaling, relay } = await services(lab, {
          secret: 'north',
          settings: ['stale-nonce=3'],
        })
        const hosts = { alice: await lab.host('alice'), bob: await lab.host('bob') }
        lab.onlyVia(signaling.host, relay.host)
        const asked: number[] = []
        const turnServers = () => {
          asked.push(now())
          return [relay.timed(6)]
        }
        const call = await Call.open(lab, hosts, {}, { signaling, turnServers })
        await call.talk()
        // Both the nonces and the credentials of the start are worth nothing now.
        await sleep(12_000)
        const brokenAt = now()
        // A new address needs a new allocation, and that needs credentials that count.
        hosts.alice.renumber()
        const back = await Promise.all([
          mediaBack(call.peer('alice'), 'bob', brokenAt + 100),
          mediaBack(call.peer('bob'), 'alice', brokenAt + 100),
        ])
        figure('new address on the relay, old credentials expired: media back after', Math.max(...back))
        expect(await call.faults()).toEqual([])
        expect(asked.filter((at) => at > brokenAt - 12_000).length).toBeGreaterThan(0)
        expect(Math.max(...back)).toBeLessThan(5000)
      },

      'ask for new credentials when the relay refuses the first': async (lab) => {
        const { signaling, relay } = await services(lab, { secret: 'north' })
        const hosts = { alice: await lab.host('alice'), bob: await lab.host('bob') }
        lab.onlyVia(signaling.host, relay.host)
        const asked = { alice: 0, bob: 0 }
        const servers = (name: 'alice' | 'bob') => () => [relay.timed(asked[name]++ === 0 ? -60 : 600)]
        const call = await Call.open(
          lab,
          { alice: hosts.alice },
          {},
          { signaling, turnServers: servers('alice') },
        )
        await call.join('bob', hosts.bob, {}, { turnServers: servers('bob') })
        await call.connected()
        await expectWhole(call)
        expect(asked.alice).toBeGreaterThan(1)
      },

      'follow NATs on both sides that forget their mappings': async (lab) => {
        const { signaling, relay } = await services(lab)
        const boxes = { alice: await lab.nat('box-a'), bob: await lab.nat('box-b') }
        const hosts = {
          alice: await lab.host('alice', { behind: boxes.alice }),
          bob: await lab.host('bob', { behind: boxes.bob }),
        }
        const call = await Call.open(lab, hosts, { stunServers: [relay.stunUrl()] }, { signaling })
        await call.talk()
        const brokenAt = now()
        boxes.alice.rebind()
        const back = await Promise.all([
          mediaBack(call.peer('alice'), 'bob', brokenAt + 100),
          mediaBack(call.peer('bob'), 'alice', brokenAt + 100),
        ])
        figure('rebinding, NATs on both sides: media back after', Math.max(...back))
        expect(await call.faults()).toEqual([])
        expect(call.peer('alice').events.filter((e) => e.at > brokenAt && e.event === 'peerleft')).toEqual([])
        expect(Math.max(...back)).toBeLessThan(5000)
      },
    },
    90_000,
  )
})
