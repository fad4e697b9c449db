/** A bare WebSocket peer: what any JSON-RPC client could send, and a log of what came back. */
import { once } from 'node:events'
import { type ClientOptions, WebSocket } from 'ws'
import { SignalingServer, type SignalingServerOptions } from '../../src-ts/signaling/server.js'

// biome-ignore lint/suspicious/noExplicitAny: tests look into messages freely
export type Message = any

export const SDP = 'v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n'
export const CANDIDATE = 'candidate:1 1 udp 2113937151 192.0.2.1 54400 typ host'

export class RawPeer {
  readonly ws: WebSocket
  /** Notifications, in order of arrival, not taken by `next` yet. */
  readonly inbox: Message[] = []
  /** Answers nobody asked for by `request`: those with a null id, for one. */
  readonly answers: Message[] = []
  readonly closed: Promise<{ code: number; reason: string }>
  readonly #wanted: { match: (message: Message) => boolean; resolve: (message: Message) => void }[] = []
  readonly #pending = new Map<string | number, (message: Message) => void>()
  #nextId = 1

  static async open(url: string, options: ClientOptions = {}): Promise<RawPeer> {
    const peer = new RawPeer(new WebSocket(url, { perMessageDeflate: false, ...options }))
    await once(peer.ws, 'open')
    return peer
  }

  static async announced(
    url: string,
    peerId: string,
    params: Message = {},
  ): Promise<RawPeer & { me: Message }> {
    const peer = await RawPeer.open(url)
    const answer = await peer.request('peer.announce', { peer_id: peerId, capabilities: ['data'], ...params })
    if (!answer.result?.success) throw new Error(`announce of ${peerId}: ${JSON.stringify(answer)}`)
    return Object.assign(peer, { me: answer.result })
  }

  constructor(ws: WebSocket) {
    this.ws = ws
    this.closed = new Promise((resolve) => {
      ws.on('close', (code, reason) => resolve({ code, reason: reason.toString() }))
    })
    ws.on('error', () => {})
    ws.on('message', (data: Buffer) => this.#onMessage(JSON.parse(data.toString())))
  }

  /** Sends a request; resolves with the whole answer. */
  request(method: string, params?: Message, id: string | number = this.#nextId++): Promise<Message> {
    const answer = new Promise((resolve) => this.#pending.set(id, resolve))
    this.send({ jsonrpc: '2.0', id, method, ...(params === undefined ? {} : { params }) })
    return answer
  }

  notify(method: string, params: Message): void {
    this.send({ jsonrpc: '2.0', method, params })
  }

  send(message: Message): void {
    this.ws.send(JSON.stringify(message))
  }

  sendText(text: string): void {
    this.ws.send(text)
  }

  /** The next notification of a method, waiting for it if need be. */
  next(method: string): Promise<Message> {
    return this.#take(this.inbox, (m) => m.method === method)
  }

  /** The next answer that carries no id of a request. */
  nextError(): Promise<Message> {
    return this.#take(this.answers, () => true)
  }

  /** Resolves when everything sent before has been handled, and everything the server had for us is here. */
  async settled(): Promise<void> {
    await this.request('server.info')
  }

  async close(): Promise<void> {
    this.ws.close()
    await this.closed
  }

  #take(from: Message[], match: (message: Message) => boolean): Promise<Message> {
    const index = from.findIndex(match)
    if (index >= 0) return Promise.resolve(from.splice(index, 1)[0])
    return new Promise((resolve) =>
      this.#wanted.push({ match: (m) => from === this.#kind(m) && match(m), resolve }),
    )
  }

  #kind(message: Message): Message[] {
    return message.method === undefined ? this.answers : this.inbox
  }

  #onMessage(message: Message): void {
    const pending = message.method === undefined && this.#pending.get(message.id)
    if (pending) {
      this.#pending.delete(message.id)
      pending(message)
      return
    }
    const index = this.#wanted.findIndex((w) => w.match(message))
    if (index >= 0) this.#wanted.splice(index, 1)[0]?.resolve(message)
    else this.#kind(message).push(message)
  }
}

/** Servers of one test file: each test gets its own, and `closeAll` ends them. */
export class Servers {
  readonly #open: SignalingServer[] = []

  async listen(options: Partial<SignalingServerOptions> = {}): Promise<SignalingServer> {
    const server = await SignalingServer.listen(
      options.server ? options : { port: 0, host: '127.0.0.1', ...options },
    )
    this.#open.push(server)
    return server
  }

  async closeAll(): Promise<void> {
    await Promise.all(this.#open.splice(0).map((server) => server.close()))
  }
}

/** Sockets, servers and timers of this process, the test runner's own among them. */
export function liveHandles(): string[] {
  return process.getActiveResourcesInfo().filter((kind) => /TCP|Timeout/.test(kind))
}

/** What is alive beyond `before`. A socket that was told to go is given a moment to be gone. */
export async function leakedHandles(before: string[]): Promise<string[]> {
  const deadline = performance.now() + 1_000
  for (;;) {
    const left = [...before]
    const leaked = liveHandles().filter((kind) => {
      const index = left.indexOf(kind)
      if (index >= 0) left.splice(index, 1)
      return index < 0
    })
    if (leaked.length === 0 || performance.now() > deadline) return leaked
    await new Promise((resolve) => setImmediate(resolve))
  }
}
