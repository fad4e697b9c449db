// Draws the mesh: peers on a circle, a line for each link.

const SVG = 'http://www.w3.org/2000/svg'
const WIDTH = 720
const HEIGHT = 560
const CENTRE = { x: WIDTH / 2, y: HEIGHT / 2 }
/** More labels than these lie on top of each other. */
const MAX_LABELS = 12

/** Calls `choose(id)` when a peer is clicked. */
export class Graph {
  #edges = document.getElementById('edges')
  #labels = document.getElementById('labels')
  #nodes = document.getElementById('nodes')
  #choose

  constructor(choose) {
    this.#choose = choose
  }

  /** @param {{peers: string[], links: import('./mesh.js').Link[], self: string, chosen: string, cut: Set<string>}} what */
  draw({ peers, links, self, chosen, cut }) {
    const at = new Map(peers.map((id, i) => [id, place(i, peers.length)]))
    const shown = links.filter(({ a, b }) => at.has(a) && at.has(b))
    const key = ({ a, b }) => `${a}|${b}`
    keep(this.#edges, shown, key, 'line', (line, link) => {
      const [from, to] = [at.get(link.a), at.get(link.b)]
      set(line, {
        class: `edge${link.a === chosen || link.b === chosen ? ' near' : ''}`,
        x1: from.x,
        y1: from.y,
        x2: to.x,
        y2: to.y,
        'data-state': link.state,
        'data-quality': quality(link),
        'data-path': kind(link),
      })
    })
    // Those of the chosen peer tell their round trip where they are.
    const told = shown.filter(({ a, b, state }) => (a === chosen || b === chosen) && state === 'connected')
    keep(this.#labels, told.slice(0, MAX_LABELS), key, 'g', (group, link) => {
      const [from, to] =
        link.a === chosen ? [at.get(link.a), at.get(link.b)] : [at.get(link.b), at.get(link.a)]
      // Nearer to the other end, where lines are apart.
      const x = from.x + (to.x - from.x) * 0.68
      const y = from.y + (to.y - from.y) * 0.68
      const text = link.roundTripMs === null ? kind(link) : `${kind(link)} ${ms(link.roundTripMs)}`
      const wide = 7.1 * text.length + 14
      if (!group.firstChild) group.append(make('rect', { rx: 9, height: 20 }), make('text', {}))
      set(group, { class: 'label', transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` })
      set(group.firstChild, { x: -wide / 2, y: -10, width: wide })
      group.lastChild.textContent = text
    })
    keep(
      this.#nodes,
      peers,
      (id) => id,
      'g',
      (group, id) => {
        const { x, y } = at.get(id)
        const self_ = id === self
        if (!group.firstChild) {
          group.append(
            make('circle', { r: 25 }),
            make('text', { class: 'glyph', y: 1 }),
            make('text', { class: 'name' }),
          )
          group.onclick = () => this.#choose(id)
        }
        set(group, {
          class: `node${self_ ? ' self' : ''}${id === chosen ? ' chosen' : ''}${cut.has(id) ? ' cut' : ''}`,
          'data-kind': id.startsWith('node-') ? 'node' : 'page',
          transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
        })
        const [, glyph, name] = group.children
        glyph.textContent = id.startsWith('node-') ? id.replace('node-', 'N') : 'web'
        const below = y >= CENTRE.y - 1
        set(name, { y: below ? 46 : -35 })
        name.textContent = `${self_ ? 'this page' : id}${cut.has(id) ? ' (cut off)' : ''}`
      },
    )
  }
}

/** `good`, `fair` or `poor` by round trip; `none` where there is no connection. */
export function quality({ state, roundTripMs }) {
  if (state !== 'connected') return 'none'
  if (roundTripMs === null || roundTripMs < 80) return 'good'
  return roundTripMs < 300 ? 'fair' : 'poor'
}

/** One word for the path: `relay` when either end is one, else what the less direct end is. */
export function kind({ path }) {
  const ends = [path?.local, path?.remote]
  return ['relay', 'srflx', 'prflx', 'host'].find((name) => ends.includes(name)) ?? '–'
}

/** Browsers tell it in whole milliseconds. */
export const ms = (value) =>
  value < 0.05 ? '< 1 ms' : value < 9.95 ? `${value.toFixed(1)} ms` : `${value.toFixed(0)} ms`

/** The first at the top, the others clockwise. */
function place(index, count) {
  if (count === 1) return CENTRE
  const angle = (2 * Math.PI * index) / count - Math.PI / 2
  return { x: CENTRE.x + 285 * Math.cos(angle), y: CENTRE.y + 210 * Math.sin(angle) }
}

/** Makes the children of `parent` fit `items`: those that stay are changed, not made again. */
function keep(parent, items, key, name, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]))
  for (const item of items) {
    const id = key(item)
    const child = old.get(id) ?? parent.appendChild(make(name, {}))
    old.delete(id)
    child.dataset.key = id
    update(child, item)
  }
  for (const child of old.values()) child.remove()
}

function make(name, attributes) {
  const element = document.createElementNS(SVG, name)
  set(element, attributes)
  return element
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value)
  }
}
