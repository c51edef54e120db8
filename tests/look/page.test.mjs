// What the page works out beside the network: sizes, receptive fields, changes, names. Numbers by hand.

import assert from "node:assert/strict";
import { test } from "node:test";

const web = new URL("../../src/cnnlab/look/web/", import.meta.url);
const { outputSize, receptiveField, boxOf } = await import(new URL("geometry.js", web));
const { changedImage, editsOf, moved, toggled, withChange } = await import(new URL("changes.js", web));
const { windowAt } = await import(new URL("view-convolution.js", web));
const { sources, stages } = await import(new URL("words.js", web));
const { flattened, nameOf } = await import(new URL("view-linear.js", web));
const { latest } = await import(new URL("engine.js", web));

const ramp = (count) => Float32Array.from({ length: count }, (_, i) => i);
const plain = { stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1 };
const node = (op, inputs, shape, attributes = {}, tensors = {}, name = op) => ({ op, inputs, shape, attributes, tensors, name, shown: !["permute", "slice"].includes(op) });
const tensors = [{ shape: [4, 4, 3, 3] }];

test("the size of a convolution's output", () => {
  assert.equal(outputSize(32, 3, 1, 1, 1, 1), 32);
  assert.equal(outputSize(7, 3, 2, 0, 0, 1), 3);
  assert.equal(outputSize(28, 5, 1, 0, 0, 2), 20);
});

test("a window of a ramp, with the padding around it", () => {
  assert.deepEqual(windowAt(ramp(16), [4, 4], [3, 3], plain, 1, 1), [[0, 1, 2], [4, 5, 6], [8, 9, 10]]);
  assert.deepEqual(windowAt(ramp(16), [4, 4], [3, 3], plain, 0, 3), [[null, null, null], [2, 3, null], [6, 7, null]]);
  assert.deepEqual(windowAt(ramp(16), [4, 4], [2, 2], { ...plain, padding: [0, 0], dilation: [2, 2] }, 0, 1), [[1, 3], [9, 11]]);
});

test("receptive fields grow by kernels and strides, and by the longer way of a shortcut", () => {
  const image = node("input", [], [1, 4, 16, 16]), conv = (from, stride = 1) => node("conv2d", [from], [1, 4, 16 / stride, 16 / stride], { ...plain, stride: [stride, stride] }, { weight: 0 });
  const nodes = [image, conv(0), conv(1), node("add", [2, 0], [1, 4, 16, 16]), conv(3, 2), node("max_pool2d", [4], [1, 4, 4, 4], { kernel: [2, 2], stride: [2, 2], padding: [0, 0], dilation: [1, 1] }),
    node("mean", [5], [1, 4], { dims: [2, 3] })];
  const field = (number, y, x) => receptiveField({ nodes, tensors }, number, boxOf(nodes[number].shape, 0, y, x));
  assert.deepEqual(field(1, 5, 6), [5, 4, 8, 7]);
  assert.deepEqual(field(1, 0, 0), [0, 0, 2, 2]);
  assert.deepEqual(field(3, 8, 8), [6, 6, 11, 11]);
  assert.deepEqual(field(5, 1, 1), [1, 1, 10, 10]); // two windows of 3 beside each other, 2 apart, and 2 more on each side
  assert.deepEqual(field(6, 0, 0), [0, 0, 16, 16]);
});

test("a transposed convolution, a slice and a permutation lead to the numbers they take", () => {
  const nodes = [node("input", [], [1, 4, 8, 8]), node("permute", [0], [1, 8, 8, 4], { order: [0, 2, 3, 1] }),
    node("slice", [1], [1, 4, 8, 4], { dim: 1, start: 1, end: 8, step: 2 }), node("permute", [2], [1, 4, 4, 8], { order: [0, 3, 1, 2] }),
    node("conv_transpose2d", [3], [1, 4, 8, 16], { stride: [2, 2], padding: [0, 0], dilation: [1, 1], groups: 1, output_padding: [0, 0] }, { weight: 1 })];
  const graph = { nodes, tensors: [...tensors, { shape: [4, 4, 2, 2] }] };
  assert.deepEqual(receptiveField(graph, 3, boxOf(nodes[3].shape, 2, 1, 5)), [5, 3, 6, 4]);
  assert.deepEqual(receptiveField(graph, 4, boxOf(nodes[4].shape, 0, 3, 10)), [5, 3, 6, 4]);
});

