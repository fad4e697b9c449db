import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { VideoFrame, type WebRtcTransport } from '@remotemedia/webrtc'
import { transformSync } from '@swc/core'
import { type Recorded, record, WebmRecording } from '../../examples/recorder.js'
import { BEEP_HZ, flashAndBeep, PERIOD, SkewMeter, summary } from './kit/flash-and-beep.js'
import { missingPrograms, packets, pictures, probe, remux, sound, structure } from './kit/media-file.js'
import { every, hear, Lab, next, tone } from './support.js'

const ROOT = join(__dirname, '../..')
const missing = missingPrograms()
// As root on Linux set-up has installed them.
if (missing && process.platform === 'linux' && process.getuid?.() === 0) throw new Error(missing)
if (missing) console.warn(`SKIPPED: the recorder's files are not looked at: ${missing}`)
const recorderTest = missing ? test.skip : test

let lab: Lab
let folder: string
const children = new Set<ChildProcess>()
beforeEach(async () => {
  lab = await new Lab().open()
  folder = mkdtempSync(join(tmpdir(), 'recorder-'))
})
afterEach(async () => {
  for (const child of children) child.kill('SIGKILL')
  await lab.close()
  rmSync(folder, { recursive: true, force: true })
})

/** The example as a program of its own, as `node examples/recorder.ts …` runs it where Node takes TypeScript. */
function startExample(...args: string[]) {
  const { code } = transformSync(readFileSync(join(ROOT, 'examples/recorder.ts'), 'utf8'), {
    configFile: false,
    swcrc: false,
    jsc: { parser: { syntax: 'typescript' }, target: 'es2022' },
    module: { type: 'es6' },
  })
  // In the package's own folder, where its name and the muxer's are found.
  mkdirSync(join(ROOT, '.cache'), { recursive: true })
  const program = join(mkdtempSync(join(ROOT, '.cache/example-')), 'recorder.mjs')
  writeFileSync(program, code)
  const child = spawn(process.execPath, [program, lab.server.url, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (text) => {
    stdout += text
  })
  child.stderr.on('data', (text) => {
    stderr += text
  })
  children.add(child)
  const exited = once(child, 'exit').finally(() => {
    children.delete(child)
    rmSync(join(program, '..'), { recursive: true })
  })
  return {
    child,
    /** Ends it as Ctrl+C does. */
    interrupt: async (): Promise<Recorded> => {
      child.kill('SIGINT')
      const [code] = (await exited) as [number | null]
      if (code !== 0) throw new Error(`exit code ${code}: ${stdout}${stderr}`)
      return JSON.parse(stdout.trim().split('\n').at(-1)!) as Recorded
    },
  }
}

/** What a peer shows: Y, U and V; and what it says. */
const PEOPLE = [
  { id: 'red', colour: [80, 90, 220], hz: 400 },
  { id: 'green', colour: [140, 70, 60], hz: 700 },
  { id: 'blue', colour: [50, 220, 110], hz: 1100 },
] as const

/** Somebody in a room: shows its colour and says its tone, and looks at what it gets. */
class Person {
  readonly transport: WebRtcTransport
  /** The last picture's colour at places from 0 to 1. */
  #look: ((x: number, y: number) => number[]) | undefined
  #senders: { stop(): void }[] = []

  static async join(person: (typeof PEOPLE)[number], room: string): Promise<Person> {
    const transport = await lab.join(person.id)
    await transport.connectPeer(room)
    return new Person(transport, person, room)
  }

  private constructor(
    transport: WebRtcTransport,
    readonly person: (typeof PEOPLE)[number],
    readonly room: string,
  ) {
    this.transport = transport
    transport.on('video', ({ data: { data } }) => {
      if (data.kind !== 'video') return
      const { width, height } = data.frame
      const planes = data.frame.planes.map(({ data, stride }) => ({ data: data.slice(), stride }))
      this.#look = (x, y) =>
        planes.map(({ data, stride }, i) => {
          const half = i > 0 ? 2 : 1
          return data[Math.floor((y * height) / half) * stride + Math.floor((x * width) / half)]!
        })
    })
  }

  speak(): void {
    const { colour, hz } = this.person
    const [width, height] = [320, 180]
    const bytes = new Uint8Array(width * height * 1.5)
    bytes.fill(colour[0], 0, width * height)
    bytes.fill(colour[1], width * height, width * height * 1.25)
    bytes.fill(colour[2], width * height * 1.25)
    const camera = every(1000 / 15, (n) => {
      const timestampUs = Math.round((n * 1e6) / 15)
      const frame = VideoFrame.from(bytes, { format: 'I420', width, height, timestampUs })
      this.transport.sendToPeer(this.room, { data: { kind: 'video', frame }, timestampUs }).catch(() => {})
      frame.close()
    })
    const microphone = every(20, (n) => {
      const data = tone(n, hz, 0.2)
      this.transport.sendToPeer(this.room, { data, timestampUs: n * 20_000 }).catch(() => {})
    })
    this.#senders.push(camera, microphone)
  }

  sees(tiles: Tile[]): boolean {
    return this.#look !== undefined && shows(this.#look, tiles)
  }

  async leave(): Promise<void> {
    for (const sender of this.#senders) sender.stop()
    await this.transport.close()
  }
}

type Tile = [id: (typeof PEOPLE)[number]['id'], x: number, y: number]

function shows(look: (x: number, y: number) => number[], tiles: Tile[]): boolean {
  return tiles.every(([id, x, y]) => {
    const { colour } = PEOPLE.find((person) => person.id === id)!
    return look(x, y).every((value, i) => Math.abs(value - colour[i]!) < 16)
  })
}

async function until(what: string, holds: () => boolean): Promise<void> {
  for (const deadline = performance.now() + 20_000; !holds(); ) {
    if (performance.now() > deadline) throw new Error(`not within 20 s: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** How loud a tone is, in dB of full scale. */
function level(samples: Float32Array, hz: number): number {
  let [re, im] = [0, 0]
  for (let i = 0; i < samples.length; i++) {
    const angle = (2 * Math.PI * hz * i) / 48_000
    re += samples[i]! * Math.cos(angle)
    im += samples[i]! * Math.sin(angle)
  }
  return 20 * Math.log10((2 * Math.hypot(re, im)) / samples.length + 1e-9)
}

/** Seconds until sound and picture are on one clock: both have reported by then. */
const SETTLED = 2.2

const GRID_OF_THREE: Tile[] = [
  ['red', 0.25, 0.25],
  ['green', 0.75, 0.25],
  ['blue', 0.5, 0.75],
]
const GRID_OF_TWO: Tile[] = [
  ['red', 0.25, 0.5],
  ['green', 0.75, 0.5],
]

describe('the recorder', () => {
  recorderTest(
    'writes a peer as WebM, whole after Ctrl+C, in time, with its pauses',
    async () => {
      const path = join(folder, 'alice.webm')
      const example = startExample(path, '--peer', 'alice', '--size', '640x360')
      const alice = await lab.join('alice')
      await next(
        alice,
        'peerstatechange',
        ({ peerId, state }) => peerId === 'recorder' && state === 'connected',
      )
      const [pauseFrom, pauseTo, end] = [4.2, 7, 9.4]
      const pause = (at: number) => (at >= pauseFrom && at < pauseTo) || at >= end
      const scene = flashAndBeep(alice, 'recorder', { pause })
      await new Promise((resolve) => setTimeout(resolve, end * 1000 + 500))
      scene.stop()
      const recorded = await example.interrupt()

      const { streams, format } = probe(path)
      expect(format.format_name).toBe('matroska,webm')
      const kinds = streams.map(({ codec_type, codec_name }) => `${codec_type} ${codec_name}`)
      expect(kinds.sort()).toEqual(['audio opus', 'video vp9'])
      expect(streams.find(({ codec_type }) => codec_type === 'video')).toMatchObject({
        width: 640,
        height: 360,
      })
      const seconds = Number(format.duration)
      expect(Math.abs(seconds - recorded.seconds)).toBeLessThan(0.1)
      expect(Math.abs(seconds - end)).toBeLessThan(0.5)

      // Pictures and sound are what was sent, at their times: the pause is as long as it was, and a beep comes with each flash.
      const shown = pictures(path)
      const heard = sound(path)
      const meter = new SkewMeter()
      for (const { time, at } of shown) meter.picture(at(0.5, 0.5)[0], time)
      meter.sound(heard, 0)
      const skews = meter.skews(SETTLED)
      console.log(`beep after flash in the file, ms: ${JSON.stringify(summary(skews))}`)
      expect(skews.length).toBeGreaterThanOrEqual(3)
      expect(Math.max(...skews.map(Math.abs))).toBeLessThanOrEqual(40)
      const settled = meter.beeps.filter((beep) => beep > SETTLED)
      expect(settled.some((beep) => beep > pauseTo - 0.2)).toBe(true)
      for (const beep of settled) {
        const periods = (beep - settled[0]!) / PERIOD
        expect(Math.abs(periods - Math.round(periods)) * PERIOD).toBeLessThan(0.02)
      }
      const beep = heard.subarray((settled[0]! + 0.02) * 48_000, (settled[0]! + 0.08) * 48_000)
      expect(hear(beep).hz).toBeCloseTo(BEEP_HZ, -1.5)
      const times = packets(path, 'v')
      const paused = [pauseFrom + 0.3, pauseTo - 0.5] as const
      // But for what stands in: the last picture, and silence.
      expect(times.filter(({ at }) => at > paused[0] && at < paused[1]).length).toBeLessThanOrEqual(1)
      const silence = heard.subarray(paused[0] * 48_000, paused[1] * 48_000)
      expect(hear(silence).dbfs).toBeLessThan(-80)
      for (const { at } of shown) {
        const [y, u, v] = at(0.5, 0.5)
        const off = y > 100 ? [u - 80, v - 165] : [u - 165, v - 110]
        expect(Math.max(...off.map(Math.abs))).toBeLessThan(12)
      }

      // The index leads to clusters, and a player that jumps finds pictures that can be decoded.
      const { names, cues } = structure(path)
      expect(names.filter((name) => name !== 'Cluster')).toEqual(['SeekHead', 'Info', 'Tracks', 'Cues'])
      expect(cues.length).toBeGreaterThanOrEqual(2)
      const later = pictures(path, 8)
      expect(later[0]!.time).toBeGreaterThan(7.5)
      expect(later.length).toBeGreaterThan(10)
    },
    60_000,
  )

  recorderTest(
    'writes a room as one picture and one sound, and sends the picture to everybody',
    async () => {
      const path = join(folder, 'room.webm')
      const ended = new AbortController()
      const options = { signalingUrl: lab.server.url, path, share: true, width: 640, height: 360 }
      const recording = record(options, ended.signal)
      const people: Person[] = []
      for (const person of PEOPLE) people.push(await Person.join(person, 'recorder'))
      const [red, , blue] = people as [Person, Person, Person]
      // One by one: tiles are in the order in which they came.
      for (const [index, person] of people.entries()) {
        person.speak()
        if (index === 0) await until('one fills the picture', () => red.sees([['red', 0.1, 0.9]]))
        if (index === 1) await until('two side by side', () => red.sees(GRID_OF_TWO))
      }
      await until('all see the three', () => people.every((person) => person.sees(GRID_OF_THREE)))
      await new Promise((resolve) => setTimeout(resolve, 1500))
      await blue.leave()
      await until('two are left', () => people.slice(0, 2).every((person) => person.sees(GRID_OF_TWO)))
      await new Promise((resolve) => setTimeout(resolve, 1500))
      ended.abort()
      const recorded = await recording

      expect(Math.abs(Number(probe(path).format.duration) - recorded.seconds)).toBeLessThan(0.1)
      const shown = pictures(path)
      expect(shown.some(({ at }) => shows(at, GRID_OF_THREE))).toBe(true)
      expect(shows(shown.at(-1)!.at, GRID_OF_TWO)).toBe(true)
      // Everybody is in the sound, and who left isn't any more.
      const heard = sound(path)
      const halves = Array.from({ length: Math.floor(heard.length / 24_000) }, (_, n) =>
        PEOPLE.map(({ hz }) => level(heard.subarray(n * 24_000, (n + 1) * 24_000), hz)),
      )
      expect(halves.some((tones) => tones.every((db) => db > -20))).toBe(true)
      const [, , gone] = halves.at(-2)!
      expect(gone).toBeLessThan(-45)
    },
    90_000,
  )
})

describe('a recording', () => {
  const size = { width: 320, height: 180 }

  recorderTest(
    'of sound or pictures alone is written as it goes, and has both tracks',
    async () => {
      for (const kind of ['sound', 'pictures'] as const) {
        const path = join(folder, `${kind}.webm`)
        const recording = await WebmRecording.create(path, size)
        const noise = new Uint8Array(320 * 180 * 1.5)
        for (let n = 0; n < 150; n++) {
          // A minute, as fast as it goes.
          const timestampUs = 7_000_000 + n * 400_000
          if (kind === 'sound') {
            for (let i = 0; i < 20; i++) recording.sound(tone(n * 20 + i, 440), timestampUs + i * 20_000)
          } else {
            for (let i = 0; i < noise.length; i++) noise[i] = (i * 2654435761 * (n + 1)) >>> 24
            const frame = VideoFrame.from(noise, { format: 'I420', ...size })
            recording.picture(frame, timestampUs)
            frame.close()
          }
          await new Promise((resolve) => setTimeout(resolve, kind === 'sound' ? 0 : 8))
        }
        await new Promise((resolve) => setTimeout(resolve, 300))
        const before = statSync(path).size
        const recorded = await recording.close()
        // The muxer has kept back next to nothing for want of the other track.
        expect(before).toBeGreaterThan(0.5 * statSync(path).size)
        const duration = Number(probe(path).format.duration)
        expect(Math.abs(duration - 60)).toBeLessThan(1)
        expect(Math.abs(recorded.seconds - duration)).toBeLessThan(0.1)
        // What stands in for the other one comes once a second.
        const stands = packets(path, kind === 'sound' ? 'v' : 'a')
        const gaps = stands.slice(1).map(({ at }, n) => at - stands[n]!.at)
        expect(gaps.length).toBeGreaterThan(40)
        expect(Math.max(...gaps)).toBeLessThan(2.5)
        expect(structure(path).names).toContain('Cues')
      }
    },
    30_000,
  )

  recorderTest(
    'that was cut off can be mended',
    async () => {
      const path = join(folder, 'cut.webm')
      const recording = await WebmRecording.create(path, size)
      const frame = VideoFrame.from(new Uint8Array(320 * 180 * 1.5).fill(128), { format: 'I420', ...size })
      for (let n = 0; n < 500; n++) {
        recording.sound(tone(n, 440), n * 20_000)
        if (n % 5 === 0) recording.picture(frame, n * 20_000)
        await new Promise((resolve) => setTimeout(resolve, 2))
      }
      // As the disk has it when the process is killed.
      const [cut, mended] = [join(folder, 'killed.webm'), join(folder, 'mended.webm')]
      copyFileSync(path, cut)
      frame.close()
      await recording.close()
      remux(cut, mended)
      expect(Number(probe(mended).format.duration)).toBeGreaterThan(1)
      expect(hear(sound(mended).subarray(4800, 38_400)).hz).toBeCloseTo(440, -1)
    },
    30_000,
  )

  test('whose file cannot be written says so', async () => {
    await expect(WebmRecording.create(join(folder, 'no', 'such.webm'), size)).rejects.toThrow('ENOENT')
    if (process.platform !== 'linux') return
    // A disk that is full.
    const recording = await WebmRecording.create('/dev/full', size)
    for (let n = 0; !recording.failed.aborted && n < 50_000; n++) {
      recording.sound(tone(n, 440), n * 20_000)
      if (n % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 5))
    }
    expect(recording.failed.aborted).toBe(true)
    await expect(recording.close()).rejects.toThrow('ENOSPC')
  })

  recorderTest(
    'of a peer ends when the peer leaves',
    async () => {
      const path = join(folder, 'left.webm')
      const options = { signalingUrl: lab.server.url, path, peer: 'red', ...size }
      const recording = record(options, new AbortController().signal)
      const red = await Person.join(PEOPLE[0], 'recorder')
      red.speak()
      await new Promise((resolve) => setTimeout(resolve, 2000))
      await red.leave()
      const { pictures: count, seconds } = await recording
      expect(count).toBeGreaterThan(5)
      expect(Math.abs(Number(probe(path).format.duration) - seconds)).toBeLessThan(0.1)
      expect(shows(pictures(path).at(-1)!.at, [['red', 0.5, 0.5]])).toBe(true)
    },
    30_000,
  )
})

test('a compositor in a session shows several peers one picture of all, in any layout', async () => {
  const studio = await lab.join('studio')
  const params = { width: 640, height: 360, fps: 15 }
  await using session = await studio.stream({
    version: 'v1',
    nodes: [{ id: 'picture', node_type: 'Compositor', params }],
  })
  session.route({ from: '*', track: 'video', through: 'picture', to: 'all' })
  const people: Person[] = []
  for (const person of PEOPLE) {
    const joined = await Person.join(person, 'studio')
    people.push(joined)
    joined.speak()
    // In this order, then.
    await until(`${person.id} is there`, () =>
      [0.1, 0.5, 0.75].some((x) => [0.1, 0.75].some((y) => joined.sees([[person.id, x, y]]))),
    )
  }
  const all = (tiles: Tile[]) =>
    until(JSON.stringify(tiles), () => people.every((person) => person.sees(tiles)))
  await all(GRID_OF_THREE)
  // One large, the others in a strip of a fifth of the height below.
  session.setParam('picture', 'layout', 'speaker')
  await all([
    ['red', 0.1, 0.1],
    ['red', 0.9, 0.7],
    ['green', 0.4, 0.9],
    ['blue', 0.6, 0.9],
  ])
  session.setParam('picture', 'main', 'green')
  await all([
    ['green', 0.1, 0.1],
    ['green', 0.9, 0.7],
    ['red', 0.4, 0.9],
    ['blue', 0.6, 0.9],
  ])
  // One over the whole picture, the others a quarter as wide from the lower right corner on.
  session.setParam('picture', 'layout', 'pip')
  await all([
    ['green', 0.1, 0.1],
    ['green', 0.1, 0.9],
    ['red', 0.86, 0.86],
    ['blue', 0.6, 0.86],
  ])
}, 60_000)
