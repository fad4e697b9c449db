#!/usr/bin/env node
// Every linter and formatter, all of them even when one fails: `npm run lint [-- --only rust|js]`.
import { fileURLToPath } from 'node:url'
import { duration, main, run, say, tool } from './lib/process.mjs'

const CHECKS = [
  { name: 'rustfmt', part: 'rust', command: () => ['cargo', ['fmt', '--all', '--check']] },
  {
    name: 'clippy',
    part: 'rust',
    command: () => ['cargo', ['clippy', '--workspace', '--all-targets', '--', '-D', 'warnings']],
  },
  {
    name: 'biome',
    part: 'js',
    command: () => node(tool('@biomejs/biome', 'bin/biome'), 'check', '--error-on-warnings', '.'),
  },
  { name: 'types', part: 'js', command: () => node(tool('typescript', 'bin/tsc'), '-p', 'tsconfig.json') },
]

const node = (...args) => [process.execPath, args]

/** Resolves to the names of the checks that failed. */
export async function lint({ only } = {}) {
  const failed = []
  for (const { name, part, command } of CHECKS) {
    if (only && only !== part) continue
    const started = Date.now()
    const code = await run(...command())
    if (code !== 0) failed.push(name)
    say(`lint: ${name}: ${code === 0 ? 'ok' : 'FAILED'} (${duration(Date.now() - started)})`)
  }
  return failed
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const at = process.argv.indexOf('--only')
  await main(async () =>
    (await lint({ only: at > 0 ? process.argv[at + 1] : undefined })).length > 0 ? 1 : 0,
  )
}
