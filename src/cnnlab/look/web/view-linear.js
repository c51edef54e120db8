// How a number of a linear layer came about: the largest terms, by the names of their inputs; of a unit that sees the image
// itself its weights, as an image.

import { largestOf, make, number } from "./paint.js";
import { line, list, picture, sign, strong } from "./tables.js";

const TERMS = 10; // of a sum, the largest
const SIDE = "min(128px, 20vw)";
const COLOURS = ["red", "green", "blue"];

// The node with maps, (1, C, H, W), that a node's numbers are the flattened ones of; null where they are not.
export function flattened(graph, number) {
  let node = graph.nodes[number];
  while (node.op === "reshape" && !node.shown) node = graph.nodes[node.inputs[0]];
  return node.shown && node.shape.length === 4 && node.shape[2] * node.shape[3] > 1 ? node : null;
}

// Number i of flattened maps, in words: the channel, or map, and the place in it.
export function nameOf(source, i) {
  if (!source) return `number ${i}`;
  const [, channels, height, width] = source.shape, map = Math.floor(i / (height * width)), y = Math.floor(i / width) % height, x = i % width;
  const place = `row ${y}, column ${x}`;
  if (source.op !== "input") return `map ${map}, ${place}`;
  return channels === 1 ? `pixel in ${place}` : `${channels === 3 ? COLOURS[map] : `channel ${map}`} in ${place}`;
}

function large(caption, values, height, width, largest) {
  const shown = picture(caption, values, height, width, { largest });
  shown.style.width = SIDE;
  Object.assign(shown.querySelector(".frame").style, { width: SIDE, maxHeight: "none" });
  return shown;
}

// image × weights = products, a row for each channel.
function asImages(source, input, weights, products) {
  const [, channels, height, width] = source.shape, area = height * width;
  const most = [input, weights, products].map(largestOf);
  return [
    make("h5", {}, "Its weights, as an image"),
    make("p", { class: "lead" }, "It sees every pixel, and has a weight for each: where they are blue it wants a pixel that is brighter than the data's mean, where they are red a darker one. The products sum to its number."),
    ...Array.from({ length: channels }, (_, c) => {
      const of = (values) => values.subarray(c * area, (c + 1) * area), named = channels === 1 ? "" : `, ${channels === 3 ? COLOURS[c] : `channel ${c}`}`;
      const sum = of(products).reduce((all, v) => all + v, 0);
      return make("div", { class: "term" }, large(`image${named}`, of(input), height, width, most[0]), sign("×"),
        large(`weights${named}`, of(weights), height, width, most[1]), sign("="), large(`products${named}`, of(products), height, width, most[2]), sign("sum"), strong(number(sum)));
    }),
  ];
}

export function linearView({ look, node, place, inputs }) {
  const { graph } = look, [, inner] = graph.tensors[node.tensors.weight].shape, input = inputs[0];
  const weights = look.tensor(node.tensors.weight).subarray(place.map * inner, (place.map + 1) * inner), products = input.map((v, i) => v * weights[i]);
  const bias = node.tensors.bias === undefined ? 0 : look.tensor(node.tensors.bias)[place.map];
  const total = products.reduce((sum, v) => sum + v, bias), order = Array.from(products.keys()).sort((a, b) => Math.abs(products[b]) - Math.abs(products[a]));
  const rest = order.slice(TERMS), source = flattened(graph, node.inputs[0]), sees = source?.op === "input";
  const isLogit = place.node === graph.output, name = isLogit ? look.card.classes[place.map] : `Number ${place.map}`;
  return [
    make("p", { class: "lead" }, `${name} is a weighted sum of all ${inner} ${sees ? "numbers of the image" : "numbers before it"}.`),
    ...(sees ? asImages(source, input, weights, products) : []),
    make("h5", {}, "The largest terms"),
    list([sees ? "pixel" : "input", "number", "weight", "product"], order.slice(0, TERMS).map((i) => [nameOf(source, i), ...[input[i], weights[i], products[i]].map(number)])),
    line(rest.length ? `The other ${rest.length} terms sum to ${number(rest.reduce((sum, i) => sum + products[i], 0))}; ` : "", `bias ${number(bias)}; together `, strong(number(total)), "."),
  ];
}
