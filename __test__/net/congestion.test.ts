import { figure, tellFigures } from './kit/figures.js'
import { describeNet, inLab, type Lab } from './kit/index.js'
import { bulkBeside, clamp, sharing } from './kit/scenarios.js'

// A call follows the path that it has. The bounds are those of the project's issues; figures and Chromium's: `npm run bench --
// congestion`. All of it is a matter of seconds and shares, which a busy machine spoils now and then: each has a second try.

jest.setTimeout(150_000)
jest.retryTimes(1, { logErrorsBeforeRetry: true })
afterAll(tellFigures)

const measured = async <T>(scenario: (lab: Lab) => Promise<T>): Promise<T> => {
  let figures: T | undefined
  await inLab(async (lab) => {
    figures = await scenario(lab)
  })
  return figures!
}

describeNet('congestion', () => {
  test('5 to 0.5 to 5 Mbit/s: followed down and up, and the sound goes on', async () => {
    const f = await measured((lab) => clamp(lab, 'node'))
    figure('under the clamp after', f.under * 1000)
    figure('its queue under 100 ms after', f.queueBack * 1000)
    figure('80 % of 5 Mbit/s after the release', f.back * 1000)
    figure('the queue under the clamp, 95 of 100 looks', f.queue95)
    figure('sound made up', `${(100 * f.concealed).toFixed(2)} %`)
    expect(f.under).toBeLessThan(3)
    expect(f.queueBack).toBeLessThan(5)
    expect(f.back).toBeLessThan(15)
    expect(f.concealed).toBeLessThan(0.02)
    expect(f.silence).toBeLessThan(400)
  })

  test('a bulk transfer beside a call leaves sound whole and pictures their share', async () => {
    const f = await measured(bulkBeside)
    figure('pictures beside a transfer', f.video.beside / 1000, 'kbit/s')
    figure('the transfer', f.data / 1000, 'kbit/s')
    figure('the queue, 95 of 100 looks', f.queue95)
    expect(f.concealed).toBeLessThan(0.02)
    expect(f.silence).toBeLessThan(250)
    expect(f.queue95).toBeLessThan(150)
    expect(f.data).toBeGreaterThan(700_000)
    expect(f.video.beside).toBeGreaterThan(250_000)
  })
})

// Another minute.
describeNet('congestion with NET_LONG=1', () => {
  const long = process.env.NET_LONG ? test : test.skip
  long('two calls that share a link each get 35 to 65 %', async () => {
    const f = await measured(sharing)
    figure('share of the first call', `${(100 * f.share).toFixed(0)} %`)
    expect(f.share).toBeGreaterThan(0.35)
    expect(f.share).toBeLessThan(0.65)
    expect(f.rates[0]! + f.rates[1]!).toBeGreaterThan(1_800_000)
  })
})
