// Small tables of numbers and small images of maps, for the views of a layer.

import { colour, largestOf, make, number, paint } from "./paint.js";

const PADDING = ["0", "padding: counts as 0"];

// rows: arrays of numbers or null (nothing there; none: what is written for that, and why); text: a number in words;
// mark(y, x): whether a cell is the one that counts.
export function grid(caption, rows, { mark = () => false, edit = null, none = PADDING, text: said = number } = {}) {
  const largest = largestOf(rows.flat().map((v) => v ?? 0)) || 1;
  const cell = (value, y, x) => {
    if (value === null) return make("td", { class: "none", title: none[1] }, none[0]);
    const shade = `--tint: rgb(${colour(value / largest).map(Math.round).join(" ")} / .55)`;
    const shown = Number(value.toPrecision(3)), changed = ({ target }) => { // what is no number puts the old one back
      if (target.value !== "" && Number.isFinite(Math.fround(target.valueAsNumber))) edit(y, x, target.valueAsNumber);
      else target.value = shown;
    };
    const text = edit ? make("input", { type: "number", step: "any", value: shown,
      "aria-label": `${caption}, row ${y}, column ${x}`, "data-cell": `${y},${x}`, onchange: changed }) : said(value);
    return make("td", { style: shade, class: mark(y, x) ? "marked" : null }, text);
  };
  return make("figure", { class: "grid" }, make("figcaption", {}, caption),
    make("div", { class: "scroll" }, make("table", {}, make("tbody", {}, ...rows.map((row, y) => make("tr", {}, ...row.map((v, x) => cell(v, y, x))))))));
}

// One map as a small image; `at` marks a window of it, [y, x, height, width].
export function picture(caption, values, height, width, { largest, at = null, click = null, label = caption } = {}) {
  const canvas = make("canvas", { "aria-hidden": "true" });
  paint(canvas, values, height, width, largest ?? largestOf(values));
  const frame = make("span", { class: "frame", style: `aspect-ratio: ${width} / ${height}` }, canvas);
  if (at) {
    const [y, x, tall, wide] = at, share = (part, side) => `${(100 * part) / side}%`;
    frame.append(make("span", { class: "window", style: `left:${share(x, width)};top:${share(y, height)};width:${share(wide, width)};height:${share(tall, height)}` }));
  }
  const inside = [frame, make("span", { class: "small" }, caption)];
  return click ? make("button", { class: "picture", "aria-label": label, onclick: click }, ...inside) : make("span", { class: "picture" }, ...inside);
}

export const line = (...parts) => make("p", { class: "sum" }, ...parts);
export const sign = (text) => make("span", { class: "sign", "aria-hidden": "true" }, text);
export const strong = (text) => make("strong", {}, text);

// [[header …], [row …] …]
export function list(header, rows) {
  const cells = (tag, row) => row.map((cell, i) => make(tag, { class: i ? "number" : null }, cell));
  return make("div", { class: "scroll" }, make("table", { class: "list" },
    make("thead", {}, make("tr", {}, ...cells("th", header))), make("tbody", {}, ...rows.map((row) => make("tr", {}, ...cells("td", row))))));
}
