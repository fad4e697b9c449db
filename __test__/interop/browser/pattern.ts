/**
 * A moving grey picture that any frame of can be told and judged: it carries its own number, and its every pixel is known.
 * Runs in the browser and in Node.
 */

const CELLS = 16
const COUNTER_BITS = 12

/** Frame numbers run from 0 to this, then start again. */
export const PATTERN_PERIOD = 1 << COUNTER_BITS
// Inside a test runner's vm context each look-up of a global is slow: these loops would not keep up with a camera.
const maths = Math

/**
 * Full-range luma of frame `counter`, `width` × `height` bytes, rows from the top: two slow waves that move three and two pixels
 * a frame, under a row of 16 square black or white cells with the counter (12 bits) and its CRC-4.
 */
export function patternLuma(width: number, height: number, counter: number): Uint8Array {
  const luma = new Uint8Array(width * height)
  const across = Float64Array.from(
    { length: width },
    (_, x) => 45 * maths.sin((2 * maths.PI * (x + 3 * counter)) / 64),
  )
  for (let y = 0; y < height; y++) {
    const down = 128 + 45 * maths.sin((2 * maths.PI * (y + 2 * counter)) / 48)
    for (let x = 0; x < width; x++) luma[y * width + x] = maths.round(down + across[x]!)
  }
  const word = stampWord(counter)
  const cell = width / CELLS
  const stampRows = maths.min(height, maths.round(cell))
  for (let x = 0; x < width; x++) {
    const value = (word >> (CELLS - 1 - maths.floor(x / cell))) & 1 ? 255 : 0
    for (let y = 0; y < stampRows; y++) luma[y * width + x] = value
  }
  return luma
}

/** The same frame as tightly packed I420 in limited range (BT.601): what a video codec is given. Sizes must be even. */
export function patternI420(width: number, height: number, counter: number): Uint8Array {
  const luma = patternLuma(width, height, counter)
  const i420 = new Uint8Array(width * height * 1.5).fill(128)
  for (let i = 0; i < luma.length; i++) i420[i] = fullToLimited(luma[i]!)
  return i420
}

/** Reads the counter out of full-range luma, or returns null when a cell is too grey to call or the check fails. */
export function readCounter(luma: Uint8Array, width: number, stride = width): number | null {
  const cell = width / CELLS
  let word = 0
  for (let i = 0; i < CELLS; i++) {
    let sum = 0
    let count = 0
    for (let y = maths.floor(cell * 0.35); y < maths.ceil(cell * 0.65); y++) {
      for (let x = maths.floor((i + 0.35) * cell); x < maths.ceil((i + 0.65) * cell); x++) {
        sum += luma[y * stride + x]!
        count++
      }
    }
    const mean = sum / count
    if (mean > 100 && mean < 156) return null
    word = (word << 1) | (mean > 128 ? 1 : 0)
  }
  const counter = word >> (CELLS - COUNTER_BITS)
  return stampWord(counter) === word ? counter : null
}

/**
 * Finds which frame a decoded limited-range luma plane is, and how faithful: `psnrDb` of the part below the stamp, over the
 * full 0 to 255 range. Null when the stamp can't be read.
 */
export function judgeLimitedLuma(
  plane: Uint8Array,
  width: number,
  height: number,
  stride = width,
): { counter: number; psnrDb: number } | null {
  const full = new Uint8Array(width * height)
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) full[y * width + x] = limitedToFull(plane[y * stride + x]!)
  }
  return judgeLuma(full, width, height)
}

/** As `judgeLimitedLuma`, for full-range luma (a grey canvas). */
export function judgeLuma(
  luma: Uint8Array,
  width: number,
  height: number,
): { counter: number; psnrDb: number } | null {
  const counter = readCounter(luma, width)
  if (counter === null) return null
  const reference = patternLuma(width, height, counter)
  const from = maths.round(width / CELLS) * width
  let squares = 0
  for (let i = from; i < luma.length; i++) squares += (luma[i]! - reference[i]!) ** 2
  const meanSquare = squares / (luma.length - from)
  return { counter, psnrDb: meanSquare === 0 ? 100 : 10 * maths.log10(255 ** 2 / meanSquare) }
}

const fullToLimited = (value: number) => maths.round(16 + (value * 219) / 255)
const limitedToFull = (value: number) => maths.max(0, maths.min(255, maths.round(((value - 16) * 255) / 219)))

function stampWord(counter: number): number {
  const value = counter & (PATTERN_PERIOD - 1)
  // CRC-4-ITU (x⁴ + x + 1), started at all ones so that a black row is no stamp.
  let crc = 0xf
  for (let bit = COUNTER_BITS - 1; bit >= 0; bit--) {
    const feedback = ((crc >> 3) ^ (value >> bit)) & 1
    crc = ((crc << 1) & 0xf) ^ (feedback ? 0x3 : 0)
  }
  return (value << (CELLS - COUNTER_BITS)) | crc
}
