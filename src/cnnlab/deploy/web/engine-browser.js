// Runs the exported network in this browser; nothing leaves it.

import * as ort from "./ort.wasm.min.mjs";
import { prepare } from "./preprocess.js";

export const where = "browser";

export class Problem extends Error {
  constructor(status, sentence) { super(sentence); this.status = status; }
}

let card, session, running = Promise.resolve();

async function get(path) {
  const answer = await fetch(path).catch(() => null);
  if (!answer?.ok) throw new Problem(0, `${path} is missing. Put the whole folder on a web server: python -m http.server`);
  return answer;
}

export async function load() {
  card = await (await get("model.json")).json();
  ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send
  ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
  session = await ort.InferenceSession.create(await (await get("model.onnx")).arrayBuffer());
  return card;
}

// (K,) probabilities of an image file.
export async function probabilities(blob) {
  const { layout } = card.preprocess;
  let values;
  try {
    values = await prepare(blob, card.preprocess);
  } catch {
    throw new Problem(422, "This cannot be read as an image by this browser.");
  }
  const images = new ort.Tensor("float32", values, [1, layout.mode === "L" ? 1 : 3, layout.height, layout.width]);
  const turn = running.then(() => session.run({ images })); // one at a time
  running = turn.catch(() => {});
  const logits = Array.from((await turn).logits.data);
  if (card.thresholds) return logits.map((value) => 1 / (1 + Math.exp(-value)));
  const largest = Math.max(...logits), powers = logits.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

export async function predict(blob) {
  const began = performance.now();
  const shares = await probabilities(blob);
  const ranked = shares.map((probability, i) => ({ label: card.classes[i], probability, threshold: card.thresholds?.[i] }))
    .sort((a, b) => b.probability - a.probability);
  const top = ranked.slice(0, 5).map(({ label, probability }) => ({ label, probability }));
  const labels = ranked.filter((one) => card.thresholds ? one.probability >= one.threshold : one === ranked[0]).map((one) => one.label);
  return { ...top[0], labels, top, milliseconds: performance.now() - began };
}

export const samples = async () => card.sample_files;
export const sample = async (one) => (await get(one.file)).blob();
export const setToken = () => {};
export async function image() { throw new Problem(422, "This cannot be read as an image by this browser."); }
