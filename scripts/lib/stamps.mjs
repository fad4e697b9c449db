// Remembers by content what was built from what, so that set-up costs nothing when nothing changed.
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './process.mjs'

const FILE = join(ROOT, '.cache', 'stamps.json')

/** A hash over the names and contents of `paths` (files, or folders with everything below them). */
export function contentHash(paths, { skip = () => false } = {}) {
  const hash = createHash('sha256').update(`${process.platform} ${process.arch}`)
  const visit = (path) => {
    const full = join(ROOT, path)
    if (!existsSync(full) || skip(path)) return
    if (statSync(full).isDirectory()) {
      for (const name of readdirSync(full).sort()) visit(`${path}/${name}`)
    } else {
      hash.update(`\0${path}\0`).update(readFileSync(full))
    }
  }
  for (const path of paths) visit(path)
  return hash.digest('hex')
}

function all() {
  try {
    return JSON.parse(readFileSync(FILE, 'utf8'))
  } catch {
    return {}
  }
}

/** The hash that `name` was last made from. */
export function stamp(name) {
  return all()[name]
}

export function setStamp(name, hash) {
  mkdirSync(join(ROOT, '.cache'), { recursive: true })
  writeFileSync(FILE, `${JSON.stringify({ ...all(), [name]: hash }, null, 2)}\n`)
}
