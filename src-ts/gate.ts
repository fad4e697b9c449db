import { TokenBucket } from './signaling/rate.js'

/** What a signal costs: a description may make a link, a candidate a check. */
export type SignalKind = 'description' | 'candidate'

/**
 * How much of what peers send through signaling is looked at. A peer, or a server, that sends more is put off before it costs
 * anything; nobody else's share gets smaller by that, until the share of all together is used up.
 *
 * @internal
 */
export class SignalGate {
  readonly #peers = new Map<string, Share>()
  readonly #all: { [kind in SignalKind]: TokenBucket }
  #limited = 0

  /** Times are milliseconds of a monotonic clock. */
  constructor(maxPeers: number, now: number) {
    this.#all = {
      description: new TokenBucket(16 + maxPeers, 64 + 4 * maxPeers, now),
      candidate: new TokenBucket(16 * (16 + maxPeers), 64 * (4 + maxPeers), now),
    }
  }

  /** Signals put off so far. */
  get limited(): number {
    return this.#limited
  }

  /** Whether to look at a signal of `peer`; `refuse`: not, and it may be told so. */
  judge(peer: string, kind: SignalKind, now: number): 'pass' | 'refuse' | 'drop' {
    const share = this.#share(peer, now)
    if (share[kind].take(now) && this.#all[kind].take(now)) return 'pass'
    this.#limited++
    return share.refusals.take(now) ? 'refuse' : 'drop'
  }

  #share(peer: string, now: number): Share {
    const known = this.#peers.get(peer)
    // Put in again, so that the map's order is the order of last use.
    if (known) this.#peers.delete(peer)
    const share = known ?? {
      // Some ICE restarts a second, and a dozen connections made and ended by hand one after the other.
      description: new TokenBucket(4, 32, now),
      // As many for each as a host with many addresses has.
      candidate: new TokenBucket(64, 512, now),
      refusals: new TokenBucket(1, 4, now),
    }
    this.#peers.set(peer, share)
    if (this.#peers.size > MAX_SHARES) this.#peers.delete(this.#peers.keys().next().value!)
    return share
  }
}

interface Share {
  readonly description: TokenBucket
  readonly candidate: TokenBucket
  readonly refusals: TokenBucket
}

/** Peers remembered. Whoever uses more ids than that still has to share with all. */
const MAX_SHARES = 1024
