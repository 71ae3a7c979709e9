// Choosing a token: one distribution of a real model, and what temperature, filters and penalties make of it.
import {draw, h, random, start} from "./widget.js";

// ------------------------------------------------------------ arithmetic

/** What draws as the model says. */
export const PLAIN = {temperature: 1, topK: 0, topP: 1, minP: 0, repetition: 1, presence: 0, frequency: 0};

const normalised = logits => {
  const most = Math.max(...logits), weights = logits.map(x => Math.exp(x - most)), sum = weights.reduce((a, b) => a + b, 0);
  return weights.map(w => w / sum);
};

/** The logits after penalties for the tokens (indices) that were drawn so far. */
export function penalised(logits, {repetition, presence, frequency}, drawn) {
  const counts = new Map();
  for (const i of drawn) counts.set(i, (counts.get(i) ?? 0) + 1);
  return logits.map((x, i) => {
    const n = counts.get(i);
    if (!n) return x;
    return (x > 0 ? x / repetition : x * repetition) - presence - frequency * n;
  });
}

/** The probabilities with which the next token is drawn, and for each token the filter that took it out, if one did. */
export function distribution(logits, settings, drawn = []) {
  const {temperature, topK, topP, minP} = settings, gone = logits.map(() => null);
  let x = penalised(logits, settings, drawn);
  if (temperature === 0) {
    const best = x.indexOf(Math.max(...x));
    return {p: x.map((_, i) => Number(i === best)), gone: gone.map((_, i) => i === best ? null : "greedy")};
  }
  const most = Math.max(...x);
  x = x.map(y => (y - most) / temperature);
  const remove = (wrong, name) => { x = x.map((y, i) => y > -Infinity && wrong(y, i) ? (gone[i] = name, -Infinity) : y); };
  if (topK && topK < x.length) {
    const least = [...x].sort((a, b) => b - a)[topK - 1];
    remove(y => y < least, "top-k");
  }
  if (topP < 1) {
    const p = normalised(x), order = p.map((_, i) => i).sort((a, b) => p[b] - p[a] || a - b), beyond = new Set();
    let before = 0; // the one that crosses top-p stays
    for (const i of order) {
      if (before >= topP) beyond.add(i);
      before += p[i];
    }
    remove((_, i) => beyond.has(i), "top-p");
  }
  if (minP) {
    const least = Math.max(...x) + Math.log(minP);
    remove(y => y < least, "min-p");
  }
  return {p: normalised(x), gone};
}

/** How many equally likely tokens would be as uncertain: e to the entropy. */
export const choices = p => Math.exp(-p.reduce((sum, x) => sum + (x ? x * Math.log(x) : 0), 0));

// ------------------------------------------------------------ the widget

const SHOWN = 20; // bars; the others share one
const percent = x => x >= 0.9995 ? "100 %" : x >= 0.0995 ? `${(100 * x).toFixed(0)} %` : x >= 0.0005 ? `${(100 * x).toFixed(1)} %` : x > 0 ? "< 0.1 %" : "0";
const spelled = text => text.replaceAll("\n", "⏎").replace(/^ /, "\u2423").replace(/^$/, "∅");
const KNOBS = [ // name, label, from, to, step, how it is written
  ["temperature", "temperature", 0, 2, 0.05, x => x === 0 ? "0, greedy" : x.toFixed(2)],
  ["topK", "top-k", 0, 40, 1, x => x ? String(x) : "all"],
  ["topP", "top-p", 0.05, 1, 0.01, x => x < 1 ? x.toFixed(2) : "all"],
  ["minP", "min-p", 0, 0.5, 0.01, x => x ? x.toFixed(2) : "none"],
  ["repetition", "repetition", 1, 2, 0.05, x => x > 1 ? `÷ ${x.toFixed(2)}` : "none"],
  ["presence", "presence", 0, 2, 0.05, x => x ? `− ${x.toFixed(2)}` : "none"],
  ["frequency", "frequency", 0, 2, 0.05, x => x ? `− ${x.toFixed(2)} n` : "none"],
];

