// Connections that leave layers out, drawn beside the rows: shortcuts to an addition, maps that a concatenation takes over.

import { sources } from "./words.js";

const LANE = 7; // pixels from one line to the next
const GUTTER = 26;

// Draw into `svg`, which lies over `place`; rows: Map of node → {element} for the rows that are on the page.
export function drawJoins(svg, place, graph, rows) {
  const frame = place.getBoundingClientRect(), shown = [...rows.keys()].sort((a, b) => a - b), ends = [];
  const middle = (element) => { const box = element.getBoundingClientRect(); return box.top - frame.top + Math.min(20, box.height / 2); };
  const near = (node) => shown.filter((one) => one <= node).at(-1); // where a source is folded away, what is shown of its stage
  for (const node of shown) {
    if (graph.nodes[node].inputs.length < 2) continue;
    for (const source of new Set(sources(graph, node))) {
      const from = near(source), before = shown[shown.indexOf(node) - 1];
      if (from === undefined || from === before || from === node) continue;
      ends.push({ source, node, top: middle(rows.get(from).element), bottom: middle(rows.get(node).element) });
    }
  }
  const lanes = []; // the lowest end so far of each lane
  const paths = ends.sort((a, b) => a.top - b.top).map(({ source, node, top, bottom }) => {
    let lane = lanes.findIndex((end) => end < top);
    if (lane < 0) lane = lanes.length;
    lanes[lane] = bottom;
    const x = GUTTER - 6 - (lane % 3) * LANE;
    return `<path data-from="${source}" data-to="${node}" d="M${GUTTER} ${top}H${x + 4}Q${x} ${top} ${x} ${top + 4}V${bottom - 4}Q${x} ${bottom} ${x + 4} ${bottom}H${GUTTER}"/>`
      + `<path class="head" d="M${GUTTER - 5} ${bottom - 4}L${GUTTER} ${bottom}L${GUTTER - 5} ${bottom + 4}"/>`;
  });
  svg.setAttribute("width", GUTTER + 2);
  svg.setAttribute("height", frame.height);
  svg.innerHTML = paths.join("");
}
