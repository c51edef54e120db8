// The convolution to play with: sizes, kernels and the numbers that are shown, against numbers by hand.

import assert from "node:assert/strict";
import { test } from "node:test";

const web = new URL("../../src/cnnlab/look/web/", import.meta.url);
const { computed, formula, IMAGES, KERNELS, resized, sizeAfter, termsOf } = await import(new URL("chain.js", web));

const layer = (given) => {
  const all = { transposed: false, kernel: 3, stride: 1, padding: 0, dilation: 1, ...given };
  return { numbers: KERNELS["0, 1, 2, …"](all.kernel), ...all };
};
const ramp = IMAGES["ramp 0, 1, 2, …"];

test("a layer that is impossible says why", () => {
  assert.deepEqual(sizeAfter(5, layer()), { size: 3 });
  assert.equal(formula(5, layer(), 3), "⌊(5 + 2·0 − 1·(3 − 1) − 1) / 1⌋ + 1 = 3");
  assert.match(sizeAfter(4, layer({ dilation: 2 })).why, /reaches over 5 places and the input with its padding has 4/);
  assert.deepEqual(sizeAfter(5, layer({ transposed: true, stride: 2 })), { size: 11 });
  assert.match(sizeAfter(1, layer({ transposed: true, padding: 4 })).why, /cuts 8 places off 3/);
});

test("what comes after an impossible layer says that nothing reaches it", () => {
  const { graph, values, why } = computed(ramp(4), 4, [layer({ kernel: 2 }), layer({ kernel: 7 }), layer(), layer({ transposed: true })]);
  assert.equal(graph.nodes.length, 2);
  assert.equal(values.length, 2);
  assert.equal(why[0], null);
  assert.match(why[1], /^the kernel reaches over 7 places/);
  assert.deepEqual(why.slice(2), ["layer 3 has no input: layer 2 is impossible.", "layer 4 has no input: layer 2 is impossible."]);
  const large = [1, 2, 3].map(() => layer({ transposed: true, stride: 4 }));
  assert.match(computed(ramp(3), 3, large).why[2], /^171×171 places are more than this page draws/); // 3 → 11 → 43 → 171
});

test("a kernel of 0 to 8 on a ramp: window, products, sum", () => {
  const layers = [layer()], found = computed(ramp(4), 4, layers);
  assert.deepEqual([...found.values[1]], [258, 294, 402, 438]);
  const { seen, kernel, products, sum } = termsOf(found, layers, 0, 0, 1);
  assert.deepEqual(seen, [[1, 2, 3], [5, 6, 7], [9, 10, 11]]);
  assert.deepEqual(kernel, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]);
  assert.deepEqual(products, [[0, 2, 6], [15, 24, 35], [54, 70, 88]]);
  assert.equal(sum, 294);
});

test("padding counts as nothing, and a dilated kernel skips", () => {
  const layers = [layer({ padding: 1, dilation: 2 })], found = computed(ramp(4), 4, layers);
  const { seen, sum } = termsOf(found, layers, 0, 0, 0);
  assert.deepEqual(seen, [[null, null, null], [null, 5, 7], [null, 13, 15]]);
  assert.equal(sum, 4 * 5 + 5 * 7 + 7 * 13 + 8 * 15);
  assert.equal(sum, found.values[1][0]);
});

test("a transposed layer: which number is laid over a place with which number of the kernel", () => {
  const layers = [layer({ transposed: true, stride: 2 })], found = computed(ramp(3), 3, layers); // 7×7
  const { seen, sum } = termsOf(found, layers, 0, 2, 3);
  assert.deepEqual(seen, [[null, 4, null], [null, null, null], [null, 1, null]]); // rows 1 and 0 of column 1
  assert.equal(sum, 4 * 1 + 1 * 7);
  for (let i = 0; i < 49; i++) assert.equal(termsOf(found, layers, 0, Math.floor(i / 7), i % 7).sum, found.values[1][i]);
});

test("the layer after uses what the first gives", () => {
  const layers = [layer({ kernel: 2 }), layer({ kernel: 2, stride: 2 })], found = computed(ramp(4), 4, layers);
  assert.deepEqual(termsOf(found, layers, 1, 0, 0).seen, [[24, 30], [48, 54]]); // 0·a + 1·b + 2·c + 3·d
  assert.equal(termsOf(found, layers, 1, 0, 0).sum, 30 + 2 * 48 + 3 * 54);
});

test("kernels by name are what they are called, for every size", () => {
  assert.deepEqual([...KERNELS["horizontal edge"](3)], [-1, -1, -1, 0, 0, 0, 1, 1, 1]);
  assert.deepEqual([...KERNELS["vertical edge"](2)], [-1, 1, -1, 1]);
  assert.deepEqual([...KERNELS.sharpen(3)], [0, -1, 0, -1, 5, -1, 0, -1, 0]);
  for (let side = 1; side <= 7; side++) {
    const sum = (name) => KERNELS[name](side).reduce((a, b) => a + b);
    for (const name of ["blur", "sharpen"]) assert.ok(Math.abs(sum(name) - 1) < 1e-6, `${name} ${side}`);
    assert.equal(sum("all one"), side * side);
    for (const name of ["horizontal edge", "vertical edge"]) assert.equal(sum(name), side === 1 ? 1 : 0);
  }
});

test("numbers of one's own keep their middle in a kernel of another size", () => {
  assert.deepEqual([...resized(Float32Array.from([1, 2, 3, 4, 5, 6, 7, 8, 9]), 3, 1)], [5]);
  assert.deepEqual([...resized(Float32Array.from([5]), 1, 3)], [0, 0, 0, 0, 5, 0, 0, 0, 0]);
});

test("images are tenths from 0 to 1 with something in them, for every size", () => {
  for (const name of ["digit 4", "digit 7", "square", "one dot"]) {
    for (let side = 3; side <= 24; side++) {
      const pixels = IMAGES[name](side);
      assert.equal(pixels.length, side * side);
      assert.ok(pixels.every((v) => v >= 0 && v <= 1 && Math.abs(v * 10 - Math.round(v * 10)) < 1e-5), `${name} ${side}`);
      assert.ok(pixels.some((v) => v === 1), `${name} ${side}`);
    }
  }
});
