/**
 * Networks on one machine: an internet of network namespaces, made for one test and gone after it.
 *
 * In the middle is a router, `lab.net`. Every host has a subnet of its own there, or sits behind a NAT box that has one.
 * Addresses: 198.18.N.0/24 and 2001:db8:N::/64 in the internet, 192.168.N.0/24 behind NAT (IPv4 alone, as at home).
 */
import { type ChildProcess, type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { Forwarder } from './forwarder.js'
import { Nat, type NatKind } from './nat.js'
import { deleteNamespace, run, startOf } from './system.js'

export type Family = 'v4' | 'v6'

export interface HostOptions {
  /** The NAT box that it is behind. Default: none, it is in the internet. */
  behind?: Nat
  /** Its access link behaves as this condition of docs/network-conditions.md says. */
  condition?: string
  /** Makes the chances of the condition repeat. Default 1. */
  seed?: number
  /** Default: both, and IPv4 alone behind a NAT. */
  families?: Family[]
}

let labs = 0
let swept = false
/** Laboratories that are to be deleted if the process ends before they are closed. */
const open = new Set<Lab>()
const atExit = () => {
  for (const lab of open) lab.delete()
}

export class Lab {
  /** The router in the middle. */
  readonly net: Router
  /** What tells, after a failure, what went on in here. */
  readonly witnesses: (() => Promise<string>)[] = []
  readonly #prefix: string
  readonly #spaces: Namespace[] = []

  constructor() {
    if (!swept) sweep()
    swept = true
    this.#prefix = `rm-${process.pid}-${startOf(process.pid)}-${++labs}`
    if (open.size === 0) process.on('exit', atExit)
    open.add(this)
    this.net = new Router(this.space('net'), { v4: '198.18', v6: '2001:db8' })
  }

  /** A namespace with nothing but its loopback. */
  space(name: string): Namespace {
    const space = new Namespace(`${this.#prefix}-${name}`)
    this.#spaces.push(space)
    return space
  }

  /** A machine with one access link. */
  host(name: string, options: HostOptions = {}): Promise<Host> {
    const { behind, condition, seed = 1 } = options
    const segment = behind ? behind.lan : this.net.segment()
    const families = options.families ?? (behind ? ['v4'] : ['v4', 'v6'])
    const shaped = condition === undefined ? null : { condition, seed }
    return Host.plugIn(this.space(name), segment, families, shaped)
  }

  /** A NAT box with one public address. Default: what most home routers do (see `NatKind`). */
  nat(name: string, kind: NatKind = 'port-restricted'): Promise<Nat> {
    return Nat.plugIn(this.space(name), this.net.segment(), kind)
  }

  /** Lets the internet carry only what comes from, or goes to, one of these hosts. */
  onlyVia(...hosts: Host[]): void {
    const rules = hosts.flatMap(({ addresses }) =>
      (['v4', 'v6'] as const)
        .filter((family) => addresses[family] !== undefined)
        .flatMap((family) =>
          ['saddr', 'daddr'].map((end) => `${ipOf(family)} ${end} ${addresses[family]} accept`),
        ),
    )
    this.net.space.nft(`table inet only {
  chain forward {
    type filter hook forward priority 10; policy drop;
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    ${rules.join('\n    ')}
  }
}`)
  }

  /** Ends what runs in the namespaces and deletes them. */
  async close(): Promise<void> {
    await Promise.all(this.#spaces.map((space) => space.endAll()))
    this.delete()
  }

  /** The same at once, for a process that ends. */
  delete(): void {
    open.delete(this)
    if (open.size === 0) process.off('exit', atExit)
    for (const { name, folders } of this.#spaces.splice(0)) {
      deleteNamespace(name)
      for (const folder of folders) rmSync(folder, { recursive: true, force: true })
    }
  }
}

/** One network namespace. */
export class Namespace {
  readonly name: string
  /** Folders that go with it. */
  readonly folders: string[] = []
  readonly #children = new Set<ChildProcess>()

  constructor(name: string) {
    this.name = name
    run('ip', ['netns', 'add', name])
    this.sysctl({
      // Addresses count at once: nobody else could have them.
      'net/ipv6/conf/all/accept_dad': 0,
      'net/ipv6/conf/default/accept_dad': 0,
      // A new address stays when the old one goes.
      'net/ipv4/conf/all/promote_secondaries': 1,
    })
    this.ip('link set lo up')
  }

  /** Runs a command in here to its end and gives its output. */
  exec(command: string, ...args: string[]): string {
    return run('ip', ['netns', 'exec', this.name, command, ...args])
  }

  /** Starts a program in here. It ends with this process at the latest. */
  spawn(
    command: string,
    args: string[],
    options: { env?: Record<string, string>; cwd?: string } = {},
  ): ChildProcessWithoutNullStreams {
    const child = spawn(
      'ip',
      ['netns', 'exec', this.name, 'setpriv', '--pdeathsig', 'KILL', '--', command, ...args],
      { ...options, env: { ...process.env, ...options.env } },
    )
    this.#children.add(child)
    child.on('exit', () => this.#children.delete(child))
    return child
  }

  /** Lines for `ip`, carried out together. */
  ip(...lines: string[]): void {
    run('ip', ['-n', this.name, '-batch', '-'], `${lines.join('\n')}\n`)
  }

  nft(script: string): void {
    run('ip', ['netns', 'exec', this.name, 'nft', '-f', '-'], `${script}\n`)
  }

  /** Packets that each named counter of a table has seen. */
  counters(table: string): Record<string, number> {
    const { nftables } = JSON.parse(
      this.exec('nft', '-j', 'list', 'counters', 'table', ...table.split(' ')),
    ) as {
      nftables: { counter?: { name: string; packets: number } }[]
    }
    return Object.fromEntries(nftables.flatMap(({ counter: c }) => (c ? [[c.name, c.packets]] : [])))
  }

  sysctl(values: Record<string, number>): void {
    const lines = Object.entries(values).map(([path, value]) => `echo ${value} > /proc/sys/${path}`)
    this.exec('sh', '-ec', lines.join('\n'))
  }

  async endAll(): Promise<void> {
    await Promise.all(
      [...this.#children].map(async (child) => {
        child.kill('SIGKILL')
        if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
      }),
    )
  }
}

/** A namespace that carries packets between its segments. */
export class Router {
  #segments = 0

  constructor(
    readonly space: Namespace,
    readonly prefixes: { v4: string; v6?: string },
  ) {
    space.sysctl({ 'net/ipv4/ip_forward': 1, 'net/ipv6/conf/all/forwarding': 1 })
  }

  segment(): Segment {
    return new Segment(this, ++this.#segments)
  }
}

/** One subnet of a router: a bridge, or the one host behind a shaped link. */
export class Segment {
  #hosts = 1
  #ports = 0
  #bridge: string | null = null

  constructor(
    readonly router: Router,
    readonly number: number,
  ) {}

  /** Address of the router in here. */
  gateway(family: Family): string {
    return this.#address(family, 1)
  }

  /** The next free address. */
  newAddress(family: Family): string {
    return this.#address(family, ++this.#hosts)
  }

  newPort(): string {
    return `p${this.number}-${++this.#ports}`
  }

  /** The device that hosts of this subnet are plugged into. */
  bridge(): string {
    if (this.#bridge) return this.#bridge
    const name = `lan${this.number}`
    const { space, prefixes } = this.router
    space.ip(
      `link add ${name} type bridge`,
      `addr add ${this.gateway('v4')}/24 dev ${name}`,
      ...(prefixes.v6 ? [`addr add ${this.gateway('v6')}/64 dev ${name} nodad`] : []),
      `link set ${name} up`,
    )
    this.#bridge = name
    return name
  }

  #address(family: Family, host: number): string {
    const { v4, v6 } = this.router.prefixes
    if (family === 'v4') return `${v4}.${this.number}.${host}`
    if (!v6) throw new Error('this router has no IPv6')
    return `${v6}:${this.number.toString(16)}::${host.toString(16)}`
  }
}

/** A machine: a namespace with one access link, `eth0`. */
export class Host {
  readonly addresses: Partial<Record<Family, string>> = {}

  static async plugIn(
    space: Namespace,
    segment: Segment,
    families: Family[],
    shaped: { condition: string; seed: number } | null,
  ): Promise<Host> {
    const router = segment.router.space
    const port = segment.newPort()
    let forwarder: Forwarder | null = null
    if (shaped) {
      forwarder = await Forwarder.start(space, 'eth0', router, port, shaped)
      router.ip(`link set ${port} up`)
    } else {
      cable(space, segment, port)
    }
    const host = new Host(space, families, forwarder, segment, port)
    host.renumber()
    return host
  }

  private constructor(
    readonly space: Namespace,
    readonly families: Family[],
    /** What the link does to packets, where it has a condition. */
    readonly forwarder: Forwarder | null,
    private segment: Segment,
    private portName: string,
  ) {}

  /** Name of the router's end of the link. */
  get port(): string {
    return this.portName
  }

  /** Any of its addresses as a host in a URL. */
  get urlHost(): string {
    return this.addresses.v4 ?? `[${this.addresses.v6}]`
  }

  /** Gets new addresses; the old ones are gone, as when a phone changes to another network. */
  renumber(): void {
    const { space, segment } = this
    const router = segment.router.space
    const old = { ...this.addresses }
    const lines: string[] = []
    for (const family of this.families) {
      const address = segment.newAddress(family)
      this.addresses[family] = address
      const dad = family === 'v6' ? ' nodad' : ''
      if (this.forwarder) {
        router.ip(`route add ${address} dev ${this.port}`)
        if (old[family]) router.ip(`route del ${old[family]} dev ${this.port}`)
        lines.push(`addr add ${address}/${family === 'v4' ? 32 : 128} dev eth0${dad}`)
      } else {
        lines.push(`addr add ${address}/${family === 'v4' ? 24 : 64} dev eth0${dad}`)
      }
      if (old[family]) lines.push(`addr del ${old[family]}/${this.#length(family)} dev eth0`)
    }
    space.ip(...lines, 'link set eth0 up')
    space.ip(...this.families.map((family) => this.#defaultRoute(family)))
  }

  /** Leaves its network for another, as from Wi-Fi to a cable: another router, other addresses. For links without a condition. */
  move(segment: Segment): void {
    this.space.ip('link del eth0')
    for (const family of this.families) delete this.addresses[family]
    this.segment = segment
    this.portName = segment.newPort()
    cable(this.space, segment, this.portName)
    this.renumber()
  }

  /** Everything to and from this machine, or its UDP alone, vanishes without a word, until `heal`. */
  cut(what: 'all' | 'udp' = 'all'): void {
    const drop = what === 'all' ? 'drop;' : 'ip protocol udp drop; ip6 nexthdr udp drop;'
    this.segment.router.space.nft(`table netdev cut-${this.port} {
  chain in { type filter hook ingress device "${this.port}" priority 0; ${drop} }
  chain out { type filter hook egress device "${this.port}" priority 0; ${drop} }
}`)
  }

  heal(): void {
    this.segment.router.space.nft(`delete table netdev cut-${this.port}`)
  }

  /** The cable is out: the machine sees its link without a carrier. For links without a condition. */
  unplug(): void {
    this.segment.router.space.ip(`link set ${this.port} down`)
  }

  plug(): void {
    this.segment.router.space.ip(`link set ${this.port} up`)
  }

  /** The machine's own network is switched off: its addresses and routes are gone with the link. */
  down(): void {
    this.space.ip('link set eth0 down')
  }

  up(): void {
    this.space.ip('link set eth0 up')
    for (const family of this.families) {
      const address = `${this.addresses[family]}/${this.#length(family)}`
      this.space.ip(
        `addr replace ${address} dev eth0${family === 'v6' ? ' nodad' : ''}`,
        this.#defaultRoute(family),
      )
    }
  }

  /** Loses this share (0 to 1) of the packets of each direction, by nftables. 0: none. */
  lose(share: number): void {
    const rule = (hook: string) => `{
    type filter hook ${hook} device "${this.port}" priority 1;
    counter name seen
    numgen random mod 10000 < ${Math.round(share * 10_000)} counter name lost drop
  }`
    this.segment.router.space.nft(`table netdev lose-${this.port}
delete table netdev lose-${this.port}
table netdev lose-${this.port} {
  counter seen { }
  counter lost { }
  chain in ${rule('ingress')}
  chain out ${rule('egress')}
}`)
  }

  /** Packets seen and lost since the last `lose`. */
  losses(): { seen: number; lost: number } {
    const { seen = 0, lost = 0 } = this.segment.router.space.counters(`netdev lose-${this.port}`)
    return { seen, lost }
  }

  /** Limits both directions to so many bits a second, by `tbf`, with a queue of so many milliseconds. */
  limit(bitsPerSecond: number, queueMs = 200): void {
    const tbf = `root tbf rate ${bitsPerSecond}bit burst 16kb latency ${queueMs}ms`
    this.space.exec('tc', 'qdisc', 'replace', 'dev', 'eth0', ...tbf.split(' '))
    this.segment.router.space.exec('tc', 'qdisc', 'replace', 'dev', this.port, ...tbf.split(' '))
  }

  /** Bytes that wait in front of the uplink that `limit` made narrow. */
  backlog(): number {
    const [qdisc] = JSON.parse(this.space.exec('tc', '-s', '-j', 'qdisc', 'show', 'dev', 'eth0')) as {
      backlog?: number
    }[]
    return qdisc?.backlog ?? 0
  }

  #length(family: Family): number {
    if (this.forwarder) return family === 'v4' ? 32 : 128
    return family === 'v4' ? 24 : 64
  }

  #defaultRoute(family: Family): string {
    if (!this.forwarder) return `route replace default via ${this.segment.gateway(family)} dev eth0`
    return `route replace ${family === 'v4' ? '0.0.0.0/0' : '::/0'} dev eth0`
  }
}

/** A cable from the machine's `eth0` to the bridge of a subnet. */
function cable(space: Namespace, segment: Segment, port: string): void {
  const router = segment.router.space
  const bridge = segment.bridge()
  space.ip(`link add eth0 type veth peer name ${port} netns ${router.name}`)
  router.ip(`link set ${port} master ${bridge} up`)
}

/** As nftables calls it. */
export function ipOf(family: Family): 'ip' | 'ip6' {
  return family === 'v4' ? 'ip' : 'ip6'
}

/** Deletes what dead runs left behind. */
export function sweep(): string[] {
  const listed = spawnSync('ip', ['netns', 'list'], { encoding: 'utf8' }).stdout ?? ''
  const stale = listed.split('\n').flatMap((line) => {
    const [name = ''] = line.split(' ')
    const [, pid, start] = /^rm-(\d+)-(\d+)-/.exec(name) ?? []
    return pid && startOf(Number(pid)) !== start ? [name] : []
  })
  for (const name of stale) deleteNamespace(name)
  return stale
}
