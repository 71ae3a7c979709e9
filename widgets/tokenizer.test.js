import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";
import {Tokenizer} from "./bpe.js";
import {longest, nextPair, sentence, summary} from "./tokenizer.js";

const data = JSON.parse(readFileSync(new URL("tokenizer.json", import.meta.url), "utf8"));
const tokenizer = new Tokenizer(data.patterns.gpt4, data.merges);

test("the data are complete, and GPT-2's are not among them", () => {
  assert.equal(data.sizes[0], 256);
  assert.equal(256 + data.merges.length / 2, data.sizes.at(-1));
  assert.ok(data.sizes.includes(data.size));
  data.merges.forEach((id, i) => assert.ok(id < 256 + (i >> 1), "a merge is made of what was there before"));
  assert.ok(!("gpt2" in data));
});

test("the count is a sentence", () => {
  assert.equal(summary(1, 1, 1), "1 token for 1 character, 1 byte: 1.00 bytes per token");
  assert.equal(summary(1200, 3000, 3100), "1,200 tokens for 3,000 characters, 3,100 bytes: 2.58 bytes per token");
  assert.match(summary(0, 0, 0), /type something/);
});

test("every state says what is next, and the last that nothing is", () => {
  for (const word of [" the", " yellow", "naïve", "👩‍🚀"]) {
    const states = tokenizer.states(word);
    states.forEach(({tokens}, n) => {
      const {next, ranks} = nextPair(tokenizer, tokens), after = states[n + 1];
      assert.equal(ranks.length, tokens.length - 1);
      assert.equal(next >= 0, Boolean(after));
      if (after) assert.deepEqual([tokens[next].at, ranks[next]], [after.at, after.rank], "the picture and the encoder agree");
      assert.match(sentence(tokenizer, tokens), after ? /^Next: '.+' \+ '.+', rank [\d,]+, the .* It becomes token [\d,]+\.$/ : /One token is left|tokens are what the model reads/);
    });
  }
  assert.match(sentence(tokenizer, tokenizer.states("a")[0].tokens), /nothing to merge/);
});

test("the first word shown is a long one that fits", () => {
  assert.equal(longest(["a", "bbb", "cc", "dddd"], 3), 1);
  assert.equal(longest(["\u00e9\u00e9", "ccc"], 3), 1);
  assert.equal(longest([], 3), 0);
});
