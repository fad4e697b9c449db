#!/usr/bin/env node
// Makes the clip that encoders are measured with: rendered, not filmed. Somebody talks in front of a furnished room, with the
// textures, soft edges, camera shake and sensor noise of a webcam. Needs ffmpeg with libvpx; a fixed seed, so the same each time.
//   node scripts/make-clip.mjs crates/media/benches/data/talk.ivf
import { spawn } from 'node:child_process'
import { once } from 'node:events'

const [WIDTH, HEIGHT, FRAMES, FPS] = [1280, 720, 90, 30]
const [CHROMA_WIDTH, CHROMA_HEIGHT] = [WIDTH / 2, HEIGHT / 2]
/** The room is larger than the picture: the camera moves about in it. */
const MARGIN = 48
const [ROOM_WIDTH, ROOM_HEIGHT] = [WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN]

let seed = 20_260_101
function random() {
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
  return seed / 2 ** 32
}

/** Texture with the spectrum of natural pictures: octaves of smooth noise, each half as strong as the one before. */
function texture(width, height, coarsest, octaves) {
  const out = new Float32Array(width * height)
  for (let octave = 0; octave < octaves; octave++) {
    const cell = coarsest / 2 ** octave
    const strength = 0.62 ** octave
    const columns = Math.ceil(width / cell) + 2
    const grid = Float32Array.from(
      { length: columns * (Math.ceil(height / cell) + 2) },
      () => random() * 2 - 1,
    )
    for (let y = 0; y < height; y++) {
      const row = Math.floor(y / cell)
      const fy = smooth(y / cell - row)
      for (let x = 0; x < width; x++) {
        const column = Math.floor(x / cell)
        const fx = smooth(x / cell - column)
        const at = row * columns + column
        const upper = grid[at] + (grid[at + 1] - grid[at]) * fx
        const lower = grid[at + columns] + (grid[at + columns + 1] - grid[at + columns]) * fx
        out[y * width + x] += strength * (upper + (lower - upper) * fy)
      }
    }
  }
  return out
}

function smooth(t) {
  return t * t * (3 - 2 * t)
}

/** How much of a soft-edged shape covers a point that is `distance` pixels inside of its border. */
function cover(distance) {
  return Math.min(1, Math.max(0, distance / 2 + 0.5))
}

/** Planes of the empty room: a wall with light from the left, shelves with books, a plant. */
function room() {
  const grain = texture(ROOM_WIDTH, ROOM_HEIGHT, 160, 7)
  const leaves = texture(ROOM_WIDTH, ROOM_HEIGHT, 40, 5)
  const y = new Float32Array(ROOM_WIDTH * ROOM_HEIGHT)
  const u = new Float32Array(y.length)
  const v = new Float32Array(y.length)
  const books = []
  for (let shelf = 0; shelf < 4; shelf++) {
    for (let x = 840; x < ROOM_WIDTH - 30; ) {
      const width = 14 + random() * 26
      const height = 95 + random() * 40
      books.push({
        left: x,
        right: x + width - 2,
        bottom: 190 + shelf * 170,
        height,
        y: 50 + random() * 130,
        u: (random() - 0.5) * 50,
        v: (random() - 0.5) * 60,
      })
      x += width
    }
  }
  for (let row = 0; row < ROOM_HEIGHT; row++) {
    for (let column = 0; column < ROOM_WIDTH; column++) {
      const at = row * ROOM_WIDTH + column
      y[at] = 168 - column * 0.045 - row * 0.02 + grain[at] * 6
      u[at] = 122 + grain[at] * 2
      v[at] = 132 - grain[at] * 2
      if (column > 830) {
        y[at] = 84 + grain[at] * 9
        ;[u[at], v[at]] = [116, 142]
      }
      const plant = cover((120 - Math.hypot((column - 190) * 0.8, row - 470)) * 0.5 + leaves[at] * 60)
      y[at] += (62 + leaves[at] * 38 - y[at]) * plant
      u[at] += (112 - u[at]) * plant
      v[at] += (116 - v[at]) * plant
    }
  }
  for (const book of books) {
    for (let row = Math.round(book.bottom - book.height); row < book.bottom; row++) {
      for (let column = Math.round(book.left); column < book.right; column++) {
        const at = row * ROOM_WIDTH + column
        const round = Math.sin(((column - book.left) / (book.right - book.left)) * Math.PI)
        const title = row % 60 > 20 && row % 60 < 44 && Math.floor(row / 3) % 2 === 0 ? 30 : 0
        y[at] = book.y * (0.6 + 0.4 * round) + title + grain[at] * 5
        ;[u[at], v[at]] = [128 + book.u, 128 + book.v]
      }
    }
  }
  return { y, u, v }
}

