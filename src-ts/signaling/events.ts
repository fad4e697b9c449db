/** Typed `on`, `once` and `off`. A listener that throws stops neither the others nor the one who emits. */
export class TypedEvents<Events extends object> {
  readonly #listeners = new Map<keyof Events, Entry[]>()

  /** Calls `listener` for each `name`, in the order of subscription. */
  on<K extends keyof Events>(name: K, listener: (event: Events[K]) => unknown): this {
    return this.#add(name, listener, false)
  }

  /** Calls `listener` for the next `name` only. */
  once<K extends keyof Events>(name: K, listener: (event: Events[K]) => unknown): this {
    return this.#add(name, listener, true)
  }

  /** Takes back one `on` or `once`. */
  off<K extends keyof Events>(name: K, listener: (event: Events[K]) => unknown): this {
    const entry = this.#listeners.get(name)?.findLast((e) => e.listener === listener)
    if (entry) this.#remove(name, entry)
    return this
  }

  listenerCount(name: keyof Events): number {
    return this.#listeners.get(name)?.length ?? 0
  }

  /** Calls the listeners; what they throw goes to `onThrow`, what they return into `returned`. False when there is none. */
  protected dispatch<K extends keyof Events>(
    name: K,
    event: Events[K],
    onThrow: (error: unknown) => void,
    returned?: unknown[],
  ): boolean {
    const entries = this.#listeners.get(name)
    if (!entries?.length) return false
    for (const entry of entries) {
      if (entry.once) this.#remove(name, entry)
      try {
        const result = (entry.listener as (event: Events[K]) => unknown)(event)
        returned?.push(result)
      } catch (error) {
        onThrow(error)
      }
    }
    return true
  }

  #remove(name: keyof Events, entry: Entry): void {
    this.#listeners.set(
      name,
      (this.#listeners.get(name) ?? []).filter((e) => e !== entry),
    )
  }

  #add(name: keyof Events, listener: unknown, once: boolean): this {
    // A new array each time, so that a dispatch under way is not disturbed.
    this.#listeners.set(name, [...(this.#listeners.get(name) ?? []), { listener, once }])
    return this
  }
}

interface Entry {
  listener: unknown
  once: boolean
}
