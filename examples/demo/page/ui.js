// The page's elements: everything that is shown, and what the person asks for. It knows nothing about WebRTC.

const $ = (id) => document.getElementById(id)
const SPARK_POINTS = 60
const NO_READING = { roundTripMs: null, path: null, audio: {}, video: {} }

/**
 * Events (all `CustomEvent`): `start`, `leave`, `pattern` (start with a test picture), `retry`, `mic` {muted}, `camera` {off}, `hear` {on},
 * `measure` {on}, `pipeline` {settings}, `chat` {text}.
 */
export class Ui extends EventTarget {
  #inCall = false
  #spark = []
  #problemAction = null

  constructor() {
    super()
    this.local = $('local')
    this.remote = $('remote')
    this.voice = new Audio()
    this.voice.autoplay = true
    this.voice.muted = true
    this.showFigures(NO_READING, { dataTripMs: null, pictureMs: null, node: null })
    $('start').onclick = () => this.#emit(this.#inCall ? 'leave' : 'start')
    $('problem-action').onclick = () => this.#emit(this.#problemAction)
    this.#toggle('mic', (muted) => this.#emit('mic', { muted }))
    this.#toggle('camera', (off) => this.#emit('camera', { off }))
    this.#toggle('hear', (on) => this.#emit('hear', { on }))
    $('measure').onchange = () => this.#emit('measure', { on: $('measure').checked })
    $('pipeline').onsubmit = (event) => event.preventDefault()
    for (const id of ['blur', 'radius', 'gain']) {
      $(id).oninput = () => {
        this.#describeSliders()
        this.#note('pipeline-note', 'Applying …')
        this.#emit('pipeline', { settings: this.settings })
      }
    }
    $('chat').onsubmit = (event) => {
      event.preventDefault()
      const text = $('message').value.trim()
      if (!text) return
      $('message').value = ''
      this.#emit('chat', { text })
    }
  }

  /** What the controls of the pipeline say. */
  get settings() {
    return {
      blur: { enabled: $('blur').checked, radius: $('radius').valueAsNumber },
      voice: { gainDb: $('gain').valueAsNumber },
    }
  }

  /** Sets the controls to what the pipeline says it does. */
  set settings({ blur, voice }) {
    $('blur').checked = blur.enabled
    $('radius').value = blur.radius
    $('gain').value = voice.gainDb
    this.#describeSliders()
    this.#note('pipeline-note', 'The pipeline runs with these settings.')
  }

  get measures() {
    return $('measure').checked
  }

  set measures(on) {
    $('measure').checked = on
  }

  /** @param {'idle' | 'busy' | 'good' | 'bad'} tone */
  showState(text, tone) {
    $('state').dataset.tone = tone
    this.#note('state-text', text)
  }

  /** Between pressing Start and leaving. */
  showInCall(inCall) {
    this.#inCall = inCall
    const start = $('start')
    start.textContent = inCall ? 'Leave the call' : 'Start the call'
    start.classList.toggle('primary', !inCall)
    start.classList.toggle('danger', inCall)
    for (const id of ['mic', 'camera', 'hear']) {
      $(id).disabled = !inCall
      if (!inCall && $(id).getAttribute('aria-pressed') === 'true') $(id).click()
    }
    if (inCall) return
    this.showChannel(false)
    this.showLocal(null)
    this.showReturned(false)
    this.#spark = []
    this.showFigures(NO_READING, { dataTripMs: null, pictureMs: null, node: null })
  }

  showChannel(open) {
    $('pipeline-fields').disabled = !open
    $('message').disabled = !open
    $('send').disabled = !open
    if (!open) this.#note('pipeline-note', 'Settings apply once the call is connected.')
  }

  /** @param {MediaStream | null} stream */
  showLocal(stream, { mirrored = true } = {}) {
    this.local.srcObject = stream
    this.local.classList.toggle('mirrored', mirrored)
    this.remote.classList.toggle('mirrored', mirrored)
    $('local-empty').hidden = stream !== null
  }

  showReturned(shown) {
    $('remote-empty').hidden = shown
  }

  /** @param {import('./problems.js').Problem | null} problem */
  showProblem(problem) {
    $('problem').hidden = problem === null
    if (problem === null) return
    $('problem').dataset.tone = problem.tone ?? 'bad'
    this.#note('problem-title', problem.title)
    this.#note('problem-todo', problem.todo)
    this.#problemAction = problem.action ?? null
    const action = $('problem-action')
    action.hidden = this.#problemAction === null
    action.textContent = problem.action === 'pattern' ? 'Use a test picture' : 'Try again'
  }

  showRefusedSettings(why) {
    this.#note('pipeline-note', `The pipeline refused: ${why}`)
  }

  addChat(who, text) {
    const item = document.createElement('div')
    item.className = who === 'you' ? 'mine' : ''
    const name = document.createElement('b')
    name.textContent = who === 'you' ? 'You' : who
    item.append(name, text)
    this.#appendToLog(item)
  }

  addChatNote(text) {
    const item = document.createElement('div')
    item.className = 'note'
    item.textContent = text
    this.#appendToLog(item)
  }

