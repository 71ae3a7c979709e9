import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";
import {compute, notice, reason, sources} from "./attention.js";
import {two} from "./widget.js";

const data = JSON.parse(readFileSync(new URL("attention.json", import.meta.url), "utf8"));
const near = (a, b, tolerance = 1e-12) => assert.ok(a === b || Math.abs(a - b) <= tolerance, `${a} is not ${b}`);
const on = {scale: true, mask: true};

test("every stage is Python's", () => {
  const found = compute(data);
  for (const [name, rows] of Object.entries(data.stages)) {
    assert.equal(found[name].length, data.words.length);
    rows.forEach((row, i) => row.forEach((x, j) => near(found[name][i][j], x ?? -Infinity)));
  }
});

test("a case by hand", () => {
  const {scores, scaled, weights, output} = compute({q: [[1, 0], [0, Math.SQRT2 * Math.log(3)]], k: [[1, 0], [0, 1]], v: [[2, 0], [6, 4]]});
  assert.deepEqual(scores[0], [1, 0]);
  near(scaled[1][1], Math.log(3));
  assert.deepEqual(weights[0], [1, 0], "the first word sees only itself");
  near(weights[1][1], 0.75);
  near(output[1][0], 5);
  near(output[1][1], 3);
});

test("without the mask the future has weight, without the scale weights are sharper", () => {
  const plain = compute(data), peeking = compute(data, {mask: false}), sharp = compute(data, {scale: false});
  for (const {weights} of [plain, peeking, sharp]) for (const row of weights) near(row.reduce((a, b) => a + b, 0), 1);
  plain.weights.forEach((row, i) => row.forEach((w, j) => assert.equal(w > 0, j <= i)));
  assert.ok(peeking.weights.flat().every(w => w > 0));
  plain.weights.slice(1).forEach((row, i) => assert.ok(Math.max(...sharp.weights[i + 1]) > Math.max(...row)));
  assert.deepEqual(sharp.scaled, sharp.scores);
});

test("what a cell is made of is all that it depends on", () => {
  const stages = compute(data);
  assert.deepEqual(sources("scores", 2, 1), [["q", 2, null], ["k", 1, null]]);
  assert.deepEqual(sources("output", 2, 1), [["weights", 2, null], ["v", null, 1]]);
  const changed = structuredClone(data);
  changed.k[1][0] += 1;
  compute(changed).scores.forEach((row, i) => row.forEach((x, j) => assert.equal(x !== stages.scores[i][j], j === 1)));
});

test("the sums that are written out give what they say", () => {
  const stages = compute(data), T = data.words.length;
  for (const stage of ["scores", "scaled", "output"]) for (let i = 0; i < T; i++) for (let j = 0; j < stages[stage][0].length; j++) {
    const [sum, value] = reason(stage, i, j, data.words, data, stages, on).split(": ").at(-1).split(" = ");
    const script = sum.replaceAll("−", "-").replaceAll("×", "*").replaceAll("√2", "Math.sqrt(2)");
    near(Function(`return ${script}`)(), Number(value.replace("−", "-")), 0.03);
  }
  assert.match(reason("masked", 0, 1, data.words, data, stages, on), /must not be seen/);
  assert.match(reason("weights", 0, 0, data.words, data, stages, on), /e\^.* = 1\.00$/);
  assert.match(reason("weights", 0, 1, data.words, data, stages, on), /e\^−∞ is 0/);
  const off = {scale: false, mask: false}, open = compute(data, off);
  assert.match(reason("masked", 0, 1, data.words, data, open, off), /the mask is off/);
  assert.match(reason("scaled", 0, 1, data.words, data, open, off), /the scale is off/);
});

test("numbers and notices", () => {
  assert.deepEqual([0, -0.001, 1.005, -2.5, -Infinity].map(two), ["0.00", "0.00", "1.00", "−2.50", "−∞"]);
  for (let step = 0; step <= 5; step++) assert.ok(notice(step, data.words, compute(data), on).length > 30);
  assert.match(notice(5, data.words, compute(data), on), /'sands' looks most at 'yellow'/);
  assert.match(notice(4, data.words, compute(data, {mask: false}), {scale: true, mask: false}), /^Peeking: on average, \d+ %/);
});
