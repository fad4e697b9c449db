// Child processes and the few lines of output that every script shares. Everything said here goes to stderr, so that
// a script's stdout holds its result alone (`npm run demo -- --json`).
import { spawn, spawnSync } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The repository's top folder. */
export const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..')

/** Something the person at the keyboard can mend: printed without a stack. */
export class Problem extends Error {
  name = 'Problem'
}

export function say(text) {
  process.stderr.write(`${text}\n`)
}

/** `1.2 s`, `3 min 4 s`. */
export function duration(ms) {
  const s = ms / 1000
  return s < 60 ? `${s.toFixed(1)} s` : `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`
}

/**
 * Runs a program to its end and resolves to its exit code. Its stdout goes to our stderr, unless `onLine` takes it.
 * After `limitMs` its process group is ended and the promise rejects.
 */
export function run(command, args, { cwd = ROOT, env = {}, onLine, limitMs } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: ['ignore', onLine ? 'pipe' : 2, 2],
      detached: limitMs !== undefined && process.platform !== 'win32',
    })
    const end = (signal) => {
      try {
        process.kill(limitMs === undefined ? child.pid : -child.pid, signal)
      } catch {
        child.kill(signal)
      }
    }
    const onSignal = () => end('SIGTERM')
    process.once('SIGINT', onSignal).once('SIGTERM', onSignal)
    let overdue = false
    const timer =
      limitMs &&
      setTimeout(() => {
        overdue = true
        end('SIGKILL')
      }, limitMs)
    if (onLine) {
      let rest = ''
      child.stdout.setEncoding('utf8')
      child.stdout.on('data', (chunk) => {
        const lines = (rest + chunk).split('\n')
        rest = lines.pop()
        for (const line of lines) onLine(line)
      })
      child.stdout.on('end', () => rest && onLine(rest))
    }
    child.on('error', (cause) => {
      clearTimeout(timer)
      reject(new Problem(`${command} could not be started: ${cause.message}`))
    })
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      process.off('SIGINT', onSignal).off('SIGTERM', onSignal)
      if (overdue)
        reject(new Problem(`${command} was ended after ${duration(limitMs)}: it did not finish by itself`))
      else resolve(code ?? (signal ? 1 : 0))
    })
  })
}

/** Stdout of a short command, trimmed; undefined if it is missing or fails. */
export function output(command, args) {
  const result = spawnSync(command, args, {
    cwd: ROOT,
    encoding: 'utf8',
    maxBuffer: 1 << 27,
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  return result.status === 0 ? result.stdout.trim() : undefined
}

/** The path of a program, looked up without starting a shell. */
export function which(...names) {
  for (const name of names) {
    for (const folder of (process.env.PATH ?? '').split(delimiter)) {
      const path = join(folder, process.platform === 'win32' ? `${name}.exe` : name)
      try {
        accessSync(path, constants.X_OK)
        return path
      } catch {}
    }
  }
  return undefined
}

/** A tool from node_modules, run by this very Node: `tool('typescript', 'bin/tsc')`. */
export function tool(packageName, file) {
  return join(ROOT, 'node_modules', ...packageName.split('/'), file)
}

/** Runs a script's main function; a Problem is told in one line, anything else with its stack. */
export async function main(body) {
  try {
    process.exitCode = (await body()) ?? 0
  } catch (error) {
    say(error instanceof Problem ? `\n${error.message}` : error.stack)
    process.exitCode = 1
  }
}
