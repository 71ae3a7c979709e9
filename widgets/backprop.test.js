import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";
import {agreement, five, reads, relations, shape, WORDS, worked} from "./backprop.js";

const data = JSON.parse(readFileSync(new URL("backprop.json", import.meta.url), "utf8"));
const names = data.nodes.map(node => node.name);
const node = name => data.nodes.find(each => each.name === name);

test("every tensor of the chapter has words, and no others do", () => {
  assert.equal(names.length, 27);
  assert.deepEqual(Object.keys(WORDS).sort(), [...names].sort());
  for (const text of Object.values(WORDS).flat()) assert.match(text, /\.$/);
});

test("a line of code reads what stands right of its =", () => {
  assert.deepEqual(reads("logits = h @ W2 + b2", names), ["h", "W2", "b2"]);
  assert.deepEqual(reads("bndiff2 = bndiff**2", names), ["bndiff"]);
  assert.deepEqual(reads("counts_sum = counts.sum(1, keepdim=True)", names), ["counts"]);
});

test("the graph is the network: one loss, six parameters and the table, and gradients flow along the order", () => {
  const {from, to} = relations(data);
  assert.deepEqual(names.filter(name => !to[name].length), ["loss"]);
  assert.deepEqual(names.filter(name => !from[name].length).sort(), ["C", "W1", "W2", "b1", "b2", "bnbias", "bngain"]);
  assert.deepEqual(names.filter(name => to[name].length === 2), ["counts", "logits", "bndiff", "hprebn"]);
  for (const name of names) for (const input of from[name]) {
    assert.ok(names.indexOf(name) < names.indexOf(input), `${name} comes before ${input}`);
  }
});

test("a backward line uses only gradients that are known by then", () => {
  data.nodes.slice(1).forEach(({backward}, i) => {
    assert.ok(backward.length);
    const known = names.slice(0, i + 2).map(name => `d${name}`);
    for (const line of backward) for (const word of line.match(/\bd[A-Za-z]\w*/g)) assert.ok(known.includes(word), `${word} in ${line}`);
  });
});

test("the worked entries come out at the chapter's numbers", () => {
  for (const {name, entry} of data.nodes.slice(1)) {
    const sum = entry.how + (entry.rest === null ? "" : ` + (${entry.rest})`);
    const value = new Function(`return ${sum.replace(/-\((.*?)\*\*-2\)/, "-1 / $1**2")}`)();
    const size = Math.max(...sum.match(/[\d.]+(e-?\d+)?/g).map(Number).filter(x => x < 1), Math.abs(entry.value));
    assert.ok(Math.abs(value - entry.value) <= 2e-4 * Math.max(Math.abs(entry.value), entry.rest === null ? 0 : size), `${name}: ${sum} is ${value}, not ${entry.value}`);
  }
});

test("only negative numbers stand in brackets", () => {
  for (const {name, entry} of data.nodes.slice(1)) {
    for (const [, inside] of entry.how.matchAll(/(?<![\w)])\(([-\d.e]+)\)/g)) assert.ok(inside.startsWith("-"), `${name}: ${entry.how}`);
  }
});

test("an entry in words", () => {
  assert.equal(worked("probs", {where: "[0, 3]", how: "(-0.03125) / 0.5", rest: null, value: -0.0625}), "dprobs[0, 3] = (-0.03125) / 0.5 = -0.0625");
  assert.equal(worked("b2", {where: "[3]", how: "(-0.5)", rest: "0.25", value: -0.25}), "db2[3] = (-0.5) + 0.25 = -0.25");
  assert.equal(worked("b2", {where: "[3]", how: "0.5", rest: "-0.25", value: 0.25}), "db2[3] = 0.5 + (-0.25) = 0.25");
  assert.equal(worked("emb", {where: "[0, 0, 0]", how: "(-0.5)", rest: null, value: -0.5}), "demb[0, 0, 0] = (-0.5)");
  assert.equal(worked("h", node("h").entry).startsWith("dh[0, 0] = "), true);
});

test("shapes and numbers are written as Python writes them", () => {
  assert.deepEqual([[32, 27], [27], [32, 3, 10]].map(shape), ["(32, 27)", "(27,)", "(32, 3, 10)"]);
  assert.deepEqual([0.123456789, -2.5, 0, 1e-9].map(five), ["0.12346", "-2.5", "0", "1e-9"]);
  assert.match(agreement(0), /last bit/);
  assert.match(agreement(9.3e-10), /about 9e-10 where it differs most/);
});
