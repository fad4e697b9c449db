import { figure, tellFigures } from './kit/figures.js'
import { describeNet, inLab } from './kit/index.js'
import { lossy } from './kit/scenarios.js'

// What losses cost. The whole table, beside Chromium's: `npm run bench -- loss`, docs/loss.md.

jest.setTimeout(120_000)
jest.retryTimes(1, { logErrorsBeforeRetry: true })
afterAll(tellFigures)

describeNet('loss', () => {
  test('5 % at random: hardly a freeze, hardly a gap', () =>
    inLab(async (lab) => {
      const seconds = 20
      const f = await lossy(lab, 'node', { share: 0.05, kind: 'random' }, seconds)
      figure('sound made up', `${(100 * f.concealed).toFixed(2)} %`)
      figure('longest freeze', f.longestFreeze)
      figure('pictures', `${f.psnr.toFixed(1)} dB, SSIM ${f.ssim.toFixed(3)}`)
      // At most one a minute, of which this is a part.
      expect((f.freezes * seconds) / 60).toBeLessThanOrEqual(1)
      expect(f.concealed).toBeLessThan(0.01)
      expect(f.psnr).toBeGreaterThan(28)
    }))
})
