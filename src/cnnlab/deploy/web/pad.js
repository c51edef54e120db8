// A pad to draw on, and the image that the network is to see of it.

const SIDE = 280;

export class Pad {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d", { willReadFrequently: true });
    this.changed = changed;
    this.dark = true;
    this.drawing = false;
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.end());
  }

  clear(dark) {
    this.dark = dark;
    this.pen.fillStyle = dark ? "#000" : "#fff";
    this.pen.fillRect(0, 0, SIDE, SIDE);
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height];
  }

  begin(event) {
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.drawing = true;
    this.last = this.place(event);
    this.move(event);
  }

  move(event) {
    if (!this.drawing) return;
    const [x, y] = this.place(event);
    Object.assign(this.pen, { lineWidth: SIDE / 12, lineCap: "round", lineJoin: "round" });
    this.pen.strokeStyle = this.dark ? "#fff" : "#000";
    this.pen.beginPath();
    this.pen.moveTo(...this.last);
    this.pen.lineTo(x, y);
    this.pen.stroke();
    this.last = [x, y];
  }

  end() {
    if (this.drawing) this.changed();
    this.drawing = false;
  }

  // What was drawn, as a PNG file. Null for an empty pad.
  async image(fill) {
    const made = this.centred(fill);
    return made && new Promise((done) => made.toBlob(done, "image/png"));
  }

  // What was drawn, as the images of MNIST are made: its longer side takes `fill` of the image, and its centre of
  // mass lies in the middle. A canvas; null for an empty pad.
  centred(fill) {
    const pixels = this.pen.getImageData(0, 0, SIDE, SIDE).data;
    const box = { left: SIDE, top: SIDE, right: -1, bottom: -1 };
    let mass = 0, sumX = 0, sumY = 0;
    for (let y = 0; y < SIDE; y++) {
      for (let x = 0; x < SIDE; x++) {
        const value = pixels[4 * (y * SIDE + x)];
        const ink = this.dark ? value : 255 - value;
        if (ink < 32) continue;
        box.left = Math.min(box.left, x); box.right = Math.max(box.right, x);
        box.top = Math.min(box.top, y); box.bottom = Math.max(box.bottom, y);
        mass += ink; sumX += ink * (x + .5); sumY += ink * (y + .5);
      }
    }
    if (!mass) return null;
    const longer = Math.max(box.right - box.left, box.bottom - box.top) + 1;
    const scale = fill * SIDE / Math.max(longer, SIDE / 6);
    const middle = fill < .9 ? [sumX / mass, sumY / mass] : [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
    const made = document.createElement("canvas");
    made.width = made.height = SIDE;
    const pen = made.getContext("2d");
    pen.fillStyle = this.dark ? "#000" : "#fff";
    pen.fillRect(0, 0, SIDE, SIDE);
    pen.setTransform(scale, 0, 0, scale, SIDE / 2 - scale * middle[0], SIDE / 2 - scale * middle[1]);
    pen.drawImage(this.canvas, 0, 0);
    return made;
  }
}
