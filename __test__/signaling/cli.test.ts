/** The command as users run it: a process of its own, ES modules, no native addon in sight. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { transformSync } from '@swc/core'
import { LIMIT_NAMES } from '../../src-ts/signaling/limits.js'
import { RawPeer, Servers } from './support.js'

const root = resolve(__dirname, '../..')
const out = resolve(root, `.cache/cli-test-${process.pid}`)
const servers = new Servers()
const children: ChildProcess[] = []

beforeAll(() => {
  // The same files that tsc turns into dist/, so that the test needs no build before it.
  for (const folder of ['', 'signaling']) {
    mkdirSync(resolve(out, folder), { recursive: true })
    for (const name of readdirSync(resolve(root, 'src-ts', folder))) {
      if (!name.endsWith('.ts') || (folder === '' && !['cli.ts', 'errors.ts'].includes(name))) continue
      const source = readFileSync(resolve(root, 'src-ts', folder, name), 'utf8')
      const { code } = transformSync(source, {
        filename: name,
        jsc: { parser: { syntax: 'typescript' }, target: 'es2022' },
        module: { type: 'es6' },
      })
      writeFileSync(resolve(out, folder, name.replace(/\.ts$/, '.js')), code)
    }
  }
})
afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  await servers.closeAll()
})
afterAll(() => rmSync(out, { recursive: true, force: true }))

const start = (...args: string[]) => {
  const child = spawn(process.execPath, [resolve(out, 'cli.js'), ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  children.push(child)
  const output = { stdout: '', stderr: '' }
  const lines: ((line: string) => void)[] = []
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => {
      output[name] += text
      if (output[name].includes('\n'))
        for (const tell of lines.splice(0)) tell(output[name].split('\n', 1)[0] ?? '')
    })
  }
  const exit = once(child, 'close').then(([code, signal]) => ({ code, signal, ...output }))
  const firstLine = new Promise<string>((tell) => lines.push(tell))
  return { child, exit, firstLine }
}
const run = (...args: string[]) => start(...args).exit

test('help, version, and what is wrong with a command line', async () => {
  const [help, signalingHelp, version, none, unknown, flag, port, limit, positional] = await Promise.all([
    run('--help'),
    run('signaling', '--help'),
    run('--version'),
    run(),
    run('signalling'),
    run('signaling', '--prot', '1'),
    run('signaling', '--port', '99999'),
    run('signaling', '--max-rooms', 'many'),
    run('signaling', '8080'),
  ])
  expect(help).toMatchObject({
    code: 0,
    stderr: '',
    stdout: expect.stringContaining('signaling        Run a signaling server'),
  })
  expect(signalingHelp).toMatchObject({ code: 0, stdout: expect.stringContaining('--port <port>') })
  for (const name of LIMIT_NAMES) {
    expect(signalingHelp.stdout).toContain(`--${name.replace(/[A-Z]/g, (l) => `-${l.toLowerCase()}`)} <n>`)
  }
  for (const line of signalingHelp.stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(90)
  const { version: packaged } = JSON.parse(readFileSync(resolve(root, 'package.json'), 'utf8'))
  expect(version).toMatchObject({ code: 0, stdout: `${packaged}\n` })
  expect(none).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('a command is missing') })
  expect(unknown).toMatchObject({ code: 2, stderr: expect.stringContaining("did you mean 'signaling'?") })
  expect(flag).toMatchObject({
    code: 2,
    stderr: expect.stringContaining("unknown option '--prot'; did you mean '--port'?"),
  })
  expect(port).toMatchObject({ code: 2, stderr: expect.stringContaining("--port: '99999' is not a port") })
  expect(limit).toMatchObject({ code: 2, stderr: expect.stringContaining('an integer from 1 to 1000000') })
  expect(positional).toMatchObject({ code: 2, stderr: expect.stringContaining("Unexpected argument '8080'") })
  expect(positional.stderr).toContain("See 'remotemedia-webrtc signaling --help'.")
})

test('a taken port is exit 1 with advice', async () => {
  const { port } = await servers.listen()
  const { code, stderr, stdout } = await run('signaling', '--port', String(port))
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
  expect(stderr).toContain(`127.0.0.1:${port}: the port is taken: stop what listens there, or choose another`)
})

test.each(['SIGTERM', 'SIGINT'] as const)(
  'serves until %s, then says goodbye and exits 0 within 2 s',
  async (signal) => {
    const { child, exit, firstLine } = start('signaling', '--port', '0', '--max-peers-per-room', '1')
    const line = await firstLine
    const [, url = '', health = ''] =
      /^signaling: listening on (ws:\S+) \(health: (http:\S+)\)$/.exec(line) ?? []
    const response = await fetch(health)
    expect(response.status).toBe(200)
    expect(await response.json()).toMatchObject({ status: 'ok', rooms: 0, peers: 0 })
    const peer = await RawPeer.announced(url, 'a')
    const deaf = await RawPeer.open(url)
    expect((await deaf.request('peer.announce', { peer_id: 'b', capabilities: [] })).error.code).toBe(-32001)
    if (signal === 'SIGTERM') deaf.ws.pause()
    const started = performance.now()
    child.kill(signal)
    expect(await peer.closed).toEqual({ code: 1001, reason: 'server is closing' })
    const { code, signal: died, stdout, stderr } = await exit
    expect(performance.now() - started).toBeLessThan(2_000)
    expect({ code, died, stderr }).toEqual({ code: 0, died: null, stderr: '' })
    expect(stdout.trim().split('\n')).toEqual([
      line,
      expect.stringMatching(new RegExp(`^signaling: stopped by ${signal} after`)),
    ])
    deaf.ws.terminate()
  },
)

test('--json logs a JSON line for the start and one for the stop', async () => {
  const { child, exit, firstLine } = start(
    'signaling',
    '--port=0',
    '--json',
    '--origin',
    'https://app.example',
  )
  const listening = JSON.parse(await firstLine)
  expect(listening).toMatchObject({ event: 'listening', url: expect.stringMatching(/^ws:/), pid: child.pid })
  child.kill('SIGTERM')
  const [, stopped] = (await exit).stdout.trim().split('\n')
  expect(JSON.parse(stopped ?? '')).toMatchObject({ event: 'stopped', signal: 'SIGTERM', connections: 0 })
})
