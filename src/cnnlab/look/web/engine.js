// The page's side of the worker: questions and answers, one after another.

export class Engine {
  constructor(source, progress) {
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    this.worker = new Worker(address);
    this.waiting = new Map();
    this.count = 0;
    this.worker.addEventListener("message", ({ data }) => {
      if ("progress" in data) { progress(data.progress); return; }
      const { resolve, reject } = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if (data.error) reject(new Error(data.error)); else resolve(data.answer);
    });
    this.worker.addEventListener("error", (event) => {
      for (const { reject } of this.waiting.values()) reject(new Error(event.message || "this browser runs no workers"));
      this.waiting.clear();
    });
  }

  ask(question) {
    const id = this.count++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ ...question, id });
    });
  }
}

// Calls `work` for the latest of what was asked for; what was asked for meanwhile and overtaken is left out. The promise
// is kept when all is done.
export function latest(work) {
  let running = null, next = null;
  async function all() {
    try {
      while (next) {
        const now = next;
        next = null;
        await work(...now);
      }
    } finally {
      running = null;
    }
  }
  return (...given) => {
    next = given;
    running ??= all();
    return running;
  };
}
