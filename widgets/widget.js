// What the interactive figures share: making elements, writing numbers, and taking the place of the still picture.

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** An HTML element. Attributes whose names begin with "on" are listeners. */
export const h = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/** An SVG element. */
export const s = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const sign = text => text.replace("-", "\u2212");

/** Four significant digits in at most six characters, so that numbers which change do not jump. */
export function fixed(x) {
  if (Number.isNaN(x)) return "nan";
  const size = Math.abs(x);
  if (size === Infinity) return sign(x < 0 ? "-inf" : "inf");
  if (size >= 99999.5) return sign(x.toExponential(0).replace("+", ""));
  return sign((x || 0).toFixed(size >= 999.95 ? 0 : size >= 99.995 ? 1 : size >= 9.9995 ? 2 : 3));
}

/** The same number for a sentence: no trailing zeros, and small ones keep their digits. */
export function short(x) {
  if (x !== 0 && Math.abs(x) < 0.0005) return power(x, 1);
  const text = fixed(x);
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

/** "4.1 × 10⁻⁷" */
export function power(x, digits) {
  if (x === 0) return "0";
  const [mantissa, exponent] = x.toExponential(digits).split("e");
  const raised = String(Number(exponent)).replace("-", "\u207b").replace(/\d/g, d => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]);
  return `${sign(mantissa)} × 10${raised}`;
}

/** Two digits after the point, with a true minus sign. */
export function two(x) {
  if (x === -Infinity) return "−∞";
  const text = x.toFixed(2);
  return sign(Number(text) === 0 ? "0.00" : text);
}

/** A sentence as the parts of an element, the number after each "^" raised. */
export const raised = text => text.split(/\^([−∞\d.]+)/).map((piece, n) => n % 2 ? h("sup", {}, piece) : piece);

/** mulberry32: a seeded generator of numbers in [0, 1). */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The index that the uniform number `u` falls on when the probabilities are laid end to end. */
export function draw(distribution, u) {
  let index = -1;
  for (const [i, p] of distribution.entries()) {
    if (!p) continue;
    index = i;
    if ((u -= p) < 0) break; // rounding may leave a crumb beyond the last one; the last possible index takes it
  }
  if (index < 0) throw new Error("all probabilities are zero, so there is nothing to draw");
  return index;
}

/** Does the reader ask for stillness? Then runs jump to their end. */
export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Makes `button` play and pause: `go(n)` shows step n, `at()` and `last()` tell the present step and the last one, `pace`
 * the milliseconds between two. Returns what stops it. Who wants stillness sees the end at once. */
export function player(button, {at, last, go, pace}) {
  let timer = null;
  const stop = () => {
    clearTimeout(timer);
    timer = null;
    button.textContent = "Play";
  };
  const tick = () => {
    go(at() + 1);
    timer = at() < last() ? setTimeout(tick, pace) : null;
    button.textContent = timer ? "Pause" : "Play";
  };
  button.addEventListener("click", () => {
    if (timer) return stop();
    if (calm()) return go(last());
    if (at() === last()) go(0);
    tick();
  });
  return stop;
}

/** Mount a widget in every place that waits for it. Where something cannot be loaded the still picture stays. */
export async function start(name, mount) {
  if (!globalThis.document) return; // the tests run without a page
  const places = document.querySelectorAll(`[data-widget="${name}"]`);
  const link = h("link", {rel: "stylesheet", href: new URL("widget.css", import.meta.url)});
  const styled = new Promise((resolve, reject) => {
    link.onload = resolve;
    link.onerror = () => reject(new Error("widget.css did not load"));
  });
  document.head.append(link);
  try {
    const response = await fetch(new URL(`${name}.json`, import.meta.url));
    if (!response.ok) throw new Error(`${response.url} answered ${response.status}`);
    const data = await response.json();
    await styled;
    for (const place of places) mount(place, data);
  } catch (error) {
    console.warn(`The ${name} figure stays a picture: ${error.message}`);
  }
}
