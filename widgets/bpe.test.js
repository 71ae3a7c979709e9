import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";
import {Tokenizer, bytesOf, countPairs, face, flowing, hues, pairOf, places, ranking, readGpt2, replacePair, textOf, translate, visible} from "./bpe.js";

const {patterns, merges, sizes, texts, checks} = JSON.parse(readFileSync(new URL("tokenizer.json", import.meta.url), "utf8"));
const of = size => new Tokenizer(patterns.gpt4, merges, size);
const words = (pattern, text) => Array.from(text.matchAll(translate(pattern)), match => match[0]);

test("the texts become Python's ids", () => {
  for (const [size, all] of Object.entries(checks)) texts.forEach((text, n) => assert.deepEqual(of(Number(size)).encode(text), all[n]));
});

test("encoding loses nothing", () => {
  for (const size of sizes) for (const text of [...texts, "", "\n", "\ud83d\ude00", "\ufeffBOM\u0085"]) {
    const tokenizer = of(size), ids = tokenizer.encode(text);
    assert.equal(textOf(ids.flatMap(id => tokenizer.bytes(id))), text);
    assert.ok(ids.every(id => id < size));
  }
});

test("without merges the ids are the bytes", () => assert.deepEqual(of(256).encode("n\u00e4"), [110, 0xc3, 0xa4]));

test("patterns keep their meaning", () => {
  assert.deepEqual(words(patterns.gpt2, "I'll we'LL  3000 dogs'\n\n x"), ["I", "'ll", " we", "'", "LL", " ", " 3000", " dogs", "'", "\n\n", " x"]);
  assert.deepEqual(words(patterns.gpt4, "I'll we'LL  3000 dogs'\n\n x"), ["I", "'ll", " we", "'LL", " ", " ", "300", "0", " dogs", "'\n\n", " x"]);
  assert.deepEqual(words(patterns.gpt4, "a'\u017f b'K"), ["a", "'\u017f", " b", "'K"], "the long s is an s");
  assert.deepEqual(words(patterns.gpt2, "a\u0085\ufeff\u180eb"), ["a", "\u0085", "\ufeff\u180e", "b"], "white space is Unicode's, not JavaScript's");
  assert.equal(translate("(?i:'s|ll)|\\p{L}++|\\p{N}{1,3}+|\\s?+|\\S*+|a{2,}+|b+").source, "(?:'[sS\u017f]|[lL][lL])|\\p{L}+|\\p{N}{1,3}|\\p{White_Space}?|\\P{White_Space}*|a{2,}|b+");
});

test("the lowest rank goes first, and of equal ones the leftmost", () => {
  const [a, b, c] = bytesOf("abc"), tokenizer = new Tokenizer("[a-z]+", [b, c, a, b, a, a, 258, 258]);
  assert.deepEqual(tokenizer.encode("abc"), [a, 256], "b + c was learned before a + b");
  assert.deepEqual(tokenizer.encode("aaaaa"), [259, a]);
  assert.deepEqual(tokenizer.states("abab").map(({tokens}) => tokens.map(({id, at}) => `${id}@${at}`).join(" ")), ["97@0 98@1 97@2 98@3", "257@0 97@2 98@3", "257@0 257@2"]);
  assert.deepEqual(tokenizer.states("abab").map(({at, rank}) => [at, rank]), [[undefined, undefined], [0, 1], [2, 1]]);
});

test("a word's last state is its encoding", () => {
  const tokenizer = of(4096);
  for (const word of texts.flatMap(text => tokenizer.words(text))) assert.deepEqual(tokenizer.states(word).at(-1).tokens.map(({id}) => id), tokenizer.word(word));
});

test("one long word is no trouble", () => {
  const tokenizer = of(16384);
  for (const letter of ["a", " ", "\n", "\u{1f600}"]) {
    const ids = tokenizer.encode(letter.repeat(200000));
    assert.equal(ids.reduce((sum, id) => sum + tokenizer.bytes(id).length, 0), 200000 * bytesOf(letter).length);
  }
});

test("GPT-2's file is read, and another one refused", () => {
  // as many merges as GPT-2 has, in its spelling of bytes, but made up
  const lines = ["#version: 0.2", "\u0120 t", "h e", ...Array.from({length: 49998}, (_, n) => `${n % 2 ? "he" : "\u0120t"} ${String.fromCharCode(33 + n % 94)}`)];
  const {bytes, merges} = readGpt2(`${lines.join("\n")}\n`);
  assert.deepEqual([bytes[0], bytes[93], bytes[94], bytes[187], bytes[188], bytes[220], bytes[255]], [33, 126, 161, 255, 0, 32, 173]);
  assert.deepEqual([...bytes].sort((a, b) => a - b), Array.from({length: 256}, (_, byte) => byte));
  assert.deepEqual(merges.slice(0, 6), [220, 83, 71, 68, 256, 0], "space + t, h + e, ' t' + '!'");
  const wrong = ["<!doctype html>\nnot found", lines.slice(0, -1).join("\n"), lines.with(5, "\u0120t x\u0120t").join("\n")];
  for (const text of wrong) assert.throws(() => readGpt2(text), /not GPT-2's list/);
});

test("pairs are counted in the order of first sight", () => {
  const counts = ranking(countPairs([bytesOf("aaab"), bytesOf("ba")])).map(({pair, count}) => [String.fromCharCode(...pair), count]);
  assert.deepEqual(counts, [["aa", 2], ["ab", 1], ["ba", 1]]);
  assert.deepEqual(pairOf([...countPairs([[40000, 50000]]).keys()][0]), [40000, 50000]);
  assert.deepEqual(places([1, 1, 1, 1, 1], [1, 1]), [0, 2]);
  assert.deepEqual(replacePair([[1, 1, 1, 2], [2]], [1, 1], 256), [[256, 1, 2], [2]]);
});

test("what cannot be seen is written as bytes", () => {
  assert.deepEqual(face(bytesOf("the ")), {text: "the ", raw: false});
  assert.deepEqual(face([0xf0, 0x9f]), {text: "f0 9f", raw: true});
  for (const text of ["\u200d", "\u0301", "\u0000", "\u0085"]) assert.ok(face(bytesOf(text)).raw);
  for (const text of ["e\u0301", "\n", "\t"]) assert.ok(!face(bytesOf(text)).raw);
  assert.equal(visible(" a\n\t"), "␣a↵⇥");
  assert.equal(flowing(" a\n\t"), " a↵\n⇥");
});

test("neighbours differ in colour", () => {
  const found = hues([4, 4, 8, 5, 4, 0]);
  assert.deepEqual(found, [0, 1, 0, 1, 0, 1]);
});
