import { readFileSync } from 'node:fs'
import { isIPv4, isIPv6 } from 'node:net'
import * as tls from 'node:tls'
import { checkKnownKeys, configError, WebRtcError } from './errors.js'
import type { StunServerOptions, TurnServerOptions } from './native/binding.cjs'

/** A TURN server with its credentials (W3C `RTCIceServer`). */
export interface TurnServer {
  /**
   * `turn:host[:port][?transport=udp|tcp]` or `turns:host[:port][?transport=tcp]` (RFC 7065), or several. The port is 3478 by
   * default, 5349 with `turns:`, which is TURN over TLS; the transport is `udp`, or `tcp` with `turns:`. An IPv6 address stands in
   * brackets. The certificate of a `turns:` server is checked as Node checks one: against its own roots and those of
   * `NODE_EXTRA_CA_CERTS`.
   */
  urls: string | string[]
  /** User name, 1 to 508 bytes. */
  username: string
  /** Password, at most 1024 bytes. */
  credential: string
}

/**
 * Gives TURN servers with fresh credentials. Called at the start, when a server refuses the credentials, and before they expire
 * where the user name tells when (`<Unix seconds>:<name>`, as TURN REST services make them).
 */
export type TurnServersFunction = () => TurnServer[] | Promise<TurnServer[]>

/** Which candidates are used (W3C `RTCIceTransportPolicy`). */
export type IceTransportPolicy = 'all' | 'relay'

const MAX_SERVERS = 8
const STUN_RULE = `at most ${MAX_SERVERS} of 'stun:host[:port]'`
const TURN_RULE = "'turn:host[:port][?transport=udp|tcp]' or 'turns:host[:port][?transport=tcp]'"

/** @internal Throws `ERR_CONFIG` naming the entry. */
export function stunServers(urls: unknown): StunServerOptions[] {
  if (!Array.isArray(urls) || urls.length > MAX_SERVERS) throw configError('stunServers', urls, STUN_RULE)
  return urls.map((url: unknown, i) => {
    const parsed = parse(url)
    if (parsed?.scheme !== 'stun' || parsed.query !== '') {
      throw configError(`stunServers[${i}]`, url, `'stun:host[:port]'`)
    }
    return { host: parsed.host, port: parsed.port ?? 3478 }
  })
}

/** @internal One server for each URL. Throws `ERR_CONFIG` naming the entry, and no credential. */
export function turnServers(servers: unknown, field = 'turnServers'): TurnServerOptions[] {
  if (!Array.isArray(servers)) {
    throw configError(field, typeof servers, 'an array of { urls, username, credential }, or a function')
  }
  const all = servers.flatMap((server: unknown, i) => turnServer(server, `${field}[${i}]`))
  if (all.length > MAX_SERVERS) throw configError(field, `${all.length} URLs`, `at most ${MAX_SERVERS}`)
  return all
}

function turnServer(server: unknown, field: string): TurnServerOptions[] {
  if (typeof server !== 'object' || server === null) {
    throw configError(field, typeof server, '{ urls, username, credential }')
  }
  checkKnownKeys(field, server, ['urls', 'username', 'credential'])
  const { urls, username, credential } = server as Partial<TurnServer>
  const list: unknown[] = Array.isArray(urls) ? urls : [urls]
  if (list.length === 0) throw configError(`${field}.urls`, urls, `one or more of ${TURN_RULE}`)
  if (typeof username !== 'string' || username === '' || Buffer.byteLength(username) > 508) {
    throw configError(`${field}.username`, username, 'a string of 1 to 508 bytes')
  }
  if (typeof credential !== 'string' || Buffer.byteLength(credential) > 1024) {
    throw configError(`${field}.credential`, 'what was given', 'a string of at most 1024 bytes')
  }
  return list.map((url) => {
    const parsed = parse(url)
    const transport = parsed && /^(?:\?transport=(udp|tcp))?$/i.exec(parsed.query)
    if (!parsed || parsed.scheme === 'stun' || !transport) throw configError(`${field}.urls`, url, TURN_RULE)
    const overTls = parsed.scheme === 'turns'
    const over = transport[1]?.toLowerCase() ?? (overTls ? 'tcp' : 'udp')
    if (overTls && over === 'udp') {
      throw configError(`${field}.urls`, url, 'turns: with transport=tcp; TURN over DTLS is not supported')
    }
    const protocol = overTls ? 'tls' : over
    return { host: parsed.host, port: parsed.port ?? (overTls ? 5349 : 3478), protocol, username, credential }
  })
}

