import { join } from 'node:path'
import { describeNet, type Host, inLab, type Lab, sleep, sweep } from './kit/index.js'
import { run, startOf } from './kit/system.js'

// The instruments themselves: what is asked of a network is what is got.

interface Echo {
  n: number
  /** When it arrived at the other end. */
  at: number
  up: number
  down: number
}

const SCRIPT = join(__dirname, 'kit', 'echo-process.mjs')

/** Sends datagrams from one host to another and back; what came, with the time of each direction. */
async function probe(
  from: Host,
  to: Host,
  count: number,
  intervalMs: number,
  family: 'v4' | 'v6' = 'v4',
  bytes = 100,
) {
  const server = to.space.spawn(process.execPath, [SCRIPT, 'serve', '7777'])
  await new Promise((resolve) => server.stdout.once('data', resolve))
  const args = [SCRIPT, 'probe', to.addresses[family]!, '7777', `${count}`, `${intervalMs}`, `${bytes}`]
  const client = from.space.spawn(process.execPath, args)
  let out = ''
  client.stdout.on('data', (chunk) => {
    out += chunk
  })
  await new Promise((resolve) => client.once('exit', resolve))
  server.kill('SIGKILL')
  const { sent, echoes } = JSON.parse(out) as { sent: number; echoes: Echo[] }
  const mean = (values: number[]) => values.reduce((sum, one) => sum + one, 0) / values.length
  const sorted = (values: number[]) => [...values].sort((a, b) => a - b)
  const ups = sorted(echoes.map(({ up }) => up))
  const downs = sorted(echoes.map(({ down }) => down))
  return {
    sent,
    echoes,
    lossPercent: (100 * (sent - echoes.length)) / sent,
    up: { mean: mean(ups), min: ups[0]!, median: ups[ups.length >> 1]! },
    down: { mean: mean(downs), min: downs[0]!, median: downs[downs.length >> 1]! },
  }
}

const pair = async (lab: Lab, condition?: string) => {
  const options = condition === undefined ? {} : { condition }
  return [await lab.host('near', options), await lab.host('far')] as const
}

describeNet('conditions', () => {
  test('a plain network carries both families without loss', () =>
    inLab(async (lab) => {
      const [near, far] = await pair(lab)
      for (const family of ['v4', 'v6'] as const) {
        const { lossPercent, up } = await probe(near, far, 100, 2, family)
        expect(lossPercent).toBe(0)
        expect(up.median).toBeLessThan(5)
      }
    }))

  test('transatlantic: its delay each way, on both families', () =>
    inLab(async (lab) => {
      const [near, far] = await pair(lab, 'transatlantic')
      for (const family of ['v4', 'v6'] as const) {
        const { lossPercent, up, down } = await probe(near, far, 200, 5, family)
        for (const way of [up, down]) {
          expect(way.min).toBeGreaterThanOrEqual(45)
          // 45 to 47 ms are asked for; the rest is the machine.
          expect(way.median).toBeLessThan(55)
        }
        expect(lossPercent).toBeLessThan(3)
      }
    }))

  test('lossy-5: five in a hundred of each direction', () =>
    inLab(async (lab) => {
      const [near, far] = await pair(lab, 'lossy-5')
      const { sent } = await probe(near, far, 4000, 1)
      const { up, down } = await near.forwarder!.stats()
      // 95 % of the datagrams are echoed. Three standard deviations.
      expect(Math.abs((100 * up.lost) / up.taken - 5)).toBeLessThan(1.1)
      expect(Math.abs((100 * down.lost) / down.taken - 5)).toBeLessThan(1.1)
      expect(up.taken).toBeGreaterThanOrEqual(sent)
      expect(up.given + up.lost).toBe(up.taken)
      expect([up.queueFull, up.overflow, up.refused]).toEqual([0, 0, 0])
    }))

  test('4g: jitter spreads the delay and keeps the order, and the uplink has its rate', () =>
    inLab(async (lab) => {
      const [near, far] = await pair(lab, '4g')
      const calm = await probe(near, far, 100, 40)
      expect(calm.up.min).toBeGreaterThanOrEqual(30)
      // 30 ms and up to 25 more: 42.5 on average.
      expect(calm.up.mean).toBeGreaterThan(39)
      expect(calm.up.mean).toBeLessThan(50)
      const numbers = calm.echoes.map(({ n }) => n)
      expect(numbers).toEqual([...numbers].sort((a, b) => a - b))
      // 1228 bytes a millisecond are 9.8 Mbit/s where 8 fit: the queue fills, then drops.
      await probe(near, far, 3000, 1, 'v4', 1200)
      const { up } = await near.forwarder!.stats()
      expect(up.queueFull).toBeGreaterThan(100)
    }))

  test('a condition can be changed under traffic', () =>
    inLab(async (lab) => {
      const [near, far] = await pair(lab, 'clear')
      const probing = probe(near, far, 600, 5)
      await sleep(1000)
      await near.forwarder!.set('up', { delay: 80 })
      const { echoes } = await probing
      const first = echoes.filter(({ n }) => n < 50).map(({ up }) => up)
      const last = echoes.filter(({ n }) => n >= 550).map(({ up }) => up)
      expect(Math.min(...first)).toBeLessThan(40)
      expect(Math.min(...last)).toBeGreaterThanOrEqual(80)
      await expect(near.forwarder!.condition('carrier-pigeon')).rejects.toThrow(/no condition.*wifi-bad/)
    }))
})

