/** Clients of the existing RemoteMedia ecosystem call `remotemedia-server`: the answer to their offer is the result of its request. */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { WebRtcTransport } from '@remotemedia/webrtc'
import { WebSocketServer } from 'ws'
import { every, hear, join, next, tone } from '../api/support.js'
import { RawPeer } from '../signaling/support.js'
import { type Chromium, chromiumPath, launchChromium } from './chromium.js'

const describeWithBrowser = chromiumPath() === null ? describe.skip : describe
if (chromiumPath() === null)
  console.warn('SKIPPED: there is no Chromium; install it, or name one with CHROMIUM=/path')

// As its programs write them: types of its own, fields that mean nothing here.
const MANIFEST = `{
  "version": "v1",
  "metadata": { "name": "voice", "created_at": "2025-01-30T00:00:00Z" },
  "nodes": [
    { "id": "resample", "node_type": "FastResampleNode", "params": { "source_rate": "auto", "target_rate": 48000, "quality": "High" },
      "is_streaming": true },
    { "id": "level", "node_type": "AudioLevelNode", "params": { "window_size_ms": 200, "silence_threshold_db": -40 } }
  ],
  "connections": [{ "from": "resample", "to": "level" }],
  "execution": { "mode": "streaming" }
}`

describeWithBrowser('a transport that is called as remotemedia-server', () => {
  let browser: Chromium
  beforeAll(async () => {
    browser = await launchChromium()
  })
  afterAll(() => browser?.close())

  test('answers in the result: media and messages flow both ways, with a client and with a transport', async () => {
    const warned = jest.spyOn(process, 'emitWarning').mockImplementation(() => {})
    await using server = await WebRtcTransport.create({ signalingServer: { port: 0 }, hosted: true })
    expect(server.peerId).toBe('remotemedia-server')
    const url = server.signalingUrl
    const errors: string[] = []
    server.on('error', ({ message }) => errors.push(message))
    await using session = await server.stream(MANIFEST)
    expect(session.warnings).toEqual(
      expect.arrayContaining([
        'nodes[0]: node_type "FastResampleNode" is taken as Resample',
        'nodes[0]: unknown field "is_streaming" is ignored',
        'manifest: unknown field "execution" is ignored',
      ]),
    )
    const text = warned.mock.calls.map(([warning]) => String(warning)).join('\n')
    expect(text).toMatch(/manifest 'voice': nodes\[1\]: node_type "AudioLevelNode" is taken as LevelMeter/)
    warned.mockRestore()
    session.route({ from: '*', track: 'audio', through: 'level.out', to: 'sender' })
    let loudest = -120
    session.onOutput('level.level', ({ data: { data } }) => {
      if (data.kind === 'json') loudest = Math.max(loudest, (data.value as { rmsDb: number }).rmsDb)
    })
    server.on('data', ({ peerId, data: { data } }) => {
      if (data.kind === 'text')
        void server.sendToPeer(peerId, { kind: 'text', text: `${data.text}, ${peerId}` })
    })

    const page = await browser.newPage()
    const call = await page.evaluate((at) => window.callServer(at), url)
    expect(call.answer).toMatchObject({ type: 'answer', from: 'remotemedia-server', to: 'web-client' })
    // Candidates are in it, for a client that looks at nothing else.
    expect(call.answer.sdp).toMatch(/a=candidate:.* typ host/)
    expect(call.told).not.toContain('peer.answer')
    expect(call.told).not.toContain('peer.offer')
    expect([call.state, call.text]).toEqual(['connected', 'hello, web-client'])
    expect(Math.abs(call.reading.frequencyHz - 700)).toBeLessThan(5)
    expect(Math.abs(call.reading.levelDbfs + 9.03)).toBeLessThan(2)
    expect(Math.abs(loudest + 9.03)).toBeLessThan(2)

    // One of this package's own meets it as any peer: it offers as a newcomer, and takes its answer from the result.
    await using peer = await WebRtcTransport.create({ signalingUrl: url, peerId: 'node-client' })
    await peer.connectPeer('remotemedia-server')
    const parts: Float32Array[] = []
    peer.on('audio', ({ data }) => data.data.kind === 'audio' && parts.push(data.data.samples))
    const voice = every(20, (n) => peer.sendToPeer('remotemedia-server', tone(n, 440)).catch(() => {}))
    await next(peer, 'audio', () => parts.length >= 80)
    voice.stop()
    expect(Math.abs(hear(join(parts.slice(40, 80))).hz - 440)).toBeLessThan(5)
    await page.close()

    // What is no offer is refused in the result as well.
    const raw = await RawPeer.announced(url, 'raw')
    const refused = await raw.request('peer.offer', { to: 'remotemedia-server', sdp: 'v=0\r\nnothing\r\n' })
    expect(refused.error.code).toBe(-32002)
    expect(errors).toHaveLength(1)
    expect(errors[0]).toContain("'raw'")
    await raw.close()
  }, 60_000)
})

test('a signaling server that does not know of it is told as an error', async () => {
  const other = new WebSocketServer({ host: '127.0.0.1', port: 0 })
  other.on('connection', (ws) =>
    ws.on('message', (data) => {
      const { id } = JSON.parse(String(data))
      ws.send(JSON.stringify({ jsonrpc: '2.0', id, result: { success: true, peers: [] } }))
    }),
  )
  await once(other, 'listening')
  const { port } = other.address() as AddressInfo
  const transport = await WebRtcTransport.create({
    signalingUrl: `ws://127.0.0.1:${port}`,
    peerId: 'mine',
    hosted: true,
  })
  expect((await next(transport, 'error')).code).toBe('ERR_SIGNALING')
  await transport.close()
  other.close()
})
