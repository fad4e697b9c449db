import { Sources } from './media.js'
import type { PeerOptions, ToneReading } from './protocol.js'

export interface ServerCall {
  /** The result of the request that the offer was. */
  answer: RTCSessionDescriptionInit & { from: string; to: string }
  reading: ToneReading
  /** The methods of notifications that came. */
  told: string[]
  /** The first message of the server's. */
  text: string
  state: RTCPeerConnectionState
}

/** A client of its own, without this package: raw JSON-RPC, one offer with all its candidates, no notification looked at. */
export async function callServer(url: string): Promise<ServerCall> {
  const ws = new WebSocket(`${url}/ws`)
  const told: string[] = []
  const waiting = new Map<string, (message: { result?: never; error?: unknown }) => void>()
  ws.onmessage = ({ data }) => {
    const message = JSON.parse(data as string)
    if (message.method) told.push(message.method as string)
    else waiting.get(message.id as string)?.(message)
  }
  const call = (id: string, method: string, params: object) =>
    new Promise<never>((resolve, reject) => {
      waiting.set(id, ({ result, error }) =>
        error ? reject(new Error(JSON.stringify(error))) : resolve(result!),
      )
      ws.send(JSON.stringify({ jsonrpc: '2.0', id, method, params }))
    })
  await new Promise((resolve) => {
    ws.onopen = resolve
  })
  const sources = new Sources()
  await sources.open({ audio: { toneHz: 700, amplitude: 0.5 } } as PeerOptions)
  const pc = new RTCPeerConnection()
  for (const track of sources.stream.getTracks()) pc.addTrack(track, sources.stream)
  const chat = pc.createDataChannel('data')
  const heard = new Promise<MediaStreamTrack>((resolve) => {
    pc.ontrack = ({ track }) => resolve(track)
  })
  const said = new Promise<string>((resolve) => {
    chat.onmessage = ({ data }) => resolve(data as string)
  })
  chat.onopen = () => chat.send('hello')
  await pc.setLocalDescription()
  while (pc.iceGatheringState !== 'complete') await new Promise((resolve) => setTimeout(resolve, 10))
  const announced = call('announce-1', 'peer.announce', {
    peer_id: 'web-client',
    capabilities: ['audio', 'data'],
    user_data: null,
  })
  const answer: ServerCall['answer'] = await call('offer-2', 'peer.offer', {
    from: 'web-client',
    to: 'remotemedia-server',
    sdp: pc.localDescription!.sdp,
    can_trickle_ice_candidates: false,
  })
  await announced
  await pc.setRemoteDescription({ type: answer.type, sdp: answer.sdp! })
  const reading = await sources.measureTone(await heard, 1500)
  return { answer, reading, told, text: await said, state: pc.connectionState }
}
