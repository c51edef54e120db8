// What was changed, as a list that can be taken back one by one:
// {kind: "move", right, down, turn} · {kind: "mute", node, map} · {kind: "cut", node, input} · {kind: "weight", node, tensor, index, value} · {kind: "cover", box}

import { sources } from "./words.js";

// What a change is a change of: a number that is changed twice has the later value, and an image has one place.
const key = (change) => {
  if (change.kind === "move") return "move";
  const { value, ...rest } = change;
  return JSON.stringify(rest);
};

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

export const ofImage = ({ kind }) => kind === "cover" || kind === "move";

// The image as it is changed; what is covered is 0, the data's mean. image: (channels, height, width).
export function changedImage(image, list, shape) {
  const [, channels, height, width] = shape, boxes = list.filter(({ kind }) => kind === "cover").map(({ box }) => box);
  const move = list.find(({ kind }) => kind === "move");
  if (!boxes.length && !move) return image;
  const found = move ? moved(image, move, shape) : image.slice();
  for (const [x0, y0, x1, y1] of boxes) {
    for (let c = 0; c < channels; c++) {
      for (let y = y0; y < y1; y++) found.fill(0, (c * height + y) * width + x0, (c * height + y) * width + x1);
    }
  }
  return found;
}

// Shifted by so many pixels and turned about its middle by so many degrees, clockwise; bilinear. The border
// goes on outside.
export function moved(image, { right, down, turn }, [, channels, height, width]) {
  const found = new Float32Array(image.length), angle = (turn * Math.PI) / 180, cos = Math.cos(angle), sin = Math.sin(angle);
  const cy = (height - 1) / 2, cx = (width - 1) / 2;
  const inside = (place, side) => Math.max(0, Math.min(side - 1, place));
  const at = (c, y, x) => image[(c * height + inside(y, height)) * width + inside(x, width)];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const dy = y - cy - down, dx = x - cx - right, sy = cy - sin * dx + cos * dy, sx = cx + cos * dx + sin * dy;
      const y0 = Math.floor(sy + 1e-9), x0 = Math.floor(sx + 1e-9), fy = Math.max(0, sy - y0), fx = Math.max(0, sx - x0);
      for (let c = 0; c < channels; c++) {
        found[(c * height + y) * width + x] = (at(c, y0, x0) * (1 - fx) + at(c, y0, x0 + 1) * fx) * (1 - fy)
          + (at(c, y0 + 1, x0) * (1 - fx) + at(c, y0 + 1, x0 + 1) * fx) * fy;
      }
    }
  }
  return found;
}

// graph: of the network that is changed; none for what is changed in the image.
export function inWords(change, graph) {
  if (change.kind === "move") return `image moved (right ${change.right}, down ${change.down}, turned ${change.turn}°)`;
  if (change.kind === "cover") {
    const [x0, y0, x1, y1] = change.box;
    return `${x1 - x0}×${y1 - y0} pixels covered: columns ${x0} to ${x1 - 1}, rows ${y0} to ${y1 - 1}`;
  }
  const node = graph.nodes[change.node];
  if (change.kind === "mute") return `map ${change.map} of ${node.name} muted`;
  if (change.kind === "cut") return `${node.name} without ${graph.nodes[sources(graph, change.node)[change.input]].name}`;
  const [, each, high, wide] = graph.tensors[change.tensor].shape, { index } = change, [i, y, x] = [Math.floor(index / (high * wide)), Math.floor(index / wide) % high, index % wide];
  return `${node.name}, kernel of map ${Math.floor(i / each)} for input ${i % each}: row ${y}, column ${x} set to ${change.value}`;
}
