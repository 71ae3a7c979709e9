import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";
import {chances, context, contextLength, known, linear, load, next, run, softmax, tidy, unpack} from "./wavenet.js";

const data = JSON.parse(readFileSync(new URL("wavenet.json", import.meta.url), "utf8"));
const model = load(data);
const near = (a, b, tolerance = 1e-12) => assert.ok(Math.abs(a - b) <= tolerance, `${a} is not ${b}`);

test("the tables have the shapes of the lecture's network", () => {
  assert.equal(model.symbols.join(""), ".abcdefghijklmnopqrstuvwxyz");
  assert.equal(contextLength(model), 8);
  assert.deepEqual(data.tables.map(table => table.shape), [[27, 24], [48, 128], [128], [256, 128], [128], [256, 128], [128], [128, 27], [27]]);
});

test("the logits are those that Python computed before rounding, within 0.01", () => {
  assert.ok(Object.keys(data.checks).length >= 5);
  for (const [name, logits] of Object.entries(data.checks)) run(model, context(model, name)).logits.forEach((z, i) => near(z, logits[i], 0.01));
});

test("a table is read little-endian and scaled, and must be full", () => {
  const stored = {shape: [2, 2], scale: 0.5, data: btoa(String.fromCharCode(1, 0, 255, 255, 0, 1, 0, 128))};
  assert.deepEqual([...unpack(stored).values], [0.5, -0.5, 128, -16384]);
  assert.throws(() => unpack({...stored, shape: [3, 2]}), /4 numbers do not fill a table of 3 by 2/);
});

test("a linear layer by hand", () => {
  const layer = {weight: {shape: [2, 3], values: [1, 2, 3, 10, 20, 30]}, bias: {shape: [3], values: [0.5, 0, -1]}};
  assert.deepEqual([...linear([2, 1], layer)], [12.5, 24, 35]);
  assert.throws(() => linear([1], layer), /1 numbers do not fit a table of 2 rows/);
});

test("the context is the last eight letters", () => {
  assert.deepEqual(context(model, ""), [0, 0, 0, 0, 0, 0, 0, 0]);
  assert.deepEqual(context(model, "ab"), [0, 0, 0, 0, 0, 0, 1, 2]);
  assert.deepEqual(context(model, "maximilian"), context(model, "ximilian"));
  assert.throws(() => context(model, "a!"), /'!' is not one of the letters/);
  assert.equal(tidy(model, " Zo\u00eb. Anne"), "zoanne");
});

test("the tree halves from level to level and stays between -1 and 1", () => {
  const {nodes} = run(model, context(model, "emma"));
  assert.deepEqual(nodes.map(row => row.length), [8, 4, 2, 1]);
  for (const node of nodes.slice(1).flat()) assert.ok(node.length === 128 && node.every(x => Math.abs(x) <= 1));
  assert.deepEqual(nodes[1][0], nodes[1][1], "pairs of dots are alike wherever they are");
});

test("the prediction is a distribution, with sense in it", () => {
  for (const name of ["", "emm", "qx"]) near(next(model, name).reduce((a, b) => a + b, 0), 1);
  near(softmax([1000, 1000 + Math.log(3)])[1], 0.75);
  const after = next(model, "emm");
  assert.equal(after.indexOf(Math.max(...after)), model.symbols.indexOf("a"));
  const p = chances(model, "emma");
  assert.equal(p.length, 4);
  near(p[3], after[1]);
});

test("all nodes but the newest of each level were computed for earlier letters", () => {
  assert.deepEqual(known(model, ""), [[false, false, false, false], [false, false], [false]]);
  assert.deepEqual(known(model, "em"), [[true, true, true, false], [true, false], [false]]);
  assert.deepEqual(known(model, "emma"), [[true, true, true, false], [true, false], [false]]);
  assert.deepEqual(known(model, "anan"), known(model, "emma"), "a pair that comes again is computed again");
  const nodes = known(model, "maximilian");
  assert.deepEqual(nodes.map(row => row.at(-1)), [false, false, false], "the last letter makes one new node per level");
  assert.deepEqual(nodes.map(row => row.filter(x => !x).length), [1, 1, 1]);
});
