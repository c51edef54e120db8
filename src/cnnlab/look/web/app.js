// The page: what is shown, what was changed, and the network that answers.

import { bytesOf, normalise, readTensors } from "./tensors.js";
import { edited, probabilities } from "./network.js";
import { Engine, latest } from "./engine.js";
import { boxOf, receptiveField } from "./geometry.js";
import { changedImage, editsOf, ofImage, toggled, withChange, without } from "./changes.js";
import { Overview } from "./overview.js";
import { boxes, drawAnswers, drawChanges, drawImage, thumbnail } from "./side.js";
import { Detail } from "./detail.js";
import { Sources } from "./sources.js";
import { sourceMap } from "./words.js";

const $ = (id) => document.getElementById(id);
const card = JSON.parse($("card").textContent), { graph } = card, bytes = bytesOf($("weights").textContent);
$("weights").remove();
const images = card.images.map(({ pixels }) => normalise(bytesOf(pixels), card.preprocess));
const independent = card.task === "multilabel", shape = graph.nodes[0].shape;

const look = {
  card, graph, values: new Map(), changes: [], image: images[0], before: null, fresh: true,
  pinned: null, // {image, edits, key, values, now}: what is shown beside
  tensors: readTensors(graph.tensors, bytes),

  // The numbers of a tensor as they are now.
  tensor(index) {
    return edited(this.tensors[index], editsOf(this.changes).weights[index]);
  },

  answersOf(logits) {
    if (card.task !== "segmentation") return probabilities(logits, independent);
    const area = logits.length / card.classes.length, sums = card.classes.map(() => 0);
    for (let i = 0; i < area; i++) {
      probabilities(card.classes.map((_, c) => logits[c * area + i]), false).forEach((share, c) => { sums[c] += share / area; });
    }
    return sums;
  },

  // How much each map of input k weighs in a map of a node, from 0 to 1.
  shares(number, map, k, count) {
    const node = graph.nodes[number], { weight } = node.tensors;
    if (node.op === "conv2d" || node.op === "linear") {
      const [out, each, ...kernel] = graph.tensors[weight].shape, area = kernel.reduce((a, b) => a * b, 1), numbers = this.tensor(weight);
      const first = node.op === "conv2d" ? Math.floor(map / (out / node.attributes.groups)) * each : 0;
      const sums = Array.from({ length: each }, (_, i) => {
        let sum = 0;
        for (let j = 0; j < area; j++) sum += Math.abs(numbers[(map * each + i) * area + j]);
        return sum;
      });
      const most = Math.max(...sums) || 1;
      return Array.from({ length: count }, (_, i) => (sums[i - first] ?? 0) / most);
    }
    if (node.op === "cat" && node.attributes.dim === 1) {
      const start = node.inputs.slice(0, k).reduce((sum, n) => sum + graph.nodes[n].shape[1], 0);
      return Array.from({ length: count }, (_, i) => i === map - start ? 1 : 0);
    }
    const from = sourceMap(graph, node.inputs[k], map);
    return Array.from({ length: count }, (_, i) => i === from ? 1 : 0);
  },

  select(place) {
    detail.open(place);
    this.need();
  },

  // What is pointed at, else the number that is open: what it was made from is lit.
  point(pointed) {
    const place = pointed ?? detail.place;
    overview.light(place);
    const field = place && receptiveField(graph, place.node, boxOf(graph.nodes[place.node].shape, place.map, place.y, place.x));
    const seen = changedImage(this.image, this.changes, shape);
    for (const id of ["image", "mini"]) drawImage($(id), seen, card.preprocess, field);
    $("field").textContent = !place ? "Point at a map: the part of the image that it depends on is lit." : field
      ? `Depends on ${field[2] - field[0]}×${field[3] - field[1]} of ${shape[3]}×${shape[2]} pixels.` : "Depends on no pixel.";
  },

  change(change) {
    this.setChanges(change.kind === "weight" || ofImage(change) ? withChange(this.changes, change) : toggled(this.changes, change));
  },

  setChanges(changes) {
    const image = (list) => JSON.stringify(list.filter(ofImage));
    if (image(changes) !== image(this.changes)) this.fresh = true;
    this.changes = changes;
    return this.need();
  },

  // Which of the run's images it is, and its class.
  mark(image) {
    const chosen = images.indexOf(image);
    [...$("thumbs").children].forEach((one, i) => one.setAttribute("aria-pressed", i === chosen));
    this.truth = card.images[chosen]?.label ?? null;
    $("truth").textContent = this.truth === null ? "" : `It is labelled ${this.truth}.`;
  },

  setImage(image, whole = true) {
    this.image = image;
    this.fresh = true;
    $("message").hidden = true;
    this.mark(image);
    if (whole) this.before = null;
    if (whole) this.changes = this.changes.filter((change) => !ofImage(change));
    return this.need();
  },

  need: latest(async () => {
    const begun = performance.now(), sent = look.fresh ? changedImage(look.image, look.changes, shape) : undefined;
    const { image } = look;
    look.fresh = false;
    if (!look.before && look.changes.length) look.before = look.answersOf((await engine.ask({ type: "apart", image, wanted: [] })).logits);
    const answer = await engine.ask({ type: "run", image: sent, edits: editsOf(look.changes), wanted: [...overview.wanted(), ...detail.wanted()] });
    for (const [node, values] of Object.entries(answer.values)) look.values.set(Number(node), values);
    look.now = look.answersOf(answer.logits);
    const { pinned } = look;
    if (pinned) {
      const beside = await engine.ask({ type: "apart", image: pinned.image, key: pinned.key, edits: pinned.edits, wanted: overview.wanted() });
      for (const [node, values] of Object.entries(beside.values)) pinned.values.set(Number(node), values);
    }
    if (!look.changes.length) look.before = look.now;
    show();
    look.took = performance.now() - begun;
    $("progress").hidden = true;
  }),
};

