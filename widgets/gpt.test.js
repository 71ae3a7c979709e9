import assert from "node:assert/strict";
import {createHash} from "node:crypto";
import {readFileSync} from "node:fs";
import test from "node:test";
import {ACTIVATIONS, begin, distribution, encode, erf, feed, halves, linear, load, normalise, read, reader, rotate, softmax} from "./gpt.js";
import {draw, random} from "./widget.js";

const data = JSON.parse(readFileSync(new URL("shakespeare.json", import.meta.url), "utf8"));
const file = readFileSync(new URL("shakespeare.bin", import.meta.url));
const buffer = file.buffer.slice(file.byteOffset, file.byteOffset + file.length);
const model = load(data, buffer);
const near = (a, b, tolerance = 1e-9) => assert.ok(Math.abs(a - b) <= tolerance, `${a} is not ${b}`);
const finish = run => { for (let step = run.next(); ; step = run.next()) if (step.done) return step.value; };

test("the weights are the ones that were described, and small", () => {
  assert.equal(createHash("sha256").update(file).digest("hex"), data.sha256);
  assert.equal(file.length, data.bytes);
  assert.ok(file.length < 1.5e6);
  assert.equal(model.symbols.length * model.n_embd, model.wte.length);
  assert.throws(() => load(data, buffer.slice(0, -2)), /bytes, but .* ends at/);
  assert.throws(() => load({...data, tensors: data.tensors.slice(0, -1)}, buffer), /bytes instead of/);
});

test("half precision by hand", () => {
  const bits = Uint16Array.from([0x3c00, 0xc000, 0x0001, 0x7bff, 0xfc00, 0x3555]);
  assert.deepEqual([...halves(bits.buffer, 0, 6)], [1, -2, 2 ** -24, 65504, -Infinity, Math.fround(0.333251953125)]);
  assert.deepEqual([...halves(bits.buffer, 2, 1)], [-2]);
});

test("the logits are Python's at every position, within 0.001", () => {
  assert.ok(data.checks.length >= 4);
  for (const {prompt, logits} of data.checks) {
    const ids = encode(model, prompt).slice(-model.block_size), found = read(model, ids);
    logits.forEach((row, i) => row.forEach((z, j) => near(found.at(i - logits.length).logits[j], z, 1e-3)));
  }
});

test("what was kept changes nothing, and a full context slides", () => {
  const long = data.checks.at(-1).prompt, thinker = reader(model), T = model.block_size;
  assert.ok(long.length > T, "the last check is longer than the context");
  const ids = encode(model, long);
  for (const length of [1, 2, 7, 40, T - 1, T, T + 1, T + 2, 12]) {
    const kept = finish(thinker.think(ids.slice(0, length)));
    const anew = read(model, ids.slice(0, length).slice(-T)).at(-1).logits;
    anew.forEach((z, i) => near(kept[i], z, 1e-6));
  }
  const work = run => { let n = 0; for (const _ of run) n++; return n; };
  assert.deepEqual([work(thinker.think(ids.slice(0, 13))), work(thinker.think(ids.slice(0, 13))), work(thinker.think(ids.slice(1, 13)))], [1, 0, 12]);
  const cache = begin(model);
  for (const id of ids.slice(0, T)) feed(model, cache, id);
  assert.throws(() => feed(model, cache, 0), /context of \d+ characters is full/);
});

test("attention is a distribution over the past, and the future changes nothing before it", () => {
  const one = read(model, encode(model, "To be")), two = read(model, encode(model, "To me"));
  one.forEach(({maps}, t) => maps.flat().forEach(weights => {
    assert.equal(weights.length, t + 1);
    near(weights.reduce((a, b) => a + b, 0), 1);
  }));
  assert.equal(one[0].maps.flat().length, model.n_layer * model.n_head);
  assert.deepEqual(one[2].logits, two[2].logits);
  assert.notDeepEqual(one[3].logits, two[3].logits);
});

