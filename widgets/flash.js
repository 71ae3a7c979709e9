// Flash attention, tile by tile: a running maximum, a running sum and an output are all that is kept of the scores.
import {h, player, power, raised, start, two} from "./widget.js";

// ------------------------------------------------------------ arithmetic

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const range = (from, to) => Array.from({length: Math.max(0, to - from)}, (_, i) => from + i);

/** Causal softmax attention as usual, from the whole matrix of scores: one row of outputs per query. */
export function ordinary({q, k, v}) {
  return q.map((a, t) => {
    const scores = range(0, t + 1).map(s => dot(a, k[s]) / Math.sqrt(a.length)), most = Math.max(...scores);
    const weights = scores.map(x => Math.exp(x - most)), sum = weights.reduce((a, b) => a + b, 0);
    return v[0].map((_, d) => weights.reduce((total, w, s) => total + w * v[s][d], 0) / sum);
  });
}

/** Everything that happens, one step after another, with tiles of `rows` queries and `columns` keys. Each tile takes three
 * steps, "scores", "maximum" and "add", and its queries end with "divide". A step holds what is known after it. */
export function walk({q, k, v}, rows, columns) {
  const T = q.length, D = q[0].length, steps = [], output = [];
  for (let i = 0; i < T; i += rows) {
    const queries = range(i, Math.min(i + rows, T));
    let max = queries.map(() => -Infinity), sum = queries.map(() => 0), mixed = queries.map(() => v[0].map(() => 0));
    for (let j = 0; j < Math.min(i + rows, T); j += columns) {
      const keys = range(j, Math.min(j + columns, T)), tile = {i, j, queries, keys, first: j === 0, old: {max, sum, mixed}, output: [...output]};
      const scores = queries.map(t => keys.map(s => s > t ? -Infinity : dot(q[t], k[s]) / Math.sqrt(D)));
      steps.push({...tile, kind: "scores", scores, max, sum, mixed});
      const most = scores.map((row, n) => Math.max(max[n], ...row)), factor = most.map((x, n) => Math.exp(max[n] - x));
      const grew = most.map((x, n) => x > max[n]);
      const scaled = {sum: sum.map((x, n) => factor[n] * x), mixed: mixed.map((row, n) => row.map(x => factor[n] * x))};
      steps.push({...tile, kind: "maximum", scores, factor, grew, max: most, ...scaled});
      const weights = scores.map((row, n) => row.map(x => Math.exp(x - most[n])));
      max = most;
      sum = weights.map((row, n) => scaled.sum[n] + row.reduce((a, b) => a + b, 0));
      mixed = weights.map((row, n) => scaled.mixed[n].map((x, d) => x + row.reduce((total, w, s) => total + w * v[keys[s]][d], 0)));
      steps.push({...tile, kind: "add", scores, weights, factor, grew, scaled, max, sum, mixed});
    }
    mixed.forEach((row, n) => output.push(row.map(x => x / sum[n])));
    steps.push({kind: "divide", i, queries, keys: [], max, sum, mixed, output: [...output], last: output.length === T});
  }
  return steps;
}

/** How many numbers besides q, k, v are held at once: a tile of scores, and a maximum, a sum and D outputs for each of its queries. */
export const held = (rows, columns, D) => rows * columns + rows * (2 + D);

/** Tiles that are visited, and those that lie in the future as a whole. */
export function tiles(T, rows, columns) {
  const all = Math.ceil(T / rows) * Math.ceil(T / columns);
  const visited = range(0, Math.ceil(T / rows)).reduce((sum, n) => sum + Math.ceil(Math.min((n + 1) * rows, T) / columns), 0);
  return {visited, skipped: all - visited};
}

export const difference = (a, b) => Math.max(...a.flatMap((row, t) => row.map((x, d) => Math.abs(x - b[t][d]))));

// ------------------------------------------------------------ saying it

const factor = x => x < 0 ? `(${two(x)})` : two(x);
const pair = row => `(${row.map(two).join(",\u00a0")})`;
const places = list => list.length === 1 ? `${list[0] + 1}` : `${list[0] + 1} to ${list.at(-1) + 1}`;
const counted = (list, one, many) => `${list.length === 1 ? one : many} ${places(list)}`;

/** Of many terms the first and the last. */
const shortened = terms => terms.length > 2 ? [terms[0], "…", terms.at(-1)] : terms;

/** Does this row get a larger maximum, so that what was summed before must be made smaller? */
export const rescales = (step, n) => step.kind === "maximum" && !step.first && step.grew[n];

