#!/usr/bin/env node
/** The `remotemedia-webrtc` command. Needs nothing of the native addon. */
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type ParseArgsConfig, parseArgs } from 'node:util'
import { WebRtcError } from './errors.js'
import { checkLimit, LIMIT_NAMES, SIGNALING_LIMITS, type SignalingLimits } from './signaling/limits.js'
import { SignalingServer } from './signaling/server.js'

const EXIT_FAILURE = 1
const EXIT_USAGE = 2
/** A close that takes longer than this is ended by force. */
const FORCED_EXIT_MS = 1_800

async function main(args: string[]): Promise<void> {
  const [command, ...rest] = args
  switch (command) {
    case 'signaling':
      return await signaling(rest)
    case '--help':
    case '-h':
    case 'help':
      return print(rest[0] === 'signaling' ? signalingHelp() : HELP)
    case '--version':
    case '-v':
      return print(version())
    case undefined:
      throw new UsageError('a command is missing', HELP_HINT)
    default: {
      const near = nearest(command, ['signaling', 'help', '--help', '--version'])
      throw new UsageError(
        `unknown command '${command}'${near ? `; did you mean '${near}'?` : ''}`,
        HELP_HINT,
      )
    }
  }
}

async function signaling(args: string[]): Promise<void> {
  const values = parse(args)
  if (values.help) return print(signalingHelp())
  const log = values.json ? logJson : logText
  const options = {
    port: readPort(values.port ?? '8080'),
    host: values.host ?? '127.0.0.1',
    ...(values.path === undefined ? {} : { path: values.path }),
    ...(values.origin === undefined ? {} : { allowedOrigins: values.origin }),
    limits: readLimits(values.limits),
  }
  // Before anyone can know that we run, so that a signal always finds us ready.
  const stopped = stopSignal()
  const server = await SignalingServer.listen(options)
  const health = `http${server.url.slice('ws'.length).replace(/(:\d+).*$/, '$1')}/healthz`
  log('listening', { url: server.url, health, pid: process.pid })

  const signal = await stopped
  setTimeout(() => process.exit(EXIT_FAILURE), FORCED_EXIT_MS).unref()
  await server.close()
  const { uptimeMs, connectionsTotal, relayed } = server.stats()
  log('stopped', { signal, uptime: uptimeMs / 1000, connections: connectionsTotal, relayed })
}

/** The first SIGTERM or SIGINT. A second one ends the process at once. */
function stopSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    let stopping = false
    const onSignal = (signal: NodeJS.Signals) => {
      if (stopping) process.exit(EXIT_FAILURE)
      stopping = true
      resolve(signal)
    }
    process.on('SIGTERM', onSignal).on('SIGINT', onSignal)
  })
}

const HELP = `Multi-peer WebRTC for Node: command line tools.

Usage: remotemedia-webrtc <command> [options]

Commands:
  signaling        Run a signaling server: it introduces peers to each other

Options:
  -h, --help       Show this help; after a command, that command's
  -v, --version    Show the version

Example:
  npx remotemedia-webrtc signaling --port 8080
`

const HELP_HINT = "See 'remotemedia-webrtc --help'."
const SIGNALING_HINT = "See 'remotemedia-webrtc signaling --help'."

function signalingHelp(): string {
  const limits = LIMIT_NAMES.map((name) => {
    const { default: value, min, max, unit } = SIGNALING_LIMITS[name]
    const range = `${unit === 'count' ? '' : `${unit}, `}${min} to ${max}`
    return `  ${`--${toFlag(name)} <n>`.padEnd(40)} ${String(value).padStart(8)}  (${range})`
  })
  return `Run a signaling server: rooms, presence, and the relay of offers, answers and ICE
candidates between peers, as JSON-RPC 2.0 over WebSocket.

Usage: remotemedia-webrtc signaling [options]

Options:
  -p, --port <port>    Port to listen on; 0 takes a free one          (default: 8080)
  -H, --host <host>    Address to listen on; 0.0.0.0 or :: accepts other
                       machines, and wants a firewall or a proxy with
                       TLS in front of it                        (default: 127.0.0.1)
      --origin <url>   Origin whose pages may connect, e.g. https://app.example;
                       may be repeated                            (default: any page)
      --path <path>    The only path that takes WebSockets        (default: any path)
      --json           Log JSON lines
  -h, --help           Show this help

Limits, with their defaults and ranges:
${limits.join('\n')}

Health: GET /healthz on the same port answers {"status":"ok",...}.
Signals: SIGTERM and SIGINT say goodbye to every client and exit with 0; a second one
exits at once.
Exit codes: 0 stopped by a signal, 1 could not run (e.g. the port is taken), 2 wrong
usage.

Examples:
  remotemedia-webrtc signaling --port 8080
  remotemedia-webrtc signaling --host 0.0.0.0 --origin https://app.example --json
`
}

