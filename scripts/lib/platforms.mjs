// The platforms that have a binary package: named as @napi-rs/cli names them.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Problem, ROOT } from './process.mjs'

const KNOWN = {
  'x86_64-unknown-linux-gnu': { id: 'linux-x64-gnu', os: 'linux', cpu: 'x64', libc: 'glibc' },
  'aarch64-unknown-linux-gnu': { id: 'linux-arm64-gnu', os: 'linux', cpu: 'arm64', libc: 'glibc' },
  'x86_64-apple-darwin': { id: 'darwin-x64', os: 'darwin', cpu: 'x64' },
  'aarch64-apple-darwin': { id: 'darwin-arm64', os: 'darwin', cpu: 'arm64' },
  'x86_64-pc-windows-msvc': { id: 'win32-x64-msvc', os: 'win32', cpu: 'x64' },
}

export const manifest = () => JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))

/** Every platform of package.json's `napi.targets`. */
export function platforms() {
  const { napi } = manifest()
  return napi.targets.map((target) => {
    const known = KNOWN[target]
    if (!known) throw new Problem(`package.json: napi.targets: ${target} is not in scripts/lib/platforms.mjs`)
    return {
      ...known,
      target,
      packageName: `${napi.packageName}-${known.id}`,
      binary: `${napi.binaryName}.${known.id}.node`,
    }
  })
}

/** The platform this process runs on. */
export function thisPlatform() {
  const found = platforms().find((p) => p.os === process.platform && p.cpu === process.arch)
  if (!found) throw new Problem(`There is no binary package for ${process.platform}-${process.arch}.`)
  return found
}
