/** The chart of docs/benchmarks.md as SVG: appends a second and what they cost, by clients and subject. */
import { figure } from './markdown.ts';
import type { Row } from './summary.ts';

const PANEL = { width: 430, height: 250, top: 56, gap: 60, left: 20 } as const;
const BAR = { width: 26, gap: 3, groupGap: 28 } as const;
const COLOURS = ['#2563eb', '#94a3b8', '#cbd5e1', '#f59e0b', '#10b981', '#a855f7'];
const INK = '#1f2937';

interface Panel {
  readonly title: string;
  readonly value: (row: Row) => number | null;
}

const PANELS: readonly Panel[] = [
  { title: 'Appends a second (more is better)', value: (row) => row.perSecond },
  { title: 'CPU seconds per 1,000 appends (less is better)', value: (row) => row.cpuPer1000 },
];

const escaped = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');

/** Groups of bars: one group for each point, one bar for each subject. Rows come from one scenario. */
export function chart(rows: readonly Row[]): string {
  const subjects = [...new Set(rows.map(({ subject }) => subject))];
  const labels = [...new Set(rows.map(({ point }) => point.label))];
  const groupWidth = subjects.length * (BAR.width + BAR.gap) + BAR.groupGap;
  const panelWidth = Math.max(PANEL.width, labels.length * groupWidth);
  const width = PANEL.left * 2 + PANELS.length * panelWidth + (PANELS.length - 1) * PANEL.gap;
  const height = PANEL.top + PANEL.height + 40;
  const parts = PANELS.map((panel, i) => drawPanel(panel, { rows, subjects, labels, groupWidth, x: PANEL.left + i * (panelWidth + PANEL.gap) }));
  const legend = subjects.map((subject, i) => {
    const x = PANEL.left + i * 110;
    return `<rect x="${x}" y="14" width="12" height="12" fill="${colourOf(i)}"/><text x="${x + 18}" y="24">${escaped(subject)}</text>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="12" fill="${INK}" role="img">`,
    '<title>Appends a second and CPU seconds per 1,000 appends, by number of clients</title>',
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    ...legend,
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}

function colourOf(i: number): string {
  return COLOURS[i % COLOURS.length] ?? INK;
}

interface Place {
  readonly rows: readonly Row[];
  readonly subjects: readonly string[];
  readonly labels: readonly string[];
  readonly groupWidth: number;
  readonly x: number;
}

function drawPanel({ title, value }: Panel, { rows, subjects, labels, groupWidth, x }: Place): string {
  const most = Math.max(...rows.map((row) => value(row) ?? 0), Number.MIN_VALUE);
  const floor = PANEL.top + PANEL.height;
  const out = [`<text x="${x}" y="${PANEL.top - 12}" font-weight="600">${escaped(title)}</text>`];
  labels.forEach((label, group) => {
    const left = x + group * groupWidth;
    subjects.forEach((subject, i) => {
      const row = rows.find((one) => one.subject === subject && one.point.label === label);
      const of = row === undefined ? null : value(row);
      if (of === null) return;
      const bar = Math.max(1, (of / most) * (PANEL.height - 24));
      const at = left + i * (BAR.width + BAR.gap);
      out.push(`<rect x="${at}" y="${(floor - bar).toFixed(1)}" width="${BAR.width}" height="${bar.toFixed(1)}" fill="${colourOf(i)}"><title>${escaped(`${subject}, ${label}: ${figure(of)}`)}</title></rect>`);
      out.push(`<text x="${at + BAR.width / 2}" y="${(floor - bar - 4).toFixed(1)}" font-size="8" text-anchor="middle">${figure(of)}</text>`);
    });
    out.push(`<text x="${left + (groupWidth - BAR.groupGap) / 2}" y="${floor + 18}" text-anchor="middle">${escaped(label)}</text>`);
  });
  out.push(`<line x1="${x}" y1="${floor}" x2="${x + labels.length * groupWidth - BAR.groupGap}" y2="${floor}" stroke="${INK}"/>`);
  return out.join('\n');
}