function show() {
  overview.update();
  detail.update();
  drawAnswers($("answers"), card.classes, look.now, (look.pinned ?? { now: look.before }).now, look.changes.length || look.pinned, look.truth);
  $("mini-answer").textContent = $("answers").firstChild.textContent.replace(/\s+/g, " ");
  drawChanges($("changes"), look.changes, graph, (change) => look.setChanges(without(look.changes, change)), () => look.setChanges([]));
  if (!look.changes.some(({ kind }) => kind === "move")) for (const name of ["right", "down", "turn"]) $(name).value = 0;
  look.point(null);
}

const engine = new Engine($("worker-source").textContent, (share) => {
  Object.assign($("progress"), { hidden: false, value: share });
});
const overview = new Overview(look, $("layers"));
const detail = new Detail(look, overview);

// All images of the run again, without changes: how far the page is from PyTorch.
async function check() {
  let off = 0;
  for (let i = 0; i < images.length; i++) {
    const { logits } = await engine.ask({ type: "apart", image: images[i], key: i, wanted: [] });
    const found = look.answersOf(logits), expected = look.answersOf(card.images[i].logits);
    off = found.reduce((most, p, k) => Math.max(most, Math.abs(p - expected[k])), off);
  }
  const difference = off < 5e-8 ? "no difference" : `probabilities differ by ${off.toExponential(0)} at most`;
  $("check").textContent = off > 1e-3
    ? `Take care: the probabilities here differ by up to ${off.toFixed(3)} from PyTorch's.`
    : `Checked on ${images.length} ${images.length === 1 ? "image" : "images"} against PyTorch: ${difference}.`;
  $("check").classList.toggle("bad", off > 1e-3);
  return off;
}

async function begin() {
  await engine.ask({ type: "load", graph, bytes });
  await look.need();
  if (innerWidth > 720 && !detail.place) $("layers").querySelector(".tile")?.classList.add("first");
  check().catch(fail);
}

const fail = (error) => {
  $("message").textContent = `The network cannot be run here: ${error.message}.`;
  $("message").hidden = false;
};

$("thumbs").append(...images.map((image, i) => {
  const { name, label } = card.images[i];
  return thumbnail(image, card.preprocess, label ? `${label} (${name})` : name, () => {
    sourcesOf.close();
    look.setImage(image);
  });
}));
look.mark(images[0]);
$("scale").addEventListener("change", (event) => { overview.scale = event.target.value; overview.update(); });
$("unfold").addEventListener("click", () => overview.fold(true));
$("fold").addEventListener("click", () => overview.fold(false));
let covering = null;
boxes($("image"), card.preprocess.layout, () => $("cover").getAttribute("aria-pressed") === "true", (box) => {
  const rest = covering ? without(look.changes, covering) : look.changes;
  covering = { kind: "cover", box };
  look.setChanges(withChange(rest, covering));
}, () => { covering = null; });
$("cover").addEventListener("click", () => {
  const on = $("cover").getAttribute("aria-pressed") !== "true";
  $("cover").setAttribute("aria-pressed", on);
  $("image").classList.toggle("covering", on);
});
$("pin").addEventListener("click", () => {
  const { image, changes, now } = look, seen = changedImage(image, changes, shape);
  look.pinned = look.pinned ? null : { image: seen, edits: editsOf(changes), key: `pinned ${performance.now()}`, values: new Map(), now };
  $("pin").setAttribute("aria-pressed", look.pinned !== null);
  $("pin").textContent = look.pinned ? "Stop comparing" : "Compare";
  for (const id of ["beside", "beside-note"]) $(id).hidden = !look.pinned;
  if (look.pinned) drawImage($("beside"), seen, card.preprocess);
  look.need();
});
const sliders = ["right", "down", "turn"].map((name) => $(name));
for (const [i, side] of [shape[3], shape[2]].entries()) Object.assign(sliders[i], { min: -Math.ceil(side / 2), max: Math.ceil(side / 2) });
for (const slider of sliders) {
  slider.addEventListener("input", () => {
    const [right, down, turn] = sliders.map(({ value }) => Number(value)), change = { kind: "move", right, down, turn };
    if (right || down || turn) look.change(change); else look.setChanges(without(look.changes, change));
  });
}
const sourcesOf = new Sources(look, $, card);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show());

const ready = begin().catch((error) => { fail(error); throw error; });
window.look = {
  ready,
  classes: card.classes,
  layers: graph.nodes.filter(({ shown }) => shown).map(({ name }) => name),
  logits: async (i) => Array.from((await engine.ask({ type: "apart", image: images[i], key: i, wanted: [] })).logits),
  async activation(layer, i) {
    const node = graph.nodes.findIndex(({ name }) => name === layer);
    if (node < 0) throw new Error(`no layer ${layer}`);
    return Array.from((await engine.ask({ type: "apart", image: images[i], key: i, wanted: [node] })).values[node]);
  },
  check: async () => { await ready; return check(); },
};

