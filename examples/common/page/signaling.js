// JSON-RPC 2.0 over a WebSocket: announce, presence and the relay of offers, answers and candidates.

const FIRST_RETRY_MS = 250
const LAST_RETRY_MS = 4000
const REQUEST_TIMEOUT_MS = 10_000

/** Thrown when the server answers with an error; `code` is the JSON-RPC code. */
export class SignalingError extends Error {
  constructor(code, message) {
    super(message)
    this.name = 'SignalingError'
    this.code = code
  }
}

/**
 * One place in one room. Events (all `CustomEvent`):
 * - `announced` {other_peers, peers, …}: the announce result, again after each reconnection
 * - `lost` {retryInMs}: the socket went away; it is opened again by itself
 * - `refused` {error}: the server won't have us, and we stop trying
 * - every notification under its own method name: `peer.offer`, `peer.joined`, …
 */
export class Signaling extends EventTarget {
  #url
  #identity
  #socket = null
  #nextId = 1
  #pending = new Map()
  #resumeToken
  #retryMs = FIRST_RETRY_MS
  #retryTimer
  #closed = false

  /** @param {{url: string, peerId: string, room: string, userData?: object}} options */
  constructor({ url, peerId, room, userData }) {
    super()
    this.#url = url
    this.peerId = peerId
    this.#identity = {
      peer_id: peerId,
      room,
      capabilities: ['audio', 'video', 'data'],
      user_data: userData ?? {},
    }
  }

  /** Resolves with the announce result. Rejects when the first try fails: nothing is retried then. */
  async join() {
    const announced = await this.#connect()
    this.#emit('announced', announced)
    return announced
  }

  /** Sends a request and resolves with its result. */
  request(method, params) {
    const socket = this.#socket
    if (socket?.readyState !== WebSocket.OPEN) {
      return Promise.reject(new SignalingError(0, 'the signaling connection is down'))
    }
    const id = this.#nextId++
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id)
        reject(new SignalingError(0, `no answer to ${method} in ${REQUEST_TIMEOUT_MS / 1000} s`))
      }, REQUEST_TIMEOUT_MS)
      this.#pending.set(id, { resolve, reject, timer })
      socket.send(JSON.stringify({ jsonrpc: '2.0', id, method, params }))
    })
  }

  /** Leaves the room for good. */
  close(reason = 'left the page') {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#retryTimer)
    const socket = this.#socket
    if (socket?.readyState === WebSocket.OPEN) {
      socket.send(
        JSON.stringify({
          jsonrpc: '2.0',
          method: 'peer.disconnect',
          params: { peer_id: this.peerId, reason },
        }),
      )
    }
    socket?.close(1000)
    this.#failPending('signaling was closed')
  }

  async #connect() {
    const socket = new WebSocket(this.#url)
    this.#socket = socket
    await new Promise((resolve, reject) => {
      socket.onopen = resolve
      socket.onclose = socket.onerror = () => reject(new SignalingError(0, `no connection to ${this.#url}`))
    })
    socket.onerror = null
    socket.onmessage = ({ data }) => this.#receive(data)
    // Only a socket that was announced is worth opening again, so `onclose` is told apart by this flag.
    let announced = false
    socket.onclose = () => {
      this.#failPending('the signaling connection was lost')
      if (announced) this.#retryLater()
    }
    try {
      const identity = this.#resumeToken
        ? { ...this.#identity, resume_token: this.#resumeToken }
        : this.#identity
      const result = await this.request('peer.announce', identity)
      announced = true
      this.#resumeToken = result.resume_token
      this.#retryMs = FIRST_RETRY_MS
      return result
    } catch (error) {
      socket.close()
      throw error
    }
  }

  #retryLater() {
    if (this.#closed) return
    const retryInMs = this.#retryMs
    this.#retryMs = Math.min(this.#retryMs * 2, LAST_RETRY_MS)
    this.#emit('lost', { retryInMs })
    this.#retryTimer = setTimeout(async () => {
      try {
        this.#emit('announced', await this.#connect())
      } catch (error) {
        // A refusal with a JSON-RPC code won't get better by asking again; a network failure may.
        if (error.code) this.#emit('refused', { error })
        else this.#retryLater()
      }
    }, retryInMs)
  }

  #receive(text) {
    let message
    try {
      message = JSON.parse(text)
    } catch {
      return
    }
    const waiting = this.#pending.get(message.id)
    if (waiting && message.method === undefined) {
      this.#pending.delete(message.id)
      clearTimeout(waiting.timer)
      if (message.error) waiting.reject(new SignalingError(message.error.code, message.error.message))
      else waiting.resolve(message.result)
      // A peer that is hosted answers an offer in the result of its request.
      if (message.result?.type === 'answer') this.#emit('peer.answer', message.result)
    } else if (typeof message.method === 'string') {
      this.#emit(message.method, message.params ?? {})
    }
  }

  #failPending(why) {
    for (const { reject, timer } of this.#pending.values()) {
      clearTimeout(timer)
      reject(new SignalingError(0, why))
    }
    this.#pending.clear()
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }))
  }
}
