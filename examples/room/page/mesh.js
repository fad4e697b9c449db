// This page's part of the mesh: one data channel to every peer of the room, and what each of them tells of its own links.

import { Call } from './call.js'
import { Signaling } from './signaling.js'

const TELL_EVERY_MS = 1000
/** Those present wait this long for a newcomer's offer, then make one. */
const OFFER_GRACE_MS = 3000
/** What was told is believed for this long. */
const STALE_MS = 4000

/**
 * @typedef {{local: string, remote: string, protocol: string, family?: string}} Path
 * @typedef {{a: string, b: string, state: string, path: Path | null, roundTripMs: number | null}} Link
 */

/** Events: `change`, whenever `peers` or `links` may be different; `lost` and `found`: signaling. */
export class Mesh extends EventTarget {
  /** @type {Map<string, {call: Call | null, state: string, path: Path | null, roundTripMs: number | null, told: Map, toldAt: number, announced: boolean}>} */
  #peers = new Map()
  #signaling
  #timer
  #offerTimers = new Map()

  constructor({ url, room, peerId }) {
    super()
    this.peerId = peerId
    this.#signaling = new Signaling({ url, room, peerId, userData: { kind: 'page' } })
  }

  async join() {
    const on = (name, listener) => this.#signaling.addEventListener(name, ({ detail }) => listener(detail))
    on('announced', ({ peers }) => this.#announced(peers))
    on('lost', () => this.dispatchEvent(new Event('lost')))
    on('peer.joined', ({ peer_id: id }) => this.#joined(id))
    on('peer.left', ({ peer_id: id }) => this.#left(id))
    on('peer.disconnected', ({ peer_id: id }) => this.#forget(id))
    for (const method of ['peer.offer', 'peer.answer', 'peer.ice_candidate']) {
      on(method, (params) => this.#signal(method, params))
    }
    await this.#signaling.join()
    this.#timer = setInterval(() => this.#tell(), TELL_EVERY_MS)
  }

  close() {
    clearInterval(this.#timer)
    for (const timer of this.#offerTimers.values()) clearTimeout(timer)
    this.#signaling.close()
    for (const { call } of this.#peers.values()) call?.close()
  }

  /** Everyone in the room, this page included, sorted. */
  get peers() {
    return [this.peerId, ...this.#peers.keys()].sort(byName)
  }

  /** Every link between two of them, as one of its ends or both know it. */
  get links() {
    const links = new Map()
    for (const [id, peer] of this.#peers) {
      links.set(pair(this.peerId, id), describe(this.peerId, id, peer, peer.state))
    }
    const now = performance.now()
    for (const [from, { told, toldAt }] of this.#peers) {
      for (const [to, report] of told) {
        if (to === this.peerId || !this.#peers.has(to)) continue
        const state = now - toldAt > STALE_MS ? 'unknown' : report.state
        const known = links.get(pair(from, to))
        // The two ends may not agree for a while: what is worse is worth seeing, and who is silent knows nothing.
        if (known && rank(known.state) >= rank(state)) known.roundTripMs ??= report.roundTripMs
        else links.set(pair(from, to), describe(from, to, report, state))
      }
    }
    return [...links.values()].sort((x, y) => byName(x.a, y.a) || byName(x.b, y.b))
  }

  #announced(peers) {
    this.dispatchEvent(new Event('found'))
    const present = new Set(peers.map(({ peer_id: id }) => id))
    for (const [id, { state }] of this.#peers) {
      // A server that was restarted may not know of everyone yet.
      if (!present.has(id) && state !== 'connected') this.#forget(id)
    }
    for (const id of present) {
      const peer = this.#peers.get(id)
      if (peer?.state === 'connected') continue
      this.#call(id, true)
    }
    this.#changed()
  }

  #joined(id) {
    if (this.#peers.get(id)?.call) return
    this.#peer(id)
    clearTimeout(this.#offerTimers.get(id))
    this.#offerTimers.set(
      id,
      setTimeout(() => {
        if (this.#peers.has(id) && !this.#peers.get(id).call) this.#call(id, true)
      }, OFFER_GRACE_MS),
    )
    this.#changed()
  }

  /** Its signaling connection is gone. If the link lives, so does the peer. */
  #left(id) {
    if (this.#peers.get(id)?.state !== 'connected') this.#forget(id)
    else this.#peers.get(id).announced = false
  }

  #forget(id) {
    clearTimeout(this.#offerTimers.get(id))
    this.#offerTimers.delete(id)
    const call = this.#peers.get(id)?.call
    // First, as the end of a call is told by an event as well.
    this.#peers.delete(id)
    call?.close()
    this.#changed()
  }

  #peer(id) {
    const known = this.#peers.get(id)
    if (known) return known
    const peer = {
      call: null,
      state: 'new',
      path: null,
      roundTripMs: null,
      told: new Map(),
      toldAt: 0,
      announced: true,
    }
    this.#peers.set(id, peer)
    return peer
  }

  #signal(method, params) {
    const { from } = params
    clearTimeout(this.#offerTimers.get(from))
    const known = this.#peers.get(from)?.call
    if (method !== 'peer.offer') {
      known?.signal(method, params)
      return
    }
    // An offer of another session: the peer's process or its link was made anew.
    const session = /^o=\S+ (\d+)/m.exec(params.sdp)?.[1]
    const before = /^o=\S+ (\d+)/m.exec(known?.pc.remoteDescription?.sdp ?? '')?.[1]
    const call = known && (before === undefined || before === session) ? known : this.#call(from, false)
    call.signal(method, params)
  }

  #call(id, offers) {
    const peer = this.#peer(id)
    const old = peer.call
    peer.call = null
    old?.close()
    const call = new Call({ signaling: this.#signaling, remoteId: id, stream: new MediaStream() })
    peer.call = call
    const on = (name, listener) =>
      call.addEventListener(name, ({ detail }) => {
        if (this.#peers.get(id)?.call === call) listener(detail)
      })
    on('state', ({ connectionState }) => {
      peer.state = connectionState
      if (connectionState === 'connected') peer.announced = true
      if (connectionState === 'closed') this.#forget(id)
      else if (connectionState === 'failed' && !peer.announced) this.#forget(id)
      else this.#read(peer).then(() => this.#tell())
    })
    on('json', ({ value }) => {
      if (value?.type !== 'links' || !Array.isArray(value.links)) return
      const links = value.links.filter((link) => typeof link?.id === 'string').slice(0, 256)
      peer.told = new Map(
        links.map(({ id: to, state, path, roundTripMs }) => [to, { state, path, roundTripMs }]),
      )
      peer.toldAt = performance.now()
      this.#changed()
    })
    on('channel', () => this.#tell())
    peer.state = 'connecting'
    if (offers) call.start()
    this.#changed()
    return call
  }

  /** What the browser knows of the pair in use. */
  async #read(peer) {
    if (!peer.call) return
    const report = await peer.call.pc.getStats()
    const transport = [...report.values()].find(({ type }) => type === 'transport')
    const used = report.get(transport?.selectedCandidatePairId)
    const [local, remote] = [report.get(used?.localCandidateId), report.get(used?.remoteCandidateId)]
    if (!local || !remote) return
    const protocol = local.relayProtocol ?? local.protocol
    peer.path = { local: local.candidateType, remote: remote.candidateType, protocol }
    const seconds = used.currentRoundTripTime
    peer.roundTripMs = typeof seconds === 'number' ? seconds * 1000 : null
  }

  async #tell() {
    await Promise.all([...this.#peers.values()].map((peer) => this.#read(peer)))
    const links = [...this.#peers].map(([id, { state, path, roundTripMs }]) => ({
      id,
      state,
      path,
      roundTripMs,
    }))
    for (const { call } of this.#peers.values()) if (call?.open) call.sendJson({ type: 'links', links })
    this.#changed()
  }

  #changed() {
    this.dispatchEvent(new Event('change'))
  }
}

/** From the best to what most needs to be seen. */
const STATES = ['unknown', 'new', 'connected', 'connecting', 'disconnected', 'failed', 'closed']
const rank = (state) => STATES.indexOf(state)

export const pair = (a, b) => (byName(a, b) < 0 ? `${a}|${b}` : `${b}|${a}`)

function describe(from, to, { path, roundTripMs }, state) {
  const [a, b] = byName(from, to) < 0 ? [from, to] : [to, from]
  const sides = path && {
    ...path,
    local: a === from ? path.local : path.remote,
    remote: a === from ? path.remote : path.local,
  }
  return { a, b, state, path: sides ?? null, roundTripMs: roundTripMs ?? null }
}

/** Names with numbers in their order. */
export function byName(a, b) {
  return a.localeCompare(b, 'en', { numeric: true })
}
