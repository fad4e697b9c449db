#!/usr/bin/env node
// Builds the native addon (release) into src-ts/native, with its generated binding and types.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { thisPlatform } from './lib/platforms.mjs'
import { duration, main, Problem, ROOT, run, say, tool } from './lib/process.mjs'
import { contentHash, setStamp, stamp } from './lib/stamps.mjs'
import { ensureSystem, writeCargoConfig } from './lib/system.mjs'

const OUTPUT = 'src-ts/native'

const sources = () =>
  contentHash(['Cargo.toml', 'build.rs', 'crates'], {
    skip: (path) => /^crates\/[^/]+\/(tests|benches|examples|fuzz)$/.test(path) || path === 'crates/testkit',
  })

const lock = () => contentHash(['Cargo.lock'])

export function addonIsCurrent() {
  const files = [thisPlatform().binary, 'binding.cjs', 'binding.d.cts']
  return files.every((name) => existsSync(join(ROOT, OUTPUT, name))) && stamp('addon') === sources() + lock()
}

export async function buildAddon({ target } = {}) {
  const hash = sources()
  const started = Date.now()
  const first = !existsSync(join(ROOT, 'target', 'release', 'deps'))
  say(
    first
      ? 'setup: building the native addon; the first time takes about 5 to 10 minutes on two cores (codecs, DTLS, SRTP)'
      : 'setup: building the native addon',
  )
  const args = [
    ...['build', '--manifest-path', 'crates/addon/Cargo.toml', '--package-json-path', 'package.json'],
    ...['--platform', '--release', '--format', 'commonjs', '--no-const-enum'],
    ...['--js', 'binding.cjs', '--dts', 'binding.d.cts', '--output-dir', OUTPUT],
    ...(target ? ['--target', target] : []),
  ]
  const code = await run(process.execPath, [tool('@napi-rs/cli', 'dist/cli.js'), ...args])
  if (code !== 0) throw new Problem('The native addon could not be built: see the messages above.')
  // The sources as they were when the build began, but the lock file that it may have brought up to date.
  if (!target) setStamp('addon', hash + lock())
  say(`setup: addon built in ${duration(Date.now() - started)}`)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const at = process.argv.indexOf('--target')
  await main(async () => {
    await ensureSystem({ build: true })
    if (process.platform !== 'win32') writeCargoConfig()
    await buildAddon(at > 0 ? { target: process.argv[at + 1] } : {})
  })
}
