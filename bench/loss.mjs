#!/usr/bin/env node
// A call over a path that loses packets: what is heard and seen, and how long it waits before. Node to Node, and Chromium to
// Chromium with its own figures where there is one. In networks of namespaces (docs/network-conditions.md): as root on Linux.
//
//   npm run bench -- loss [--shares 0,1,5,10,20] [--kinds random,bursts] [--seconds 40] [--without-chromium]

import { createRequire } from 'node:module'
import { parseArgs } from 'node:util'
import { ms, percent, table } from './lib/table.mjs'

const { load } = createRequire(import.meta.url)('./lib/typescript.cjs')
const { inLab } = load('__test__/net/kit/index.ts')
const { lossy } = load('__test__/net/kit/scenarios.ts')
const { chromiumPath } = load('__test__/interop/chromium.ts')

const { values } = parseArgs({
  options: {
    shares: { type: 'string', default: '0,1,5,10,20' },
    kinds: { type: 'string', default: 'random,bursts' },
    seconds: { type: 'string', default: '40' },
    'without-chromium': { type: 'boolean', default: false },
  },
})
const stacks = values['without-chromium'] || chromiumPath() === null ? ['node'] : ['node', 'chromium']
const rows = []
for (const kind of values.kinds.split(','))
  for (const share of values.shares.split(',').map((n) => Number(n) / 100)) {
    if (share === 0 && kind !== 'random') continue
    for (const stack of stacks)
      await inLab(async (lab) => {
        const f = await lossy(lab, stack, { share, kind }, Number(values.seconds))
        rows.push([
          share === 0 ? 'none' : `${100 * share} % ${kind}`,
          stack === 'node' ? 'Node' : 'Chromium',
          percent(f.concealed),
          percent(f.recovered),
          ms(f.wait),
          percent(f.late),
          f.freezes.toFixed(1),
          ms(f.longestFreeze),
          f.psnr.toFixed(1),
          f.ssim.toFixed(3),
          Math.round(f.bps / 1000),
          f.keyframes,
        ])
        process.stderr.write(`${rows.at(-1).join(', ')}\n`)
      })
  }
console.log(
  table(
    [
      'lost each way',
      'peers',
      'sound made up',
      'from copies',
      'waits, ms',
      'late',
      'freezes a minute',
      'longest, ms',
      'PSNR, dB',
      'SSIM',
      'kbit/s',
      'keyframes',
    ],
    rows,
  ),
)
