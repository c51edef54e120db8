// What works on each number, or on each channel: activations, sums and products, normalisation, softmax.

import { size } from "./tensors.js";

// Abramowitz and Stegun 1964, 7.1.26: within 1.5e-7.
export function erf(x) {
  const t = 1 / (1 + .3275911 * Math.abs(x));
  const tail = t * (.254829592 + t * (-.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - tail * Math.exp(-x * x));
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const softplus = (x) => x > 20 ? x : Math.log1p(Math.exp(x));
const clamped = (x, low, high) => Math.min(high, Math.max(low, x));

export const ACTIVATIONS = {
  relu: () => (x) => x > 0 ? x : 0,
  relu6: () => (x) => clamped(x, 0, 6),
  leaky_relu: ({ negative_slope: slope }) => (x) => x > 0 ? x : slope * x,
  elu: ({ alpha }) => (x) => x > 0 ? x : alpha * Math.expm1(x),
  selu: () => (x) => 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * Math.expm1(x)),
  silu: () => (x) => x * sigmoid(x),
  gelu: ({ approximate }) => approximate === "tanh"
    ? (x) => .5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + .044715 * x ** 3)))
    : (x) => .5 * x * (1 + erf(x * Math.SQRT1_2)),
  mish: () => (x) => x * Math.tanh(softplus(x)),
  tanh: () => Math.tanh,
  sigmoid: () => sigmoid,
  hardsigmoid: () => (x) => clamped(x / 6 + .5, 0, 1),
  hardswish: () => (x) => x * clamped(x / 6 + .5, 0, 1),
  hardtanh: ({ min_val: low, max_val: high }) => (x) => clamped(x, low, high),
  softplus: ({ beta, threshold }) => (x) => beta * x > threshold ? x : Math.log1p(Math.exp(beta * x)) / beta,
};
export const UNARY = {
  ...ACTIVATIONS,
  clamp: ({ min, max }) => (x) => clamped(x, min ?? -Infinity, max ?? Infinity),
  clamp_min: ({ min }) => (x) => Math.max(min, x),
  abs: () => Math.abs, neg: () => (x) => -x, exp: () => Math.exp, log: () => Math.log, sqrt: () => Math.sqrt,
  rsqrt: () => (x) => 1 / Math.sqrt(x), square: () => (x) => x * x, erf: () => erf,
};
export const BINARY = {
  add: ({ alpha = 1 }) => (a, b) => a + alpha * b,
  sub: ({ alpha = 1 }) => (a, b) => a - alpha * b,
  mul: () => (a, b) => a * b,
  div: () => (a, b) => a / b,
  maximum: () => Math.max,
  minimum: () => Math.min,
  pow: () => Math.pow,
};

// Two tensors of shapes that fit, as PyTorch broadcasts them.
export function binary(f, a, aShape, b, bShape, outShape) {
  const count = size(outShape), result = new Float32Array(count);
  if (a.length === count && b.length === count) {
    for (let i = 0; i < count; i++) result[i] = f(a[i], b[i]);
    return result;
  }
  const [ai, bi] = [aShape, bShape].map((shape) => strides(shape, outShape)), place = outShape.map(() => 0);
  for (let i = 0, at = 0, bt = 0; i < count; i++) {
    result[i] = f(a[at], b[bt]);
    for (let d = outShape.length - 1; d >= 0; d--) {
      at += ai[d]; bt += bi[d];
      if (++place[d] < outShape[d]) break;
      at -= ai[d] * outShape[d]; bt -= bi[d] * outShape[d]; place[d] = 0;
    }
  }
  return result;
}

// How far the next number along each side of `outShape` lies in a tensor of `shape`; 0 where it has one for all.
function strides(shape, outShape) {
  const found = outShape.map(() => 0);
  let step = 1;
  for (let d = shape.length - 1, to = outShape.length - 1; d >= 0; d--, to--) {
    found[to] = shape[d] === 1 ? 0 : step;
    step *= shape[d];
  }
  return found;
}

export function batchNorm(x, channels, scale, shift) {
  const area = x.length / channels, result = new Float32Array(x.length);
  for (let c = 0; c < channels; c++) {
    for (let i = c * area; i < (c + 1) * area; i++) result[i] = x[i] * scale[c] + shift[c];
  }
  return result;
}

// Mean 0 and variance 1 within each run of `length` numbers; `channel(i)` tells whose weight and bias number i takes.
export function normed(x, length, eps, channel, weight, bias) {
  const result = new Float32Array(x.length);
  for (let from = 0; from < x.length; from += length) {
    let sum = 0, square = 0;
    for (let i = from; i < from + length; i++) sum += x[i];
    const mean = sum / length;
    for (let i = from; i < from + length; i++) square += (x[i] - mean) ** 2;
    const scale = 1 / Math.sqrt(square / length + eps);
    for (let i = from; i < from + length; i++) {
      const c = channel(i);
      result[i] = (x[i] - mean) * scale * (weight ? weight[c] : 1) + (bias ? bias[c] : 0);
    }
  }
  return result;
}

// Along side `dim` of `shape`.
export function softmax(x, shape, dim, log) {
  const count = shape[dim], step = size(shape.slice(dim + 1)), result = new Float32Array(x.length);
  for (let start = 0; start < x.length; start++) {
    if (Math.floor(start / step) % count) continue;
    let most = -Infinity, sum = 0;
    for (let k = 0; k < count; k++) most = Math.max(most, x[start + k * step]);
    for (let k = 0; k < count; k++) sum += Math.exp(x[start + k * step] - most);
    for (let k = 0; k < count; k++) {
      const z = x[start + k * step] - most;
      result[start + k * step] = log ? z - Math.log(sum) : Math.exp(z) / sum;
    }
  }
  return result;
}
