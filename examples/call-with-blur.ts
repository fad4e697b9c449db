// A call with one peer: its video comes in, the background is blurred, and the result goes back to it.
//
//   npx remotemedia-webrtc signaling --port 8080
//   node examples/call-with-blur.ts ws://127.0.0.1:8080 peer-remote      (Node 22.18 or later runs TypeScript as it is)

import { pathToFileURL } from 'node:url'
import { Manifest, type RuntimeData, WebRtcTransport } from '@remotemedia/webrtc'

export async function callWithBlur(
  options: { signalingUrl: string; remote: string; manifest: string | URL },
  signal?: AbortSignal,
): Promise<{ processed: number }> {
  // Configure the transport
  const transport = await WebRtcTransport.create({ signalingUrl: options.signalingUrl, peerId: 'blur' })

  // Load the pipeline
  const manifest = await Manifest.fromFile(options.manifest)

  // Create a session
  const session = await transport.stream(manifest)
  signal?.addEventListener('abort', () => void session.close(), { once: true })

  // Connect to the peer
  await transport.connectPeer(options.remote, { timeoutMs: 30_000 })

  // Receive video from the peer, process it, send it back
  let processed = 0
  for (let input = await session.recvFromAny({ kind: 'video' }); input; ) {
    const output = await session.execute(input.data, { peerId: input.peerId })
    closeFrame(input.data.data)
    if (output) {
      await session.sendToPeer(input.peerId, output)
      closeFrame(output.data)
      processed++
    }
    input = await session.recvFromAny({ kind: 'video' })
  }

  await transport.close()
  return { processed }
}

function closeFrame(data: RuntimeData): void {
  if (data.kind === 'video') data.frame.close()
}

async function main(): Promise<void> {
  const [signalingUrl = 'ws://127.0.0.1:8080', remote = 'peer-remote'] = process.argv.slice(2)
  const ended = new AbortController()
  process.once('SIGINT', () => ended.abort())
  process.once('SIGTERM', () => ended.abort())
  console.log(`waiting for ${remote} at ${signalingUrl}; Ctrl+C ends the call`)
  const manifest = new URL('blur.yaml', import.meta.url)
  const { processed } = await callWithBlur({ signalingUrl, remote, manifest }, ended.signal)
  console.log(`${processed} pictures processed`)
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) void main()
