import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";
import {computed, explain, totals, written} from "./decoding.js";

const data = JSON.parse(readFileSync(new URL("decoding.json", import.meta.url), "utf8"));

test("with a cache each token is computed once", () => {
  const steps = computed(data.prompt.length, data.answer.length), end = steps.at(-1);
  assert.equal(end.with, data.prompt.length + data.answer.length - 1);
  assert.equal(end.without, data.answer.reduce((sum, _, n) => sum + data.prompt.length + n, 0));
  assert.deepEqual(computed(7, 3), [{without: 7, with: 7}, {without: 15, with: 8}, {without: 24, with: 9}]);
});

test("the passes make up the text", () => {
  const pieces = written(data.passes).at(-1), text = pieces.map(({text: piece}) => piece).join("");
  assert.equal(pieces.length, totals(data.passes).tokens);
  assert.match(text, /^[A-Z].*\.<\|im_end\|>$/, "a sentence and its end");
  assert.notEqual(text, data.request.split("\n").at(-1), "in which something was corrected");
});

test("guesses are right up to the first that is wrong", () => {
  assert.ok(data.passes.some(({accepted}) => accepted === 0) && data.passes.some(({guesses, accepted}) => accepted === guesses.length), "the case shows both");
  for (const {guesses, accepted, next} of data.passes) {
    assert.ok(guesses.length <= data.gamma && accepted <= guesses.length);
    if (accepted < guesses.length) assert.notEqual(guesses[accepted], next);
  }
});

test("what happened is said", () => {
  assert.match(explain({guesses: ["a", "b", "c"], accepted: 1, next: "x"}), /“abc”.*at all 3 .*agrees with “a”, and says “x” where the guess was “b”\. Its cache forgets 2 positions\.$/);
  assert.match(explain({guesses: ["a", "b"], accepted: 1, next: "x"}), /“b”\. Its cache forgets 1 position\.$/);
  assert.match(explain({guesses: ["a", "b"], accepted: 2, next: "\n"}), /agrees with every one.*“⏎”, for nothing\.$/);
  assert.match(explain({guesses: ["a", "b"], accepted: 0, next: "x"}), /agrees with none.*forgets 2 positions\.$/);
  assert.match(explain({guesses: ["a"], accepted: 0, next: "x"}), /looks at it in one pass, does not agree, and says “x”.*forgets 1 position\.$/);
  assert.match(explain({guesses: ["a"], accepted: 1, next: "x"}), /looks at it in one pass and agrees\. Its last logits/);
  assert.match(explain({guesses: [], accepted: 0, next: " "}), /no guess to check\. The model says “·”\.$/);
});
