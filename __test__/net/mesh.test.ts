import type { RTCStats } from '@remotemedia/webrtc'
import { Call } from './kit/call.js'
import { figure, tellFigures } from './kit/figures.js'
import { type Agent, describeNet, type Host, type Lab, now, sleep, together } from './kit/index.js'

// A mesh is kept where the network is bad: everyone meets everyone, nothing on the reliable channel is lost, and sound goes on.

afterAll(tellFigures)

const NAMES = ['alice', 'bob', 'carol', 'dave']

const meshUnder = (condition: string, audibleShare: number) => async (lab: Lab) => {
  const hosts: Record<string, Host> = {}
  for (const [i, name] of NAMES.entries()) hosts[name] = await lab.host(name, { condition, seed: i + 1 })
  const startedAt = now()
  const call = await Call.open(lab, hosts)
  figure(`${condition}: a mesh of four after`, now() - startedAt)
  const talkedAt = now()
  await call.talk()
  await sleep(12_000)
  const shares: number[] = []
  for (const agent of call.peers.values())
    for (const other of NAMES)
      if (other !== agent.name) shares.push(await arrivedShare(call.peer(other), agent))
  figure(`${condition}: least share of the sound that came`, `${Math.round(100 * Math.min(...shares))} %`)
  expect(await call.faults({ timeoutMs: 45_000 })).toEqual([])
  figure(`${condition}: longest a message took`, Math.max(...(await delays(call))))
  for (const agent of call.peers.values()) {
    const seen = (await agent.peers()).map(({ id, state }) => [id, state])
    expect(seen).toEqual(NAMES.filter((n) => n !== agent.name).map((n) => [n, 'connected']))
    // Bad is not broken: nobody was given up, and ICE was not restarted for nothing.
    for (const other of NAMES) expect(agent.statesOf(other, talkedAt)).toEqual([])
    const offers = (await agent.signals(talkedAt)).filter(({ kind }) => kind !== 'candidate')
    expect(offers).toEqual([])
  }
  expect(Math.min(...shares)).toBeGreaterThan(audibleShare)
}

/** Of the audio packets that one sent another, how many came. */
async function arrivedShare(from: Agent, to: Agent): Promise<number> {
  const of = (stats: RTCStats[], type: string, name: string) => {
    const stream = stats.find((s) => s.type === type && 'kind' in s && s.kind === 'audio')
    return (stream as unknown as Record<string, number>)[name]!
  }
  const sent = of(await from.stats(to.name), 'outbound-rtp', 'packetsSent')
  const came = of(await to.stats(from.name), 'inbound-rtp', 'packetsReceived')
  expect(sent).toBeGreaterThan(200)
  return came / sent
}

/** How long messages took: numbers are sent one every 20 ms, so the earliest relative arrival is the measure for the others. */
async function delays(call: Call): Promise<number[]> {
  const longest: number[] = []
  for (const agent of call.peers.values() as Iterable<Agent>)
    for (const other of NAMES) {
      if (other === agent.name) continue
      const arrivals = (await agent.numbers(other)).map(([n, at]) => at - n * 20)
      longest.push(Math.max(...arrivals) - Math.min(...arrivals))
    }
  return longest
}

describeNet('a mesh of four', () => {
  together(
    {
      // Each packet between two peers passes two such links: 9.8 %, 4.8 %, 1 % and 0.2 % are lost.
      'is kept on lossy-5': meshUnder('lossy-5', 0.84),
      'is kept on wifi-bad': meshUnder('wifi-bad', 0.85),
      'is kept on 4g': meshUnder('4g', 0.94),
      'is kept on transatlantic': meshUnder('transatlantic', 0.96),
    },
    120_000,
  )
})
