import { readFileSync } from 'node:fs'
import { join as path } from 'node:path'
import type { AudioData, SessionOutput } from '@remotemedia/webrtc'
import { every, Lab, next } from './support.js'

/** A sentence at 16 kHz (see the README beside it), with a second of silence before and behind, in pieces of 20 ms. */
function sentence(): AudioData[] {
  const file = readFileSync(path(__dirname, '../../crates/pipeline/tests/data/speech_16k.s16'))
  const sound = new Float32Array(16_000 + 46_389 + 16_000)
  for (let i = 0; i < 46_389; i++) sound[16_000 + i] = file.readInt16LE(2 * i) / 32_768
  return Array.from({ length: Math.floor(sound.length / 320) }, (_, n) => ({
    kind: 'audio',
    samples: sound.slice(320 * n, 320 * (n + 1)),
    sampleRate: 16_000,
    channels: 1,
  }))
}

test('speech in a call is told by its start and its end: to JavaScript, and to the one who spoke', async () => {
  const lab = await new Lab().open()
  const [alice, bob] = await lab.pair()
  // By the names of the existing ecosystem.
  await using session = await bob.stream(`
version: v1
nodes:
  - { id: resample, nodeType: FastResampleNode, params: { targetRate: 16000 } }
  - { id: vad, nodeType: SileroVADNode, params: { minSilenceDurationMs: 500 } }
connections: [{ from: resample, to: vad }]
`)
  const outputs: SessionOutput[] = []
  session.onOutput('vad.events', (output) => outputs.push(output))
  session.route({ from: '*', track: 'audio', through: 'vad.events', to: 'sender' })
  const told: unknown[] = []
  alice.on('data', ({ data: { data } }) => data.kind === 'json' && told.push(data.value))

  const pieces = sentence()
  const silence = new Float32Array(320)
  const voice = every(20, (n) =>
    alice
      .sendToPeer('bob', pieces[n] ?? { kind: 'audio', samples: silence, sampleRate: 16_000, channels: 1 })
      .catch(() => {}),
  )
  await next(alice, 'data', () => told.length >= 2)
  voice.stop()
  const events = outputs.map(({ data: { data } }) => data.kind === 'json' && data.value) as {
    type: string
    atUs: number
    durationMs?: number
  }[]
  expect(told).toEqual(events)
  expect(outputs.map(({ peerId }) => peerId)).toEqual(['alice', 'alice'])
  expect(events.map(({ type }) => type)).toEqual(['speechStart', 'speechEnd'])
  const [start, end] = events as [(typeof events)[0], (typeof events)[0]]
  // The sentence is 2.9 s long; each end is found within 200 ms.
  expect(Math.abs(end.durationMs! - 2900)).toBeLessThan(400)
  expect(Math.abs(end.atUs - start.atUs - 1000 * end.durationMs!)).toBeLessThan(100)
  expect(outputs.map(({ data }) => data.timestampUs)).toEqual([start.atUs, end.atUs])
  await lab.close()
}, 40_000)
