// A deep random network in the browser: what the gain, the depth and BatchNorm do to what flows forward and back.
import {h, power, random, s, start} from "./widget.js";

// ------------------------------------------------------------ arithmetic

/** (n, k) times (k, m), row by row in flat arrays. */
function product(a, b, n, k, m) {
  const out = new Float64Array(n * m);
  for (let i = 0; i < n; i++) {
    for (let l = 0; l < k; l++) {
      const factor = a[i * k + l];
      if (factor) for (let j = 0, to = i * m, from = l * m; j < m; j++) out[to + j] += factor * b[from + j];
    }
  }
  return out;
}

/** (k, m) as (m, k). */
function transposed(b, k, m) {
  const out = new Float64Array(k * m);
  for (let l = 0; l < k; l++) for (let j = 0; j < m; j++) out[j * k + l] = b[l * m + j];
  return out;
}

const F = {
  tanh: {value: Math.tanh, slope: y => 1 - y * y},
  relu: {value: a => Math.max(0, a), slope: y => y > 0 ? 1 : 0},
  linear: {value: a => a, slope: () => 1},
};
const EPS = 1e-5;

/** Give every column of `a` (n, m) mean 0 and variance 1, in place; returns what the columns were divided by. */
function normalise(a, n, m) {
  const spread = new Float64Array(m);
  for (let j = 0; j < m; j++) {
    let mean = 0, variance = 0;
    for (let i = 0; i < n; i++) mean += a[i * m + j] / n;
    for (let i = 0; i < n; i++) variance += (a[i * m + j] - mean) ** 2 / n;
    spread[j] = Math.sqrt(variance + EPS);
    for (let i = 0; i < n; i++) a[i * m + j] = (a[i * m + j] - mean) / spread[j];
  }
  return spread;
}

/** The gradient of the input of `normalise`, from that of its output `y`; in place. */
function normaliseBackward(gradient, y, spread, n, m) {
  for (let j = 0; j < m; j++) {
    let mean = 0, along = 0;
    for (let i = j; i < n * m; i += m) { mean += gradient[i] / n; along += gradient[i] * y[i] / n; }
    for (let i = j; i < n * m; i += m) gradient[i] = (gradient[i] - mean - y[i] * along) / spread[j];
  }
}

/** One pass forward and one back. `x` (n, width), one number of a class per row in `answers`, `weights` of the hidden
 * layers (width, width), each multiplied by `scale`, and last those of the output (width, classes). Returns the outputs
 * of the hidden layers, the gradients of the cross-entropy with respect to them, and that loss. */
export function run({x, answers, weights, nonlinearity, norm, width, classes, scale = 1}) {
  const n = answers.length, f = F[nonlinearity], hidden = weights.slice(0, -1), last = weights.at(-1);
  const activations = [], normal = [], spreads = [];
  let flow = x;
  for (const weight of hidden) {
    const a = product(flow, weight, n, width, width).map(v => v * scale);
    if (norm) { spreads.push(normalise(a, n, width)); normal.push(a); }
    activations.push(flow = a.map(f.value));
  }
  const logits = product(flow, last, n, width, classes);
  let loss = 0;
  for (let i = 0; i < n; i++) {
    const row = logits.subarray(i * classes, (i + 1) * classes), most = Math.max(...row);
    const sum = row.reduce((total, v) => total + Math.exp(v - most), 0);
    loss += (Math.log(sum) + most - row[answers[i]]) / n;
    for (let j = 0; j < classes; j++) row[j] = (Math.exp(row[j] - most) / sum - (j === answers[i])) / n;
  }
  const gradients = [];
  let back = product(logits, transposed(last, width, classes), n, classes, width); // logits now holds their gradient
  for (let l = hidden.length - 1; l >= 0; l--) {
    gradients[l] = back;
    if (!l) break;
    back = back.map((v, i) => v * f.slope(activations[l][i]));
    if (norm) normaliseBackward(back, normal[l], spreads[l], n, width);
    back = product(back, transposed(hidden[l], width, width), n, width, width).map(v => v * scale);
  }
  return {activations, gradients, loss};
}

/** `count` normally distributed numbers (Box and Muller). */
export function normals(count, uniform) {
  return Float64Array.from({length: count}, () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}

export const WIDTH = 64, BATCH = 64, CLASSES = 27, DEEPEST = 10;

/** A random batch and the random weights of the deepest network, before any gain. */
export function draw(seed) {
  const uniform = random(seed);
  return {
    x: normals(BATCH * WIDTH, uniform),
    answers: Array.from({length: BATCH}, () => Math.floor(uniform() * CLASSES)),
    hidden: Array.from({length: DEEPEST}, () => normals(WIDTH * WIDTH, uniform)),
    last: normals(WIDTH * CLASSES, uniform).map(v => 0.1 * v / Math.sqrt(WIDTH)),
  };
}

// ------------------------------------------------------------ what to say of it

export function statistics(values) {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const std = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length);
  return {mean, std, saturated: share(values, v => Math.abs(v) > 0.97), zeros: share(values, v => v === 0)};
}

const share = (values, test) => values.reduce((count, v) => count + test(v), 0) / values.length;

/** How many of the `values` fall into each of `bins` equal parts of [-limit, limit]; what is beyond counts at the ends. */
export function histogram(values, limit, bins) {
  const counts = new Array(bins).fill(0);
  for (const v of values) counts[Math.min(bins - 1, Math.max(0, Math.floor((v / limit + 1) / 2 * bins)))]++;
  return counts;
}

