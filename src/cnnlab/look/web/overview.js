// The network from top to bottom: a row of maps for each layer, rows in stages that fold.

import { mapsOf } from "./geometry.js";
import { largestOf, make, number, paint, paintColours } from "./paint.js";
import { describe, sizeOf, sources, stages } from "./words.js";
import { drawJoins } from "./joins.js";
import { has } from "./changes.js";

const FIRST = 32; // maps that are drawn of a layer before one asks for all
const OPEN = 16; // layers of a network whose stages are open from the beginning
const seesImage = ({ op, inputs, attributes }) => op === "conv2d" && inputs[0] === 0 && attributes.groups === 1;

export class Overview {
  // look: {page, graph, values, changes, need(), select(place), point(place), change(change), tensor(index), largestBeside(node)}
  constructor(look, place) {
    Object.assign(this, { look, place, rows: new Map(), scale: "layer", stages: stages(look.graph).slice(1) });
    this.seen = new IntersectionObserver((entries) => { // rows far from the window are drawn when they come near
      for (const { target, isIntersecting } of entries) {
        const row = this.rows.get(Number(target.dataset.node));
        if (row?.element !== target) continue;
        row.near = isIntersecting;
        if (isIntersecting) this.draw(row);
      }
    }, { rootMargin: "300px" });
    const all = this.stages.reduce((sum, { nodes }) => sum + nodes.length, 0) <= OPEN;
    this.joins = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.joins.setAttribute("class", "joins");
    this.joins.setAttribute("aria-hidden", "true"); // the names in front of an addition say the same
    place.append(this.joins);
    new ResizeObserver(() => drawJoins(this.joins, place, look.graph, this.rows)).observe(place);
    this.folds = this.stages.map((stage) => stage.nodes.length > 1 ? this.folding(stage, all || stage === this.stages[0]) : null);
    this.stages.forEach(({ nodes }, i) => place.append(this.folds[i]?.element ?? this.row(nodes[0])));
  }

  folding({ name, nodes }, open) {
    const { graph } = this.look, last = nodes.at(-1);
    const details = make("details", { class: "stage", open }, make("summary", {},
      make("span", { class: "name" }, name), make("span", { class: "small" }, ` ${nodes.length} layers → ${sizeOf(graph.nodes[last])}`)));
    const inside = make("div", { class: "inside" }), out = make("div", { class: "out" });
    details.append(inside);
    const fill = () => {
      for (const node of nodes) this.rows.delete(node);
      inside.replaceChildren(...(details.open ? nodes.map((node) => this.row(node)) : []));
      out.replaceChildren(...(details.open ? [] : [this.row(last)]));
    };
    fill();
    details.addEventListener("toggle", () => {
      if (details.open !== inside.hasChildNodes()) fill();
      this.look.need();
    });
    return { details, fill, element: make("div", {}, details, out) };
  }

  // The row of a layer, whose stage is unfolded for it.
  reveal(node) {
    const at = this.stages.findIndex(({ nodes }) => nodes.includes(node)), stage = this.folds[at];
    if (stage && !stage.details.open) {
      stage.details.open = true;
      stage.fill();
    }
    return this.rows.get(node);
  }

  fold(open) {
    for (const details of this.place.querySelectorAll("details.stage")) details.open = open;
  }

