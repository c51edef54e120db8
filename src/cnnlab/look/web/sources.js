// Images from elsewhere: a file, something dropped or pasted, a drawing, the camera. They go the way of the run's own images.

import { Pad } from "./pad.js";
import { prepare } from "./preprocess.js";
import { latest } from "./engine.js";

const PACE = 60; // milliseconds between two images of the camera

export class Sources {
  // page: {card, facts (the preprocess), setImage(image)}
  constructor(page, $) {
    Object.assign(this, { page, $, stream: null });
    const { card } = page;
    for (const id of ["file", "draw", "camera"]) $(id).disabled = !card.reads_images;
    $("tools-note").hidden = card.reads_images;
    this.pad = new Pad($("pad"), () => {});
    this.pad.clear(card.dark_background);
    this.redraw = latest(() => this.drawn());
    $("pad").addEventListener("pointermove", () => { if (this.pad.drawing) this.redraw(); });
    $("pad").addEventListener("pointerdown", () => this.redraw());
    $("draw").addEventListener("click", () => this.show($("pad").hidden ? "draw" : null));
    $("camera").addEventListener("click", () => this.stream ? this.close() : this.film());
    $("clear").addEventListener("click", async () => {
      this.pad.clear(card.dark_background);
      page.setImage(await prepare($("pad"), page.facts));
    });
    $("file").addEventListener("change", ({ target }) => this.read(target.files[0]));
    if (!card.reads_images) return;
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => { event.preventDefault(); this.read(event.dataTransfer.files[0]); });
    document.addEventListener("paste", (event) => this.read(event.clipboardData.files[0]));
  }

  // Where images come from now: "draw", "camera", or null.
  show(from) {
    const { $ } = this;
    for (const name of ["draw", "camera"]) $(name).setAttribute("aria-pressed", from === name);
    for (const id of ["pad", "clear"]) $(id).hidden = from !== "draw";
    $("image").parentElement.classList.toggle("drawing", from === "draw");
    if (from !== "camera") {
      for (const track of this.stream?.getTracks() ?? []) track.stop();
      this.stream = null;
    }
  }

  close() {
    this.show(null);
  }

  say(text) {
    this.$("message").textContent = text;
    this.$("message").hidden = false;
  }

  async drawn() {
    const { width, height } = this.page.facts.layout;
    const canvas = this.pad.centred(Math.min(width, height) < 16 ? .95 : .72); // of the side, as the digits of the sets
    if (canvas) this.page.setImage(await prepare(canvas, this.page.facts));
  }

  // The network answers to what the camera sees, until it is stopped.
  async film() {
    const video = document.createElement("video");
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      Object.assign(video, { srcObject: stream, muted: true, playsInline: true });
      await video.play();
      this.show("camera");
      this.stream = stream;
      while (this.stream === stream) {
        const image = await prepare(video, this.page.facts);
        if (this.stream === stream) this.page.setImage(image);
        await new Promise((done) => setTimeout(done, PACE));
      }
    } catch (error) {
      this.close();
      this.say(`The camera cannot be used: there is none, it is not allowed, or it is in use (${error.name}).`);
    }
  }

  async read(blob) {
    if (!blob) return;
    this.$("message").hidden = true;
    this.close();
    try {
      this.page.setImage(await prepare(blob, this.page.facts));
    } catch {
      this.say(`${blob.name || "What was pasted"} is not an image that this browser can read.`);
    }
  }
}
