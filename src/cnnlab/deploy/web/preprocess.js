// The run's preprocess in a browser: Pillow's antialiased bilinear resizing in fixed point, on 8-bit pixels. Pillow takes
// the rows first for some sizes, where this takes the columns; a pixel is then one level off.

const BITS = 22;

// An image file → {width, height, channels: [Uint8Array …]}: "L" or "RGB", upright, on white.
export async function decode(blob, mode) {
  const bitmap = await createImageBitmap(blob, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = pen.getImageData(0, 0, width, height);
  const count = width * height;
  const channels = Array.from({ length: mode === "L" ? 1 : 3 }, () => new Uint8Array(count));
  for (let i = 0; i < count; i++) {
    const alpha = data[4 * i + 3];
    let r = data[4 * i], g = data[4 * i + 1], b = data[4 * i + 2];
    if (alpha < 255) {
      const white = 255 * (255 - alpha);
      r = Math.round((r * alpha + white) / 255); g = Math.round((g * alpha + white) / 255); b = Math.round((b * alpha + white) / 255);
    }
    if (mode === "L") channels[0][i] = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16;
    else { channels[0][i] = r; channels[1][i] = g; channels[2][i] = b; }
  }
  return { width, height, channels };
}

// What each of `outputs` places along a side takes of the places from `low` to `high` of `inputs`.
function weights(inputs, low, high, outputs) {
  const scale = (high - low) / outputs, support = Math.max(scale, 1);
  return Array.from({ length: outputs }, (_, place) => {
    const centre = low + (place + .5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + .5));
    const last = Math.min(inputs, Math.trunc(centre + support + .5));
    const shares = [];
    for (let x = first; x < last; x++) shares.push(Math.max(0, 1 - Math.abs((x - centre + .5) / support)));
    const sum = shares.reduce((a, b) => a + b, 0);
    return { first, shares: shares.map((share) => Math.trunc(share / sum * 2 ** BITS + .5)) };
  });
}

const level = (sum) => Math.min(255, Math.max(0, Math.floor(sum / 2 ** BITS)));

function resized(pixels, width, height, box, wide, high) {
  let rows = pixels, stride = width;
  if (wide !== width || box[0] !== 0 || box[2] !== width) {
    rows = new Uint8Array(wide * height);
    stride = wide;
    weights(width, box[0], box[2], wide).forEach(({ first, shares }, x) => {
      for (let y = 0; y < height; y++) {
        let sum = 2 ** (BITS - 1);
        for (let k = 0; k < shares.length; k++) sum += pixels[y * width + first + k] * shares[k];
        rows[y * wide + x] = level(sum);
      }
    });
  }
  if (high === height && box[1] === 0 && box[3] === height) return rows;
  const done = new Uint8Array(wide * high);
  weights(height, box[1], box[3], high).forEach(({ first, shares }, y) => {
    for (let x = 0; x < wide; x++) {
      let sum = 2 ** (BITS - 1);
      for (let k = 0; k < shares.length; k++) sum += rows[(first + k) * stride + x] * shares[k];
      done[y * wide + x] = level(sum);
    }
  });
  return done;
}

// Where a piece of some length in the middle of a side begins and ends; rounding must not carry it over the border. Pillow
// takes the edges of a box as 32-bit numbers.
function middle(side, length) {
  const left = Math.max(0, (side - length) / 2);
  return [Math.fround(left), Math.fround(Math.min(side, left + length))];
}

// An image file → Float32Array (channels, height, width), as the network takes it.
export async function prepare(blob, { layout, mean, std }) {
  const image = await decode(blob, layout.mode);
  const { width, height } = image;
  let box = [0, 0, width, height];
  if (layout.fit === "crop") {
    const scale = Math.min(width / layout.width, height / layout.height);
    const [left, right] = middle(width, layout.width * scale), [top, bottom] = middle(height, layout.height * scale);
    box = [left, top, right, bottom];
  }
  const same = width === layout.width && height === layout.height;
  const area = layout.width * layout.height, values = new Float32Array(image.channels.length * area);
  image.channels.forEach((channel, c) => {
    const pixels = same ? channel : resized(channel, width, height, box, layout.width, layout.height);
    for (let i = 0; i < area; i++) values[c * area + i] = (pixels[i] / 255 - mean[c]) / std[c];
  });
  return values;
}
