// What a filter likes: the parts of test images that excite a map most, each cut by its receptive field.

import { ofImage } from "./changes.js";
import { boxOf, receptiveField } from "./geometry.js";
import { make } from "./paint.js";
import { bytesOf, normalise, toPixels } from "./tensors.js";

const PLACES = 3; // numbers that say where: image, row, column

// base64 of (channels, places, 3) numbers of 16 bits → [[image, row, column] …] of a channel.
export function placesOf(base64, channels, map) {
  const bytes = bytesOf(base64), view = new DataView(bytes.buffer), each = bytes.length / 2 / channels;
  return Array.from({ length: each / PLACES }, (_, i) => [0, 1, 2].map((k) => view.getUint16(2 * (map * each + i * PLACES + k), true)));
}

function patch(values, facts, [x0, y0, x1, y1]) {
  const { width, height } = facts.layout, canvas = make("canvas", { width: x1 - x0, height: y1 - y0, "aria-hidden": "true" });
  canvas.getContext("2d").putImageData(new ImageData(toPixels(values, facts), width, height), -x0, -y0);
  return canvas;
}

export function likesView(look, place) {
  const { card, graph } = look, node = graph.nodes[place.node];
  if (!card.likes[place.node]) return [];
  const buttons = placesOf(card.likes[place.node], node.shape[1], place.map).map(([image, y, x]) => {
    const { pixels, label } = card.tried[image], values = normalise(bytesOf(pixels), look.page.facts);
    const field = receptiveField(graph, place.node, boxOf(node.shape, place.map, y, x));
    if (!field) return null;
    const name = label ?? `image ${image}`;
    return make("button", { "aria-label": `use this image: ${name}`, title: "use this image", onclick: () => look.page.choose(values, label) },
      patch(values, look.page.facts, field), make("span", { class: "small" }, name));
  });
  const before = look.changes.every(ofImage) ? "" : ", before any change";
  return [make("h5", {}, `What it likes: the parts of ${card.tried.length} test images with the largest numbers here${before}`),
    make("div", { class: "patches" }, ...buttons)];
}
