// Numbers as colours: zero is the paper, positive ones go to blue, negative ones to red.

export const largestOf = (values) => {
  let most = 0;
  for (let i = 0; i < values.length; i++) most = Math.max(most, Math.abs(values[i]));
  return most;
};

const LIGHT = { zero: [246, 247, 248], plus: [16, 62, 158], minus: [176, 42, 20] };
const DARK = { zero: [26, 29, 33], plus: [130, 177, 255], minus: [255, 140, 118] };
const scheme = globalThis.matchMedia?.("(prefers-color-scheme: dark)"); // none in the tests of the arithmetic
const dark = () => scheme?.matches;

// value/largest in [−1, 1] → [r, g, b].
export function colour(share, colours = dark() ? DARK : LIGHT) {
  const end = share < 0 ? colours.minus : colours.plus, part = Math.sqrt(Math.min(1, Math.abs(share)));
  return colours.zero.map((from, c) => from + (end[c] - from) * part);
}

// Values of one map on a canvas, a pixel for each.
export function paint(canvas, values, height, width, largest) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d", { willReadFrequently: true }), image = pen.createImageData(width, height), colours = dark() ? DARK : LIGHT;
  for (let i = 0; i < values.length; i++) {
    const [r, g, b] = colour(largest ? values[i] / largest : 0, colours);
    image.data[4 * i] = r; image.data[4 * i + 1] = g; image.data[4 * i + 2] = b; image.data[4 * i + 3] = 255;
  }
  pen.putImageData(image, 0, 0);
}

// A kernel over red, green and blue: (3, height, width) numbers → the colour that it answers to most; grey is zero.
export function paintColours(canvas, values, height, width) {
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d"), image = pen.createImageData(width, height), area = height * width, most = largestOf(values) || 1;
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = Math.round(127.5 + (127.5 * values[c * area + i]) / most);
    image.data[4 * i + 3] = 255;
  }
  pen.putImageData(image, 0, 0);
}

export function number(value) {
  if (value === 0 || !Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  const text = size >= 1000 || size < .001 ? value.toExponential(1) : value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 3);
  return text.replaceAll("-", "−");
}

// An element with attributes, listeners (on…) and children.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}
