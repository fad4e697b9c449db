import { readdirSync } from 'node:fs'
import {
  type RTCCodecStats,
  type RuntimeData,
  VideoFrame,
  WebRtcError,
  type WebRtcTransport,
} from '@remotemedia/webrtc'
import { judgeLimitedLuma, patternI420 } from '../interop/browser/pattern.js'
import { every, hear, join, Lab, next, tone } from './support.js'

let lab: Lab
beforeEach(async () => {
  lab = await new Lab().open()
})
afterEach(() => lab.close())

describe('data', () => {
  test('text, JSON and binary arrive as they were sent, in order, up to 256 KiB', async () => {
    const [alice, bob] = await lab.pair()
    const big = new Uint8Array(262_144).map((_, i) => i * 7)
    const sent: RuntimeData[] = [
      { kind: 'text', text: 'grüße 🎈' },
      { kind: 'text', text: '{"looks":"like JSON"}' },
      { kind: 'json', value: { nested: [1, null, 'x'] } },
      { kind: 'binary', data: Uint8Array.of(0x1e, 0, 255) },
      { kind: 'binary', data: big },
      { kind: 'text', text: '' },
    ]
    const got: RuntimeData[] = []
    bob.on('data', ({ peerId, data }) => {
      expect(peerId).toBe('alice')
      got.push(data.data)
    })
    for (const data of sent) await alice.sendToPeer('bob', data)
    await next(bob, 'data', () => got.length >= sent.length)
    expect(got).toEqual(sent)
  })

  test('what is larger than the peer takes is refused before anything is sent', async () => {
    const [alice] = await lab.pair()
    const error = await alice
      .sendToPeer('bob', { kind: 'binary', data: new Uint8Array(262_145) })
      .catch((e) => e)
    expect(error).toBeInstanceOf(WebRtcError)
    expect(error).toMatchObject({ code: 'ERR_MESSAGE_TOO_LARGE', peerId: 'bob' })
    expect(error.message).toContain('262144')
  })

  test('sendToPeer waits above the high-water mark, and nothing is lost', async () => {
    const [alice, bob] = await lab.pair()
    const count = 400
    let received = 0
    const numbers: number[] = []
    bob.on('data', ({ data }) => {
      if (data.data.kind !== 'binary') return
      numbers.push(new DataView(data.data.data.buffer, data.data.data.byteOffset).getUint32(0))
      received++
    })
    let highest = 0
    for (let i = 0; i < count; i++) {
      const data = new Uint8Array(65_536)
      new DataView(data.buffer).setUint32(0, i)
      await alice.sendToPeer('bob', { kind: 'binary', data })
      highest = Math.max(highest, alice.listPeers()[0]!.bufferedAmount)
    }
    if (received < count) await next(bob, 'data', () => received >= count)
    expect(numbers).toEqual([...Array(count).keys()])
    // 1 MiB, and the message that reached it.
    expect(highest).toBeLessThanOrEqual(1_048_576 + 65_536)
  })

  test.each(['unordered', 'unreliable'] as const)('%s mode carries messages', async (dataChannelMode) => {
    const [alice, bob] = await lab.pair({ dataChannelMode }, { dataChannelMode })
    const got = next(bob, 'data')
    await alice.sendToPeer('bob', { kind: 'text', text: dataChannelMode })
    expect((await got).data.data).toEqual({ kind: 'text', text: dataChannelMode })
  })

  test('a further channel carries its own messages and closes at both ends', async () => {
    const [alice, bob] = await lab.pair()
    const incoming = next(bob, 'channel')
    const channel = await alice.openChannel('bob', 'files', { mode: 'unordered' })
    const there = (await incoming).channel
    expect(there.label).toBe('files')
    const got = new Promise((resolve) => there.once('message', resolve))
    await channel.send({ kind: 'json', value: 7 })
    expect(await got).toEqual({ kind: 'json', value: 7 })
    const closed = new Promise<void>((resolve) => there.once('close', () => resolve()))
    channel.close()
    await closed
    await expect(there.send('late')).rejects.toMatchObject({ code: 'ERR_CLOSED' })
  })

  test('broadcast reaches everyone but those excluded', async () => {
    const alice = await lab.join('alice')
    const others = await Promise.all(['bob', 'carol', 'dave'].map((id) => lab.join(id)))
    await Promise.all(['bob', 'carol', 'dave'].map((id) => alice.connectPeer(id)))
    const got: string[] = []
    for (const other of others) other.on('data', () => got.push(other.peerId))
    const all = Promise.all([next(others[0]!, 'data'), next(others[2]!, 'data')])
    await alice.broadcast({ kind: 'text', text: 'hi' }, ['carol'])
    await all
    expect(got.sort()).toEqual(['bob', 'dave'])
  })
})