const background = room()
const skin = texture(400, 400, 60, 6)
const cloth = texture(900, 500, 30, 5)

function sample(plane, width, height, x, y) {
  const [column, row] = [Math.floor(x), Math.floor(y)]
  if (column < 0 || row < 0 || column + 1 >= width || row + 1 >= height) return 0
  const [fx, fy] = [x - column, y - row]
  const at = row * width + column
  const upper = plane[at] + (plane[at + 1] - plane[at]) * fx
  return upper + (plane[at + width] + (plane[at + width + 1] - plane[at + width]) * fx - upper) * fy
}

/** Colour of the picture at a point, in pixels, as [y, u, v]. */
function scene(x, y, pose, out) {
  const { camera, head, body, mouth, blink, turn } = pose
  const [rx, ry] = [x + MARGIN + camera[0], y + MARGIN + camera[1]]
  out[0] = sample(background.y, ROOM_WIDTH, ROOM_HEIGHT, rx, ry)
  out[1] = sample(background.u, ROOM_WIDTH, ROOM_HEIGHT, rx, ry)
  out[2] = sample(background.v, ROOM_WIDTH, ROOM_HEIGHT, rx, ry)
  const paint = (share, luma, u, v) => {
    if (share <= 0) return
    out[0] += (luma - out[0]) * share
    out[1] += (u - out[1]) * share
    out[2] += (v - out[2]) * share
  }
  // Shoulders: wide at the bottom, narrow at the neck.
  const [bx, by] = [x - body[0], y - body[1]]
  if (by > -20) {
    const half = 70 + 240 * smooth(Math.min(1, Math.max(0, by / 190)))
    const folds = Math.sin(bx * 0.035 + Math.sin(by * 0.02) * 2) * 10
    const luma = 74 + sample(cloth, 900, 500, bx + 450, by + 60) * 16 + folds
    paint(cover(half - Math.abs(bx)), luma - Math.abs(bx) * 0.04, 146, 112)
  }
  const [hx, hy] = [x - head[0], y - head[1]]
  paint(cover(58 - Math.abs(hx)) * cover(hy) * cover(200 - hy), 112 - Math.abs(hx) * 0.5, 110, 150)
  const round = Math.hypot(hx / 108, hy / 146)
  if (round < 1.35) {
    const hair = Math.hypot(hx / 126, (hy + 18) / 158)
    paint(
      cover((1 - hair) * 120),
      38 + Math.sin(hx * 0.9 + hy * 0.15) * 9 + Math.sin(hx * 0.23) * 7,
      124,
      134,
    )
    const face = cover((1 - Math.hypot(hx / 100, (hy - 22) / 122)) * 100)
    const texture = sample(skin, 400, 400, hx + 200, hy + 200) * 7
    paint(face, 156 - (hx - turn) * 0.28 - Math.max(0, round - 0.6) * 60 + texture, 108, 154)
    for (const side of [-1, 1]) {
      const [ex, ey] = [hx - turn - side * 42, hy + 4]
      paint(face * cover((1 - Math.hypot(ex / 19, ey / (8 * blink + 0.5))) * 14), 196, 126, 130)
      paint(face * cover((1 - Math.hypot(ex / 8, ey / (8 * blink + 0.5))) * 9), 34, 128, 128)
      paint(face * cover((1 - Math.hypot(ex / 26, (ey + 22) / 5)) * 8), 62, 122, 136)
    }
    const [nx, ny] = [hx - turn * 1.4, hy - 38]
    paint(face * cover((1 - Math.hypot(nx / 15, ny / 26)) * 12) * 0.5, 138, 110, 156)
    const [mx, my] = [hx - turn * 1.2, hy - 82]
    paint(face * cover((1 - Math.hypot(mx / 36, my / (7 + mouth * 16))) * 16), 96, 114, 164)
    paint(face * cover((1 - Math.hypot(mx / 28, my / (1 + mouth * 12))) * 10), 40, 122, 146)
  }
}

