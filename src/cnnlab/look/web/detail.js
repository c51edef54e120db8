// The view below a layer: what the chosen number of the chosen map was made of.

import { mapsOf } from "./geometry.js";
import { make, number } from "./paint.js";
import { convolutionView, transposedView } from "./view-convolution.js";
import { answerView, otherView } from "./view-others.js";
import { describe } from "./words.js";
import { has } from "./changes.js";
import { likesView } from "./likes.js";

const PACE = 400; // milliseconds for a step of the kernel

// Of a layer that works on each place by itself: which layer made it as large as it is. Null where that says nothing.
function sameSize(look, number) {
  const { graph } = look, side = (n) => mapsOf(graph.nodes[n].shape), { height, width } = side(number);
  if (height * width === 1) return null;
  let from = number;
  const sized = ({ op }) => ["conv2d", "conv_transpose2d"].includes(op) || op.includes("pool");
  while (from > 0 && (from === number || !sized(graph.nodes[from]))) {
    const next = graph.nodes[from].inputs.find((k) => side(k).height === height && side(k).width === width);
    if (next === undefined) break;
    from = next;
  }
  if (from === number) return null;
  while (!graph.nodes[from].shown && graph.nodes[from].inputs.length) [from] = graph.nodes[from].inputs;
  const go = () => { look.overview.reveal(from); look.select({ node: from, map: 0, y: height >> 1, x: width >> 1 }); };
  return make("details", { class: "why" }, make("summary", {}, `Why is it ${width} wide?`),
    make("p", { class: "sum" }, "This layer works on each place by itself and keeps the size. ", from === 0 ? "The image is that wide." : "It was made that wide by ",
      from === 0 ? null : make("button", { class: "link", onclick: go }, graph.nodes[from].name), from === 0 ? null : "."));
}

export class Detail {
  constructor(look, overview) {
    Object.assign(this, { look, overview, place: null, all: false, part: undefined });
    this.body = make("div", { class: "body" });
    this.title = make("h4", { tabindex: "-1" });
    this.mute = make("button", { onclick: () => look.change({ kind: "mute", node: this.place.node, map: this.place.map }) });
    this.play = make("button", { "aria-pressed": "false", onclick: () => this.toggle() }, "Play");
    const tools = make("p", { class: "tools" }, make("button", { "aria-label": "previous place", onclick: () => this.step(-1) }, "←"), this.play,
      make("button", { "aria-label": "next place", onclick: () => this.step(1) }, "→"), this.mute,
      make("button", { onclick: () => this.close() }, "Close"));
    this.steps = [...tools.children].slice(0, 3);
    this.element = make("div", { class: "detail", onkeydown: (event) => { if (event.key === "Escape") this.close(); } }, this.title, tools, this.body);
  }

  open(place) {
    const other = !this.place || this.place.node !== place.node || this.place.map !== place.map;
    if (other) Object.assign(this, { all: false, part: undefined });
    this.place = place;
    this.unseen ||= other;
    this.pause();
    const row = this.overview.rows.get(place.node);
    if (this.element.parentElement !== row.element) row.element.append(this.element);
    this.update();
    if (other) this.title.focus({ preventScroll: true });
  }

  close() {
    this.pause();
    const tile = this.place && this.overview.rows.get(this.place.node)?.tiles[this.place.map]?.tile;
    this.place = null;
    this.element.remove();
    this.look.point(null);
    this.overview.choose(null);
    tile?.focus();
  }

  // Nodes whose values the view needs.
  wanted() {
    return this.place ? [this.place.node, ...this.look.graph.nodes[this.place.node].inputs] : [];
  }

  update() {
    if (!this.place) return;
    const { look, place } = this, node = look.graph.nodes[place.node], row = this.overview.rows.get(place.node);
    if (!row) { this.close(); return; }
    if (!this.element.isConnected) row.element.append(this.element);
    this.overview.choose(place);
    const value = look.values.get(place.node), inputs = node.inputs.map((k) => look.values.get(k)), { count, height, width } = mapsOf(node.shape);
    if (!value || inputs.some((one) => !one)) return; // on their way
    const isAnswer = place.node === look.graph.output, one = height * width === 1, what = one ? "Number" : "Map";
    const index = (place.map * height + place.y) * width + place.x;
    this.title.textContent = `${isAnswer && count === look.card.classes.length ? look.card.classes[place.map] : `${what} ${place.map}`} of ${node.name}: ${describe(look.graph, node)}, ${number(value[index])}${one ? "" : ` in row ${place.y}, column ${place.x}`}`;
    const muted = has(look.changes, { kind: "mute", node: place.node, map: place.map });
    this.mute.textContent = muted ? "Unmute" : `Mute this ${what.toLowerCase()}`;
    for (const button of this.steps) button.hidden = one;
    const view = { look, node, place, inputs, value, part: this.part, all: this.all, choose: (part) => { this.part = part; this.update(); },
      showAll: () => { this.all = true; this.update(); } };
    const found = node.op === "conv2d" ? convolutionView(view) : node.op === "conv_transpose2d" ? transposedView(view) : otherView(view);
    const active = this.body.contains(document.activeElement) ? document.activeElement : null, cell = active?.dataset.cell, typed = active?.value, open = this.body.querySelector(".why")?.open;
    const why = found.some((part) => part?.classList?.contains("why")) ? [] : [sameSize(look, place.node)];
    const note = muted ? [make("p", { class: "lead" }, "This is muted: whatever is computed here, 0 goes on.")] : [];
    this.body.replaceChildren(...note, ...found.filter(Boolean), ...why.filter(Boolean), ...(isAnswer && look.card.task !== "segmentation" ? answerView(view) : []), ...likesView(look, place));
    if (open && this.body.querySelector(".why")) this.body.querySelector(".why").open = true;
    const again = cell && this.body.querySelector(`[data-cell="${cell}"]`);
    if (again) {
      again.focus();
      if (typed !== active.defaultValue) again.value = typed; // half typed, while images follow one another
    }
    if (!this.unseen) return;
    this.unseen = false; // it is as long as it will be
    this.element.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }

  step(by) {
    const { height, width } = mapsOf(this.look.graph.nodes[this.place.node].shape), area = height * width;
    const at = (this.place.y * width + this.place.x + by + area) % area;
    this.place = { ...this.place, y: Math.floor(at / width), x: at % width };
    this.update();
    if (this.timer) return;
    this.look.point(this.place);
  }

  toggle() {
    if (this.timer) { this.pause(); return; }
    this.timer = setInterval(() => { this.step(1); this.look.point(this.place); }, PACE);
    this.play.textContent = "Pause";
    this.play.setAttribute("aria-pressed", "true");
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.play.textContent = "Play";
    this.play.setAttribute("aria-pressed", "false");
  }
}
