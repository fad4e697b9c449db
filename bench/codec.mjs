#!/usr/bin/env node
// What encoding VP9 at 720p30 costs, of one core, beside bare libvpx with the same settings:
//   node bench/codec.mjs [--check] [--debug]
// The last line is JSON. `--check` fails at 30 % of a core, or over 1.10 times bare libvpx. `--debug` takes the debug build, to see
// that it works: libvpx is the same in both, what is around it is not.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const options = process.argv.slice(2)
const unknown = options.find((option) => !['--check', '--debug'].includes(option))
if (unknown) {
  console.error(`unknown option ${unknown}; there are --check and --debug`)
  process.exit(2)
}
const what = options.includes('--debug') ? 'test' : 'bench'
const args = [what, '--quiet', '-p', 'remotemedia-media', '--bench', 'encode_cost']
const more = options.includes('--check') ? ['--', '--check'] : []
const { status } = spawnSync('cargo', [...args, ...more], { cwd: root, stdio: 'inherit' })
process.exit(status ?? 1)
