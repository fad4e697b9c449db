#!/usr/bin/env node
// `npm test`: set-up, linters, cargo test, jest. The last line alone says how many tests passed and failed.
//
//   npm test                        everything
//   npm test -- --only js           one part: lint, rust, js, or net, the tests in networks (may be given more than once)
//   npm test -- --only js -- signaling               what follows the second -- goes to jest (or cargo test)
//   npm test -- --only rust -- -p remotemedia-mesh
import { mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { duration, main, Problem, ROOT, run, say, tool } from './lib/process.mjs'
import { chromium, onnxRuntimeLibrary } from './lib/system.mjs'
import { lint } from './lint.mjs'
import { setup } from './setup.mjs'

const PARTS = {
  lint: lintStep,
  js: (rest) => jestStep('js', '<rootDir>/__test__/!(net)/**/*.test.ts', rest),
  // Those that make networks want root, and time.
  net: netStep,
  rust: cargoStep,
}
const MINUTE = 60_000

await main(async () => {
  const { parts, rest } = parseArguments(process.argv.slice(2))
  const rows = []
  const step = async (name, body) => {
    const started = Date.now()
    say(`\n=== ${name}`)
    let result
    try {
      result = await body()
    } catch (error) {
      if (!(error instanceof Problem)) throw error
      say(error.message)
      result = { ok: false }
    }
    const row = { name, passed: 0, failed: 0, skipped: 0, ...result, ms: Date.now() - started }
    // A step that failed before it could count (a compile error, a crash) is one failure, never none.
    if (!row.ok && row.failed === 0) row.failed = 1
    rows.push(row)
    return row.ok
  }

  const ready = await step('setup', async () => {
    const [js, net] = ['js', 'net'].map((part) => parts.includes(part))
    await setup({ browser: js || net, files: js, networks: net })
    return { ok: true }
  })
  if (ready) for (const part of parts) await step(part, () => PARTS[part](rest))

  const sum = (key) => rows.reduce((total, row) => total + row[key], 0)
  say('')
  for (const { name, ok, ms, passed, failed, skipped } of rows) {
    const counts =
      passed + failed + skipped > 0 ? `  ${passed} passed, ${failed} failed, ${skipped} skipped` : ''
    say(`${ok ? 'ok    ' : 'FAILED'}  ${name.padEnd(6)} ${duration(ms).padStart(12)}${counts}`)
  }
  const ok = rows.every((row) => row.ok)
  const skipped = sum('skipped') > 0 ? `, ${sum('skipped')} skipped` : ''
  process.stdout.write(`${sum('passed')} passed, ${sum('failed')} failed${skipped}\n`)
  return ok ? 0 : 1
})

function parseArguments(args) {
  const cut = args.indexOf('--')
  const [own, rest] = cut < 0 ? [args, []] : [args.slice(0, cut), args.slice(cut + 1)]
  const parts = []
  for (let i = 0; i < own.length; i += 2) {
    if (own[i] !== '--only' || !PARTS[own[i + 1]]) {
      throw new Problem(
        `Usage: npm test -- [--only ${Object.keys(PARTS).join('|')}]... [-- arguments of jest or cargo test]`,
      )
    }
    parts.push(own[i + 1])
  }
  return { parts: parts.length > 0 ? parts : Object.keys(PARTS), rest }
}

async function lintStep() {
  const failed = await lint()
  if (failed.length > 0) say(`failed: ${failed.join(', ')}`)
  return { ok: failed.length === 0, failed: failed.length }
}

/** The environment that native tests may count on. */
function testEnvironment() {
  const env = {}
  const library = process.env.ORT_DYLIB_PATH ?? onnxRuntimeLibrary()
  if (library) env.ORT_DYLIB_PATH = library
  const browser = chromium()
  if (browser) env.CHROMIUM = browser
  return env
}

async function cargoStep(rest) {
  const total = { passed: 0, failed: 0, skipped: 0 }
  const scope = rest.includes('-p') ? [] : ['--workspace']
  const code = await run('cargo', ['test', ...scope, '--no-fail-fast', ...rest], {
    env: testEnvironment(),
    limitMs: 40 * MINUTE,
    onLine: (line) => {
      say(line)
      const counts = line.match(/^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored/)
      if (!counts) return
      total.passed += Number(counts[1])
      total.failed += Number(counts[2])
      total.skipped += Number(counts[3])
    },
  })
  return { ok: code === 0, ...total }
}

async function netStep(rest) {
  if (process.platform === 'linux') {
    const args = ['build', '-p', 'remotemedia-testkit', '--bin', 'tun-forward']
    if ((await run('cargo', args)) !== 0) throw new Problem('tun-forward could not be built: see above.')
  }
  return jestStep('net', '<rootDir>/__test__/net/**/*.test.ts', rest)
}

async function jestStep(name, match, rest) {
  const report = join(ROOT, '.cache', `jest-${name}.json`)
  mkdirSync(join(ROOT, '.cache'), { recursive: true })
  rmSync(report, { force: true })
  const code = await run(
    process.execPath,
    // testMatch takes all that follows it, so it comes last.
    [tool('jest', 'bin/jest.js'), '--json', '--outputFile', report, ...rest, '--testMatch', match],
    {
      env: testEnvironment(),
      limitMs: 30 * MINUTE,
      // With --json jest repeats the report on stdout; people read its stderr.
      onLine: () => {},
    },
  )
  let result
  try {
    result = JSON.parse(readFileSync(report, 'utf8'))
  } catch {
    throw new Problem(`jest ended with code ${code} and wrote no report`)
  }
  return {
    ok: code === 0 && result.success,
    passed: result.numPassedTests,
    failed: result.numFailedTests + result.numRuntimeErrorTestSuites,
    skipped: result.numPendingTests + result.numTodoTests,
  }
}