test("changes: the later number counts, a second click takes back, edits are by node and tensor", () => {
  const mute = { kind: "mute", node: 3, map: 1 }, weight = { kind: "weight", node: 1, tensor: 0, index: 7, value: 2 };
  let list = withChange(withChange([], weight), { ...weight, value: 5 });
  assert.equal(list.length, 1);
  list = toggled(list, mute);
  assert.deepEqual(editsOf(list), { mute: { 3: [1] }, cut: {}, weights: { 0: { 7: 5 } } });
  assert.equal(toggled(list, mute).length, 1);
});

test("an image is shifted, turned and covered", () => {
  const shape = [1, 1, 3, 3];
  assert.deepEqual([...moved(ramp(9), { right: 1, down: 0, turn: 0 }, shape)], [0, 0, 1, 3, 3, 4, 6, 6, 7]);
  assert.deepEqual([...moved(ramp(9), { right: 0, down: 0, turn: 90 }, shape)].map(Math.round), [6, 3, 0, 7, 4, 1, 8, 5, 2]);
  assert.deepEqual([...changedImage(ramp(9), [{ kind: "cover", box: [1, 0, 3, 2] }], shape)], [0, 0, 0, 3, 0, 0, 6, 7, 8]);
  const image = ramp(9);
  assert.equal(changedImage(image, [], shape), image);
});

test("layers are told apart by stage, and moved numbers are seen as what they were", () => {
  const named = (name, inputs, op = "relu") => node(op, inputs, [1, 1], {}, {}, name);
  const nodes = [named("image", [], "input"), named("stem.0", [0]), named("stage1.0.conv1", [1]), named("stage1.0.permute", [1], "permute"), named("stage1.0.add", [2, 3]), named("head", [4])];
  assert.deepEqual(stages({ nodes }), [{ name: "image", nodes: [0] }, { name: "stem", nodes: [1] }, { name: "stage1.0", nodes: [2, 4] }, { name: "head", nodes: [5] }]);
  assert.deepEqual(sources({ nodes }, 4), [2, 1]);
});

test("the numbers of a flattened image are its pixels, those of flattened maps their places", () => {
  const image = node("input", [], [1, 1, 28, 28]), maps = node("relu", [0], [1, 16, 5, 5]);
  const flat = (from, count) => ({ ...node("reshape", [from], [1, count]), shown: false });
  const nodes = [image, flat(0, 784), node("linear", [1], [1, 9]), maps, flat(3, 400), node("mean", [3], [1, 16]), { ...node("permute", [3], [1, 5, 5, 16]), shown: false }, flat(6, 400)];
  assert.equal(flattened({ nodes }, 1), image);
  assert.equal(nameOf(image, 614), "pixel in row 21, column 26"); // 614 = 21·28 + 26
  assert.equal(nameOf(flattened({ nodes }, 4), 57), "map 2, row 1, column 2"); // 57 = (2·5 + 1)·5 + 2
  for (const other of [2, 5, 7]) assert.equal(flattened({ nodes }, other), null, other); // a permutation moves them
  assert.equal(nameOf(null, 614), "number 614");
  assert.equal(nameOf(node("input", [], [1, 3, 4, 5]), 33), "green in row 2, column 3"); // 33 = (1·4 + 2)·5 + 3
  assert.equal(nameOf(node("input", [], [1, 2, 4, 5]), 33), "channel 1 in row 2, column 3");
});

test("of many questions the latest is answered", async () => {
  const done = [];
  const ask = latest(async (value) => { await null; done.push(value); });
  await Promise.all([ask(1), ask(2), ask(3)]);
  assert.deepEqual(done, [1, 3]);
});
