import {
  AudioDecoder,
  AudioEncoder,
  DataChannelMessage,
  VideoDecoder,
  VideoEncoder,
  VideoFrame,
  WebRtcError,
} from '@remotemedia/webrtc'
import { judgeLimitedLuma, patternI420 } from '../interop/browser/pattern.js'
import { hear, join, tone } from './support.js'

const [WIDTH, HEIGHT] = [640, 360]

function picture(n: number): VideoFrame {
  return VideoFrame.from(patternI420(WIDTH, HEIGHT, n), {
    format: 'I420',
    width: WIDTH,
    height: HEIGHT,
    timestampUs: n * 33_333,
  })
}

describe('Opus', () => {
  test('a tone keeps its frequency and level, and timestamps their steps', () => {
    using encoder = new AudioEncoder({ bitrateBps: 48_000 })
    using decoder = new AudioDecoder()
    const heard: Float32Array[] = []
    const timestamps: number[] = []
    for (let n = 0; n < 100; n++) {
      for (const packet of encoder.encode(tone(n, 440), n * 20_000)) {
        timestamps.push(packet.timestampUs)
        heard.push(decoder.decode(packet.data).samples)
      }
    }
    const { hz, dbfs } = hear(join(heard.slice(40, 90)))
    expect(Math.abs(hz - 440)).toBeLessThan(1.5)
    expect(Math.abs(dbfs + 9.03)).toBeLessThan(1)
    for (let i = 10; i < timestamps.length; i++) expect(timestamps[i]! - timestamps[i - 1]!).toBe(20_000)
  })

  test('takes any rate, and conceals what is lost', () => {
    using encoder = new AudioEncoder({ channels: 2, frameMs: 10 })
    using decoder = new AudioDecoder({ channels: 2 })
    const samples = new Float32Array(2 * 44_100).fill(0.1)
    const packets = encoder.encode({ samples, sampleRate: 44_100, channels: 2 })
    expect(packets.length).toBeGreaterThan(95)
    expect(decoder.decode(packets[0]!.data)).toMatchObject({ sampleRate: 48_000, channels: 2 })
    expect(decoder.conceal(480).samples.length).toBe(960)
  })

  test('refuses rubbish and goes on', () => {
    using decoder = new AudioDecoder()
    expect(() => decoder.decode(new Uint8Array(0))).toThrow(expect.objectContaining({ code: 'ERR_CODEC' }))
    using encoder = new AudioEncoder()
    expect(decoder.decode(encoder.encode(tone(0, 440))[0]!.data).samples.length).toBe(960)
    expect(() => new AudioEncoder({ frameMs: 15 as never })).toThrow(/frameMs: 15/)
    encoder.close()
    expect(() => encoder.encode(tone(0, 440))).toThrow(expect.objectContaining({ code: 'ERR_CLOSED' }))
  })
})

