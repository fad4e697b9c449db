import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { defineNode, PipelineRunner } from '@remotemedia/webrtc'
import { Lab } from './support.js'

/** Runs a scenario in a process of its own: worker threads load the package as users have it, not as jest does. */
async function scenario<T>(name: string, ...args: string[]): Promise<T & { exitMs: number }> {
  const child = spawn(process.execPath, [join(__dirname, 'kit', 'worker-process.mjs'), name, ...args], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  const exit = once(child, 'exit')
  const said = once(child, 'message')
  const [result] = await Promise.race([
    said,
    exit.then(([code]) => Promise.reject(new Error(`exit ${code}`))),
  ])
  const since = performance.now()
  const [code] = await exit
  expect(code).toBe(0)
  return { ...(result as T), exitMs: performance.now() - since }
}

test('a node that computes in a worker leaves the main thread free, and the main thread it', async () => {
  const told = await scenario<{
    first: number[]
    results: number[][]
    took: number
    longestMs: number
    afterBlockMs: number
    forgotten: number
  }>('free')
  expect(told.first).toEqual([205, 7, 64])
  expect(told.results).toEqual(Array.from({ length: 10 }, (_, n) => [255 - n, n, 64]))
  // 60 ms a picture, one after the other, on another thread.
  expect(told.took).toBeGreaterThan(590)
  expect(told.longestMs).toBeLessThan(50)
  // Five pictures were done while the main thread was blocked for twice as long as they take; without that they take 300 ms more.
  expect(told.afterBlockMs).toBeLessThan(150)
  expect(told.forgotten).toBe(0)
  expect(told.exitMs).toBeLessThan(3000)
}, 60_000)

test('what goes wrong in a worker is an error of the node, and a worker that ends or is stuck is started again', async () => {
  interface Said {
    text: string
    count: number
    isMainThread: boolean
    threadId: number
    aborted: boolean
  }
  const told = await scenario<Record<string, Said & string> & { warnings: string[] }>('errors')
  expect(told.hello).toMatchObject({ text: 'hello', isMainThread: false })
  expect(told.thrown).toMatch(/^ERR_NODE: node "n" failed: my own fault/)
  expect(told.afterThrow).toMatchObject({ threadId: told.hello!.threadId })
  expect(told.never).toMatch(/did not answer within 400 ms/)
  expect(told.afterNever).toMatchObject({ threadId: told.hello!.threadId, aborted: true })
  expect(told.stray).toMatch(/ended: a stray throw/)
  expect(told.exit).toMatch(/ended: it ended/)
  expect(told.stuck).toMatch(/did not answer within 400 ms/)
  const threads = [told.hello, told.after_stray, told.after_exit, told.after_stuck].map(
    (said) => said!.threadId,
  )
  expect(threads.every((id) => typeof id === 'number')).toBe(true)
  expect(new Set(threads).size).toBe(4)
  expect(told.warnings.filter((warning) => warning.startsWith('RemoteMediaWorkerWarning'))).toHaveLength(3)
  expect(told.warnings.join()).toMatch(/stuck/)
}, 60_000)

test('a module that is not there, or exports no such node, fails the calls and says so', async () => {
  const told = await scenario<Record<string, string>>('missing')
  expect(told.Missing).toMatch(/^ERR_NODE: .*nowhere\.mjs/)
  expect(told.NotExported).toMatch(/exports no node of type 'NotExported'/)
}, 60_000)

test('in a session each peer has its own state, in the worker too', async () => {
  const lab = await new Lab().open()
  const told = await scenario<{
    counts: { peerId: string; count: number }[]
    stats: { itemsIn: number; itemsOut: number; errors: number }
  }>('session', lab.server.url)
  expect(told.counts.map(({ peerId, count }) => [peerId, count])).toEqual([
    ['ann', 1],
    ['bob', 1],
    ['ann', 2],
  ])
  expect(told.stats).toMatchObject({ itemsIn: 3, itemsOut: 3, errors: 0 })
  await lab.close()
}, 60_000)

test('a definition says where its worker finds it', () => {
  const ports = { inputs: { in: 'text' }, outputs: { out: 'text' } } as const
  const process = () => undefined
  const define = (more: object) => () => defineNode({ type: 'X', ...ports, process, ...more } as never)
  const refused = (field: string) =>
    expect.objectContaining({ code: 'ERR_CONFIG', message: expect.stringContaining(field) })
  expect(define({ worker: true })).toThrow(refused('node.module'))
  expect(define({ worker: 'not a url' })).toThrow(refused('node.worker'))
  expect(define({ worker: 1 })).toThrow(refused('node.worker'))
  expect(define({ module: 'file:///x.mjs' })).toThrow(refused('node.module'))
  expect(define({ process: undefined })).toThrow(refused('node.process'))
  expect(define({ worker: true, module: 'file:///x.mjs', process: undefined })).toThrow(
    refused('node.process'),
  )
  expect(define({ worker: '/absolute/x.mjs', process: undefined })()).toMatchObject({ type: 'X' })
  const runner = new PipelineRunner()
  runner.close()
  expect(() => runner.register({ type: 'X', ...ports, process })).toThrow(
    expect.objectContaining({ code: 'ERR_CLOSED' }),
  )
})