describe('media', () => {
  test('a tone is heard with its frequency and level', async () => {
    const [alice, bob] = await lab.pair()
    const heard: Float32Array[] = []
    const timestamps: number[] = []
    bob.on('audio', ({ data }) => {
      if (data.data.kind !== 'audio') return
      heard.push(data.data.samples)
      timestamps.push(data.timestampUs)
    })
    const source = every(20, (n) => {
      void alice.sendToPeer('bob', { data: tone(n, 440), timestampUs: n * 20_000 })
    })
    await next(bob, 'audio', () => heard.length >= 100)
    source.stop()
    const { hz, dbfs } = hear(join(heard.slice(50, 100)))
    expect(Math.abs(hz - 440)).toBeLessThan(1.5)
    expect(Math.abs(dbfs - -9.03)).toBeLessThan(1)
    for (let i = 51; i < 100; i++) expect(timestamps[i]! - timestamps[i - 1]!).toBe(20_000)
  })

  test('sound without timestamps is counted', async () => {
    const [alice, bob] = await lab.pair()
    const timestamps: number[] = []
    bob.on('audio', ({ data }) => {
      timestamps.push(data.timestampUs)
    })
    const source = every(20, (n) => {
      void alice.sendToPeer('bob', tone(n, 440))
    })
    await next(bob, 'audio', () => timestamps.length >= 100)
    source.stop()
    for (let i = 51; i < 100; i++) expect(timestamps[i]! - timestamps[i - 1]!).toBe(20_000)
  })

  test.each(['vp9', 'vp8', 'h264'] as const)('a pattern is seen through %s', async (videoCodec) => {
    const [alice, bob] = await lab.pair({ videoCodec })
    const psnr: number[] = []
    const counters: number[] = []
    bob.on('video', ({ data }) => {
      if (data.data.kind !== 'video') return
      const { frame } = data.data
      expect([frame.width, frame.height]).toEqual([640, 360])
      const [luma] = frame.planes
      const reading = judgeLimitedLuma(luma!.data, 640, 360, luma!.stride)
      if (!reading) return
      psnr.push(reading.psnrDb)
      counters.push(reading.counter)
    })
    const source = every(1000 / 30, (n) => {
      const frame = VideoFrame.from(patternI420(640, 360, n), {
        format: 'I420',
        width: 640,
        height: 360,
        timestampUs: Math.round(n * 33_333),
      })
      void alice.sendToPeer('bob', { kind: 'video', frame })
      frame.close()
    })
    await next(bob, 'video', () => psnr.length >= 40)
    source.stop()
    expect(Math.min(...psnr.slice(5))).toBeGreaterThan(28)
    expect(counters.at(-1)! - counters[0]!).toBeGreaterThanOrEqual(counters.length - 1)
    const stats = await alice.getStats('bob')
    const [out] = stats.of('outbound-rtp', 'video')
    const codec = stats.get(out!.codecId!) as RTCCodecStats
    expect(codec.mimeType).toBe({ vp9: 'video/VP9', vp8: 'video/VP8', h264: 'video/H264' }[videoCodec])
    expect(VideoFrame.forgotten).toBe(0)
  })

  test('a late receiver of a broadcast starts with a keyframe of its own', async () => {
    const alice = await lab.join('alice')
    await lab.join('bob')
    await alice.connectPeer('bob')
    const source = every(1000 / 30, (n) => {
      const frame = VideoFrame.from(patternI420(320, 240, n), {
        format: 'I420',
        width: 320,
        height: 240,
        timestampUs: n * 33_333,
      })
      alice.broadcast({ kind: 'video', frame }).catch(() => {})
      frame.close()
    })
    const carol = await lab.join('carol')
    const seen = await next(
      carol,
      'video',
      ({ data }) => data.data.kind === 'video' && data.data.frame.width === 320,
    )
    source.stop()
    expect(seen.peerId).toBe('alice')
  })
})

