/** Chromium to Chromium with the instruments of `meter.ts`: the same pictures, the same sound, the same paths. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Page } from 'playwright-core'
import { type Chromium, launchChromium } from '../../interop/chromium.js'
import type { Host } from './lab.js'
import type { Came, Judged, Look, Picture } from './meter.js'
import { now, ROOT } from './system.js'

// The names that the page's script leaves behind.
declare const makeScene: (
  width: number,
  height: number,
  noise: number,
) => {
  picture(number: number): Uint8Array
  judge(
    number: number,
    luma: Uint8Array,
    stride: number,
    width: number,
    height: number,
  ): { psnr: number; ssim: number }
}
declare const readStamp: (luma: Uint8Array, stride: number, width: number) => number | null
// biome-ignore lint/suspicious/noExplicitAny: of Chromium alone, not in lib.dom
declare const MediaStreamTrackGenerator: any, MediaStreamTrackProcessor: any

interface Meters {
  pc: RTCPeerConnection
  pictures: Picture[]
  looks: Look[]
  stats: Record<string, unknown>[]
}
declare const meters: Meters

export interface ChromiumStats {
  sender: Record<string, unknown>[]
  receiver: Record<string, unknown>[]
}

/** Two browsers that send one way, from `near` to `far`. */
export class ChromiumCall {
  readonly #browsers: Chromium[]
  /** The page's clock and ours, by page: ours less the page's. */
  readonly #offsets: number[] = []

  static async open(near: Host, far: Host, judged: Judged, maxBitrateBps: number): Promise<ChromiumCall> {
    const browsers: Chromium[] = []
    const pages: Page[] = []
    for (const host of [near, far]) {
      const browser = await launchChromium({
        netns: host.space.name,
        disableFeatures: ['LocalNetworkAccessChecks', 'LocalNetworkAccessChecksWebSockets'],
      })
      browsers.push(browser)
      pages.push(await browser.newPage())
    }
    const call = new ChromiumCall(browsers, pages)
    const scene = readFileSync(join(ROOT, 'bench', 'lib', 'judged.mjs'), 'utf8').replaceAll(/^export /gm, '')
    for (const page of pages) {
      await page.addScriptTag({ content: `${scene}\nObject.assign(window, { makeScene, readStamp })` })
      const before = now()
      const there = await page.evaluate(() => performance.now())
      call.#offsets.push((before + now()) / 2 - there)
    }
    await call.#connect(judged, maxBitrateBps)
    return call
  }

  private constructor(
    browsers: Chromium[],
    readonly pages: Page[],
  ) {
    this.#browsers = browsers
  }

  /** Begins to send. */
  async start(): Promise<void> {
    await this.pages[0]!.evaluate(() => (window as unknown as { begin(): void }).begin())
  }

  async received(): Promise<{ came: Came; looks: Look[] }> {
    const { pictures, looks } = await this.#of(1)
    return { came: { pictures, sound: [], clicks: [], data: [] }, looks }
  }

  async sent(): Promise<Look[]> {
    return (await this.#of(0)).looks
  }

  /** getStats() of both, as it is now. */
  async stats(): Promise<ChromiumStats> {
    const of = (page: Page) =>
      page.evaluate(async () => [...((await meters.pc.getStats()) as unknown as Map<string, never>).values()])
    return { sender: await of(this.pages[0]!), receiver: await of(this.pages[1]!) }
  }

  async close(): Promise<void> {
    await Promise.all(this.#browsers.map((browser) => browser.close()))
  }

  async #of(index: number): Promise<{ pictures: Picture[]; looks: Look[] }> {
    const { pictures, looks } = await this.pages[index]!.evaluate(() => ({
      pictures: meters.pictures,
      looks: meters.looks,
    }))
    const offset = this.#offsets[index]!
    return {
      pictures: pictures.map(([at, ...more]) => [at + offset, ...more] as Picture),
      looks: looks.map((look) => ({ ...look, at: look.at + offset })),
    }
  }

  async #connect({ width, height, noise }: Judged, maxBitrateBps: number): Promise<void> {
    const [sender, receiver] = this.pages as [Page, Page]
    for (const page of this.pages) await page.evaluate(prepare)
    const bytes = readFileSync(join(ROOT, 'crates', 'pipeline', 'tests', 'data', 'speech_16k.s16'))
    const speech = [...new Int16Array(bytes.buffer, bytes.byteOffset, bytes.length >> 1)]
    const offer = await sender.evaluate(openSender, { width, height, noise, maxBitrateBps, speech })
    const answer = await receiver.evaluate(openReceiver, { offer, width, height, noise })
    await sender.evaluate((sdp) => meters.pc.setRemoteDescription({ type: 'answer', sdp }), answer)
    await sender.waitForFunction(() => meters.pc.connectionState === 'connected')
  }
}

// What follows runs in the pages: each function stands by itself.

