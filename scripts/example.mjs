// Runs an example that is written in TypeScript, on any Node that the package supports:
//
//   npm run example -- conference-mixer ws://127.0.0.1:8080 conference
//
// Node 22.18 and later run it without this: `node examples/conference-mixer.ts …`.

import { readdirSync } from 'node:fs'
import { register } from 'node:module'

const EXAMPLES = new URL('../examples/', import.meta.url)

const [name, ...args] = process.argv.slice(2)
const known = readdirSync(EXAMPLES).flatMap((file) => /^(.+)\.ts$/.exec(file)?.[1] ?? [])
if (!known.includes(name)) {
  console.error(`Usage: npm run example -- <name> [arguments]; the names are: ${known.join(', ')}`)
  process.exit(1)
}

register('./lib/typescript.mjs', import.meta.url)
const example = new URL(`${name}.ts`, EXAMPLES)
// The example sees itself as the program that was started.
process.argv = [process.argv[0], example.pathname, ...args]
await import(example.href)
