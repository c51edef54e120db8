// What moves numbers without changing them, sums over sides, and resizing.

import { size } from "./tensors.js";

const steps = (shape) => shape.map((_, d) => size(shape.slice(d + 1)));

// Number i of the result is number from + Σ place·step of x.
function gathered(x, outShape, step, from = 0) {
  const count = size(outShape), result = new Float32Array(count), place = outShape.map(() => 0);
  for (let i = 0, at = from; i < count; i++) {
    result[i] = x[at];
    for (let d = outShape.length - 1; d >= 0; d--) {
      at += step[d];
      if (++place[d] < outShape[d]) break;
      at -= step[d] * outShape[d];
      place[d] = 0;
    }
  }
  return result;
}

export function permute(x, shape, outShape, order) {
  const own = steps(shape);
  return gathered(x, outShape, order.map((d) => own[d]));
}

export function sliced(x, shape, outShape, { dim, start, step }) {
  const own = steps(shape), from = start * own[dim];
  own[dim] *= step;
  return gathered(x, outShape, own, from);
}

// pad: [left, right, top, bottom, …] from the last side on; negative ones cut.
export function padded(x, shape, outShape, { pad, value }) {
  const result = new Float32Array(size(outShape)).fill(value);
  const before = shape.map((_, d) => pad[2 * (shape.length - 1 - d)] ?? 0), to = steps(outShape), place = shape.map(() => 0);
  for (let i = 0; i < x.length; i++) {
    let at = 0, inside = true;
    for (let d = 0; d < shape.length; d++) {
      const p = place[d] + before[d];
      inside &&= p >= 0 && p < outShape[d];
      at += p * to[d];
    }
    if (inside) result[at] = x[i];
    for (let d = shape.length - 1; d >= 0; d--) {
      if (++place[d] < shape[d]) break;
      place[d] = 0;
    }
  }
  return result;
}

export function joined(parts, shapes, outShape, dim) {
  const result = new Float32Array(size(outShape)), whole = size(outShape.slice(dim));
  let at = 0;
  parts.forEach((part, number) => {
    const piece = size(shapes[number].slice(dim));
    for (let row = 0; row * piece < part.length; row++) {
      result.set(part.subarray(row * piece, (row + 1) * piece), row * whole + at);
    }
    at += piece;
  });
  return result;
}

// Sum, mean or largest over the sides `dims`.
export function reduced(op, x, shape, dims) {
  const rest = shape.map((_, d) => d).filter((d) => !dims.includes(d)), own = steps(shape);
  const front = [...rest, ...dims], count = size(dims.map((d) => shape[d]));
  const moved = gathered(x, front.map((d) => shape[d]), front.map((d) => own[d]));
  const result = new Float32Array(x.length / count);
  for (let i = 0; i < result.length; i++) {
    let sum = op === "amax" ? -Infinity : 0;
    for (let k = i * count; k < (i + 1) * count; k++) sum = op === "amax" ? Math.max(sum, moved[k]) : sum + moved[k];
    result[i] = op === "mean" ? sum / count : sum;
  }
  return result;
}

export function nearest(x, [, channels, height, width], outShape, { factors }) {
  const [, , high, wide] = outShape, result = new Float32Array(size(outShape));
  const scale = [height / high, width / wide].map((own, d) => factors[d] ? 1 / factors[d] : own);
  for (let c = 0, to = 0; c < channels; c++) {
    for (let y = 0; y < high; y++) {
      const from = (c * height + Math.min(height - 1, Math.floor(y * scale[0]))) * width;
      for (let i = 0; i < wide; i++, to++) result[to] = x[from + Math.min(width - 1, Math.floor(i * scale[1]))];
    }
  }
  return result;
}

// Where number `place` of the resized side lies: the two places beside it, and the second's share.
export function between(place, side, out, factor, corners) {
  const at = corners ? (out > 1 ? place * (side - 1) / (out - 1) : 0)
    : Math.max(0, (place + .5) * (factor ? 1 / factor : side / out) - .5);
  const low = Math.min(side - 1, Math.floor(at));
  return [low, Math.min(side - 1, low + 1), at - low];
}

export function bilinear(x, [, channels, height, width], outShape, { factors, align_corners: corners }) {
  const [, , high, wide] = outShape, result = new Float32Array(size(outShape));
  const rows = Array.from({ length: high }, (_, y) => between(y, height, high, factors[0], corners));
  const columns = Array.from({ length: wide }, (_, i) => between(i, width, wide, factors[1], corners));
  let to = 0;
  for (let c = 0; c < channels; c++) {
    for (const [y0, y1, down] of rows) {
      const a = (c * height + y0) * width, b = (c * height + y1) * width;
      for (const [x0, x1, right] of columns) {
        const top = x[a + x0] * (1 - right) + x[a + x1] * right, bottom = x[b + x0] * (1 - right) + x[b + x1] * right;
        result[to++] = top * (1 - down) + bottom * down;
      }
    }
  }
  return result;
}

export function pixelShuffle(x, [, , height, width], outShape, factor) {
  const [, channels, high, wide] = outShape, result = new Float32Array(size(outShape));
  let to = 0;
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < high; y++) {
      for (let i = 0; i < wide; i++) {
        const from = (c * factor + y % factor) * factor + i % factor;
        result[to++] = x[(from * height + Math.floor(y / factor)) * width + Math.floor(i / factor)];
      }
    }
  }
  return result;
}