describe('peers', () => {
  test('are listed with state, capabilities and tracks, and leave', async () => {
    const [alice, bob] = await lab.pair()
    expect(alice.listPeers()).toEqual([
      expect.objectContaining({
        id: 'bob',
        state: 'connected',
        capabilities: ['audio', 'video', 'data'],
        tracks: { audio: true, video: 'vp9' },
      }),
    ])
    const left = next(alice, 'peerleft')
    await bob.close()
    expect(await left).toMatchObject({ peerId: 'bob' })
    expect(alice.listPeers()).toEqual([])
    await expect(alice.sendToPeer('bob', { kind: 'text', text: 'x' })).rejects.toMatchObject({
      code: 'ERR_PEER_NOT_FOUND',
    })
  })

  test('connectPeer: nobody there, aborted, and idempotent', async () => {
    const alice = await lab.join('alice', { autoConnect: false })
    await lab.join('bob', { autoConnect: false })
    await expect(alice.connectPeer('nobody', { timeoutMs: 100 })).rejects.toMatchObject({
      code: 'ERR_PEER_NOT_FOUND',
      peerId: 'nobody',
    })
    const controller = new AbortController()
    const aborted = alice.connectPeer('nobody', { signal: controller.signal })
    controller.abort()
    await expect(aborted).rejects.toMatchObject({ code: 'ERR_ABORTED' })
    expect(await Promise.all([alice.connectPeer('bob'), alice.connectPeer('bob')])).toEqual(['bob', 'bob'])
    expect(await alice.connectPeer('bob')).toBe('bob')
  })

  test('a peer that sends rubbish disturbs nobody', async () => {
    const { SignalingClient } = await import('../../src-ts/signaling/client.js')
    const [alice, bob] = await lab.pair()
    const mallory = await SignalingClient.connect({ url: lab.server.url, peerId: 'mallory' })
    const errors: WebRtcError[] = []
    alice.on('error', (error) => errors.push(error))
    for (const sdp of [
      'v=0',
      'v=0\r\no=- 1 1 IN IP4 0\r\ns=-\r\nt=0 0\r\nm=video 9 X 0\r\n',
      `v=0\r\n${'a=x\r\n'.repeat(5000)}`,
    ]) {
      await mallory.offer('alice', sdp).catch(() => {})
      await mallory.answer('alice', sdp).catch(() => {})
    }
    for (let i = 0; i < 20; i++)
      await mallory.candidate('alice', { candidate: `candidate:${i} rubbish` }).catch(() => {})
    const got = next(bob, 'data')
    await alice.sendToPeer('bob', { kind: 'text', text: 'still here' })
    expect((await got).data.data).toEqual({ kind: 'text', text: 'still here' })
    expect(errors.length).toBeGreaterThan(0)
    expect(errors.every((e) => e.peerId === 'mallory' && e.code === 'ERR_SIGNALING')).toBe(true)
    await mallory.close()
  })
})

describe('configuration', () => {
  const bad: [object, RegExp][] = [
    [{ signallingUrl: 'ws://x' }, /signallingUrl: unknown key/],
    [{}, /signalingUrl, signalingServer/],
    [{ signalingUrl: 'ws://127.0.0.1:1', maxPeers: 0 }, /maxPeers: 0 .*1 to 256/],
    [{ signalingUrl: 'ws://127.0.0.1:1', videoCodec: 'av1' }, /videoCodec: "av1" .*vp9, vp8, h264/],
    [{ signalingUrl: 'ws://127.0.0.1:1', audio: { frameMs: 15 } }, /audio.frameMs: 15/],
    [{ signalingUrl: 'ws://127.0.0.1:1', identity: {} }, /identity: .*not built yet/],
    [
      { signalingUrl: 'ws://127.0.0.1:1', video: { content: 'film' } },
      /video.content: "film" .*motion, detail, text/,
    ],
    [{ signalingUrl: 'ws://127.0.0.1:1', peerId: 'no spaces' }, /peerId/],
  ]
  test.each(bad)('%j is refused by name', async (config, message) => {
    const { WebRtcTransport } = await import('@remotemedia/webrtc')
    const error = await WebRtcTransport.create(config as never).catch((e) => e)
    expect(error).toBeInstanceOf(WebRtcError)
    expect(error.code).toBe('ERR_CONFIG')
    expect(error.message).toMatch(message)
  })

  test('a server of this process is joined, and closed with the transport that started it', async () => {
    const { WebRtcTransport } = await import('@remotemedia/webrtc')
    const host = await WebRtcTransport.create({ signalingServer: { port: 0 }, peerId: 'host' })
    await host.close()
    const guest: WebRtcTransport = await WebRtcTransport.create({
      signalingServer: lab.server,
      peerId: 'guest',
    })
    await guest.close()
    expect(lab.server.stats().peers).toBe(0)
  })
})

test('close() leaves no thread, socket or file behind, and is idempotent', async () => {
  const threads = () => readdirSync('/proc/self/task').length
  const sockets = () => process.getActiveResourcesInfo().filter((name) => /TCP|UDP|Timeout/.test(name)).length
  const files = () => readdirSync('/proc/self/fd').length
  const [a, b] = await lab.pair()
  await Promise.all([a.close(), b.close()])
  await a.close()
  const before = { threads: threads(), sockets: sockets(), files: files() }
  for (let i = 0; i < 5; i++) {
    const [c, d] = await lab.pair()
    expect(threads()).toBeGreaterThan(before.threads)
    await Promise.all([c.close(), d.close()])
  }
  expect(threads()).toBe(before.threads)
  expect(files()).toBeLessThanOrEqual(before.files + 1)
  // The server's sides of the WebSockets, and timers of earlier tests, end in their own time.
  for (let i = 0; i < 100 && sockets() > before.sockets; i++) await new Promise((r) => setTimeout(r, 50))
  expect(sockets()).toBeLessThanOrEqual(before.sockets)
  await expect(a.sendToPeer('bob', { kind: 'text', text: '' })).rejects.toMatchObject({ code: 'ERR_CLOSED' })
})
