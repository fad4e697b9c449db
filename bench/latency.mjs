#!/usr/bin/env node
// How late pictures (1280x720 at 30 a second) and sound are over a path with delay: a peer in each of two networks of namespaces
// (docs/network-conditions.md), as root on Linux. `npm run bench -- media` is the same without a path.
//
//   npm run bench -- latency [--delays 0,40] [--seconds 20]

import { createRequire } from 'node:module'
import { parseArgs } from 'node:util'
import { table } from './lib/table.mjs'

const { load } = createRequire(import.meta.url)('./lib/typescript.cjs')
const { inLab } = load('__test__/net/kit/index.ts')
const { latency } = load('__test__/net/kit/scenarios.ts')

const { values } = parseArgs({
  options: { delays: { type: 'string', default: '0,40' }, seconds: { type: 'string', default: '20' } },
})
const rows = []
for (const delay of values.delays.split(',').map(Number))
  for (const frameMs of [20, 10])
    await inLab(async (lab) => {
      const { video, audio } = await latency(lab, delay, frameMs, Number(values.seconds))
      const less = ([p50, p99]) => [(p50 - delay).toFixed(1), (p99 - delay).toFixed(1)]
      rows.push([delay, frameMs, ...less(video), ...less(audio)])
    })
console.log(
  table(
    [
      'one way, ms',
      'frames of sound, ms',
      'pictures p50 less that, ms',
      'p99',
      'sound p50 less that, ms',
      'p99',
    ],
    rows,
  ),
)
