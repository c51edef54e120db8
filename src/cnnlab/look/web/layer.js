// A convolution to play with: layers in a row, and the number that the kernel gives where it stands.

import { boxOf, inputBox, receptiveField } from "./geometry.js";
import { computed, formula, IMAGES, KERNELS, resized, termsOf } from "./chain.js";
import { make, number } from "./paint.js";
import { grid, line, picture, sign, strong } from "./tables.js";

const $ = (id) => document.getElementById(id);
const MOST = 4, PACE = 350; // layers; milliseconds for a step of the kernel
const SETTINGS = { kernel: [1, 7], stride: [1, 4], padding: [0, 4], dilation: [1, 3] };
const OWN = "numbers of your own";
const short = (value) => Math.abs(value) >= 1e5 ? number(value) : String(Math.round(value * 1000) / 1000).replace("-", "−");
// The kernel stands in layer `at` (from 0), row y, column x of its output.
const state = { layers: [], at: 0, y: 4, x: 2, timer: null };

function addLayer() {
  const layer = { transposed: false, kernel: 3, stride: 1, padding: 1, dilation: 1, preset: "horizontal edge" };
  layer.numbers = KERNELS[layer.preset](layer.kernel);
  Object.assign(layer, controls(layer, state.layers.length));
  state.layers.push(layer);
  $("chain").append(layer.card);
  state.at = state.layers.length - 1;
}

// The card of a layer: its controls, which stay while one drags them, and `below` what follows from them.
function controls(layer, i) {
  const changed = () => { state.at = i; draw(); };
  const slider = (name) => {
    const [min, max] = SETTINGS[name], output = make("output", {}, String(layer[name]));
    return make("label", { class: "slide" }, name, make("input", { type: "range", min, max, value: layer[name], "data-name": `${i} ${name}`, oninput: ({ target }) => {
      const before = layer.kernel;
      layer[name] = Number(target.value);
      output.textContent = target.value;
      if (name === "kernel") layer.numbers = layer.preset === OWN ? resized(layer.numbers, before, layer.kernel) : KERNELS[layer.preset](layer.kernel);
      changed();
    } }), output);
  };
  const preset = make("select", { "data-name": `${i} numbers`, onchange: ({ target }) => {
    layer.preset = target.value;
    if (layer.preset !== OWN) layer.numbers = KERNELS[layer.preset](layer.kernel);
    changed();
  } }, ...[...Object.keys(KERNELS), OWN].map((name) => make("option", {}, name)));
  const transposed = make("input", { type: "checkbox", "data-name": `${i} transposed`, onchange: ({ target }) => { layer.transposed = target.checked; changed(); } });
  const settings = make("fieldset", { class: "settings" }, make("legend", {}, `Layer ${i + 1}`), make("label", { class: "slide" }, "numbers", preset),
    ...Object.keys(SETTINGS).map(slider), make("label", { class: "check" }, transposed, "transposed"));
  const below = make("div", { class: "below" });
  return { select: preset, below, card: make("section", { class: "card", "aria-label": `Layer ${i + 1}` }, settings, below) };
}

// Output of layer i (-1: the image), with what the chosen place was made from.
function pictureOf({ graph, values }, i, boxes, click = null) {
  const [, , height, width] = graph.nodes[i + 1].shape, box = boxes[i + 1], at = box && [box[2][0], box[3][0], box[2][1] - box[2][0], box[3][1] - box[3][0]];
  const shown = picture(`${i < 0 ? "image" : `output of layer ${i + 1}`}, ${height}×${width}`, values[i + 1], height, width, { at, click });
  if (at && i === state.at - 1) holes(shown.querySelector(".frame"), state.layers[state.at], height);
  return shown;
}

// An output to click at, or to walk in with arrow keys: there the kernel is put.
function map(found, i, boxes) {
  const [, , height, width] = found.graph.nodes[i + 1].shape, within = (v, side) => Math.max(0, Math.min(side - 1, v));
  const shown = pictureOf(found, i, boxes, (event) => {
    if (!event.detail) return; // without a pointer there is no place
    const frame = shown.querySelector(".frame").getBoundingClientRect(), place = (part, side) => within(Math.floor(part * side), side);
    go(i, place((event.clientY - frame.top) / frame.height, height), place((event.clientX - frame.left) / frame.width, width));
  });
  shown.classList.add("map");
  shown.dataset.name = `${i} map`;
  shown.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!by) return;
    event.preventDefault();
    const [y, x] = state.at === i ? [state.y + by[0], state.x + by[1]] : [state.y, state.x];
    go(i, within(y, height), within(x, width));
  });
  return shown;
}

// The places that a dilated kernel takes, of all that it reaches over.
function holes(frame, { transposed, kernel, stride, padding, dilation }, side) {
  if (transposed || dilation === 1) return;
  for (let i = 0; i < kernel * kernel; i++) {
    const y = state.y * stride - padding + Math.floor(i / kernel) * dilation, x = state.x * stride - padding + (i % kernel) * dilation, share = (v) => `${(100 * v) / side}%`;
    if (y >= 0 && x >= 0 && y < side && x < side) frame.append(make("span", { class: "tap", style: `left:${share(x)};top:${share(y)};width:${share(1)};height:${share(1)}` }));
  }
}

