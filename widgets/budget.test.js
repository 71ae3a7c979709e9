import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";
import {bytes, chinchilla, duration, flopsPerToken, human, memoryPlan, money, parameterCounts, plan, verdict} from "./budget.js";

const data = JSON.parse(readFileSync(new URL("budget.json", import.meta.url), "utf8")), {cases, gpus, runs, vocab_size} = data;
const sum = parts => Object.values(parts).reduce((a, b) => a + b, 0);
const full = run => {
  const gpu = gpus.find(({name}) => name === run.kind);
  return {price: gpu.price, peak: gpu.peak * 1e12, memory: gpu.memory * 1e9, ...run};
};
const seed = full(runs[0]);

test("all parts are Python's, for models of every size and kind", () => {
  assert.ok(cases.length > 30);
  for (const key of ["mlp", "pos", "norm", "bias"]) assert.ok(new Set(cases.map(({config}) => config[key])).size > 1, `${key} is varied`);
  for (const {config, batch, T, parameters, flops, memory} of cases) {
    assert.deepEqual(parameterCounts(config), parameters);
    assert.deepEqual(flopsPerToken(config, T), flops);
    assert.deepEqual(memoryPlan(config, batch, T), memory);
  }
});

test("GPT-2 has as many parameters as it is said to have", () => {
  assert.equal(sum(parameterCounts({vocab_size: 50257})), 124439808);
  assert.equal(sum(parameterCounts({vocab_size: 50257, n_layer: 48, n_head: 25, n_embd: 1600})), 1557611200);
});

test("the seed project's run takes under two hours", () => {
  const {seconds, rate, work, cost, ratio, fits} = plan(seed, vocab_size);
  assert.ok(seconds > 1.5 * 3600 && seconds < 2 * 3600 && fits);
  assert.ok(Math.abs(rate / 1.75e6 - 1) < 0.02, "1.75 million tokens a second");
  assert.ok(Math.abs(work / (1e10 * 8.55e8) - 1) < 0.01);
  assert.ok(Math.abs(cost - 4 * seed.price * seconds / 3600) < 1e-9 && Math.abs(ratio - 80) < 1);
});

test("twice the GPUs take half the time for the same money, and share of the peak counts as much", () => {
  const [once, twice, faster] = [seed, {...seed, gpus: 8}, {...seed, mfu: 0.76}].map(run => plan(run, vocab_size));
  assert.ok(Math.abs(once.seconds / twice.seconds - 2) < 1e-9 && Math.abs(once.cost - twice.cost) < 1e-9);
  assert.ok(Math.abs(once.seconds / faster.seconds - 2) < 1e-9 && Math.abs(once.cost / faster.cost - 2) < 1e-9);
});

test("every run to begin with can be counted, and its GPU is known", () => {
  for (const run of runs) {
    const found = plan(full(run), vocab_size);
    for (const x of [found.N, found.seconds, found.cost, found.bytes, found.ratio]) assert.ok(Number.isFinite(x) && x > 0, run.name);
    assert.ok(run.width % 64 === 0 && Math.log2(run.context) % 1 === 0);
  }
  assert.ok(gpus.every(({peak, memory, price}) => peak > 10 && memory >= 16 && price > 0));
});

test("the scale says on which side of 20 tokens per parameter a run lies", () => {
  const {N} = plan(seed, vocab_size), say = ratio => chinchilla(plan({...seed, tokens: ratio * N}, vocab_size));
  assert.match(say(80), /^80 tokens per parameter, 4 times Chinchilla's 20: .*spent best on 2\d\dM parameters and 5\.\d*B tokens\.$/);
  assert.match(say(2), /^2 tokens per parameter, 10 times fewer .* too large for so little text/);
  assert.match(say(20), /^20 tokens per parameter: about Chinchilla's 20/);
  const {best, work} = plan(seed, vocab_size);
  assert.ok(Math.abs(best.tokens / best.parameters - 20) < 1e-9 && Math.abs(6 * best.tokens * best.parameters / work - 1) < 1e-9);
});

test("what does not fit is told apart", () => {
  const say = by => { const run = {...seed, ...by}; return verdict(plan(run, vocab_size), run); };
  assert.match(say({batch: 1}), /of the 80 GB of one H100: it fits\.$/);
  assert.match(say({batch: 1024}), /take a smaller micro-batch/);
  assert.match(say({layers: 48, width: 4096, batch: 1}), /weights, gradients and optimizer alone are .* GB: .*shared out/);
});

test("numbers are written in three digits", () => {
  assert.deepEqual([0, 1, 80.31, 999, 999.6, 1234, 124475904, 9.996e9, 8.6e18].map(human), ["0", "1", "80.3", "999", "1k", "1.23k", "124M", "10B", "8,600,000T"]);
  assert.deepEqual([0.5, 1, 60, 100, 5720, 200000, 3e9].map(duration), ["0.5 seconds", "1 second", "60 seconds", "1.7 minutes", "1.6 hours", "2.3 days", "95 years"]);
  assert.equal(duration(2e13), "634k years");
  assert.deepEqual([0, 52.4e6, 498e6, 1.99e9, 12.34e9, 240e9, 3.73e12].map(bytes), ["0 MB", "52.4 MB", "0.50 GB", "1.99 GB", "12.3 GB", "240 GB", "3.73 TB"]);
  assert.deepEqual([0, 15.888, 1234.5, 2.5e6].map(money), ["$0.00", "$15.89", "$1,235", "$2.5M"]);
});
