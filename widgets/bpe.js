// Byte-pair encoding in plain JavaScript, as zerohero.tokenizer does it: splitting, encoding, training on a few lines.

const UTF8 = new TextEncoder(), STRICT = new TextDecoder("utf-8", {fatal: true, ignoreBOM: true});

/** The bytes of a text, as an array. */
export const bytesOf = text => Array.from(UTF8.encode(text));

/** The text that bytes spell, or null where they are no complete characters. */
export function textOf(bytes) {
  try {
    return STRICT.decode(Uint8Array.from(bytes));
  } catch {
    return null;
  }
}

export const hex = byte => byte.toString(16).padStart(2, "0");

/** What to write for a token: its text, or its bytes where they spell no characters or none that can be seen. */
export function face(bytes) {
  const text = textOf(bytes), raw = text === null || /^[\p{M}\p{Cf}]*$|(?![\t\n\r])\p{Cc}/u.test(text);
  return {text: raw ? bytes.map(hex).join(" ") : text, raw};
}

const MARKS = {" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽"};

/** White space made visible, where it stands for itself. */
export const visible = text => text.replace(/[ \n\r\t\u00a0]/g, c => MARKS[c]);

/** White space made visible, where the text still has to flow: spaces stay, and lines still break. */
export const flowing = text => text.replace(/[\n\r\t]/g, c => c === "\n" ? "↵\n" : MARKS[c]);

/** A token in quotes, for a sentence. */
export const quoted = bytes => `'${visible(face(bytes).text)}'`;

/** One of four colours for each token: the same token has the same, but neighbours differ. */
export function hues(ids) {
  let last = -1;
  return ids.map(id => last = id % 4 === last ? (last + 1) % 4 : id % 4);
}

// ------------------------------------------------------------ splitting

// Under (?i:) an s is also the long s of old prints, "ſ"; no other letter of the patterns has a third form.
const anyCase = letters => `[${[...letters].map(c => c + c.toUpperCase() + (c === "s" ? "\u017f" : "")).join("")}]`;

/** A split pattern of Python's `regex`, as JavaScript spells it. JavaScript's \s has a byte order mark too many and a
 * NEL too few. It knows no possessive quantifiers; these patterns match the same without. */
export function translate(pattern) {
  const source = pattern
    .replace(/\(\?i:(.*?)\)/g, (_, inner) => `(?:${inner.replace(/\[(\w+)\]|\w/g, (one, set) => anyCase(set ?? one))})`)
    .replace(/([+*?]|\{\d+(?:,\d*)?\})\+/g, "$1")
    .replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}");
  return new RegExp(source, "gu");
}

// ------------------------------------------------------------ encoding

/** Numbers, of which the smallest comes out first. */
class Heap {
  items = [];

  push(x) {
    const {items} = this;
    let i = items.push(x) - 1;
    for (let up; i && items[up = (i - 1) >> 1] > x; i = up) items[i] = items[up];
    items[i] = x;
  }

  pop() {
    const {items} = this, first = items[0], x = items.pop(), n = items.length;
    if (!n) return first;
    let i = 0;
    for (let down; (down = 2 * i + 1) < n; i = down) {
      if (items[down + 1] < items[down]) down++;
      if (items[down] >= x) break;
      items[i] = items[down];
    }
    items[i] = x;
    return first;
  }
}

const PLACES = 2 ** 32; // a rank and a place share one number: rank * PLACES + place
const keyOf = (a, b) => a * 65536 + b; // and so do two ids
export const pairOf = key => [Math.floor(key / 65536), key % 65536];

/** A vocabulary: the first 256 ids stand for `bytes`, and `merges` (pairs of ids, flat) make one id each, in order. */
export class Tokenizer {
  #known = new Map(); // words that were encoded before

  constructor(pattern, merges, size = 256 + merges.length / 2, bytes = Array.from({length: 256}, (_, i) => i)) {
    Object.assign(this, {split: translate(pattern), merges, size, ranks: new Map(), vocab: bytes.map(byte => [byte]), byteIds: []});
    bytes.forEach((byte, id) => { this.byteIds[byte] = id; });
    for (let rank = 0; rank < size - 256; rank++) this.ranks.set(keyOf(merges[2 * rank], merges[2 * rank + 1]), rank);
  }

  /** The bytes of a token. */
  bytes(id) {
    return this.vocab[id] ??= this.parts(id).flatMap(part => this.bytes(part));
  }

  /** The two tokens that were merged into this one. */
  parts(id) {
    return this.merges.slice(2 * (id - 256), 2 * (id - 256) + 2);
  }

