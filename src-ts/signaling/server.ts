import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { Server as TlsServer } from 'node:tls'
import { WebSocketServer } from 'ws'
import { checkKnownKeys, configError, WebRtcError } from '../errors.js'
import { AwaitedAnswers } from './answers.js'
import { type CloseCause, Connection, type ConnectionOwner, SignalingSocket } from './connection.js'
import { Counters, type SignalingServerStats } from './counters.js'
import { type HostedPeer, type HostedPeerHandler, HostedPeers } from './hosted.js'
import { resolveLimits, type SignalingLimits } from './limits.js'
import { type Authorize, Methods, type Permit } from './methods.js'
import { CLOSE_CODES, isName, type JsonValue, NAME_RULE } from './protocol.js'
import { type AddressState, AddressTable } from './rate.js'
import { Rooms } from './rooms.js'

export interface SignalingServerOptions {
  /** TCP port, 0 to 65 535; 0 takes a free one. Required unless `server` is given. */
  port?: number
  /** Address to listen on. Default `127.0.0.1`: this machine only. `0.0.0.0` or `::` for everyone. */
  host?: string
  /**
   * An HTTP or HTTPS server that exists already, listening or not. Its upgrades become signaling connections (all of them, or
   * those at `path`); it is neither started nor closed here. Answer `/healthz` from it with `handleRequest`.
   */
  server?: Server
  /** The only path that takes WebSockets, e.g. `/signaling`. Default: any path. */
  path?: string
  /** Origins that browsers may connect from, e.g. `https://app.example`. Default: any. Clients that send none are not browsers, and pass. */
  allowedOrigins?: string[]
  /** The only peer ids that may announce themselves (others: −32013). Default: any. */
  allowPeers?: string[]
  /** Peer ids that may not (−32013), listed in `allowPeers` or not. */
  denyPeers?: string[]
  /** Decides about each announce, e.g. by its `token`. Default: everyone may enter. */
  authorize?: Authorize
  /** Decides about each message between two peers. Default: everyone in a room may reach everyone in it. */
  permit?: Permit
  /** The address that per-address limits go by. Default: the socket's. Behind a proxy, read the header it sets. */
  clientAddress?: (request: IncomingMessage) => string
  /** See `SignalingLimits`. */
  limits?: Partial<SignalingLimits>
}

/** A peer as the server's own program sees it. */
export interface ServerPeer {
  peerId: string
  room: string
  capabilities: string[]
  userData: JsonValue
  /** What `authorize` returned as `metadata`; never sent to anyone. */
  metadata: JsonValue
}

/**
 * Introduces peers to each other: rooms, presence, and the relay of offers, answers and ICE candidates, as JSON-RPC 2.0 over
 * WebSocket (`docs/signaling.md`). Holds no media. Nothing a client sends makes it throw or grow without bound.
 */
export class SignalingServer implements AsyncDisposable {
  readonly #limits: SignalingLimits
  readonly #counters = new Counters()
  readonly #owner: ConnectionOwner
  readonly #options: SignalingServerOptions
  readonly #http: Server
  readonly #ownsHttp: boolean
  readonly #wss: WebSocketServer
  readonly #rooms: Rooms
  readonly #hosted: HostedPeers
  readonly #answers: AwaitedAnswers
  readonly #methods: Methods
  readonly #addresses: AddressTable
  readonly #origins: ReadonlySet<string> | undefined
  readonly #connections = new Set<Connection>()
  readonly #sockets = new Set<Socket>()
  readonly #startedAt = performance.now()
  readonly #onUpgrade = (request: IncomingMessage, socket: Duplex, head: Buffer) =>
    this.#upgrade(request, socket, head)
  #heartbeat: NodeJS.Timeout | undefined
  #address: AddressInfo | undefined
  #closed: Promise<void> | undefined

  /**
   * Starts a server. Throws `ERR_CONFIG` for an option that is unknown or out of range, `ERR_SIGNALING` (with the system's error
   * as `cause`) when it can't listen there.
   */
  static async listen(options: SignalingServerOptions): Promise<SignalingServer> {
    checkOptions(options)
    const server = new SignalingServer(options)
    try {
      await server.#start()
    } catch (error) {
      await server.close()
      throw error
    }
    return server
  }

