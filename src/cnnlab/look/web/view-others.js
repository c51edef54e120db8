// How a number of any other layer came about.

import { mapsOf } from "./geometry.js";
import { make, number } from "./paint.js";
import { ACTIVATIONS } from "./pointwise.js";
import { adaptiveWindow } from "./pools.js";
import { grid, line, list, picture, sign, strong } from "./tables.js";
import { whySize } from "./view-convolution.js";
import { linearView } from "./view-linear.js";
import { sourceMap, sources } from "./words.js";

const numberAt = (values, shape, { map, y, x }) => {
  const { height, width } = mapsOf(shape);
  return values[(map * height + Math.min(y, height - 1)) * width + Math.min(x, width - 1)];
};
const mapOf = (values, shape, map) => {
  const { height, width } = mapsOf(shape);
  return values.subarray(map * height * width, (map + 1) * height * width);
};

const isNumber = (shape) => mapsOf(shape).height * mapsOf(shape).width === 1;
const noun = (shape) => isNumber(shape) ? "number" : "map";
const where = (node, place) => isNumber(node.shape) ? "" : `row ${place.y}, column ${place.x}: `;

// Maps of the inputs, a sign between them, and the result; for layers that work place by place.
function placeByPlace({ look, node, place, inputs, value }, between, ...more) {
  const shown = inputs.map((values, k) => {
    const shape = look.graph.nodes[node.inputs[k]].shape, { count, height, width } = mapsOf(shape), map = count === 1 ? 0 : place.map;
    const name = look.graph.nodes[sources(look.graph, place.node)[k]].name, from = sourceMap(look.graph, node.inputs[k], map);
    const at = height === mapsOf(node.shape).height && !isNumber(node.shape) ? [place.y, place.x, 1, 1] : null;
    return map < count ? picture(from < 0 ? `an empty map beside ${name}` : `${name} ${noun(shape)} ${from}`, mapOf(values, shape, map), height, width, { at }) : null;
  }).flatMap((one, k) => k ? [sign(between), one] : [one]);
  const { height, width } = mapsOf(node.shape);
  return [
    make("div", { class: "term" }, ...shown, sign(inputs.length > 1 ? "=" : "→"),
      picture(`${noun(node.shape)} ${place.map}`, mapOf(value, node.shape, place.map), height, width, { at: isNumber(node.shape) ? null : [place.y, place.x, 1, 1] })),
    ...more,
  ];
}

function arithmeticView(view) {
  const { node, place, inputs, value, look } = view, signs = { add: "+", sub: "−", mul: "×", div: "÷" }, between = signs[node.op] ?? node.op;
  const numbers = inputs.map((values, k) => {
    const shape = look.graph.nodes[node.inputs[k]].shape, { count } = mapsOf(shape);
    return number(numberAt(values, shape, { ...place, map: count === 1 ? 0 : place.map }));
  });
  if ("scalar" in node.attributes) numbers.push(number(node.attributes.scalar));
  const words = node.op === "add" && inputs.length > 1 ? "The shortcut's maps are added to those of the block, place by place. Click a name above the maps to take one of them out of the sum." : "Place by place.";
  return placeByPlace(view, between, make("p", { class: "lead" }, words),
    line(where(node, place), numbers.join(` ${between} `), " = ", strong(number(numberAt(value, node.shape, place)))));
}

function activationView(view) {
  const { node, place, inputs, value } = view, f = ACTIVATIONS[node.op](node.attributes);
  const before = numberAt(inputs[0], node.shape, place), after = numberAt(value, node.shape, place);
  const reach = Math.max(3, Math.abs(before) * 1.15), xs = Array.from({ length: 81 }, (_, i) => -reach + (i * reach) / 40), ys = xs.map(f);
  const low = Math.min(...ys, -reach / 6), high = Math.max(...ys, reach / 6), X = (x) => 120 + (x * 110) / reach, Y = (y) => 130 - (120 * (y - low)) / (high - low);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 240 140");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${node.op} of ${number(before)} is ${number(after)}`);
  svg.setAttribute("class", "curve");
  svg.innerHTML = `<path class="axis" d="M10 ${Y(0)}H230M120 8V132"/><path class="line" d="M${xs.map((x, i) => `${X(x).toFixed(1)} ${Y(ys[i]).toFixed(1)}`).join("L")}"/>`
    + `<path class="drop" d="M${X(before)} ${Y(0)}V${Y(f(before))}"/><circle cx="${X(before)}" cy="${Y(f(before))}" r="5"/>`;
  return placeByPlace(view, "", svg, line(where(node, place), `f(${number(before)}) = `, strong(number(after))));
}

