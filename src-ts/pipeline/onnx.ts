import { existsSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { native } from '../native/load.js'

/**
 * Tells the addon, once, where the models of this package are and where ONNX Runtime's library is: inside `onnxruntime-node`, if
 * that is installed. Without it, a manifest that needs it is refused with a message that says so.
 */
export function locateModels(): void {
  if (located) return
  located = true
  native.setPaths(onnxRuntime(), fileURLToPath(new URL('../../models', import.meta.url)))
}

let located = false

function onnxRuntime(): string | undefined {
  let root: string
  try {
    root = dirname(createRequire(import.meta.url).resolve('onnxruntime-node/package.json'))
  } catch {
    return undefined
  }
  const names = ['libonnxruntime.so.1', 'libonnxruntime.1.dylib', 'onnxruntime.dll']
  const bin = join(root, 'bin')
  if (!existsSync(bin)) return undefined
  for (const abi of readdirSync(bin)) {
    const folder = join(bin, abi, process.platform, process.arch)
    if (!existsSync(folder)) continue
    const exact = names.map((name) => join(folder, name)).find((path) => existsSync(path))
    if (exact) return exact
    const versioned = readdirSync(folder).find((name) => /^libonnxruntime\.(so|[\d.]+dylib)/.test(name))
    if (versioned) return join(folder, versioned)
  }
  return undefined
}
