// Attention for five words, every number in sight: change one, and all that depends on it follows.
import {h, raised, start, two} from "./widget.js";

// ------------------------------------------------------------ arithmetic

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);

/** All stages from queries, keys and values, one row per word. Beyond the mask a score is minus infinity. */
export function compute({q, k, v}, {scale = true, mask = true} = {}) {
  const scores = q.map(a => k.map(b => dot(a, b)));
  const scaled = scores.map(row => row.map(x => scale ? x / Math.sqrt(q[0].length) : x));
  const masked = scaled.map((row, i) => row.map((x, j) => mask && j > i ? -Infinity : x));
  const weights = masked.map(row => {
    const most = Math.max(...row), raised = row.map(x => Math.exp(x - most)), sum = raised.reduce((a, b) => a + b, 0);
    return raised.map(x => x / sum);
  });
  const output = weights.map(row => v[0].map((_, d) => dot(row, v.map(value => value[d]))));
  return {scores, scaled, masked, weights, output};
}

const factor = x => x < 0 ? `(${two(x)})` : two(x);
const products = (a, b) => a.map((x, i) => `${two(x)} × ${factor(b[i])}`).join(" + ");

/** The sum that makes one cell, written out. */
export function reason(stage, i, j, words, {q, k, v}, stages, {scale, mask}) {
  const D = q[0].length, value = two(stages[stage][i][j]), row = words[i], column = words[j];
  if (stage === "scores") return `How well '${row}' finds '${column}': its query times that key: ${products(q[i], k[j])} = ${value}`;
  if (stage === "scaled") return scale ? `'${row}' to '${column}': ${two(stages.scores[i][j])} / √${D} = ${value}` : `'${row}' to '${column}': the scale is off, ${value} stays`;
  if (stage === "masked") {
    if (j <= i) return `'${row}' to '${column}': ${i === j ? "a word may see itself" : "the past may be seen"}, ${value} stays`;
    return mask ? `'${column}' comes after '${row}': it must not be seen, so its score becomes −∞` : `'${column}' comes after '${row}', but the mask is off: ${value} stays`;
  }
  if (stage === "weights") {
    const seen = stages.masked[i].filter(x => x > -Infinity), sum = seen.reduce((a, x) => a + Math.exp(x), 0), score = stages.masked[i][j];
    if (score === -Infinity) return `The weight of '${column}' for '${row}': e^−∞ is 0`;
    return `The weight of '${column}' for '${row}': e^${two(score)} / (${seen.map(x => `e^${two(x)}`).join(" + ")}) = ${two(Math.exp(score))} / ${two(sum)} = ${value}`;
  }
  const used = stages.weights[i].map((w, s) => [w, v[s][j]]).filter((_, s) => stages.masked[i][s] > -Infinity);
  return `Number ${j + 1} of the output of '${row}': ${used.map(([w, x]) => `${two(w)} × ${factor(x)}`).join(" + ")} = ${value}`;
}

/** Which cells a cell is made of, as "table row column"; null stands for the whole row or column. */
export function sources(stage, i, j) {
  return {
    scores: [["q", i, null], ["k", j, null]],
    scaled: [["scores", i, j]],
    masked: [["scaled", i, j]],
    weights: [["masked", i, null]],
    output: [["weights", i, null], ["v", null, j]],
  }[stage];
}

/** What to notice at a step. */
export function notice(step, words, {weights, output}, {scale, mask}) {
  const largest = weights.reduce((sum, row) => sum + Math.max(...row), 0) / weights.length;
  const ahead = weights.reduce((sum, row, i) => sum + row.slice(i + 1).reduce((a, b) => a + b, 0), 0) / weights.length;
  const last = words.length - 1, best = weights[last].indexOf(Math.max(...weights[last]));
  return [
    "Every word asks (query), offers (key) and has something to give (value): two numbers each.",
    "A query times a key is a score: large where a word offers what another asks for.",
    scale ? "Sums of more products are larger; dividing by √D keeps scores in the same range for every D." : "Scale off: the scores keep their size, and the softmax will be sharper.",
    mask ? "The mask: no word may look at one that comes after it." : "Mask off: every word can see the words after it, which it is meant to predict.",
    !mask ? `Peeking: on average, ${Math.round(100 * ahead)} % of a word's attention goes to its future (outlined).`
      : `${scale ? "Each row sums to 1" : "Saturated: without the scale, rows come closer to all or nothing"}. The largest weight of a row is ${two(largest)} on average.`,
    `The output mixes the values: '${words[last]}' looks most at '${words[best]}' and takes ${two(weights[last][best])} of its value.`,
  ][step];
}

// ------------------------------------------------------------ the widget

