import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";
import {encode, load, read} from "./gpt.js";
import {distance, habit, strongest, unpack} from "./heads.js";

const stored = name => readFileSync(new URL(name, import.meta.url));
const data = JSON.parse(stored("heads.json")), {n_layer, n_head, lines} = data;

test("every row is a distribution over the past, within rounding", () => {
  assert.ok(lines.length >= 3 && stored("heads.json").length < 400_000);
  for (const line of lines) {
    const maps = unpack(line, n_layer, n_head);
    assert.deepEqual([maps.length, maps[0].length, maps[0][0].length], [n_layer, n_head, line.text.length]);
    for (const triangle of maps.flat()) triangle.forEach((weights, t) => {
      assert.equal(weights.length, t + 1, "nothing beyond the diagonal");
      assert.ok(Math.abs(weights.reduce((a, b) => a + b, 0) - 1) < (t + 1) / 65535);
    });
  }
  assert.throws(() => unpack({...lines[0], text: lines[0].text + "!"}, n_layer, n_head), /bytes do not fill/);
});

test("the weights are those of the model in half precision", () => {
  const file = stored("shakespeare.bin");
  const model = load(JSON.parse(stored("shakespeare.json")), file.buffer.slice(file.byteOffset, file.byteOffset + file.length));
  for (const line of [lines[0], lines.at(-1)]) {
    const maps = unpack(line, n_layer, n_head);
    read(model, encode(model, line.text)).forEach((answer, t) => answer.maps.forEach((row, l) => row.forEach((weights, n) =>
      weights.forEach((w, s) => assert.ok(Math.abs(w - maps[l][n][t][s]) < 1e-4)))));
  }
});

test("the strongest weights, and how far away they are", () => {
  assert.deepEqual(strongest([0.2, 0.5, 0.04, 0.26]), [1, 3, 0]);
  assert.deepEqual(strongest([0.01, 0.98, 0.01]), [1]);
  assert.deepEqual([0, 1, 7].map(distance), ["itself", "one back", "7 back"]);
});

test("a plain habit is recognised", () => {
  const text = "ab\nab ab\n", rows = pick => Array.from(text, (_, t) => Array.from({length: t + 1}, (_, s) => s === pick(t) ? 1 : 0));
  assert.deepEqual(habit(text, rows(t => t)), {what: "itself", share: 1});
  assert.deepEqual(habit(text, rows(t => t - 1)), {what: "the character before", share: 1});
  assert.equal(habit(text, rows(() => 2)).what, "new lines");
});
