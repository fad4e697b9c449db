// Drives the page in a real Chromium with a fake camera and microphone, and judges what came back.

import { existsSync } from 'node:fs'

const CONNECT_TIMEOUT_MS = 20_000
const DATA_TIMEOUT_MS = 5000
const MESSAGES_OF_EACH_KIND = 10

const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--use-fake-device-for-media-stream',
  '--use-fake-ui-for-media-stream',
  '--disable-features=WebRtcHideLocalIpsWithMdns',
  '--allow-loopback-in-peer-connection',
  '--autoplay-policy=no-user-gesture-required',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

/**
 * Calls for `seconds` and resolves with the result: `ok`, `problems` (empty when ok) and the figures.
 * @param {{url: string, seconds: number, codec?: string, source?: string, screenshot?: string, signal?: AbortSignal,
 *   nodeCounters: (peerId: string) => Promise<object>}} options
 */
export async function callHeadless({
  url,
  seconds,
  codec,
  source = 'camera',
  screenshot,
  signal,
  nodeCounters,
}) {
  const browser = await launch()
  const stop = () => browser.close()
  signal?.addEventListener('abort', stop, { once: true })
  try {
    const page = await browser.newPage({ viewport: { width: 1280, height: 800 } })
    const pageErrors = []
    page.on('pageerror', (error) => pageErrors.push(error.message))
    const query = new URLSearchParams({ stamp: '1', source, ...(codec ? { codec } : {}) })
    await page.goto(`${url}?${query}`)
    await page.getByRole('button', { name: 'Start the call' }).click()
    // Chromium counts the energy of a voice after the volume: muted is silent.
    await page.getByRole('button', { name: 'Hear your voice' }).click()
    // What is not reached in that time is told by the report below.
    await reachCall(page)
    const connected = await page.evaluate(() => window.demo.report())
    if (connected?.connectionState === 'connected') {
      await page.waitForTimeout((seconds * 1000) / 2)
      await page
        .evaluate(([n, ms]) => window.demo.exerciseData(n, ms), [MESSAGES_OF_EACH_KIND, DATA_TIMEOUT_MS])
        .catch((error) => pageErrors.push(error.message))
    }
    const halfway = await page.evaluate(() => window.demo.report())
    if (connected?.connectionState === 'connected') await page.waitForTimeout((seconds * 1000) / 2)
    const report = await page.evaluate(() => window.demo.report())
    const shown = await page.locator('#problem:visible').allInnerTexts()
    if (screenshot) await page.screenshot({ path: screenshot })
    const node = report?.peerId ? await nodeCounters(report.peerId).catch(() => null) : null
    await page.evaluate(() => window.demo.leave())
    return judge({ seconds, report, halfway, node, pageErrors: [...pageErrors, ...shown] })
  } finally {
    signal?.removeEventListener('abort', stop)
    await browser.close()
  }
}

/** Waits for the connection, the first returned picture and the first message. */
async function reachCall(page) {
  const deadline = performance.now() + CONNECT_TIMEOUT_MS
  while (performance.now() < deadline) {
    const report = await page.evaluate(() => window.demo.report())
    if (report?.connectionState === 'connected' && report.firstFrameMs !== null && report.data.sent?.json > 0)
      return
    await page.waitForTimeout(100)
  }
}

async function launch() {
  const { chromium } = await import('playwright-core')
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium'
  if (!existsSync(executablePath)) {
    throw new Error(
      `no Chromium at ${executablePath}: install it, or name another with CHROMIUM=/path/to/chromium`,
    )
  }
  // Each launch has a profile of its own, which goes away with the browser. Signals are ours to handle.
  return chromium.launch({
    executablePath,
    args: FLAGS,
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
  })
}