const STAGES = ["scores", "scaled", "masked", "weights", "output"];
const TITLES = {scores: "1  Scores: q · k", scaled: "2  Scaled: / √D", masked: "3  Masked", weights: "4  Softmax: weights", output: "5  Output: weights × v"};
const LIMIT = 4, GRAIN = 0.1, REACH = 6; // largest entry; smallest change; pixels per change when dragging
const tidy = x => Math.round(Math.max(-LIMIT, Math.min(LIMIT, x)) / GRAIN) * GRAIN;

/** Put the figure into `element`. `data` is as in attention.json. */
export function mount(element, data) {
  const {words} = data, D = data.q[0].length, copy = () => Object.fromEntries(["q", "k", "v"].map(name => [name, data[name].map(row => [...row])]));
  let given = copy(), stages = null, step = STAGES.length, chosen = {stage: "output", i: words.length - 1, j: 0};

  const button = (text, onclick) => h("button", {type: "button", onclick}, text);
  const back = button("Back", () => move(-1)), next = button("Next", () => move(1));
  const reset = button("Reset", () => { given = copy(); scale.checked = mask.checked = true; step = 0; update(); });
  const check = () => h("input", {type: "checkbox", checked: "", onchange: update});
  const scale = check(), mask = check();
  const where = h("span", {class: "zhw-count"}), title = h("p", {class: "zhw-title", role: "status"}), sum = h("p", {class: "zhw-at-sum", "aria-live": "polite"});

  // ---------- tables; one cell of each can be reached with Tab, and the arrow keys lead on from there

  const cells = new Map(), at = (...where) => cells.get(where.join(" "));
  const row = (...children) => h("div", {role: "row", class: "zhw-at-row"}, ...children);
  const head = (text, role) => h("span", {role, class: role === "rowheader" ? "zhw-at-word" : "zhw-at-head"}, text);

  function entry(name, i, d) {
    const cell = h("span", {role: "spinbutton", class: `zhw-at-cell zhw-at-free zhw-at-${name}`, tabindex: name === "q" && i + d === 0 ? 0 : -1,
      "aria-label": `${{q: "query", k: "key", v: "value"}[name]} of ${words[i]}, number ${d + 1}`, "aria-valuemin": -LIMIT, "aria-valuemax": LIMIT,
      onkeydown: event => turn(event, name, i, d), onpointerdown: event => drag(event, cell, name, i, d), onfocus: () => visit(cell, ".zhw-at-free")});
    cells.set(`${name} ${i} ${d}`, cell);
    return cell;
  }

  function result(stage, i, j) {
    const choose = () => { chosen = {stage, i, j}; explain(); };
    const cell = h("span", {role: "gridcell", class: "zhw-at-cell", tabindex: i + j === 0 ? 0 : -1, onpointerenter: choose, onclick: () => cell.focus(),
      onfocus: () => { visit(cell, `[data-stage="${stage}"] .zhw-at-cell`); choose(); }, onkeydown: event => walk(event, stage, i, j)});
    cells.set(`${stage} ${i} ${j}`, cell);
    return cell;
  }

  const inputs = h("div", {class: "zhw-at-table zhw-at-inputs", role: "group", "aria-label": "Queries, keys and values: arrow keys up and down change a number, left and right lead to the next"},
    row(head("", "presentation"), ...["query", "key", "value"].map(text => h("span", {class: "zhw-at-head zhw-at-wide"}, text))),
    ...words.map((word, i) => row(head(word, "presentation"), ...["q", "k", "v"].flatMap(name => data[name][i].map((_, d) => entry(name, i, d))))));
  const panels = STAGES.map(stage => {
    const columns = stage === "output" ? data.v[0].map((_, d) => `${d + 1}`) : words;
    const table = h("div", {class: "zhw-at-table", role: "grid", "data-stage": stage, style: `--columns: ${words.length}`, "aria-label": TITLES[stage]},
      row(head("", "columnheader"), ...columns.map(text => head(text, "columnheader"))),
      ...words.map((word, i) => row(head(word, "rowheader"), ...columns.map((_, j) => result(stage, i, j)))));
    return {stage, panel: h("section", {class: "zhw-at-panel"}, h("h4", {}, TITLES[stage]), table)};
  });
  const source = h("section", {class: "zhw-at-panel"}, h("h4", {}, "Drag a number, or use the arrow keys"), inputs);

  element.replaceChildren(h("div", {class: "zhw zhw-at"},
    h("div", {class: "zhw-bar"}, h("div", {class: "zhw-walk"}, back, next, reset, where),
      h("div", {class: "zhw-at-checks"}, h("label", {}, scale, "Scale by 1/√D"), h("label", {}, mask, "Causal mask"))),
    title, sum, h("div", {class: "zhw-at-stages"}, source, ...panels.map(({panel}) => panel))));

  // ---------- what the controls do

  function move(by) {
    step = Math.max(0, Math.min(STAGES.length, step + by));
    if (step) chosen = {...chosen, stage: STAGES[step - 1], j: step === STAGES.length ? chosen.j % D : chosen.j};
    update();
    if (document.activeElement === document.body || document.activeElement.disabled) (by > 0 ? back : next).focus();
  }

  function set(name, i, d, value) {
    given[name][i][d] = tidy(value);
    update();
  }

  function turn(event, name, i, d) {
    const by = {ArrowUp: GRAIN, ArrowDown: -GRAIN, PageUp: 1, PageDown: -1}[event.key], side = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (by) set(name, i, d, given[name][i][d] + by);
    else if (side) {
      const all = [...inputs.querySelectorAll(".zhw-at-free")];
      all.at((all.indexOf(event.currentTarget) + side) % all.length).focus();
    } else if (event.key === "Home" || event.key === "End") set(name, i, d, event.key === "Home" ? -LIMIT : LIMIT);
    else return;
    event.preventDefault();
  }

  function drag(event, cell, name, i, d) {
    const from = given[name][i][d], {clientX, clientY} = event;
    cell.setPointerCapture(event.pointerId);
    cell.onpointermove = now => set(name, i, d, from + GRAIN * Math.round((now.clientX - clientX - now.clientY + clientY) / REACH));
    cell.onpointerup = cell.onpointercancel = () => { cell.onpointermove = null; };
  }

  function walk(event, stage, i, j) {
    const [down, right] = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key] ?? [];
    if (down === undefined) return;
    event.preventDefault();
    at(stage, i + down, j + right)?.focus();
  }

  function visit(cell, group) {
    for (const other of element.querySelectorAll(group)) other.tabIndex = other === cell ? 0 : -1;
  }

  // ---------- drawing

  const shade = (cell, strength, negative) => {
    cell.style.setProperty("--ink", `${Math.round(38 * Math.min(1, strength))}%`);
    cell.classList.toggle("zhw-minus", negative);
  };

  function explain() {
    const shown = STAGES.indexOf(chosen.stage) < step, options = {scale: scale.checked, mask: mask.checked};
    const why = shown ? reason(chosen.stage, chosen.i, chosen.j, words, given, stages, options)
      : step ? "Point at a cell to see the sum that makes it." : "Press Next to see what attention makes of these numbers.";
    sum.replaceChildren(...raised(why));
    const lit = shown ? sources(chosen.stage, chosen.i, chosen.j) : [];
    for (const [key, cell] of cells) {
      const [table, i, j] = key.split(" ");
      cell.classList.toggle("zhw-at-source", lit.some(([t, a, b]) => t === table && (a === null || a === Number(i)) && (b === null || b === Number(j))));
      cell.classList.toggle("zhw-at-chosen", shown && key === `${chosen.stage} ${chosen.i} ${chosen.j}`);
    }
  }

  function update() {
    const options = {scale: scale.checked, mask: mask.checked};
    stages = compute(given, options);
    for (const name of ["q", "k", "v"]) given[name].forEach((numbers, i) => numbers.forEach((x, d) => {
      const cell = at(name, i, d);
      cell.textContent = two(x).slice(0, -1); // tenths
      cell.setAttribute("aria-valuenow", x.toFixed(1));
      cell.classList.toggle("zhw-at-moved", Math.abs(x - data[name][i][d]) > GRAIN / 2);
    }));
    panels.forEach(({stage, panel}, n) => {
      panel.classList.toggle("zhw-at-now", n === step - 1);
      panel.classList.toggle("zhw-at-far", n !== step - 1 && n !== step - 2); // a narrow window shows a table and what it comes from
      const shown = n < step;
      stages[stage].forEach((numbers, i) => numbers.forEach((x, j) => {
        const cell = at(stage, i, j), hidden = x === -Infinity;
        cell.textContent = shown ? two(x) : "·";
        cell.setAttribute("aria-label", shown ? `${words[i]}, ${stage === "output" ? j + 1 : words[j]}: ${two(x)}` : "not computed yet");
        shade(cell, !shown || hidden ? 0 : stage === "weights" ? x : stage === "output" ? Math.abs(x) / 2 : Math.abs(x) / 5, x < 0 && !hidden);
        cell.classList.toggle("zhw-at-none", shown && (hidden || (stage === "weights" && stages.masked[i][j] === -Infinity)));
        cell.classList.toggle("zhw-at-peek", shown && !options.mask && j > i && (stage === "masked" || stage === "weights"));
      }));
    });
    source.classList.toggle("zhw-at-now", step === 0);
    back.disabled = step === 0;
    next.disabled = step === STAGES.length;
    where.textContent = `step ${step} of ${STAGES.length}`;
    title.textContent = notice(step, words, stages, options);
    explain();
  }

  update();
}

start("attention", mount);
