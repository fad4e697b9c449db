#!/usr/bin/env node
// A call on a path that becomes narrow and wide again, two calls that share one, and a bulk transfer beside a call. In networks of
// namespaces (docs/network-conditions.md): as root on Linux. The first beside Chromium to Chromium, where there is one.
//
//   npm run bench -- congestion [--only clamp,sharing,bulk] [--without-chromium]

import { createRequire } from 'node:module'
import { parseArgs } from 'node:util'
import { mbps, ms, percent, seconds, table } from './lib/table.mjs'

const { load } = createRequire(import.meta.url)('./lib/typescript.cjs')
const { inLab } = load('__test__/net/kit/index.ts')
const { bulkBeside, clamp, sharing } = load('__test__/net/kit/scenarios.ts')
const { chromiumPath } = load('__test__/interop/chromium.ts')

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: 'clamp,sharing,bulk' },
    'without-chromium': { type: 'boolean', default: false },
  },
})
const only = values.only.split(',')
const measure = async (scenario) => {
  let figures
  await inLab(async (lab) => {
    figures = await scenario(lab)
  })
  return figures
}

if (only.includes('clamp')) {
  const stacks = values['without-chromium'] || chromiumPath() === null ? ['node'] : ['node', 'chromium']
  const columns = []
  for (const stack of stacks) columns.push(await measure((lab) => clamp(lab, stack)))
  const row = (name, of) => [name, ...columns.map(of)]
  console.log(
    '5 Mbit/s, 0.5 after 14 s, 5 again 12 s later; 25 ms each way, a queue of 300 ms, 640x360 at 30 that takes any bitrate.\n',
  )
  console.log(
    table(
      ['', ...stacks.map((stack) => (stack === 'node' ? 'Node to Node' : 'Chromium to Chromium'))],
      [
        row('sent before the clamp, Mbit/s', (f) => mbps(f.before)),
        row('under the clamp after, s', (f) => seconds(f.under)),
        row('queue under 100 ms after, s', (f) => seconds(f.queueBack)),
        row('queue then: 95 of 100 looks, longest, ms', (f) => `${ms(f.queue95)}, ${ms(f.queueLongest)}`),
        row('80 % of 5 Mbit/s after the release, s', (f) => seconds(f.back)),
        row('sent at the end, Mbit/s', (f) => mbps(f.after)),
        row('sound made up', (f) => percent(f.concealed)),
        row('longest without sound, ms', (f) => ms(f.silence)),
        row('longest freeze, ms', (f) => ms(f.longestFreeze)),
        row(
          'PSNR at 5 and at 0.5 Mbit/s, dB',
          (f) => `${f.psnr.wide.toFixed(1)}, ${f.psnr.narrow.toFixed(1)}`,
        ),
      ],
    ),
  )
}

if (only.includes('sharing')) {
  const { rates, share, queue95, concealed } = await measure(sharing)
  console.log('\nTwo calls on 3 Mbit/s, the second ten seconds later; 20 s of both.\n')
  const row = (n) => [n + 1, mbps(rates[n]), percent(n === 0 ? share : 1 - share), percent(concealed[n])]
  console.log(table(['call', 'Mbit/s', 'share', 'sound made up'], [row(0), row(1)]))
  console.log(`\nThe queue in 95 of 100 looks: ${ms(queue95)} ms.`)
}

if (only.includes('bulk')) {
  const { video, data, queue95, concealed, silence } = await measure(bulkBeside)
  console.log('\nA call on 3 Mbit/s, and a bulk transfer of messages of 16 KiB.\n')
  console.log(
    table(
      [
        'pictures alone, Mbit/s',
        'beside',
        'data, Mbit/s',
        'queue (95 of 100), ms',
        'sound made up',
        'longest without sound, ms',
      ],
      [[mbps(video.alone), mbps(video.beside), mbps(data), ms(queue95), percent(concealed), ms(silence)]],
    ),
  )
}