function prepare(): void {
  const pc = new RTCPeerConnection()
  const pictures: Picture[] = []
  const looks: Look[] = []
  Object.assign(window, { meters: { pc, pictures, looks, stats: [] } })
  setInterval(async () => {
    // biome-ignore lint/suspicious/noExplicitAny: lib.dom types getStats' entries so
    const all: any[] = [...((await pc.getStats()) as unknown as Map<string, unknown>).values()]
    const of = (type: string, kind?: string) =>
      all.find((s) => s.type === type && (kind === undefined || s.kind === kind)) ?? {}
    const path = all.find(({ id }) => id === of('transport').selectedCandidatePairId) ?? {}
    looks.push({
      at: performance.now(),
      estimate: path.availableOutgoingBitrate ?? null,
      sent: path.bytesSent,
      received: path.bytesReceived,
      videoSent: of('outbound-rtp', 'video').bytesSent,
      videoReceived: of('inbound-rtp', 'video').bytesReceived,
      samples: of('inbound-rtp', 'audio').totalSamplesReceived,
      concealed: of('inbound-rtp', 'audio').concealedSamples,
    })
  }, 100)
}

async function openSender({
  width,
  height,
  noise,
  maxBitrateBps,
  speech,
}: Judged & { maxBitrateBps: number; speech: number[] }): Promise<string> {
  const { pc } = meters
  const scene = makeScene(width, height, noise)
  const generator = new MediaStreamTrackGenerator({ kind: 'video' })
  const writer = generator.writable.getWriter()
  const context = new AudioContext({ sampleRate: 48_000 })
  const destination = context.createMediaStreamDestination()
  const voice = new AudioBuffer({ length: speech.length, sampleRate: 16_000 })
  voice.copyToChannel(
    Float32Array.from(speech, (sample) => sample / 32_768),
    0,
  )
  const source = new AudioBufferSourceNode(context, { buffer: voice, loop: true })
  source.connect(destination)
  await context.resume()
  pc.addTrack(destination.stream.getAudioTracks()[0]!)
  const transceiver = pc.addTransceiver(generator as MediaStreamTrack, {
    direction: 'sendonly',
    sendEncodings: [{ maxBitrate: maxBitrateBps }],
  })
  const { codecs } = RTCRtpSender.getCapabilities('video')!
  const wanted = codecs.filter(
    ({ mimeType, sdpFmtpLine }) => /VP9/.test(mimeType) && /profile-id=0/.test(sdpFmtpLine ?? ''),
  )
  const rtx = codecs.filter(({ mimeType }) => /rtx/.test(mimeType))
  transceiver.setCodecPreferences([...wanted, ...rtx])
  const begin = () => {
    source.start()
    const start = performance.now()
    let n = 0
    const tick = () => {
      while (performance.now() >= start + (n * 1000) / 30) {
        const timestamp = Math.round((n * 1e6) / 30)
        const frame = new VideoFrame(scene.picture(n % 4096), {
          format: 'I420',
          codedWidth: width,
          codedHeight: height,
          timestamp,
        })
        n++
        writer.write(frame)
      }
      setTimeout(tick, Math.max(1, start + (n * 1000) / 30 - performance.now()))
    }
    tick()
  }
  Object.assign(window, { begin })
  await pc.setLocalDescription()
  await new Promise<void>((resolve) => {
    if (pc.iceGatheringState === 'complete') resolve()
    pc.onicegatheringstatechange = () => pc.iceGatheringState === 'complete' && resolve()
  })
  return pc.localDescription!.sdp
}

async function openReceiver({ offer, width, height, noise }: Judged & { offer: string }): Promise<string> {
  const { pc, pictures } = meters
  const scene = makeScene(width, height, noise)
  pc.ontrack = async ({ track }) => {
    if (track.kind === 'audio') {
      // It is only decoded where something plays it.
      const element = new Audio()
      element.muted = true
      element.srcObject = new MediaStream([track])
      await element.play()
      return
    }
    const reader = new MediaStreamTrackProcessor({ track }).readable.getReader()
    let judgements = 0
    for (;;) {
      const { value, done } = (await reader.read()) as { value: VideoFrame; done: boolean }
      if (done) return
      const at = performance.now()
      const { codedWidth, codedHeight } = value
      const bytes = new Uint8Array(value.allocationSize())
      const [layout] = await value.copyTo(bytes)
      value.close()
      const luma = bytes.subarray(layout!.offset)
      const number = readStamp(luma, layout!.stride, codedWidth)
      const picture: Picture = [at, number, codedWidth, codedHeight]
      if (number !== null && judgements++ % 6 === 0) {
        const { psnr, ssim } = scene.judge(number, luma, layout!.stride, codedWidth, codedHeight)
        picture.push(psnr, ssim)
      }
      pictures.push(picture)
    }
  }
  await pc.setRemoteDescription({ type: 'offer', sdp: offer })
  await pc.setLocalDescription()
  await new Promise<void>((resolve) => {
    if (pc.iceGatheringState === 'complete') resolve()
    pc.onicegatheringstatechange = () => pc.iceGatheringState === 'complete' && resolve()
  })
  return pc.localDescription!.sdp
}
