// The page: where an image comes from, the prediction, and the model.

import * as engine from "./engine.js";
import { Pad } from "./pad.js";
import { View } from "./view.js";

const by = (id) => document.getElementById(id);
const view = new View(by("view"));
const pad = new Pad(by("pad"), () => drawn());
const state = { card: null, blob: null, name: "", truth: "", target: null, turn: 0, stop: null, mode: "none", stream: null };

const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
const count = (number) => Number(number).toLocaleString("en");
const short = (number) => number >= 1e9 ? `${(number / 1e9).toFixed(2)} G` : number >= 1e6 ? `${(number / 1e6).toFixed(2)} M`
  : number >= 1e3 ? `${(number / 1e3).toFixed(1)} k` : String(number);
const shape = (sizes) => sizes ? sizes.join("×") : "–";
const field = (value) => value === "global" ? "all" : Array.isArray(value) ? value.join("×") : value ?? "–";

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in element && key !== "list") element[key] = value; else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

function say(error) {
  if (error?.name === "AbortError") return;
  const text = error ? (error.status !== undefined ? error.message : "Something failed on this page: " + error.message) : "";
  by("message").textContent = text;
  by("message").hidden = !text;
  if (error?.status === 401) { by("login").hidden = false; by("token").focus(); }
}

// ---- the image

function mode(name) {
  if (state.mode === "camera" && name !== "camera") stopCamera();
  state.mode = name;
  by("hint").hidden = name !== "none";
  by("view").hidden = name !== "image";
  by("pad").hidden = by("clear").hidden = name !== "draw";
  by("video").hidden = by("shoot").hidden = name !== "camera";
  by("looks").hidden = ["draw", "camera"].includes(name) || !(state.card.explains || state.card.localizes);
  by("draw").setAttribute("aria-pressed", name === "draw");
  by("camera").setAttribute("aria-pressed", name === "camera");
}

async function take(blob, name, truth = "") {
  if (state.card && blob.size > state.card.limits.bytes) {
    say({ status: 413, message: `The image is larger than ${state.card.limits.bytes / 1e6} MB; choose a smaller one.` });
    return;
  }
  Object.assign(state, { blob, name, truth, target: null });
  await ask(name !== "drawing");
}

async function ask(show) {
  const turn = ++state.turn, { blob } = state;
  state.stop?.abort();
  state.stop = new AbortController();
  const { signal } = state.stop;
  const current = () => turn === state.turn;
  document.querySelector(".answers").classList.add("busy");
  try {
    const answer = await engine.predict(blob, signal);
    if (!current()) return;
    say(null);
    answered(answer);
    if (show) {
      const bitmap = await bitmapOf(blob, signal);
      if (!current()) return;
      mode("image");
      view.show(bitmap);
    }
    await look(signal, current);
  } catch (error) {
    if (current()) say(error);
  } finally {
    if (current()) document.querySelector(".answers").classList.remove("busy");
  }
}

async function bitmapOf(blob, signal) {
  try {
    return await createImageBitmap(blob);
  } catch {
    return createImageBitmap(await engine.image(blob, signal)); // a format that the browser does not know
  }
}

// The map and the boxes, where they are wanted.
async function look(signal, current) {
  by("note").textContent = state.truth && `True class: ${state.truth}.`;
  if (state.mode !== "image" || !state.blob) return;
  const { card } = state;
  if (card.explains && by("map").checked) {
    const answer = await engine.explain(state.blob, state.target, signal);
    if (!current()) return;
    await view.lay(answer);
    by("note").textContent += ` The map shows the evidence for ${answer.target} (${answer.method}).`;
  } else view.lay(null);
  if (card.localizes && by("boxes").checked) {
    const answer = await engine.localize(state.blob, signal);
    if (!current()) return;
    view.box(answer);
    const things = answer.objects.map((thing) => thing.label).join(", ");
    by("note").textContent += ` ${things ? `Objects: ${things}.` : "No object was found."}`;
  } else view.box(null);
}

async function again() {
  const turn = ++state.turn;
  state.stop?.abort();
  state.stop = new AbortController();
  try {
    await look(state.stop.signal, () => turn === state.turn);
    say(null);
  } catch (error) { if (turn === state.turn) say(error); }
}

function answered(answer) {
  if (state.card.thresholds) by("prediction").replaceChildren(answer.labels.join(", ") || make("span", { className: "none" }, "no class"));
  else by("prediction").replaceChildren(answer.label, make("span", { className: "share" }, percent(answer.probability)));
  const buttons = answer.top.map((one) => {
    const fill = make("span", { className: "fill" });
    fill.style.transform = `scaleX(${one.probability})`;
    const button = make("button", { type: "button", disabled: !state.card.explains },
      make("span", {}, one.label), make("span", {}, percent(one.probability)), fill);
    if (state.card.explains) button.title = `Show the evidence for ${one.label}`;
    button.addEventListener("click", () => {
      if (state.mode !== "image") return;
      state.target = one.label;
      by("map").checked = true;
      for (const other of by("bars").querySelectorAll("button")) other.setAttribute("aria-pressed", other === button);
      again();
    });
    return make("li", {}, button);
  });
  by("bars").replaceChildren(...buttons);
  by("times").textContent = `${answer.milliseconds.toFixed(1)} ms ${engine.where === "server" ? "on the server" : "in this browser"}`;
  const said = state.card.thresholds ? answer.labels.join(", ") || "no class" : `${answer.label}, ${percent(answer.probability)}`;
  by("view").setAttribute("aria-label", `${state.name || "The image"}: ${said}`);
}

