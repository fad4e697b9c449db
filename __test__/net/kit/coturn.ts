/** A TURN and STUN server, coturn, on a host of a laboratory. */
import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TurnServer } from './agent.js'
import type { Family, Host } from './lab.js'
import { run } from './system.js'

export interface CoturnOptions {
  /** Passwords by user name. Default: `user` with `secret`. */
  users?: Record<string, string>
  /** Credentials that expire instead of users (`use-auth-secret`). */
  secret?: string
  /** More lines of its configuration, e.g. `stale-nonce=5`. */
  settings?: string[]
}

export type RelayTransport = 'udp' | 'tcp' | 'tls'

const PORT = 3478
const TLS_PORT = 5349

/** Whether there is a coturn. */
export function hasCoturn(): boolean {
  return coturnPath() !== undefined
}

export class Coturn {
  /** File of the certificate that it signed itself: who is to trust it needs it. */
  readonly certificate: string
  readonly #folder: string
  #child!: ChildProcessWithoutNullStreams
  #log = ''

  static async start(host: Host, options: CoturnOptions = {}): Promise<Coturn> {
    const coturn = new Coturn(host, options)
    await coturn.#start()
    return coturn
  }

  private constructor(
    readonly host: Host,
    private readonly options: CoturnOptions,
  ) {
    this.#folder = mkdtempSync(join(tmpdir(), 'remotemedia-coturn-'))
    host.space.folders.push(this.#folder)
    this.certificate = join(this.#folder, 'certificate.pem')
    const addresses = Object.values(host.addresses).map((address) => `IP:${address}`)
    run('openssl', [
      ...[
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-days',
        '2',
      ],
      ...['-subj', '/CN=relay.test', '-addext', `subjectAltName=DNS:relay.test,${addresses.join(',')}`],
      // Else it is an authority's, which rustls takes from no server.
      ...['-addext', 'basicConstraints=critical,CA:FALSE'],
      ...['-keyout', join(this.#folder, 'key.pem'), '-out', this.certificate],
    ])
  }

  /** What it wrote about itself. */
  get log(): string {
    return this.#log
  }

  /** `turn:` or `turns:` URL of this server. */
  url(transport: RelayTransport, family: Family = 'v4'): string {
    const address = this.host.addresses[family]
    const name = family === 'v6' ? `[${address}]` : address
    if (transport === 'tls') return `turns:${name}:${TLS_PORT}?transport=tcp`
    return `turn:${name}:${PORT}?transport=${transport}`
  }

  stunUrl(family: Family = 'v4'): string {
    const address = this.host.addresses[family]
    return `stun:${family === 'v6' ? `[${address}]` : address}:${PORT}`
  }

  /** The entry of a peer's `turnServers`. */
  server(transport: RelayTransport = 'udp', family: Family = 'v4'): TurnServer {
    return { urls: this.url(transport, family), username: 'user', credential: 'secret' }
  }

  /** Credentials that end after so many seconds: the convention of draft-uberti-behave-turn-rest. */
  timed(seconds: number, transport: RelayTransport = 'udp'): TurnServer {
    const username = `${Math.floor(Date.now() / 1000) + seconds}:user`
    const credential = createHmac('sha1', this.options.secret!).update(username).digest('base64')
    return { urls: this.url(transport), username, credential }
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, 'exit')
  }

  async #start(): Promise<void> {
    const { users = { user: 'secret' }, secret, settings = [] } = this.options
    const addresses = Object.values(this.host.addresses)
    const lines = [
      ...addresses.flatMap((address) => [`listening-ip=${address}`, `relay-ip=${address}`]),
      `listening-port=${PORT}`,
      `tls-listening-port=${TLS_PORT}`,
      `cert=${this.certificate}`,
      `pkey=${join(this.#folder, 'key.pem')}`,
      'realm=relay.test',
      'min-port=30000',
      'max-port=39999',
      'fingerprint',
      'no-cli',
      'no-software-attribute',
      'no-rfc5780',
      `userdb=${join(this.#folder, 'users.db')}`,
      `pidfile=${join(this.#folder, 'pid')}`,
      'log-file=stdout',
      'simple-log',
      'verbose',
      ...(secret
        ? ['use-auth-secret', `static-auth-secret=${secret}`]
        : ['lt-cred-mech', ...Object.entries(users).map(([name, word]) => `user=${name}:${word}`)]),
      ...settings,
    ]
    const file = join(this.#folder, 'turnserver.conf')
    run('sh', ['-c', `cat > ${file}`], `${lines.join('\n')}\n`)
    this.#child = this.host.space.spawn(coturnPath()!, ['-c', file])
    const hear = (chunk: Buffer) => {
      this.#log += chunk
    }
    this.#child.stdout.on('data', hear)
    this.#child.stderr.on('data', hear)
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`coturn is not ready: ${this.#log}`)), 10_000)
      this.#child.once('exit', () => reject(new Error(`coturn ended: ${this.#log}`)))
      const look = () => {
        if (!this.#listens()) return
        clearTimeout(timer)
        this.#child.stdout.off('data', look)
        resolve()
      }
      this.#child.stdout.on('data', look)
    })
  }

  #listens(): boolean {
    const sockets = this.host.space.exec('ss', '-lntu')
    return Object.values(this.host.addresses).every((address) => {
      const name = address.includes(':') ? `[${address}]` : address
      return [`${name}:${PORT}`, `${name}:${TLS_PORT}`].every(
        (end) => sockets.split('\n').filter((line) => line.includes(end)).length >= 2,
      )
    })
  }
}

function coturnPath(): string | undefined {
  return ['/usr/bin/turnserver', '/usr/local/bin/turnserver'].find((path) => existsSync(path))
}
