// The published packages, as a user gets them: packed, installed into an empty project, run without any compiler.
import { execFile, execFileSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)
const ROOT = join(__dirname, '..', '..')
const PACK_MS = 120_000

const root = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
const folder = mkdtempSync(join(tmpdir(), 'webrtc-package-'))
let env: NodeJS.ProcessEnv
let mainTarball: string
let platformTarball: string

beforeAll(async () => {
  const packed = await run(process.execPath, [join(ROOT, 'scripts', 'pack.mjs')])
  ;[mainTarball, platformTarball] = packed.stdout.trim().split('\n') as [string, string]

  env = userEnvironment(join(folder, 'bin'))
  const project = join(folder, 'user')
  mkdirSync(project)
  writeFileSync(join(project, 'package.json'), '{ "name": "user", "version": "1.0.0", "private": true }')
  // Optional packages are left out: those of other platforms are not published, and ONNX Runtime has 290 MB. This
  // platform's is named, and so not optional.
  await npm(project, 'install', '--omit=optional', mainTarball, platformTarball)
}, PACK_MS)

afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** What a user has: Node, npm and a shell; no Rust, no C compiler. */
function userEnvironment(bin: string): NodeJS.ProcessEnv {
  mkdirSync(bin)
  symlinkSync(process.execPath, join(bin, 'node'))
  symlinkSync('/bin/sh', join(bin, 'sh'))
  const { HOME, TMPDIR, npm_config_registry } = process.env
  return { HOME, TMPDIR, npm_config_registry, PATH: bin, ONNXRUNTIME_NODE_INSTALL: 'skip' }
}

function npm(cwd: string, ...args: string[]) {
  const quiet = ['--no-audit', '--no-fund', '--loglevel=error', '--prefer-offline']
  return run(process.execPath, [npmCli(), ...args, ...quiet], { cwd, env })
}

/** npm's own program, so that it can be run with a PATH that does not have it. */
function npmCli(): string {
  const given = process.env.npm_execpath
  if (given?.endsWith('npm-cli.js')) return given
  const shipped = join(dirname(process.execPath), '..', 'lib', 'node_modules', 'npm', 'bin', 'npm-cli.js')
  if (existsSync(shipped)) return shipped
  return execFileSync('sh', ['-c', 'readlink -f "$(command -v npm)"'], { encoding: 'utf8' }).trim()
}

function runSnippet(name: string, code: string) {
  const project = join(folder, 'user')
  writeFileSync(join(project, name), code)
  return run(process.execPath, [name], { cwd: project, env, timeout: 60_000 })
}

function listing(tarball: string): string[] {
  return execFileSync('tar', ['-tzf', tarball], { encoding: 'utf8' }).trim().split('\n')
}

function readmeSnippet(): string {
  const code = readFileSync(join(ROOT, 'README.md'), 'utf8').match(/^```js\n([\s\S]*?)^```/m)?.[1]
  if (!code) throw new Error('README.md has no ```js block')
  return code
}

/** The same snippet for a CommonJS file: imports as require, top-level await in an async function. */
function asCommonJs(code: string): string {
  const body = code.replace(
    /^import\s+(\* as \w+|\{[^}]*\}|\w+)\s+from\s+('[^']+'|"[^"]+");?$/gm,
    (_all, names: string, from: string) =>
      `const ${names.replace(/^\* as /, '').replace(/ as /g, ': ')} = require(${from})`,
  )
  if (/^import\s/m.test(body)) throw new Error('an import of the snippet was not understood')
  return `;(async () => {\n${body}\n})().catch((error) => { console.error(error); process.exitCode = 1 })\n`
}