function judge({ seconds, report, halfway, node, pageErrors }) {
  const sent = report?.video?.sent
  const back = report?.video?.received
  const voiceSent = report?.audio?.sent
  const voiceBack = report?.audio?.received
  const data = report?.data
  const total = (counts) => (counts ? counts.text + counts.json + counts.binary : 0)
  const energy = (r) => r?.audio?.received?.totalAudioEnergy ?? 0
  const round = (value, digits = 1) => (typeof value === 'number' ? Number(value.toFixed(digits)) : null)
  const result = {
    ok: false,
    problems: [],
    seconds,
    connectionState: report?.connectionState ?? 'new',
    path: report?.path ?? null,
    connectMs: round(report?.connectMs, 0),
    firstFrameMs: round(report?.firstFrameMs, 0),
    video: {
      codecSent: sent?.codec ?? null,
      codecReturned: back?.codec ?? null,
      resolution: back ? `${back.width}x${back.height}` : null,
      captured: report?.framesStamped ?? 0,
      sent: sent?.frames ?? 0,
      receivedByNode: node?.videoIn ?? 0,
      processed: node?.videoOut ?? 0,
      decodedInPage: back?.frames ?? 0,
      shownInPage: report?.framesShown ?? 0,
      droppedInPage: back?.framesDropped ?? 0,
      freezes: back?.freezeCount ?? 0,
      packetsLostUp: sent?.packetsLost ?? 0,
      packetsLostDown: back?.packetsLost ?? 0,
    },
    audio: {
      codecSent: voiceSent?.codec ?? null,
      codecReturned: voiceBack?.codec ?? null,
      packetsSent: voiceSent?.packets ?? 0,
      packetsReceivedByNode: node?.audioIn ?? 0,
      packetsReturned: node?.audioOut ?? 0,
      packetsReceivedInPage: voiceBack?.packets ?? 0,
      samplesInPage: voiceBack?.totalSamplesReceived ?? 0,
      concealedSamples: voiceBack?.concealedSamples ?? 0,
      energyInPage: round(voiceBack?.totalAudioEnergy ?? 0, 6),
      packetsLostDown: voiceBack?.packetsLost ?? 0,
      loudestSentDbfs: round(report?.loudestDbfs.local),
      loudestReturnedDbfs: round(report?.loudestDbfs.remote),
    },
    latencyMs: {
      samples: report?.latencyMs.samples ?? 0,
      unreadable: report?.stampsUnreadable ?? 0,
      p50: round(report?.latencyMs.p50),
      p99: round(report?.latencyMs.p99),
    },
    roundTripMs: {
      network: round(report?.roundTripMs, 2),
      dataP50: round(data?.roundTripMs.p50, 2),
      dataP99: round(data?.roundTripMs.p99, 2),
    },
    data: {
      sent: total(data?.sent),
      returned: total(data?.returned),
      byKind: { sent: data?.sent, returned: data?.returned },
    },
    pageErrors,
  }
  const need = (holds, problem) => {
    if (!holds) result.problems.push(problem)
  }
  const { video, audio, latencyMs } = result
  need(result.connectionState === 'connected', `the connection is ${result.connectionState}`)
  need(video.sent > 0, 'the page sent no video')
  need(video.receivedByNode > 0, 'the Node peer decoded no video')
  need(video.processed > 0, 'the pipeline returned no video')
  need(video.shownInPage > 0, 'the page showed no returned frame')
  need(back && back.frames > (halfway?.video?.received?.frames ?? 0), 'returned video stopped before the end')
  need(latencyMs.samples > 0, 'no returned frame could be told by its stamp')
  need(audio.packetsReceivedByNode > 0, 'the Node peer received no audio')
  need(audio.packetsReturned > 0, 'the pipeline returned no audio')
  need(energy(report) > energy(halfway), 'the returned audio is silent, or stopped before the end')
  for (const kind of ['text', 'json', 'binary']) {
    need(data?.sent?.[kind] > 0, `no ${kind} message was sent`)
    // The last ping of the page's own may be on its way.
    const onTheWay = kind === 'json' ? 1 : 0
    need(
      data?.returned?.[kind] >= data?.sent?.[kind] - onTheWay,
      `not every ${kind} message came back as it was`,
    )
  }
  need(pageErrors.length === 0, `the page reported: ${pageErrors.join('; ')}`)
  result.ok = result.problems.length === 0
  return result
}
