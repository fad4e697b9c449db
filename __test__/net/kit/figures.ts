/** What tests measured, told once at the end of each file: bounds say that it is good enough, figures say how good. */
const figures: string[] = []

export function figure(what: string, value: number | string, unit = 'ms'): void {
  figures.push(`${what}: ${typeof value === 'number' ? `${Math.round(value)} ${unit}` : value}`)
}

export function tellFigures(): void {
  if (figures.length > 0) process.stderr.write(`${figures.map((line) => `  measured  ${line}`).join('\n')}\n`)
  figures.length = 0
}
