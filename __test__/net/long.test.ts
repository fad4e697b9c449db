import { Call, longestGap } from './kit/call.js'
import { Coturn } from './kit/coturn.js'
import { figure, tellFigures } from './kit/figures.js'
import { describeNet, inLab, now, Signaling, skipped, sleep } from './kit/index.js'

// What takes longer than anybody wants to wait for every change: NET_LONG=1 npm run test:net -- -- long

afterAll(tellFigures)

const describeLong: typeof describeNet =
  process.env.NET_LONG === '1' ? describeNet : (name) => skipped(name, 'needs NET_LONG=1')

describeLong('a relayed call of 13 minutes', () => {
  // coturn's own times: a nonce lasts 600 s, a permission 300 s, a channel 600 s, an allocation 600 s.
  test(
    'outlives nonces, permissions, channels and allocations',
    () =>
      inLab(async (lab) => {
        const signaling = await Signaling.start(await lab.host('signaling'))
        const relay = await Coturn.start(await lab.host('relay'), { settings: ['stale-nonce=600'] })
        const hosts = { alice: await lab.host('alice'), bob: await lab.host('bob') }
        lab.onlyVia(signaling.host, relay.host)
        const config = { iceTransportPolicy: 'relay' as const, turnServers: [relay.server('udp')] }
        const call = await Call.open(lab, hosts, config, { signaling })
        await call.talk()
        const startedAt = now()
        await sleep(13 * 60_000)
        for (const [name, agent] of call.peers) {
          const other = name === 'alice' ? 'bob' : 'alice'
          const gap = longestGap(await agent.media(other, 'audio'), startedAt)
          figure(`13 minutes on the relay: longest wait for sound of ${other}`, gap.ms)
          expect(gap.ms).toBeLessThan(1000)
          expect(agent.statesOf(other, startedAt)).toEqual([])
        }
        expect(relay.log).toMatch(/438|stale nonce/i)
        expect(await call.faults()).toEqual([])
      }),
    15 * 60_000,
  )
})
