#!/usr/bin/env node
// Compiles src-ts to dist/, and puts the addon's binding beside the code that loads it.
import { chmodSync, copyFileSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { main, Problem, ROOT, run, tool } from './lib/process.mjs'
import { contentHash, setStamp, stamp } from './lib/stamps.mjs'

const sources = () => contentHash(['src-ts', 'tsconfig.json', 'tsconfig.build.json', 'package-lock.json'])

export function tsIsCurrent() {
  return existsSync(join(ROOT, 'dist', 'index.js')) && stamp('ts') === sources()
}

export async function buildTs() {
  const hash = sources()
  // Into a new folder first: a removed source leaves nothing behind, and whoever runs dist/ meanwhile is not disturbed.
  const fresh = join(ROOT, '.cache', 'dist')
  rmSync(fresh, { recursive: true, force: true })
  mkdirSync(fresh, { recursive: true })
  const tsc = [tool('typescript', 'bin/tsc'), '-p', 'tsconfig.build.json', '--outDir', fresh]
  if ((await run(process.execPath, tsc)) !== 0) throw new Problem('TypeScript found errors: see above.')
  copyNative(join(ROOT, 'src-ts', 'native'), join(fresh, 'native'))
  const cli = join(fresh, 'cli.js')
  if (existsSync(cli)) chmodSync(cli, 0o755)
  const dist = join(ROOT, 'dist')
  const old = join(ROOT, '.cache', 'dist-old')
  rmSync(old, { recursive: true, force: true })
  if (existsSync(dist)) renameSync(dist, old)
  renameSync(fresh, dist)
  rmSync(old, { recursive: true, force: true })
  setStamp('ts', hash)
}

/** The binding goes into the package; the binary is there for running dist/ in this checkout only (see `files`). */
function copyNative(from, to) {
  mkdirSync(to, { recursive: true })
  for (const name of readdirSync(from)) {
    if (/^binding\.|\.node$/.test(name)) copyFileSync(join(from, name), join(to, name))
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(buildTs)
