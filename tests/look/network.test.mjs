// The interpreter against PyTorch (files of $GOLDEN, which test_look_graph.py writes), and against numbers by hand.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

const web = new URL("../../src/cnnlab/look/web/", import.meta.url);
const { Network, probabilities } = await import(new URL("network.js", web));
const { bytesOf, fromHalf, normalise, toPixels } = await import(new URL("tensors.js", web));
const { conv2d, convTranspose2d } = await import(new URL("products.js", web));
const { sourceMap } = await import(new URL("words.js", web));
const { avgPool, maxPool } = await import(new URL("pools.js", web));

for (const file of readdirSync(process.env.GOLDEN)) {
  test(`every node of ${file} gives PyTorch's numbers`, () => {
    const { graph, block, image, values } = JSON.parse(readFileSync(`${process.env.GOLDEN}/${file}`));
    const network = new Network(graph, bytesOf(block));
    network.run(Float32Array.from(image));
    graph.nodes.forEach((node, i) => {
      assert.equal(network.values[i].length, values[i].length, node.name);
      const largest = values[i].reduce((most, v) => Math.max(most, Math.abs(v)), 0);
      const off = values[i].reduce((most, v, k) => Math.max(most, Math.abs(v - network.values[i][k])), 0);
      assert.ok(off <= 1e-4 * largest + 1e-7, `${node.name} (${node.op}): ${off} of ${largest}`);
    });
  });
}

const ramp = (count) => Float32Array.from({ length: count }, (_, i) => i);
const plain = { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 };

test("a kernel of 0 to 8 on a ramp", () => {
  const found = conv2d(ramp(16), [1, 1, 4, 4], ramp(9), [1, 1, 3, 3], null, [1, 1, 2, 2], plain);
  assert.deepEqual([...found], [258, 294, 402, 438]); // Σ k·x over each window
  const apart = conv2d(ramp(25), [1, 1, 5, 5], ramp(4), [1, 1, 2, 2], [1], [1, 1, 3, 3], { ...plain, dilation: [2, 2] });
  assert.equal(apart[0], 1 + 1 * 2 + 2 * 10 + 3 * 12);
});

test("a transposed convolution scatters its kernel", () => {
  const found = convTranspose2d(ramp(2), [1, 1, 1, 2], ramp(4), [1, 1, 2, 2], [1], [1, 1, 2, 4], { ...plain, stride: [2, 2] });
  assert.deepEqual([...found], [1, 1, 1, 2, 1, 1, 3, 4]);
});

test("pools of a ramp", () => {
  const a = { kernel: [2, 2], stride: [2, 2], padding: [0, 0], dilation: [1, 1], count_padding: true };
  assert.deepEqual([...maxPool(ramp(16), [1, 1, 4, 4], [1, 1, 2, 2], a)], [5, 7, 13, 15]);
  assert.deepEqual([...avgPool(ramp(16), [1, 1, 4, 4], [1, 1, 2, 2], a)], [2.5, 4.5, 10.5, 12.5]);
});

test("numbers of 16 bits", () => {
  assert.deepEqual([0x3c00, 0xc000, 0x3555, 0x0001].map(fromHalf), [1, -2, 0.333251953125, 2 ** -24]);
});

test("pixels become numbers and pixels again", () => {
  const facts = { layout: { width: 2, height: 1 }, mean: [.5, .4, .3], std: [.25, .2, .1] };
  const values = normalise(Uint8Array.from([0, 51, 102, 255, 128, 7]), facts);
  assert.ok(Math.abs(values[0] + 2) < 1e-6 && Math.abs(values[1] - 2) < 1e-6);
  assert.deepEqual([...toPixels(values, facts)], [0, 51, 102, 255, 255, 128, 7, 255]);
});

test("probabilities sum to one, or stand for themselves", () => {
  assert.deepEqual(probabilities([0, 0], false), [.5, .5]);
  assert.deepEqual(probabilities([0, 0], true), [.5, .5]);
  assert.ok(Math.abs(probabilities([1, 3], false)[1] - 1 / (1 + Math.exp(-2))) < 1e-12);
});

