/** What `SignalingServer.stats()` returns: a copy, safe to keep and to serialise. */
export interface SignalingServerStats {
  /** Milliseconds since `listen`. */
  uptimeMs: number
  /** WebSockets open now, announced or not. */
  connections: number
  /** Rooms with at least one peer now. */
  rooms: number
  /** Announced peers now, over all rooms. */
  peers: number
  /** WebSockets accepted so far. */
  connectionsTotal: number
  /** Successful announces so far, resumed ones included. */
  announced: number
  /** Announces so far that took over an older connection with its resume token. */
  resumed: number
  /** Text messages received and sent so far, and their bytes without WebSocket framing. */
  messagesIn: number
  bytesIn: number
  messagesOut: number
  bytesOut: number
  /** Offers, answers and candidates handed to their target so far. */
  relayed: number
  /** Upgrade requests turned away, by reason: `origin`, `path`, `rate`, `addressConnections`, `capacity`, `closing`. */
  refused: Record<string, number>
  /** Error answers sent, by JSON-RPC code. */
  errors: Record<string, number>
  /** Notifications (and stray responses) dropped without an answer, by the JSON-RPC code an answer would have had. */
  dropped: Record<string, number>
  /** Ends of connections, by cause: `client`, `error`, `announceTimeout`, `binary`, `flood`, `slowReader`, `heartbeat`, `replaced`, `closing`. */
  closed: Record<string, number>
}

type Totals =
  | 'connectionsTotal'
  | 'announced'
  | 'resumed'
  | 'messagesIn'
  | 'bytesIn'
  | 'messagesOut'
  | 'bytesOut'
  | 'relayed'
type Families = 'refused' | 'errors' | 'dropped' | 'closed'

/** Counts since the server started. Keys of a family come from this package's code, never from outside. */
export class Counters {
  connectionsTotal = 0
  announced = 0
  resumed = 0
  messagesIn = 0
  bytesIn = 0
  messagesOut = 0
  bytesOut = 0
  relayed = 0
  readonly #families: Record<Families, Map<string, number>> = {
    refused: new Map(),
    errors: new Map(),
    dropped: new Map(),
    closed: new Map(),
  }

  count(family: Families, key: string | number): void {
    const counts = this.#families[family]
    counts.set(String(key), (counts.get(String(key)) ?? 0) + 1)
  }

  snapshot(): Pick<SignalingServerStats, Totals | Families> {
    const { connectionsTotal, announced, resumed, messagesIn, bytesIn, messagesOut, bytesOut, relayed } = this
    const { refused, errors, dropped, closed } = this.#families
    return {
      connectionsTotal,
      announced,
      resumed,
      messagesIn,
      bytesIn,
      messagesOut,
      bytesOut,
      relayed,
      refused: Object.fromEntries(refused),
      errors: Object.fromEntries(errors),
      dropped: Object.fromEntries(dropped),
      closed: Object.fromEntries(closed),
    }
  }
}
