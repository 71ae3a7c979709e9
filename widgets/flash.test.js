import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";
import {difference, headline, held, ordinary, reason, rescales, tiles, walk} from "./flash.js";

const data = JSON.parse(readFileSync(new URL("flash.json", import.meta.url), "utf8"));
const sizes = Object.keys(data.tiles).map(name => name.split(" × ").map(Number));
const near = (a, b, tolerance = 1e-12) => assert.ok(a === b || Math.abs(a - b) <= tolerance, `${a} is not ${b}`);
const alike = (a, b) => a.flat().forEach((x, n) => near(x, b.flat()[n] ?? -Infinity));

test("after every tile all that is held is Python's", () => {
  assert.ok(sizes.length >= 4);
  for (const [name, expected] of Object.entries(data.tiles)) {
    const steps = walk(data, ...name.split(" × ").map(Number)), [scores, maxima, sums] = ["scores", "maximum", "add"].map(kind => steps.filter(step => step.kind === kind));
    assert.deepEqual([scores.length, maxima.length, sums.length], Array(3).fill(expected.length));
    expected.forEach((tile, n) => {
      assert.deepEqual([sums[n].i, sums[n].j], [tile.row, tile.column]);
      alike(scores[n].scores, tile.scores);
      alike(maxima[n].factor, tile.factor);
      for (const step of [maxima[n], sums[n]]) alike(step.max, tile.max);
      alike(sums[n].sum, tile.sum);
      alike(sums[n].mixed, tile.mixed);
    });
  }
});

test("the end is softmax attention, for every size of tile", () => {
  alike(ordinary(data), data.output);
  for (const [rows, columns] of [...sizes, [3, 2], [2, 3], [5, 8]]) {
    const end = walk(data, rows, columns).at(-1);
    assert.ok(end.last && end.output.length === data.words.length);
    assert.ok(difference(end.output, data.output) < 1e-12, `${rows} × ${columns}`);
  }
});

test("it begins with the five words of the attention figure", () => {
  const earlier = JSON.parse(readFileSync(new URL("attention.json", import.meta.url), "utf8"));
  assert.deepEqual(data.words.slice(0, 5), earlier.words);
  alike(ordinary(data).slice(0, 5), earlier.stages.output);
});

test("a larger maximum makes smaller what was summed, and nothing else does", () => {
  const steps = walk(data, 2, 2);
  let seen = 0;
  for (const step of steps.filter(({kind}) => kind === "maximum")) step.queries.forEach((_, n) => {
    seen += rescales(step, n);
    if (step.first) return assert.ok(step.sum[n] === 0 && step.mixed[n].every(x => x === 0));
    assert.equal(rescales(step, n), step.max[n] > step.old.max[n]);
    near(step.sum[n], step.old.sum[n] * Math.exp(step.old.max[n] - step.max[n]));
    assert.equal(rescales(step, n), step.sum[n] < step.old.sum[n]);
  });
  assert.equal(seen, 7, "the case shows both");
});

test("scores of hundreds do no harm, because the maximum is taken away", () => {
  const large = {...data, q: data.q.map(row => row.map(x => 500 * x))};
  const end = walk(large, 2, 2).at(-1);
  assert.ok(end.output.flat().every(Number.isFinite) && difference(end.output, ordinary(large)) < 1e-9);
});

test("what is held does not grow with the length", () => {
  assert.equal(held(2, 2, 2), 4 + 2 + 2 + 4);
  assert.equal(held(64, 64, 64), 8320);
  assert.deepEqual(tiles(8, 2, 2), {visited: 10, skipped: 6});
  assert.deepEqual(tiles(8, 8, 8), {visited: 1, skipped: 0});
  assert.deepEqual(tiles(8, 4, 2), {visited: 6, skipped: 2});
  for (const [rows, columns] of sizes) assert.equal(tiles(8, rows, columns).visited, data.tiles[`${rows} × ${columns}`].length);
  const rows = 2, peak = Math.max(...walk(data, rows, 2).map(({scores, max, sum, mixed}) => [scores ?? [], max, sum, mixed].flat(2).length));
  assert.equal(peak, held(rows, 2, 2), "counted, not only computed");
});

test("every step is explained with its own numbers", () => {
  const steps = walk(data, 2, 2), at = (kind, i, j) => steps.find(step => step.kind === kind && step.i === i && (step.j ?? j) === j);
  assert.match(headline(null), /^Nothing is computed yet/);
  assert.equal(headline(at("scores", 2, 0)), "Queries 3 to 4, keys 1 to 2: the scores of one tile");
  assert.match(headline(at("maximum", 2, 2)), /a larger score/);
  assert.match(headline(at("maximum", 4, 4)), /no larger score/);
  assert.match(headline(walk(data, 1, 1)[3]), /^Query 1: output divided by sum\. This row is done$/);
  const [first] = reason(at("scores", 2, 2), 1, data);
  assert.equal(first, "'yellow' looks at 'these': (1.00 × 0.90 + −0.50 × (−0.50)) / √2 = 0.81; 'yellow': (1.00 × 2.10 + −0.50 × (−0.80)) / √2 = 1.77.");
  const rescaled = reason(at("maximum", 2, 2), 1, data);
  assert.match(rescaled[1], /multiplied by e\^−0\.14 \/ e\^1\.77 = 0\.15: sum 1\.37 → 0\.20/);
  assert.match(reason(at("add", 2, 2), 1, data)[0], /weights e\^−0\.95 = 0\.38, e\^0\.00 = 1\.00.*Sum: 0\.20 \+ 0\.38 \+ 1\.00 = 1\.59\./);
  assert.match(reason(at("scores", 2, 2), 0, data)[0], /^'these' looks at 'these': [^;]*$/, "the future is left out");
  assert.match(reason(walk(data, 4, 2).filter(({kind}) => kind === "scores")[1], 0, data)[0], /'come' comes before all these keys/);
  assert.match(reason(steps.at(-1), 1, data)[0], /^'take': .* = \(/);
});
