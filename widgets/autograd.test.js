import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import test from "node:test";
import {backward, backwardLines, computed, definition, forward, forwardLine, layout, names, reading, spread} from "./autograd.js";

const {expressions} = JSON.parse(readFileSync(new URL("autograd.json", import.meta.url), "utf8"));

/** An expression from rows [label, data] for leaves and [label, op, inputs, power] for the rest. */
function expression(...rows) {
  const nodes = rows.map(([label, what, inputs = [], power], id) => typeof what === "number"
    ? {id, label, op: "", inputs: [], data: what, const: false} : {id, label, op: what, inputs, power, const: false});
  return {title: "test", nodes, output: nodes.length - 1, order: nodes.map(node => node.id)};
}

const near = (a, b, tolerance, what) => assert.ok(Math.abs(a - b) <= tolerance * Math.max(1, Math.abs(b)), `${what}: ${a} is not ${b}`);

for (const shown of expressions) test(`agrees with the Python engine: ${shown.title}`, () => {
  const data = forward(shown);
  const {grad} = backward(shown, data);
  assert.ok(computed(shown).length >= 3);
  for (const {id, label, ...node} of shown.nodes) {
    near(data[id], node.data, 1e-9, `data of ${id} ${label}`);
    near(grad[id], node.grad, 1e-9, `grad of ${id} ${label}`);
  }
});

const single = [["+", 2], ["-", 2], ["-", 1], ["*", 2], ["/", 2], ["tanh", 1], ["relu", 1], ["exp", 1], ["log", 1], ["**", 1, 3], ["**k", 1, -1.5]];
for (const [op, arity, power] of single) test(`${op} with ${arity} inputs agrees with central differences`, () => {
  const made = expression(["a", 0.7], ["b", 1.9], ["y", op, arity === 2 ? [0, 1] : [0], power], ["z", "tanh", [2]]);
  const {grad} = backward(made, forward(made));
  for (const leaf of [0, 1]) {
    const at = moved => forward(made, {[leaf]: made.nodes[leaf].data + moved})[3];
    near(grad[leaf], (at(1e-6) - at(-1e-6)) / 2e-6, 1e-7, `slope of input ${leaf}`);
  }
});

test("relu stops the gradient where its input is negative", () => {
  const made = expression(["a", -2], ["y", "relu", [0]]);
  assert.deepEqual(backward(made, forward(made)).grad, [0, 1]);
});

test("a value used twice in one sum gets += twice", () => {
  const made = expression(["a", 3], ["b", "+", [0, 0]]);
  const {grad, visits} = backward(made, forward(made));
  assert.equal(grad[0], 2);
  assert.deepEqual(backwardLines(made, visits[1], grad), [
    {code: "a.grad += 1 * b.grad", numbers: "= 1 × 1 = 1 (now 1.000)"},
    {code: "a.grad += 1 * b.grad", numbers: "= 1 × 1 = 1 (now 2.000)"},
  ]);
});

test("the chain rule in code and in numbers", () => {
  const made = expression(["a", 2], ["b", -3], ["e", "*", [0, 1]], ["c", -2], ["L", "*", [2, 3]]);
  const data = forward(made);
  const {grad, visits} = backward(made, data);
  assert.equal(definition(made, 2), "e = a * b");
  assert.deepEqual(forwardLine(made, 2, data), {code: "e = a * b", numbers: "= 2 × (−3) = −6"});
  assert.deepEqual(backwardLines(made, visits[2], grad), [
    {code: "a.grad += b.data * e.grad", numbers: "= −3 × (−2) = 6 (now 6.000)"},
    {code: "b.grad += a.data * e.grad", numbers: "= 2 × (−2) = −4 (now −4.000)"},
  ]);
});

