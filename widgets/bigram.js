// The table of letter pairs as a machine that writes names: look up a row, draw the next letter, repeat.
import {calm, draw, h, power, random, s, start} from "./widget.js";

// ------------------------------------------------------------ the model

/** The distribution of the next letter: each count to the power 1/T, divided by their sum. It is the softmax of the
 * log-counts over T, computed from logarithms so that no power overflows. What never happened stays impossible. */
export function probabilities(counts, temperature = 1) {
  const logs = counts.map(count => Math.log(count) / temperature);
  const most = Math.max(...logs);
  if (most === -Infinity) return counts.map(() => 0);
  const weights = logs.map(log => Math.exp(log - most));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map(weight => weight / sum);
}

const LONGEST = 40; // letters; a cold model can run in circles

/** Draw one name: the indices from the first letter to the end mark, which is missing where the name is cut. */
export function sampleName(counts, temperature, next, begun = []) {
  const name = [...begun];
  while (name.at(-1) !== 0 && name.length < LONGEST) name.push(draw(probabilities(counts[name.at(-1) ?? 0], temperature), next()));
  return name;
}

/** The probability of each letter of a name, given the one before it. */
export const chances = (counts, temperature, name) => name.map((to, i) => probabilities(counts[i ? name[i - 1] : 0], temperature)[to]);

/** Negative log-likelihood per letter, in nats. */
export const surprise = chances => -chances.reduce((sum, p) => sum + Math.log(p), 0) / chances.length;

// ------------------------------------------------------------ saying it

const percent = p => p === 0 ? "0 %" : p < 0.0005 ? "under 0.1 %" : `${(100 * p).toFixed(1)} %`;

/** "after 'a' comes 'n' 5,435 times: 16.0 %" */
export function pairLine({symbols, counts}, row, column, temperature) {
  const times = counts[row][column] === 1 ? "once" : `${counts[row][column].toLocaleString("en")} times`;
  const pair = row === 0 ? column === 0 ? "a name is empty" : `a name begins with '${symbols[column]}'`
    : column === 0 ? `after '${symbols[row]}' the name ends` : `after '${symbols[row]}' comes '${symbols[column]}'`;
  if (!counts[row][column]) return `${pair}: never, so 0 % at any temperature`;
  const now = temperature === 1 ? "" : `, and ${percent(probabilities(counts[row], temperature)[column])} at T = ${temperature.toFixed(2)}`;
  return `${pair} ${times}: ${percent(probabilities(counts[row])[column])}${now}`;
}

// ------------------------------------------------------------ the widget

const CELL = 16, EDGE = 18; // of the table, in its own units
const BAR = 13, TALL = 110, FOOT = 20, SIDE = 40; // of the bar chart
const TICKS = [0.1, 0.2, 0.5, 1];
const PAUSE = 350; // milliseconds between two letters of a whole name

