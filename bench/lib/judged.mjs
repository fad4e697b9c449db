// Pictures that can be told apart and judged: each carries its number, and what it should look like is known at both ends.
// Plain JavaScript without imports, for Node and for pages.

const CELLS = 16
const BITS = 12

/** Numbers of pictures run from 0 to this, then start again. */
export const PERIOD = 2 ** BITS

/**
 * A textured scene that moves there and back, two seconds of it, as I420 of limited range. `noise` is the amplitude of what is new in
 * each picture and can't be predicted: with 0 a codec has it easy, with 12 it takes whatever bitrate there is.
 */
export function makeScene(width, height, noise = 0, length = 30) {
  let seed = 7
  const random = () => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff
    return seed / 0x7fffffff
  }
  const texture = Float32Array.from({ length: 256 * 256 }, () => random() * 30 - 15)
  const frames = []
  for (let n = 0; n < length; n++) {
    const frame = new Uint8Array((width * height * 3) / 2)
    const news = Float32Array.from({ length: 8192 }, () => (random() * 2 - 1) * noise)
    const across = Float32Array.from({ length: width }, (_, x) => 60 * Math.sin((x + n * 4) / 61))
    for (let y = 0; y < height; y++) {
      const down = Math.cos(y / 47)
      const row = ((y >> 1) & 255) * 256
      for (let x = 0; x < width; x++) {
        const u = x + n * 4
        const fresh = news[((y >> 1) * 373 + (x >> 1)) & 8191]
        frame[y * width + x] = 120 + across[x] * down + texture[row + ((u >> 1) & 255)] + fresh
      }
    }
    frame.fill(110, width * height, (width * height * 5) / 4)
    frame.fill(140, (width * height * 5) / 4)
    frames.push(frame)
  }
  const turn = 2 * length - 2
  const of = (number) => frames[number % turn < length ? number % turn : turn - (number % turn)]
  return {
    width,
    height,
    /** The picture of a number, stamped. It is good until the next call. */
    picture(number) {
      const frame = of(number)
      const word = stampOf(number)
      const cell = width / CELLS
      for (let y = 0; y < Math.round(cell); y++)
        for (let i = 0; i < CELLS; i++)
          frame.fill(
            (word >> i) & 1 ? 235 : 16,
            y * width + Math.round(i * cell),
            y * width + Math.round((i + 1) * cell),
          )
      return frame
    },
    /** PSNR (dB) and SSIM (8x8 windows) of a received luma plane, made as large as the scene where it is smaller. */
    judge(number, luma, stride, gotWidth, gotHeight) {
      const reference = of(number)
      const from = Math.ceil(width / CELLS / 8 + 1) * 8
      const got = enlarge(luma, stride, gotWidth, gotHeight, width, height)
      let squares = 0
      let similarity = 0
      let windows = 0
      for (let y = from; y + 8 <= height; y += 8)
        for (let x = 0; x + 8 <= width; x += 8) {
          let [a, b, aa, bb, ab] = [0, 0, 0, 0, 0]
          for (let i = 0; i < 8; i++)
            for (let at = (y + i) * width + x, end = at + 8; at < end; at++) {
              const p = reference[at]
              const q = got[at]
              a += p
              b += q
              aa += p * p
              bb += q * q
              ab += p * q
            }
          squares += aa + bb - 2 * ab
          const [ma, mb] = [a / 64, b / 64]
          const [va, vb, cov] = [aa / 64 - ma * ma, bb / 64 - mb * mb, ab / 64 - ma * mb]
          similarity +=
            ((2 * ma * mb + 6.5025) * (2 * cov + 58.5225)) /
            ((ma * ma + mb * mb + 6.5025) * (va + vb + 58.5225))
          windows++
        }
      const mean = squares / (windows * 64)
      return { psnr: mean === 0 ? 99 : 10 * Math.log10(255 ** 2 / mean), ssim: similarity / windows }
    },
  }
}

/** The number in a luma plane of any size; null where it can't be read. */
export function readStamp(luma, stride, width) {
  const cell = width / CELLS
  let word = 0
  for (let i = 0; i < CELLS; i++) {
    let sum = 0
    let count = 0
    for (let y = Math.floor(cell * 0.35); y < Math.ceil(cell * 0.65); y++)
      for (let x = Math.floor((i + 0.35) * cell); x < Math.ceil((i + 0.65) * cell); x++) {
        sum += luma[y * stride + x]
        count++
      }
    const mean = sum / count
    if (mean > 100 && mean < 150) return null
    if (mean > 125) word |= 1 << i
  }
  const number = word & (PERIOD - 1)
  return stampOf(number) === word ? number : null
}

/** Twelve bits, and four that check them. */
function stampOf(number) {
  const value = number & (PERIOD - 1)
  const check = (value ^ (value >> 4) ^ (value >> 8) ^ 0b1010) & 15
  return value | (check << BITS)
}

/** Bilinear. */
function enlarge(luma, stride, fromWidth, fromHeight, width, height) {
  const out = new Uint8Array(width * height)
  if (fromWidth === width && fromHeight === height) {
    for (let y = 0; y < height; y++) out.set(luma.subarray(y * stride, y * stride + width), y * width)
    return out
  }
  for (let y = 0; y < height; y++) {
    const v = Math.max(0, Math.min(fromHeight - 1, ((y + 0.5) * fromHeight) / height - 0.5))
    const top = Math.min(Math.floor(v), fromHeight - 2)
    for (let x = 0; x < width; x++) {
      const u = Math.max(0, Math.min(fromWidth - 1, ((x + 0.5) * fromWidth) / width - 0.5))
      const left = Math.min(Math.floor(u), fromWidth - 2)
      const at = top * stride + left
      const upper = luma[at] + (luma[at + 1] - luma[at]) * (u - left)
      const lower = luma[at + stride] + (luma[at + stride + 1] - luma[at + stride]) * (u - left)
      out[y * width + x] = upper + (lower - upper) * (v - top) + 0.5
    }
  }
  return out
}
