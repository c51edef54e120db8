// Images from elsewhere: a file, something dropped or pasted, a drawing, the camera. They go the way of the run's own images.

import { Pad } from "./pad.js";
import { prepare } from "./preprocess.js";
import { latest } from "./engine.js";

const PACE = 60; // milliseconds between two images of the camera

export class Sources {
  // page: {card, facts (the preprocess), moves, setImage(image, moves)}
  constructor(page, $) {
    Object.assign(this, { page, $, filming: null, asked: null }); // filming: {stream} from the press of the button until the end
    const { card } = page;
    for (const id of ["file", "draw", "camera"]) $(id).disabled = !card.reads_images;
    $("tools-note").hidden = card.reads_images;
    this.pad = new Pad($("pad"), () => {});
    this.pad.clear(card.dark_background);
    this.redraw = latest(() => this.drawn());
    $("pad").addEventListener("pointermove", () => { if (this.pad.drawing) this.redraw(); });
    $("pad").addEventListener("pointerdown", () => this.redraw());
    $("draw").addEventListener("click", () => this.show($("pad").hidden ? "draw" : null));
    $("camera").addEventListener("click", () => this.filming ? this.close() : this.film());
    $("clear").addEventListener("click", () => {
      this.pad.clear(card.dark_background);
      this.bring($("pad"));
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
    for (const track of this.filming?.stream?.getTracks() ?? []) track.stop();
    this.filming = null;
  }

  close() {
    this.asked = null;
    this.show(null);
  }

  // Make an image that takes its time, and show it unless another was chosen meanwhile.
  async bring(from, moves) {
    const mine = this.asked = {}, image = await prepare(from, this.page.facts);
    if (this.asked !== mine) return false;
    this.page.setImage(image, moves);
    return true;
  }

  say(text) {
    this.$("message").textContent = text;
    this.$("message").hidden = false;
  }

  async drawn() {
    const { width, height } = this.page.facts.layout;
    const canvas = this.pad.centred(Math.min(width, height) < 16 ? .95 : .72); // of the side, as the digits of the sets
    if (canvas) await this.bring(canvas, this.page.moves);
  }

  // The network answers to what the camera sees, until it is stopped.
  async film() {
    this.show("camera");
    const mine = this.filming = {}, video = document.createElement("video"), on = () => this.filming === mine; // else something else was chosen
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      if (!on()) { for (const track of stream.getTracks()) track.stop(); return; }
      mine.stream = stream;
      Object.assign(video, { srcObject: stream, muted: true, playsInline: true });
      await video.play();
      while (on()) {
        await this.bring(video, this.page.moves);
        await new Promise((done) => setTimeout(done, PACE));
      }
    } catch (error) {
      if (!on()) return;
      this.close();
      this.say(`The camera cannot be used: there is none, it is not allowed, or it is in use (${error.name}).`);
    }
  }

  async read(blob) {
    if (!blob) return;
    this.$("message").hidden = true;
    this.close();
    try {
      if (!await this.bring(blob)) return;
      const cut = this.page.facts.layout.fit === "crop" ? "its middle is read" : "it is squashed to the network's size";
      this.$("truth").textContent = `${blob.name || "The pasted image"}: ${cut}, as the run's own images.`;
    } catch {
      this.say(`${blob.name || "What was pasted"} is not an image that this browser can read.`);
    }
  }
}
