#!/usr/bin/env node
// Makes a fresh clone ready: system packages, npm packages, the native addon, dist/. Plain Node without any package,
// because it runs before there is one. Costs well under a second when nothing is missing.
//
//   node scripts/setup.mjs [--browser]
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { addonIsCurrent, buildAddon } from './build-addon.mjs'
import { buildTs, tsIsCurrent } from './build-ts.mjs'
import { duration, main, Problem, ROOT, run, say } from './lib/process.mjs'
import { contentHash } from './lib/stamps.mjs'
import { ensureSystem, writeCargoConfig } from './lib/system.mjs'

/**
 * `browser`: also Chromium, for tests and the headless demo. `files`: also what tests look into recordings with. `networks`: also what
 * tests make networks of.
 */
export async function setup({ browser = false, files = false, networks = false } = {}) {
  checkNode()
  const started = Date.now()
  const build = !addonIsCurrent()
  await ensureSystem({ build, browser, files, networks })
  if (process.platform !== 'win32') writeCargoConfig()
  const installed = await installPackages()
  if (build) await buildAddon()
  const compiled = build || installed || !tsIsCurrent()
  if (compiled) await buildTs()
  say(`setup: ${build || compiled ? 'ready' : 'nothing to do'} (${duration(Date.now() - started)})`)
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major < 20 || (major === 20 && minor < 19)) {
    throw new Problem(
      `Node ${process.versions.node} is too old: 20.19 or newer is needed (https://nodejs.org).`,
    )
  }
}

/**
 * Installs what the lock file says, unless node_modules was made from it. Not by `npm ci`: that refuses a lock file
 * without an entry for every other platform's optional binaries, and a registry's mirror may not have them all.
 */
async function installPackages() {
  const mark = join(
    ROOT,
    'node_modules',
    `.from-lock-${contentHash(['package.json', 'package-lock.json']).slice(0, 16)}`,
  )
  if (existsSync(mark)) return false
  say('setup: installing npm packages')
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm'
  const code = await run(npm, ['install', '--no-save', '--no-fund', '--no-audit', '--loglevel=error'], {
    env: {
      // Its install script fetches CUDA libraries (hundreds of MB); the CPU library is in the package itself.
      ONNXRUNTIME_NODE_INSTALL: 'skip',
      PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD: '1',
    },
  })
  if (code !== 0) throw new Problem('npm install failed: see its messages above. It needs the npm registry.')
  writeFileSync(mark, '')
  return true
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main(() => setup({ browser: process.argv.includes('--browser') }))
}
