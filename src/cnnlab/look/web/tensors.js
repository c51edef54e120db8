// Numbers as they come with the page: one block of little-endian floats, of 16 or 32 bits, and what lies where in it.

export const size = (shape) => shape.reduce((a, b) => a * b, 1);

export function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// One of the 65,536 numbers of 16 bits.
export function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -24 * fraction;
}

let halves = null; // all of them, worked out once

// [{shape, half, offset}] and the block → [Float32Array]; offsets are multiples of 4, and processors little-endian.
export function readTensors(described, bytes) {
  return described.map(({ shape, half, offset }) => {
    const at = bytes.byteOffset + offset, count = size(shape);
    if (!half) return new Float32Array(bytes.buffer, at, count);
    halves ??= Float32Array.from({ length: 65536 }, (_, bits) => fromHalf(bits));
    return Float32Array.from(new Uint16Array(bytes.buffer, at, count), (bits) => halves[bits]);
  });
}

// Pixels (height, width, channels) of 8 bits → what the network takes: (x/255 − mean)/std, (channels, height, width).
export function normalise(pixels, { layout, mean, std }) {
  const area = layout.height * layout.width, channels = mean.length;
  const values = new Float32Array(channels * area);
  for (let c = 0; c < channels; c++) {
    const scale = Math.fround(1 / (255 * std[c])), shift = Math.fround(-mean[c] / std[c]);
    for (let i = 0; i < area; i++) values[c * area + i] = Math.fround(pixels[i * channels + c] * scale) + shift;
  }
  return values;
}

// The other way round, for showing: (channels, height, width) → RGBA pixels of 8 bits.
export function toPixels(values, { layout, mean, std }) {
  const area = layout.height * layout.width, pixels = new Uint8ClampedArray(4 * area);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) {
      const from = mean.length === 3 ? c : 0;
      pixels[4 * i + c] = 255 * (values[from * area + i] * std[from] + mean[from]);
    }
    pixels[4 * i + 3] = 255;
  }
  return pixels;
}