/** What a reader should see in the statistics of all layers. */
export function verdict(activations, gradients, nonlinearity) {
  const forward = activations.at(-1).std / activations[0].std, back = gradients[0].std / gradients.at(-1).std;
  const jammed = nonlinearity === "tanh" && activations.reduce((sum, a) => sum + a.saturated, 0) / activations.length > 0.3;
  const said = [];
  if (!(forward > 1 / 3)) said.push("The signal fades on its way forward.");
  if (forward > 3) said.push("The signal grows on its way forward.");
  if (jammed) said.push("Too many units are saturated.");
  if (!(back > 1 / 3)) said.push("The gradient fades on its way back.");
  if (back > 3) said.push("The gradient grows on its way back.");
  return said.join(" ") || "Healthy: both ways are open.";
}

// ------------------------------------------------------------ the widget

const BINS = 41, TALL = 32; // of one histogram, in its own units
const NAMES = {tanh: "tanh", relu: "ReLU", linear: "none (linear)"};
const GAINS = {tanh: "5/3", relu: "√2", linear: "1"};
const percent = p => `${Math.round(100 * p)} %`;

/** Two digits are enough for a standard deviation. */
export const two = x => x === 0 ? "0" : x >= 9950 || x < 0.0095 ? power(x, 1) : x >= 99.5 ? String(Number(x.toPrecision(2))) : x.toPrecision(2);

/** Put the figure into `element`. `data.gains` holds the customary gain of each nonlinearity. */
export function mount(element, data) {
  let seed = 1, drawn = draw(seed);

  const slider = (min, max, step, value) => h("input", {type: "range", min, max, step, value, oninput: update});
  const gain = slider(0.1, 4, 0.01, 1), depth = slider(2, DEEPEST, 1, 5);
  const gainText = h("output", {}), depthText = h("output", {});
  const kind = h("select", {onchange: update}, ...Object.entries(NAMES).map(([value, text]) => h("option", {value}, text)));
  const norm = h("input", {type: "checkbox", onchange: update});
  const button = (text, onclick) => h("button", {type: "button", onclick}, text);
  const advised = button("", () => { gain.value = data.gains[kind.value]; update(); });
  const again = button("New draw", () => { drawn = draw(++seed); update(); });
  const words = h("p", {class: "zhw-bn-verdict", role: "status"});

  const histogramOf = what => {
    const path = s("path", {class: `zhw-bn-hist-${what}`});
    return {path, text: h("small", {}), svg: s("svg", {class: "zhw-bn-hist", viewBox: `0 0 ${BINS} ${TALL}`, preserveAspectRatio: "none", role: "img"}, path)};
  };
  const rows = Array.from({length: DEEPEST}, (_, i) => {
    const forward = histogramOf("data"), back = histogramOf("grad");
    const sides = [forward, back].map(side => h("div", {class: "zhw-bn-cell"}, side.svg, side.text));
    return {forward, back, line: h("div", {class: "zhw-bn-layer"}, h("span", {}, String(i + 1)), ...sides)};
  });
  const heads = ["Activations", "Gradients"].map(title => ({title, range: h("small", {})}));
  const head = h("div", {class: "zhw-bn-layer zhw-bn-head"}, h("span", {}, "Layer"), ...heads.map(({title, range}) => h("div", {}, h("b", {}, title), " ", range)));

  element.replaceChildren(h("div", {class: "zhw"},
    h("div", {class: "zhw-bar"}, h("label", {}, "Nonlinearity", kind), h("label", {class: "zhw-bn-check"}, norm, "BatchNorm"), h("div", {class: "zhw-buttons"}, again, advised)),
    h("div", {class: "zhw-sliders zhw-bn-sliders"}, h("label", {}, h("span", {class: "zhw-name"}, "Gain"), gain, gainText), h("label", {}, h("span", {class: "zhw-name"}, "Depth"), depth, depthText)),
    words, head, ...rows.map(({line}) => line)));

  function shape(side, values, limit, what, says) {
    const counts = histogram(values, limit, BINS), most = Math.max(...counts);
    side.path.setAttribute("d", `M0 ${TALL}${counts.map((count, i) => `V${(TALL * (1 - count / most)).toFixed(2)}H${i + 1}`).join("")}V${TALL}Z`);
    side.text.textContent = says;
    side.svg.setAttribute("aria-label", `${what}: ${says}`);
  }

  function update() {
    const nonlinearity = kind.value, layers = Number(depth.value), limit = nonlinearity === "tanh" ? 1 : 3;
    const {activations, gradients} = run({...drawn, nonlinearity, norm: norm.checked, width: WIDTH, classes: CLASSES,
      weights: [...drawn.hidden.slice(0, layers), drawn.last], scale: Number(gain.value) / Math.sqrt(WIDTH)});
    const forward = activations.map(statistics), back = gradients.map(statistics), unit = back.at(-1).std || 1;
    rows.forEach((row, i) => {
      row.line.hidden = i >= layers;
      if (row.line.hidden) return;
      const {std, saturated, zeros} = forward[i];
      const more = {tanh: `, ${percent(saturated)} saturated`, relu: `, ${percent(zeros)} zero`, linear: ""}[nonlinearity];
      shape(row.forward, activations[i], limit, `Activations of layer ${i + 1}`, `std ${two(std)}${more}`);
      shape(row.back, gradients[i], 4 * unit, `Gradients of layer ${i + 1}`, `std ${two(back[i].std / unit)}`);
    });
    heads[0].range.textContent = `−${limit} to ${limit}`;
    heads[1].range.textContent = "last layer's std = 1";
    gainText.textContent = Number(gain.value).toFixed(2);
    depthText.textContent = layers;
    advised.textContent = `Gain ${GAINS[nonlinearity]}`;
    advised.setAttribute("aria-label", `Set the gain to ${GAINS[nonlinearity]}, customary for this nonlinearity`);
    words.textContent = verdict(forward, back, nonlinearity);
  }

  update();
}

start("batchnorm", mount);
