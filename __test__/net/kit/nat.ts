/** A box that hides a network behind one public IPv4 address. */
import { Host, type Namespace, Router, type Segment } from './lab.js'

/**
 * `port-restricted`: one public port for each port inside, whoever it talks to, and only those answered who were spoken to
 * (RFC 4787: endpoint-independent mapping, address and port-dependent filtering). `symmetric`: another public port for each
 * destination, so that what STUN tells is of no use for anyone else.
 */
export type NatKind = 'port-restricted' | 'symmetric'

export class Nat {
  /** Hosts behind it are plugged in here. */
  readonly lan: Segment
  readonly #router: Router
  #mapping = 0

  static async plugIn(space: Namespace, uplink: Segment, kind: NatKind): Promise<Nat> {
    return new Nat(space, await Host.plugIn(space, uplink, ['v4'], null), kind)
  }

  private constructor(
    space: Namespace,
    /** Its side in the internet. */
    readonly outside: Host,
    private readonly kind: NatKind,
  ) {
    this.#router = new Router(space, { v4: '192.168' })
    this.lan = this.#router.segment()
    // What comes unasked is dropped before anything answers it: an answer of the box itself would take the port that the host
    // inside is about to use, and the two could never meet.
    space.nft(`table inet box {
  chain input { type filter hook input priority 0; iifname "eth0" meta l4proto { udp, tcp } drop; }
  chain forward {
    type filter hook forward priority 0; policy drop;
    iifname != "eth0" accept
    ct state established,related accept
  }
}
table ip box-nat {
  chain out { type nat hook postrouting priority srcnat; }
}`)
    this.#map()
  }

  get publicAddress(): string {
    return this.outside.addresses.v4!
  }

  /**
   * Forgets every UDP mapping and gives new ports from now on, as boxes do after a while. `everything`: TCP as well, as after a
   * restart; the box takes connections up again at the first packet from inside.
   */
  rebind({ everything = false } = {}): void {
    this.#mapping++
    this.#map()
    if (everything) this.#router.space.exec('conntrack', '-F')
    else this.#router.space.exec('conntrack', '-D', '-p', 'udp')
  }

  #map(): void {
    const first = 20_000 + (this.#mapping % 10) * 2_000
    const ports = `${this.publicAddress}:${first}-${first + 1_999}`
    const udp = this.kind === 'symmetric' ? 'masquerade fully-random' : `snat to ${ports}`
    this.#router.space.nft(`flush chain ip box-nat out
add rule ip box-nat out oifname "eth0" meta l4proto udp ${udp}
add rule ip box-nat out oifname "eth0" masquerade`)
  }
}
