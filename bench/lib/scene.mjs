// What the media programs show and say: a moving scene that carries its number, a click in silence, and times in summary.

const BITS = 12

/** Half a second of a textured scene that moves, as I420; `picture(n)` is the nth with its number stamped in. */
export function scene(width, height, block = 16) {
  const frames = []
  let seed = 7
  const random = () => {
    seed = (seed * 1103515245 + 12345) & 0x7fffffff
    return seed / 0x7fffffff
  }
  const texture = Array.from({ length: 256 * 256 }, () => random() * 30 - 15)
  for (let n = 0; n < 15; n++) {
    const frame = new Uint8Array((width * height * 3) / 2)
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const u = x + n * 4
        const smooth = 120 + 60 * Math.sin(u / 61) * Math.cos(y / 47)
        frame[y * width + x] = smooth + texture[((y >> 1) & 255) * 256 + ((u >> 1) & 255)]
      }
    }
    frame.fill(110, width * height, (width * height * 5) / 4)
    frame.fill(140, (width * height * 5) / 4)
    frames.push(frame)
  }
  return {
    /** Numbers repeat after this many pictures. */
    numbers: 2 ** BITS,
    picture(n) {
      // There and back, so that nothing jumps.
      const turn = n % (2 * frames.length - 2)
      const frame = frames[turn < frames.length ? turn : 2 * frames.length - 2 - turn]
      stamp(frame, width, block, n % 2 ** BITS)
      return frame
    },
    /** The number in a plane of luma. */
    read(luma) {
      let number = 0
      for (let bit = 0; bit < BITS; bit++) {
        const at = (block / 2) * luma.stride + bit * block + block / 2
        if (luma.data[at] > 128) number |= 1 << bit
      }
      return number
    },
  }
}

/** The number as black and white blocks in the top row. */
function stamp(frame, width, block, number) {
  for (let bit = 0; bit < BITS; bit++) {
    const level = number & (1 << bit) ? 235 : 16
    for (let y = 0; y < block; y++) {
      frame.fill(level, y * width + bit * block, y * width + (bit + 1) * block)
    }
  }
}

/** 5 ms of a loud tone at the beginning of a frame of silence. */
export function click(length, rate) {
  const samples = new Float32Array(length)
  for (let i = 0; i < Math.min(240, length); i++) samples[i] = 0.8 * Math.sin((2 * Math.PI * 2000 * i) / rate)
  return samples
}

export function summary(times) {
  const sorted = [...times].sort((x, y) => x - y)
  const at = (q) => round(sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN, 1)
  return { samples: sorted.length, p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1) }
}

export function round(value, digits) {
  return Number(value.toFixed(digits))
}