/** What happens in a step, in a line. */
export function headline(step) {
  if (!step) return "Nothing is computed yet. Press Next: the tile that is framed comes first.";
  const done = counted(step.queries, "Query", "Queries"), where = `${done}, ${counted(step.keys, "key", "keys")}`;
  if (step.kind === "scores") return `${where}: the scores of one tile`;
  if (step.kind === "maximum") {
    if (step.first) return `${where}: the first maximum of each row`;
    return step.grew.some(Boolean) ? `${where}: a larger score, so what was summed so far is made smaller` : `${where}: no larger score, so nothing changes`;
  }
  if (step.kind === "add") return `${where}: weights are added to the sum, weighted values to the output`;
  return `${done}: output divided by sum. ${step.queries.length === 1 ? "This row is" : "These rows are"} done`;
}

/** The sums behind a step, for the n-th query of its tile. */
export function reason(step, n, {words, q, k, v}) {
  if (!step) return ["Three things will be kept for each query: the largest score so far, the sum of the weights, and the weighted sum of the values."];
  const t = step.queries[n], name = `'${words[t]}'`, D = q[0].length;
  const seen = step.keys.map((s, c) => ({s, c})).filter(({s}) => s <= t);
  if (step.kind !== "divide" && !seen.length) return [`${name} comes before ${step.keys.length === 1 ? "this key" : "all these keys"}: its scores here are −∞, and this tile changes nothing for it.`];
  if (step.kind === "scores") {
    const spelled = shortened(seen.map(({s, c}) => `'${words[s]}': (${q[t].map((x, d) => `${two(x)} × ${factor(k[s][d])}`).join(" + ")}) / √${D} = ${two(step.scores[n][c])}`));
    return [`${name} looks at ${spelled.join("; ")}.`];
  }
  const was = step.old, max = step.max[n];
  if (step.kind === "maximum") {
    const best = `${name}: the largest score of this tile is ${two(Math.max(...step.scores[n]))}`;
    if (step.first) return [`${best}. It becomes the running maximum; nothing was summed before, so there is nothing to correct.`];
    if (!step.grew[n]) return [`${best}, no more than the running maximum ${two(max)}: sum and output stay as they are.`];
    return [`${best}, above the running maximum ${two(was.max[n])}. All earlier weights were divided by e^${two(was.max[n])} instead of e^${two(max)}; one factor corrects them all.`,
    `Sum and output are multiplied by e^${two(was.max[n])} / e^${two(max)} = ${two(step.factor[n])}: sum ${two(was.sum[n])} → ${two(step.sum[n])}, output ${pair(was.mixed[n])} → ${pair(step.mixed[n])}.`];
  }
  if (step.kind === "add") {
    const {scaled} = step, weight = ({c}) => two(step.weights[n][c]), plus = say => shortened(seen.map(say)).join(" + ");
    return [`${name}: weights ${shortened(seen.map(one => `e^${two(step.scores[n][one.c] - max)} = ${weight(one)}`)).join(", ")}, the largest score so far taken away. Sum: ${two(scaled.sum[n])} + ${plus(weight)} = ${two(step.sum[n])}.`,
      `Output: ${pair(scaled.mixed[n])} + ${plus(one => `${weight(one)} × ${pair(v[one.s])}`)} = ${pair(step.mixed[n])}. The tile can be forgotten.`];
  }
  return [`${name}: ${pair(step.mixed[n])} / ${two(step.sum[n])} = ${pair(step.output[t])}.`,
    `Of all its scores one number is kept for the backward pass, the maximum plus the logarithm of the sum: ${two(max)} + ln ${two(step.sum[n])} = ${two(max + Math.log(step.sum[n]))}.`];
}

// ------------------------------------------------------------ the widget

const PACE = 1100; // milliseconds between two steps
const REAL = {T: 1024, D: 64, tile: 64}; // a head of GPT-2, and a tile as kernels use it
const grouped = n => n.toLocaleString("en");

