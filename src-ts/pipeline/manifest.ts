import { readFile } from 'node:fs/promises'
import { configError, WebRtcError } from '../errors.js'
import { native } from '../native/load.js'
import { unwrap } from '../native/result.js'

/** A manifest as an object: `version: v1`, nodes, and connections between their ports. */
export interface ManifestObject {
  version: 'v1'
  metadata?: { name?: string; description?: string; [key: string]: unknown }
  nodes: ManifestNode[]
  connections?: ManifestConnection[]
}

export interface ManifestNode {
  id: string
  node_type: string
  params?: Record<string, unknown>
  /** `peer` (default): an instance for each peer. */
  scope?: 'peer' | 'shared'
  /** What happens to an item on which the node fails. Default `fail`. */
  on_error?: 'bypass' | 'drop' | 'restart' | 'fail'
  /** Default true. Items pass a node by that is off. */
  enabled?: boolean
  /**
   * How long an item may be at the node, its wait included, 1 to 600 000. What takes longer is handled by `on_error`. Default: for a
   * node in JavaScript 2000 if it takes audio, pictures or `any`, else 30 000; for a native one no limit.
   */
  deadline_ms?: number
}

export interface ManifestConnection {
  /** `node` or `node.port`. */
  from: string
  /** `node` or `node.port`. */
  to: string
  /** What waits before a node in JavaScript; between native nodes nothing waits. `max` is 1 to 4096. docs/nodes.md has the defaults. */
  queue?: { max?: number; policy?: 'latest' | 'drop_oldest' | 'drop_newest' | 'reject' | 'block' }
}

/** A pipeline's description, checked for its shape. Node types are checked when it is first run, by the runner that knows them. */
export class Manifest {
  /** Its `metadata.name`. */
  readonly name: string | undefined
  /** The ids of its nodes. */
  readonly nodeIds: readonly string[]
  /** What was ignored in it, such as unknown fields. */
  readonly warnings: readonly string[]
  /** @internal YAML or JSON text. */
  readonly text: string

  /** Reads YAML or JSON text, or takes an object. Throws `ERR_MANIFEST` naming the place. */
  static parse(source: string | ManifestObject): Manifest {
    if (typeof source === 'string') return new Manifest(source)
    if (typeof source !== 'object' || source === null)
      throw configError('manifest', source, 'text or an object')
    let text: string
    try {
      text = JSON.stringify(source)
    } catch (cause) {
      throw new WebRtcError('ERR_MANIFEST', 'manifest: not something that JSON can carry', { cause })
    }
    return new Manifest(text)
  }

  /** Reads a YAML or JSON file. Throws `ERR_MANIFEST` naming the file and the place. */
  static async fromFile(path: string | URL): Promise<Manifest> {
    let text: string
    try {
      text = await readFile(path, 'utf8')
    } catch (cause) {
      throw new WebRtcError('ERR_MANIFEST', `${String(path)}: can't be read: ${(cause as Error).message}`, {
        cause,
      })
    }
    try {
      return new Manifest(text)
    } catch (cause) {
      throw new WebRtcError('ERR_MANIFEST', `${String(path)}: ${(cause as Error).message}`, { cause })
    }
  }

  private constructor(text: string) {
    const { name, nodes, warnings } = unwrap(native.parseManifest(text))
    this.text = text
    this.name = name ?? undefined
    this.nodeIds = nodes
    this.warnings = warnings
    Object.freeze(this)
  }
}
