import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";
import {chances, pairLine, probabilities, sampleName, surprise} from "./bigram.js";
import {draw, random} from "./widget.js";

const {symbols, counts} = JSON.parse(readFileSync(new URL("bigram.json", import.meta.url), "utf8"));
const sum = values => values.reduce((a, b) => a + b, 0);
const near = (a, b, tolerance = 1e-12) => assert.ok(Math.abs(a - b) <= tolerance, `${a} is not ${b}`);

test("the data is a table of whole numbers, and every name that starts also ends", () => {
  assert.equal(symbols.join(""), ".abcdefghijklmnopqrstuvwxyz");
  assert.equal(counts.length, 27);
  for (const row of counts) assert.ok(row.length === 27 && row.every(count => Number.isInteger(count) && count >= 0));
  symbols.forEach((_, i) => assert.equal(sum(counts[i]), sum(counts.map(row => row[i])), `as many pairs lead to ${symbols[i]} as leave it`));
});

test("the table's own likelihood is that of the chapter", () => {
  const total = sum(counts.flat());
  near(sum(counts.map(row => { const p = probabilities(row); return -sum(row.map((count, j) => count && count * Math.log(p[j]))); })) / total, 2.454, 5e-4);
});

test("at temperature one a probability is a share", () => {
  for (const row of counts) probabilities(row).forEach((p, j) => near(p, row[j] / sum(row)));
});

test("temperature is a power of the counts", () => {
  const row = [1, 4, 9, 0];
  probabilities(row, 2).forEach((p, j) => near(p, [1, 2, 3, 0][j] / 6));
  probabilities(row, 0.5).forEach((p, j) => near(p, [1, 16, 81, 0][j] / 98));
});

test("what never happened stays impossible, and sums stay one", () => {
  for (const temperature of [0.1, 0.5, 1, 3]) for (const row of counts) {
    const p = probabilities(row, temperature);
    near(sum(p), 1);
    row.forEach((count, j) => assert.equal(p[j] === 0, count === 0));
  }
  assert.deepEqual(probabilities([0, 0, 0], 3), [0, 0, 0]);
  near(probabilities([1e300, 1e299], 0.1)[0], 1 / (1 + 1e-10));
});

test("draws come as often as their probability says", () => {
  const next = random(7), p = probabilities(counts[1]), seen = p.map(() => 0), n = 20000;
  for (let i = 0; i < n; i++) seen[draw(p, next())]++;
  p.forEach((value, j) => assert.ok(Math.abs(seen[j] / n - value) < 5 * Math.sqrt(value / n) + 1e-9, `${symbols[j]}: ${seen[j] / n} is not ${value}`));
});

test("the same seed writes the same names, and they can be continued", () => {
  const write = seed => { const next = random(seed); return Array.from({length: 5}, () => sampleName(counts, 1, next)); };
  assert.deepEqual(write(3), write(3));
  assert.notDeepEqual(write(3), write(4));
  for (const name of write(3)) assert.ok(name.at(-1) === 0 && !name.slice(0, -1).includes(0));
  assert.deepEqual(sampleName(counts, 1, random(3), [1, 2]).slice(0, 2), [1, 2]);
});

test("a name that would never end is cut", () => {
  const name = sampleName([[0, 1, 0], [0, 0, 1], [0, 1, 0]], 1, random(1));
  assert.equal(name.length, 40);
  assert.notEqual(name.at(-1), 0);
});

test("likelihood of a name", () => {
  const table = [[0, 1, 3], [2, 2, 0], [1, 0, 0]];
  assert.deepEqual(chances(table, 1, [1, 1, 0]), [0.25, 0.5, 0.5]);
  near(surprise([0.25, 0.5, 0.5]), Math.log(16) / 3);
});

test("a pair in words", () => {
  const data = {symbols: [".", "a", "n"], counts: [[0, 1500, 500], [300, 0, 100], [1, 1, 0]]};
  assert.equal(pairLine(data, 1, 2, 1), "after 'a' comes 'n' 100 times: 25.0 %");
  assert.equal(pairLine(data, 0, 1, 1), "a name begins with 'a' 1,500 times: 75.0 %");
  assert.equal(pairLine(data, 2, 0, 1), "after 'n' the name ends once: 50.0 %");
  assert.equal(pairLine(data, 1, 2, 0.5), "after 'a' comes 'n' 100 times: 25.0 %, and 10.0 % at T = 0.50");
  assert.equal(pairLine(data, 1, 1, 2), "after 'a' comes 'a': never, so 0 % at any temperature");
});
