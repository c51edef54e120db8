// A convolution to play with: its settings, its arithmetic, and what it makes of a small image.

import { boxOf, inputBox, outputSize, receptiveField } from "./geometry.js";
import { make } from "./paint.js";
import { conv2d, convTranspose2d } from "./products.js";
import { line, picture, strong } from "./tables.js";

const $ = (id) => document.getElementById(id);
const MOST = 4, LARGEST = 96; // layers; places of a side
const SETTINGS = { kernel: [1, 7], stride: [1, 4], padding: [0, 4], dilation: [1, 3] };
const fresh = () => ({ transposed: false, kernel: 3, stride: 1, padding: 1, dilation: 1 });
const state = { layers: [fresh()], place: 0, timer: null };

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

function kernelOf(kind, side) {
  const middle = (side - 1) / 2;
  return Float32Array.from({ length: side * side }, (_, i) => {
    const y = Math.floor(i / side), x = i % side;
    if (kind === "ramp") return i;
    if (kind === "blur" || side === 1) return 1 / (side * side);
    return (kind === "edges" ? y - middle : x - middle) / side;
  });
}

// A ring and a stroke: something with edges in every direction.
function imageOf(side) {
  const middle = (side - 1) / 2, radius = side / 3;
  return Float32Array.from({ length: side * side }, (_, i) => {
    const y = Math.floor(i / side) - middle, x = (i % side) - middle;
    return Math.abs(Math.hypot(y, x) - radius) < .8 || (Math.abs(y) < .6 && x > 0) ? 1 : 0;
  });
}

// The layers as a graph, as far as they are possible, and what each makes of the image.
function computed() {
  const side = Number($("size").value), graph = { nodes: [{ op: "input", inputs: [], shape: [1, 1, side, side] }], tensors: [] }, values = [imageOf(side)];
  for (const layer of state.layers) {
    const from = graph.nodes.at(-1).shape, { size, why } = sizeAfter(from[2], layer), two = (v) => [v, v];
    if (why || size > LARGEST) return { graph, values, why: why ?? `${size}×${size} places are more than this page draws. Use a smaller stride.` };
    const kernel = [1, 1, layer.kernel, layer.kernel], shape = [1, 1, size, size], weight = kernelOf($("kernel").value, layer.kernel);
    const attributes = { stride: two(layer.stride), padding: two(layer.padding), dilation: two(layer.dilation), groups: 1, output_padding: [0, 0] };
    values.push((layer.transposed ? convTranspose2d : conv2d)(values.at(-1), from, weight, kernel, null, shape, attributes));
    graph.tensors.push({ shape: kernel });
    graph.nodes.push({ op: layer.transposed ? "conv_transpose2d" : "conv2d", inputs: [graph.nodes.length - 1], shape, attributes, tensors: { weight: graph.tensors.length - 1 } });
  }
  return { graph, values, why: null };
}

// For each node the part of it that a place of the last one depends on.
function boxesBack(graph, y, x) {
  const boxes = [boxOf(graph.nodes.at(-1).shape, 0, y, x)];
  for (let i = graph.nodes.length - 1; i > 0; i--) boxes.unshift(inputBox(graph, graph.nodes[i], 0, boxes[0]));
  return boxes;
}

function controls(layer, number) {
  const change = (name, value) => { layer[name] = value; draw(); };
  return make("fieldset", { class: "settings" }, make("legend", {}, `Layer ${number + 1}`),
    ...Object.entries(SETTINGS).map(([name, [min, max]]) => make("label", { class: "slide" }, name,
      make("input", { type: "range", min, max, value: layer[name], "data-name": `${number} ${name}`, oninput: (e) => change(name, Number(e.target.value)) }), make("output", {}, String(layer[name])))),
    make("label", {}, make("input", { type: "checkbox", checked: layer.transposed, "data-name": `${number} transposed`, onchange: (e) => change("transposed", e.target.checked) }), " transposed"));
}

function draw() {
  const { graph, values, why } = computed(), last = graph.nodes.at(-1).shape, area = last[2] * last[3];
  state.place = ((state.place % area) + area) % area;
  const y = Math.floor(state.place / last[3]), x = state.place % last[3], boxes = boxesBack(graph, y, x);
  const shown = (i) => {
    const [, , [y0, y1], [x0, x1]] = boxes[i], [, , height, width] = graph.nodes[i].shape;
    return picture(`${height}×${width}`, values[i], height, width, { at: [y0, x0, y1 - y0, x1 - x0] });
  };
  const focused = document.activeElement?.dataset?.name;
  $("chain").replaceChildren(make("section", { class: "layer" }, make("h3", {}, "Image"), shown(0)), ...state.layers.map((layer, i) => {
    const input = graph.nodes[i]?.shape[2], node = graph.nodes[i + 1], taps = layer.kernel ** 2;
    if (!input) return null;
    const words = node ? [line(strong(formula(input, layer, node.shape[2]))), line(layer.transposed
      ? `Each of the ${input}² numbers is laid over ${layer.kernel}×${layer.kernel} places of the output, ${layer.stride} apart.`
      : `Each number is a sum of ${layer.kernel}·${layer.kernel} = ${taps} products; the windows are ${layer.stride} apart.`)] : [make("p", { class: "notice" }, `Impossible: ${why}`)];
    return make("section", { class: "layer play" }, controls(layer, i), node ? shown(i + 1) : make("span"), make("div", {}, ...words));
  }).filter(Boolean));
  if (focused) document.querySelector(`[data-name="${focused}"]`)?.focus();
  const field = receptiveField(graph, graph.nodes.length - 1, boxes.at(-1));
  $("field").textContent = field ? `The place in row ${y}, column ${x} of the last layer depends on ${field[3] - field[1]}×${field[2] - field[0]} pixels of the image.` : "This place depends on no pixel.";
  $("size").nextElementSibling.textContent = $("size").value;
  $("add").disabled = state.layers.length >= MOST || why !== null;
  $("remove").disabled = state.layers.length < 2;
}

const step = (by) => { state.place += by; draw(); };
function play() {
  const on = state.timer === null;
  clearInterval(state.timer);
  state.timer = on ? setInterval(() => step(1), 350) : null;
  $("play").textContent = on ? "Pause" : "Play";
  $("play").setAttribute("aria-pressed", on);
}

if (globalThis.document) { // not in the tests of its arithmetic
  $("size").addEventListener("input", draw);
  $("kernel").addEventListener("change", draw);
  $("next").addEventListener("click", () => step(1));
  $("back").addEventListener("click", () => step(-1));
  $("play").addEventListener("click", play);
  $("add").addEventListener("click", () => { state.layers.push(fresh()); draw(); });
  $("remove").addEventListener("click", () => { state.layers.pop(); draw(); });
  draw();
}
