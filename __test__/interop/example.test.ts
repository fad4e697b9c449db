import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { VideoFrame } from '@remotemedia/webrtc'
import { callWithBlur } from '../../examples/call-with-blur.js'
import { every, Lab, next } from '../api/support.js'

const SIZE = 256

/** scikit-image's `astronaut`, a public-domain portrait: see the README beside it. */
const portrait = readFileSync(join(__dirname, '../../crates/pipeline/tests/data/astronaut_256x256.i420'))

/** Mean square of the Laplacian: how much fine detail there is in a part of the picture. */
function detail(luma: Uint8Array, stride: number, x0: number, y0: number, x1: number, y1: number): number {
  let sum = 0
  for (let y = Math.max(1, y0); y < y1; y++) {
    for (let x = x0; x < x1; x++) {
      const at = y * stride + x
      const laplacian =
        4 * luma[at]! - luma[at - 1]! - luma[at + 1]! - luma[at - stride]! - luma[at + stride]!
      sum += laplacian ** 2
    }
  }
  return sum / ((x1 - x0) * (y1 - y0))
}

test("the seed's first example returns a portrait with its background blurred and its face not", async () => {
  const lab = await new Lab().open()
  const caller = await lab.join('peer-remote')
  const ended = new AbortController()
  const example = callWithBlur(
    {
      signalingUrl: lab.server.url,
      remote: 'peer-remote',
      manifest: join(__dirname, '../../examples/blur.yaml'),
    },
    ended.signal,
  )
  await caller.connectPeer('blur')
  const camera = every(1000 / 15, (n) => {
    const frame = VideoFrame.from(portrait, {
      format: 'I420',
      width: SIZE,
      height: SIZE,
      timestampUs: n * 66_667,
    })
    caller.sendToPeer('blur', { kind: 'video', frame }).catch(() => {})
    frame.close()
  })
  let seen = 0
  let face = 0
  let background = 0
  caller.on('video', ({ data }) => {
    if (data.data.kind !== 'video') return
    const [luma] = data.data.frame.planes
    seen++
    face = detail(luma!.data, luma!.stride, 96, 42, 132, 86)
    background = detail(luma!.data, luma!.stride, 186, 4, 250, 128)
  })
  await next(caller, 'video', () => seen >= 20)
  camera.stop()
  ended.abort()
  expect((await example).processed).toBeGreaterThanOrEqual(20)
  // Both went through the same two encodings; only the background through the blur.
  expect(face / detail(portrait, SIZE, 96, 42, 132, 86)).toBeGreaterThan(0.4)
  expect(background / detail(portrait, SIZE, 186, 4, 250, 128)).toBeLessThan(0.2)
  await lab.close()
}, 40_000)
