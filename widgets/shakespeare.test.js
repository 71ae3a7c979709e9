import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";
import {complaint, likeliest, named} from "./shakespeare.js";

const {characters, config, tensors, bytes} = JSON.parse(readFileSync(new URL("shakespeare.json", import.meta.url), "utf8"));

test("the description is complete", () => {
  for (const key of ["block_size", "n_layer", "n_head", "n_embd"]) assert.ok(Number.isInteger(config[key]));
  assert.ok(["learned", "rotary"].includes(config.positions));
  assert.equal([...characters].sort().join(""), characters);
  const numbers = tensors.reduce((sum, {shape}) => sum + shape.reduce((a, b) => a * b, 1), 0);
  assert.equal(2 * numbers, bytes);
});

test("characters that cannot be seen have names", () => {
  assert.deepEqual([..." \na."].map(named), ["space", "new line", "a", "."]);
});

test("what the network has never seen is named once", () => {
  for (const prompt of ["", "ROMEO:\n", "O, what's this?"]) assert.equal(complaint(characters, prompt), "");
  assert.match(complaint(characters, "\u00c9t 3 \u00e9 33"), /^The network has never seen '\u00c9', '3', '\u00e9'\./);
});

test("the likeliest come first", () => {
  assert.deepEqual(likeliest([0.1, 0.5, 0.1, 0.3], 3), [1, 3, 0]);
});
