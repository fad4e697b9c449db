/** Looks into media files, by ffmpeg and ffprobe: programs that have nothing of ours in them. */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'

export interface Probe {
  streams: { codec_name: string; codec_type: string; width?: number; height?: number; sample_rate?: string }[]
  format: { format_name: string; duration: string }
}

/** Why such a test can't run here; undefined if it can. */
export function missingPrograms(): string | undefined {
  const missing = ['ffmpeg', 'ffprobe'].filter((name) => spawnSync(name, ['-version']).error)
  return missing.length > 0 ? `${missing.join(' and ')} not found: apt-get install ffmpeg` : undefined
}

export function probe(path: string): Probe {
  return JSON.parse(
    run('ffprobe', [...QUIET, '-show_streams', '-show_format', '-of', 'json', path]).toString(),
  )
}

/** Seconds at which the packets of a stream (`v` or `a`) begin, and whether each is a keyframe. */
export function packets(path: string, stream: 'v' | 'a'): { at: number; key: boolean }[] {
  const entries = ['-select_streams', stream, '-show_entries', 'packet=pts_time,flags', '-of', 'csv=p=0']
  const lines = run('ffprobe', [...QUIET, ...entries, path])
    .toString()
    .trim()
    .split('\n')
  return lines.map((line) => {
    const [at, flags] = line.split(',')
    return { at: Number(at), key: flags!.startsWith('K') }
  })
}

export interface Picture {
  /** Seconds. */
  time: number
  /** Y, U and V of a place, from 0 to 1 across and down. */
  at(x: number, y: number): [number, number, number]
}

/** All pictures, decoded, with the times at which they are shown; from `from` seconds on. */
export function pictures(path: string, from = 0): Picture[] {
  // Small is enough, and doesn't fill the memory.
  const [width, height] = [64, 36]
  const seek = from > 0 ? ['-ss', String(from)] : []
  const filter = `scale=${width}:${height}:flags=area,showinfo`
  const out = [
    '-map',
    '0:v',
    '-vf',
    filter,
    '-fps_mode',
    'passthrough',
    '-f',
    'rawvideo',
    '-pix_fmt',
    'yuv420p',
    '-',
  ]
  const args = ['-hide_banner', '-nostats', '-copyts', ...seek, '-i', path, ...out]
  const { stdout, stderr, status } = spawnSync('ffmpeg', args, { maxBuffer: 1 << 30 })
  if (status !== 0) throw new Error(`ffmpeg: ${stderr}`)
  const times = [...stderr.toString().matchAll(/ pts_time:([\d.]+)/g)].map(([, at]) => Number(at))
  const size = width * height * 1.5
  if (stdout.length !== times.length * size)
    throw new Error(`${stdout.length} bytes, ${times.length} pictures`)
  return times.map((time, n) => {
    const bytes = stdout.subarray(n * size, (n + 1) * size)
    const at = (x: number, y: number): [number, number, number] => {
      const [column, row] = [Math.floor(x * width), Math.floor(y * height)]
      const half = Math.floor(row / 2) * (width / 2) + Math.floor(column / 2)
      const u = width * height + half
      return [bytes[row * width + column]!, bytes[u]!, bytes[u + (width * height) / 4]!]
    }
    return { time, at }
  })
}

/** The sound at 48 kHz, mono, sample 0 at time zero: where the file has nothing, there is silence. */
export function sound(path: string): Float32Array {
  const fill = 'aresample=async=1:min_hard_comp=0.01:first_pts=0'
  const out = ['-map', '0:a', '-af', fill, '-ac', '1', '-ar', '48000', '-f', 'f32le', '-']
  const bytes = run('ffmpeg', [...QUIET, '-i', path, ...out])
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length))
}

/** The parts of a WebM file (RFC 8794, RFC 9559), each where it says it is; throws if something is between them, or too short. */
export function structure(path: string): { names: string[]; cues: number[] } {
  const bytes = readFileSync(path)
  const [header, segment] = elements(bytes, 0, bytes.length)
  if (header?.id !== 0x1a45dfa3 || segment?.id !== 0x18538067) throw new Error('not Matroska')
  if (segment.end !== bytes.length) throw new Error('the segment is not as long as the file')
  const parts = elements(bytes, segment.start, segment.end)
  const clusters = new Set(parts.filter(({ id }) => id === 0x1f43b675).map(({ at }) => at - segment.start))
  const cues = parts
    .filter(({ id }) => id === 0x1c53bb6b)
    .flatMap((element) => elements(bytes, element.start, element.end))
    .map((point) => {
      const inside = elements(bytes, point.start, point.end)
      for (const place of inside.filter(({ id }) => id === 0xb7)) {
        const position = elements(bytes, place.start, place.end).find(({ id }) => id === 0xf1)!
        if (!clusters.has(number(bytes, position))) throw new Error('an index entry that leads to no cluster')
      }
      return number(bytes, inside.find(({ id }) => id === 0xb3)!) / 1000
    })
  return { names: parts.map(({ id }) => NAMES[id] ?? id.toString(16)), cues }
}

/** Writes the same packets to another file, as one does with a file that was cut off. */
export function remux(from: string, to: string): void {
  const { status, stderr } = spawnSync('ffmpeg', [...QUIET, '-i', from, '-c', 'copy', to])
  if (status !== 0) throw new Error(`ffmpeg: ${stderr}`)
}

interface Element {
  id: number
  at: number
  start: number
  end: number
}

function elements(bytes: Buffer, from: number, to: number): Element[] {
  const found: Element[] = []
  for (let at = from; at < to; at = found.at(-1)!.end) {
    const idLength = Math.clz32(bytes[at]!) - 23
    const sizeAt = at + idLength
    const sizeLength = Math.clz32(bytes[sizeAt]!) - 23
    const start = sizeAt + sizeLength
    let size = bytes[sizeAt]! & (0xff >> sizeLength)
    for (let i = sizeAt + 1; i < start; i++) size = size * 256 + bytes[i]!
    if (start + size > to)
      throw new Error(`an element of ${size} bytes at ${at} reaches over the end of its parent`)
    found.push({ id: bytes.readUIntBE(at, idLength), at, start, end: start + size })
  }
  return found
}

function number(bytes: Buffer, { start, end }: Element): number {
  return bytes.readUIntBE(start, end - start)
}

const NAMES: Record<number, string> = {
  290298740: 'SeekHead',
  357149030: 'Info',
  374648427: 'Tracks',
  524531317: 'Cluster',
  475249515: 'Cues',
}

const QUIET = ['-v', 'error']

function run(program: string, args: string[]): Buffer {
  const { stdout, stderr, status } = spawnSync(program, args, { maxBuffer: 1 << 30 })
  if (status !== 0 || stderr.length > 0) throw new Error(`${program} ${args.join(' ')}: ${stderr}`)
  return stdout
}
