// A tree over the last eight letters of a name, computed here from the trained weights, and what it expects next.
import {calm, draw, h, random, s, start} from "./widget.js";

// ------------------------------------------------------------ the model

/** A table of numbers from its stored form: 16-bit whole numbers in base64, each worth `scale`. */
export function unpack({shape, scale, data}) {
  const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), view = new DataView(bytes.buffer);
  const values = Float64Array.from({length: bytes.length / 2}, (_, i) => scale * view.getInt16(2 * i, true));
  if (values.length !== shape.reduce((a, b) => a * b, 1)) throw new Error(`${values.length} numbers do not fill a table of ${shape.join(" by ")}`);
  return {shape, values};
}

/** The symbols, the embedding, the levels and the output from the contents of wavenet.json. */
export function load({symbols, tables}) {
  const [embedding, ...rest] = tables.map(unpack);
  const pairs = Array.from({length: rest.length / 2}, (_, i) => ({weight: rest[2 * i], bias: rest[2 * i + 1]}));
  return {symbols, embedding, levels: pairs.slice(0, -1), output: pairs.at(-1)};
}

/** x W + b */
export function linear(x, {weight: {shape: [rows, columns], values}, bias}) {
  if (x.length !== rows) throw new Error(`${x.length} numbers do not fit a table of ${rows} rows`);
  const out = Float64Array.from(bias.values);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j] += x[i] * values[i * columns + j];
  return out;
}

/** How many letters the tree looks at. */
export const contextLength = model => 2 ** model.levels.length;

/** The numbers of the last letters of `name`, with dots before them where it is shorter. */
export function context(model, name) {
  const T = contextLength(model);
  return [...(".".repeat(T) + name).slice(-T)].map(letter => {
    const id = model.symbols.indexOf(letter);
    if (id < 0) throw new Error(`'${letter}' is not one of the letters ${model.symbols.join("")}`);
    return id;
  });
}

/** The vectors of the letters, then those of each level, and the logits of the next symbol. */
export function run(model, ids) {
  const width = model.embedding.shape[1];
  const nodes = [ids.map(id => model.embedding.values.slice(id * width, (id + 1) * width))];
  for (const level of model.levels) {
    const below = nodes.at(-1);
    nodes.push(Array.from({length: below.length / 2}, (_, i) => linear([...below[2 * i], ...below[2 * i + 1]], level).map(Math.tanh)));
  }
  return {nodes, logits: linear(nodes.at(-1)[0], model.output)};
}

export function softmax(logits) {
  const most = Math.max(...logits), weights = Array.from(logits, z => Math.exp(z - most));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map(weight => weight / sum);
}

export const next = (model, name) => softmax(run(model, context(model, name)).logits);

/** The probability of each letter of a name, given those before it. */
export const chances = (model, name) => [...name].map((letter, i) => next(model, name.slice(0, i))[model.symbols.indexOf(letter)]);

/** What a reader typed, as a name: small letters of the alphabet, and no more than fit. */
export const tidy = (model, text) => [...text.toLowerCase()].filter(c => c !== "." && model.symbols.includes(c)).join("").slice(0, LONGEST);

const LONGEST = 20; // letters

/** For each level, which nodes sliding over the name had computed before its last letter came: all but the newest. */
export function known(model, name) {
  const T = contextLength(model);
  return model.levels.map((_, level) => {
    const nodes = T >> (level + 1);
    return Array.from({length: nodes}, (_, i) => name.length > 0 && i < nodes - 1);
  });
}

// ------------------------------------------------------------ the widget

const percent = p => p < 0.0005 ? "under 0.1 %" : `${(100 * p).toFixed(1)} %`;
const BOX = 66, WIDE = 16, CELL = 3.8, ROW = 72, LETTER = 4; // of the tree, in its own units
const PAUSE = 350; // milliseconds between two letters

