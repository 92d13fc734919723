// The latency table: a heading per placement, below it a row per model.

import type { Row } from './benchmark';

/** An element with nothing but text in it. */
export function element(tag: string, text: string): HTMLElement {
  return Object.assign(document.createElement(tag), { textContent: text });
}

/** The rows of one placement below its heading; none without rows. */
export function latencyRows(place: string, all: Row[]): HTMLTableRowElement[] {
  const own = all.filter((row) => row.placement === place);
  if (own.length === 0) return [];
  const heading = Object.assign(document.createElement('th'), { textContent: place, colSpan: 5, scope: 'rowgroup' });
  return [tableRow(heading), ...own.map((row) => {
    const speedup = row.speedup === '' ? '–' : `${row.speedup.toFixed(2)}× (${row.speedup_low} to ${row.speedup_high})`;
    const cells = [row.artifact, row.p50_ms.toFixed(1), speedup, String(row.sqnr_db), row.size_mb.toFixed(1)];
    return tableRow(...cells.map((text) => element('td', text)));
  })];
}

function tableRow(...cells: HTMLElement[]): HTMLTableRowElement {
  const row = document.createElement('tr');
  row.append(...cells);
  return row;
}
