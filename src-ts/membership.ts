import type { ResolvedConfig } from './config.js'
import { checkKnownKeys, WebRtcError } from './errors.js'
import { SignalGate, type SignalKind } from './gate.js'
import type { Announcement, NativeEvent, NativeTransport } from './native/binding.cjs'
import { SignalingClient, type SignalingClientState } from './signaling/client.js'
import type { SignalingPeer } from './signaling/client-events.js'
import { RPC_ERRORS } from './signaling/protocol.js'
import { SignalingServer } from './signaling/server.js'

/** What became of the connection to the signaling server. */
export interface SignalingChange {
  /** `closed` is the end: it gave up, or another process took this one's place. */
  state: SignalingClientState
  /** Why, for people. */
  reason: string
}

/** @internal What a transport hears of its membership. */
export interface MembershipListener {
  signalingChanged(change: SignalingChange): void
  failed(error: WebRtcError): void
}

/**
 * A transport's place in a room: hands what signaling says to the native side, and what that has to say to signaling.
 *
 * @internal
 */
export class Membership {
  /** Where the signaling server is. */
  readonly url: string
  readonly #native: NativeTransport
  readonly #client: SignalingClient
  readonly #ownServer: SignalingServer | undefined
  readonly #gate: SignalGate
  #leaving = false

  /** Connects and announces; throws as `SignalingClient.connect`. */
  static async join(
    config: ResolvedConfig,
    native: NativeTransport,
    listener: MembershipListener,
  ): Promise<Membership> {
    const { signalingServer, room, token, resumeToken, peerId, hosted, capabilities, lists, reconnect } =
      config
    let url = config.signalingUrl
    let ownServer: SignalingServer | undefined
    if (signalingServer instanceof SignalingServer) {
      url = signalingServer.url
    } else if (signalingServer) {
      checkKnownKeys('signalingServer', signalingServer, ['port', 'host'])
      ownServer = await SignalingServer.listen(signalingServer)
      url = ownServer.url
    }
    try {
      const client = await SignalingClient.connect({
        url: url!,
        peerId,
        room,
        capabilities,
        reconnect,
        answersOffers: hosted,
        ...lists,
        ...(token === undefined ? {} : { token }),
        ...(resumeToken === undefined ? {} : { resumeToken }),
      })
      return new Membership(config, native, listener, client, url!, ownServer)
    } catch (error) {
      await ownServer?.close()
      throw error
    }
  }

  private constructor(
    config: ResolvedConfig,
    native: NativeTransport,
    listener: MembershipListener,
    client: SignalingClient,
    url: string,
    ownServer: SignalingServer | undefined,
  ) {
    this.#native = native
    this.#client = client
    this.url = url
    this.#ownServer = ownServer
    this.#gate = new SignalGate(config.native.maxPeers, performance.now())
    client.on('joined', (peer) => native.peerJoined(announcement(peer)))
    client.on('left', ({ peerId }) => native.peerLeft(peerId))
    client.on('disconnected', ({ peerId, reason }) => native.peerDisconnected(peerId, reason))
    client.on('offer', ({ from, sdp }) => this.#when('description', from, () => native.offer(from, sdp)))
    client.on('answer', ({ from, sdp }) => this.#when('description', from, () => native.answer(from, sdp)))
    client.on('candidate', ({ from, candidate, sdpMid, sdpMLineIndex }) =>
      this.#when('candidate', from, () =>
        native.candidate(from, candidate, sdpMid ?? undefined, sdpMLineIndex ?? undefined),
      ),
    )
    client.on('refused', ({ from, code, message }) =>
      this.#when('candidate', from, () => native.signalError(from, code, message)),
    )
    client.on('reconnecting', ({ attempt, error }) => {
      if (attempt > 1) return
      native.signalingLost()
      listener.signalingChanged({ state: 'reconnecting', reason: error.message })
    })
    client.on('reconnected', ({ peers, resumed }) => {
      native.announced(peers.map(announcement))
      listener.signalingChanged({ state: 'connected', reason: resumed ? 'resumed' : 'joined again' })
    })
    client.on('error', (error) => listener.failed(error))
    client.on('close', ({ error }) => {
      if (!error || this.#leaving) return
      native.signalingLost()
      listener.signalingChanged({ state: 'closed', reason: error.message })
    })
    native.announced(client.peers.map(announcement))
    if (config.hosted && !client.answersOffers) {
      const text = 'hosted: this signaling server can not answer offers in the result of their requests'
      listener.failed(new WebRtcError('ERR_SIGNALING', text))
    }
  }

  get state(): SignalingClientState {
    return this.#client.state
  }

  /** Who is in the room, but for us. */
  get peerIds(): string[] {
    return this.#client.peers.map(({ peerId }) => peerId)
  }

  get resumeToken(): string {
    return this.#client.resumeToken
  }

  /** Signals that were not looked at because there were too many. */
  get limited(): number {
    return this.#gate.limited
  }

  /** Messages of the server that made no sense. */
  get malformed(): number {
    return this.#client.malformed
  }

  /** Something suggests that the signaling connection may be dead: look. */
  probe(): void {
    this.#client.probe()
  }

  /** Hands a signal to the server; what it refuses goes back to the mesh. */
  send(event: NativeEvent): void {
    const { kind, text = '', detail, number } = event
    const peerId = event.peerId!
    const client = this.#client
    if (kind === 'signalError') {
      // A peer that is gone, or a server that does not know of this, needs no answer.
      client.refuse(peerId, Number(detail), text).catch(() => {})
      return
    }
    if (client.state !== 'connected') {
      // Candidates would be of no use later; an offer or answer is tried again by the mesh.
      if (kind !== 'candidate') this.#native.signalError(peerId, NOT_DELIVERED, 'signaling is not connected')
      return
    }
    const sent =
      kind === 'offer'
        ? client.offer(peerId, text)
        : kind === 'answer'
          ? client.answer(peerId, text)
          : client.candidate(peerId, {
              candidate: text,
              ...(detail === undefined ? {} : { sdpMid: detail }),
              ...(number === undefined ? {} : { sdpMLineIndex: number }),
            })
    sent.catch((error: WebRtcError) => {
      if (!this.#leaving)
        this.#native.signalError(peerId, error.signalingCode ?? NOT_DELIVERED, error.message)
    })
  }

  /** Says goodbye. The server goes with it, if it was started here. */
  async leave(): Promise<void> {
    this.#leaving = true
    await this.#client.disconnect('closed')
  }

  async closeServer(): Promise<void> {
    await this.#ownServer?.close()
  }

  #when(kind: SignalKind, from: string, take: () => void): void {
    const verdict = this.#gate.judge(from, kind, performance.now())
    if (verdict === 'pass') take()
    else if (verdict === 'refuse')
      this.#client
        .refuse(from, RPC_ERRORS.RATE_LIMITED, 'too many offers, answers or candidates')
        .catch(() => {})
  }
}

/** Nothing said that the peer is gone: the mesh tries again. */
const NOT_DELIVERED = RPC_ERRORS.CONNECTION_TIMEOUT

function announcement({ peerId, capabilities, userData }: SignalingPeer): Announcement {
  return { peerId, capabilities, ...(userData === null ? {} : { userData: JSON.stringify(userData) }) }
}
