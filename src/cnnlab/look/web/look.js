// One network of the page: its numbers, what was changed in it, and how it answers.

import { normalise, readTensors } from "./tensors.js";
import { edited, probabilities } from "./network.js";
import { latest } from "./engine.js";
import { boxOf, receptiveField } from "./geometry.js";
import { editsOf, toggled, withChange, without } from "./changes.js";
import { Overview } from "./overview.js";
import { Detail } from "./detail.js";
import { largestOf } from "./paint.js";
import { sourceMap } from "./words.js";

export class Look {
  // page: {card, looks, image, seen, moves, setImage(image), shown(look), point({field}), update()}; facts: of card.networks; place: where
  // the layers are drawn.
  constructor(page, facts, bytes, engine, place) {
    const card = { ...page.card, ...facts, preprocess: { ...page.card.preprocess, mean: facts.mean, std: facts.std } };
    Object.assign(this, { page, card, graph: facts.graph, engine, values: new Map(), own: [], now: null, before: null, pinned: null, pointed: null, sent: null });
    this.tensors = readTensors(this.graph.tensors, bytes);
    this.overview = new Overview(this, place);
    this.detail = new Detail(this, this.overview);
    this.need = latest(() => this.answer());
  }

  // The largest number of the layer of this name in the other networks: both are painted to one scale.
  largestBeside(number) {
    const { name } = this.graph.nodes[number];
    return Math.max(0, ...this.page.looks.filter((one) => one !== this).map(({ graph, values }) =>
      largestOf(values.get(graph.nodes.findIndex((node) => node.name === name)) ?? [])));
  }

  // What is changed in the image, and in this network.
  get changes() {
    return [...this.page.moves, ...this.own];
  }

  // The numbers of a tensor as they are now.
  tensor(index) {
    return edited(this.tensors[index], editsOf(this.own).weights[index]);
  }

  // The page's image, which is normalised for its first network, as this one takes it.
  input(image) {
    const { mean, std } = this.card.preprocess, first = this.page.card.networks[0];
    if (String([mean, std]) === String([first.mean, first.std])) return image;
    if (this.converted?.image !== image) {
      const area = image.length / mean.length;
      const own = image.map((value, i) => { const c = Math.floor(i / area); return (value * first.std[c] + first.mean[c] - mean[c]) / std[c]; });
      this.converted = { image, own };
    }
    return this.converted.own;
  }

  // Logits of image i of the run, and the values of some layers, without any change.
  apart(pixels, key, wanted = []) {
    return this.engine.ask({ type: "apart", image: normalise(pixels, this.card.preprocess), key, wanted });
  }

  answersOf(logits) {
    if (this.card.task !== "segmentation") return probabilities(logits, this.card.task === "multilabel");
    const area = logits.length / this.card.classes.length, sums = this.card.classes.map(() => 0);
    for (let i = 0; i < area; i++) {
      probabilities(this.card.classes.map((_, c) => logits[c * area + i]), false).forEach((share, c) => { sums[c] += share / area; });
    }
    return sums;
  }

  // How much each map of input k weighs in a map of a node, from 0 to 1.
  shares(number, map, k, count) {
    const { graph } = this, node = graph.nodes[number], { weight } = node.tensors;
    if (node.op === "conv2d" || node.op === "linear") {
      const [out, each, ...kernel] = graph.tensors[weight].shape, area = kernel.reduce((a, b) => a * b, 1), numbers = this.tensor(weight);
      const first = node.op === "conv2d" ? Math.floor(map / (out / node.attributes.groups)) * each : 0;
      const sums = Array.from({ length: each }, (_, i) => {
        let sum = 0;
        for (let j = 0; j < area; j++) sum += Math.abs(numbers[(map * each + i) * area + j]);
        return sum;
      });
      const block = node.op === "linear" && each % count === 0 ? each / count : 1; // of each map that was flattened, all numbers
      const whole = Array.from({ length: each / block }, (_, i) => sums.slice(i * block, (i + 1) * block).reduce((a, b) => a + b, 0)), most = largestOf(whole) || 1;
      return Array.from({ length: count }, (_, i) => (whole[i - first] ?? 0) / most);
    }
    if (node.op === "cat" && node.attributes.dim === 1) {
      const start = node.inputs.slice(0, k).reduce((sum, n) => sum + graph.nodes[n].shape[1], 0);
      return Array.from({ length: count }, (_, i) => i === map - start ? 1 : 0);
    }
    const from = sourceMap(graph, node.inputs[k], map);
    return Array.from({ length: count }, (_, i) => i === from ? 1 : 0);
  }

  select(place) {
    this.detail.open(place);
    this.need();
  }

  // What is pointed at, else the number that is open: what it was made from is lit.
  point(pointed) {
    this.pointed = pointed;
    this.overview.light(pointed ?? this.detail.place);
    this.page.point(pointed && { field: this.field(pointed) });
  }

  // The part of the image, [x0, y0, x1, y1), that a number depends on; null: no part.
  field({ node, map, y, x }) {
    return receptiveField(this.graph, node, boxOf(this.graph.nodes[node].shape, map, y, x));
  }

  change(change) {
    this.own = change.kind === "weight" ? withChange(this.own, change) : toggled(this.own, change);
    this.page.update();
  }

  undo(change) {
    this.own = without(this.own, change);
    this.page.update();
  }

  // Keep what is shown now, to compare what follows with it; or stop that. `now`: its probabilities, with the next answer.
  pin(on) {
    const { seen } = this.page;
    this.pinned = on ? { image: this.input(seen), edits: editsOf(this.own), key: `pinned ${performance.now()}`, values: new Map(), now: null } : null;
  }

  async answer() {
    const { page } = this, { image, seen } = page, changed = this.changes.length > 0;
    if (changed && this.unchanged !== image) {
      this.before = this.answersOf((await this.engine.ask({ type: "apart", image: this.input(image), wanted: [] })).logits);
      this.unchanged = image;
    }
    const sent = seen === this.sent ? undefined : this.input(seen);
    this.sent = seen;
    const answer = await this.engine.ask({ type: "run", image: sent, edits: editsOf(this.own), wanted: [...this.overview.wanted(), ...this.detail.wanted()] });
    for (const [node, values] of Object.entries(answer.values)) this.values.set(Number(node), values);
    this.now = this.answersOf(answer.logits);
    if (!changed) Object.assign(this, { before: this.now, unchanged: image });
    const { pinned } = this;
    if (pinned) {
      const kept = await this.engine.ask({ type: "apart", image: pinned.image, key: pinned.key, edits: pinned.edits, wanted: this.overview.wanted() });
      for (const [node, values] of Object.entries(kept.values)) pinned.values.set(Number(node), values);
      pinned.now = this.answersOf(kept.logits);
    }
    this.overview.update();
    this.detail.update();
    page.shown(this);
  }
}
