// What was changed, as a list that can be taken back one by one:
// {kind: "mute", node, map} · {kind: "cut", node, input} · {kind: "weight", node, tensor, index, value} · {kind: "cover", box}

import { sources } from "./words.js";

const key = ({ value, ...rest }) => JSON.stringify(rest); // a number that is changed twice has the later value

export const has = (list, change) => list.some((one) => key(one) === key(change));
export const without = (list, change) => list.filter((one) => key(one) !== key(change));
export const withChange = (list, change) => [...without(list, change), change];
export const toggled = (list, change) => has(list, change) ? without(list, change) : withChange(list, change);

// The edits as the network takes them.
export function editsOf(list) {
  const edits = { mute: {}, cut: {}, weights: {} };
  for (const change of list) {
    if (change.kind === "mute") (edits.mute[change.node] ??= []).push(change.map);
    if (change.kind === "cut") (edits.cut[change.node] ??= []).push(change.input);
    if (change.kind === "weight") (edits.weights[change.tensor] ??= {})[change.index] = change.value;
  }
  return edits;
}

// The image with its covered parts at the data's mean, which is 0. image: (channels, height, width).
export function covered(image, list, [, channels, height, width]) {
  const boxes = list.filter(({ kind }) => kind === "cover").map(({ box }) => box);
  if (!boxes.length) return image;
  const found = image.slice();
  for (const [x0, y0, x1, y1] of boxes) {
    for (let c = 0; c < channels; c++) {
      for (let y = y0; y < y1; y++) found.fill(0, (c * height + y) * width + x0, (c * height + y) * width + x1);
    }
  }
  return found;
}

export function inWords(change, graph) {
  const node = graph.nodes[change.node];
  if (change.kind === "mute") return `map ${change.map} of ${node.name} muted`;
  if (change.kind === "cut") return `${node.name} without ${graph.nodes[sources(graph, change.node)[change.input]].name}`;
  if (change.kind === "weight") return `one number of ${node.name} set to ${change.value}`;
  const [x0, y0, x1, y1] = change.box;
  return `${x1 - x0}×${y1 - y0} pixels covered`;
}
