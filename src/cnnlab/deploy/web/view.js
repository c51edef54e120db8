// The image on the stage, with its map and its boxes.

export class View {
  constructor(canvas) {
    this.canvas = canvas;
    this.bitmap = this.map = null;
    this.found = null;
    this.opacity = .7;
    new ResizeObserver(() => this.paint()).observe(canvas);
  }

  show(bitmap) {
    this.bitmap = bitmap;
    this.map = this.found = null;
    this.paint();
  }

  // answer: {size, seen, overlay}; the overlay is loaded here.
  async lay(answer) {
    if (!answer) { this.map = null; this.paint(); return; }
    const image = new Image();
    image.src = answer.overlay;
    await image.decode();
    this.map = { image, size: answer.size, seen: answer.seen };
    this.paint();
  }

  box(answer) { this.found = answer; this.paint(); }

  paint() {
    const { canvas, bitmap } = this;
    const sharp = window.devicePixelRatio || 1;
    const side = Math.round(canvas.clientWidth * sharp);
    if (!side || !bitmap) return;
    canvas.width = canvas.height = side;
    const pen = canvas.getContext("2d");
    const scale = side / Math.max(bitmap.width, bitmap.height);
    const wide = bitmap.width * scale, high = bitmap.height * scale;
    const left = (side - wide) / 2, top = (side - high) / 2;
    pen.imageSmoothingEnabled = Math.max(bitmap.width, bitmap.height) > 64;
    pen.drawImage(bitmap, left, top, wide, high);
    if (this.map) {
      const [x0, y0, x1, y1] = this.map.seen;
      const unit = wide / this.map.size[0];
      pen.imageSmoothingEnabled = true;
      pen.globalAlpha = this.opacity;
      pen.drawImage(this.map.image, left + x0 * unit, top + y0 * unit, (x1 - x0) * unit, (y1 - y0) * unit);
      pen.globalAlpha = 1;
    }
    if (this.found) this.paintBoxes(pen, left, top, wide / this.found.size[0], sharp);
  }

  paintBoxes(pen, left, top, unit, sharp) {
    pen.font = `600 ${13 * sharp}px system-ui, sans-serif`;
    pen.textBaseline = "top";
    const high = 19 * sharp;
    for (const thing of this.found.objects) {
      const [x0, y0, x1, y1] = thing.box;
      const x = left + x0 * unit, y = top + y0 * unit;
      pen.lineWidth = 4 * sharp; pen.strokeStyle = "rgba(0, 0, 0, .6)";
      pen.strokeRect(x, y, (x1 - x0) * unit, (y1 - y0) * unit);
      pen.lineWidth = 2 * sharp; pen.strokeStyle = "#ffd166";
      pen.strokeRect(x, y, (x1 - x0) * unit, (y1 - y0) * unit);
      const text = `${thing.label} ${Math.round(100 * thing.probability)} %`;
      const long = pen.measureText(text).width + 8 * sharp;
      const textX = Math.max(0, Math.min(x, this.canvas.width - long)), textY = y >= high ? y - high : y;
      pen.fillStyle = "#ffd166";
      pen.fillRect(textX, textY, long, high);
      pen.fillStyle = "#1b1e23";
      pen.fillText(text, textX + 4 * sharp, textY + 3 * sharp);
    }
  }
}