test("the pieces by hand", () => {
  assert.deepEqual([...linear(Float32Array.of(1, 2), [1, 10, 3, 4, 0, -1])], [21, 11, -2]);
  const normal = normalise(Float32Array.of(1, 3), [1, 2]);
  near(normal[0], -1, 1e-4);
  near(normal[1], 2, 1e-4);
  assert.deepEqual([0, 1, -1, 3].map(ACTIVATIONS.relu2), [0, 1, 0, 9]);
  near(erf(0.5), 0.5204998778, 2e-7);
  near(ACTIVATIONS.gelu(1), 0.8413447461, 2e-7);
  near(ACTIVATIONS.gelu(-2), -0.0455002639, 4e-7);
  near(ACTIVATIONS.gelu_tanh(1), 0.8411919906);
  near(softmax([0, Math.log(3)])[1], 0.75);
});

test("rotary positions turn pairs, and a score depends on the distance only", () => {
  const turned = rotate(Float64Array.of(1, 0, 0, 1), 2, 1); // pairs (1, 0) and (0, 1), by 2 and 0.02 radians
  [Math.cos(2), -Math.sin(0.02), Math.sin(2), Math.cos(0.02)].forEach((x, i) => near(turned[i], x));
  const q = Float64Array.of(0.3, -1, 2, 0.7, 1, 1, -0.2, 0.4), k = Float64Array.of(1, 0.5, -1, 2, 0.1, -0.6, 1, 1);
  const score = (t, s) => { const a = rotate(q.slice(), t, 2), b = rotate(k.slice(), s, 2); return a.reduce((sum, x, i) => sum + x * b[i], 0); };
  near(score(9, 4), score(5, 0));
  assert.ok(Math.abs(score(5, 0) - score(5, 1)) > 0.01);
});

test("learned positions are added, and every activation runs", () => {
  const config = {block_size: 4, n_layer: 1, n_head: 1, n_embd: 2, positions: "learned", activation: "gelu"};
  const shapes = {wte: [2, 2], wpe: [4, 2], "h.0.ln_1": [2], "h.0.attn.c_attn": [6, 2], "h.0.attn.c_proj": [2, 2], "h.0.ln_2": [2], "h.0.mlp.c_fc": [8, 2], "h.0.mlp.c_proj": [2, 8], ln_f: [2]};
  let offset = 0;
  const tensors = Object.entries(shapes).map(([name, shape]) => {
    const at = offset;
    offset += 2 * shape.reduce((a, b) => a * b, 1);
    return {name: `transformer.${name}.weight`, shape, offset: at};
  });
  const bits = Uint16Array.from({length: offset / 2}, (_, i) => 0x3000 + 977 * i % 2048); // numbers between 0.125 and 0.5
  for (const activation of Object.keys(ACTIVATIONS)) {
    const tiny = load({config: {...config, activation}, characters: "ab", tensors}, bits.buffer);
    const [first, second] = read(tiny, [1, 1]);
    assert.notDeepEqual(first.logits, second.logits, "the same character at another position");
    for (const {logits} of [first, second]) assert.ok(logits.length === 2 && logits.every(Number.isFinite));
    const rotary = {...tiny, positions: "rotary"};
    assert.deepEqual(read(rotary, [1, 1])[0].logits, read(rotary, [1, 1])[1].logits, "equal values mix to themselves");
  }
});

test("temperature and top-k", () => {
  const logits = Float32Array.of(1, 3, 2, -1, 0);
  assert.deepEqual([...distribution(logits, 0)], [0, 1, 0, 0, 0]);
  assert.deepEqual([...distribution(logits, 1)], [...softmax(logits)]);
  const [cold, plain, hot] = [0.5, 1, 2].map(temperature => distribution(logits, temperature));
  assert.ok(cold[1] > plain[1] && plain[1] > hot[1]);
  near(cold[1] / cold[2], Math.exp(2), 1e-6);
  const two = distribution(logits, 1, 2);
  assert.deepEqual([...two].map(p => p > 0), [false, true, true, false, false]);
  near(two[1] + two[2], 1);
  assert.deepEqual([...distribution(logits, 1, 1)], [0, 1, 0, 0, 0]);
  const drawn = seed => { const u = random(seed); return Array.from({length: 200}, () => draw(two, u())); };
  assert.deepEqual(drawn(3), drawn(3), "the same seed draws the same");
  assert.deepEqual([...new Set(drawn(3))].sort(), [1, 2]);
});

test("a character the model does not know is named", () => {
  assert.throws(() => encode(model, "ROMEO 3"), /'3' is not among the characters/);
  assert.deepEqual(encode(model, ""), []);
});