describe('tarballs', () => {
  test('the main package has the code, its types, the binding and the licences, and no binary', () => {
    const files = listing(mainTarball).map((name) => name.replace('package/', ''))
    expect(files).toEqual(
      expect.arrayContaining([
        ...['package.json', 'README.md', 'CHANGELOG.md', 'LICENSE-MIT', 'LICENSE-APACHE', 'NOTICE'],
        ...['dist/index.js', 'dist/index.d.ts', 'dist/native/binding.cjs', 'dist/native/binding.d.cts'],
        ...['models/selfie_segmentation_landscape.onnx', 'models/NOTICE', 'models/LICENSE-APACHE-2.0'],
      ]),
    )
    expect(files.filter((name) => !/^(dist\/|models\/|[^/]+$)/.test(name))).toEqual([])
    expect(
      files.filter((name) => /\.(node|ts|rs|py|map|tgz)$/.test(name) && !name.endsWith('.d.ts')),
    ).toEqual([])
  })

  test('the main package asks for every platform package at its own version', () => {
    const manifest = JSON.parse(
      readFileSync(join(folder, 'user/node_modules', root.name, 'package.json'), 'utf8'),
    )
    const binaries = Object.entries(manifest.optionalDependencies).filter(([name]) =>
      name.startsWith(root.name),
    )
    expect(binaries).toHaveLength(root.napi.targets.length)
    expect(binaries.every(([, version]) => version === root.version)).toBe(true)
    expect(manifest.devDependencies).toBeUndefined()
  })

  test('the platform package has the binary and the notices of what is linked into it', () => {
    const files = listing(platformTarball).map((name) => name.replace('package/', ''))
    const [binary, ...more] = files.filter((name) => name.endsWith('.node'))
    expect(binary).toMatch(/^webrtc\.[\w-]+\.node$/)
    expect(more).toEqual([])
    expect(files).toContain('THIRD-PARTY-NOTICES')
    const notices = execFileSync('tar', ['-xzOf', platformTarball, 'package/THIRD-PARTY-NOTICES'], {
      encoding: 'utf8',
      maxBuffer: 1 << 26,
    })
    expect(notices).toMatch(/The WebM Project authors/)
    expect(notices).toMatch(/^napi \d/m)
  })

  test('npm, Rust and the binary carry one version', async () => {
    const rust = readFileSync(join(ROOT, 'Cargo.toml'), 'utf8').match(/^version = "(.+)"/m)?.[1]
    expect(rust).toBe(root.version)
    const { stdout } = await runSnippet(
      'version.mjs',
      "import { buildInfo } from '@remotemedia/webrtc'\nconsole.log(JSON.stringify(buildInfo()))\n",
    )
    expect(JSON.parse(stdout)).toMatchObject({ version: root.version, profile: 'release' })
  })
})

describe('installed from the tarballs into an empty project', () => {
  test('no compiler is on the PATH', () => {
    expect(readdirSync(join(folder, 'bin')).sort()).toEqual(['node', 'sh'])
  })

  test("the README's first snippet runs by import", async () => {
    const { stdout } = await runSnippet('snippet.mjs', readmeSnippet())
    expect(stdout).not.toBe('')
  })

  test("the README's first snippet runs by require", async () => {
    const { stdout } = await runSnippet('snippet.cjs', asCommonJs(readmeSnippet()))
    expect(stdout).not.toBe('')
  })

  test('import and require give the same module', async () => {
    const { stdout } = await runSnippet(
      'same.mjs',
      `import { createRequire } from 'node:module'
       import * as imported from '@remotemedia/webrtc'
       const required = createRequire(import.meta.url)('@remotemedia/webrtc')
       console.log(Object.keys(imported).length > 0 && required.WebRtcError === imported.WebRtcError)`,
    )
    expect(stdout.trim()).toBe('true')
  })

  test('its types hold for a user of ES modules and of CommonJS', async () => {
    const project = join(folder, 'user')
    const use = `import { WebRtcError } from '@remotemedia/webrtc'
      export const code = (error: unknown) => (error instanceof WebRtcError ? error.code : undefined)\n`
    writeFileSync(join(project, 'use.mts'), use)
    writeFileSync(join(project, 'use.cts'), use)
    const tsc = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc')
    const types = ['--typeRoots', join(ROOT, 'node_modules', '@types'), '--types', 'node']
    const options = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2022', ...types]
    await run(process.execPath, [tsc, ...options, 'use.mts', 'use.cts'], { cwd: project })
  }, 60_000)

  test(
    'without the binary package, the error says what is missing',
    async () => {
      const bare = join(folder, 'bare')
      mkdirSync(bare)
      writeFileSync(join(bare, 'package.json'), '{ "name": "bare", "version": "1.0.0", "private": true }')
      await npm(bare, 'install', '--omit=optional', mainTarball)
      const code = "import('@remotemedia/webrtc').catch((error) => console.log(error.message))"
      const { stdout } = await run(process.execPath, ['-e', code], { cwd: bare, env })
      expect(stdout).toMatch(/no native addon for \w+-\w+ .*optional dependency/)
    },
    PACK_MS,
  )
})

const onLinux = process.platform === 'linux' ? test : test.skip

onLinux('the binary needs nothing that a plain Linux lacks, libvpx least of all', () => {
  const platform = Object.keys(
    JSON.parse(readFileSync(join(folder, 'user/package.json'), 'utf8')).dependencies,
  )
  const name = platform.find((dependency) => dependency.startsWith(`${root.name}-`)) ?? ''
  const installed = join(folder, 'user/node_modules', name)
  const binary = readdirSync(installed).find((file) => file.endsWith('.node')) ?? ''
  const needed = execFileSync('ldd', [join(installed, binary)], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s/)[0] ?? '')
  const plain = /^(linux-vdso|libc|libm|libdl|libpthread|librt|libgcc_s|libstdc\+\+|\/\S*ld-linux)\S*$/
  expect(needed.length).toBeGreaterThan(0)
  expect(needed.filter((library) => !plain.test(library))).toEqual([])
})
