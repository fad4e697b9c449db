import type { RTCInboundRtpStreamStats, RTCStats } from '@remotemedia/webrtc'
import { Call, longestGap, mediaBack, missing } from './kit/call.js'
import { figure, tellFigures } from './kit/figures.js'
import { type Agent, describeNet, inLab, type Lab, now, sleep, together } from './kit/index.js'

// What a call survives, and how soon it is back. Both peers send 50 numbered messages a second on the reliable channel, and a tone,
// all the time; the receivers' processes say what came and when.

afterAll(tellFigures)

/** Audio packets that never came, and those made up for them. */
const audioLosses = async (agent: Agent, peer: string) => {
  const stats = await agent.stats(peer)
  const sound = (s: RTCStats): s is RTCInboundRtpStreamStats => s.type === 'inbound-rtp' && s.kind === 'audio'
  const inbound = stats.find(sound)!
  return { lost: inbound.packetsLost, concealed: inbound.concealmentEvents! }
}

const negotiation = async (agent: Agent, since: number) =>
  (await agent.signals(since)).filter(({ kind }) => kind !== 'candidate').map(({ kind }) => kind)

const two = async (lab: Lab) => ({ alice: await lab.host('alice'), bob: await lab.host('bob') })

/**
 * Lets something last so long, and tells from when to when it did. A machine too busy to end it in time has made something else: then
 * it is done again, three times at most.
 */
async function lasting(
  ms: number,
  what: { begin(): unknown; end(): unknown; calm(since: number): Promise<unknown> },
): Promise<[from: number, to: number]> {
  for (let attempt = 1; ; attempt++) {
    const from = now()
    await what.begin()
    await sleep(ms)
    await what.end()
    const to = now()
    if (to - from < ms + 400 || attempt === 3) return [from, to]
    await what.calm(to)
    await sleep(3000)
  }
}

/** Both hear each other again in time, over the same channel, with nothing lost. */
async function expectHealed(
  call: Call,
  what: string,
  healedAt: number,
  brokenAt: number,
  withinMs = 5000,
): Promise<void> {
  const [alice, bob] = [call.peer('alice'), call.peer('bob')]
  const [there, back] = await Promise.all([
    mediaBack(bob, 'alice', healedAt),
    mediaBack(alice, 'bob', healedAt),
  ])
  figure(`${what}: media back after`, Math.max(there, back))
  expect(await call.faults()).toEqual([])
  for (const [agent, peer] of [
    [alice, 'bob'],
    [bob, 'alice'],
  ] as const) {
    const events = agent.events.filter(({ at }) => at >= brokenAt).map(({ event }) => event)
    expect(events).not.toContain('peerleft')
    expect(events).not.toContain('peerjoined')
    expect(events).not.toContain('channel')
    expect(events).not.toContain('channelclosed')
    expect(agent.statesOf(peer, brokenAt)).not.toContain('failed')
    expect(agent.statesOf(peer, brokenAt)).not.toContain('new')
    expect((await agent.peers()).map(({ id, state }) => [id, state])).toEqual([[peer, 'connected']])
  }
  expect(Math.max(there, back)).toBeLessThan(withinMs)
}

/** The last descriptions of both sides name other ICE credentials than the first. */
async function expectRestarted(call: Call, brokenAt: number): Promise<void> {
  const [alice, bob] = [call.peer('alice'), call.peer('bob')]
  const all = [...(await alice.signals()), ...(await bob.signals())]
  const before = new Set(all.filter(({ at }) => at < brokenAt).map(({ ufrag }) => ufrag))
  const after = all.filter(({ at, ufrag }) => at >= brokenAt && ufrag).map(({ ufrag }) => ufrag)
  expect(after.length).toBeGreaterThanOrEqual(2)
  for (const ufrag of after) expect(before).not.toContain(ufrag)
}