/** Put the figure into `element`. `data` is as in bigram.json; row and column 0 are the start and the end of a name. */
export function mount(element, data) {
  const {symbols, counts} = data, size = symbols.length;
  let temperature = 1, seed = 5, next, name, names, looked, timer;

  // ---------- the table

  const label = i => symbols[i];
  const cells = counts.map((row, i) => row.map((_, j) => s("rect", {
    class: "zhw-cell", x: EDGE + j * CELL, y: EDGE + i * CELL, width: CELL, height: CELL, role: "gridcell", tabindex: -1,
    "data-row": i, "data-column": j, "aria-label": pairLine(data, i, j, 1), onfocus: () => look(i, j), onblur: () => look()})));
  const heads = ["column", "row"].map(kind => symbols.map((_, i) => {
    const middle = EDGE + (i + 0.5) * CELL;
    return s("text", {class: "zhw-head", role: `${kind}header`, x: kind === "row" ? EDGE / 2 : middle, y: kind === "row" ? middle + 4 : EDGE - 5}, label(i));
  }));
  const band = s("rect", {class: "zhw-band", x: EDGE, width: size * CELL, height: CELL});
  const ring = s("rect", {class: "zhw-ring", width: CELL, height: CELL});
  const extent = EDGE + size * CELL;
  const table = s("svg", {class: "zhw-table", viewBox: `0 0 ${extent + 1} ${extent + 1}`, role: "grid", "aria-label": "How often each letter (column) follows each letter (row). Arrow keys move.",
    onkeydown: steer, onpointermove: point, onpointerdown: point, onpointerleave: event => { if (event.pointerType === "mouse") leave(); }},
  s("rect", {class: "zhw-paper", x: EDGE, y: EDGE, width: size * CELL, height: size * CELL}),
  s("g", {role: "row"}, ...heads[0]), ...cells.map((row, i) => s("g", {role: "row"}, heads[1][i], ...row)), band, ring);

  function point(event) {
    const box = table.getBoundingClientRect();
    const [column, row] = [event.clientX - box.left, event.clientY - box.top].map(at => Math.floor((at / box.width * (extent + 1) - EDGE) / CELL));
    if (cells[row]?.[column]) look(row, column);
  }

  function steer(event) {
    const [down, right] = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -size], End: [0, size]}[event.key] ?? [];
    if (down === undefined) return;
    event.preventDefault();
    const inside = at => Math.min(size - 1, Math.max(0, at));
    const {row, column} = event.target.dataset;
    cells[inside(Number(row) + down)][inside(Number(column) + right)].focus();
  }

  // ---------- the row as bars

  const bars = symbols.map((_, i) => ({
    now: s("rect", {class: "zhw-rate", x: SIDE + i * BAR + 1, width: BAR - 2}),
    counted: s("path", {class: "zhw-counted"}),
    hit: s("rect", {class: "zhw-hit", x: SIDE + i * BAR, y: 0, width: BAR, height: TALL + FOOT, onpointerenter: () => look(current().row, i)}),
    letter: s("text", {class: "zhw-head", x: SIDE + (i + 0.5) * BAR, y: TALL + 15}, label(i)),
  }));
  const ticks = [0.5, 1].map(part => ({part, text: s("text", {class: "zhw-tick", x: SIDE - 5, y: TALL * (1 - part) + 10}),
    line: s("line", {class: "zhw-grid", x1: SIDE, x2: SIDE + size * BAR, y1: TALL * (1 - part) + 6, y2: TALL * (1 - part) + 6})}));
  const chart = s("svg", {class: "zhw-chart", viewBox: `0 0 ${SIDE + size * BAR} ${TALL + FOOT}`, role: "img", onpointerleave: leave},
    ...ticks.flatMap(({line, text}) => [line, text]), ...bars.flatMap(({now, counted, letter, hit}) => [now, counted, letter, hit]));
  const chartTitle = h("p", {class: "zhw-title"});
  const pairText = h("p", {class: "zhw-pair", role: "status"});

  // ---------- the controls

  const button = (text, onclick) => h("button", {type: "button", onclick}, text);
  const whole = button("Whole name", () => timer ? stop() : write());
  const buttons = h("div", {class: "zhw-buttons"}, button("Next letter", () => { stop(); step(); }), whole,
    button("Ten names", () => { stop(); ten(); }), button("Start again", restart));
  const heat = h("input", {type: "range", min: 0.1, max: 3, step: 0.05, value: 1, oninput: () => { temperature = Number(heat.value); update(); }});
  const heatText = h("output", {});
  const seedBox = h("input", {type: "number", min: 0, step: 1, value: seed, onchange: () => { seed = Math.max(0, Math.trunc(Number(seedBox.value))); restart(); }});
  const letters = h("div", {class: "zhw-letters"});
  const score = h("p", {class: "zhw-score", role: "status"});
  const list = h("ol", {class: "zhw-names"});

  element.replaceChildren(h("div", {class: "zhw zhw-two"},
    h("div", {}, table, h("p", {class: "zhw-note"}, "Row: a letter. Column: the one that follows. The stronger the colour, the likelier; blank: never. The dot is where a name starts and ends.")),
    h("div", {class: "zhw-side"}, chartTitle, chart, pairText, h("label", {class: "zhw-heat"}, h("span", {}, "Temperature "), heat, heatText), buttons, letters, score),
    h("div", {class: "zhw-below"}, list, h("label", {class: "zhw-seed"}, "Seed ", seedBox))));

  // ---------- what the controls do

  const ended = () => name.at(-1) === 0 || name.length >= LONGEST;
  const current = () => looked ?? {row: name.length && !ended() ? name.at(-1) : 0};

  function look(row, column) {
    if (row === looked?.row && column === looked?.column) return;
    looked = row === undefined ? null : {row, column};
    update();
  }

  /** The pointer left: back to the cell that has the keyboard, or to the letter the name has come to. */
  function leave() {
    const {row, column} = element.querySelector(".zhw-cell:focus")?.dataset ?? {};
    if (row) look(Number(row), Number(column));
    else look();
  }

  function step() {
    if (ended()) name = [];
    looked = null;
    const row = name.at(-1) ?? 0;
    name.push(draw(probabilities(counts[row], temperature), next()));
    if (ended()) keep(name);
    update({row, column: name.at(-1)});
  }

  function keep(done) {
    names = [...names, done].slice(-10);
  }

  function write() {
    if (calm()) {
      name = sampleName(counts, temperature, next, ended() ? [] : name);
      keep(name);
      return update();
    }
    const tick = () => {
      timer = setTimeout(tick, PAUSE);
      step();
      if (ended()) stop();
    };
    tick();
    whole.textContent = timer ? "Pause" : "Whole name";
  }

  function ten() {
    names = Array.from({length: 10}, () => sampleName(counts, temperature, next));
    name = names.at(-1);
    update();
  }

  function stop() {
    clearTimeout(timer);
    timer = null;
    whole.textContent = "Whole name";
  }

  function restart() {
    stop();
    next = random(seed);
    name = [];
    names = [];
    update();
  }

  // ---------- drawing

  const spell = indices => indices.filter(Boolean).map(label).join("") + (indices.at(-1) ? "…" : "");

  /** `drawn` is the cell that was just drawn: it flashes, and its row stays lit until the next look or step. */
  function update(drawn) {
    const model = counts.map(row => probabilities(row, temperature));
    const {row, column} = drawn ?? current();
    cells.forEach((line, i) => line.forEach((cell, j) => {
      cell.style.fillOpacity = (model[i][j] ** 0.4).toFixed(3); // a root, so that rare pairs show
      cell.setAttribute("tabindex", i === row && j === (column ?? 0) ? 0 : -1);
    }));
    if (column !== undefined) cells[row][column].setAttribute("aria-label", pairLine(data, row, column, temperature));
    heads[0].forEach((head, j) => head.classList.toggle("zhw-lit", j === column));
    heads[1].forEach((head, i) => head.classList.toggle("zhw-lit", i === row));
    band.setAttribute("y", EDGE + row * CELL);
    ring.style.display = column === undefined ? "none" : "";
    if (column !== undefined) { ring.setAttribute("x", EDGE + column * CELL); ring.setAttribute("y", EDGE + row * CELL); }

    const counted = probabilities(counts[row]);
    const top = TICKS.find(tick => tick >= Math.max(...model[row], ...counted) - 1e-9);
    const room = TALL - 6;
    bars.forEach(({now, counted: mark, letter}, j) => {
      const tall = room * model[row][j] / top, was = TALL - room * counted[j] / top;
      now.setAttribute("y", TALL - tall);
      now.setAttribute("height", tall);
      mark.setAttribute("d", `M${SIDE + j * BAR} ${was}h${BAR}`);
      for (const part of [now, letter]) part.classList.toggle("zhw-lit", j === column);
      mark.style.display = temperature === 1 || !counted[j] ? "none" : "";
    });
    ticks.forEach(({part, text, line}) => {
      text.textContent = `${Math.round(100 * top * part)} %`;
      for (const end of ["y1", "y2"]) line.setAttribute(end, TALL - room * part);
      text.setAttribute("y", TALL - room * part + 4);
    });
    const after = row ? `after '${label(row)}'` : "at the start of a name";
    chartTitle.textContent = `What comes ${after}`;
    const likely = counted.map((_, j) => j).sort((a, b) => model[row][b] - model[row][a]).slice(0, 3);
    chart.setAttribute("aria-label", `Next letter ${after}; most likely: ${likely.map(j => `${j ? label(j) : "the end"} ${percent(model[row][j])}`).join(", ")}`);
    pairText.textContent = column === undefined ? `${counts[row].reduce((a, b) => a + b, 0).toLocaleString("en")} pairs counted in this row` : pairLine(data, row, column, temperature);
    heatText.textContent = temperature === 1 ? "T = 1, as counted" : `T = ${temperature.toFixed(2)}, ${temperature < 1 ? "bolder" : "wilder"}`;

    const each = chances(counts, temperature, name);
    letters.replaceChildren(...name.map((to, i) => h("span", {class: to ? "" : "zhw-end"}, h("b", {}, label(to)), h("small", {}, percent(each[i])))));
    if (!name.length) letters.append(h("em", {}, "The name begins here."));
    const product = each.reduce((a, b) => a * b, 1);
    score.textContent = name.length ? `${ended() ? spell(name) : `${name.map(label).join("")} so far`}: probability ${product < 0.01 ? power(product, 1) : percent(product)}, negative log-likelihood ${surprise(each).toFixed(2)} per letter` : "";
    list.replaceChildren(...names.map(done => h("li", {}, spell(done), " ", h("small", {}, surprise(chances(counts, temperature, done)).toFixed(2)))));
    if (drawn) flash(ring, bars[column].now, letters.lastChild);
  }

  function flash(...shapes) {
    if (calm()) return;
    for (const shape of shapes) shape.animate([{opacity: 0.15}, {opacity: 1}, {opacity: 0.3}, {opacity: 1}], 450);
  }

  restart();
}

start("bigram", mount);