// ---- pad and camera

async function drawn() {
  const blob = await pad.image(Math.min(state.card.input.width, state.card.input.height) < 16 ? .95 : .72);
  if (blob) take(blob, "drawing");
}

function startDrawing() {
  state.turn++;
  pad.clear(state.card.dark_background);
  unanswered();
  mode("draw");
  by("stage").scrollIntoView({ block: "nearest" });
}

function unanswered() {
  by("prediction").replaceChildren(make("span", { className: "none" }, "none yet"));
  by("bars").replaceChildren();
  by("note").textContent = by("times").textContent = "";
}

async function startCamera() {
  if (state.mode === "camera") { mode(state.blob ? "image" : "none"); return; }
  try {
    state.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    say({ status: 0, message: "The camera cannot be used: there is none, it is not allowed, or the page is not on https." });
    return;
  }
  say(null);
  by("shoot").disabled = true; // until there is something to take
  mode("camera");
  by("video").srcObject = state.stream;
  try {
    await by("video").play();
    by("shoot").disabled = false;
  } catch { /* another image came before the first frame */ }
}

function stopCamera() {
  state.stream?.getTracks().forEach((track) => track.stop());
  by("video").srcObject = state.stream = null;
}

async function shoot() {
  const video = by("video"), canvas = document.createElement("canvas");
  canvas.width = video.videoWidth; canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  mode("image");
  take(await new Promise((done) => canvas.toBlob(done, "image/png")), "photograph");
}

// ---- what the model is

function describe(card) {
  const title = card.data ? `${card.model} trained on ${card.data}` : card.model;
  document.title = title;
  by("title").textContent = title;
  const right = card.accuracy;
  const digits = right && right.n >= 10000 ? 2 : 1;
  by("subject").textContent = `${count(card.classes.length)} classes` + (right
    ? ` · ${percent(right.value, digits)} of ${count(right.n)} test images correct` : " · not tested yet");
  const facts = [["Parameters", count(card.parameters), ""], ["Multiply-adds", short(card.multiply_adds), "for one image"],
    ["Input", shape([card.input.channels, card.input.height, card.input.width]), "channels, height, width"],
    ["Receptive field", field(card.receptive_field), "pixels"]];
  if (right) facts.unshift(["Test accuracy", percent(right.value, digits),
    `95 % interval ${percent(right.interval[0], digits)} to ${percent(right.interval[1], digits)}`]);
  by("facts").replaceChildren(...facts.map(([name, value, more]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value, make("span", { className: "more" }, more)))));
  by("layers").replaceChildren(...card.layers.map((row) => make("tr", {}, make("td", {}, row.name), make("td", {}, row.kind),
    make("td", {}, shape(row.output)), ...[row.parameters ? count(row.parameters) : "–",
      row.multiply_adds ? short(row.multiply_adds) : "–", String(field(row.receptive_field))]
      .map((text) => make("td", { className: "number" }, text)))));
  by("map-row").hidden = !card.explains;
  by("box-row").hidden = !card.localizes;
  by("draw").hidden = card.input.channels !== 1;
  by("try").hidden = by("card").hidden = false;
  by("footer").replaceChildren("Images are not kept. ", ...(engine.where === "server"
    ? [make("a", { href: "docs" }, "The same from a program"), ...(card.looks && engine.isOpen()
      ? [" · ", make("a", { href: "look" }, "Look inside: the network at work, to experiment with")] : [])] : ["They do not leave this browser."]));
}

async function showSamples() {
  const items = await engine.samples();
  by("samples").hidden = !items.length;
  for (const one of items) {
    const blob = await engine.sample(one);
    const image = make("img", { src: URL.createObjectURL(blob), alt: "" });
    await image.decode();
    image.className = Math.max(image.naturalWidth, image.naturalHeight) <= 64 ? "tiny" : "";
    const button = make("button", { type: "button" }, image, one.label);
    button.setAttribute("aria-label", `Sample of class ${one.label}`);
    button.addEventListener("click", () => {
      take(blob, `Sample of class ${one.label}`, one.label);
      by("stage").scrollIntoView({ block: "nearest" });
    });
    by("strip").append(make("li", {}, button));
  }
}

async function start() {
  try {
    state.card = await engine.load();
  } catch (error) {
    by("title").textContent = "cnnlab";
    say(error);
    return;
  }
  say(null);
  by("login").hidden = true;
  describe(state.card);
  mode("none");
  await showSamples().catch(say);
}

// ---- events

by("file").addEventListener("change", () => {
  const [file] = by("file").files;
  if (file) take(file, file.name);
  by("file").value = "";
});
by("draw").addEventListener("click", startDrawing);
by("clear").addEventListener("click", startDrawing);
by("camera").addEventListener("click", startCamera);
by("shoot").addEventListener("click", shoot);
by("map").addEventListener("change", again);
by("boxes").addEventListener("change", again);
by("opacity").addEventListener("input", () => { view.opacity = by("opacity").value / 100; view.paint(); });
by("login").addEventListener("submit", (event) => {
  event.preventDefault();
  engine.setToken(by("token").value);
  start();
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    by("stage").classList.toggle("over", name === "dragover");
    const file = name === "drop" && event.dataTransfer.files[0];
    if (file && state.card) take(file, file.name);
  });
}
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (file && state.card) take(file, "pasted image");
});
start();
