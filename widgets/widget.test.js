import assert from "node:assert/strict";
import test from "node:test";
import {draw, fixed, power, random, short} from "./widget.js";

test("numbers in boxes keep to six characters and four significant digits", () => {
  const cases = {2: "2.000", "-0.5": "−0.500", 9.9996: "10.00", 12.3456: "12.35", 99.996: "100.0", "-123.456": "−123.5", 999.97: "1000", 12345.6: "12346", 250000: "3e5", 0: "0.000"};
  for (const [x, text] of Object.entries(cases)) assert.equal(fixed(Number(x)), text);
  assert.equal(fixed(-0), "0.000");
  assert.equal(fixed(NaN), "nan");
  assert.equal(fixed(-Infinity), "−inf");
  for (let x = 1e-9; x < 1e9; x *= 1.37) assert.ok(fixed(-x).length <= 7, fixed(-x));
});

test("numbers in sentences drop zeros that say nothing", () => {
  const cases = {2: "2", "-0.5": "−0.5", 100: "100", 0: "0", 1.2345: "1.234", 0.00012: "1.2 × 10⁻⁴", "-0.00001": "−1.0 × 10⁻⁵"};
  for (const [x, text] of Object.entries(cases)) assert.equal(short(Number(x)), text);
});

test("powers of ten", () => {
  assert.equal(power(4.14e-7, 1), "4.1 × 10⁻⁷");
  assert.equal(power(0, 1), "0");
});

test("a draw falls where the uniform number points", () => {
  const p = [0, 0.25, 0, 0.75, 0];
  for (const [u, index] of [[0, 1], [0.2499, 1], [0.25, 3], [0.99999999, 3], [1, 3]]) assert.equal(draw(p, u), index);
  assert.throws(() => draw([0, 0], 0.5), /nothing to draw/);
});

test("the generator is mulberry32", () => {
  const next = random(1);
  assert.deepEqual([next(), next(), next()], [0.6270739405881613, 0.002735721180215478, 0.5274470399599522]);
});
