// The page: an image, what is changed in it, and the networks that answer to it.

import { bytesOf, normalise } from "./tensors.js";
import { Engine } from "./engine.js";
import { changedImage, inWords, withChange, without } from "./changes.js";
import { Look } from "./look.js";
import { boxes, drawAnswers, drawChanges, drawImage, thumbnail } from "./side.js";
import { make } from "./paint.js";
import { Sources } from "./sources.js";

const $ = (id) => document.getElementById(id);
const card = JSON.parse($("card").textContent), { shape } = card.networks[0].graph.nodes[0], two = card.networks.length > 1;
const facts = { ...card.preprocess, mean: card.networks[0].mean, std: card.networks[0].std }; // of the images of the page
const images = card.images.map(({ pixels }) => normalise(bytesOf(pixels), facts));

const edges = ["left", "top", "wide", "high"].map((name) => $(`cover-${name}`)); // of the box that is covered
for (const [i, side] of [shape[3], shape[2], shape[3], shape[2]].entries()) Object.assign(edges[i], { min: 0, max: side });
let slid = null; // the cover that they show and move

function showCover(box) {
  if (!box) slid = null;
  const [x0, y0, x1, y1] = box ?? [Math.floor(shape[3] / 4), Math.floor(shape[2] / 4), 0, 0];
  [x0, y0, box ? x1 - x0 : 0, box ? y1 - y0 : 0].forEach((value, i) => { edges[i].value = value; });
}

const page = {
  card, facts, image: images[0], seen: images[0], moves: [], truth: null, looks: [],

  update() {
    for (const look of page.looks) look.need();
  },

  // A network has answered.
  shown(look) {
    const { looks } = page, number = looks.indexOf(look), place = answers[number], { classes } = card;
    drawAnswers(place, classes, look.now, look.pinned?.now ?? look.before, look.changes.length || look.pinned, page.truth);
    $("mini-answer").textContent = answers.map((one) => one.firstChild?.textContent.replace(/\s+/g, " ") ?? "").join(" · ");
    const changes = [...page.moves.map((change) => ({ words: inWords(change), undo: () => page.setMoves(without(page.moves, change)) })),
      ...looks.flatMap((one) => one.own.map((change) => ({ undo: () => one.undo(change),
        words: `${two ? `${one.card.title}: ` : ""}${inWords(change, one.graph)}` })))];
    drawChanges($("changes"), changes, () => page.takeBack());
    $("mini-undo").hidden = !changes.length;
    if (!page.moves.some(({ kind }) => kind === "move")) for (const name of ["right", "down", "turn"]) $(name).value = 0;
    for (const other of looks) if (other !== look && other.now) other.overview.update(); // they share their colours
    const under = looks.find(({ pointed }) => pointed) ?? look;
    under.point(under.pointed);
    $("progress").hidden = true;
  },

  // Show the receptive field of what is pointed at, {field}; null: of the number that is open, if one is.
  point(pointed) {
    const open = page.looks.find(({ detail }) => detail.place), seen = pointed ?? (open ? { field: open.field(open.detail.place) } : null);
    const covers = page.moves.filter(({ kind }) => kind === "cover").map(({ box }) => box);
    for (const id of ["image", "mini"]) drawImage($(id), page.seen, facts, pointed || !covers.length ? seen?.field : null, covers);
    const [x0, y0, x1, y1] = seen?.field ?? [];
    $("field").textContent = !seen ? "Point at a map: what it sees is lit." : seen.field
      ? `Depends on ${x1 - x0}×${y1 - y0} of ${shape[3]}×${shape[2]} pixels.` : "Depends on no pixel.";
  },

  setMoves(moves) {
    page.moves = moves;
    if (!moves.includes(slid)) showCover(null);
    page.seen = changedImage(page.image, moves, shape);
    page.update();
  },

  takeBack() {
    for (const look of page.looks) look.own = [];
    page.setMoves([]);
  },

  // Which of the run's images it is, and its class.
  mark(image, label) {
    const chosen = images.indexOf(image);
    [...$("thumbs").children].forEach((one, i) => one.setAttribute("aria-pressed", i === chosen));
    page.truth = label ?? card.images[chosen]?.label ?? null;
    $("truth").textContent = page.truth === null ? "" : `It is labelled ${page.truth}.`;
  },

  // moves: what goes on being changed in it, as from one image of the camera to the next.
  setImage(image, moves = [], label = null) {
    page.image = image;
    $("message").hidden = true;
    page.mark(image, label);
    page.setMoves(moves);
  },

  // An image of the run, instead of what comes from the pad or the camera.
  choose(image, label) {
    sources.close();
    page.setImage(image, [], label);
  },
};

const fail = (error) => {
  $("message").textContent = `The network cannot be run here: ${error.message}.`;
  $("message").hidden = false;
};
const bytes = [...document.querySelectorAll(".weights")].map((block) => {
  const found = bytesOf(block.textContent);
  block.remove();
  return found;
});
const answers = [], { looks } = page;
card.networks.forEach((network, i) => {
  const id = (name) => i ? `${name}-${i + 1}` : name, layers = make("div", { id: id("layers"), class: "layers" });
  $("networks").append(make("section", { "aria-label": network.title }, two ? make("h2", { class: "network-name" }, network.title) : null, layers));
  answers.push(make("ol", { id: id("answers"), class: "answers", "aria-live": "polite" }));
  $("answer-lists").append(make("div", {}, two ? make("h3", { class: "network-name" }, network.title) : null, answers[i]));
  const engine = new Engine($("worker-source").textContent, (share) => Object.assign($("progress"), { hidden: false, value: share }));
  looks.push(new Look(page, network, bytes[i], engine, layers));
});
for (const place of [$("networks"), $("answer-lists")]) place.style.setProperty("--count", looks.length);
document.body.classList.toggle("two", two);

