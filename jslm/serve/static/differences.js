// Two sentences, word by word: what went and what came.

/** Fills `source` with the words of `before`, those that went in <del>, and `target` with those of `after`, new ones in <ins>. */
export function marked(before, after, source, target) {
  const [one, other] = [words(before), words(after)];
  const common = longest(one, other);
  fill(source, one, new Set(common.map(([i]) => i)), "del");
  fill(target, other, new Set(common.map(([, j]) => j)), "ins");
}

const words = (text) => text.match(/\s+|[\p{L}\p{N}'’]+|[^\s\p{L}\p{N}]/gu) ?? [];

/** Pairs of positions of a longest common subsequence. */
function longest(one, other) {
  const table = Array.from({ length: one.length + 1 }, () => new Uint32Array(other.length + 1));
  for (let i = one.length - 1; i >= 0; i--) {
    for (let j = other.length - 1; j >= 0; j--) {
      table[i][j] = one[i] === other[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    }
  }
  const pairs = [];
  for (let i = 0, j = 0; i < one.length && j < other.length;) {
    if (one[i] === other[j]) pairs.push([i++, j++]);
    else if (table[i + 1][j] >= table[i][j + 1]) i++;
    else j++;
  }
  return pairs;
}

function fill(place, parts, kept, tag) {
  let open = null;
  parts.forEach((part, index) => {
    if (kept.has(index)) {
      open = null;
      place.append(part);
    } else {
      if (!open) place.append(open = document.createElement(tag));
      open.append(part);
    }
  });
}
