import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";
import {after, changeLine, context, forward, interpolate, largest, likelyLine, nearest, nearLine, percent, points, softmax, spread, stepLine, ticks, view} from "./mlp.js";

const {symbols, frames, check} = JSON.parse(readFileSync(new URL("mlp.json", import.meta.url), "utf8"));
const sum = values => values.reduce((a, b) => a + b, 0);
const near = (a, b, tolerance = 1e-12) => assert.ok(Math.abs(a - b) <= tolerance, `${a} is not ${b}`);
const apart = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);

test("the data is a training: steps grow, the loss falls, and every snapshot is a whole network", () => {
  assert.equal(symbols.join(""), ".abcdefghijklmnopqrstuvwxyz");
  assert.equal(frames[0].step, 0);
  frames.forEach(({step, loss, C, W1, b1, W2, b2}, i) => {
    if (i) assert.ok(step > frames[i - 1].step);
    assert.deepEqual([C, W1, b1, W2, b2].map(list => list.length), [54, 300, 50, 1350, 27]);
    assert.ok([loss, ...C, ...W1, ...b1, ...W2, ...b2].every(Number.isFinite));
  });
  assert.ok(frames.at(-1).loss < Math.log(27) && frames.at(-1).loss < frames[0].loss);
});

test("the network computes the chapter's logits", () => {
  const last = frames.at(-1), logits = forward(points(last), last, context(check.context, symbols).ids);
  assert.equal(logits.length, check.logits.length);
  logits.forEach((x, j) => near(x, check.logits[j], 2e-4)); // written with four digits, from single precision
});

test("a small network by hand", () => {
  const model = {C: [0, 0, 1, -1], W1: [1, 0, 0, 1, 2, 0, 0, 2, 3, 0, 0, 3], b1: [0.5, 0], W2: [1, 10], b2: [0.25]};
  const hidden = [1 - 0 + 3 + 0.5, -1 - 0 - 3].map(Math.tanh); // the context is letter 1, letter 0, letter 1
  const [logit, ...rest] = forward(points(model), model, [1, 0, 1]);
  assert.deepEqual(rest, []);
  near(logit, hidden[0] + 10 * hidden[1] + 0.25);
});

test("the letters' places are all that the network knows of them", () => {
  const last = frames.at(-1), places = points(last), ids = [1, 2, 3];
  const moved = places.map((p, i) => i === 2 ? [p[0] + 0.5, p[1] - 0.5] : p), same = places.map((p, i) => i === 3 ? places[4] : p);
  assert.notDeepEqual(forward(moved, last, ids), forward(places, last, ids));
  assert.deepEqual(forward(moved, last, [1, 4, 3]), forward(places, last, [1, 4, 3]));
  assert.deepEqual(forward(same, last, [1, 2, 3]), forward(places, last, [1, 2, 4]), "a letter put upon another is read as that one");
});

test("softmax", () => {
  softmax([Math.log(1), Math.log(2), Math.log(5)]).forEach((p, i) => near(p, [0.125, 0.25, 0.625][i]));
  assert.deepEqual(softmax([1000, 1000]), [0.5, 0.5]);
  for (const frame of frames) near(sum(softmax(forward(points(frame), frame, [0, 0, 0]))), 1);
  assert.deepEqual(largest([0.1, 0.4, 0.2, 0.3], 3), [1, 3, 2]);
});

test("a text becomes its last three letters", () => {
  assert.deepEqual(context("", symbols), {ids: [0, 0, 0], ignored: []});
  assert.deepEqual(context("e", symbols), {ids: [0, 0, 5], ignored: []});
  assert.deepEqual(context("Olivia", symbols), {ids: [22, 9, 1], ignored: []});
  assert.deepEqual(context(" e m ", symbols), {ids: [0, 5, 13], ignored: []});
  assert.deepEqual(context("é7a7🦩", symbols), {ids: [0, 0, 1], ignored: ["é", "7", "🦩"]});
});

test("points and the way between them", () => {
  assert.deepEqual(points({C: [1, 2, 3, 4]}), [[1, 2], [3, 4]]);
  const [a, b] = [points(frames[0]), points(frames[1])];
  assert.deepEqual(interpolate(a, b, 0), a);
  interpolate(a, b, 1).forEach((p, i) => near(apart(p, b[i]), 0));
  assert.deepEqual(interpolate([[0, 4]], [[2, 0]], 0.25), [[0.5, 3]]);
});

