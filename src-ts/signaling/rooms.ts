import { randomBytes, timingSafeEqual } from 'node:crypto'
import { type Connection, encode } from './connection.js'
import {
  type Announce,
  CLOSE_CODES,
  type ConnectionState,
  type JsonObject,
  type JsonValue,
  RPC_ERRORS,
  RpcError,
  type WirePeer,
} from './protocol.js'

export interface RoomLimits {
  maxRooms: number
  maxPeersPerRoom: number
}

/** Who is in which room. Tells the others in a room of every change; holds no socket and no timer of its own. */
export class Rooms {
  readonly #limits: RoomLimits
  readonly #rooms = new Map<string, Room>()
  #peers = 0

  constructor(limits: RoomLimits) {
    this.#limits = limits
  }

  get size(): number {
    return this.#rooms.size
  }

  get peers(): number {
    return this.#peers
  }

  get(name: string): Room | undefined {
    return this.#rooms.get(name)
  }

  /**
   * Makes the connection a member, or hands it the membership that its resume token belongs to. Throws `RpcError`:
   * −32012 when the id is taken, −32001 when there is no more room.
   */
  join(
    connection: Connection,
    announce: Announce,
    metadata: JsonValue,
  ): { member: Member; resumed: boolean } {
    const room = this.#rooms.get(announce.room)
    const present = room?.members.get(announce.peerId)
    if (room && present) {
      if (!announce.resumeToken || !present.isResumedBy(announce.resumeToken)) {
        throw new RpcError(RPC_ERRORS.PEER_ID_TAKEN, `peer_id: ${announce.peerId} is taken in this room`)
      }
      this.#resume(present, connection, announce, metadata)
      return { member: present, resumed: true }
    }
    if (!room && this.#rooms.size >= this.#limits.maxRooms) {
      throw new RpcError(RPC_ERRORS.SESSION_LIMIT, 'room: the server has as many rooms as it may')
    }
    if (room && room.members.size >= this.#limits.maxPeersPerRoom) {
      throw new RpcError(
        RPC_ERRORS.SESSION_LIMIT,
        `room: ${this.#limits.maxPeersPerRoom} peers are there, as many as may`,
      )
    }
    const home = room ?? new Room(announce.room)
    const member = new Member(home, connection, announce, metadata)
    this.#rooms.set(home.name, home)
    home.members.set(member.peerId, member)
    connection.member = member
    this.#peers++
    return { member, resumed: false }
  }

  /** Ends a membership. `disconnected` says that the peer asked for it itself, and is told first. */
  leave(member: Member, reason: string, disconnected = false): void {
    const { room, peerId } = member
    if (room.members.get(peerId) !== member) return
    room.members.delete(peerId)
    this.#peers--
    member.connection.member = undefined
    if (room.members.size === 0) this.#rooms.delete(room.name)
    for (const other of room.members.values()) other.forget(peerId)
    if (disconnected) room.tell('peer.disconnected', { peer_id: peerId, reason }, member)
    room.tell('peer.left', { peer_id: peerId, reason }, member)
  }

  #resume(member: Member, connection: Connection, announce: Announce, metadata: JsonValue): void {
    const old = member.connection
    member.update(announce, metadata)
    if (old === connection) return
    old.member = undefined
    member.connection = connection
    connection.member = member
    old.close(CLOSE_CODES.REPLACED, 'resumed on another connection', 'replaced')
    member.room.tellState(member, 'connected')
  }
}

/** Peers that see each other. Exists as long as someone is in it. */
export class Room {
  readonly name: string
  readonly members = new Map<string, Member>()

  constructor(name: string) {
    this.name = name
  }

  /** Notifies everyone but `about`. */
  tell(method: string, params: JsonObject, about: Member): void {
    if (this.members.size === 0) return
    const text = encode({ jsonrpc: '2.0', method, params })
    for (const member of this.members.values()) if (member !== about) member.connection.send(text)
  }

  tellState(about: Member, state: ConnectionState): void {
    this.tell('peer.state_change', { peer_id: about.peerId, connection_state: state }, about)
  }

  wirePeers(except?: Member): WirePeer[] {
    const peers: WirePeer[] = []
    for (const member of this.members.values()) if (member !== except) peers.push(member.toWire())
    return peers
  }
}

/** A peer in a room. Outlives its connection only by being resumed on another. */
export class Member {
  readonly peerId: string
  readonly room: Room
  /** Lets its holder, and nobody else, take this membership over. 192 random bits. */
  readonly resumeToken = randomBytes(24).toString('base64url')
  /** So does what the peer itself announced with last: it may never have got the answer that has ours. */
  #ownToken: string | undefined
  connection: Connection
  metadata: JsonValue
  /** An offer to it is answered in the result of the call that brought it. */
  answersOffers = false
  #capabilities: string[] = []
  #userData: JsonValue = null
  #allowed: Set<string> | undefined
  #denied: Set<string> | undefined
  /** Candidates sent to each peer since the last offer or answer between the two. */
  readonly #candidates = new Map<string, number>()

  constructor(room: Room, connection: Connection, announce: Announce, metadata: JsonValue) {
    this.room = room
    this.connection = connection
    this.peerId = announce.peerId
    this.metadata = metadata
    this.update(announce, metadata)
  }

  update(announce: Announce, metadata: JsonValue): void {
    this.#capabilities = announce.capabilities
    this.#userData = announce.userData
    this.answersOffers = announce.answersOffers === true
    this.#allowed = announce.allowPeers && new Set(announce.allowPeers)
    this.#denied = announce.denyPeers && new Set(announce.denyPeers)
    // A short one could be guessed.
    if ((announce.resumeToken?.length ?? 0) >= MIN_OWN_TOKEN_CHARS) this.#ownToken = announce.resumeToken
    this.metadata = metadata
  }

  isResumedBy(token: string): boolean {
    const given = Buffer.from(token)
    return [this.resumeToken, this.#ownToken].some((known) => {
      const secret = Buffer.from(known ?? '')
      return known !== undefined && given.length === secret.length && timingSafeEqual(given, secret)
    })
  }

  /** Whether this peer's own lists let `peerId` send to it. */
  accepts(peerId: string): boolean {
    return !this.#denied?.has(peerId) && (this.#allowed?.has(peerId) ?? true)
  }

  /** Counts one candidate to `to`; false when it is one too many. */
  countCandidate(to: string, max: number): boolean {
    const sent = this.#candidates.get(to) ?? 0
    if (sent >= max) return false
    this.#candidates.set(to, sent + 1)
    return true
  }

  /** A new negotiation with `peerId` began, or it is gone. */
  forget(peerId: string): void {
    this.#candidates.delete(peerId)
  }

  toWire(): WirePeer {
    return { peer_id: this.peerId, capabilities: this.#capabilities, user_data: this.#userData }
  }
}

/** 128 bits in base64. */
const MIN_OWN_TOKEN_CHARS = 22