/** Put the figure into `element`. `data` is as in wavenet.json. */
export function mount(element, data) {
  const model = load(data), T = contextLength(model), depth = model.levels.length;
  const nextNumber = random(7);
  let name = "emm", ended = false, timer = null, names = [];

  // ---------- the tree: level 0 is the letters, at the bottom

  const middle = (level, i) => BOX * 2 ** level * (i + 0.5);
  const top = level => (depth - level) * ROW + 4;
  const strip = (level, i, count) => {
    const size = level ? CELL : LETTER, across = level ? WIDE : 12, down = Math.ceil(count / across);
    const left = middle(level, i) - across * size / 2;
    const units = Array.from({length: count}, (_, k) => s("rect", {class: "zhw-unit", x: (left + (k % across) * size).toFixed(1),
      y: (top(level) + Math.floor(k / across) * size).toFixed(1), width: size, height: size}));
    const frame = s("rect", {class: "zhw-frame", x: left - 2, y: top(level) - 2, width: across * size + 4, height: down * size + 4, rx: 2});
    const text = s("text", {class: "zhw-piece", x: middle(level, i), y: top(level) + down * size + 15});
    return {units, frame, text, foot: top(level) + down * size + (level ? 2 : 0)};
  };
  const sizes = [model.embedding.shape[1], ...model.levels.map(({bias}) => bias.shape[0])];
  const strips = sizes.map((count, level) => Array.from({length: T >> level}, (_, i) => strip(level, i, count)));
  const edges = strips.slice(1).flatMap((row, at) => row.flatMap((node, i) => [0, 1].map(side =>
    s("path", {class: "zhw-branch", d: `M${middle(at, 2 * i + side)} ${top(at) - 3}L${middle(at + 1, i)} ${node.foot + 20}`}))));
  const tree = s("svg", {class: "zhw-tree", viewBox: `0 0 ${BOX * T} ${top(0) + 32}`, role: "img"},
    ...edges, ...strips.flat().flatMap(({units, frame, text}) => [...units, frame, text]));

  // ---------- the distribution and the controls

  const bars = model.symbols.map((symbol, i) => {
    const fill = h("i", {}), share = h("small", {});
    return {fill, share, button: h("button", {type: "button", class: "zhw-choice", onclick: () => { stop(); choose(i); }},
      h("span", {class: "zhw-well"}, fill), h("b", {}, symbol), share)};
  });
  const choices = h("div", {class: "zhw-choices", role: "group", "aria-label": "The next letter"}, ...bars.map(({button}) => button));
  const box = h("input", {type: "text", class: "zhw-typed", maxlength: LONGEST, autocomplete: "off", autocapitalize: "none", spellcheck: "false",
    oninput: () => { stop(); ended = false; name = tidy(model, box.value); if (box.value !== name) box.value = name; update(); }});
  const button = (text, onclick) => h("button", {type: "button", onclick}, text);
  const rest = button("Draw the rest", () => timer ? stop() : write());
  const title = h("p", {class: "zhw-title", role: "status"}), score = h("p", {class: "zhw-note"});
  const list = h("p", {class: "zhw-drawn"});

  element.replaceChildren(h("div", {class: "zhw zhw-wavenet"},
    h("div", {class: "zhw-bar"}, h("label", {}, "A name, as far as it goes", box),
      h("div", {class: "zhw-buttons"}, button("Draw a letter", () => { stop(); step(); }), rest, button("Clear", () => { stop(); begin(); update(); }))),
    title, choices, tree, score, list));

  // ---------- what the controls do

  function begin() {
    name = "";
    ended = false;
  }

  /** Symbol `i` comes next. The dot ends the name, which stays to be looked at until the next letter begins another. */
  function choose(i) {
    if (ended) begin();
    if (i) name = (name + model.symbols[i]).slice(0, LONGEST);
    if (!i || name.length >= LONGEST) {
      ended = true;
      names = [...names, name].slice(-12);
    }
    update();
  }

  function step() {
    if (ended) begin();
    choose(draw(next(model, name), nextNumber()));
  }

  function write() {
    if (ended) begin();
    if (calm()) {
      do step(); while (!ended);
      return;
    }
    const tick = () => {
      timer = setTimeout(tick, PAUSE);
      step();
      if (ended) stop();
    };
    tick();
    rest.textContent = timer ? "Pause" : "Draw the rest";
  }

  function stop() {
    clearTimeout(timer);
    timer = null;
    rest.textContent = "Draw the rest";
  }

  // ---------- drawing

  function update() {
    const ids = context(model, name), {nodes, logits} = run(model, ids), p = softmax(logits), before = known(model, name);
    const letters = ids.map(id => model.symbols[id]).join(""), most = Math.max(...p);
    strips.forEach((row, level) => row.forEach(({units, frame, text}, i) => {
      nodes[level][i].forEach((value, k) => {
        units[k].style.fillOpacity = Math.min(1, Math.abs(value) / (level ? 1 : 2.5)).toFixed(2);
        units[k].classList.toggle("zhw-minus", value < 0);
      });
      frame.classList.toggle("zhw-known", level > 0 && before[level - 1][i]);
      text.textContent = letters.slice(i << level, (i + 1) << level);
    }));
    p.forEach((share, i) => {
      bars[i].fill.style.height = `${(100 * share / most).toFixed(1)}%`;
      bars[i].share.textContent = share < 0.005 ? "" : `${Math.round(100 * share)}`;
      bars[i].button.setAttribute("aria-label", `${i ? model.symbols[i] : "the end"}: ${percent(share)}`);
      bars[i].button.title = `${i ? model.symbols[i] : "the end"}: ${percent(share)}`;
    });
    const likely = p.map((_, i) => i).sort((a, b) => p[b] - p[a]).slice(0, 3).map(i => `${i ? model.symbols[i] : "the end"} ${percent(p[i])}`).join(", ");
    title.textContent = `${ended ? `'${name}' is complete. ` : ""}After '${name || "."}': ${likely}`;
    tree.setAttribute("aria-label", `The tree over ${letters}: ${T} letters, then ${model.levels.map((_, i) => T >> (i + 1)).join(", ")} nodes. Most likely next: ${likely}`);
    const each = chances(model, name);
    const nats = -each.reduce((sum, chance) => sum + Math.log(chance), 0) / each.length;
    score.textContent = (name ? `Surprise so far ${nats.toFixed(2)} nats per letter. ` : "") + "Blue: above zero, orange: below. Dashed: computed before, for an earlier letter of this name.";
    if (box.value !== name) box.value = name;
    list.textContent = names.length ? `Names: ${names.map(each => each || "(empty)").join(" ")}` : "";
  }

  update();
}

start("wavenet", mount);
