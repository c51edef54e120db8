// Pools: one number for each window of each map.

import { size } from "./tensors.js";

// What a window takes: [start, end) along a side, inside the map, and its length with the padding counted.
export function poolWindow(place, side, kernel, stride, padding) {
  const start = place * stride - padding, end = Math.min(start + kernel, side + padding);
  return [Math.max(0, start), Math.min(end, side), end - start];
}

export function maxPool(x, [, channels, height, width], outShape, { kernel, stride, padding, dilation }) {
  const [, , high, wide] = outShape, result = new Float32Array(size(outShape));
  let to = 0;
  for (let c = 0; c < channels; c++) {
    for (let oy = 0; oy < high; oy++) {
      for (let ox = 0; ox < wide; ox++, to++) {
        let most = -Infinity;
        for (let ky = 0; ky < kernel[0]; ky++) {
          const y = oy * stride[0] - padding[0] + ky * dilation[0];
          if (y < 0 || y >= height) continue;
          for (let kx = 0; kx < kernel[1]; kx++) {
            const px = ox * stride[1] - padding[1] + kx * dilation[1];
            if (px >= 0 && px < width) most = Math.max(most, x[(c * height + y) * width + px]);
          }
        }
        result[to] = most;
      }
    }
  }
  return result;
}

export function avgPool(x, [, channels, height, width], outShape, { kernel, stride, padding, count_padding: counted }) {
  const [, , high, wide] = outShape, result = new Float32Array(size(outShape));
  let to = 0;
  for (let c = 0; c < channels; c++) {
    for (let oy = 0; oy < high; oy++) {
      const [y0, y1, tall] = poolWindow(oy, height, kernel[0], stride[0], padding[0]);
      for (let ox = 0; ox < wide; ox++, to++) {
        const [x0, x1, broad] = poolWindow(ox, width, kernel[1], stride[1], padding[1]);
        result[to] = sumOf(x, c, height, width, y0, y1, x0, x1) / (counted ? tall * broad : (y1 - y0) * (x1 - x0));
      }
    }
  }
  return result;
}

function sumOf(x, c, height, width, y0, y1, x0, x1) {
  let sum = 0;
  for (let y = y0; y < y1; y++) for (let i = x0; i < x1; i++) sum += x[(c * height + y) * width + i];
  return sum;
}

// The window of a pool that is told the size of its output only.
export function adaptiveWindow(place, side, out) {
  return [Math.floor(place * side / out), Math.ceil((place + 1) * side / out)];
}

export function adaptivePool(x, [, channels, height, width], outShape, largest) {
  const [, , high, wide] = outShape, result = new Float32Array(size(outShape));
  let to = 0;
  for (let c = 0; c < channels; c++) {
    for (let oy = 0; oy < high; oy++) {
      const [y0, y1] = adaptiveWindow(oy, height, high);
      for (let ox = 0; ox < wide; ox++, to++) {
        const [x0, x1] = adaptiveWindow(ox, width, wide);
        if (largest) {
          let most = -Infinity;
          for (let y = y0; y < y1; y++) for (let i = x0; i < x1; i++) most = Math.max(most, x[(c * height + y) * width + i]);
          result[to] = most;
        } else result[to] = sumOf(x, c, height, width, y0, y1, x0, x1) / ((y1 - y0) * (x1 - x0));
      }
    }
  }
  return result;
}
