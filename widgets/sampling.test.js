import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";
import {PLAIN, choices, distribution, penalised} from "./sampling.js";

const data = JSON.parse(readFileSync(new URL("sampling.json", import.meta.url), "utf8"));
const NAMES = {temperature: "temperature", top_k: "topK", top_p: "topP", min_p: "minP", repetition_penalty: "repetition", presence_penalty: "presence", frequency_penalty: "frequency"};
const given = settings => ({...PLAIN, ...Object.fromEntries(Object.entries(settings).map(([name, value]) => [NAMES[name], value]))});
const sum = list => list.reduce((a, b) => a + b, 0);

test("every distribution is Python's", () => {
  assert.ok(data.cases.length >= 10);
  for (const {settings, p} of data.cases) {
    const ours = distribution(data.logits, given(settings), data.drawn).p;
    assert.equal(ours.length, p.length);
    ours.forEach((x, i) => {
      assert.ok(Math.abs(x - p[i]) < 1e-6, `${JSON.stringify(settings)}: ${x} is not ${p[i]}`);
      assert.equal(x === 0, p[i] === 0);
    });
  }
});

test("the token that crosses top-p stays", () => {
  const logits = [0.5, 0.3, 0.2].map(Math.log), at = topP => distribution(logits, {...PLAIN, topP}).p.filter(Boolean).length;
  assert.deepEqual([0.05, 0.49, 0.51, 0.79, 0.81, 1].map(at), [1, 1, 2, 2, 3, 3]);
});

test("each filter says what it took", () => {
  const {gone, p} = distribution(data.logits, {...PLAIN, topK: 10, minP: 0.2});
  assert.ok(gone.includes("top-k") && gone.includes("min-p"));
  assert.deepEqual(gone.map(x => x === null), p.map(x => x > 0));
  assert.ok(Math.abs(sum(p) - 1) < 1e-12);
});

test("temperature moves between the likeliest token and all alike", () => {
  const size = temperature => choices(distribution(data.logits, {...PLAIN, temperature}).p);
  assert.equal(size(0), 1);
  assert.ok(size(0.05) < 1.5 && size(0.5) < size(1) && size(1) < size(2) && size(1e9) > 0.999 * data.logits.length);
});

test("penalties touch what was drawn, and nothing else", () => {
  const after = penalised([2, -2, 1], {...PLAIN, repetition: 2, presence: 0.5, frequency: 0.25}, [0, 0, 1]);
  assert.deepEqual(after, [2 / 2 - 0.5 - 0.5, -2 * 2 - 0.5 - 0.25, 1]);
});