describeNet('a laboratory', () => {
  test('that died without tidying up is removed, and no other', () =>
    inLab(async (lab) => {
      // No process has this id: the kernel's ids end before it.
      const dead = `rm-${2 ** 22 + 1}-1-1-host`
      run('ip', ['netns', 'add', dead])
      expect(sweep()).toContain(dead)
      const names = run('ip', ['netns', 'list'])
      expect(names).not.toContain(dead)
      expect(names).toContain(lab.net.space.name)
    }))

  test('ends what runs in it', async () => {
    let pid = 0
    await inLab(async (lab) => {
      const host = await lab.host('host')
      pid = host.space.spawn('sleep', ['600']).pid!
      expect(startOf(pid)).not.toBeNull()
    })
    expect(startOf(pid)).toBeNull()
  })
})

describeNet('links without a forwarder', () => {
  test('nftables loses the share that is asked for', () =>
    inLab(async (lab) => {
      const [near, far] = await pair(lab)
      near.lose(0.2)
      await probe(near, far, 2000, 1)
      // 2000 there and 1600 back; three standard deviations.
      const { seen, lost } = near.losses()
      expect(seen).toBeGreaterThan(3000)
      expect(Math.abs(lost / seen - 0.2)).toBeLessThan(0.02)
      near.lose(0)
      expect((await probe(near, far, 100, 2)).lossPercent).toBe(0)
      expect(near.losses().lost).toBe(0)
    }))

  test('tbf holds the rate', () =>
    inLab(async (lab) => {
      const [near, far] = await pair(lab)
      near.limit(1_000_000, 100)
      const { echoes, lossPercent, up } = await probe(near, far, 2000, 1, 'v4', 500)
      // 542 bytes a millisecond in the frame are 4.3 Mbit/s; a quarter fits. The first 16 kB pass at once.
      const arrivals = echoes.map(({ at }) => at).slice(40)
      const bitsPerSecond = (542 * 8 * 1000 * (arrivals.length - 1)) / (arrivals.at(-1)! - arrivals[0]!)
      expect(bitsPerSecond).toBeGreaterThan(800_000)
      expect(bitsPerSecond).toBeLessThan(1_100_000)
      expect(lossPercent).toBeGreaterThan(60)
      expect(up.median).toBeGreaterThan(80)
    }))

  test('cut and heal, down and up, new addresses', () =>
    inLab(async (lab) => {
      const [near, far] = await pair(lab)
      const reach = async () => (await probe(near, far, 20, 2)).lossPercent
      near.cut()
      expect(await reach()).toBe(100)
      near.heal()
      expect(await reach()).toBe(0)
      near.down()
      near.up()
      expect(await reach()).toBe(0)
      const old = { ...near.addresses }
      near.renumber()
      expect(near.addresses).not.toEqual(old)
      expect(await reach()).toBe(0)
      expect((await probe(near, far, 20, 2, 'v6')).lossPercent).toBe(0)
    }))
})
