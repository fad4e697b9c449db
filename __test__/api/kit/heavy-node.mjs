// Nodes that run in worker threads. Imported by the process that registers them, and by their threads.
import { isMainThread, threadId } from 'node:worker_threads'
import { defineNode, VideoFrame } from '../../../dist/index.js'

const burn = (ms) => {
  const until = performance.now() + ms
  while (performance.now() < until);
}

export const invert = defineNode({
  type: 'HeavyInvert',
  inputs: { in: 'video' },
  outputs: { out: 'video' },
  params: { ms: 0 },
  worker: true,
  module: import.meta.url,
  process(frame, { params, state }) {
    burn(params.ms)
    state.count = (state.count ?? 0) + 1
    const data = new Uint8Array(frame.allocationSize())
    frame.copyTo(data)
    for (let i = 0; i < frame.width * frame.height; i++) data[i] = 255 - data[i]
    const { width, height, timestampUs } = frame
    return VideoFrame.from(data, { format: 'I420', width, height, timestampUs })
  },
})

export const tell = defineNode({
  type: 'Tell',
  inputs: { in: 'text' },
  outputs: { out: 'json' },
  worker: true,
  module: import.meta.url,
  async process({ text }, { state, peerId, signal }) {
    state.count = (state.count ?? 0) + 1
    if (text === 'throw') throw new Error('my own fault')
    if (text === 'stray') {
      setTimeout(() => {
        throw new Error('a stray throw')
      })
      await new Promise(() => {})
    }
    if (text === 'exit') process.exit(3)
    if (text === 'stuck') for (;;);
    if (text === 'never') {
      await new Promise((resolve) => signal.addEventListener('abort', resolve))
      globalThis.aborted = true
    }
    const { count } = state
    return {
      kind: 'json',
      value: { text, count, peerId, isMainThread, threadId, aborted: globalThis.aborted ?? false },
    }
  },
})