  private constructor(options: SignalingServerOptions) {
    const limits = resolveLimits(options.limits)
    this.#limits = limits
    this.#owner = {
      limits,
      counters: this.#counters,
      onCall: (connection, call) => this.#methods.call(connection, call),
      onEnd: (connection, cause) => this.#onEnd(connection, cause),
      onClosed: (connection) => this.#onClosed(connection),
      onLiveness: (connection, alive) => this.#onLiveness(connection, alive),
    }
    this.#options = { ...options }
    this.#origins = options.allowedOrigins && new Set(options.allowedOrigins.map((o) => o.toLowerCase()))
    this.#rooms = new Rooms(limits)
    this.#hosted = new HostedPeers(this.#rooms, limits.hostedAnswerTimeoutMs)
    this.#answers = new AwaitedAnswers(limits.hostedAnswerTimeoutMs)
    this.#addresses = new AddressTable(limits)
    this.#methods = new Methods({
      limits,
      counters: this.#counters,
      rooms: this.#rooms,
      hosted: this.#hosted,
      answers: this.#answers,
      authorize: options.authorize,
      permit: options.permit,
      allowPeers: options.allowPeers && new Set(options.allowPeers),
      denyPeers: options.denyPeers && new Set(options.denyPeers),
      uptimeMs: () => performance.now() - this.#startedAt,
    })
    this.#wss = new WebSocketServer({
      noServer: true,
      WebSocket: SignalingSocket,
      clientTracking: false,
      perMessageDeflate: false,
      autoPong: false,
      maxPayload: limits.maxMessageBytes,
      // A message in thousands of pieces costs more memory than its bytes.
      maxFragments: 256,
      maxBufferedChunks: 4_096,
    })
    this.#ownsHttp = options.server === undefined
    this.#http = options.server ?? this.#createHttp()
  }

  /** Where clients connect, e.g. `ws://127.0.0.1:8080`. A server that listens everywhere names the loopback address. */
  get url(): string {
    const { address, port } = this.#listening()
    const host = address === '0.0.0.0' ? '127.0.0.1' : address === '::' ? '::1' : address
    const scheme = this.#http instanceof TlsServer ? 'wss' : 'ws'
    const path = this.#options.path ?? ''
    return `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}${path}`
  }

  /** The TCP port, the real one where 0 was asked for. */
  get port(): number {
    return this.#listening().port
  }

  /** The peers of one room, or of all. */
  peers(room?: string): ServerPeer[] {
    const peers: ServerPeer[] = []
    for (const { member } of this.#connections) {
      if (!member || (room !== undefined && member.room.name !== room)) continue
      const { peer_id, capabilities, user_data } = member.toWire()
      peers.push({
        peerId: peer_id,
        room: member.room.name,
        capabilities,
        userData: user_data,
        metadata: member.metadata,
      })
    }
    return peers
  }

  /** Counters and gauges, as of now. */
  stats(): SignalingServerStats {
    return {
      uptimeMs: Math.round(performance.now() - this.#startedAt),
      connections: this.#connections.size,
      rooms: this.#rooms.size,
      peers: this.#rooms.peers,
      ...this.#counters.snapshot(),
    }
  }

  /**
   * Makes this process answer for a peer id (e.g. `remotemedia-server`), in one room or in every one: an offer to it is answered in
   * the result of the call. Hosted ids can't be announced, and are not listed. Throws `ERR_CONFIG`, `ERR_CLOSED`.
   */
  host(peerId: string, handler: HostedPeerHandler, options: { room?: string } = {}): HostedPeer {
    if (this.#closed) throw new WebRtcError('ERR_CLOSED', 'the signaling server is closed')
    checkKnownKeys('options', options, ['room'])
    return this.#hosted.add(peerId, handler, options.room)
  }

  /** Answers `GET /healthz` of a server given as `server`. False: the request is another's to answer. */
  handleRequest(request: IncomingMessage, response: ServerResponse): boolean {
    if (pathOf(request) !== '/healthz') return false
    const allowed = request.method === 'GET' || request.method === 'HEAD'
    const { rooms, peers, connections, uptimeMs } = this.stats()
    const status = this.#closed ? 'closing' : 'ok'
    const body = allowed
      ? JSON.stringify({ status, uptime: uptimeMs / 1000, rooms, peers, connections })
      : JSON.stringify({ error: 'GET or HEAD' })
    response.writeHead(allowed ? (this.#closed ? 503 : 200) : 405, {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
      'cache-control': 'no-store',
      ...(allowed ? {} : { allow: 'GET, HEAD' }),
    })
    response.end(request.method === 'HEAD' ? undefined : body)
    return true
  }

  /**
   * Says goodbye to every client (close code 1001) and frees the port. Resolves when all sockets and timers are gone, at most
   * `limits.closeTimeoutMs` and a moment later. Idempotent.
   */
  close(): Promise<void> {
    this.#closed ??= this.#shutDown()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #onEnd({ member }: Connection, cause: CloseCause): void {
    if (member && !this.#closed) this.#methods.end(member, LEFT_REASONS[cause])
  }

  #onClosed(connection: Connection): void {
    connection.address.connections--
    this.#connections.delete(connection)
  }

  #onLiveness({ member }: Connection, alive: boolean): void {
    if (member && !this.#closed) member.room.tellState(member, alive ? 'connected' : 'disconnected')
  }

  async #start(): Promise<void> {
    this.#http.on('upgrade', this.#onUpgrade)
    this.#heartbeat = setInterval(() => {
      for (const connection of this.#connections) connection.beat()
      this.#addresses.sweep(performance.now())
    }, this.#limits.heartbeatIntervalMs)
    this.#heartbeat.unref()
    if (!this.#ownsHttp) return
    const { port = 0, host = '127.0.0.1' } = this.#options
    await new Promise<void>((resolve, reject) => {
      const onError = (cause: NodeJS.ErrnoException) => reject(listenError(host, port, cause))
      this.#http.once('error', onError)
      this.#http.listen({ port, host }, () => {
        this.#http.off('error', onError)
        resolve()
      })
    })
    this.#address = this.#http.address() as AddressInfo
    // Accept errors (out of file descriptors) pass; the server goes on with the connections it has.
    this.#http.on('error', (error) =>
      process.emitWarning(`signaling server: ${error.message}`, 'RemoteMediaSignaling'),
    )
  }

  #createHttp(): Server {
    const timeout = this.#limits.announceTimeoutMs
    const http = createServer(
      {
        headersTimeout: timeout,
        requestTimeout: timeout,
        keepAliveTimeout: 5_000,
        connectionsCheckingInterval: 1_000,
      },
      (request, response) => {
        if (this.handleRequest(request, response)) return
        response.writeHead(426, {
          upgrade: 'websocket',
          connection: 'Upgrade, close',
          'content-type': 'text/plain',
        })
        response.end('This is a signaling server: connect with a WebSocket, or GET /healthz.\n')
      },
    )
    // Those that have not asked for a WebSocket yet count as well, with room for health checks.
    http.maxConnections = this.#limits.maxConnections + 64
    http.on('connection', (socket) => {
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
    })
    return http
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const { path } = this.#options
    // On a shared server another listener may want what comes to other paths.
    if (path !== undefined && pathOf(request) !== path && !this.#ownsHttp) return
    const address = this.#addresses.get(this.#addressOf(request), performance.now())
    const refusal = this.#refusal(request, address)
    if (refusal) {
      this.#counters.count('refused', refusal[1])
      refuseUpgrade(socket, refusal[0])
      return
    }
    // A malformed handshake is answered with 400 by ws, and this is never called.
    this.#wss.handleUpgrade(request, socket, head, (ws) => {
      address.connections++
      this.#counters.connectionsTotal++
      this.#connections.add(new Connection(this.#owner, ws as SignalingSocket, request, address))
    })
  }

  /** Why an upgrade is turned away: the HTTP status, and the name it's counted under. */
  #refusal(request: IncomingMessage, address: AddressState): [keyof typeof STATUS_TEXTS, string] | undefined {
    const { path } = this.#options
    const { origin } = request.headers
    if (this.#closed) return [503, 'closing']
    if (path !== undefined && pathOf(request) !== path) return [404, 'path']
    if (this.#origins && origin !== undefined && !this.#origins.has(origin.toLowerCase()))
      return [403, 'origin']
    if (this.#connections.size >= this.#limits.maxConnections) return [503, 'capacity']
    if (address.connections >= this.#limits.maxConnectionsPerAddress) return [429, 'addressConnections']
    if (!address.connects.take(performance.now())) return [429, 'rate']
    return undefined
  }

  #addressOf(request: IncomingMessage): string {
    try {
      const address = this.#options.clientAddress?.(request)
      if (typeof address === 'string') return address
    } catch (error) {
      process.emitWarning(`clientAddress: ${String(error)}`, 'RemoteMediaSignaling')
    }
    return request.socket.remoteAddress ?? ''
  }

  async #shutDown(): Promise<void> {
    clearInterval(this.#heartbeat)
    this.#http.off('upgrade', this.#onUpgrade)
    this.#hosted.close()
    this.#answers.close()
    const httpClosed = this.#ownsHttp
      ? new Promise<void>((resolve) => this.#http.close(() => resolve()))
      : undefined
    // Each ends within closeTimeoutMs by its own timer.
    for (const connection of this.#connections)
      connection.close(CLOSE_CODES.GOING_AWAY, 'server is closing', 'closing')
    await Promise.all([...this.#connections].map((connection) => connection.closed))
    for (const socket of this.#sockets) socket.destroy()
    await httpClosed
  }

  #listening(): AddressInfo {
    const address = this.#address ?? (this.#http.address() as AddressInfo | string | null)
    if (!address || typeof address === 'string') {
      throw new WebRtcError('ERR_CONFIG', 'server: is not listening on a TCP port yet')
    }
    return address
  }
}

function refuseUpgrade(socket: Duplex, status: keyof typeof STATUS_TEXTS): void {
  socket.on('error', () => socket.destroy())
  const retry = status === 429 ? 'Retry-After: 1\r\n' : ''
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_TEXTS[status]}\r\nConnection: close\r\nContent-Length: 0\r\n${retry}\r\n`,
    () => socket.destroy(),
  )
}

const STATUS_TEXTS = {
  403: 'Forbidden',
  404: 'Not Found',
  429: 'Too Many Requests',
  503: 'Service Unavailable',
} as const

/** The `reason` of `peer.left`, by how the connection ended. */
const LEFT_REASONS: Record<CloseCause, string> = {
  client: 'connection closed',
  error: 'connection failed',
  announceTimeout: 'no announce in time',
  binary: 'protocol violation',
  flood: 'too many messages',
  slowReader: 'reads too slowly',
  heartbeat: 'connection lost',
  replaced: 'resumed on another connection',
  closing: 'server is closing',
}

const OPTION_KEYS: readonly (keyof SignalingServerOptions)[] = [
  'port',
  'host',
  'server',
  'path',
  'allowedOrigins',
  'allowPeers',
  'denyPeers',
  'authorize',
  'permit',
  'clientAddress',
  'limits',
]

function checkOptions(options: SignalingServerOptions): void {
  checkKnownKeys('options', options, OPTION_KEYS)
  const { port, host, server, path, allowedOrigins, allowPeers, denyPeers } = options
  if (server === undefined && port === undefined)
    throw configError('port', port, 'an integer from 0 to 65535, or a `server`')
  if (server !== undefined && (port !== undefined || host !== undefined)) {
    throw configError(
      port !== undefined ? 'port' : 'host',
      port ?? host,
      'nothing: the given `server` has its own',
    )
  }
  if (server !== undefined && typeof server.on !== 'function')
    throw configError('server', server, 'a node:http or node:https Server')
  if (port !== undefined && !(Number.isInteger(port) && port >= 0 && port <= 65_535)) {
    throw configError('port', port, 'an integer from 0 to 65535')
  }
  if (host !== undefined && (typeof host !== 'string' || host === ''))
    throw configError('host', host, 'an address or host name')
  if (path !== undefined && !(typeof path === 'string' && path.startsWith('/')))
    throw configError('path', path, 'a path that begins with "/"')
  const origins =
    allowedOrigins?.every?.((o) => typeof o === 'string' && isOrigin(o)) ?? allowedOrigins === undefined
  if (!origins)
    throw configError('allowedOrigins', allowedOrigins, 'an array of origins such as "https://app.example"')
  for (const [field, ids] of Object.entries({ allowPeers, denyPeers })) {
    if (ids !== undefined && !(Array.isArray(ids) && ids.every(isName)))
      throw configError(field, ids, `an array of peer ids (${NAME_RULE})`)
  }
  for (const field of ['authorize', 'permit', 'clientAddress'] as const) {
    const hook = options[field]
    if (hook !== undefined && typeof hook !== 'function') throw configError(field, hook, 'a function')
  }
}

function isOrigin(text: string): boolean {
  try {
    return new URL(text).origin === text.toLowerCase() || text === 'null'
  } catch {
    return text === 'null'
  }
}

function pathOf(request: IncomingMessage): string {
  return (request.url ?? '/').split('?', 1)[0] ?? '/'
}

function listenError(host: string, port: number, cause: NodeJS.ErrnoException): WebRtcError {
  const advice =
    cause.code === 'EADDRINUSE'
      ? 'the port is taken: stop what listens there, or choose another (0 takes a free one)'
      : cause.code === 'EACCES'
        ? 'not permitted: ports below 1024 need privileges'
        : cause.code === 'EADDRNOTAVAIL' || cause.code === 'ENOTFOUND'
          ? 'this machine has no such address'
          : cause.message
  return new WebRtcError('ERR_SIGNALING', `can't listen on ${host}:${port}: ${advice}`, { cause })
}
