/** Lets `burst` through at once and `perSecond` after that. Holds two numbers: no timer, no queue. */
export class TokenBucket {
  readonly perSecond: number
  readonly burst: number
  #tokens: number
  #at: number

  /** Times are milliseconds of any monotonic clock; the same one for the constructor and every `take`. */
  constructor(perSecond: number, burst: number, now: number) {
    this.perSecond = perSecond
    this.burst = burst
    this.#tokens = burst
    this.#at = now
  }

  /** Takes one token if there is one. */
  take(now: number): boolean {
    this.#refill(now)
    if (this.#tokens < 1) return false
    this.#tokens -= 1
    return true
  }

  /** True when nothing would be lost by forgetting this bucket. */
  isFull(now: number): boolean {
    this.#refill(now)
    return this.#tokens >= this.burst
  }

  #refill(now: number): void {
    // A clock that steps back gives nothing and takes nothing.
    const elapsed = Math.max(0, now - this.#at)
    this.#at = now
    this.#tokens = Math.min(this.burst, this.#tokens + (elapsed * this.perSecond) / 1000)
  }
}

/** What one remote address may do, shared by all its connections. */
export interface AddressState {
  connections: number
  readonly connects: TokenBucket
  readonly messages: TokenBucket
}

export interface AddressLimits {
  addressConnectionsPerSecond: number
  addressConnectionBurst: number
  addressMessagesPerSecond: number
  addressMessageBurst: number
}

/** The addresses seen lately. Bounded: idle ones are forgotten, the longest unused first. */
export class AddressTable {
  readonly #limits: AddressLimits
  readonly #maxIdle: number
  readonly #states = new Map<string, AddressState>()

  constructor(limits: AddressLimits, maxIdle = 10_000) {
    this.#limits = limits
    this.#maxIdle = maxIdle
  }

  get size(): number {
    return this.#states.size
  }

  get(address: string, now: number): AddressState {
    const key = addressKey(address)
    let state = this.#states.get(key)
    if (state) {
      // Re-inserted, so that the map's order is the order of last use.
      this.#states.delete(key)
    } else {
      const l = this.#limits
      state = {
        connections: 0,
        connects: new TokenBucket(l.addressConnectionsPerSecond, l.addressConnectionBurst, now),
        messages: new TokenBucket(l.addressMessagesPerSecond, l.addressMessageBurst, now),
      }
    }
    this.#states.set(key, state)
    if (this.#states.size > this.#maxIdle) this.#evict()
    return state
  }

  /** Forgets the addresses with no connection and nothing to remember. */
  sweep(now: number): void {
    for (const [key, state] of this.#states) {
      if (state.connections === 0 && state.connects.isFull(now) && state.messages.isFull(now))
        this.#states.delete(key)
    }
  }

  #evict(): void {
    // Those with connections are bounded by `maxConnections` and stay; a few steps find an idle one or give up.
    let steps = 0
    for (const [key, state] of this.#states) {
      if (state.connections === 0) {
        this.#states.delete(key)
        return
      }
      if (++steps === 64) return
    }
  }
}

/** IPv4 as it is, IPv4-mapped IPv6 as IPv4, other IPv6 by its /64: one household or machine has a whole /64. */
export function addressKey(address: string): string {
  if (!address.includes(':')) return address
  const bare = address.split('%', 1)[0] ?? address
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(bare)
  if (mapped?.[1]) return mapped[1]
  const [head = '', tail] = bare.toLowerCase().split('::', 2)
  const left = head === '' ? [] : head.split(':')
  const right = tail === undefined || tail === '' ? [] : tail.split(':')
  const zeros = tail === undefined ? 0 : Math.max(0, 8 - left.length - right.length)
  const groups = [...left, ...Array<string>(zeros).fill('0'), ...right]
  return `${groups
    .slice(0, 4)
    .map((g) => g.replace(/^0+(?=.)/, ''))
    .join(':')}::/64`
}
