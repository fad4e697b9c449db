import { type BinaryData, bytesOf, type JsonData, jsonText, type TextData } from './data.js'
import { WebRtcError } from './errors.js'

/** What one data channel frame carries. */
export type DataChannelMessageData = BinaryData | JsonData | TextData

/** One frame as it is on the wire: a string or bytes. */
export type DataChannelFrame = string | Uint8Array

const RECORD_SEPARATOR = '\u001e'

/**
 * How messages look on a data channel, so that any WebRTC stack can be at the other end: text is a string frame, binary a binary
 * frame, byte for byte; JSON is a string frame that begins with U+001E (RFC 7464's record separator).
 */
export const DataChannelMessage = {
  /** The frame for a message. Throws `ERR_CONFIG` for a value that JSON can't carry, or text that would read as JSON. */
  encode(message: DataChannelMessageData): DataChannelFrame {
    switch (message.kind) {
      case 'binary':
        return bytesOf(message.data)
      case 'json':
        return RECORD_SEPARATOR + jsonText(message.value)
      case 'text':
        if (message.text.startsWith(RECORD_SEPARATOR)) {
          throw new WebRtcError(
            'ERR_CONFIG',
            'text: begins with U+001E, which marks JSON; send it as json or binary',
          )
        }
        return message.text
    }
  },

  /** What a frame carries. Throws `ERR_CONFIG` when it says that it is JSON and is not. */
  decode(frame: DataChannelFrame): DataChannelMessageData {
    if (typeof frame !== 'string') return { kind: 'binary', data: bytesOf(frame) }
    if (!frame.startsWith(RECORD_SEPARATOR)) return { kind: 'text', text: frame }
    try {
      return { kind: 'json', value: JSON.parse(frame.slice(1)) as unknown }
    } catch (cause) {
      throw new WebRtcError('ERR_CONFIG', 'a frame marked as JSON (U+001E) is not JSON', { cause })
    }
  },
}
