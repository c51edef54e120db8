// Beside the network: the image, the ways to another one, and the probabilities.

import { make } from "./paint.js";
import { toPixels } from "./tensors.js";

const SHOWN = 10; // classes

// A list of classes with their probabilities, likeliest first, and how much each has changed from `before`. The class
// that the image is labelled as is in it (of images with one label).
export function drawAnswers(place, classes, now, before, changed, truth) {
  const order = now.map((_, i) => i).sort((a, b) => now[b] - now[a]).slice(0, SHOWN);
  const was = before.indexOf(Math.max(...before));
  for (const other of [was, classes.indexOf(truth)]) if (other >= 0 && !order.includes(other)) order.push(other);
  place.replaceChildren(...order.map((i) => {
    const difference = 100 * (now[i] - before[i]);
    const text = !changed || Math.abs(difference) < .05 ? "" : `${difference > 0 ? "+" : "−"}${Math.abs(difference).toFixed(1)}`;
    return make("li", { "data-class": classes[i], class: i === was || classes[i] === truth ? "kept" : null },
      make("span", { class: "fill", style: `transform: scaleX(${now[i].toFixed(4)})` }), make("span", {}, `${classes[i]} `),
      make("span", { class: "share" }, text && make("span", { class: difference > 0 ? "up" : "down" }, text), ` ${(100 * now[i]).toFixed(1)} %`));
  }));
}

// The image as it is seen, with the receptive field [x0, y0, x1, y1] of what is pointed at.
// covers: what is covered, outlined.
export function drawImage(canvas, image, facts, field, covers = []) {
  const { width, height } = facts.layout, scale = Math.max(1, Math.round(320 / Math.max(width, height)));
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(new ImageData(toPixels(image, facts), width, height), 0, 0);
  Object.assign(canvas, { width: width * scale, height: height * scale });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
  pen.strokeStyle = "#ff9f0a";
  pen.lineWidth = 2;
  pen.setLineDash([6, 4]);
  for (const [x0, y0, x1, y1] of covers) pen.strokeRect(x0 * scale + 1, y0 * scale + 1, (x1 - x0) * scale - 2, (y1 - y0) * scale - 2);
  pen.setLineDash([]);
  if (!field) return;
  const [x0, y0, x1, y1] = field.map((side) => side * scale);
  pen.fillStyle = "rgb(0 0 0 / .45)";
  pen.beginPath();
  pen.rect(0, 0, canvas.width, canvas.height);
  pen.rect(x0, y0, x1 - x0, y1 - y0);
  pen.fill("evenodd");
  pen.lineWidth = 3;
  pen.strokeRect(x0 + 1.5, y0 + 1.5, Math.max(1, x1 - x0 - 3), Math.max(1, y1 - y0 - 3));
}

// The changes so far, [{words, undo}], each with a button that takes it back.
export function drawChanges(place, changes, undoAll) {
  place.hidden = !changes.length;
  const said = changes.map(({ words }) => words).join("\n");
  if (place.dataset.said === said) return; // so that a button stays under the finger while images follow one another
  place.dataset.said = said;
  const items = changes.map(({ words, undo }) => make("li", {}, make("span", {}, words),
    make("button", { class: "link", "aria-label": `take back: ${words}`, onclick: undo }, "undo")));
  place.replaceChildren(make("button", { id: "undo-all", onclick: undoAll }, "Take all back"), make("ul", {}, ...items));
}

export function thumbnail(image, facts, label, choose) {
  const canvas = make("canvas", { "aria-hidden": "true" });
  drawImage(canvas, image, facts);
  return make("button", { class: "thumb", "aria-label": label, title: label, onclick: choose }, canvas);
}

// Drag a box on the canvas: `moved` and in the end `done` are given [x0, y0, x1, y1] in pixels of the image.
export function boxes(canvas, { width, height }, active, moved, done) {
  let from = null, box = null;
  const at = (event) => {
    const frame = canvas.getBoundingClientRect();
    return [(event.clientX - frame.left) * width / frame.width, (event.clientY - frame.top) * height / frame.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (!active()) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    from = at(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    const [x, y] = at(event), limit = (v, most) => Math.max(0, Math.min(most, v));
    box = [limit(Math.floor(Math.min(from[0], x)), width), limit(Math.floor(Math.min(from[1], y)), height),
      limit(Math.ceil(Math.max(from[0], x)), width), limit(Math.ceil(Math.max(from[1], y)), height)];
    moved(box);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => {
      if (from && box) done(box);
      from = box = null;
    });
  }
}