function equation(found, i, boxes) {
  const layer = state.layers[i], { seen, kernel, products, sum } = termsOf(found, state.layers, i, state.y, state.x);
  const edit = (y, x, to) => {
    Object.assign(layer, { preset: OWN, numbers: layer.numbers.slice() });
    layer.numbers[y * layer.kernel + x] = to;
    draw();
  };
  const none = layer.transposed ? ["–", "no number is laid over it with this number of the kernel"] : undefined, text = short, before = i ? `output of layer ${i}` : "image";
  return make("div", { class: "equation" },
    make("h5", {}, `How the number in row ${state.y}, column ${state.x} of layer ${i + 1} comes about`),
    make("div", { class: "numbers" }, make("div", { class: "echo", "aria-hidden": "true" }, pictureOf(found, i - 1, boxes)), grid(layer.transposed ? "numbers that reach it" : `window of the ${before}`, seen, { none, text }), sign("×"),
      grid("kernel: type to change it", kernel, { edit }), sign("="), grid("products", products, { none, text }), sign("sum"), make("span", { class: "total" }, short(sum))));
}

// What follows from a layer's settings: its map, its size, or why there is none.
function shown(found, i, boxes) {
  const layer = state.layers[i], input = found.graph.nodes[i]?.shape[2], node = found.graph.nodes[i + 1];
  if (!node) return [make("p", { class: "notice" }, input ? `Impossible: ${found.why[i]}` : `${found.why[i][0].toUpperCase()}${found.why[i].slice(1)}`)];
  const words = [line("Size: ", strong(formula(input, layer, node.shape[2]))),
    make("p", { class: "small" }, layer.transposed ? "(input − 1)·stride − 2·padding + dilation·(kernel − 1) + 1" : "⌊(input + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1"), line(layer.transposed
    ? `Each of the ${input}×${input} numbers is multiplied by the whole kernel and laid over ${layer.kernel}×${layer.kernel} places of the output, ${layer.stride} apart; what falls on a place is added.`
    : `Each of the ${node.shape[2]}×${node.shape[2]} numbers is a sum of ${layer.kernel}·${layer.kernel} = ${layer.kernel ** 2} products; the windows are ${layer.stride} apart.`)];
  return [map(found, i, boxes), make("div", { class: "words" }, ...words), i === state.at ? equation(found, i, boxes) : null].filter(Boolean);
}

// For each node up to that where the kernel stands the part of it that its number depends on.
function boxesBack({ graph }) {
  const boxes = [];
  if (!graph.nodes[state.at + 1]) return boxes;
  boxes[state.at + 1] = boxOf(graph.nodes[state.at + 1].shape, 0, state.y, state.x);
  for (let i = state.at + 1; i > 0; i--) boxes[i - 1] = inputBox(graph, graph.nodes[i], 0, boxes[i]);
  return boxes;
}

function draw() {
  const side = Number($("size").value), found = computed(IMAGES[$("image").value](side), side, state.layers);
  const possible = found.graph.nodes.length - 2; // the last layer that gives something
  if (possible >= 0) {
    state.at = Math.min(state.at, possible);
    const [, , height, width] = found.graph.nodes[state.at + 1].shape;
    Object.assign(state, { y: Math.min(state.y, height - 1), x: Math.min(state.x, width - 1) });
  }
  const boxes = boxesBack(found), focused = document.activeElement, name = focused?.dataset.name, cell = focused?.dataset.cell, card = focused?.closest(".card");
  $("input").replaceChildren(pictureOf(found, -1, boxes));
  state.layers.forEach((layer, i) => {
    layer.select.value = layer.preset;
    layer.below.replaceChildren(...shown(found, i, boxes));
  });
  if (name && !focused.isConnected) document.querySelector(`[data-name="${name}"]`)?.focus();
  if (cell) card?.querySelector(`[data-cell="${cell}"]`)?.focus();
  const field = boxes.length && receptiveField(found.graph, state.at + 1, boxes[state.at + 1]);
  $("field").textContent = possible < 0 ? "" : field ? `The number in row ${state.y}, column ${state.x} of layer ${state.at + 1} depends on ${field[3] - field[1]}×${field[2] - field[0]} pixels of the image: its receptive field.` : "This number depends on no pixel.";
  $("size").nextElementSibling.textContent = $("size").value;
  $("add").disabled = state.layers.length >= MOST;
  $("remove").disabled = state.layers.length < 2;
  for (const id of ["back", "next", "play"]) $(id).disabled = possible < 0;
  state.area = possible < 0 ? null : found.graph.nodes[state.at + 1].shape.slice(2);
}

function go(at, y, x) {
  pause();
  Object.assign(state, { at, y, x });
  draw();
}

function step(by) {
  if (!state.area) return;
  const [height, width] = state.area, place = (state.y * width + state.x + by + height * width) % (height * width);
  Object.assign(state, { y: Math.floor(place / width), x: place % width });
  draw();
}

function pause() {
  clearInterval(state.timer);
  state.timer = null;
  $("play").textContent = "Play";
  $("play").setAttribute("aria-pressed", false);
}

function play() {
  if (state.timer !== null) { pause(); return; }
  state.timer = setInterval(() => step(1), PACE);
  $("play").textContent = "Pause";
  $("play").setAttribute("aria-pressed", true);
}

$("image").append(...Object.keys(IMAGES).map((name) => make("option", {}, name)));
$("size").addEventListener("input", draw);
$("image").addEventListener("change", draw);
$("next").addEventListener("click", () => step(1));
$("back").addEventListener("click", () => step(-1));
$("play").addEventListener("click", play);
$("chain").addEventListener("focusin", ({ target }) => { if (target.dataset.cell) pause(); }); // a number is typed
$("add").addEventListener("click", () => { addLayer(); draw(); });
$("remove").addEventListener("click", () => { state.layers.pop().card.remove(); draw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addLayer();
draw();
