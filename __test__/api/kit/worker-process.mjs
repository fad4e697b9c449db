// A process with nodes in worker threads: node worker-process.mjs SCENARIO. What it finds out goes to its parent.
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { defineNode, Manifest, PipelineRunner, VideoFrame, WebRtcTransport } from '../../../dist/index.js'
import { invert, tell } from './heavy-node.mjs'

const warnings = []
process.on('warning', (warning) => warnings.push(`${warning.name}: ${warning.message}`))
const runner = new PipelineRunner()
const one = (node_type, more = {}) =>
  Manifest.parse({ version: 'v1', nodes: [{ id: 'n', node_type, ...more }] })
const text = (text) => ({ kind: 'text', text })
const outcome = (promise) =>
  promise.then(
    (data) => data?.data.value ?? data,
    (error) => `${error.code}: ${error.message}`,
  )
const burn = (ms) => {
  const until = performance.now() + ms
  while (performance.now() < until);
}

function grey(level, timestampUs) {
  const data = new Uint8Array(64 * 48 * 1.5).fill(128)
  data.fill(level, 0, 64 * 48)
  return VideoFrame.from(data, { format: 'I420', width: 64, height: 48, timestampUs })
}

const scenarios = {
  /** The main thread is free while the worker computes, and the worker while the main thread does. */
  async free() {
    runner.register(invert)
    const heavy = one('HeavyInvert', { params: { ms: 60 }, deadline_ms: 10_000 })
    const run = async (level, timestampUs) => {
      const frame = grey(level, timestampUs)
      const out = await runner.executeUnary(heavy, { kind: 'video', frame })
      frame.close()
      const result = out.data.frame
      const told = [result.planes[0].data[1000], result.timestampUs, result.width]
      result.close()
      return told
    }
    const first = await run(50, 7)
    const delay = monitorEventLoopDelay({ resolution: 2 })
    delay.enable()
    const since = performance.now()
    const results = await Promise.all(Array.from({ length: 10 }, (_, n) => run(n, n)))
    const took = performance.now() - since
    delay.disable()
    const others = Array.from({ length: 5 }, (_, n) => run(n, n))
    await new Promise((resolve) => setImmediate(resolve))
    const blocked = performance.now()
    burn(took)
    await Promise.all(others)
    return {
      first,
      results,
      took,
      longestMs: delay.max / 1e6,
      afterBlockMs: performance.now() - blocked - took,
      forgotten: VideoFrame.forgotten,
    }
  },

  async errors() {
    runner.register(tell)
    // A thread takes its time to start on a busy machine: only what never answers is given up soon.
    const [patient, hasty] = [30_000, 400].map((deadline_ms) => one('Tell', { deadline_ms }))
    const say = (words) => {
      const manifest = words === 'never' || words === 'stuck' ? hasty : patient
      return outcome(runner.executeUnary(manifest, text(words)))
    }
    const told = { hello: await say('hello'), thrown: await say('throw') }
    told.afterThrow = await say('again')
    told.never = await say('never')
    // The thread hears of it when it has a turn, which the next call may come before.
    for (let n = 0; n < 40 && !told.afterNever?.aborted; n++) told.afterNever = await say('again')
    for (const words of ['stray', 'exit', 'stuck']) {
      told[words] = await say(words)
      // It is started again, if it has to be within a while: calls that come too early wait, or pass their deadline.
      for (let n = 0; n < 40; n++) {
        told[`after_${words}`] = await say('again')
        if (typeof told[`after_${words}`] !== 'string') break
      }
    }
    return { ...told, warnings }
  },

  async missing() {
    runner.register(
      defineNode({
        type: 'Missing',
        inputs: { in: 'text' },
        outputs: { out: 'text' },
        worker: new URL('./nowhere.mjs', import.meta.url),
      }),
    )
    runner.register({ ...tell, type: 'NotExported' })
    const told = {}
    for (const type of ['Missing', 'NotExported']) {
      told[type] = await outcome(runner.executeUnary(one(type, { deadline_ms: 5000 }), text('x')))
    }
    return { ...told, warnings }
  },

  /** In a session: state lasts, is the peer's own, and the worker is told of the peer. */
  async session(url) {
    const transport = await WebRtcTransport.create({ signalingUrl: url, peerId: 'host' })
    transport.runner.register(tell)
    const session = await transport.stream(one('Tell'))
    const counts = []
    for (const peerId of ['ann', 'bob', 'ann'])
      counts.push(await outcome(session.execute(text('x'), { peerId })))
    const [stats] = session.stats().nodes
    await transport.close()
    return { counts, stats }
  },
}

const [name, ...rest] = process.argv.slice(2)
process.send(await scenarios[name](...rest))
process.disconnect()
// Neither the runner nor its threads keep the process.
if (name !== 'free') runner.close()
