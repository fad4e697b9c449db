import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { chromiumPath, launchChromium } from './chromium.js'

// The room example: its page draws every link of the mesh, those between others as well, and its buttons work.

if (chromiumPath() === null) console.warn('SKIPPED: there is no Chromium')

;(chromiumPath() === null ? test.skip : test)(
  'the page draws all links between itself and three Node peers, and follows who comes and goes',
  async () => {
    const room: ChildProcess = spawn(
      process.execPath,
      [join(__dirname, '../../examples/room/main.mjs'), '--port', '0'],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    let out = ''
    while (!/http:\S+/.test(out)) out += String((await once(room.stdout!, 'data'))[0])
    const browser = await launchChromium()
    const page = await browser.context.newPage()
    const problems: string[] = []
    page.on('pageerror', (error) => problems.push(error.message))
    await page.goto(/http:\S+/.exec(out)![0])
    const drawn = (state: string) => page.locator(`#edges line[data-state=${state}]`)
    const connected = (count: number) =>
      drawn('connected')
        .nth(count - 1)
        .waitFor({ state: 'attached', timeout: 20_000 })

    await connected(6)
    expect(await page.locator('#nodes g').count()).toBe(4)
    await page.getByText('4 peers, 6 of 6 links connected').waitFor()
    // Path and round trip of each, own or not, in the list for those who don't see the drawing.
    await page.waitForFunction(
      () =>
        [...document.querySelectorAll('#rows tr')].filter((row) =>
          /connected.*(host|prflx) – (host|prflx), udp.*ms.*good/.test(row.textContent ?? ''),
        ).length === 6,
      undefined,
      { timeout: 10_000 },
    )

    await page.getByRole('button', { name: 'Add a Node peer' }).click()
    await connected(10)
    await page.getByLabel('Peer to look at').selectOption('node-2')
    await page.getByRole('button', { name: 'Cut it off for 5 s' }).click()
    // Three links between others, as those tell, and at last this page's own.
    await drawn('disconnected').nth(2).waitFor({ state: 'attached', timeout: 10_000 })
    await connected(10)
    await page
      .getByText(/node-2: back after|node-2 and .*: back after/)
      .first()
      .waitFor()
    await page.getByRole('button', { name: 'Remove it' }).click()
    await page.getByText('4 peers, 6 of 6 links connected').waitFor()
    await page.getByText('node-2 left').waitFor()
    expect(problems).toEqual([])

    await browser.close()
    room.kill('SIGTERM')
    expect(await once(room, 'exit')).toEqual([0, null])
  },
  90_000,
)
