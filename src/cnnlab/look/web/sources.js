// Images from elsewhere: a file, something dropped or pasted, a drawing. They go the way of the run's own images.

import { Pad } from "./pad.js";
import { prepare } from "./preprocess.js";
import { latest } from "./engine.js";

export class Sources {
  constructor(look, $, card) {
    Object.assign(this, { look, $, card });
    const able = card.reads_images;
    for (const id of ["file", "draw"]) $(id).disabled = !able;
    $("tools-note").hidden = able;
    this.pad = new Pad($("pad"), () => {});
    this.pad.clear(card.dark_background);
    this.redraw = latest(() => this.drawn());
    $("pad").addEventListener("pointermove", () => { if (this.pad.drawing) this.redraw(); });
    $("pad").addEventListener("pointerdown", () => this.redraw());
    $("draw").addEventListener("click", () => this.toggle($("drawing").hidden));
    $("clear").addEventListener("click", async () => {
      this.pad.clear(card.dark_background);
      await look.setImage(await prepare($("pad"), card.preprocess));
    });
    $("file").addEventListener("change", ({ target }) => this.read(target.files[0]));
    if (!able) return;
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => { event.preventDefault(); this.read(event.dataTransfer.files[0]); });
    document.addEventListener("paste", (event) => this.read(event.clipboardData.files[0]));
  }

  toggle(open) {
    this.$("drawing").hidden = !open;
    this.$("draw").setAttribute("aria-pressed", open);
  }

  close() {
    this.toggle(false);
  }

  async drawn() {
    const { width, height } = this.card.preprocess.layout;
    const canvas = this.pad.centred(Math.min(width, height) < 16 ? .95 : .72); // of the side, as the digits of the sets
    if (canvas) await this.look.setImage(await prepare(canvas, this.card.preprocess));
  }

  async read(blob) {
    if (!blob) return;
    const message = this.$("message");
    message.hidden = true;
    this.close();
    try {
      await this.look.setImage(await prepare(blob, this.card.preprocess));
    } catch {
      message.textContent = `${blob.name || "What was pasted"} is not an image that this browser can read.`;
      message.hidden = false;
    }
  }
}