function batchNormView(view) {
  const { look, node, place, inputs, value } = view, [scale, shift] = ["scale", "shift"].map((name) => look.tensor(node.tensors[name])[place.map]);
  return placeByPlace(view, "", make("p", { class: "lead" }, "After training, batch normalisation is one scale and one shift for each map."),
    line(where(node, place), `${number(scale)} · ${number(numberAt(inputs[0], node.shape, place))} ${shift < 0 ? "−" : "+"} ${number(Math.abs(shift))} = `, strong(number(numberAt(value, node.shape, place)))));
}

function poolView(view) {
  const { look, node, place, inputs, value } = view, { op, attributes: a } = node, source = look.graph.nodes[node.inputs[0]].shape;
  const { height, width } = mapsOf(source), map = mapOf(inputs[0], source, place.map), most = op.includes("max") || op === "amax";
  let box = [0, 0, height, width];
  if (op.startsWith("adaptive")) {
    const [y0, y1] = adaptiveWindow(place.y, height, node.shape[2]), [x0, x1] = adaptiveWindow(place.x, width, node.shape[3]);
    box = [y0, x0, y1 - y0, x1 - x0];
  } else if (a.kernel) box = [place.y * a.stride[0] - a.padding[0], place.x * a.stride[1] - a.padding[1], ...a.kernel];
  const [top, left, tall, wide] = box, rows = Array.from({ length: tall }, (_, y) => Array.from({ length: wide }, (_, x) => {
    const [iy, ix] = [top + y * (a.dilation?.[0] ?? 1), left + x * (a.dilation?.[1] ?? 1)];
    return iy >= 0 && ix >= 0 && iy < height && ix < width ? map[iy * width + ix] : null;
  }));
  const answer = numberAt(value, node.shape, place), { height: high, width: across } = mapsOf(node.shape);
  return [
    make("p", { class: "lead" }, isNumber(node.shape) ? `Of the whole map the ${most ? "largest number" : "mean"} is kept.` : `Of each window ${most ? "only the largest number" : "the mean"} is kept.`),
    make("div", { class: "term" }, picture(`input ${place.map}`, map, height, width, { at: box }), sign("→"),
      picture(`map ${place.map}`, mapOf(value, node.shape, place.map), high, across, { at: [place.y, place.x, 1, 1] })),
    tall * wide <= 400 ? make("div", { class: "numbers" }, grid("window", rows, { mark: (y, x) => most && rows[y][x] === answer })) : null,
    line(`${most ? "largest" : `mean of ${rows.flat().filter((v) => v !== null).length}`}: `, strong(number(answer))),
    a.kernel ? whySize(node, source, a.kernel) : null,
  ];
}

export function answerView({ look, value, place }) {
  const { classes, task } = look.card, most = Math.max(...value), shares = look.answersOf(value), formula = task === "multilabel" ? "1 / (1 + e^−z)" : "e^z / Σ e^z";
  const sum = value.reduce((all, z) => all + Math.exp(z - most), 0), order = classes.map((_, i) => i).sort((a, b) => value[b] - value[a]).slice(0, 12);
  return [make("h5", {}, `From numbers to probabilities: ${formula}`),
    list(["class", "z", task === "multilabel" ? "e^−z" : `e^(z − ${number(most)})`, "probability"],
      order.map((i) => [i === place.map ? strong(classes[i]) : classes[i], number(value[i]), number(Math.exp(task === "multilabel" ? -value[i] : value[i] - most)), `${(100 * shares[i]).toFixed(2)} %`])),
    task === "multilabel" ? line("Each class has a probability of its own.") : line(`Σ = ${number(sum)}`)];
}

function joinView(view) {
  const { look, node, place } = view;
  let map = place.map;
  for (const [k, input] of node.inputs.entries()) {
    const count = look.graph.nodes[input].shape[node.attributes.dim];
    if (node.attributes.dim === 1 && map < count) {
      return [line(`The maps are put one after another: this is map ${map} of `, strong(look.graph.nodes[sources(look.graph, place.node)[k]].name), ".")];
    }
    map -= count;
  }
  return [line("The inputs are put one after another.")];
}

export function otherView(view) {
  const { op } = view.node;
  if (op in ACTIVATIONS) return activationView(view);
  if (op === "batch_norm" && view.node.shape.length === 4) return batchNormView(view);
  if (["add", "sub", "mul", "div"].includes(op)) return arithmeticView(view);
  const reducing = ["mean", "amax"].includes(op) && view.look.graph.nodes[view.node.inputs[0]].shape.length === 4 && String(view.node.attributes.dims) === "2,3";
  if (op.includes("pool") || reducing) return poolView(view);
  if (op === "linear" && view.node.shape.length === 2) return linearView(view);
  if (op === "cat") return joinView(view);
  return placeByPlace(view, ",", line("value: ", strong(number(numberAt(view.value, view.node.shape, view.place)))));
}

