// The model's thread as the page sees it.

export class Engine {
  constructor() {
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.works = new Map();
    this.count = 0;
    this.worker.addEventListener("message", ({ data: { id, ...found } }) => this.take(this.works.get(id), id, found));
    this.worker.addEventListener("error", (event) => {
      const error = new Error(event.message || "this browser cannot run modules in workers; a newer one can");
      for (const work of this.works.values()) work.reject(error);
      this.works.clear();
    });
  }

  /** Does `work` to its end; `on` has functions for what comes before: `progress`, `tokens`, `rewrite`. */
  run(work, fields = {}, on = {}, signal = null) {
    const id = ++this.count;
    return new Promise((resolve, reject) => {
      this.works.set(id, { resolve, reject, on });
      signal?.addEventListener("abort", () => this.worker.postMessage({ work: "stop", stops: id }));
      this.worker.postMessage({ id, work, ...fields });
    });
  }

  take(work, id, found) {
    if (!work) return;
    if ("done" in found || "failed" in found) this.works.delete(id);
    if ("failed" in found) work.reject(new Error(found.failed));
    else if ("done" in found) work.resolve(found.done);
    else for (const [name, value] of Object.entries(found)) work.on[name](value);
  }
}
