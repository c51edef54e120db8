// Sizes and receptive fields: which numbers of the input a number of a layer was made from.

import { adaptiveWindow } from "./pools.js";
import { between } from "./moves.js";

// ⌊(I + 2P − D(K − 1) − 1)/S⌋ + 1; padding before and after may differ.
export function outputSize(input, kernel, stride, before, after, dilation) {
  return Math.floor((input + before + after - dilation * (kernel - 1) - 1) / stride) + 1;
}

const whole = (shape) => shape.map((side) => [0, side]);

// What the places [from, to) of a side come from, where a window of `kernel` moves by `stride`.
function spread([from, to], side, kernel, stride, padding, dilation = 1) {
  const first = from * stride - padding, last = (to - 1) * stride - padding + dilation * (kernel - 1);
  return [Math.max(0, first), Math.min(side, last + 1)];
}

// Box of a node's result → box of its input number k; a box is [from, to) along each side.
export function inputBox(graph, node, k, box) {
  const { op, attributes: a, shape } = node, source = graph.nodes[node.inputs[k]].shape;
  const sides = (along) => [[0, 1], [0, source[1]], ...[0, 1].map((d) => along(box[d + 2], source[d + 2], d))];
  const channels = (found) => { found[1] = box[1]; return found; };
  switch (op) {
    case "conv2d": {
      const kernel = graph.tensors[node.tensors.weight].shape.slice(2);
      return sides((b, side, d) => spread(b, side, kernel[d], a.stride[d], a.padding[d], a.dilation[d]));
    }
    case "conv_transpose2d": {
      const kernel = graph.tensors[node.tensors.weight].shape.slice(2);
      return sides(([from, to], side, d) => [
        Math.max(0, Math.ceil((from + a.padding[d] - a.dilation[d] * (kernel[d] - 1)) / a.stride[d])),
        Math.min(side, Math.floor((to - 1 + a.padding[d]) / a.stride[d]) + 1),
      ]);
    }
    case "max_pool2d": case "avg_pool2d":
      return channels(sides((b, side, d) => spread(b, side, a.kernel[d], a.stride[d], a.padding[d], a.dilation?.[d])));
    case "adaptive_avg_pool2d": case "adaptive_max_pool2d":
      return channels(sides(([from, to], side, d) => [
        adaptiveWindow(from, side, shape[d + 2])[0], adaptiveWindow(to - 1, side, shape[d + 2])[1],
      ]));
    case "upsample_nearest2d":
      return channels(sides(([from, to], side, d) => [
        Math.floor(from * side / shape[d + 2]), Math.min(side, Math.floor((to - 1) * side / shape[d + 2]) + 1),
      ]));
    case "upsample_bilinear2d":
      return channels(sides(([from, to], side, d) => [
        between(from, side, shape[d + 2], a.factors[d], a.align_corners)[0],
        between(to - 1, side, shape[d + 2], a.factors[d], a.align_corners)[1] + 1,
      ]));
    case "pixel_shuffle":
      return sides(([from, to]) => [Math.floor(from / a.factor), Math.ceil(to / a.factor)]);
    case "permute": {
      const found = [];
      a.order.forEach((d, to) => { found[d] = box[to]; });
      return found;
    }
    case "slice":
      return box.map(([from, to], d) => d === a.dim ? [a.start + from * a.step, a.start + (to - 1) * a.step + 1] : [from, to]);
    case "pad":
      return box.map(([from, to], d) => {
        const before = a.pad[2 * (box.length - 1 - d)] ?? 0;
        return [Math.max(0, from - before), Math.min(source[d], to - before)];
      });
    case "cat": {
      const start = node.inputs.slice(0, k).reduce((sum, n) => sum + graph.nodes[n].shape[a.dim], 0);
      return box.map(([from, to], d) => d === a.dim ? [Math.max(0, from - start), Math.min(source[d], to - start)] : [from, to]);
    }
    case "mean": case "sum": case "amax": {
      const kept = shape.length === source.length ? box : box.slice();
      return source.map((side, d) => {
        if (a.dims.includes(d)) return [0, side];
        return shape.length === source.length ? kept[d] : kept.shift();
      });
    }
    case "reshape": return sameMaps(shape, source) ? [...box.slice(0, 2), ...whole(source).slice(2)] : whole(source);
    case "batch_norm": case "prelu": return box;
    case "linear": case "matmul": case "softmax": case "log_softmax": case "group_norm": case "layer_norm":
      return op === "group_norm" && shape.length === 4 ? [[0, 1], [0, source[1]], ...box.slice(2)] : whole(source);
  }
  return source.map((side, d) => { // pointwise, as far as the input is not one number for all
    const own = box[d + shape.length - source.length];
    return side === 1 ? [0, 1] : own;
  });
}

// (1, C, 1, 1) and (1, C): the channels are the same.
const sameMaps = (a, b) => [a, b].every((s) => s.length >= 2 && s.slice(2).every((side) => side === 1)) && a[1] === b[1];

// The part of the image, [x0, y0, x1, y1), that the given place of a map depends on.
export function receptiveField(graph, number, box) {
  const boxes = new Map([[number, box]]);
  for (let i = number; i > 0; i--) {
    const own = boxes.get(i);
    if (!own || own.some(([from, to]) => from >= to)) continue;
    graph.nodes[i].inputs.forEach((source, k) => {
      const found = inputBox(graph, graph.nodes[i], k, own), old = boxes.get(source);
      boxes.set(source, old && !empty(old) ? (empty(found) ? old : union(old, found)) : found);
    });
  }
  const image = boxes.get(0);
  return image && !empty(image) ? [image[3][0], image[2][0], image[3][1], image[2][1]] : null;
}

const empty = (box) => box.some(([from, to]) => from >= to);
const union = (a, b) => a.map(([from, to], d) => [Math.min(from, b[d][0]), Math.max(to, b[d][1])]);

// How a node's result is shown: so many maps of height × width.
export function mapsOf(shape) {
  if (shape.length === 4) return { count: shape[1], height: shape[2], width: shape[3] };
  if (shape.length === 3) return { count: 1, height: shape[1], width: shape[2] };
  return { count: shape.slice(1).reduce((a, b) => a * b, 1), height: 1, width: 1 };
}

// Place (y, x) of a map → the box of one number.
export function boxOf(shape, map, y, x) {
  if (shape.length === 4) return [[0, 1], [map, map + 1], [y, y + 1], [x, x + 1]];
  if (shape.length === 3) return [[0, 1], [y, y + 1], [x, x + 1]];
  return [[0, 1], [map, map + 1]];
}
