"""The report's style sheet and its one script, which only adds read-outs under the pointer."""

from __future__ import annotations

# Okabe and Ito's blue and vermilion, which stay apart for every kind of colour vision; lighter ones on dark paper.
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --panel: #f6f6f4; --ink: #1c1c1a; --soft: #63635e; --rule: #dededa;
  --train: #0072b2; --val: #d55e00; --floor: #63635e; }
@media (prefers-color-scheme: dark) { :root { --paper: #161618; --panel: #202023; --ink: #ececea; --soft: #a3a39d;
  --rule: #38383c; --train: #56b4e9; --val: #e69f00; --floor: #a3a39d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 912px; margin: 0 auto; padding: 32px 16px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 44px 0 12px; }
h3 { font-size: .95rem; margin: 0 0 4px; }
p { margin: 0 0 8px; }
.status { color: var(--soft); margin: 4px 0 14px; font-size: .9rem; }
.verdict { font-size: 1.15rem; line-height: 1.5; max-width: 46em; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(190px, 45%), 1fr)); gap: 10px;
  margin: 22px 0 0; padding: 0; }
.tiles div { background: var(--panel); border-radius: 6px; padding: 10px 14px; }
.tiles dt { color: var(--soft); font-size: .82rem; }
.tiles dd { margin: 0; font-size: 1.4rem; line-height: 1.3; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles small { display: block; font-size: .8rem; font-weight: 400; color: var(--soft); }
.charts { display: grid; grid-template-columns: 1fr 1fr; gap: 28px 24px; }
.chart { margin: 0; min-width: 0; }
.chart.wide { grid-column: 1 / -1; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; }
svg.slim { display: none; }
.tick { fill: var(--soft); font-variant-numeric: tabular-nums; }
.grid { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.line.train { stroke: var(--train); stroke-width: 1.3; opacity: .75; }
.line.val { stroke: var(--val); }
circle.train { fill: var(--train); } circle.val { fill: var(--val); }
.best { fill: none; stroke: var(--val); stroke-width: 2; }
.floor { stroke: var(--floor); stroke-width: 1.5; stroke-dasharray: 6 4; }
.cursor, .leader { stroke: var(--soft); stroke-width: 1; }
.mark { fill: var(--ink); stroke: var(--paper); stroke-width: 4; paint-order: stroke; stroke-linejoin: round; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .85rem; color: var(--soft); margin: 0 0 4px; }
.key { display: inline-block; width: 18px; height: 3px; border-radius: 2px; margin-right: 6px; vertical-align: middle; }
.key.train { background: var(--train); } .key.val { background: var(--val); }
.foot { position: relative; }
.readout { position: absolute; right: 0; top: 0; left: 84px; margin: 0; text-align: right; font-size: .82rem;
  color: var(--soft); font-variant-numeric: tabular-nums; }
.note { font-size: .85rem; color: var(--soft); margin: 2px 0 0; }
details { margin: 6px 0; } summary { cursor: pointer; color: var(--soft); font-size: .85rem; width: fit-content; }
.scroll { max-height: 260px; overflow: auto; margin-top: 6px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; width: 100%; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { text-align: right; padding: 5px 0 5px 14px; border-bottom: 1px solid var(--rule); font-weight: 400;
  vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--soft); font-size: .82rem; }
details details { margin-left: 16px; }
.facts { width: auto; } .facts td { text-align: left; padding-left: 32px; overflow-wrap: anywhere; }
td.bar { width: 40%; min-width: 60px; vertical-align: middle; }
td.bar i { display: block; height: 10px; border-radius: 2px; background: var(--train); min-width: 1px; }
blockquote { margin: 0 0 14px; padding: 12px 16px; background: var(--panel); border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; font-family: Georgia, "Times New Roman", serif; line-height: 1.6; max-width: 46em; }
pre { background: var(--panel); border-radius: 6px; padding: 12px 16px; overflow-x: auto; font-size: .85rem;
  line-height: 1.5; margin: 6px 0 12px; font-family: ui-monospace, "SF Mono", Consolas, monospace; }
.bars tbody th { overflow-wrap: anywhere; }
@media (max-width: 640px) { .bars .bar { display: none; } .bars th, .bars td { padding-left: 10px; }
  .bars th:first-child { padding-left: 0; } .facts td { padding-left: 12px; }
  .chart table { font-size: .82rem; } .charts { grid-template-columns: 1fr; } svg.broad { display: none; }
  svg.slim { display: block; } main { padding-top: 20px; } }
@media print { .foot, details { display: none; } }
"""

# The numbers come from the table under each chart, so the page carries them once.
SCRIPT = """
for (const chart of document.querySelectorAll(".chart")) {
  const names = [...chart.querySelectorAll("thead th")].map(cell => cell.textContent);
  const rows = [...chart.querySelectorAll("tbody tr")].map(row => [...row.cells].map(cell => cell.textContent));
  const steps = rows.map(row => +row[0].replaceAll(",", ""));
  const readout = chart.querySelector(".readout");
  for (const svg of chart.querySelectorAll("svg")) {
    const [left, right, first, last] = svg.dataset.span.split(" ").map(Number);
    const cursor = svg.querySelector(".cursor");
    svg.addEventListener("pointermove", event => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
      const step = first + (x - left) / (right - left) * (last - first);
      const texts = [];
      let shown = null;
      for (let column = 1; column < names.length; column++) {
        let best = -1;
        rows.forEach((row, index) => {
          if (row[column] && (best < 0 || Math.abs(steps[index] - step) < Math.abs(steps[best] - step))) best = index;
        });
        if (shown === null) shown = best;
        texts.push(`${names[column]} ${rows[best][column]} at step ${rows[best][0]}`);
      }
      readout.textContent = texts.join(" \\u00b7 ");
      const at = left + (steps[shown] - first) / (last - first) * (right - left);
      cursor.setAttribute("transform", `translate(${at} 0)`);
      cursor.setAttribute("visibility", "visible");
    });
    svg.addEventListener("pointerleave", () => {
      readout.textContent = "";
      cursor.setAttribute("visibility", "hidden");
    });
  }
}
"""
