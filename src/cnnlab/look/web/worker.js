// The network, away from the page: it computes while the page stays quick.

import { Network, NO_EDITS } from "./network.js";

const EVERY = 100; // milliseconds between two words about progress

let network, apart;

function answer({ type, image, key, edits, wanted, graph, bytes, id }) {
  if (type === "load") {
    network = new Network(graph, bytes);
    apart = Object.assign(Object.create(Network.prototype), network, { values: [], said: graph.nodes.map(() => null) });
    return {};
  }
  const used = type === "apart" ? apart : network; // apart: for the checks, beside what the page shows
  const begun = performance.now();
  let last = begun;
  const same = !image || (key !== undefined && key === used.key); // as last time: what was computed stays
  used.key = key;
  used.run(same ? used.image : image, edits ?? NO_EDITS, (done, count) => {
    if (performance.now() - last < EVERY || type === "apart") return;
    last = performance.now();
    postMessage({ id, progress: done / count });
  });
  const { output } = used.graph, values = {};
  for (const node of new Set([...wanted, output])) values[node] = used.values[node].slice();
  return { values, logits: values[output], milliseconds: performance.now() - begun };
}

addEventListener("message", ({ data }) => {
  try {
    postMessage({ id: data.id, answer: answer(data) });
  } catch (error) {
    postMessage({ id: data.id, error: String(error.message ?? error) });
  }
});
