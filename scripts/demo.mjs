#!/usr/bin/env node
// `npm run demo`: set-up, then the demo with the same arguments. Stdout belongs to the demo.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { main, ROOT } from './lib/process.mjs'
import { setup } from './setup.mjs'

await main(async () => {
  const args = process.argv.slice(2)
  await setup({ browser: args.includes('--headless') })
  const child = spawn(process.execPath, [join(ROOT, 'examples', 'demo', 'main.mjs'), ...args], {
    stdio: 'inherit',
  })
  // Ctrl-C reaches the demo from the terminal by itself; this process waits for it. Other signals are handed on.
  process.on('SIGINT', () => {})
  process.on('SIGTERM', () => child.kill('SIGTERM'))
  return await new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => resolve(code ?? (signal ? 1 : 0)))
  })
})