// All images of the run again, without changes: how far the page is from PyTorch.
async function check() {
  let off = 0;
  for (const look of looks) {
    for (const [i, { pixels }] of card.images.entries()) {
      const { logits } = await look.apart(bytesOf(pixels), i);
      const found = look.answersOf(logits), expected = look.answersOf(look.card.logits[i]);
      off = found.reduce((most, p, k) => Math.max(most, Math.abs(p - expected[k])), off);
    }
  }
  const difference = off < 5e-8 ? "no difference" : `probabilities differ by ${off.toExponential(0)} at most`;
  $("check").textContent = off > 1e-3
    ? `Take care: the probabilities here differ by up to ${off.toFixed(3)} from PyTorch's.`
    : `Checked on ${images.length} ${images.length === 1 ? "image" : "images"} against PyTorch: ${difference}.`;
  $("check").classList.toggle("bad", off > 1e-3);
  return off;
}

async function begin() {
  await Promise.all(looks.map(async (look, i) => {
    await look.engine.ask({ type: "load", graph: look.graph, bytes: bytes[i] });
    await look.need();
  }));
  check().catch(fail);
}

$("thumbs").append(...images.map((image, i) => {
  const { name, label } = card.images[i];
  return thumbnail(image, facts, label ? `${label} (${name})` : name, () => page.choose(image));
}));
page.mark(images[0]);
showCover(null);
$("scale").addEventListener("change", ({ target }) => {
  for (const { overview } of looks) { overview.scale = target.value; overview.update(); }
});
for (const [id, open] of [["unfold", true], ["fold", false]]) {
  $(id).addEventListener("click", () => { for (const { overview } of looks) overview.fold(open); });
}
$("pin").addEventListener("click", () => {
  const on = $("pin").getAttribute("aria-pressed") !== "true";
  for (const look of looks) look.pin(on);
  $("pin").setAttribute("aria-pressed", on);
  $("pin").textContent = on ? "Stop comparing" : "Compare";
  for (const id of ["kept", "kept-note"]) $(id).hidden = !on;
  if (on) drawImage($("kept"), page.seen, facts);
  page.update();
});

// Covering: a box that is dragged over the image, or set with sliders, which show the last box.
const cover = (box, old) => {
  const rest = old ? without(page.moves, old) : page.moves, [x0, y0, x1, y1] = box, whole = x1 > x0 && y1 > y0;
  slid = { kind: "cover", box };
  showCover(box);
  page.setMoves(whole ? withChange(rest, slid) : rest);
};
let dragged = null; // the box that grows under the pointer
boxes($("image"), facts.layout, () => $("cover").getAttribute("aria-pressed") === "true",
  (box) => { cover(box, dragged); dragged = slid; }, () => { dragged = null; });
$("cover").addEventListener("click", () => {
  const on = $("cover").getAttribute("aria-pressed") !== "true";
  $("cover").setAttribute("aria-pressed", on);
  $("image").classList.toggle("covering", on);
  $("covering").hidden = !on;
});
for (const slider of edges) {
  slider.addEventListener("input", () => {
    let [left, top, wide, high] = edges.map(({ value }) => Number(value));
    if (!slid) [wide, high] = [wide || Math.ceil(shape[3] / 4), high || Math.ceil(shape[2] / 4)]; // the first move shows a box
    cover([left, top, Math.min(shape[3], left + wide), Math.min(shape[2], top + high)], slid);
  });
}

const sliders = ["right", "down", "turn"].map((name) => $(name));
for (const [i, side] of [shape[3], shape[2]].entries()) Object.assign(sliders[i], { min: -Math.ceil(side / 2), max: Math.ceil(side / 2) });
for (const slider of sliders) {
  slider.addEventListener("input", () => {
    const [right, down, turn] = sliders.map(({ value }) => Number(value)), change = { kind: "move", right, down, turn };
    page.setMoves(right || down || turn ? withChange(page.moves, change) : without(page.moves, change));
  });
}
$("mini-undo").addEventListener("click", () => page.takeBack());
const sources = new Sources(page, $);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page.update());

const ready = begin().catch((error) => { fail(error); throw error; });
const [look] = looks, pixelsOf = (i) => bytesOf(card.images[i].pixels);
window.look = {
  ready,
  classes: card.classes,
  layers: look.graph.nodes.filter(({ shown }) => shown).map(({ name }) => name),
  logits: async (i) => Array.from((await look.apart(pixelsOf(i), i)).logits),
  async activation(layer, i) {
    const node = look.graph.nodes.findIndex(({ name }) => name === layer);
    if (node < 0) throw new Error(`no layer ${layer}`);
    return Array.from((await look.apart(pixelsOf(i), i, [node])).values[node]);
  },
  check: async () => { await ready; return check(); },
};