test("only what a change reaches is computed again, and it can be taken back", () => {
  const conv = (inputs, name) => ({ op: "conv2d", inputs, name, shape: [1, 2, 1, 1], attributes: { ...plain }, tensors: { weight: 0 } });
  const nodes = [
    { op: "input", inputs: [], shape: [1, 2, 1, 1], attributes: {}, tensors: {} },
    { ...conv([0], "a") }, { ...conv([0], "b"), tensors: { weight: 1 } },
    { op: "add", inputs: [1, 2], shape: [1, 2, 1, 1], attributes: {}, tensors: {} },
  ];
  const shape = [2, 2, 1, 1], tensors = [{ shape, half: false, offset: 0 }, { shape, half: false, offset: 16 }];
  const bytes = new Uint8Array(Float32Array.from([1, 2, 3, 4, 5, 6, 7, 8]).buffer);
  const network = new Network({ nodes, output: 3, tensors }, bytes), image = Float32Array.from([1, 10]);
  assert.equal(network.run(image), 4);
  assert.deepEqual([...network.values[3]], [21 + 65, 43 + 87]);
  assert.equal(network.run(image), 0);
  const edits = { mute: { 1: [0] }, cut: {}, weights: {} };
  assert.equal(network.run(image, edits), 2);
  assert.deepEqual([...network.values[3]], [65, 43 + 87]);
  assert.equal(network.run(image, { mute: {}, cut: { 3: [1] }, weights: { 0: { 0: 100 } } }), 2);
  assert.deepEqual([...network.values[3]], [120, 43]);
  assert.equal(network.run(image), 2);
  assert.deepEqual([...network.values[3]], [86, 130]);
});

test("the map that a padded shortcut comes from is found, and an empty one is told", () => {
  const nodes = [
    { op: "relu", inputs: [], shown: true, shape: [1, 8, 4, 4], attributes: {} },
    { op: "slice", inputs: [0], shape: [1, 8, 2, 4], attributes: { dim: 2, start: 0, step: 2 } },
    { op: "pad", inputs: [1], shape: [1, 16, 2, 4], attributes: { pad: [0, 0, 0, 0, 4, 4], value: 0 } },
  ];
  assert.deepEqual([3, 4, 6, 11, 12].map((map) => sourceMap({ nodes }, 2, map)), [-1, 0, 2, 7, -1]);
  assert.equal(sourceMap({ nodes }, 0, 5), 5);
});

test("so is it where the shortcut takes the channels last, as PadShortcut does: the numbers are those of the map it names", () => {
  const node = (op, from, shape, attributes) => ({ op, inputs: from, shown: !from.length, shape, attributes, tensors: {} });
  const nodes = [
    node("input", [], [1, 4, 4, 4], {}),
    node("permute", [0], [1, 4, 4, 4], { order: [0, 2, 3, 1] }),
    node("slice", [1], [1, 2, 4, 4], { dim: 1, start: 0, end: 4, step: 2 }),
    node("slice", [2], [1, 2, 2, 4], { dim: 2, start: 0, end: 4, step: 2 }),
    node("pad", [3], [1, 2, 2, 8], { pad: [2, 2], value: 0 }),
    node("permute", [4], [1, 8, 2, 2], { order: [0, 3, 1, 2] }),
  ];
  const network = new Network({ nodes, tensors: [], output: 5 }, new Uint8Array(0)), image = Float32Array.from({ length: 64 }, (_, i) => i + 1);
  network.run(image);
  for (let map = 0; map < 8; map++) {
    const from = sourceMap({ nodes }, 5, map), first = network.values[5][4 * map];
    assert.equal(from, first === 0 ? -1 : Math.floor((first - 1) / 16));
  }
  assert.deepEqual([1, 2, 5, 6].map((map) => sourceMap({ nodes }, 5, map)), [-1, 0, 3, -1]);
});
