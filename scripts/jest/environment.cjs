// jest runs tests in a realm of its own, and what the addon makes belongs to Node's main realm. jest already shares
// Uint8Array and ArrayBuffer; the other typed arrays would fail `instanceof` and `toEqual` for no reason of ours.
const { TestEnvironment } = require('jest-environment-node')

const SHARED = [
  'Float32Array',
  'Float64Array',
  'Int8Array',
  'Int16Array',
  'Int32Array',
  'Uint16Array',
  'Uint32Array',
]

module.exports = class extends TestEnvironment {
  constructor(config, context) {
    super(config, context)
    for (const name of SHARED) this.global[name] = globalThis[name]
  }
}
