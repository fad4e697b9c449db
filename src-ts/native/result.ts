import { WebRtcError, type WebRtcErrorCode } from '../errors.js'
import type { NativeError } from './binding.cjs'

/** The value of a native call, or the exception for the error it returned instead. */
export function unwrap<T>(result: T): Exclude<T, NativeError> {
  if (isNativeError(result)) throw toError(result)
  return result as Exclude<T, NativeError>
}

/** For native calls that return nothing but, perhaps, an error. */
export function check(error: NativeError | null | undefined): void {
  if (error) throw toError(error)
}

/** `peerId`: whom it is about, where the error doesn't say so itself. */
export function toError(error: NativeError, peerId?: string): WebRtcError {
  return new WebRtcError(error.code as WebRtcErrorCode, error.message, { peerId: error.peerId ?? peerId })
}

function isNativeError(value: unknown): value is NativeError {
  return (
    typeof value === 'object' &&
    value !== null &&
    typeof (value as NativeError).code === 'string' &&
    typeof (value as NativeError).message === 'string' &&
    (value as NativeError).code.startsWith('ERR_')
  )
}
