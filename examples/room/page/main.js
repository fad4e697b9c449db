// The room's page: joins the mesh, draws it, tells what happens, and has the buttons.

import { Graph, kind, ms, quality } from './graph.js'
import { Mesh, pair } from './mesh.js'

const LOG_LINES = 100
const $ = (id) => document.getElementById(id)

const config = await fetch('config.json').then((response) => response.json())
const mesh = new Mesh({
  url: `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/signaling`,
  room: config.room,
  peerId: `page-${crypto.getRandomValues(new Uint16Array(1))[0].toString(36)}`,
})
const graph = new Graph(choose)
/** Peers that were cut off from here, for as long as that lasts. */
const cut = new Set()
let chosen = mesh.peerId
let before = { peers: new Set([mesh.peerId]), links: new Map() }

const nameOf = (id) => (id === mesh.peerId ? 'this page' : id)
const STATES = {
  new: 'not connected',
  connecting: 'connecting',
  connected: 'connected',
  disconnected: 'interrupted',
  failed: 'failed',
  closed: 'closed',
  unknown: 'not heard of lately',
}

function show() {
  const { peers, links } = mesh
  if (!peers.includes(chosen)) chosen = mesh.peerId
  tellChanges(peers, links)
  graph.draw({ peers, links, self: mesh.peerId, chosen, cut })
  const up = links.filter(({ state }) => state === 'connected').length
  const all = (peers.length * (peers.length - 1)) / 2
  note('summary', `${peers.length} ${peers.length === 1 ? 'peer' : 'peers'}, ${up} of ${all} links connected`)
  fillRows(links)
  fillChoice(peers)
}

function tellChanges(peers, links) {
  for (const id of peers) if (!before.peers.has(id)) log('good', `${nameOf(id)} joined`)
  for (const id of before.peers) if (!peers.includes(id)) log('bad', `${nameOf(id)} left`)
  const next = new Map()
  for (const link of links) {
    const key = pair(link.a, link.b)
    const was = before.links.get(key) ?? { up: undefined, downAt: 0 }
    next.set(key, tellLink(link, was) ?? was)
  }
  before = { peers: new Set(peers), links: next }
}

/** Tells of a link that came up or went down, once; returns what is to be remembered of it if that changed. */
function tellLink({ a, b, state }, { up, downAt }) {
  const who = `${nameOf(a)} and ${nameOf(b)}`
  const now = performance.now()
  if (state === 'connected' && !up) {
    if (up === undefined) log('good', `${who}: connected`)
    else log('good', `${who}: back after ${((now - downAt) / 1000).toFixed(1)} s`)
    return { up: true, downAt }
  }
  if ((state === 'disconnected' || state === 'failed') && up !== false) {
    log(state === 'failed' ? 'bad' : 'warn', `${who}: ${STATES[state]}`)
    return { up: false, downAt: now }
  }
}

function log(tone, text) {
  const line = document.createElement('li')
  line.dataset.tone = tone
  const time = document.createElement('time')
  time.textContent = new Date().toLocaleTimeString('en-GB')
  line.append(time, ` ${text}`)
  const list = $('log')
  const atEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 8
  list.append(line)
  while (list.children.length > LOG_LINES) list.firstChild.remove()
  if (atEnd) list.scrollTop = list.scrollHeight
}

function fillRows(links) {
  const body = $('rows')
  // Own links and the chosen peer's first; the others follow.
  const near = ({ a, b }) => a === chosen || b === chosen
  const rows = [...links.filter(near), ...links.filter((link) => !near(link))]
  while (body.rows.length > rows.length) body.deleteRow(-1)
  rows.forEach((link, i) => {
    let row = body.rows[i]
    if (!row) {
      row = body.insertRow()
      const head = document.createElement('th')
      head.scope = 'row'
      row.append(head, ...Array.from({ length: 4 }, () => document.createElement('td')))
    }
    row.dataset.state = link.state
    const { path, roundTripMs } = link
    const route = path ? `${path.local} – ${path.remote}, ${path.protocol}` : '–'
    const cells = [
      `${nameOf(link.a)} – ${nameOf(link.b)}`,
      STATES[link.state] ?? link.state,
      path && kind(link) !== '–' ? route : '–',
      roundTripMs === null || link.state !== 'connected' ? '–' : ms(roundTripMs),
      { good: 'good', fair: 'fair', poor: 'poor', none: '–' }[quality(link)],
    ]
    cells.forEach((text, column) => {
      if (row.cells[column].textContent !== text) row.cells[column].textContent = text
    })
  })
}

function fillChoice(peers) {
  const select = $('who')
  const want = peers.join()
  if (select.dataset.peers !== want) {
    select.dataset.peers = want
    select.replaceChildren(...peers.map((id) => new Option(nameOf(id), id)))
  }
  select.value = chosen
  const ours = chosen.startsWith('node-')
  $('cut').disabled = !ours || cut.has(chosen)
  $('remove').disabled = !ours
}

function choose(id) {
  chosen = id
  show()
}

async function ask(method, path) {
  const response = await fetch(path, { method, headers: { 'x-room': '1' } })
  const body = await response.json()
  if (!response.ok) throw new Error(body.error)
  return body
}

function button(id, busy, act) {
  $(id).onclick = async () => {
    note('control-note', busy)
    try {
      note('control-note', await act())
    } catch (error) {
      note('control-note', `That did not work: ${error.message}`)
    }
  }
}

function note(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text
}

function pill(tone, text) {
  $('state').dataset.tone = tone
  note('state-text', text)
}

button('add', 'Starting a Node process …', async () => `${(await ask('POST', 'peers')).id} has joined.`)
button('remove', 'Ending it …', async () => `${(await ask('DELETE', `peers/${chosen}`)).id} is gone.`)
button('cut', 'Cutting it off …', async () => {
  const id = chosen
  await ask('POST', `peers/${id}/cut`)
  cut.add(id)
  show()
  setTimeout(() => {
    cut.delete(id)
    note('control-note', `${id} goes on, and does not know that it was away.`)
    show()
  }, config.cutMs)
  return `${id} hears and says nothing for ${config.cutMs / 1000} s.`
})
$('who').onchange = () => choose($('who').value)
addEventListener('pagehide', () => mesh.close())

mesh.addEventListener('change', show)
mesh.addEventListener('lost', () => pill('busy', 'Signaling lost, links live on'))
mesh.addEventListener('found', () => pill('good', 'In the room'))
// What was told grows old by itself.
setInterval(show, 1000)

try {
  await mesh.join()
} catch (error) {
  pill('bad', 'Not in the room')
  note('problem-title', 'The room does not answer')
  note(
    'problem-todo',
    `${error.message}. Is “node examples/room/main.mjs” still running? Then load this page again.`,
  )
  $('problem').hidden = false
}

/** For scripts that drive the page. */
window.room = {
  peerId: mesh.peerId,
  get peers() {
    return mesh.peers
  },
  get links() {
    return mesh.links
  },
}
