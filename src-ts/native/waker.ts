/**
 * Wakes an object, without keeping it: the addon holds this function as long as its own half lives. It is made here so that
 * it shares no scope with closures that do keep it.
 */
export function waker(target: { drain(): void }): () => void {
  const weak = new WeakRef(target)
  return () => weak.deref()?.drain()
}
