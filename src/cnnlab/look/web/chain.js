// Layers in a row on a small image: their sizes, why one is impossible, their maps, and how a number came about.

import { outputSize } from "./geometry.js";
import { conv2d, convTranspose2d } from "./products.js";
import { windowAt } from "./view-convolution.js";

export const LARGEST = 96; // places of a side

// Side of what a layer makes of `input`, or why it makes nothing.
export function sizeAfter(input, { transposed, kernel, stride, padding, dilation }) {
  if (transposed) {
    const size = (input - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1;
    return size < 1 ? { why: `the padding cuts ${2 * padding} places off ${size + 2 * padding}: nothing is left. Use a smaller padding.` } : { size };
  }
  const reach = dilation * (kernel - 1) + 1;
  if (reach > input + 2 * padding) return { why: `the kernel reaches over ${reach} places and the input with its padding has ${input + 2 * padding}: it fits nowhere. Use a smaller kernel or dilation, or more padding.` };
  return { size: outputSize(input, kernel, stride, padding, padding, dilation) };
}

export function formula(input, { transposed, kernel, stride, padding, dilation }, size) {
  return transposed
    ? `(${input} − 1)·${stride} − 2·${padding} + ${dilation}·(${kernel} − 1) + 1 = ${size}`
    : `⌊(${input} + 2·${padding} − ${dilation}·(${kernel} − 1) − 1) / ${stride}⌋ + 1 = ${size}`;
}

const square = (side, value) => Float32Array.from({ length: side * side }, (_, i) => value(Math.floor(i / side), i % side));

// Kernels by name, for every side. A kernel of one number has no edges: it is 1.
const edge = (along) => (side) => side === 1 ? square(1, () => 1) : square(side, (y, x) => Math.sign(along(y, x) - (side - 1) / 2));
export const KERNELS = {
  "horizontal edge": edge((y) => y),
  "vertical edge": edge((y, x) => x),
  blur: (side) => square(side, () => 1 / (side * side)),
  sharpen: (side) => {
    const middle = Math.floor(side / 2), away = (y, x) => Math.abs(y - middle) + Math.abs(x - middle);
    const beside = square(side, (y, x) => Number(away(y, x) === 1)).reduce((a, b) => a + b);
    return square(side, (y, x) => away(y, x) === 0 ? 1 + beside : away(y, x) === 1 ? -1 : 0); // they sum to 1
  },
  "all one": (side) => square(side, () => 1),
  "0, 1, 2, …": (side) => square(side, (y, x) => y * side + x),
};

// Numbers of one's own in a kernel of another side: the middle stays where it was.
export function resized(numbers, from, to) {
  const shift = Math.floor(from / 2) - Math.floor(to / 2);
  return square(to, (y, x) => {
    const [iy, ix] = [y + shift, x + shift];
    return iy >= 0 && ix >= 0 && iy < from && ix < from ? numbers[iy * from + ix] : 0;
  });
}

// Distance of a point to a stroke from a to b, all (y, x).
function distance([y, x], [ay, ax], [by, bx]) {
  const [dy, dx] = [by - ay, bx - ax], along = Math.max(0, Math.min(1, ((y - ay) * dy + (x - ax) * dx) / (dy * dy + dx * dx)));
  return Math.hypot(y - ay - along * dy, x - ax - along * dx);
}

// Strokes (from, to) in a square of side 1, as by a pen of about a pixel; in tenths, so that they can be read as numbers.
const drawn = (strokes) => (side) => square(side, (y, x) => {
  const at = [(y + .5) / side, (x + .5) / side], off = Math.min(...strokes.map(([a, b]) => distance(at, a, b))) * side;
  return Math.round(10 * Math.max(0, Math.min(1, 1.25 - off))) / 10;
});

export const IMAGES = {
  "digit 4": drawn([[[.15, .6], [.6, .17]], [[.6, .17], [.6, .83]], [[.15, .6], [.87, .6]]]),
  "digit 7": drawn([[[.17, .2], [.17, .8]], [[.17, .8], [.85, .4]]]),
  "square": (side) => square(side, (y, x) => Number(Math.min(y, x) >= Math.floor(side / 4) && Math.max(y, x) < side - Math.floor(side / 4))),
  "one dot": (side) => square(side, (y, x) => Number(y === Math.floor(side / 2) && x === Math.floor(side / 2))),
  "ramp 0, 1, 2, …": (side) => square(side, (y, x) => y * side + x),
};

// image: (side, side); layers: [{transposed, kernel, stride, padding, dilation, numbers}]. The layers as a graph and what
// each makes of the image, as far as they are possible; `why[i]`: why layer i makes nothing, or null.
export function computed(image, side, layers) {
  const graph = { nodes: [{ op: "input", inputs: [], shape: [1, 1, side, side] }], tensors: [] }, values = [image], why = [];
  for (const layer of layers) {
    const broken = why.findIndex((one) => one !== null);
    if (broken >= 0) { why.push(`layer ${why.length + 1} has no input: layer ${broken + 1} is impossible.`); continue; }
    const from = graph.nodes.at(-1).shape, found = sizeAfter(from[2], layer), two = (v) => [v, v];
    const reason = found.size > LARGEST ? `${found.size}×${found.size} places are more than this page draws. Use a smaller ${layer.transposed ? "stride, kernel or dilation" : "padding"}.` : found.why ?? null;
    why.push(reason);
    if (reason) continue;
    const kernel = [1, 1, layer.kernel, layer.kernel], shape = [1, 1, found.size, found.size];
    const attributes = { stride: two(layer.stride), padding: two(layer.padding), dilation: two(layer.dilation), groups: 1, output_padding: [0, 0] };
    values.push((layer.transposed ? convTranspose2d : conv2d)(values.at(-1), from, layer.numbers, kernel, null, shape, attributes));
    graph.tensors.push({ shape: kernel });
    graph.nodes.push({ op: layer.transposed ? "conv_transpose2d" : "conv2d", inputs: [graph.nodes.length - 1], shape, attributes, tensors: { weight: graph.tensors.length - 1 } });
  }
  return { graph, values, why };
}

// The number that layer i (from 0) gives in row y, column x: for each number of its kernel what it is multiplied by (null:
// nothing there), the products and their sum.
export function termsOf({ graph, values }, layers, i, y, x) {
  const { kernel: side, transposed, numbers } = layers[i], { attributes: a } = graph.nodes[i + 1], [height, width] = graph.nodes[i].shape.slice(2);
  const seen = transposed ? reaching(values[i], [height, width], side, a, y, x) : windowAt(values[i], [height, width], [side, side], a, y, x);
  const kernel = Array.from({ length: side }, (_, ky) => Array.from(numbers.subarray(ky * side, (ky + 1) * side)));
  const products = seen.map((row, ky) => row.map((v, kx) => v === null ? null : v * kernel[ky][kx]));
  return { seen, kernel, products, sum: products.flat().reduce((sum, v) => sum + (v ?? 0), 0) };
}

// The numbers whose laid-down kernel reaches the place (y, x), where its number (ky, kx) lies on it.
function reaching(values, [height, width], side, { stride, padding, dilation }, y, x) {
  return Array.from({ length: side }, (_, ky) => Array.from({ length: side }, (_, kx) => {
    const iy = (y + padding[0] - ky * dilation[0]) / stride[0], ix = (x + padding[1] - kx * dilation[1]) / stride[1];
    return Number.isInteger(iy) && Number.isInteger(ix) && iy >= 0 && ix >= 0 && iy < height && ix < width ? values[iy * width + ix] : null;
  }));
}
