/** Commands of the operating system, and whether they may be used here. */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { join } from 'node:path'

export const ROOT = join(__dirname, '..', '..', '..')

/** Why network namespaces can't be used here; null where they can. */
export const obstacle: string | null = findObstacle()

/** Runs a command to its end and gives its output. Throws with what it said when it fails. */
export function run(command: string, args: string[], input?: string): string {
  const result = spawnSync(command, args, { encoding: 'utf8', input: input ?? '', timeout: 20_000 })
  if (result.status === 0) return result.stdout
  const said = result.error?.message ?? (result.stderr.trim() || `signal ${result.signal}`)
  throw new Error(
    `${command} ${args.join(' ')}: ${said}${input ? `\n${input.split('\n').slice(0, 20).join('\n')}` : ''}`,
  )
}

/** Milliseconds of the monotonic clock, which all processes of the machine share. */
export function now(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** Looks every `everyMs` until `look` gives something else than undefined, null or false. */
export async function until<T>(
  what: string,
  timeoutMs: number,
  look: () => T | Promise<T>,
  everyMs = 50,
): Promise<NonNullable<T>> {
  const deadline = now() + timeoutMs
  for (;;) {
    const seen = await look()
    if (seen !== undefined && seen !== null && seen !== false) return seen as NonNullable<T>
    if (now() > deadline) throw new Error(`${what}: not within ${timeoutMs} ms`)
    await sleep(everyMs)
  }
}

/** When a process began, in clock ticks since the machine did: with its id it names a process for good. Null: there is none. */
export function startOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The second field is the name in brackets, which may hold anything; the start is the 22nd.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null
  } catch {
    return null
  }
}

/** Ends the processes that are left in a namespace, then deletes it. */
export function deleteNamespace(name: string): void {
  const inode = namespaceInode(name)
  for (const entry of inode === null ? [] : readdirSync('/proc')) {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) continue
    if (linkOf(`/proc/${entry}/ns/net`) !== inode) continue
    try {
      process.kill(Number(entry), 'SIGKILL')
    } catch {}
  }
  spawnSync('ip', ['netns', 'del', name])
}

function namespaceInode(name: string): string | null {
  try {
    return `net:[${statSync(`/run/netns/${name}`).ino}]`
  } catch {
    return null
  }
}

function linkOf(path: string): string | null {
  try {
    return readlinkSync(path)
  } catch {
    return null
  }
}

function findObstacle(): string | null {
  if (process.platform !== 'linux') return 'network namespaces are of Linux'
  if (process.getuid?.() !== 0) return 'needs root'
  for (const tool of ['ip', 'nft', 'tc', 'conntrack', 'setpriv']) {
    const found = (process.env.PATH ?? '').split(':').some((folder) => existsSync(join(folder, tool)))
    if (!found) return `needs ${tool}`
  }
  if (!existsSync('/dev/net/tun')) return 'needs /dev/net/tun'
  const probe = `rm-probe-${process.pid}`
  try {
    run('ip', ['netns', 'add', probe])
    run('ip', ['netns', 'exec', probe, 'nft', 'add', 'table', 'inet', 'probe'])
    return null
  } catch (error) {
    return `needs network namespaces: ${(error as Error).message}`
  } finally {
    spawnSync('ip', ['netns', 'del', probe])
  }
}
