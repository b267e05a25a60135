// Written tokens that show how likely they were: by their colour, by pointer, by finger, and by arrow keys.

/** Tokens in `output`, whose probabilities `tip` shows and `say` says. */
export class Tokens {
  constructor(output, tip, say) {
    [this.output, this.tip, this.say] = [output, tip, say];
    this.found = new WeakMap(); // span -> {token, probability, top}
    // A finger does not hover: its tap shows a token until the next one, and hides it where it meets no token.
    const hovers = (event) => event.pointerType !== "touch";
    output.addEventListener("pointerover", (event) => { if (hovers(event)) this.showTip(event.target); });
    output.addEventListener("pointerleave", (event) => { if (hovers(event)) this.hide(); });
    output.addEventListener("keydown", (event) => this.walk(event));
    output.addEventListener("blur", () => this.hide());
    document.addEventListener("click", (event) => this.show(event.target));
    document.addEventListener("scroll", () => this.showTip(output.querySelector(".token.shown")), { passive: true });
  }

  /** Adds a token with its text; `top` has pairs of a token and its probability. */
  add(text, token, probability, top) {
    const span = document.createElement("span");
    span.className = "token";
    span.textContent = text;
    span.style.backgroundColor = `rgba(var(--doubt), ${((1 - probability) * 0.3).toFixed(3)})`;
    this.found.set(span, { token, probability, top });
    this.output.append(span);
  }

  hide() { this.tip.hidden = true; }

  showTip(span) {
    const found = this.found.get(span);
    if (!found) { this.hide(); return; }
    const rows = [...found.top];
    if (!rows.some(([token]) => token === found.token)) rows.push([found.token, found.probability]);
    rows.sort((one, other) => other[1] - one[1]);
    const table = document.createElement("table");
    for (const [token, probability] of rows) {
      const row = table.insertRow();
      if (token === found.token) row.className = "chosen";
      row.insertCell().textContent = JSON.stringify(token).slice(1, -1).replaceAll(" ", "·");
      row.insertCell().textContent = `${(100 * probability).toFixed(1)} %`;
    }
    this.tip.replaceChildren(table);
    this.tip.hidden = false;
    const box = span.getBoundingClientRect();
    this.tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - this.tip.offsetWidth - 8))}px`;
    const below = box.bottom + 6;
    this.tip.style.top = `${below + this.tip.offsetHeight > innerHeight ? box.top - this.tip.offsetHeight - 6 : below}px`;
  }

  show(span) {
    this.output.querySelector(".token.shown")?.classList.remove("shown");
    if (this.found.has(span)) span.classList.add("shown");
    this.showTip(span);
  }

  walk(event) {
    // Arrow keys go from token to token for people without a pointer.
    if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
    const all = [...this.output.querySelectorAll(".token")];
    if (!all.length) return;
    event.preventDefault();
    const now = all.findIndex((span) => span.classList.contains("shown"));
    const next = Math.max(0, Math.min(all.length - 1, now + (event.key === "ArrowRight" ? 1 : -1)));
    all[next].scrollIntoView({ block: "nearest" });
    this.show(all[next]);
    const { token, probability } = this.found.get(all[next]);
    this.say(`${token}: ${(100 * probability).toFixed(1)} %`);
  }
}