function pose(n) {
  const t = n / FPS
  const wave = (hz, phase) => Math.sin(2 * Math.PI * hz * t + phase)
  const nod = 9 * wave(0.7, 0) + 4 * wave(1.9, 1)
  const sway = 26 * wave(0.23, 0.4) + 7 * wave(1.1, 2)
  return {
    camera: [14 * wave(0.11, 0) + 1.6 * wave(2.3, 1), 8 * wave(0.17, 1) + 1.2 * wave(3.1, 0)],
    head: [600 + sway, 285 + nod],
    body: [596 + sway * 0.5, 470 + nod * 0.3 + 3 * wave(0.3, 0)],
    mouth: Math.max(0, 0.5 * wave(3.7, 0) + 0.4 * wave(5.3, 1)) * (wave(0.4, 0) > -0.4 ? 1 : 0.1),
    blink: Math.abs(((t + 0.6) % 1.7) - 0.1) < 0.08 ? 0.1 : 1,
    turn: 10 * wave(0.31, 1),
    light: 1 + 0.02 * wave(0.21, 0),
  }
}

/** Noise of a sensor: sums of three uniform numbers are close to a normal one. */
function noise(strength) {
  return (random() + random() + random() - 1.5) * 2 * strength
}

function render(n) {
  const frame = Buffer.alloc(WIDTH * HEIGHT + 2 * CHROMA_WIDTH * CHROMA_HEIGHT)
  const now = pose(n)
  const colour = [0, 0, 0]
  const byte = (value) => Math.max(0, Math.min(255, Math.round(value)))
  for (let y = 0; y < HEIGHT; y++) {
    for (let x = 0; x < WIDTH; x++) {
      scene(x, y, now, colour)
      const luma = colour[0] * now.light
      frame[y * WIDTH + x] = byte(luma + noise(1.1 + luma * 0.006))
      if (y % 2 === 0 && x % 2 === 0) {
        const at = WIDTH * HEIGHT + (y / 2) * CHROMA_WIDTH + x / 2
        frame[at] = byte(colour[1] + noise(0.8))
        frame[at + CHROMA_WIDTH * CHROMA_HEIGHT] = byte(colour[2] + noise(0.8))
      }
    }
  }
  return frame
}

const output = process.argv[2]
if (!output) throw new Error('usage: node scripts/make-clip.mjs <file.ivf>')
const input = `-f rawvideo -pix_fmt yuv420p -s ${WIDTH}x${HEIGHT} -r ${FPS} -i -`
const codec = '-c:v libvpx-vp9 -b:v 3M -minrate 1M -maxrate 4M -g 300 -deadline good -cpu-used 3 -row-mt 1'
const ffmpeg = spawn('ffmpeg', [...`-v error -y ${input} ${codec}`.split(' '), output], {
  stdio: ['pipe', 'inherit', 'inherit'],
})
for (let n = 0; n < FRAMES; n++) {
  if (!ffmpeg.stdin.write(render(n))) await once(ffmpeg.stdin, 'drain')
}
ffmpeg.stdin.end()
const [code] = await once(ffmpeg, 'close')
if (code !== 0) throw new Error(`ffmpeg ended with ${code}`)
