import { type DataKind, release, type TransportData } from './data.js'
import { configError, WebRtcError } from './errors.js'

/** Something that came from a peer. */
export interface Received {
  peerId: string
  data: TransportData
}

export interface ReceiveOptions {
  /** Only this kind. Default: any. */
  kind?: DataKind
  signal?: AbortSignal
  /** Then `ERR_ABORTED`. Default: no limit. */
  timeoutMs?: number
}

/** What an inbox needs of the one it belongs to. @internal */
export interface InboxHost {
  /** Makes a peer wait with its messages, or lets it go on. */
  hold(peerId: string, hold: boolean): void
  /** Which media are asked for has changed. */
  wantsChanged(): void
  hasLeft(peerId: string): boolean
}

/**
 * What came from peers and was not read yet. Only what somebody has asked for once is kept: raw video the newest a peer, audio
 * 100 ms a peer. Messages are all kept: a peer that has 1024 of them or 4 MiB waiting here is made to wait itself, until half are
 * read.
 *
 * @internal
 */
export class Inbox {
  readonly #host: InboxHost
  readonly #queue: Entry[] = []
  readonly #waiting = new Set<Waiting>()
  readonly #asked: Wish[] = []
  /** Messages waiting, by peer. */
  readonly #messages = new Map<string, Backlog>()
  #dropped = 0
  #closed = false

  constructor(host: InboxHost) {
    this.#host = host
  }

  /** Items dropped because nobody read them. */
  get dropped(): number {
    return this.#dropped
  }

  /** Whether this kind of thing is asked for, of any peer. */
  wants(kind: DataKind): boolean {
    return !this.#closed && this.#asked.some((wish) => wish.kind === undefined || wish.kind === kind)
  }

  /** Takes an item over that is `bytes` long, if it is a message. */
  deliver(item: Received, bytes: number): void {
    if (this.#closed || !this.#asked.some((wish) => matches(wish, item))) {
      release(item.data)
      return
    }
    for (const waiting of this.#waiting) {
      if (matches(waiting, item)) {
        waiting.settle(item)
        return
      }
    }
    this.#keep({ ...item, bytes })
  }

