import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { Lab, next, tone } from './support.js'

// A process in a call, with media both ways, is told to end. It closes its transport and does nothing else: whatever thread, socket
// or timer were left would keep it running.
const CHILD = `
import { VideoFrame, WebRtcTransport } from './dist/index.js'
const transport = await WebRtcTransport.create({ signalingUrl: process.argv[1], peerId: 'child' })
await transport.connectPeer('parent')
transport.on('audio', () => {})
const picture = new Uint8Array(320 * 240 * 1.5).fill(90)
let n = 0
const timer = setInterval(() => {
  const frame = VideoFrame.from(picture, { format: 'I420', width: 320, height: 240, timestampUs: n++ * 33333 })
  transport.sendToPeer('parent', { kind: 'video', frame }).catch(() => {})
  frame.close()
}, 33)
process.once('SIGTERM', async () => {
  clearInterval(timer)
  await transport.close()
})
process.send('in the call')
process.disconnect()
`

test('SIGTERM in a call ends every thread and socket within 2 s, and the peer sees peer.left', async () => {
  const lab = await new Lab().open()
  const parent = await lab.join('parent')
  const child: ChildProcess = spawn(
    process.execPath,
    ['--input-type=module', '--eval', CHILD, lab.server.url],
    { cwd: join(__dirname, '../..'), stdio: ['ignore', 'inherit', 'inherit', 'ipc'] },
  )
  await once(child, 'message')
  const voice = setInterval(() => {
    parent.sendToPeer('child', tone(0, 440)).catch(() => {})
  }, 20)
  await next(parent, 'video')
  const left = next(parent, 'peerleft')
  const asked = performance.now()
  child.kill('SIGTERM')
  const [code, signal] = await once(child, 'exit')
  const took = performance.now() - asked
  clearInterval(voice)
  expect([code, signal]).toEqual([0, null])
  expect(took).toBeLessThan(2000)
  expect(await left).toMatchObject({ peerId: 'child' })
  await lab.close()
}, 30_000)

test('a process that is killed outright is seen disconnected within 7 s, and gone within 30 s', async () => {
  const lab = await new Lab().open()
  const parent = await lab.join('parent')
  const child = spawn(process.execPath, ['--input-type=module', '--eval', CHILD, lab.server.url], {
    cwd: join(__dirname, '../..'),
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  await once(child, 'message')
  const silent = next(parent, 'peerstatechange', ({ state }) => state === 'disconnected', 7_000)
  const left = next(parent, 'peerleft', undefined, 30_000)
  child.kill('SIGKILL')
  expect(await silent).toMatchObject({ peerId: 'child' })
  expect(parent.listPeers()).toMatchObject([{ id: 'child', state: 'disconnected' }])
  expect(await left).toMatchObject({ peerId: 'child' })
  expect(parent.listPeers()).toEqual([])
  await lab.close()
}, 45_000)

test('it works in a worker thread, and the thread ends without close()', async () => {
  const { Worker } = await import('node:worker_threads')
  const lab = await new Lab().open()
  const parent = await lab.join('parent')
  const code = `
    const { parentPort, workerData } = require('node:worker_threads')
    import(workerData.index).then(async ({ WebRtcTransport }) => {
      const transport = await WebRtcTransport.create({ signalingUrl: workerData.url, peerId: 'worker' })
      await transport.connectPeer('parent')
      await transport.sendToPeer('parent', { kind: 'text', text: 'from a worker' })
    })`
  const index = join(__dirname, '../../dist/index.js')
  const worker = new Worker(code, { eval: true, workerData: { url: lab.server.url, index } })
  const { data } = await next(parent, 'data')
  expect(data.data).toEqual({ kind: 'text', text: 'from a worker' })
  const left = next(parent, 'peerleft')
  await worker.terminate()
  await left
  await lab.close()
}, 30_000)

const COLLECTED = `
import { SignalingServer, WebRtcTransport } from './dist/index.js'
const server = await SignalingServer.listen({ port: 0 })
const refs = []
for (let i = 0; i < 20; i++) {
  const a = await WebRtcTransport.create({ signalingUrl: server.url, peerId: 'a', room: 'r' + i })
  const b = await WebRtcTransport.create({ signalingUrl: server.url, peerId: 'b', room: 'r' + i })
  await b.connectPeer('a')
  refs.push(new WeakRef(a), new WeakRef(b))
  await Promise.all([a.close(), b.close()])
}
await server.close()
for (let i = 0; i < 20 && refs.some((ref) => ref.deref()); i++) {
  await new Promise((resolve) => setTimeout(resolve, 20))
  globalThis.gc()
}
console.log(refs.filter((ref) => ref.deref()).length)
`

test('closed transports are garbage: nothing native keeps them', () => {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['--expose-gc', '--input-type=module', '--eval', COLLECTED],
    { cwd: join(__dirname, '../..'), encoding: 'utf8' },
  )
  expect([status, stderr]).toEqual([0, ''])
  // The last turn of the loop may still be on the stack.
  expect(Number(stdout)).toBeLessThanOrEqual(2)
}, 30_000)