  /** The rank of a pair of ids; undefined where it is never merged. */
  rank(a, b) {
    return this.ranks.get(keyOf(a, b));
  }

  /** Merge the ids of a word until no pair has a rank: always the lowest rank, and of equal ones the leftmost. The time
   * is n log n. `watch` is told each merge: the places of both halves, in the word as it was given, and the rank. */
  merge(ids, watch) {
    const n = ids.length, out = Array.from(ids), queue = new Heap();
    const next = Int32Array.from({length: n}, (_, i) => i + 1), last = Int32Array.from({length: n}, (_, i) => i - 1);
    const offer = at => {
      const rank = at >= 0 && next[at] < n ? this.rank(out[at], out[next[at]]) : undefined;
      if (rank !== undefined) queue.push(rank * PLACES + at);
    };
    for (let at = 0; at < n; at++) offer(at);
    while (queue.items.length) {
      const entry = queue.pop(), rank = Math.floor(entry / PLACES), at = entry % PLACES, after = next[at];
      if (out[at] < 0 || after >= n || this.rank(out[at], out[after]) !== rank) continue; // changed since it was offered
      watch?.(at, after, rank);
      out[at] = 256 + rank;
      out[after] = -1;
      next[at] = next[after];
      if (next[at] < n) last[next[at]] = at;
      offer(last[at]);
      offer(at);
    }
    return out.filter(id => id >= 0);
  }

  /** The pieces of a text, none of which shares a token with another. */
  words(text) {
    return Array.from(text.matchAll(this.split), match => match[0]);
  }

  /** The ids of the bytes of a word, unmerged. */
  start(word) {
    return bytesOf(word).map(byte => this.byteIds[byte]);
  }

  /** The ids of a word. */
  word(word) {
    let ids = this.#known.get(word);
    if (!ids) {
      if (this.#known.size > 50000) this.#known.clear();
      this.#known.set(word, ids = this.merge(this.start(word)));
    }
    return ids;
  }

  /** The ids of a text, in which no special token is looked for. */
  encode(text) {
    return this.words(text).flatMap(word => this.word(word));
  }

  /** All states of a word on its way from bytes to tokens: ids, and the place and rank of the merge that led here. */
  states(word) {
    let tokens = this.start(word).map((id, at) => ({id, at}));
    const states = [{tokens}];
    this.merge(tokens.map(({id}) => id), (at, after, rank) => {
      tokens = tokens.filter(token => token.at !== after).map(token => token.at === at ? {id: 256 + rank, at} : token);
      states.push({tokens, at, rank});
    });
    return states;
  }
}

/** GPT-2's bytes and merges out of its own file, which writes each byte as one printable character. */
export function readGpt2(text) {
  const printable = [[33, 126], [161, 172], [174, 255]].flatMap(([from, to]) => Array.from({length: to - from + 1}, (_, i) => from + i));
  const bytes = [...printable, ...Array.from({length: 256}, (_, i) => i).filter(byte => !printable.includes(byte))]; // by id
  const ids = new Map(bytes.map((byte, id) => [String.fromCharCode(id < printable.length ? byte : 256 + id - printable.length), id]));
  const lines = text.trimEnd().split("\n").slice(1); // the first line is a version
  const merges = lines.flatMap((line, rank) => {
    const [left, right] = line.split(" ");
    ids.set(left + right, 256 + rank);
    return [ids.get(left), ids.get(right)];
  });
  if (merges.length !== 100000 || merges.includes(undefined)) throw new Error("this is not GPT-2's list of 50,000 merges");
  return {bytes, merges};
}

// ------------------------------------------------------------ training

/** How often each pair of neighbours occurs in words of ids: a map from a pair's key, in the order of first sight. */
export function countPairs(words) {
  const counts = new Map();
  for (const word of words) for (let i = 1; i < word.length; i++) {
    const key = keyOf(word[i - 1], word[i]);
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}

/** Pairs with their counts, the most frequent first, and of equal ones the one seen first. */
export const ranking = counts => Array.from(counts, ([key, count]) => ({pair: pairOf(key), count})).sort((a, b) => b.count - a.count); // stable

/** Where a pair stands in a word, from the left and without overlaps: the index of each left half. */
export function places(word, [a, b]) {
  const found = [];
  for (let i = 0; i + 1 < word.length; i++) if (word[i] === a && word[i + 1] === b) found.push(i++);
  return found;
}

/** Words with every occurrence of a pair replaced by `id`. */
export const replacePair = (words, pair, id) => words.map(word => {
  const lefts = new Set(places(word, pair));
  return lefts.size ? word.flatMap((token, i) => lefts.has(i) ? [id] : lefts.has(i - 1) ? [] : [token]) : word;
});
