// A frame number that survives a codec and a blur: one row of 16 big black or white cells across the top of the picture,
// 12 bits of counter and a CRC of 4. The page that draws it is the page that reads it back, so the counter alone
// tells when the frame was drawn.

const CELLS = 16
const COUNTER_BITS = 12
/** Counters run from 0 to this, then start again: 136 s at 30 frames/s. */
export const STAMP_PERIOD = 1 << COUNTER_BITS

/** Height of the row for a picture of this width: cells are square. */
export const stampHeight = (width) => Math.round(width / CELLS)

/** Draws `counter` (taken modulo `STAMP_PERIOD`) over the top of a 2D context. */
export function drawStamp(context, width, counter) {
  const cell = width / CELLS
  const word = encode(counter)
  for (let i = 0; i < CELLS; i++) {
    context.fillStyle = (word >> (CELLS - 1 - i)) & 1 ? '#fff' : '#000'
    context.fillRect(Math.floor(i * cell), 0, Math.ceil(cell), Math.ceil(cell))
  }
}

/**
 * Reads a stamp from the RGBA pixels of the top row, `width` wide and `height` (one cell) high. Returns the counter, or null
 * when a cell is too grey to call or the check fails.
 */
export function readStamp(rgba, width, height) {
  const cell = width / CELLS
  let word = 0
  for (let i = 0; i < CELLS; i++) {
    // The middle fifth only: a blur smears the edges.
    const x0 = Math.floor((i + 0.4) * cell)
    const x1 = Math.max(x0 + 1, Math.floor((i + 0.6) * cell))
    const y0 = Math.floor(height * 0.2)
    const y1 = Math.max(y0 + 1, Math.floor(height * 0.6))
    let sum = 0
    for (let y = y0; y < y1; y++) {
      for (let x = x0; x < x1; x++) sum += rgba[(y * width + x) * 4 + 1]
    }
    const mean = sum / ((x1 - x0) * (y1 - y0))
    if (mean > 108 && mean < 148) return null
    word = (word << 1) | (mean > 128 ? 1 : 0)
  }
  const counter = word >> (CELLS - COUNTER_BITS)
  return encode(counter) === word ? counter : null
}

function encode(counter) {
  const value = counter & (STAMP_PERIOD - 1)
  // CRC-4-ITU (x⁴ + x + 1), started at all ones so that a black row is no stamp.
  let crc = 0xf
  for (let bit = COUNTER_BITS - 1; bit >= 0; bit--) {
    const feedback = ((crc >> 3) ^ (value >> bit)) & 1
    crc = ((crc << 1) & 0xf) ^ (feedback ? 0x3 : 0)
  }
  return (value << (CELLS - COUNTER_BITS)) | crc
}