describe.each(['vp9', 'vp8', 'h264'] as const)('%s', (codec) => {
  test('a moving pattern comes out as it went in', async () => {
    using encoder = new VideoEncoder({ codec, width: WIDTH, height: HEIGHT })
    using decoder = new VideoDecoder({ codec })
    const psnr: number[] = []
    for (let n = 0; n < 30; n++) {
      using frame = picture(n)
      const encoded = await encoder.encode(frame, { keyframe: n === 15 })
      if (!encoded) continue
      if (n === 0 || n === 15) expect(encoded.keyframe).toBe(true)
      expect([encoded.width, encoded.height, encoded.timestampUs]).toEqual([WIDTH, HEIGHT, n * 33_333])
      using decoded = await decoder.decode(encoded.data, encoded.timestampUs)
      expect(decoded?.timestampUs).toBe(n * 33_333)
      const [luma] = decoded!.planes
      const reading = judgeLimitedLuma(luma!.data, WIDTH, HEIGHT, luma!.stride)
      expect(reading?.counter).toBe(n)
      psnr.push(reading!.psnrDb)
    }
    expect(psnr.length).toBeGreaterThan(25)
    expect(Math.min(...psnr)).toBeGreaterThan(28)
  })

  test('settings change while it runs', async () => {
    using encoder = new VideoEncoder({ codec, width: WIDTH, height: HEIGHT, content: 'detail' })
    using decoder = new VideoDecoder({ codec })
    const run = async (from: number, count: number) => {
      let bytes = 0
      for (let n = from; n < from + count; n++) {
        using frame = picture(n)
        const encoded = await encoder.encode(frame)
        if (!encoded) continue
        bytes += encoded.data.length
        expect(encoded.keyframe).toBe(n === 0)
        using decoded = await decoder.decode(encoded.data, encoded.timestampUs)
        const [luma] = decoded!.planes
        expect(judgeLimitedLuma(luma!.data, WIDTH, HEIGHT, luma!.stride)?.counter).toBe(n)
      }
      return bytes
    }
    await run(0, 30)
    const before = await run(30, 30)
    encoder.reconfigure({ bitrateBps: 150_000, maxFps: 30, temporalLayers: 1 })
    await run(60, 30)
    expect(await run(90, 30)).toBeLessThan(before * 0.6)
    expect(() => encoder.reconfigure({ maxFps: 0 })).toThrow(/maxFps: 0/)
    expect(() => encoder.reconfigure({ width: 10 } as never)).toThrow(/width/)
    if (codec === 'h264') {
      expect(() => encoder.reconfigure({ temporalLayers: 2 })).toThrow(/temporal_layers/)
      return
    }
    encoder.reconfigure({ temporalLayers: 2 })
    const layers: number[] = []
    for (let n = 120; n < 128; n++) {
      using frame = picture(n)
      const encoded = await encoder.encode(frame)
      if (encoded) layers.push(encoded.temporalLayer)
    }
    expect(layers.slice(0, 4)).toEqual([0, 1, 0, 1])
  })

  test('damaged data is ERR_CODEC, and the next keyframe mends it', async () => {
    using encoder = new VideoEncoder({ codec, width: WIDTH, height: HEIGHT })
    using decoder = new VideoDecoder({ codec })
    using frame = picture(1)
    const whole = (await encoder.encode(frame))!
    const error = await decoder.decode(whole.data.slice(0, 9)).catch((e) => e)
    if (error !== null) expect(error).toBeInstanceOf(WebRtcError)
    using decoded = await decoder.decode((await encoder.encode(frame, { keyframe: true }))!.data)
    expect(decoded?.width).toBe(WIDTH)
  })
})

test('RGBA goes in and comes out, within what the colour conversion rounds', () => {
  const rgba = new Uint8Array(64 * 64 * 4)
  for (let i = 0; i < rgba.length; i += 4) rgba.set([200, 80, 40, 255], i)
  using frame = VideoFrame.from(rgba, { format: 'RGBA', width: 64, height: 64 })
  const out = new Uint8Array(frame.allocationSize('RGBA'))
  frame.copyTo(out, { format: 'RGBA' })
  for (let channel = 0; channel < 4; channel++)
    expect(Math.abs(out[4000 + channel]! - rgba[channel]!)).toBeLessThan(4)
})

test('messages look on the wire as any WebRTC stack expects', () => {
  expect(DataChannelMessage.encode({ kind: 'text', text: 'a' })).toBe('a')
  expect(DataChannelMessage.encode({ kind: 'json', value: { a: 1 } })).toBe('\u001e{"a":1}')
  expect(DataChannelMessage.decode('\u001e[1]')).toEqual({ kind: 'json', value: [1] })
  expect(DataChannelMessage.decode(Uint8Array.of(1))).toEqual({ kind: 'binary', data: Uint8Array.of(1) })
  expect(() => DataChannelMessage.decode('\u001e{')).toThrow(/not JSON/)
  expect(() => DataChannelMessage.encode({ kind: 'text', text: '\u001ex' })).toThrow(/U\+001E/)
})
