// How a number of a convolution came about: input maps × kernels → maps, their sum, the bias.

import { outputSize } from "./geometry.js";
import { largestOf, make, number } from "./paint.js";
import { conv2d } from "./products.js";
import { grid, line, list, picture, sign, strong } from "./tables.js";
import { sources } from "./words.js";

const FIRST = 6; // input maps that are shown of many

// The window of a map under the kernel at place (y, x), row by row; null where it is padding.
export function windowAt(values, [height, width], [kh, kw], { stride, padding, dilation }, y, x) {
  return Array.from({ length: kh }, (_, ky) => Array.from({ length: kw }, (_, kx) => {
    const iy = y * stride[0] - padding[0] + ky * dilation[0], ix = x * stride[1] - padding[1] + kx * dilation[1];
    return iy >= 0 && iy < height && ix >= 0 && ix < width ? values[iy * width + ix] : null;
  }));
}

const dot = (a, b) => a.flat().reduce((sum, v, i) => sum + (v ?? 0) * b.flat()[i], 0);
const rowsOf = (values, height, width) => Array.from({ length: height }, (_, y) => Array.from(values.subarray(y * width, (y + 1) * width)));

export function whySize(node, source, kernel) {
  const a = node.attributes;
  const along = (d) => {
    const [i, k, s, p, e, t] = [source[d + 2], kernel[d], a.stride[d], a.padding[d], (a.after ?? a.padding)[d], a.dilation?.[d] ?? 1];
    return [`⌊(${i} + ${p === e ? `2·${p}` : `${p} + ${e}`} − ${t}·(${k} − 1) − 1) / ${s}⌋ + 1 = ${outputSize(i, k, s, p, e, t)}`, outputSize(i, k, s, p, e, t)];
  };
  const [tall, wide] = [along(0), along(1)];
  const ceil = wide[1] !== node.shape[3] || tall[1] !== node.shape[2] ? " (rounded up here: a last window may reach over the border)" : "";
  return make("details", { class: "why" }, make("summary", {}, `Why is it ${node.shape[3]} wide?`),
    line(`⌊(input + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1`), line("width: ", wide[0], ceil),
    tall[0] === wide[0] ? null : line("height: ", tall[0], ceil));
}

// view: {look, node, place, inputs, value, choose(part), part, move(y, x)}; part: the input map whose numbers are shown.
export function convolutionView(view) {
  const { look, node, place, inputs, value } = view, a = node.attributes;
  const [out, each, kh, kw] = look.graph.tensors[node.tensors.weight].shape, weight = look.tensor(node.tensors.weight);
  const source = look.graph.nodes[node.inputs[0]].shape, [height, width] = source.slice(2), [high, wide] = node.shape.slice(2);
  const first = Math.floor(place.map / (out / a.groups)) * each, area = kh * kw;
  const terms = Array.from({ length: each }, (_, i) => {
    const map = inputs[0].subarray((first + i) * height * width, (first + i + 1) * height * width);
    const kernel = weight.subarray((place.map * each + i) * area, (place.map * each + i + 1) * area);
    const shape = [1, 1, height, width];
    const made = conv2d(map, shape, kernel, [1, 1, kh, kw], null, [1, 1, high, wide], { ...a, groups: 1 });
    const seen = windowAt(map, [height, width], [kh, kw], a, place.y, place.x);
    return { i, map, kernel, made, seen, sum: dot(seen, rowsOf(kernel, kh, kw)) };
  });
  const order = [...terms].sort((s, t) => largestOf(t.made) - largestOf(s.made));
  const shown = view.all ? order : order.slice(0, FIRST), largest = largestOf(order[0].made), kernels = largestOf(weight.subarray(place.map * each * area, (place.map + 1) * each * area));
  const bias = node.tensors.bias === undefined ? null : look.tensor(node.tensors.bias)[place.map];
  const window = [place.y * a.stride[0] - a.padding[0], place.x * a.stride[1] - a.padding[1], a.dilation[0] * (kh - 1) + 1, a.dilation[1] * (kw - 1) + 1];
  const here = terms[view.part ?? order[0].i] ?? order[0], result = value.subarray(place.map * high * wide, (place.map + 1) * high * wide);
  const ofImage = node.inputs[0] === 0, from = look.graph.nodes[sources(look.graph, place.node)[0]].name;
  const called = (i) => !ofImage ? `input ${first + i}` : each === 3 ? ["red", "green", "blue"][i] : each === 1 ? "image" : `channel ${first + i}`;
  const rows = shown.map((term) => make("div", { class: term === here ? "term chosen" : "term" },
    picture(called(term.i), term.map, height, width, { at: window, click: () => view.choose(term.i), label: `numbers of ${called(term.i)}` }), sign("∗"),
    picture(`${kh}×${kw} kernel`, term.kernel, kh, kw, { largest: kernels }), sign("="),
    picture(number(term.sum), term.made, high, wide, { largest, at: [place.y, place.x, 1, 1] })));
  const total = terms.reduce((sum, term) => sum + term.sum, 0);
  const setWeight = (y, x, to) => look.change({ kind: "weight", node: place.node, tensor: node.tensors.weight, value: to,
    index: (place.map * each + here.i) * area + y * kw + x });
  const kernelRows = rowsOf(here.kernel, kh, kw), products = here.seen.map((row, y) => row.map((v, x) => v === null ? null : v * kernelRows[y][x]));
  return [
    make("p", { class: "lead" }, each === 1 ? `The ${kh}×${kw} kernel slides over ${ofImage ? "the image" : `one map of ${from}`}.`
      : `Each of the ${each} ${ofImage ? "colours of the image" : `input maps (of ${from})`} has its own ${kh}×${kw} kernel. The kernel slides over the map; the maps that come of it are added.`,
      ofImage ? " The image's numbers are normalised: pixel minus mean, divided by the standard deviation." : ""),
    make("div", { class: "terms" }, ...rows,
      each > shown.length ? make("button", { class: "more", onclick: view.showAll }, `show ${each - shown.length} weaker input maps`) : null),
    each === 1 && bias === null ? null : make("div", { class: "term result" }, make("span", {}, each === 1 ? "This" : `The sum of all ${each}`, bias === null ? "" : ` and the bias ${number(bias)}`), sign("="),
      picture(`map ${place.map}`, result, high, wide, { at: [place.y, place.x, 1, 1] })),
    make("h5", {}, `The number in row ${place.y}, column ${place.x}`),
    make("div", { class: "numbers" }, grid(`window of ${called(here.i)}`, here.seen), sign("·"),
      grid("kernel: type to change it", kernelRows, { edit: setWeight }), sign("="), grid("products", products)),
    line("They sum to ", strong(number(here.sum)), each > 1 ? `, the other ${each - 1} ${each === 2 ? "map gives" : "maps give"} ` : "", each > 1 ? strong(number(total - here.sum)) : "",
      bias === null ? "" : ", the bias is ", bias === null ? "" : strong(number(bias)), ...(each === 1 && bias === null ? [] : [": ", strong(number(total + (bias ?? 0)))]), "."),
    whySize(node, source, [kh, kw]),
  ];
}

