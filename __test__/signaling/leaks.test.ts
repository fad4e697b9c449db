import { SignalingClient } from '../../src-ts/signaling/client.js'
import { SignalingServer } from '../../src-ts/signaling/server.js'
import { leakedHandles, liveHandles, RawPeer } from './support.js'

test('100 times connect and close, and a crowd, leave no socket and no timer', async () => {
  const before = liveHandles()
  const server = await SignalingServer.listen({ port: 0 })
  for (let i = 0; i < 100; i++) {
    const client = await SignalingClient.connect({ url: server.url, peerId: 'a' })
    await client.close()
  }
  const crowd = await Promise.all(
    Array.from({ length: 50 }, () => SignalingClient.connect({ url: server.url })),
  )
  expect(server.stats().peers).toBe(50)
  await Promise.all(crowd.map((client) => client.close()))
  const rude = await Promise.all(
    Array.from({ length: 20 }, (_, i) => RawPeer.announced(server.url, `rude-${i}`)),
  )
  for (const peer of rude) peer.ws.terminate()
  const neverAnnounced = await RawPeer.open(server.url)
  await server.close()
  await neverAnnounced.closed
  expect(server.stats()).toMatchObject({ connectionsTotal: 171, connections: 0 })
  expect(await leakedHandles(before)).toEqual([])
})

test('a server that could not listen, and a client that could not connect, leave nothing', async () => {
  const before = liveHandles()
  const server = await SignalingServer.listen({ port: 0 })
  await expect(SignalingServer.listen({ port: server.port })).rejects.toMatchObject({ code: 'ERR_SIGNALING' })
  await expect(SignalingClient.connect({ url: server.url, token: 'x'.repeat(70_000) })).rejects.toMatchObject(
    {
      code: 'ERR_MESSAGE_TOO_LARGE',
    },
  )
  const { url } = server
  await server.close()
  await expect(SignalingClient.connect({ url })).rejects.toMatchObject({ code: 'ERR_SIGNALING' })
  expect(await leakedHandles(before)).toEqual([])
})

test('the check above does see a leak', async () => {
  const before = liveHandles()
  const server = await SignalingServer.listen({ port: 0 })
  const client = await SignalingClient.connect({ url: server.url })
  expect(await leakedHandles(before)).toEqual(
    expect.arrayContaining(['TCPServerWrap', 'TCPSocketWrap', 'TCPSocketWrap']),
  )
  await client.close()
  await server.close()
})