test("the backward pass goes from the output to the inputs, one node a step", () => {
  const made = expression(["a", 2], ["b", 5], ["s", "+", [0, 1]], ["p", "*", [0, 1]], ["d", "*", [2, 3]]);
  const data = forward(made);
  assert.deepEqual(backward(made, data).visits.map(visit => visit.id), [4, 4, 3, 2]);
  assert.deepEqual(backward(made, data, 0).grad, [0, 0, 0, 0, 0]);
  assert.deepEqual(backward(made, data, 1).grad, [0, 0, 0, 0, 1]);
  assert.deepEqual(backward(made, data, 2).grad, [0, 0, 10, 7, 1]);
  assert.deepEqual(backward(made, data, 3).grad, [35, 14, 10, 7, 1]);
  assert.deepEqual(backward(made, data, 4).grad, [45, 24, 10, 7, 1]);
});

test("a leaf that moves carries everything with it", () => {
  const made = expression(["a", 2], ["b", 5], ["p", "*", [0, 1]]);
  assert.deepEqual(forward(made, {0: 0}), [0, 5, 0]);
  assert.equal(made.nodes[0].data, 2);
});

test("values without a label get names, constants are their number, sums get parentheses", () => {
  const made = expression(["x", 2], ["", 3], ["x*3", "*", [0, 1]], ["", "tanh", [2]], ["", "exp", [3]]);
  made.nodes[1].const = true;
  assert.deepEqual(names(made), ["x", "3", "(x*3)", "n1", "out"]);
  const {grad, visits} = backward(made, forward(made));
  assert.equal(backwardLines(made, visits.at(-1), grad)[0].code, "x.grad += 3 * (x*3).grad");
  assert.equal(definition(made, 4), "out = exp(n1)");
});

test("leaves are listed as the formula is read, whatever the order of computation", () => {
  const made = expression(["b", 1], ["w", 2], ["x", 3], ["", "*", [2, 1]], ["", "+", [3, 0]]);
  assert.deepEqual(reading(made), [2, 1, 3, 0, 4]);
});

test("an unknown operation is named", () => {
  assert.throws(() => forward(expression(["a", 1], ["b", "sin", [0]])), /node 1 has the operation "sin"; known are \+/);
});

test("places are kept apart and moved as little as possible", () => {
  assert.deepEqual(spread([0, 10, 20], [5, 5]), [0, 10, 20]);
  assert.deepEqual(spread([10, 10], [4]), [8, 12]);
  assert.deepEqual(spread([0, 10, 10, 7], [1, 4, 4]), [0, 5, 9, 13]);
});

for (const shown of [...expressions, expression(["a", 1], ["b", 2], ["s", "+", [0, 1]], ["p", "*", [0, 1]], ["d", "*", [2, 3]]), expression(["a", 1], ["b", "exp", [0]], ["c", "exp", [1]], ["d", "+", [0, 2]])])
  test(`the drawing of ${shown.title} has inputs before results and no overlaps`, () => {
    const plan = layout(shown, 54, 18);
    for (const {id, inputs} of shown.nodes) for (const input of inputs) assert.ok(plan.layer[input] < plan.layer[id]);
    for (const a of shown.nodes) for (const b of shown.nodes)
      if (a.id < b.id && plan.layer[a.id] === plan.layer[b.id]) assert.ok(Math.abs(plan.across[a.id] - plan.across[b.id]) >= 72 - 1e-6, `${a.id} and ${b.id} overlap`);
    for (const across of plan.across) assert.ok(across >= 27 - 1e-6 && across <= plan.extent - 27 + 1e-6);
    assert.equal(plan.edges.length, shown.nodes.flatMap(node => node.inputs).length);
    for (const {from, to, via} of plan.edges) {
      assert.deepEqual(via.map(([layer]) => layer), Array.from({length: plan.layer[to] - plan.layer[from] - 1}, (_, i) => plan.layer[from] + 1 + i));
      for (const [layer, across] of via) for (const {id} of shown.nodes) // a long edge passes beside the boxes, not under them
        if (plan.layer[id] === layer) assert.ok(Math.abs(plan.across[id] - across) >= 27, `the edge ${from} to ${to} runs under ${id}`);
    }
  });