describeNet('a call whose signaling server dies', () => {
  // By itself, so that what is measured is not the start of a dozen other calls.
  test(
    'goes on without a gap, and the room is whole again soon after its return',
    () =>
      inLab(async (lab) => {
        const call = await Call.open(lab, { ...(await two(lab)), carol: await lab.host('carol') })
        await call.talk({ video: true })
        const agents = [...call.peers.values()]
        const calmFrom = now()
        await sleep(3000)
        const before = new Map<string, unknown>()
        for (const agent of agents)
          for (const { name } of agents)
            if (name !== agent.name) before.set(`${agent.name} ${name}`, await audioLosses(agent, name))
        const killedAt = now()
        await call.signaling.kill()
        await sleep(3000)
        await call.signaling.start()
        const startedAt = now()
        const back = await Promise.all(
          agents.map((agent) =>
            agent.event((e) => e.event === 'signalingback', 'signaling', { since: killedAt }),
          ),
        )
        figure(
          'signaling restarted: last client back after',
          Math.max(...back.map(({ at }) => at - startedAt)),
        )
        await sleep(2000)
        const end = now()
        for (const agent of agents) {
          const others = agents.filter((one) => one !== agent).map(({ name }) => name)
          for (const other of others) {
            const audio = await agent.media(other, 'audio', calmFrom)
            const during = longestGap(audio, killedAt, end)
            const calm = longestGap(audio, calmFrom, killedAt)
            figure(
              `signaling dead: ${agent.name} hears ${other}, longest wait calm/dead`,
              `${Math.round(calm.ms)}/${Math.round(during.ms)} ms`,
            )
            expect(
              missing(
                audio.filter(([at]) => at >= killedAt),
                20_000,
              ),
            ).toBe(0)
            expect(await audioLosses(agent, other)).toEqual(before.get(`${agent.name} ${other}`))
            // Nothing but the machine's own delays, which the calm seconds show.
            expect(during.ms).toBeLessThan(Math.max(200, 2 * calm.ms))
            expect((await agent.media(other, 'video', killedAt)).length).toBeGreaterThan(
              0.8 * 15 * ((end - killedAt) / 1000),
            )
            expect(agent.statesOf(other, killedAt)).toEqual([])
          }
          const events = agent.events.filter(({ at }) => at >= killedAt).map(({ event }) => event)
          expect(events).not.toContain('peerleft')
          expect(events).not.toContain('peerjoined')
          expect((await agent.peers()).map(({ id }) => id)).toEqual(others.sort())
          expect(await negotiation(agent, killedAt)).toEqual([])
        }
        for (const { at } of back) expect(at - startedAt).toBeLessThan(5000)
        expect(await call.faults()).toEqual([])
        // The room works: who comes now meets everyone.
        await call.join('dave', await lab.host('dave'))
        await call.connected()
      }),
    60_000,
  )
})