interface SignalingArgs {
  port?: string
  host?: string
  path?: string
  origin?: string[]
  json?: boolean
  help?: boolean
  limits: Partial<Record<keyof SignalingLimits, string>>
}

function parse(args: string[]): SignalingArgs {
  const options: NonNullable<ParseArgsConfig['options']> = {
    port: { type: 'string', short: 'p' },
    host: { type: 'string', short: 'H' },
    path: { type: 'string' },
    origin: { type: 'string', multiple: true },
    json: { type: 'boolean' },
    help: { type: 'boolean', short: 'h' },
  }
  for (const name of LIMIT_NAMES) options[toFlag(name)] = { type: 'string' }
  for (const arg of args) {
    const flag = /^--([^=]+)/.exec(arg)?.[1]
    if (flag === undefined || Object.hasOwn(options, flag)) continue
    const near = nearest(flag, Object.keys(options))
    throw new UsageError(
      `unknown option '--${flag}'${near ? `; did you mean '--${near}'?` : ''}`,
      SIGNALING_HINT,
    )
  }
  try {
    const { values } = parseArgs({ args, options, strict: true, allowPositionals: false })
    const limits: SignalingArgs['limits'] = {}
    for (const name of LIMIT_NAMES) {
      const value = values[toFlag(name)]
      if (typeof value === 'string') limits[name] = value
    }
    return { ...(values as Omit<SignalingArgs, 'limits'>), limits }
  } catch (error) {
    throw new UsageError(
      error instanceof Error ? (error.message.split('. ', 1)[0] ?? '') : String(error),
      SIGNALING_HINT,
    )
  }
}

function readPort(text: string): number {
  const port = Number(text)
  if (!/^\d+$/.test(text) || port > 65_535) {
    throw new UsageError(`--port: '${text}' is not a port; expected 0 to 65535`, SIGNALING_HINT)
  }
  return port
}

function readLimits(texts: SignalingArgs['limits']): Partial<SignalingLimits> {
  const limits: Partial<SignalingLimits> = {}
  for (const name of LIMIT_NAMES) {
    const text = texts[name]
    if (text === undefined) continue
    limits[name] = checkLimit(
      name,
      /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN,
      `--${toFlag(name)} ${text}`,
    )
  }
  return limits
}

type LogFields = Record<string, string | number>

function logText(event: 'listening' | 'stopped', fields: LogFields): void {
  print(
    event === 'listening'
      ? `signaling: listening on ${fields.url} (health: ${fields.health})`
      : `signaling: stopped by ${fields.signal} after ${fields.uptime} s, ${fields.connections} connections, ${fields.relayed} messages relayed`,
  )
}

function logJson(event: string, fields: LogFields): void {
  print(JSON.stringify({ time: new Date().toISOString(), event, ...fields }))
}

class UsageError extends Error {
  readonly hint: string

  constructor(message: string, hint: string) {
    super(message)
    this.hint = hint
  }
}

function print(text: string): void {
  process.stdout.write(text.endsWith('\n') ? text : `${text}\n`)
}

/** maxPeersPerRoom -> max-peers-per-room */
function toFlag(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
}

/** The version in this package's own package.json, which is above dist/ and src-ts/ alike. */
function version(): string {
  let folder = dirname(fileURLToPath(import.meta.url))
  for (;;) {
    try {
      const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {
        name?: string
        version?: string
      }
      if (manifest.name === '@remotemedia/webrtc' && manifest.version) return manifest.version
    } catch {
      // None here: look further up.
    }
    const parent = dirname(folder)
    if (parent === folder) return 'unknown'
    folder = parent
  }
}

/** The candidate that a slip of the finger could have turned into `text`. */
function nearest(text: string, candidates: string[]): string | undefined {
  let best: string | undefined
  let bestDistance = Math.min(3, Math.floor(text.length / 2)) + 1
  for (const candidate of candidates) {
    const distance = editDistance(text, candidate)
    if (distance < bestDistance) {
      best = candidate
      bestDistance = distance
    }
  }
  return best
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(change, (row[j] as number) + 1, (next[j - 1] as number) + 1))
    }
    row = next
  }
  return row[b.length] as number
}

// Who reads our output may be gone before we are.
process.stdout.on('error', () => {})
process.stderr.on('error', () => {})

main(process.argv.slice(2)).catch((error: unknown) => {
  const usage = error instanceof UsageError || (error instanceof WebRtcError && error.code === 'ERR_CONFIG')
  const text = error instanceof WebRtcError || error instanceof UsageError ? error.message : String(error)
  const hint = error instanceof UsageError ? error.hint : usage ? SIGNALING_HINT : undefined
  process.stderr.write(`remotemedia-webrtc: ${text}\n${hint === undefined ? '' : `${hint}\n`}`)
  process.exitCode = usage ? EXIT_USAGE : EXIT_FAILURE
})
