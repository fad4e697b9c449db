// The licence texts of everything that is linked into the addon, collected from the sources it was built from.
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { output, Problem, ROOT } from './process.mjs'

/** C sources that crates bring along, whose licence is not the crate's. */
const BUNDLED = ['opus', 'upstream', 'vendor']

/** Text of THIRD-PARTY-NOTICES for the addon built for `target`. */
export function thirdPartyNotices(target) {
  const texts = new Map()
  const add = (text, who) => texts.set(text, [...(texts.get(text) ?? []), who])
  for (const crate of linkedCrates(target)) {
    const who = `${crate.name} ${crate.version} (${crate.license ?? 'see below'})`
    const folder = dirname(crate.manifest_path)
    const files = [folder, ...BUNDLED.map((name) => join(folder, name))].flatMap(licenceFiles)
    if (files.length === 0) add(`Licensed under ${crate.license}. ${crate.repository ?? ''}`.trim(), who)
    for (const file of files) add(readFileSync(file, 'utf8').trim(), who)
  }
  const parts = [readFileSync(join(ROOT, 'scripts', 'licences', 'libvpx.txt'), 'utf8').trim()]
  for (const [text, crates] of texts) parts.push(`${crates.join('\n')}\n\n${text}`)
  return `${parts.join(`\n\n${'-'.repeat(80)}\n\n`)}\n`
}

/** Crates that end up in the binary: the addon's normal dependencies, and theirs. */
function linkedCrates(target) {
  const json = output('cargo', ['metadata', '--format-version', '1', '--filter-platform', target])
  if (!json) throw new Problem('cargo metadata failed: run it by hand to see why')
  const { packages, resolve } = JSON.parse(json)
  const nodes = new Map(resolve.nodes.map((node) => [node.id, node]))
  const byId = new Map(packages.map((found) => [found.id, found]))
  const seen = new Set()
  const visit = (id) => {
    if (seen.has(id)) return
    // What a procedural macro links stays in the compiler.
    if (byId.get(id).targets.some(({ kind }) => kind.includes('proc-macro'))) return
    seen.add(id)
    for (const dep of nodes.get(id).deps) {
      if (dep.dep_kinds.some(({ kind }) => kind === null)) visit(dep.pkg)
    }
  }
  visit(packages.find(({ name }) => name === 'remotemedia-addon').id)
  return [...seen].map((id) => byId.get(id)).filter((found) => found.source !== null)
}

function licenceFiles(folder) {
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter((name) => /^(licen[cs]e|copying|notice|copyright)/i.test(name) && !/\.rs$/.test(name))
    .map((name) => join(folder, name))
    .filter((path) => statSync(path).isFile())
}
