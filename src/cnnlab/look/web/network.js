// A network that computes: the nodes of its graph one after another, and again only what a change reaches.

import { readTensors, size } from "./tensors.js";
import { conv2d, convTranspose2d, linear, matmul } from "./products.js";
import { adaptivePool, avgPool, maxPool } from "./pools.js";
import { batchNorm, BINARY, binary, normed, softmax, UNARY } from "./pointwise.js";
import { bilinear, joined, nearest, padded, permute, pixelShuffle, reduced, sliced } from "./moves.js";

// One node: its inputs as numbers and shapes, its tensors by name → the numbers that it gives.
export function compute(node, x, shapes, tensors, tensorShapes) {
  const { op, attributes: a, shape } = node;
  if (op in UNARY) return Float32Array.from(x[0], UNARY[op](a));
  if (op in BINARY) {
    const f = BINARY[op](a);
    return "scalar" in a ? Float32Array.from(x[0], (value) => f(value, a.scalar)) : binary(f, x[0], shapes[0], x[1], shapes[1], shape);
  }
  const { weight, bias } = tensors;
  switch (op) {
    case "constant": return tensors.value;
    case "conv2d": return conv2d(x[0], shapes[0], weight, tensorShapes.weight, bias, shape, a);
    case "conv_transpose2d": return convTranspose2d(x[0], shapes[0], weight, tensorShapes.weight, bias, shape, a);
    case "linear": return linear(x[0], weight, tensorShapes.weight, bias);
    case "matmul": return matmul(x[0], shapes[0], x[1], shapes[1], shape);
    case "batch_norm": return batchNorm(x[0], shape[1], tensors.scale, tensors.shift);
    case "group_norm": {
      const area = size(shape.slice(2));
      return normed(x[0], size(shape) / a.groups, a.eps, (i) => Math.floor(i / area), weight, bias);
    }
    case "layer_norm": {
      const length = size(shape.slice(-a.dims));
      return normed(x[0], length, a.eps, (i) => i % length, weight, bias);
    }
    case "prelu": {
      const area = size(shape.slice(2)), one = weight.length === 1;
      return x[0].map((value, i) => value > 0 ? value : value * weight[one ? 0 : Math.floor(i / area)]);
    }
    case "max_pool2d": return maxPool(x[0], shapes[0], shape, a);
    case "avg_pool2d": return avgPool(x[0], shapes[0], shape, a);
    case "adaptive_avg_pool2d": return adaptivePool(x[0], shapes[0], shape, false);
    case "adaptive_max_pool2d": return adaptivePool(x[0], shapes[0], shape, true);
    case "mean": case "sum": case "amax": return reduced(op, x[0], shapes[0], a.dims);
    case "softmax": return softmax(x[0], shape, a.dim, false);
    case "log_softmax": return softmax(x[0], shape, a.dim, true);
    case "cat": return joined(x, shapes, shape, a.dim);
    case "reshape": return x[0];
    case "permute": return permute(x[0], shapes[0], shape, a.order);
    case "slice": return sliced(x[0], shapes[0], shape, a);
    case "pad": return padded(x[0], shapes[0], shape, a);
    case "pixel_shuffle": return pixelShuffle(x[0], shapes[0], shape, a.factor);
    case "upsample_nearest2d": return nearest(x[0], shapes[0], shape, a);
    case "upsample_bilinear2d": return bilinear(x[0], shapes[0], shape, a);
  }
  throw new Error(`unknown operation ${op}`);
}

// What can be changed: {mute: {node: [channel …]}, cut: {node: [input …]}, weights: {tensor: {index: value}}}.
export const NO_EDITS = { mute: {}, cut: {}, weights: {} };

export class Network {
  constructor(graph, bytes) {
    this.graph = graph;
    this.tensors = readTensors(graph.tensors, bytes);
    this.values = [];
    this.image = null;
    this.said = graph.nodes.map(() => null); // the edits that each node was computed with, as text
  }

  // image: Float32Array of the first node. Returns how many nodes were computed.
  run(image, edits = NO_EDITS, progress = () => {}) {
    const { nodes } = this.graph, changed = new Set();
    nodes.forEach((node, i) => {
      const tensors = Object.values(node.tensors).map((number) => edits.weights[number]);
      const said = JSON.stringify([edits.mute[i], edits.cut[i], tensors]);
      const fresh = i === 0 ? image !== this.image : said !== this.said[i] || node.inputs.some((k) => changed.has(k));
      if (!fresh) return;
      this.values[i] = i === 0 ? image : this.valueOf(node, i, edits);
      this.said[i] = said;
      changed.add(i);
      progress(i, nodes.length);
    });
    this.image = image;
    return changed.size;
  }

  valueOf(node, number, edits) {
    const cut = edits.cut[number] ?? [], tensors = {}, shapes = {};
    const inputs = node.inputs.map((k, i) => cut.includes(i) ? new Float32Array(this.values[k].length) : this.values[k]);
    for (const [name, tensor] of Object.entries(node.tensors)) {
      tensors[name] = edited(this.tensors[tensor], edits.weights[tensor]);
      shapes[name] = this.graph.tensors[tensor].shape;
    }
    const value = compute(node, inputs, node.inputs.map((k) => this.graph.nodes[k].shape), tensors, shapes);
    const muted = edits.mute[number];
    if (!muted?.length) return value;
    const left = value.slice(), area = value.length / node.shape[1];
    for (const channel of muted) left.fill(0, channel * area, (channel + 1) * area);
    return left;
  }
}

export function edited(tensor, changes) {
  if (!changes) return tensor;
  const own = tensor.slice();
  for (const [index, value] of Object.entries(changes)) own[index] = value;
  return own;
}

// Logits → probabilities: softmax, or of each class by itself.
export function probabilities(logits, independent) {
  if (independent) return Array.from(logits, (z) => 1 / (1 + Math.exp(-z)));
  const most = Math.max(...logits), shares = Array.from(logits, (z) => Math.exp(z - most));
  const sum = shares.reduce((a, b) => a + b, 0);
  return shares.map((share) => share / sum);
}
