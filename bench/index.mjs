#!/usr/bin/env node
// `npm run bench`: the criterion benchmarks of the crates. `npm run bench -- NAME [options]`: one of the programs beside this file.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'

const folder = import.meta.dirname
// The figures of playout are columns of the table of loss.
const ALIASES = { playout: 'loss' }
const [name, ...options] = process.argv.slice(2)
const program = join(folder, `${ALIASES[name] ?? name}.mjs`)

if (name !== undefined && (name === 'index' || !existsSync(program))) {
  const names = readdirSync(folder).flatMap((file) => (/^(?!index)(.+)\.mjs$/.exec(file) ?? []).slice(1))
  console.error(`npm run bench -- ${[...names, ...Object.keys(ALIASES)].sort().join('|')}`)
  process.exit(2)
}
const [command, args] =
  name === undefined ? ['cargo', ['bench', '--workspace']] : [process.execPath, [program, ...options]]
process.exit(spawnSync(command, args, { stdio: 'inherit' }).status ?? 1)
