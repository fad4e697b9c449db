// Serves an example's page, the files that the pages share, and the settings that the page asks for.

import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { extname } from 'node:path'

const COMMON = new URL('./page/', import.meta.url)
const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
}

/**
 * Starts the server. `page` is the folder of the page's own files, with `/` at the end; `config` is what `config.json` says:
 * `{peer, room}`, and `signalingUrl` when that is elsewhere. `handle` may take a request before that, and says whether it did.
 * @param {{port: number, host: string, page: URL, config: object,
 *   handle?: (request: import('node:http').IncomingMessage, response: import('node:http').ServerResponse) => boolean}} options
 * @returns {Promise<{server: import('node:http').Server, url: string, close(): Promise<void>}>}
 */
export async function serveWeb({ port, host, page, config, handle = () => false }) {
  const server = createServer((request, response) => {
    if (handle(request, response)) return
    answer(request, page, config).then(({ status, type, body }) => {
      response.writeHead(status, {
        'content-type': type,
        'cache-control': 'no-cache',
        'x-content-type-options': 'nosniff',
        'referrer-policy': 'no-referrer',
      })
      response.end(request.method === 'HEAD' ? undefined : body)
    })
  })
  await new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, resolve)
  })
  const at = server.address()
  const name = at.family === 'IPv6' ? `[${at.address}]` : at.address
  return {
    server,
    url: `http://${name === '0.0.0.0' || name === '[::]' ? 'localhost' : name}:${at.port}/`,
    close: () =>
      new Promise((resolve) => {
        server.close(resolve)
        server.closeAllConnections()
      }),
  }
}

async function answer(request, page, config) {
  const plain = (status, body) => ({ status, type: 'text/plain; charset=utf-8', body })
  if (request.method !== 'GET' && request.method !== 'HEAD') return plain(405, 'Method not allowed\n')
  // The URL parser takes `..` out; a name with a slash in it is no file of ours anyway.
  const name = new URL(request.url, 'http://page').pathname.slice(1) || 'index.html'
  if (name === 'config.json') return { status: 200, type: 'application/json', body: JSON.stringify(config) }
  const type = TYPES[extname(name)]
  if (!type || !/^[\w-]+\.\w+$/.test(name)) return plain(404, 'Not found\n')
  for (const folder of [page, COMMON]) {
    try {
      return { status: 200, type, body: await readFile(new URL(name, folder)) }
    } catch {
      // Perhaps in the next one.
    }
  }
  return plain(404, 'Not found\n')
}
