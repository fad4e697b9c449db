// Lets programs use the kits of the tests, which are TypeScript: `require` of a .ts file, as jest does it.
const { readFileSync } = require('node:fs')
const Module = require('node:module')
const { join } = require('node:path')
const { transformSync } = require('@swc/core')

const ROOT = join(__dirname, '..', '..')

const resolve = Module._resolveFilename
Module._resolveFilename = function (request, parent, ...more) {
  // TypeScript names its own files by the name they get when they are built.
  const name =
    request.startsWith('.') && parent?.filename?.endsWith('.ts') ? request.replace(/\.js$/, '.ts') : request
  return resolve.call(this, name, parent, ...more)
}

Module._extensions['.ts'] = (module, filename) => {
  const { code } = transformSync(readFileSync(filename, 'utf8'), {
    filename,
    configFile: false,
    swcrc: false,
    jsc: { parser: { syntax: 'typescript', explicitResourceManagement: true }, target: 'es2022' },
    module: { type: 'commonjs' },
    sourceMaps: 'inline',
  })
  module._compile(code, filename)
}

/** A module of the project, by its path. */
exports.load = (path) => require(join(ROOT, path))