test("the nearest letters", () => {
  assert.deepEqual(nearest([[0, 0], [3, 4], [0, 1], [-2, 0]], 0, 2), [{index: 2, distance: 1}, {index: 3, distance: 2}]);
  const places = points(frames.at(-1));
  symbols.forEach((_, i) => {
    const found = nearest(places, i), rest = symbols.map((_, j) => j).filter(j => j !== i && !found.some(({index}) => index === j));
    assert.ok(found.length === 3 && found.every(({index}) => index !== i));
    for (const j of rest) assert.ok(apart(places[i], places[j]) >= found[2].distance);
  });
});

test("the view is a square with all letters inside and some paper around them", () => {
  for (const frame of frames) {
    const places = points(frame), {x, y, half} = view(places);
    const reach = Math.max(...places.map(p => Math.max(Math.abs(p[0] - x), Math.abs(p[1] - y))));
    assert.ok(reach < 0.9 * half && reach > 0.8 * half, `${reach} of ${half}`);
  }
  assert.ok(view([[1, 1], [1, 1]]).half > 0, "even where all are in one place");
});

test("grid lines are few and round", () => {
  for (const [high, lines] of [[1, [-1, -0.5, 0, 0.5, 1]], [2.9, [-2, -1, 0, 1, 2]]]) assert.deepEqual(ticks(-high, high).map(x => x + 0), lines);
  for (const frame of frames) {
    const {x, half} = view(points(frame)), lines = ticks(x - half, x + half);
    assert.ok(lines.length >= 3 && lines.length <= 10 && lines[0] >= x - half && lines.at(-1) <= x + half);
  }
});

test("names make room for each other, and only where they have to", () => {
  const far = [[0, 0], [100, 0]];
  spread(far, 16).forEach((p, i) => assert.ok(apart(p, far[i]) < 0.01));
  for (const frame of frames) {
    const seen = view(points(frame)), places = points(frame).map(([x, y]) => [170 * (1 + (x - seen.x) / seen.half), 170 * (1 - (y - seen.y) / seen.half)]);
    const names = spread(places, 16, [3]);
    assert.deepEqual(names[3], places[3]);
    names.forEach((p, i) => names.slice(0, i).forEach(q => assert.ok(apart(p, q) > 15, `step ${frame.step}: ${apart(p, q)}`)));
  }
  const heap = spread(Array(5).fill([7, 7]), 10);
  heap.forEach((p, i) => heap.slice(0, i).forEach(q => assert.ok(apart(p, q) > 9)));
  assert.deepEqual(spread([[1, 1], [1, 1]], 10, [0, 1]), [[1, 1], [1, 1]], "two that were put in one place stay there");
});

test("in words", () => {
  assert.deepEqual([0.4414, 1, 0.0001].map(percent), ["44.1 %", "100.0 %", "under 0.1 %"]);
  assert.equal(stepLine({step: 1500, loss: 2.5751}), "step 1,500: validation loss 2.58");
  assert.deepEqual([[0, 0, 0], [0, 1, 2]].map(ids => after([".", "a", "n"], ids)), ["at the start of a name", "after '.an'"]);
  assert.equal(likelyLine([".", "a", "n"], [0.3, 0.6, 0.1]), "likeliest: 'a' 60.0 %, the end 30.0 %, 'n' 10.0 %");
  assert.equal(nearLine([".", "a", "n", "m"], [[0, 0], [-0.001, 1], [3, 0], [0, -2]], 1), "'a' is at (0.00, 1.00); nearest: '.' 1.00, 'm' 3.00, 'n' 3.16");
});

test("what a move did, in words", () => {
  const say = (moved, now) => changeLine([".", "a", "n"], [0, 0, 1], moved, [0.1, 0.6, 0.3], now);
  assert.equal(say([], [0.1, 0.6, 0.3]), "");
  assert.equal(say([2], [0.1, 0.6, 0.3]), "'n' moved, but the network does not read it here: nothing changes.");
  assert.equal(say([1], [0.2, 0.5, 0.3]), "'a' moved: 'a' 60.0 % → 50.0 %, still the likeliest. The lines mark the bars as they were.");
  assert.equal(say([0, 2], [0.7, 0.2, 0.1]), "'.', 'n' moved: 'a' 60.0 % → 20.0 %, and the end is the likeliest with 70.0 %. The lines mark the bars as they were.");
});