/** Put the figure into `element`. `data` is as in flash.json. */
export function mount(element, data) {
  const {words} = data, T = words.length, D = data.v[0].length, wanted = ordinary(data);
  let size = "2 × 2", rows = 2, columns = 2, steps = [], at = 0, row = 1; // at: steps taken; row: which query of the tile is explained

  // ---------- the parts

  const button = (text, onclick = () => {}) => h("button", {type: "button", onclick}, text);
  const back = button("Back", () => { stop(); go(at - 1); });
  const next = button("Next", () => { stop(); go(at + 1); });
  const skip = button("Next tile", () => { stop(); go(tileEnd()); });
  const play = button("Play"), stop = player(play, {at: () => at, last: () => steps.length, go, pace: PACE});
  const again = button("Start again", () => { stop(); go(0); });
  const choice = h("select", {onchange: () => { stop(); resize(choice.value); }}, ...Object.keys(data.tiles).map(name => h("option", {value: name}, name)));
  const slider = h("input", {type: "range", min: 0, "aria-label": "Step", oninput: () => { stop(); go(Number(slider.value)); }}), where = h("output", {});
  const title = h("p", {class: "zhw-title", role: "status"}), why = h("div", {class: "zhw-fl-why", "aria-live": "polite"});

  const area = (i, j, down, right) => `grid-area: ${i + 2} / ${j + 2} / span ${down} / span ${right}`; // below and beside the names
  const line = (...children) => h("div", {role: "row", class: "zhw-fl-row"}, ...children);
  const head = text => h("span", {role: "columnheader", class: "zhw-fl-head"}, text);
  const spot = (kind = "", style) => h("span", {role: "cell", class: `zhw-fl-cell ${kind}`, style});
  const queries = words.map((word, t) => {
    const look = () => { if (steps.length && present()?.queries.includes(t)) { row = present().queries.indexOf(t); explain(); } };
    const name = h("button", {type: "button", class: "zhw-fl-name", "aria-label": `${word}: explain this row`, onclick: look, onfocus: look}, word);
    return {name, look, scores: words.map((_, s) => spot("", area(t, s, 1, 1))), factor: spot("zhw-fl-factor"), max: spot(), sum: spot(), mixed: data.v[0].map(() => spot()), wanted: data.v[0].map(() => spot("zhw-fl-wanted"))};
  });
  const frame = h("div", {class: "zhw-fl-frame", "aria-hidden": "true"}), borders = h("div", {class: "zhw-fl-borders", "aria-hidden": "true"});
  const map = h("div", {class: "zhw-fl-map", role: "table", "aria-label": "Scores: one row per query, one column per key", style: `--columns: ${T}`},
    line(h("span", {role: "columnheader", class: "zhw-fl-head"}), ...words.map(head)),
    ...queries.map(({name, look, scores}, t) => {
      const entry = line(h("span", {role: "rowheader", class: "zhw-fl-side", style: `grid-area: ${t + 2} / 1`}, name), ...scores);
      entry.addEventListener("pointerover", look);
      return entry;
    }), borders, frame);
  const wide = text => h("span", {role: "columnheader", class: "zhw-fl-head zhw-fl-wide"}, text);
  const kept = h("div", {class: "zhw-fl-kept", role: "table", "aria-label": "What is kept for each query, and what ordinary attention gives"},
    line(h("span", {role: "columnheader", class: "zhw-fl-head zhw-fl-word"}), head("factor"), head("max"), head("sum"), wide("output"), wide("ordinary")),
    ...queries.map(({factor, max, sum, mixed, wanted}, t) => line(h("span", {role: "rowheader", class: "zhw-fl-word"}, words[t]), factor, max, sum, ...mixed, ...wanted)));
  const figures = ["numbers held at once", "in the whole matrix, T\u00a0×\u00a0T", "tiles done", "corrections"].map(name => ({value: h("b", {}), label: h("small", {}, name)}));

  element.replaceChildren(h("div", {class: "zhw zhw-fl"},
    h("div", {class: "zhw-bar"}, h("div", {class: "zhw-buttons"}, back, next, skip, play, again), h("label", {}, "Size of a tile", choice)),
    h("label", {class: "zhw-fl-slider"}, slider, where),
    title, why,
    h("div", {class: "zhw-fl-two"}, map, kept),
    h("div", {class: "zhw-bp-figures zhw-fl-figures"}, ...figures.map(({value, label}) => h("span", {}, value, label))),
    h("p", {class: "zhw-note"}, "A row is a query, a column a key. Hatched: the future, masked. Dots: scores that were used and forgotten. Until a row is done its output still waits for the division by the sum. ",
      `One head of GPT-2 (T ${grouped(REAL.T)}, D ${REAL.D}) in tiles of ${REAL.tile} × ${REAL.tile} holds ${grouped(held(REAL.tile, REAL.tile, REAL.D))} numbers instead of ${grouped(REAL.T ** 2)}; with T twice as large, the same instead of ${grouped((2 * REAL.T) ** 2)}.`)));

  // ---------- what the controls do

  const present = () => at ? steps[at - 1] : null;

  /** The step after which the present tile, or the next one, is done; a division goes with the last tile of its row. */
  function tileEnd() {
    let to = at + 1;
    while (to < steps.length && steps[to - 1].kind !== "add") to++;
    return steps[to]?.kind === "divide" ? to + 1 : to;
  }

  function resize(name) {
    size = name;
    [rows, columns] = name.split(" × ").map(Number);
    steps = walk(data, rows, columns);
    row = rows - 1;
    slider.max = steps.length;
    const parts = [];
    for (let i = 0; i < T; i += rows) for (let j = 0; j < T; j += columns) parts.push(h("i", {style: area(i, j, rows, columns)}));
    borders.replaceChildren(...parts);
    go(0);
  }

  function go(to) {
    at = Math.max(0, Math.min(steps.length, to));
    const step = present(), grown = step?.grew?.findIndex((_, n) => rescales(step, n)) ?? -1;
    if (step && step.kind === "maximum" && grown >= 0 && !rescales(step, row)) row = grown; // explain a row in which something happens
    update();
    const {activeElement} = document;
    if (activeElement === document.body || activeElement.disabled) (at === steps.length ? back : next).focus();
  }

  // ---------- drawing

  function fillIn(cell, text, kinds = {}, ink = 0) {
    cell.textContent = text;
    cell.style.setProperty("--ink", `${Math.round(38 * Math.min(1, ink))}%`);
    for (const kind of ["now", "past", "future", "minus", "new", "done"]) cell.classList.toggle(`zhw-fl-${kind}`, Boolean(kinds[kind]));
  }

  /** Has the score of query t and key s been used? */
  function used(step, t, s) {
    if (!step || s > t) return false;
    return t < step.i || step.queries.includes(t) && (step.kind === "divide" || s < step.j);
  }

  function paint(step) {
    const output = step?.output ?? [];
    queries.forEach((query, t) => {
      const n = step ? step.queries.indexOf(t) : -1, here = n >= 0;
      query.scores.forEach((cell, s) => {
        const c = here ? step.keys.indexOf(s) : -1, now = c >= 0, past = used(step, t, s);
        const x = now ? (step.kind === "add" ? step.weights : step.scores)[n][c] : null, hidden = now && s > t;
        fillIn(cell, now ? (hidden ? "−∞" : two(x)) : past ? "·" : "", {now, past, future: s > t, minus: now && x < 0}, hidden || !now ? 0 : step.kind === "add" ? x : Math.abs(x) / 5);
        cell.setAttribute("aria-label", `${words[t]}, ${words[s]}: ${now ? (hidden ? "masked" : two(x)) : s > t ? "masked" : past ? "forgotten" : "not computed yet"}`);
      });
      const done = t < output.length, lit = here && rescales(step, n), known = here && !(step.kind === "scores" && step.first);
      fillIn(query.factor, here && step.kind === "maximum" && !step.first ? `× ${two(step.factor[n])}` : "", {new: lit});
      fillIn(query.max, known ? two(step.max[n]) : "", {new: lit});
      fillIn(query.sum, known ? two(step.sum[n]) : "", {new: lit});
      query.mixed.forEach((cell, d) => fillIn(cell, done ? two(output[t][d]) : known ? two(step.mixed[n][d]) : "", {new: lit, done}));
      query.name.disabled = !here;
    });
  }

  function explain() {
    const step = present();
    row = Math.min(row, (step?.queries.length ?? rows) - 1);
    why.replaceChildren(...reason(step, row, data).map(text => h("p", {}, ...raised(text))));
    queries.forEach(({name}, t) => name.setAttribute("aria-pressed", Boolean(step) && step.queries[row] === t));
  }

  function update() {
    const step = present(), count = tiles(T, rows, columns), before = steps.slice(0, at);
    paint(step);
    frame.hidden = step?.kind === "divide";
    frame.style = area(step?.i ?? 0, step?.j ?? 0, rows, columns);
    frame.classList.toggle("zhw-fl-new", Boolean(step?.grew?.some((_, n) => rescales(step, n))));
    const corrections = before.reduce((sum, one) => sum + (one.grew ?? []).filter((_, n) => rescales(one, n)).length, 0);
    const values = [grouped(held(rows, columns, D)), grouped(T * T), `${before.filter(({kind}) => kind === "add").length} of ${count.visited}`, String(corrections)];
    figures.forEach(({value}, i) => { value.textContent = values[i]; });
    figures[2].label.textContent = count.skipped ? `tiles done; ${count.skipped} all future, skipped` : "tiles done";
    title.textContent = step?.last ? `All rows are done, and equal to ordinary attention: the largest difference is ${power(difference(step.output, wanted), 1)}` : headline(step);
    back.disabled = again.disabled = at === 0;
    next.disabled = skip.disabled = at === steps.length;
    slider.value = at;
    where.textContent = `step ${at} of ${steps.length}`;
    slider.setAttribute("aria-valuetext", where.textContent);
    choice.value = size;
    explain();
  }

  queries.forEach(({wanted: cells}, t) => cells.forEach((cell, d) => { cell.textContent = two(wanted[t][d]); }));
  resize(size);
}

start("flash", mount);
