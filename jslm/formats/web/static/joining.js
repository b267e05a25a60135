// What byte-level BPE and SentencePiece have in common: neighbours are joined, the best pair first.

/**
 * Joins neighbours of `symbols` again and again, the pair of the lowest rank first and of equals the leftmost.
 *
 * `find(left, right)` gives `{rank, joined}`, or undefined for a pair that does not join; symbols are compared by `===`.
 */
export function joinAll(symbols, find) {
  const parts = [...symbols];
  const count = parts.length;
  const before = new Int32Array(count);
  const after = new Int32Array(count);
  for (let i = 0; i < count; i++) [before[i], after[i]] = [i - 1, i + 1];
  const queue = [];
  const propose = (at) => {
    if (at < 0 || after[at] >= count) return;
    const [left, right] = [parts[at], parts[after[at]]];
    const found = find(left, right);
    if (found) push(queue, { at, left, right, rank: found.rank, joined: found.joined });
  };
  for (let i = 0; i < count; i++) propose(i);
  while (queue.length) {
    const { at, left, right, joined } = pop(queue);
    const next = after[at];
    // Either of the two may have been joined to another since.
    if (next >= count || parts[at] !== left || parts[next] !== right) continue;
    parts[at] = joined;
    parts[next] = undefined;
    after[at] = after[next];
    if (after[at] < count) before[after[at]] = at;
    propose(before[at]);
    propose(at);
  }
  return parts.filter((part) => part !== undefined);
}

const comes = (one, other) => one.rank < other.rank || (one.rank === other.rank && one.at < other.at);

// A heap: an array in which no entry comes before the one at half its place.

function push(heap, entry) {
  let at = heap.push(entry) - 1;
  while (at > 0) {
    const above = (at - 1) >> 1;
    if (!comes(heap[at], heap[above])) return;
    [heap[at], heap[above]] = [heap[above], heap[at]];
    at = above;
  }
}

function pop(heap) {
  const first = heap[0];
  const last = heap.pop();
  if (heap.length) {
    heap[0] = last;
    for (let at = 0; ;) {
      let least = at;
      for (const below of [2 * at + 1, 2 * at + 2]) {
        if (below < heap.length && comes(heap[below], heap[least])) least = below;
      }
      if (least === at) break;
      [heap[at], heap[least]] = [heap[least], heap[at]];
      at = least;
    }
  }
  return first;
}