describeNet('a call', () => {
  together(
    {
      // Signaling goes on. By then SCTP's own timer has given up.
      'delivers everything when UDP was gone for 75 s': async (lab) => {
        const hosts = await two(lab)
        const call = await Call.open(lab, hosts)
        await call.talk({ label: 'files' })
        const brokenAt = now()
        hosts.alice.cut('udp')
        await sleep(75_000)
        hosts.alice.heal()
        const healedAt = now()
        await expectHealed(call, 'UDP gone 75 s', healedAt, brokenAt)
        await expectRestarted(call, brokenAt)
      },

      'restarts ICE when its network was gone for 30 s': async (lab) => {
        const hosts = await two(lab)
        const call = await Call.open(lab, hosts)
        await call.talk({ label: 'files' })
        const brokenAt = now()
        hosts.alice.cut()
        const silent = await call.peer('bob').state('alice', 'disconnected', { since: brokenAt })
        figure('network gone 30 s: disconnected after', silent.at - brokenAt)
        await sleep(30_000 - (now() - brokenAt))
        hosts.alice.heal()
        const healedAt = now()
        await expectHealed(call, 'network gone 30 s', healedAt, brokenAt)
        await expectRestarted(call, brokenAt)
      },

      'restarts ICE when its cable was out for 30 s': async (lab) => {
        const hosts = await two(lab)
        const call = await Call.open(lab, hosts)
        await call.talk({ label: 'files' })
        const brokenAt = now()
        hosts.alice.unplug()
        await sleep(30_000)
        hosts.alice.plug()
        const healedAt = now()
        await expectHealed(call, 'cable out 30 s', healedAt, brokenAt)
        await expectRestarted(call, brokenAt)
      },

      'lets a killed peer go, and keeps nothing of it': async (lab) => {
        const call = await Call.open(lab, { alice: await lab.host('alice'), carol: await lab.host('carol') })
        const alice = call.peer('alice')
        const before = await alice.census()
        await call.join('bob', await lab.host('bob'))
        await call.connected()
        await call.talk()
        const killedAt = now()
        await call.peer('bob').signal('SIGKILL')
        const seen = await alice.state('bob', 'disconnected', { since: killedAt, timeoutMs: 30_000 })
        figure('peer killed: disconnected after', seen.at - killedAt)
        const left = await alice.event((e) => e.event === 'peerleft' && e.peerId === 'bob', 'bob left', {
          since: killedAt,
          timeoutMs: 40_000,
        })
        figure('peer killed: gone after', left.at - killedAt)
        expect((await alice.peers()).map(({ id, state }) => [id, state])).toEqual([['carol', 'connected']])
        expect((await alice.stats()).filter(({ peerId }) => peerId === 'bob')).toEqual([])
        const after = await alice.census()
        expect(after.threads).toBeLessThanOrEqual(before.threads)
        expect(after.sockets).toBeLessThanOrEqual(before.sockets)
        expect(after.files).toBeLessThanOrEqual(before.files)
        // The others were not disturbed.
        expect(alice.statesOf('carol', killedAt)).toEqual([])
        expect(await call.faults({ without: ['bob'] })).toEqual([])
        expect(seen.at - killedAt).toBeLessThan(7000)
        expect(left.at - killedAt).toBeLessThan(30_000)
      },

      'is not renegotiated when its network is gone for 3 s': async (lab) => {
        const hosts = await two(lab)
        const call = await Call.open(lab, hosts)
        await call.talk({ label: 'files' })
        const [brokenAt, healedAt] = await lasting(3000, {
          begin: () => hosts.alice.cut(),
          end: () => hosts.alice.heal(),
          calm: (since) => mediaBack(call.peer('alice'), 'bob', since),
        })
        await expectHealed(call, 'network gone 3 s', healedAt, brokenAt)
        for (const agent of call.peers.values()) {
          expect(await negotiation(agent, brokenAt)).toEqual([])
          expect(agent.events.filter((e) => e.event === 'peerstatechange' && e.at >= brokenAt)).toEqual([])
        }
      },

      "follows a peer's new address": async (lab) => {
        const hosts = await two(lab)
        const call = await Call.open(lab, hosts)
        await call.talk({ label: 'files' })
        const brokenAt = now()
        hosts.alice.renumber()
        await expectHealed(call, 'new address', brokenAt, brokenAt)
      },

      'follows a peer to another network': async (lab) => {
        const home = await lab.nat('home')
        const hosts = { alice: await lab.host('alice', { behind: home }), bob: await lab.host('bob') }
        const call = await Call.open(lab, hosts)
        await call.talk({ label: 'files' })
        const brokenAt = now()
        hosts.alice.move(lab.net.segment())
        await expectHealed(call, 'another network', brokenAt, brokenAt)
      },

      'follows a NAT that forgot its mappings': async (lab) => {
        const home = await lab.nat('home')
        const hosts = { alice: await lab.host('alice', { behind: home }), bob: await lab.host('bob') }
        const call = await Call.open(lab, hosts)
        await call.talk({ label: 'files' })
        const brokenAt = now()
        home.rebind()
        await expectHealed(call, 'NAT rebinding', brokenAt, brokenAt)
      },

      'follows a NAT that was restarted': async (lab) => {
        const home = await lab.nat('home')
        const hosts = { alice: await lab.host('alice', { behind: home }), bob: await lab.host('bob') }
        const call = await Call.open(lab, hosts)
        await call.talk({ label: 'files' })
        const brokenAt = now()
        home.rebind({ everything: true })
        // Signaling is cut off as well, until TCP sends again what got lost: 0.2, 0.4, 0.8 … s apart.
        await expectHealed(call, 'NAT restarted', brokenAt, brokenAt, 8000)
      },

      'survives the stall of a process for 2 s': async (lab) => {
        const call = await Call.open(lab, await two(lab))
        await call.talk()
        const alice = call.peer('alice')
        const [stalledAt, awakeAt] = await lasting(2000, {
          begin: () => alice.signal('SIGSTOP'),
          end: () => alice.signal('SIGCONT'),
          calm: (since) => mediaBack(alice, 'bob', since),
        })
        await expectHealed(call, 'process stalled 2 s', awakeAt, stalledAt)
        for (const agent of call.peers.values()) {
          expect(agent.events.filter((e) => e.event === 'peerstatechange' && e.at >= stalledAt)).toEqual([])
          expect(await negotiation(agent, stalledAt)).toEqual([])
        }
      },
    },
    150_000,
  )
})
