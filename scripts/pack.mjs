#!/usr/bin/env node
// `npm run pack:all`: the main package and this platform's binary package, as tarballs in npm/, without the network.
// `--platform <id>=<file.node>` packs another platform's binary, built elsewhere (release workflow); `--all` wants all.
// `--postpack` is for a plain `npm pack`: only this platform's package, put where npm puts the main one.
import { copyFileSync, cpSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { thirdPartyNotices } from './lib/notices.mjs'
import { manifest, platforms, thisPlatform } from './lib/platforms.mjs'
import { main, output, Problem, ROOT, run, which } from './lib/process.mjs'

const OUT = join(ROOT, 'npm')
const LICENCES = ['LICENSE-MIT', 'LICENSE-APACHE', 'NOTICE']

/** This platform's binary as the checkout built it. */
function built() {
  const here = thisPlatform()
  return { [here.id]: join(ROOT, 'src-ts', 'native', here.binary) }
}

/** Resolves to the tarballs' paths, the main package's first. `binaries`: platform id -> .node file. */
export async function pack({ binaries } = {}) {
  const tarballs = [await packMain()]
  for (const [id, file] of Object.entries(binaries ?? built())) tarballs.push(await packPlatform(id, file))
  return tarballs
}

/** The published manifest: the checkout's own, less what only a checkout uses, plus the binary packages. */
async function packMain() {
  if (!existsSync(join(ROOT, 'dist', 'index.js')))
    throw new Problem('dist/ is missing: run `npm run build` first.')
  const { devDependencies: _, scripts: __, napi: ___, ...published } = manifest()
  published.optionalDependencies = {
    ...published.optionalDependencies,
    ...Object.fromEntries(platforms().map((p) => [p.packageName, published.version])),
  }
  const folder = stage('main', published, ['README.md', 'CHANGELOG.md', ...LICENCES])
  cpSync(join(ROOT, 'dist'), join(folder, 'dist'), {
    recursive: true,
    filter: (path) => !path.endsWith('.node'),
  })
  cpSync(join(ROOT, 'models'), join(folder, 'models'), { recursive: true })
  return await npmPack(folder, published)
}

async function packPlatform(id, file, destination = OUT) {
  const platform = platforms().find((p) => p.id === id)
  if (!platform) throw new Problem(`${id} is not a platform of package.json's napi.targets`)
  if (!existsSync(file)) throw new Problem(`${file} is missing: run \`npm run build:addon\` on ${id} first.`)
  const { version, license, repository, engines, publishConfig, name } = manifest()
  const published = {
    name: platform.packageName,
    version,
    description: `The native addon of ${name} for ${platform.target}.`,
    license,
    repository,
    engines,
    publishConfig,
    os: [platform.os],
    cpu: [platform.cpu],
    ...(platform.libc && { libc: [platform.libc] }),
    main: platform.binary,
    files: [platform.binary, ...LICENCES, 'THIRD-PARTY-NOTICES'],
  }
  const folder = stage(id, published, LICENCES)
  writeFileSync(join(folder, 'THIRD-PARTY-NOTICES'), thirdPartyNotices(platform.target))
  writeFileSync(
    join(folder, 'README.md'),
    `# ${platform.packageName}\n\nThe native addon of \`${name}\` for \`${platform.target}\`. Install \`${name}\`; it brings this.\n`,
  )
  const binary = join(folder, platform.binary)
  copyFileSync(file, binary)
  slim(platform, binary)
  return await npmPack(folder, published, destination)
}

/** Line tables are for the checkout's profiles and backtraces; without them the binary is about half as large. */
function slim(platform, binary) {
  if (platform.os === 'win32' || process.platform !== platform.os || process.arch !== platform.cpu) return
  const strip = which('strip')
  if (!strip) return
  const flag = platform.os === 'darwin' ? '-S' : '--strip-debug'
  if (output(strip, [flag, binary]) === undefined) throw new Problem(`strip ${flag} failed on ${binary}`)
}

function stage(id, published, files) {
  const folder = join(ROOT, 'npm', id)
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(published, null, 2)}\n`)
  for (const name of files) copyFileSync(join(ROOT, name), join(folder, name))
  return folder
}

async function npmPack(folder, { name, version }, destination = OUT) {
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm'
  const code = await run(npm, ['pack', '--loglevel=error', '--pack-destination', destination], {
    cwd: folder,
  })
  if (code !== 0) throw new Problem(`npm pack failed for ${name}`)
  return join(destination, `${name.replace('@', '').replace('/', '-')}-${version}.tgz`)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main(async () => {
    if (process.argv.includes('--postpack')) {
      if (process.env.npm_config_dry_run === 'true') return
      const [[id, file]] = Object.entries(built())
      process.stdout.write(
        `${await packPlatform(id, file, process.env.npm_config_pack_destination || ROOT)}\n`,
      )
      return
    }
    const pairs = process.argv
      .slice(2)
      .flatMap((arg, i, args) => (arg === '--platform' ? [args[i + 1].split('=')] : []))
    const binaries = pairs.length > 0 ? Object.fromEntries(pairs) : undefined
    if (process.argv.includes('--all')) {
      const absent = platforms().filter((p) => !binaries?.[p.id])
      if (absent.length > 0)
        throw new Problem(`No binary was given for ${absent.map((p) => p.id).join(', ')}`)
    }
    for (const tarball of await pack({ binaries })) process.stdout.write(`${tarball}\n`)
  })
}