// An input number is scattered over a kernel's size of the output; a place collects what falls on it.
export function transposedView(view) {
  const { look, node, place, inputs, value } = view, { stride, padding, dilation, groups, output_padding: extra } = node.attributes;
  const [channels, each, kh, kw] = look.graph.tensors[node.tensors.weight].shape, weight = look.tensor(node.tensors.weight);
  const [height, width] = look.graph.nodes[node.inputs[0]].shape.slice(2), [high, wide] = node.shape.slice(2);
  const group = Math.floor(place.map / each), o = place.map % each, found = [];
  for (let c = group * (channels / groups); c < (group + 1) * (channels / groups); c++) {
    for (let ky = 0; ky < kh; ky++) {
      for (let kx = 0; kx < kw; kx++) {
        const y = (place.y + padding[0] - ky * dilation[0]) / stride[0], x = (place.x + padding[1] - kx * dilation[1]) / stride[1];
        if (!Number.isInteger(y) || !Number.isInteger(x) || y < 0 || x < 0 || y >= height || x >= width) continue;
        const a = inputs[0][(c * height + y) * width + x], w = weight[((c * each + o) * kh + ky) * kw + kx];
        found.push([`map ${c}, row ${y}, column ${x}`, a, w, a * w]);
      }
    }
  }
  found.sort((a, b) => Math.abs(b[3]) - Math.abs(a[3]));
  const bias = node.tensors.bias === undefined ? 0 : look.tensor(node.tensors.bias)[place.map], total = found.reduce((sum, row) => sum + row[3], bias);
  const rest = found.slice(8).reduce((sum, row) => sum + row[3], 0);
  return [
    make("p", { class: "lead" }, `Each input number is multiplied by a whole ${kh}×${kw} kernel and laid over the output, ${stride[0]} ${stride[0] === 1 ? "place" : "places"} further for each step; what falls on a place is added.`),
    make("div", { class: "term result" }, picture(`map ${place.map}`, value.subarray(place.map * high * wide, (place.map + 1) * high * wide), high, wide, { at: [place.y, place.x, 1, 1] })),
    make("h5", {}, `What falls on row ${place.y}, column ${place.x}`),
    list(["from", "number", "kernel", "product"], found.slice(0, 8).map(([from, ...numbers]) => [from, ...numbers.map(number)])),
    line(found.length > 8 ? `${found.length - 8} smaller products sum to ${number(rest)}; ` : "", `bias ${number(bias)}; together `, strong(number(total)), "."),
    make("details", { class: "why" }, make("summary", {}, `Why is it ${wide} wide?`),
      line("(input − 1)·stride − 2·padding + dilation·(kernel − 1) + output padding + 1"),
      line(`(${width} − 1)·${stride[1]} − 2·${padding[1]} + ${dilation[1]}·(${kw} − 1) + ${extra[1]} + 1 = ${(width - 1) * stride[1] - 2 * padding[1] + dilation[1] * (kw - 1) + extra[1] + 1}`)),
  ];
}
