import type { DataChannel, TransportData, Undelivered } from '@remotemedia/webrtc'
import { Lab, next } from './support.js'

// What is said of messages whose connection ended under them.

jest.setTimeout(30_000)

const SIZE = 20_000

const numbered = (n: number) => {
  const data = new Uint8Array(SIZE)
  new DataView(data.buffer).setUint32(0, n)
  return data
}

const numberOf = ({ data }: TransportData) =>
  data.kind === 'binary' ? new DataView(data.data.buffer, data.data.byteOffset).getUint32(0) : -1

describe('messages of a connection that ended', () => {
  let lab: Lab
  beforeEach(async () => {
    lab = await new Lab().open()
  })
  afterEach(() => lab.close())

  test('are each told as acknowledged, unknown or unsent, on the built-in channel and on further ones', async () => {
    const alice = await lab.join('alice', {})
    const bob = await lab.join('bob', {})
    await alice.connectPeer('bob')
    const opened = next(bob, 'channel')
    const files: DataChannel = await alice.openChannel('bob', 'files')
    await opened
    const got: number[] = []
    const enough = new Promise<void>((resolve) => {
      bob.on('data', ({ data }) => {
        if (got.push(numberOf(data)) === 200) resolve()
      })
    })
    const told: Undelivered[] = []
    alice.on('undelivered', (event) => told.push(event))
    // Those that wait for room are taken already, and told of too.
    const sends: Promise<void>[] = []
    for (let n = 0; n < 1500; n++) {
      sends.push(alice.sendToPeer('bob', { kind: 'binary', data: numbered(n) }))
      sends.push(files.send(numbered(n)))
    }
    const settled = Promise.allSettled(sends)
    await enough
    await bob.close()
    await settled
    while (told.length < 2) await new Promise((resolve) => setTimeout(resolve, 10))
    expect(told.map(({ peerId }) => peerId)).toEqual(['bob', 'bob'])
    expect(new Set(told.map(({ channel }) => channel))).toEqual(new Set([undefined, files]))
    for (const { acknowledged, unknown, unsent } of told) {
      const rest = [...unknown, ...unsent].map(numberOf)
      expect(rest).toEqual(Array.from({ length: 1500 - acknowledged }, (_, n) => acknowledged + n))
      expect(unsent.length).toBeGreaterThan(0)
    }
    const builtIn = told.find(({ channel }) => channel === undefined)!
    expect(got.slice(0, builtIn.acknowledged)).toEqual(
      Array.from({ length: builtIn.acknowledged }, (_, n) => n),
    )
    expect(got.length).toBeLessThanOrEqual(builtIn.acknowledged + builtIn.unknown.length)
    await alice.close()
  })
})
