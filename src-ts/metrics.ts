import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { checkKnownKeys, configError, WebRtcError } from './errors.js'
import type { Latency, MultiPeerSession } from './session.js'
import type { WebRtcTransport } from './transport.js'

/** The content type of what `metricsText` gives. */
export const METRICS_CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

/**
 * Counters of transports and of all their sessions, in Prometheus' text format 0.0.4: for the endpoint that Prometheus scrapes. Times are
 * in seconds. The label `transport` is the peer id, `session` the session's.
 */
export function metricsText(transports: WebRtcTransport | Iterable<WebRtcTransport>): string {
  const out = new Exposition()
  for (const transport of Symbol.iterator in transports ? transports : [transports]) {
    addTransport(out, transport)
    for (const session of transport.sessions) addSession(out, transport.peerId, session)
  }
  return out.text()
}

/** Answers requests with `metricsText`: `http.createServer(metricsHandler(transport)).listen(9464, '127.0.0.1')`. */
export function metricsHandler(
  transports: WebRtcTransport | Iterable<WebRtcTransport>,
): (request: IncomingMessage, response: ServerResponse) => void {
  return (request, response) => {
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.writeHead(405, { Allow: 'GET, HEAD' }).end()
      return
    }
    const text = metricsText(transports)
    response.writeHead(200, { 'Content-Type': METRICS_CONTENT_TYPE, 'Cache-Control': 'no-store' })
    response.end(request.method === 'HEAD' ? undefined : text)
  }
}

export interface MetricsOptions {
  /** TCP port, 0 to 65 535; 0 takes a free one. Default 9464. */
  port?: number
  /** Address to listen on. Default `127.0.0.1`: this machine only. Whoever reaches it can read the ids of peers and sessions. */
  host?: string
}

/** An HTTP server that gives `metricsText` at `/metrics`. */
export interface MetricsServer extends AsyncDisposable {
  /** What Prometheus is told to scrape, e.g. `http://127.0.0.1:9464/metrics`. */
  readonly url: string
  /** Ends it, and the requests it has. Idempotent. */
  close(): Promise<void>
}

