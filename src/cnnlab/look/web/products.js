// Layers that are matrix products: convolution (the windows of the input as columns), its transpose, linear layers.

import { size } from "./tensors.js";

const COLUMNS = 1 << 16; // numbers of a strip of columns: it stays in the cache of the processor

// out (rows × count, from `at`, a row every `stride`) += a (rows × inner, from `from`) · b (inner × count). Two rows and
// four numbers of each at a time: eight products for each four numbers of b that are read.
export function addProduct(out, at, stride, a, from, b, rows, inner, count) {
  for (let i = 0; i + 1 < rows; i += 2) {
    const o = at + i * stride, p = o + stride, w = from + i * inner, v = w + inner;
    let k = 0;
    for (; k + 3 < inner; k += 4) {
      const a0 = a[w + k], a1 = a[w + k + 1], a2 = a[w + k + 2], a3 = a[w + k + 3];
      const c0 = a[v + k], c1 = a[v + k + 1], c2 = a[v + k + 2], c3 = a[v + k + 3];
      const b0 = k * count, b1 = b0 + count, b2 = b1 + count, b3 = b2 + count;
      for (let j = 0; j < count; j++) {
        const x0 = b[b0 + j], x1 = b[b1 + j], x2 = b[b2 + j], x3 = b[b3 + j];
        out[o + j] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3;
        out[p + j] += c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3;
      }
    }
    for (; k < inner; k++) {
      const a0 = a[w + k], c0 = a[v + k], b0 = k * count;
      for (let j = 0; j < count; j++) {
        out[o + j] += a0 * b[b0 + j];
        out[p + j] += c0 * b[b0 + j];
      }
    }
  }
  if (rows % 2) addRow(out, at + (rows - 1) * stride, a, from + (rows - 1) * inner, b, inner, count);
}

function addRow(out, at, a, from, b, inner, count) {
  for (let k = 0; k < inner; k++) {
    const weight = a[from + k], b0 = k * count;
    for (let j = 0; j < count; j++) out[at + j] += weight * b[b0 + j];
  }
}

// The windows of rows y0 to y1 of the output as columns: (channels·kh·kw) × ((y1 − y0)·width).
function windows(columns, x, first, channels, [height, width], y0, y1, wide, [kh, kw], { stride, padding, dilation }) {
  const count = (y1 - y0) * wide;
  let row = 0;
  for (let c = first; c < first + channels; c++) {
    for (let ky = 0; ky < kh; ky++) {
      for (let kx = 0; kx < kw; kx++, row++) {
        let to = row * count;
        for (let y = y0; y < y1; y++) {
          const iy = y * stride[0] - padding[0] + ky * dilation[0];
          if (iy < 0 || iy >= height) { columns.fill(0, to, to += wide); continue; }
          const line = (c * height + iy) * width, left = kx * dilation[1] - padding[1];
          for (let ox = 0; ox < wide; ox++, to++) {
            const ix = ox * stride[1] + left;
            columns[to] = ix >= 0 && ix < width ? x[line + ix] : 0;
          }
        }
      }
    }
  }
}

// x: (1, C, H, W) of `shape` → (1, out, h, w) of `outShape`. weight: (out, C/groups, kh, kw).
export function conv2d(x, shape, weight, weightShape, bias, outShape, attributes) {
  const [out, each, kh, kw] = weightShape, { groups } = attributes;
  const [, , high, wide] = outShape, result = new Float32Array(size(outShape));
  if (bias) for (let c = 0; c < out; c++) result.fill(bias[c], c * high * wide, (c + 1) * high * wide);
  const inner = each * kh * kw, filters = out / groups;
  const strip = Math.max(1, Math.min(high, Math.floor(COLUMNS / (inner * wide))));
  const columns = new Float32Array(inner * strip * wide);
  for (let group = 0; group < groups; group++) {
    for (let y0 = 0; y0 < high; y0 += strip) {
      const y1 = Math.min(high, y0 + strip), count = (y1 - y0) * wide;
      windows(columns, x, group * each, each, shape.slice(2), y0, y1, wide, [kh, kw], attributes);
      const at = group * filters * high * wide + y0 * wide;
      addProduct(result, at, high * wide, weight, group * filters * inner, columns, filters, inner, count);
    }
  }
  return result;
}

// Each number of the input is scattered, times the kernel, over the output. weight: (C, out/groups, kh, kw).
export function convTranspose2d(x, shape, weight, weightShape, bias, outShape, { stride, padding, dilation, groups }) {
  const [, channels, height, width] = shape, [, each, kh, kw] = weightShape, [, out, high, wide] = outShape;
  const result = new Float32Array(size(outShape));
  if (bias) for (let c = 0; c < out; c++) result.fill(bias[c], c * high * wide, (c + 1) * high * wide);
  for (let c = 0; c < channels; c++) {
    const group = Math.floor(c / (channels / groups));
    for (let o = 0; o < each; o++) {
      const plane = (group * each + o) * high * wide, kernel = (c * each + o) * kh * kw;
      for (let ky = 0; ky < kh; ky++) {
        for (let kx = 0; kx < kw; kx++) {
          const w = weight[kernel + ky * kw + kx];
          for (let y = 0; y < height; y++) {
            const oy = y * stride[0] - padding[0] + ky * dilation[0];
            if (oy < 0 || oy >= high) continue;
            const line = (c * height + y) * width;
            for (let ix = 0; ix < width; ix++) {
              const ox = ix * stride[1] - padding[1] + kx * dilation[1];
              if (ox >= 0 && ox < wide) result[plane + oy * wide + ox] += w * x[line + ix];
            }
          }
        }
      }
    }
  }
  return result;
}

// x: (…, in), weight: (out, in) → (…, out).
export function linear(x, weight, [out, inner], bias) {
  const rows = x.length / inner, result = new Float32Array(rows * out);
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < out; o++) {
      let sum = bias ? bias[o] : 0;
      const from = r * inner, w = o * inner;
      for (let i = 0; i < inner; i++) sum += weight[w + i] * x[from + i];
      result[r * out + o] = sum;
    }
  }
  return result;
}

// (…, n, k) · (…, k, m) → (…, n, m); the leading sides are the same or missing in the second.
export function matmul(a, aShape, b, bShape, outShape) {
  const [n, inner] = aShape.slice(-2), m = bShape.at(-1), result = new Float32Array(size(outShape));
  const batches = a.length / (n * inner), same = b.length === inner * m;
  for (let batch = 0; batch < batches; batch++) {
    const right = same ? b : b.subarray(batch * inner * m, (batch + 1) * inner * m);
    addProduct(result, batch * n * m, m, a, batch * n * inner, right, n, inner, m);
  }
  return result;
}
