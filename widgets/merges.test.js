import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";
import {bytesOf, translate} from "./bpe.js";
import {advance, begin, best, greedy, length, reason, verdict} from "./merges.js";

const {pattern, texts, checks, first} = JSON.parse(readFileSync(new URL("merges.json", import.meta.url), "utf8"));
const split = translate(pattern), [a, b] = bytesOf("ab");
const after = (state, ...pairs) => pairs.reduce(advance, state);

test("all merges are Python's, with and without splitting", () => {
  assert.equal(checks.length, 2);
  assert.ok(first in texts);
  checks.forEach((all, kind) => Object.values(texts).forEach((text, n) => {
    let state = begin(text, kind && split);
    while (state.pairs.length) state = advance(state, state.pairs[0].pair);
    assert.deepEqual(state.merges, all[n]);
  }));
});

test("the line that is done by hand", () => {
  const states = [begin("aaabdaaabac")];
  while (best(states.at(-1))) states.push(advance(states.at(-1), best(states.at(-1)).pair));
  assert.deepEqual(states.map(length), [11, 9, 7, 5]);
  assert.deepEqual(states.at(-1).merges, [[a, a], [256, a], [257, b]]);
  assert.deepEqual(greedy(states[0]), [11, 9, 7, 5]);
  assert.equal(String.fromCharCode(...states.at(-1).vocab[258]), "aaab");
  assert.match(reason(states[0]), /^Next: 'a' \+ 'a', 4 times, more often than any other pair\. It becomes token 256\.$/);
  assert.match(reason(states[1]), /^Next: 'aa' \+ 'a', 2 times, as often as 'a' \+ 'b', but seen first\./);
  assert.match(reason(states[3]), /No pair occurs twice/);
  assert.equal(length(states[0]), 11, "earlier states stay");
});

test("words are not merged with each other", () => {
  const state = begin("ab ab", split);
  assert.equal(state.words.length, 2);
  assert.equal(state.pairs.length, 2, "a + b and space + a");
  assert.match(reason(begin("")), /Nothing is left/);
});

test("the reader is compared with greedy after as many merges", () => {
  const state = begin("aaabdaaabac"), left = greedy(state);
  assert.match(verdict(after(state, [a, b]), left), /^Your own choice, and no worse: greedy also has 9 tokens after 1 merge\.$/);
  assert.match(verdict(after(state, bytesOf("ac")), left), /^Greedy would have done better: it has 9 tokens after 1 merge, 1 fewer than you\.$/);
  assert.match(verdict(after(state, [a, b], [a, a]), [11, 10, 8]), /^You are ahead of greedy: it has 8 tokens after 2 merges, 1 more than you\.$/);
  assert.match(verdict(after(state, [a, b], [a, a], [257, 256], bytesOf("da")), left), /^Greedy found only 3 merges worth making and stopped at 5 tokens; you have \d+\.$/);
});