  /** The next item for this wish. Null once it can't come any more. */
  take(peerId: string | undefined, options: ReceiveOptions): Promise<Received | null> {
    const { kind, signal, timeoutMs } = options
    if (timeoutMs !== undefined && !(timeoutMs >= 0))
      throw configError('timeoutMs', timeoutMs, 'milliseconds')
    if (this.#closed) return Promise.resolve(null)
    if (signal?.aborted) return Promise.reject(aborted(signal))
    this.#ask({ peerId, kind })
    const index = this.#queue.findIndex((item) => matches({ peerId, kind }, item))
    if (index >= 0) return Promise.resolve(this.#remove(index))
    if (peerId !== undefined && this.#host.hasLeft(peerId)) return Promise.resolve(null)
    return new Promise((resolve, reject) => {
      const finish = () => {
        this.#waiting.delete(waiting)
        clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
      }
      const waiting: Waiting = {
        peerId,
        kind,
        settle: (item) => {
          finish()
          resolve(item)
        },
      }
      const onAbort = () => {
        finish()
        reject(aborted(signal!))
      }
      const timer =
        timeoutMs === undefined
          ? undefined
          : setTimeout(() => {
              finish()
              reject(new WebRtcError('ERR_ABORTED', `nothing came within ${timeoutMs} ms`))
            }, timeoutMs)
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#waiting.add(waiting)
    })
  }

  /** Nothing more comes from this peer. What came can still be read. */
  peerLeft(peerId: string): void {
    const backlog = this.#messages.get(peerId)
    if (backlog) backlog.held = false
    for (const waiting of [...this.#waiting]) if (waiting.peerId === peerId) waiting.settle(null)
  }

  close(): void {
    this.#closed = true
    for (const waiting of [...this.#waiting]) waiting.settle(null)
    for (const { data } of this.#queue.splice(0)) release(data)
    for (const [peerId, { held }] of this.#messages) if (held) this.#host.hold(peerId, false)
    this.#messages.clear()
  }

  #ask(wish: Wish): void {
    if (this.#asked.some(({ peerId, kind }) => peerId === wish.peerId && kind === wish.kind)) return
    // Who asks for this many one by one wants them all.
    if (this.#asked.length >= MAX_WISHES) this.#asked.splice(0, this.#asked.length, ANYTHING)
    else this.#asked.push(wish)
    this.#host.wantsChanged()
  }

  #keep(item: Entry): void {
    const queue = this.#queue
    const same = (other: Entry) =>
      other.peerId === item.peerId && other.data.data.kind === item.data.data.kind
    const { kind } = item.data.data
    if (kind === 'video') {
      const old = queue.findIndex(same)
      if (old >= 0) this.#drop(old)
    } else if (kind === 'audio') {
      let waiting = audioMs(item.data)
      for (const other of queue) if (same(other)) waiting += audioMs(other.data)
      while (waiting > MAX_AUDIO_MS) {
        const old = queue.findIndex(same)
        if (old < 0) break
        waiting -= audioMs(queue[old]!.data)
        this.#drop(old)
      }
    } else {
      this.#keepMessage(item)
    }
    queue.push(item)
  }

  #keepMessage({ peerId, bytes }: Entry): void {
    const backlog = this.#messages.get(peerId) ?? { count: 0, bytes: 0, held: false }
    this.#messages.set(peerId, backlog)
    backlog.count++
    backlog.bytes += bytes
    if (!backlog.held && (backlog.count >= MAX_MESSAGES || backlog.bytes >= MAX_MESSAGE_BYTES)) {
      backlog.held = true
      this.#host.hold(peerId, true)
    }
    // A peer that waits is let say something now and then, so that the connection lives. After an hour of that it is enough.
    while (backlog.bytes > MOST_MESSAGE_BYTES || backlog.count > MOST_MESSAGES) {
      const old = this.#queue.findIndex((other) => other.peerId === peerId && isMessage(other))
      if (old < 0) break
      this.#drop(old)
    }
  }

  #drop(index: number): void {
    this.#dropped++
    release(this.#remove(index).data)
  }

  #remove(index: number): Received {
    const [item] = this.#queue.splice(index, 1)
    const { peerId, data, bytes } = item!
    const backlog = isMessage(item!) ? this.#messages.get(peerId) : undefined
    if (backlog) {
      backlog.count--
      backlog.bytes -= bytes
      if (backlog.held && backlog.count <= MAX_MESSAGES / 2 && backlog.bytes <= MAX_MESSAGE_BYTES / 2) {
        backlog.held = false
        this.#host.hold(peerId, false)
      }
      if (backlog.count === 0) this.#messages.delete(peerId)
    }
    return { peerId, data }
  }
}

interface Wish {
  peerId: string | undefined
  kind: DataKind | undefined
}

interface Waiting extends Wish {
  settle(item: Received | null): void
}

interface Entry extends Received {
  bytes: number
}

interface Backlog {
  count: number
  bytes: number
  held: boolean
}

const ANYTHING: Wish = { peerId: undefined, kind: undefined }
const MAX_WISHES = 256
const MAX_AUDIO_MS = 100
const MAX_MESSAGES = 1024
const MAX_MESSAGE_BYTES = 4 << 20
const MOST_MESSAGES = 1 << 20
const MOST_MESSAGE_BYTES = 256 << 20

function matches(wanted: Wish, item: Received): boolean {
  return (
    (wanted.peerId === undefined || wanted.peerId === item.peerId) &&
    (wanted.kind === undefined || wanted.kind === item.data.data.kind)
  )
}

function isMessage({ data }: Received): boolean {
  return data.data.kind !== 'audio' && data.data.kind !== 'video'
}

function audioMs({ data }: TransportData): number {
  return data.kind === 'audio' ? (data.samples.length / data.channels / data.sampleRate) * 1000 : 0
}

function aborted(signal: AbortSignal): WebRtcError {
  return new WebRtcError('ERR_ABORTED', 'the call was aborted', { cause: signal.reason })
}