  /** @param {{local: number, remote: number}} levels in dBFS */
  showLevels(levels) {
    for (const side of ['local', 'remote']) {
      const share = Math.max(0, Math.min(1, (levels[side] + 60) / 60))
      $(`${side}-level`).style.transform = `scaleX(${share.toFixed(3)})`
    }
  }

  /**
   * @param {Awaited<ReturnType<import('./stats.js').StatsReader['read']>>} reading
   * @param {{dataTripMs: number | null, pictureMs: number | null, node: object | null}} more
   */
  showFigures(reading, { dataTripMs, pictureMs, node }) {
    const { audio, video } = reading
    const back = video.received
    this.#note('fig-rtt', ms(dataTripMs ?? reading.roundTripMs))
    this.#note('fig-latency', ms(pictureMs))
    this.#note('fig-fps', back?.frames ? `${back.fps.toFixed(0)} fps` : '–')
    this.#note('fig-loss', share(back?.lossShare ?? null))
    this.#drawSpark(pictureMs ?? dataTripMs ?? reading.roundTripMs)

    const pair = (title, format, flows) => [title, ...flows.map((flow) => (flow ? format(flow) : '–'))]
    const videoFlows = [video.sent, back]
    const audioFlows = [audio.sent, audio.received]
    this.#fillTable([
      pair('Video codec', (f) => f.codec ?? '–', videoFlows),
      pair('Resolution', (f) => (f.width ? `${f.width} × ${f.height}` : '–'), videoFlows),
      pair('Frame rate', (f) => `${f.fps.toFixed(0)} fps`, videoFlows),
      pair('Video bitrate', (f) => bitrate(f.bitrateBps), videoFlows),
      pair('Video loss', (f) => share(f.lossShare), videoFlows),
      pair('Voice codec', (f) => (f.codec === 'opus' ? 'Opus' : (f.codec ?? '–')), audioFlows),
      pair('Voice bitrate', (f) => bitrate(f.bitrateBps), audioFlows),
      pair('Voice loss', (f) => share(f.lossShare), audioFlows),
      ...(node ? [['Frames in the pipeline', `${node.videoIn} in`, `${node.videoOut} out`]] : []),
    ])
    const describe = (f) => (f?.width ? `${f.width} × ${f.height} · ${f.codec ?? ''}` : '')
    this.#note('local-note', describe(video.sent))
    this.#note('remote-note', describe(back))
    const trip = reading.roundTripMs === null ? '' : `, network round trip ${ms(reading.roundTripMs)}`
    this.#note('path', reading.path ? `Path: ${reading.path}${trip}` : '')
  }

  #fillTable(rows) {
    const body = $('figures')
    while (body.rows.length > rows.length) body.deleteRow(-1)
    for (const [index, [title, ...cells]] of rows.entries()) {
      let row = body.rows[index]
      if (!row) {
        row = body.insertRow()
        const head = document.createElement('th')
        head.scope = 'row'
        row.append(head, document.createElement('td'), document.createElement('td'))
      }
      for (const [column, text] of [title, ...cells].entries()) {
        if (row.cells[column].textContent !== text) row.cells[column].textContent = text
      }
    }
  }

  #drawSpark(value) {
    if (value === null) return
    this.#spark.push(value)
    if (this.#spark.length > SPARK_POINTS) this.#spark.shift()
    const top = Math.max(...this.#spark) * 1.15 || 1
    const step = 300 / (SPARK_POINTS - 1)
    const from = 300 - (this.#spark.length - 1) * step
    const points = this.#spark.map(
      (v, i) => `${(from + i * step).toFixed(1)} ${(38 - (v / top) * 34).toFixed(1)}`,
    )
    $('spark-line').setAttribute('d', `M${points.join('L')}`)
    $('spark-area').setAttribute('d', `M${from.toFixed(1)} 40L${points.join('L')}L300 40Z`)
  }

  #describeSliders() {
    const gain = $('gain').valueAsNumber
    $('radius-value').textContent = `${$('radius').value} px`
    $('gain-value').textContent = `${gain > 0 ? '+' : gain < 0 ? '−' : ''}${Math.abs(gain)} dB`
  }

  #toggle(id, report) {
    $(id).onclick = () => {
      const pressed = $(id).getAttribute('aria-pressed') !== 'true'
      $(id).setAttribute('aria-pressed', pressed)
      report(pressed)
    }
  }

  #appendToLog(item) {
    const log = $('log')
    log.append(item)
    while (log.children.length > 200) log.firstChild.remove()
    log.scrollTop = log.scrollHeight
  }

  #note(id, text) {
    if ($(id).textContent !== text) $(id).textContent = text
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }))
  }
}

const ms = (value) =>
  value === null ? '–' : value < 9.95 ? `${value.toFixed(1)} ms` : `${value.toFixed(0)} ms`
const share = (value) => (value === null ? '–' : `${(value * 100).toFixed(1)} %`)
const bitrate = (bps) =>
  bps >= 1e6 ? `${(bps / 1e6).toFixed(2)} Mbit/s` : `${(bps / 1e3).toFixed(0)} kbit/s`
