// Rows as a Markdown table.

export function table(head, rows) {
  const line = (cells) => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

export const mbps = (bps) => (bps / 1e6).toFixed(2)
export const percent = (share) => `${(100 * share).toFixed(1)} %`
export const seconds = (value) => (Number.isFinite(value) ? value.toFixed(1) : 'never')
export const ms = (value) => (Number.isFinite(value) ? Math.round(value).toString() : '-')