/** @internal Throws `ERR_CONFIG`; rejects with it when it can't listen there. */
export async function listenMetrics(
  transports: WebRtcTransport | Iterable<WebRtcTransport>,
  options: MetricsOptions = {},
): Promise<MetricsServer> {
  checkKnownKeys('options', options, ['port', 'host'])
  const { port = 9464, host = '127.0.0.1' } = options
  if (!(Number.isInteger(port) && port >= 0 && port <= 65_535))
    throw configError('port', port, 'an integer from 0 to 65535')
  if (typeof host !== 'string' || host === '') throw configError('host', host, 'an address or host name')
  const answer = metricsHandler(transports)
  const server = createServer((request, response) => {
    if (request.url?.split('?', 1)[0] === '/metrics') answer(request, response)
    else response.writeHead(404).end()
  })
  // A scraper needs one.
  server.maxConnections = 32
  server.requestTimeout = 10_000
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => {
      reject(new WebRtcError('ERR_CONFIG', `metrics: can't listen on ${host}:${port}`, { cause }))
    })
    server.listen({ port, host }, resolve)
  })
  server.on('error', (error) => process.emitWarning(error))
  const { address, family, port: bound } = server.address() as AddressInfo
  let closed: Promise<void> | undefined
  const close = () => {
    closed ??= new Promise<void>((resolve) => {
      server.close(() => resolve())
      server.closeAllConnections()
    })
    return closed
  }
  return {
    url: `http://${family === 'IPv6' ? `[${address}]` : address}:${bound}/metrics`,
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** @internal The counters of one session alone. */
export function sessionMetrics(peerId: string, session: MultiPeerSession): string {
  const out = new Exposition()
  addSession(out, peerId, session)
  return out.text()
}

/** Counters of a transport that go up and down. */
const GAUGES = new Set(['messageBytes', 'heldPeers'])

function addTransport(out: Exposition, transport: WebRtcTransport): void {
  const labels = { transport: transport.peerId }
  const states = new Map<string, number>()
  for (const { state } of transport.listPeers()) states.set(state, (states.get(state) ?? 0) + 1)
  for (const state of ['new', 'connecting', 'connected', 'disconnected', 'failed', 'closed']) {
    const value = states.get(state) ?? 0
    out.add('remotemedia_peers', 'gauge', 'Remote peers, by connection state.', { ...labels, state }, value)
  }
  out.add('remotemedia_sessions', 'gauge', 'Open sessions.', labels, transport.sessions.length)
  for (const [name, value] of Object.entries(transport.counters)) {
    if (typeof value !== 'number') continue
    const gauge = GAUGES.has(name)
    const metric = `remotemedia_transport_${snake(name)}${gauge ? '' : '_total'}`
    const help = `WebRtcTransport.counters.${name}.`
    out.add(metric, gauge ? 'gauge' : 'counter', help, labels, value)
  }
}

function addSession(out: Exposition, transport: string, session: MultiPeerSession): void {
  const { nodes, edges, instances } = session.stats()
  const ids = { transport, session: session.id }
  const at = 'remotemedia_pipeline'
  for (const node of nodes) {
    const labels = { ...ids, node: node.id, type: node.nodeType }
    out.add(`${at}_node_items_in_total`, 'counter', 'Items handed to a node.', labels, node.itemsIn)
    out.add(`${at}_node_items_out_total`, 'counter', 'Items a node gave out.', labels, node.itemsOut)
    out.add(`${at}_node_errors_total`, 'counter', 'Failures of a node.', labels, node.errors)
    out.add(
      `${at}_node_restarts_total`,
      'counter',
      "Times a node's state was made anew.",
      labels,
      node.restarts,
    )
    out.add(`${at}_node_depth`, 'gauge', 'Items waiting before a node, or away at it.', labels, node.depth)
    for (const [reason, count] of Object.entries(node.dropped)) {
      const help = 'Items that ended at a node, by reason.'
      out.add(`${at}_node_dropped_total`, 'counter', help, { ...labels, reason }, count)
    }
    out.summary(`${at}_node_seconds`, 'Time that a node takes an item.', labels, node.latency)
  }
  for (const edge of edges) {
    const labels = { ...ids, from: edge.from, to: edge.to }
    out.add(`${at}_edge_items_total`, 'counter', 'Items that a connection carried.', labels, edge.items)
    out.add(`${at}_edge_depth`, 'gauge', 'Items waiting on a connection.', labels, edge.depth)
    for (const [reason, count] of Object.entries(edge.dropped)) {
      const help = 'Items that ended on a connection, by reason.'
      out.add(`${at}_edge_dropped_total`, 'counter', help, { ...labels, reason }, count)
    }
    out.summary(`${at}_edge_wait_seconds`, 'Time that items wait on a connection.', labels, edge.wait)
  }
  // By peer these would be a series for everybody who ever came; the session's own sum is what stays.
  const sum = (of: (instance: (typeof instances)[number]) => number) =>
    instances.reduce((total, instance) => total + of(instance), 0)
  out.add(`${at}_instances`, 'gauge', "Peers' instances of the graph.", ids, instances.length)
  out.add(
    `${at}_ingress_depth`,
    'gauge',
    'Items waiting before instances.',
    ids,
    sum((i) => i.depth),
  )
}

interface Family {
  type: string
  help: string
  lines: string[]
}

/** Keeps the lines of one metric together, as the format asks for. */
class Exposition {
  readonly #families = new Map<string, Family>()

  add(name: string, type: string, help: string, labels: Record<string, string>, value: number): void {
    this.#line(this.#family(name, type, help), name, labels, value)
  }

  summary(name: string, help: string, labels: Record<string, string>, latency: Latency): void {
    const family = this.#family(name, 'summary', help)
    const quantiles = [
      ['0.5', latency.p50Us],
      ['0.95', latency.p95Us],
      ['0.99', latency.p99Us],
    ] as const
    for (const [quantile, us] of quantiles) {
      this.#line(family, name, { ...labels, quantile }, latency.count > 0 ? us / 1e6 : Number.NaN)
    }
    this.#line(family, `${name}_sum`, labels, latency.sumUs / 1e6)
    this.#line(family, `${name}_count`, labels, latency.count)
  }

  text(): string {
    const parts: string[] = []
    for (const [name, { type, help, lines }] of this.#families) {
      parts.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...lines)
    }
    return `${parts.join('\n')}\n`
  }

  #family(name: string, type: string, help: string): Family {
    let family = this.#families.get(name)
    if (!family) {
      family = { type, help, lines: [] }
      this.#families.set(name, family)
    }
    return family
  }

  #line(family: Family, name: string, labels: Record<string, string>, value: number): void {
    const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escapeLabel(text)}"`)
    family.lines.push(`${name}{${pairs.join(',')}} ${value}`)
  }
}

function escapeLabel(text: string): string {
  return text.replace(/\\/g, '\\\\').replace(/"/g, '\\"').replace(/\n/g, '\\n')
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}