/** Put the figure into `element`. `data` is as in sampling.json. */
export function mount(element, data) {
  const {logits, texts, prompt} = data, model = normalised(logits);
  let settings = {...PLAIN}, drawn = [], chance = random(1), last = null;

  const button = (text, onclick) => h("button", {type: "button", onclick}, text);
  const one = button("Draw a token", () => take(1)), many = button("Draw 100", () => take(100));
  const again = button("Start again", () => { settings = {...PLAIN}; drawn = []; chance = random(1); last = null; update(); });
  const knobs = KNOBS.map(([name, label, min, max, step, say]) => {
    const input = h("input", {type: "range", min, max, step, oninput: () => { settings[name] = Number(input.value); update(); }});
    const output = h("output", {});
    return {name, say, input, output, label: h("label", {}, h("span", {}, label), input, output)};
  });
  const bars = [...logits.keys()].slice(0, SHOWN).concat(-1).map(i => {
    const word = h("span", {class: "zhw-sa-word"}, i < 0 ? `${logits.length - SHOWN} others` : spelled(texts[i]));
    const before = h("i", {class: "zhw-sa-before"}), now = h("i", {class: "zhw-sa-now"}), value = h("b", {}), note = h("small", {});
    return {i, before, now, value, note, row: h("li", {}, word, h("span", {class: "zhw-sa-track"}, before, now), value, note)};
  });
  const title = h("p", {class: "zhw-title", role: "status"}), written = h("p", {class: "zhw-sa-written", "aria-live": "polite"});
  const counts = ["tokens to draw from", "as uncertain as so many equal ones", "of the model's probability kept"].map(name => ({value: h("b", {}), label: h("small", {}, name)}));

  element.replaceChildren(h("div", {class: "zhw zhw-sa"},
    h("p", {class: "zhw-sa-prompt"}, h("small", {}, "The text so far: "), `${prompt} …`),
    h("div", {class: "zhw-sliders zhw-sa-knobs"}, ...knobs.map(({label}) => label)),
    title,
    h("ol", {class: "zhw-sa-bars", "aria-label": "Probability of each token"}, ...bars.map(({row}) => row)),
    h("div", {class: "zhw-bp-figures zhw-sa-figures"}, ...counts.map(({value, label}) => h("span", {}, value, label))),
    h("div", {class: "zhw-bar"}, h("div", {class: "zhw-buttons"}, one, many, again)),
    written,
    h("p", {class: "zhw-note"}, `The ${logits.length} likeliest next tokens of SmolLM2, as if there were no others. ␣ is a space, ⏎ a new line. Behind each bar, in grey, what the model said. Each draw is from the same place in the text, so that only the penalties know of the draws before.`)));

  function take(n) {
    for (let k = 0; k < n; k++) {
      last = draw(distribution(logits, settings, drawn).p, chance());
      drawn.push(last);
    }
    update();
  }

  function headline(gone) {
    const out = gone.filter(Boolean).length;
    if (settings.temperature === 0) return "Temperature 0: always the likeliest token";
    if (out) return `${out} of ${logits.length} tokens are filtered out, and the rest share their probability`;
    if (settings.temperature === 1) return knobs.slice(4).some(({name}) => settings[name] !== PLAIN[name]) && drawn.length ? "Tokens that were drawn are less likely now" : "As the model says";
    return settings.temperature < 1 ? "Colder: what is likely becomes likelier" : "Hotter: what is unlikely gets its chance";
  }

  function update() {
    const {p, gone} = distribution(logits, settings, drawn), most = Math.max(...p, ...model);
    const tail = list => list.slice(SHOWN).reduce((a, b) => a + b, 0);
    for (const {i, before, now, value, note, row} of bars) {
      const [was, is] = i < 0 ? [tail(model), tail(p)] : [model[i], p[i]];
      before.style.width = `${100 * Math.min(1, was / most)}%`;
      now.style.width = `${100 * Math.min(1, is / most)}%`;
      value.textContent = percent(is);
      const out = i < 0 ? gone.slice(SHOWN).every(Boolean) : Boolean(gone[i]);
      const times = drawn.filter(d => i < 0 ? d >= SHOWN : d === i).length;
      note.textContent = times ? `${times} ×` : "";
      row.classList.toggle("zhw-sa-gone", out);
      row.classList.toggle("zhw-sa-last", last !== null && (i < 0 ? last >= SHOWN : last === i));
    }
    for (const {name, say, input, output} of knobs) {
      input.value = settings[name];
      input.disabled = settings.temperature === 0 && ["topK", "topP", "minP"].includes(name);
      output.textContent = say(settings[name]);
      input.setAttribute("aria-valuetext", output.textContent);
    }
    const kept = model.reduce((sum, x, i) => sum + (gone[i] ? 0 : x), 0);
    const values = [p.filter(Boolean).length, choices(p).toFixed(1), percent(kept)];
    counts.forEach(({value}, i) => { value.textContent = values[i]; });
    title.textContent = headline(gone);
    written.textContent = drawn.length ? `Drawn: ${drawn.slice(-40).map(i => spelled(texts[i])).join(" · ")}` : "Nothing is drawn yet.";
  }

  update();
}

start("sampling", mount);
