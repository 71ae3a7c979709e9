// node --test widgets/batchnorm.test.js : the browser's network is the one that Python ran.
import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";

import {BATCH, CLASSES, DEEPEST, WIDTH, draw, histogram, normals, run, statistics, two, verdict} from "./batchnorm.js";

const data = JSON.parse(readFileSync(new URL("batchnorm.json", import.meta.url)));
const flat = table => Float64Array.from(table.flat());

function near(mine, theirs, what) {
  assert.equal(mine.length, theirs.length, what);
  mine.forEach((v, i) => assert.ok(Math.abs(v - theirs[i]) < 1e-9 + 1e-9 * Math.abs(theirs[i]), `${what}[${i}]: ${v} is not ${theirs[i]}`));
}

for (const given of data.cases) {
  test(`${given.nonlinearity}${given.norm ? " with BatchNorm" : ""}: activations, gradients and loss are torch's`, () => {
    const {activations, gradients, loss} = run({...given, x: flat(given.x), weights: given.weights.map(flat), width: given.x[0].length, classes: given.weights.at(-1)[0].length});
    assert.ok(Math.abs(loss - given.loss) < 1e-9);
    assert.equal(activations.length, given.activations.length);
    given.activations.forEach((table, l) => {
      near(activations[l], flat(table), `activations of layer ${l}`);
      near(gradients[l], flat(given.gradients[l]), `gradients of layer ${l}`);
    });
  });
}

test("the cases cover every nonlinearity with and without BatchNorm", () => {
  assert.deepEqual(new Set(data.cases.map(c => `${c.nonlinearity} ${c.norm}`)).size, 2 * Object.keys(data.gains).length);
});

test("a scale of the weights is the same as scaled weights", () => {
  const given = data.cases.find(c => c.nonlinearity === "tanh" && !c.norm);
  const sizes = {width: given.x[0].length, classes: given.weights.at(-1)[0].length};
  const weights = given.weights.map(flat), x = flat(given.x);
  const scaled = weights.map((w, l) => l < weights.length - 1 ? w.map(v => 2 * v) : w);
  const [one, other] = [run({...given, ...sizes, x, weights, scale: 2}), run({...given, ...sizes, x, weights: scaled})];
  one.gradients.forEach((g, l) => near(g, other.gradients[l], `gradients of layer ${l}`));
});

test("statistics and histograms of numbers that can be checked by hand", () => {
  const {mean, std, saturated, zeros} = statistics(Float64Array.of(0, 0, 1, -1));
  assert.deepEqual([mean, std, saturated, zeros], [0, Math.sqrt(0.5), 0.5, 0.5]);
  assert.deepEqual(histogram([-9, -1, -0.1, 0.1, 0.9, 1, 9], 1, 4), [2, 1, 1, 3]);
});

const network = (nonlinearity, gain, depth, norm) => {
  const drawn = draw(1);
  const {activations, gradients} = run({...drawn, nonlinearity, norm, width: WIDTH, classes: CLASSES, weights: [...drawn.hidden.slice(0, depth), drawn.last], scale: gain / Math.sqrt(WIDTH)});
  return [activations.map(statistics), gradients.map(statistics), nonlinearity];
};

test("the random network behaves as the chapter predicts", () => {
  assert.ok(Math.abs(network("tanh", 5 / 3, DEEPEST, false)[0].at(-1).std - 0.65) < 0.03);
  assert.ok(Math.abs(network("tanh", 3, DEEPEST, false)[0].at(-1).std - 0.84) < 0.03);
  const half = network("tanh", 0.5, 5, false);
  assert.ok(Math.abs((half[1][0].std / half[1].at(-1).std) ** (1 / 4) - 0.5) < 0.05);
});

test("the verdict names what is wrong, and BatchNorm makes it right", () => {
  assert.match(verdict(...network("tanh", 0.5, 5, false)), /signal fades.*gradient fades/);
  assert.match(verdict(...network("tanh", 4, 5, false)), /saturated/);
  assert.match(verdict(...network("relu", 2.5, 8, false)), /signal grows.*gradient grows/);
  for (const [f, gain] of Object.entries(data.gains)) assert.match(verdict(...network(f, gain, 5, false)), /Healthy/);
  for (const gain of [0.1, 1, 4]) assert.match(verdict(...network("tanh", gain, DEEPEST, true)), /Healthy/);
});

test("a seed determines the draw, and the draw is normal", () => {
  assert.deepEqual(draw(3), draw(3));
  assert.notDeepEqual(draw(3).x, draw(4).x);
  const {x, answers} = draw(3);
  assert.equal(x.length, BATCH * WIDTH);
  const {mean, std} = statistics(x);
  assert.ok(Math.abs(mean) < 0.05 && Math.abs(std - 1) < 0.05);
  assert.ok(answers.every(a => Number.isInteger(a) && a >= 0 && a < CLASSES));
  assert.ok(normals(3, () => 0).every(Number.isFinite));
});

test("standard deviations are written with two digits", () => {
  assert.deepEqual([0, 0.651, 1, 12.34, 99.4, 779, 0.0094, 12345].map(two), ["0", "0.65", "1.0", "12", "99", "780", "9.4 × 10⁻³", "1.2 × 10⁴"]);
});
