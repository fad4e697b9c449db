// A conference: everybody connects to the mixer only, and hears all the others and not itself.
//
//   npx remotemedia-webrtc signaling --port 8080
//   npm run example -- conference-mixer ws://127.0.0.1:8080 conference

import { pathToFileURL } from 'node:url'
import { WebRtcTransport } from '@remotemedia/webrtc'

/** Who speaks now, and who did before; null: nobody. */
export interface ActiveSpeaker {
  event: 'activeSpeaker'
  main: string | null
  before: string | null
}

export async function conferenceMixer(options: {
  signalingUrl: string
  room?: string
  onSpeaker?: (speaker: ActiveSpeaker) => void
}): Promise<WebRtcTransport> {
  // Join the room: whoever is there, and whoever comes later, is connected to
  const { signalingUrl, room = 'conference', onSpeaker } = options
  const transport = await WebRtcTransport.create({ signalingUrl, room, peerId: 'mixer', maxPeers: 32 })

  // One mixer that all participants share. It gives out sound every 20 ms and waits for nobody
  const session = await transport.stream({
    version: 'v1',
    nodes: [{ id: 'mix', node_type: 'ConferenceMixer', params: { max_active: 5 } }],
  })

  // Every voice into the mixer, and to each listener its own mix: from here on no sound passes through JavaScript
  session.route({ from: '*', track: 'audio', through: 'mix.out', to: 'all' })

  // Who speaks: for us, and as a message for everybody
  session.onOutput('mix.events', ({ data: { data } }) => {
    if (data.kind === 'json') onSpeaker?.(data.value as ActiveSpeaker)
  })
  session.route({ from: '*', track: 'audio', through: 'mix.events', to: 'all' })

  // While it runs, somebody can be turned down or muted for all the others:
  //   session.setParam('mix', 'gain_db', -6, { peerId: 'ann' })
  //   session.setParam('mix', 'muted', true, { peerId: 'bob' })

  return transport
}

async function main(): Promise<void> {
  const [signalingUrl = 'ws://127.0.0.1:8080', room = 'conference'] = process.argv.slice(2)
  const onSpeaker = ({ main }: ActiveSpeaker) => console.log(main === null ? 'silence' : `${main} speaks`)
  const mixer = await conferenceMixer({ signalingUrl, room, onSpeaker })
  console.log(`mixing in room '${room}' at ${signalingUrl}; Ctrl+C ends it`)
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void mixer.close())
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) void main()
