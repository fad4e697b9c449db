/** What the tests of networks stand on. */
import { Lab } from './lab.js'
import { obstacle, sleep } from './system.js'

export { Agent } from './agent.js'
export { type Family, Host, ipOf, Lab, sweep } from './lab.js'
export type { NatKind } from './nat.js'
export { Signaling } from './signaling.js'
export { now, obstacle, sleep, until } from './system.js'

/** Tests that make networks. Where that is not possible they are skipped, loudly; in CI as root that is a failure. */
export function describeNet(name: string, body: () => void): void {
  if (obstacle === null) {
    describe(name, body)
    return
  }
  if (process.env.CI && process.getuid?.() === 0) {
    test(`${name}: networks can be made here`, () => {
      throw new Error(obstacle as string)
    })
    return
  }
  skipped(name, obstacle)
}

/** Says so where it is seen: jest keeps the console of a file to itself when all its tests are skipped. */
export function skipped(name: string, why: string): void {
  process.stderr.write(`SKIPPED: ${name}: ${why}\n`)
  describe(name, () => {
    test.skip(why, () => {})
  })
}

/** As `describeNet`, for what also needs programs that may be missing. */
export function describeNetWith(needs: Record<string, boolean>): typeof describeNet {
  const missing = Object.keys(needs).filter((name) => !needs[name])
  if (missing.length === 0 || obstacle !== null) return describeNet
  return (name, body) => {
    if (process.env.CI) describeNet(name, body)
    else skipped(name, `needs ${missing.join(' and ')}`)
  }
}

/** One test in a laboratory of its own. */
export type Scenario = (lab: Lab) => Promise<void>

/** Runs one scenario and tidies up after it. */
export async function inLab(scenario: Scenario): Promise<void> {
  const lab = new Lab()
  try {
    await scenario(lab)
  } catch (error) {
    const told = await Promise.all(lab.witnesses.map((witness) => witness().catch(String)))
    if (error instanceof Error) error.message += `\n\n${told.join('\n')}`
    throw error
  } finally {
    await lab.close()
  }
}

/** Between the starts of scenarios: a dozen calls that begin at once would keep each other waiting. */
const STAGGER_MS = 1500

/**
 * Tests that mostly wait, run at the same time in laboratories of their own: all begin soon after the first, in this order, and each
 * reports as a test by itself. Put the longest first.
 */
export function together(scenarios: Record<string, Scenario>, timeoutMs: number): void {
  const results = new Map<string, Promise<void>>()
  beforeAll(() => {
    for (const [i, [name, scenario]] of Object.entries(scenarios).entries()) {
      const result = sleep(i * STAGGER_MS).then(() => inLab(scenario))
      // Its own test tells of a failure, which may come before that test's turn.
      result.catch(() => {})
      results.set(name, result)
    }
  })
  // One that hangs must not outlive its test: its laboratory goes when the process does.
  for (const name of Object.keys(scenarios)) test(name, async () => results.get(name), timeoutMs)
}