  row(node) {
    const { graph } = this.look, { name, shape, inputs } = graph.nodes[node], { count, height, width } = mapsOf(shape);
    const maps = this.maps(height * width === 1 ? "maps units" : "maps");
    const element = make("section", { class: "layer", "data-node": node, "aria-label": `${name}, ${describe(graph, graph.nodes[node])}` },
      make("h3", {}, make("span", { class: "name" }, name), make("span", { class: "small" },
        ` ${describe(graph, graph.nodes[node])} → ${sizeOf(graph.nodes[node])}`)),
      inputs.length > 1 ? this.join(node) : null, maps);
    const row = { element, maps, tiles: [], kernels: [], node, count, height, width };
    if (seesImage(graph.nodes[node])) {
      const colours = graph.nodes[0].shape[1] === 3 ? "the colours they answer to; grey is 0" : "blue positive, red negative";
      maps.before(make("p", { class: "small" }, `kernels (${colours}), and their maps`), row.filters = this.maps("maps kernels"));
    }
    this.rows.set(node, row);
    this.seen.observe(element);
    this.addTiles(row, Math.min(count, FIRST));
    if (count > FIRST) {
      element.append(make("button", { class: "more", onclick: (event) => {
        event.target.remove();
        this.addTiles(row, count);
        this.draw(row);
      } }, `show all ${count}`));
    }
    return element;
  }

  // A row of tiles: one stop of the tab key, where arrow keys go on from.
  maps(names) {
    const maps = make("div", { class: names, onkeydown: (event) => this.step(event) });
    maps.addEventListener("focusin", ({ target }) => { for (const tile of maps.children) tile.tabIndex = tile === target ? 0 : -1; });
    return maps;
  }

  addTiles(row, until) {
    const { look } = this, { name } = look.graph.nodes[row.node];
    for (let map = row.tiles.length; map < until; map++) {
      const canvas = make("canvas", { width: row.width, height: row.height, "aria-hidden": "true" });
      const at = (event) => {
        const box = (event.target.closest("canvas") ?? canvas).getBoundingClientRect();
        const share = (from, side, length) => Math.max(0, Math.min(length - 1, Math.floor((from / side) * length)));
        return { node: row.node, map, y: share(event.clientY - box.top, box.height, row.height),
          x: share(event.clientX - box.left, box.width, row.width) };
      };
      const middle = { node: row.node, map, y: row.height >> 1, x: row.width >> 1 };
      const tile = make("button", {
        class: "tile", tabindex: row.tiles.length ? -1 : 0, "aria-label": `${row.width * row.height === 1 ? "number" : "map"} ${map} of ${name}`,
        onclick: (event) => look.select(event.detail ? at(event) : middle),
        onpointermove: (event) => look.point(at(event)), onpointerleave: () => look.point(null), onfocus: () => look.point(middle), onblur: () => look.point(null),
      }, canvas);
      row.tiles.push({ tile, canvas });
      row.maps.append(tile);
      if (row.filters) this.addKernel(row, map, middle);
    }
  }

  // The kernel that makes a map of the first layer, in the colours that it answers to.
  addKernel(row, map, middle) {
    const canvas = make("canvas", { "aria-hidden": "true" });
    const tile = make("button", { class: "tile", tabindex: map ? -1 : 0, title: `the kernel of map ${map}`, "aria-label": `kernel of map ${map} of ${this.look.graph.nodes[row.node].name}`,
      onclick: () => this.look.select(middle), onpointerenter: () => this.look.point(middle), onpointerleave: () => this.look.point(null) }, canvas);
    row.kernels.push(canvas);
    row.filters.append(tile);
  }

  // An addition and what else has several inputs: each can be cut.
  join(node) {
    const { look } = this, { op } = look.graph.nodes[node], sign = { add: "+", sub: "−", mul: "×", div: "÷", cat: "," }[op] ?? ",";
    const line = make("p", { class: "join" }, "= ");
    sources(look.graph, node).forEach((source, input) => {
      if (input) line.append(` ${sign} `);
      const change = { kind: "cut", node, input }, from = look.graph.nodes[source].name;
      line.append(make("button", { class: "link", "data-input": input, "aria-pressed": has(look.changes, change),
        title: `take ${from} out of the sum, and back`, onclick: () => look.change(change) }, from));
    });
    line.append(make("span", { class: "small" }, " (click a name to leave it out)"));
    return line;
  }

  // Nodes whose values are on the page.
  wanted() {
    return [...this.rows.keys()];
  }

  update() {
    const { look } = this;
    this.all = 0;
    for (const node of this.rows.keys()) if (look.values.has(node)) this.all = Math.max(this.all, largestOf(look.values.get(node)));
    for (const row of this.rows.values()) this.draw(row);
  }

