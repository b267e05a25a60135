// The next token: what `jslm.infer.samplers` does to logits. The random numbers are this page's own.

/** Random numbers from 0 to 1 (1 left out) that depend on the seed alone: xoshiro128**, seeded by SplitMix32. */
export class Draws {
  constructor(seed) {
    // Both halves of the seed count.
    let state = (seed >>> 0) ^ Math.imul(Math.floor(seed / 2 ** 32), 0x9e3779b9);
    this.state = Uint32Array.from({ length: 4 }, () => {
      state = (state + 0x9e3779b9) | 0;
      let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
      mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
      return mixed ^ (mixed >>> 15);
    });
  }
  bits() {
    const s = this.state;
    const turned = rotated(Math.imul(s[1], 5), 7);
    const shifted = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotated(s[3], 11);
    return Math.imul(turned, 9) >>> 0;
  }
  next() {
    return ((this.bits() >>> 5) * 2 ** 26 + (this.bits() >>> 6)) / 2 ** 53;
  }
}

const rotated = (value, by) => (value << by) | (value >>> (32 - by));

/** The first of the largest. */
export function likeliest(logits) {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  return best;
}

/** Logits of the tokens in `seen` over the penalty where positive, and times it where not; a copy. */
export function penalise(logits, seen, penalty) {
  const found = logits.slice();
  const by = Math.fround(penalty);
  for (const id of seen) found[id] = found[id] > 0 ? found[id] / by : found[id] * by;
  return found;
}

/**
 * The id that the settings choose: the likeliest at temperature 0; else one drawn from what top-k, then top-p, then
 * min-p leave. Tokens that tie with the last one kept are kept.
 */
export function choose(logits, { temperature, top_k, top_p, min_p }, draws) {
  if (temperature === 0) return likeliest(logits);
  const hot = Math.fround(temperature);
  const scaled = logits.map((logit) => logit / hot);
  const top = scaled[likeliest(scaled)];
  let least = top + Math.log(min_p);
  if (top_k > 0 || top_p < 1) least = Math.max(least, smallestKept(scaled, top, top_k, top_p));
  const shares = new Float64Array(scaled.length);
  let sum = 0;
  for (let id = 0; id < scaled.length; id++) {
    if (scaled[id] >= least) sum += shares[id] = Math.exp(scaled[id] - top);
  }
  let rest = draws.next() * sum;
  let last = 0;
  for (let id = 0; id < shares.length; id++) {
    if (!shares[id]) continue;
    last = id;
    rest -= shares[id];
    if (rest < 0) return id;
  }
  return last;
}

/** The least of the logits that top-k and then top-p keep. */
function smallestKept(scaled, top, topK, topP) {
  const sorted = scaled.slice().sort().reverse();
  const kth = topK > 0 ? sorted[Math.min(topK, sorted.length) - 1] : -Infinity;
  if (topP >= 1) return kth;
  let whole = 0;
  let count = 0;
  for (; count < sorted.length && sorted[count] >= kth; count++) whole += Math.exp(sorted[count] - top);
  let sum = 0;
  for (let i = 0; i < count; i++) {
    sum += Math.exp(sorted[i] - top);
    if (sum >= topP * whole) return sorted[i];
  }
  return kth;
}

/** The logarithm of the sum of all exponentials; NaN where the logits are no numbers. */
export function logSum(logits) {
  const top = logits[likeliest(logits)];
  let sum = 0;
  for (let id = 0; id < logits.length; id++) sum += Math.exp(logits[id] - top);
  return top + Math.log(sum);
}

/** The ids of the `count` largest, the largest first. */
export function largest(logits, count) {
  const found = [];
  for (let id = 0; id < logits.length; id++) {
    if (found.length === count && logits[id] <= logits[found[count - 1]]) continue;
    let at = found.length;
    while (at > 0 && logits[found[at - 1]] < logits[id]) at--;
    found.splice(at, 0, id);
    if (found.length > count) found.pop();
  }
  return found;
}
