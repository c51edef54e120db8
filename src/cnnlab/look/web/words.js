// What a layer does, in words.

import { mapsOf } from "./geometry.js";

const by = (pair) => pair.join("×");
const NAMES = {
  input: "image", add: "addition", sub: "difference", mul: "product", div: "quotient", cat: "concatenation",
  linear: "fully connected", batch_norm: "batch normalisation", group_norm: "group normalisation",
  layer_norm: "layer normalisation", mean: "average", amax: "maximum", relu: "ReLU", silu: "SiLU", gelu: "GELU", elu: "ELU",
  selu: "SELU", prelu: "PReLU", relu6: "ReLU6", leaky_relu: "leaky ReLU", matmul: "matrix product", log_softmax: "log softmax",
  adaptive_avg_pool2d: "average pool", adaptive_max_pool2d: "max pool", pixel_shuffle: "pixel shuffle",
  upsample_nearest2d: "enlarging (nearest)", upsample_bilinear2d: "enlarging (bilinear)",
};

export function describe(graph, node) {
  const { op, attributes: a } = node;
  if (op === "conv2d" || op === "conv_transpose2d") {
    const shape = graph.tensors[node.tensors.weight].shape, parts = [`${by(shape.slice(2))} ${op === "conv2d" ? "" : "transposed "}convolution`];
    if (Math.max(...a.stride) > 1) parts.push(`stride ${a.stride[0]}`);
    if (Math.max(...a.dilation) > 1) parts.push(`dilation ${Math.max(...a.dilation)}`);
    if (a.groups > 1) parts.push(`${a.groups} groups`);
    return parts.join(", ");
  }
  if (op === "max_pool2d" || op === "avg_pool2d") return `${by(a.kernel)} ${op[0] === "m" ? "max" : "average"} pool`;
  if ((op === "mean" || op === "amax") && mapsOf(node.shape).width === 1) return `global ${NAMES[op]}`;
  return NAMES[op] ?? op.replaceAll("_", " ");
}

export function sizeOf(node) {
  const { count, height, width } = mapsOf(node.shape);
  if (height * width === 1) return `${count} ${count === 1 ? "number" : "numbers"}`;
  return `${count} ${count === 1 ? "map" : "maps"} of ${height}×${width}`;
}

// The nodes that a node's inputs are seen as: those that only move numbers are left out.
export function sources(graph, number) {
  return graph.nodes[number].inputs.map((source) => {
    while (!graph.nodes[source].shown && graph.nodes[source].inputs.length) source = graph.nodes[source].inputs[0];
    return source;
  });
}

// Which map of the node that an input is seen as becomes `map` of that input: a shortcut may have left maps out, or put
// empty ones around them. -1: an empty one.
export function sourceMap(graph, input, map) {
  let number = input, axis = 1; // where the maps are: a permutation puts them elsewhere
  while (!graph.nodes[number].shown && graph.nodes[number].inputs.length) {
    const { op, attributes: a, inputs, shape } = graph.nodes[number], before = graph.nodes[inputs[0]].shape;
    if (op === "pad") map -= a.pad[2 * (shape.length - 1 - axis)] ?? 0; // the sides from the last on
    if (op === "slice" && a.dim === axis) map = a.start + a.step * map;
    if (op === "permute") axis = a.order[axis];
    if (map < 0 || (map >= before[axis] && shape.length === 4)) return -1;
    [number] = inputs;
  }
  return map;
}

// [{name, nodes: [numbers]}]: layers that belong together, in order.
export function stages(graph) {
  const found = [];
  graph.nodes.forEach((node, number) => {
    if (!node.shown) return;
    const parts = node.name.replace(/#\d+$/, "").split(".");
    const name = number === 0 ? "image" : parts.slice(0, Math.min(2, Math.max(1, parts.length - 1))).join(".");
    if (found.at(-1)?.name === name) found.at(-1).nodes.push(number);
    else found.push({ name, nodes: [number] });
  });
  return found;
}