  draw(row) {
    const { look } = this, values = look.values.get(row.node), area = row.height * row.width;
    if (row.near) this.drawKernels(row);
    if (!values || !row.near) return;
    const kept = look.pinned?.values.get(row.node), layer = Math.max(largestOf(values), kept ? largestOf(kept) : 0, look.largestBeside(row.node));
    const all = Math.max(...look.page.looks.map(({ overview }) => overview.all ?? 0));
    row.tiles.forEach(({ tile, canvas }, map) => {
      const own = values.subarray(map * area, (map + 1) * area), other = kept?.subarray(map * area, (map + 1) * area);
      const most = other ? Math.max(largestOf(own), largestOf(other)) : largestOf(own);
      const largest = this.scale === "map" && area > 1 ? most : this.scale === "all" ? all : layer;
      paint(canvas, own, row.height, row.width, largest);
      this.drawKept(tile, canvas, other, row, largest);
      tile.classList.toggle("muted", has(look.changes, { kind: "mute", node: row.node, map }));
      if (area === 1) tile.title = number(own[0]);
    });
    for (const button of row.element.querySelectorAll(".join .link")) {
      button.setAttribute("aria-pressed", has(look.changes, { kind: "cut", node: row.node, input: Number(button.dataset.input) }));
    }
  }

  drawKernels(row) {
    if (!row.kernels.length) return;
    const { weight } = this.look.graph.nodes[row.node].tensors, [, channels, kh, kw] = this.look.graph.tensors[weight].shape, numbers = this.look.tensor(weight);
    const one = channels * kh * kw, most = largestOf(numbers);
    row.kernels.forEach((canvas, map) => {
      const kernel = numbers.subarray(map * one, (map + 1) * one);
      if (channels === 3) paintColours(canvas, kernel, kh, kw); else paint(canvas, kernel, kh, kw, most);
    });
  }

  // The same map of what is compared, above it.
  drawKept(tile, canvas, values, row, largest) {
    let second = tile.querySelector(".second");
    if (!values) { second?.remove(); return; }
    if (!second) canvas.before(second = make("canvas", { class: "second", "aria-hidden": "true" }));
    paint(second, values, row.height, row.width, largest);
  }

  // Arrow keys go from map to map, and from layer to layer.
  step(event) {
    const tile = event.target, maps = [...tile.parentElement.children], at = maps.indexOf(tile), rows = [...this.place.querySelectorAll(".maps")];
    const across = (by) => {
      const other = rows[rows.indexOf(tile.parentElement) + by]?.children;
      return other?.[Math.min(at, other.length - 1)];
    };
    const next = { ArrowRight: maps[at + 1], ArrowLeft: maps[at - 1], ArrowUp: across(-1), ArrowDown: across(1), Home: maps[0], End: maps.at(-1) }[event.key];
    if (next) { event.preventDefault(); next.focus(); }
  }

  // Mark the map that is open; null: none is.
  choose(place) {
    this.chosen?.classList.remove("chosen");
    this.chosen = place && this.rows.get(place.node)?.tiles[place.map]?.tile;
    this.chosen?.classList.add("chosen");
  }

  // Light what a map is made of: each input map as much as its kernel weighs.
  light(place) {
    for (const tile of this.lit ?? []) tile.style.removeProperty("--lit");
    this.lit = [];
    if (!place) return;
    const { graph } = this.look, node = graph.nodes[place.node];
    node.inputs.forEach((_, k) => {
      const source = sources(graph, place.node)[k], row = this.rows.get(source);
      if (!row) return;
      const shares = this.look.shares(place.node, place.map, k, row.count);
      row.tiles.forEach(({ tile }, map) => {
        if (!(shares[map] > .02)) return;
        tile.style.setProperty("--lit", shares[map].toFixed(2));
        this.lit.push(tile);
      });
    });
  }
}