/** Scheme, host without brackets, port and query of a STUN or TURN URI (RFC 7064, RFC 7065). */
function parse(url: unknown): { scheme: string; host: string; port?: number; query: string } | undefined {
  if (typeof url !== 'string' || url.length > 512) return undefined
  const match = /^(stun|turns?):(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::(\d{1,5}))?(\?.*)?$/i.exec(url)
  if (!match) return undefined
  const [, scheme, ipv6, name, digits, query = ''] = match
  const host = (ipv6 ?? name)!
  // A name of digits and dots alone is a mistyped address.
  const ok = ipv6 ? isIPv6(ipv6) : host.length <= 253 && (/[^0-9.]/.test(host) || isIPv4(host))
  const port = digits === undefined ? undefined : Number(digits)
  if (!ok || (port !== undefined && (port < 1 || port > 65_535))) return undefined
  return { scheme: scheme!.toLowerCase(), host, ...(port === undefined ? {} : { port }), query }
}

/** @internal The certificates that Node trusts, as PEM: what `wss:` rests on is good enough for `turns:`. */
export function trustedCertificates(): string {
  // From Node 22.15 on there is a way to ask for all of them.
  const { getCACertificates } = tls as { getCACertificates?: (type: 'default') => string[] }
  const certificates = [...(getCACertificates?.('default') ?? tls.rootCertificates)]
  const extra = process.env.NODE_EXTRA_CA_CERTS
  if (extra) {
    try {
      certificates.push(readFileSync(extra, 'utf8'))
    } catch (cause) {
      process.emitWarning(`NODE_EXTRA_CA_CERTS: ${(cause as Error).message}`)
    }
  }
  return certificates.join('\n')
}

/** @internal Asks a function for TURN servers when they are needed, one call at a time. */
export class TurnServerSource {
  readonly #ask: TurnServersFunction
  readonly #give: (servers: TurnServerOptions[]) => void
  readonly #report: (error: WebRtcError) => void
  #asking = false
  #failures = 0
  #timer: NodeJS.Timeout | undefined
  #closed = false

  constructor(
    ask: TurnServersFunction,
    give: (servers: TurnServerOptions[]) => void,
    report: (error: WebRtcError) => void,
  ) {
    this.#ask = ask
    this.#give = give
    this.#report = report
  }

  /** Asks now, unless that is under way. */
  refresh(): void {
    if (this.#asking || this.#closed) return
    this.#asking = true
    void this.#refresh().finally(() => {
      this.#asking = false
    })
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
  }

  async #refresh(): Promise<void> {
    let servers: TurnServerOptions[]
    try {
      servers = turnServers(await this.#ask(), 'turnServers()')
    } catch (cause) {
      if (this.#closed) return
      const delay = Math.min(1000 * 2 ** this.#failures++, 60_000)
      const message = `turnServers(): ${cause instanceof Error ? cause.message : String(cause)}`
      this.#again(delay)
      this.#report(new WebRtcError('ERR_ICE_SERVER', message, { cause }))
      return
    }
    if (this.#closed) return
    this.#failures = 0
    const delay = refreshAfter(servers, Date.now())
    if (delay !== undefined) this.#again(delay)
    else clearTimeout(this.#timer)
    this.#give(servers)
  }

  #again(delay: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.refresh(), delay)
    this.#timer.unref()
  }
}

/** @internal When to ask again: a minute before the first credentials expire, sooner if they don't live for long. */
export function refreshAfter(servers: TurnServerOptions[], now: number): number | undefined {
  const lives = servers
    .map(({ username }) => /^(\d{9,11}):/.exec(username)?.[1])
    .filter((seconds) => seconds !== undefined)
    .map((seconds) => Number(seconds) * 1000 - now)
    // Those that have expired already are for the server to refuse: its clock may be another one.
    .filter((life) => life > 0)
  if (lives.length === 0) return undefined
  const life = Math.min(...lives)
  return Math.min(Math.max(life - Math.min(60_000, life / 5), 1000), 2 ** 31 - 1)
}
