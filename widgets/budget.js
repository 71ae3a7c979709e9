// What a run costs before it is run: parameters, operations, time, money and memory, as zerohero.gpt2 counts them.
import {h, power, start} from "./widget.js";

// ------------------------------------------------------------ counting, as in Python

const sum = parts => Object.values(parts).reduce((a, b) => a + b, 0);

/** A model's options, where they are not given those of GPT-2. */
export const options = given => ({vocab_size: 50304, block_size: 1024, n_layer: 12, n_head: 12, n_embd: 768, bias: true, pos: "learned", mlp: "gelu", norm: "layer", ...given});

/** How many numbers leave the first matrix of the feed-forward part, and how many of those enter the second. */
function units({mlp, n_embd}) {
  const hidden = mlp === "swiglu" ? Math.round(8 * n_embd / 3) : 4 * n_embd;
  return [hidden, mlp === "swiglu" ? 2 * hidden : hidden];
}

/** `parameter_counts` of zerohero.gpt2. */
export function parameterCounts(given) {
  const config = options(given), {n_embd: C, n_layer: L} = config, b = Number(config.bias), [inner, outer] = units(config);
  return {
    tokens: config.vocab_size * C,
    positions: config.pos === "learned" ? config.block_size * C : 0,
    attention: L * (4 * C * C + b * 4 * C),
    "feed-forward": L * ((outer + inner) * C + b * (outer + C)),
    norms: (2 * L + 1) * (C + (config.norm === "layer" ? b * C : 0)),
  };
}

/** `flops_per_token` of zerohero.gpt2: forward and backward. */
export function flopsPerToken(given, T) {
  const config = options(given), {n_embd: C, n_layer: L} = config, [inner, outer] = units(config);
  return {projections: 24 * L * C * C, attention: 12 * L * C * T, "feed-forward": 6 * L * (inner + outer) * C, output: 6 * config.vocab_size * C};
}

/** `memory_plan` of zerohero.gpt2: bytes on one GPU where backward begins, with a micro-batch of B texts of T tokens; products in
 * bfloat16, the loss in chunks, and gradients of earlier micro-batches there already. */
export function memoryPlan(given, B, T) {
  const config = options(given), {n_embd: C, n_layer: L, vocab_size: V} = config, N = B * T, P = sum(parameterCounts(config)), s = 2;
  const [inner, outer] = units(config), {mlp, pos, norm} = config;
  let kept = 8 * C + s * 6 * C + s * (outer + inner * (mlp === "swiglu" ? 2 : 1)) + 4 * config.n_head + 16; // of a token in a block
  if (pos === "rope") kept += s * 3 * C;
  if (norm === "rms") kept += 8 * C;
  const activations = N * (L * kept + 8 * C) + 2 * L * (4 * C * C + (outer + inner) * C);
  const rows = Math.min(N, 4096), loss = V * Math.max(10 * rows + 6 * C, 8 * rows + 12 * C) + 2 * s * N * C, begun = s * N * C * (mlp === "relu2" ? 11 : 4);
  return {weights: 4 * P, gradients: 4 * P, optimizer: 8 * P, activations, logits: Math.max(loss, 8 * V * C, begun)};
}

/** Everything about a run. `run` has layers, width, context, batch, tokens, gpus, peak (FLOP/s of one), mfu (0 to 1), price (per GPU and hour), memory (bytes of one). */
export function plan(run, vocabulary) {
  const config = {vocab_size: vocabulary, block_size: run.context, n_layer: run.layers, n_head: run.width / 64, n_embd: run.width};
  const parameters = parameterCounts(config), flops = flopsPerToken(config, run.context), memory = memoryPlan(config, run.batch, run.context);
  const N = sum(parameters), work = run.tokens * sum(flops), rate = run.gpus * run.peak * run.mfu, seconds = work / rate, best = Math.sqrt(work / 120);
  return {
    parameters, flops, memory, N, work, seconds, rate: rate / sum(flops), cost: run.gpus * run.price * seconds / 3600,
    bytes: sum(memory), fits: sum(memory) <= run.memory, kept: memory.weights + memory.gradients + memory.optimizer, ratio: run.tokens / N, best: {parameters: best, tokens: 20 * best},
  };
}

// ------------------------------------------------------------ saying it

const grouped = n => Math.round(n).toLocaleString("en");

/** Three digits and a unit: 124M. */
export function human(n) {
  if (n < 999.5) return String(Number(n.toPrecision(3)));
  const size = Math.min(4, Math.floor(Math.log10(n * 1.0005) / 3)), text = Number((n / 1000 ** size).toPrecision(3));
  return `${text >= 1000 ? grouped(text) : text}${"kMBT"[size - 1]}`;
}

/** 1.6 hours */
export function duration(seconds) {
  const units = [["second", 1], ["minute", 60], ["hour", 3600], ["day", 86400], ["year", 365.25 * 86400]];
  const [name, length] = units.filter(([, length], n) => n === 0 || seconds >= 1.5 * length).at(-1), count = seconds / length;
  const text = count < 9.95 ? Number(count.toFixed(1)) : count < 9999.5 ? grouped(count) : human(count);
  return `${text} ${name}${text === 1 ? "" : "s"}`;
}

/** $15.90 */
export const money = x => x < 99.995 ? `$${x.toFixed(2)}` : x < 999999.5 ? `$${grouped(x)}` : `$${human(x)}`;

/** 1.99 GB */
export function bytes(n) {
  const [unit, size] = n < 99.95e6 ? ["MB", 1e6] : n < 999.5e9 ? ["GB", 1e9] : ["TB", 1e12], count = n / size;
  return `${count < 9.995 ? count.toFixed(count < 0.00995 ? 0 : 2) : count < 99.95 ? count.toFixed(1) : grouped(count)} ${unit}`;
}

const percent = share => share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
const times = x => x >= 99.5 ? grouped(x) : Number(x.toPrecision(2));

/** What the ratio of tokens to parameters says. */
export function chinchilla({ratio, best}) {
  const said = `${human(ratio)} tokens per parameter`, instead = `the same work would be spent best on ${human(best.parameters)} parameters and ${human(best.tokens)} tokens`;
  if (ratio > 30) return `${said}, ${times(ratio / 20)} times Chinchilla's 20: worth it where the model will be used a lot, since a small one is cheap to run. For the lowest loss ${instead}.`;
  if (ratio < 40 / 3) return `${said}, ${times(20 / ratio)} times fewer than Chinchilla's 20: the model is too large for so little text. For the lowest loss ${instead}.`;
  return `${said}: about Chinchilla's 20, the lowest loss for this work.`;
}

/** Whether the run fits on its GPU. */
export function verdict({bytes: needed, kept, fits}, {memory, kind}) {
  const have = `${Math.round(memory / 1e9)} GB of one ${kind}`;
  if (fits) return `${bytes(needed)} of the ${have}: it fits.`;
  if (kept > memory) return `${bytes(needed)}, more than the ${have}, and weights, gradients and optimizer alone are ${bytes(kept)}: they have to be shared out among GPUs (FSDP).`;
  return `${bytes(needed)}, more than the ${have}: take a smaller micro-batch, and accumulate more of them.`;
}

// ------------------------------------------------------------ the widget

const STEPS = 50; // of the slider of tokens, per power of ten
const LAYERS = [1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 30, 36, 40, 48, 64, 80, 96, 128];
const WIDTHS = [1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 25, 28, 32, 40, 48, 64, 80, 96, 128, 192].map(heads => 64 * heads);
const powers = (from, to) => Array.from({length: to - from + 1}, (_, n) => 2 ** (from + n));
const [FEWEST, MOST] = [1e-1, 1e4]; // tokens per parameter, the ends of the scale
const KNOWN = [["GPT-3", 300 / 175], ["Chinchilla", 20], ["Llama 3 8B", 15000 / 8]]; // tokens per parameter of well-known models

/** Put the figure into `element`. `data` is as in budget.json. */
export function mount(element, data) {
  const {gpus, runs, vocab_size} = data;
  let run = null, priced = false, before = null; // priced: by the reader; before: how many tokens it was to be, before it was Chinchilla's number

  // ---------- the parts

  const button = (text, onclick) => h("button", {type: "button", onclick}, text);
  const example = h("select", {onchange: () => begin(Number(example.value))}, ...runs.map(({name}, n) => h("option", {value: n}, name)), h("option", {value: "", hidden: ""}, "Your own"));
  const kind = h("select", {onchange: () => change({kind: kind.value})}, ...gpus.map(({name, peak}) => h("option", {value: name}, `${name}, ${grouped(peak)} TFLOP/s`)));
  const price = h("input", {type: "number", min: 0, step: 0.05, oninput: () => { priced = true; if (price.value !== "" && price.value >= 0) change({price: Number(price.value)}); }});
  const twenty = () => Number((20 * plan(run, vocab_size).N).toPrecision(3));
  const share = button("", () => {
    if (run.tokens === twenty()) return change({tokens: before});
    before = run.tokens;
    change({tokens: twenty()});
  });
  const again = button("Start again", () => { priced = false; begin(0); });

  /** A slider over a list of values, or over powers of ten. */
  function slide(label, key, values, say = grouped) {
    const output = h("output", {}), log = !Array.isArray(values);
    const input = h("input", {type: "range", min: log ? values.from * STEPS : 0, max: log ? values.to * STEPS : values.length - 1,
      oninput: () => change({[key]: log ? Number((10 ** (input.value / STEPS)).toPrecision(2)) : values[input.value]})});
    const near = x => log ? Math.round(STEPS * Math.log10(x)) : values.reduce((best, value, n) => Math.abs(value - x) < Math.abs(values[best] - x) ? n : best, 0);
    const show = () => {
      input.value = near(run[key]);
      output.textContent = say(run[key]);
      input.setAttribute("aria-valuetext", output.textContent);
    };
    return {show, label: h("label", {}, h("span", {class: "zhw-name"}, label), input, output)};
  }

  const sliders = [
    slide("Layers", "layers", LAYERS), slide("Width", "width", WIDTHS, width => `${grouped(width)}, ${grouped(width / 64)} head${width === 64 ? "" : "s"}`),
    slide("Context", "context", powers(6, 15), T => `${grouped(T)} tokens`), slide("Tokens", "tokens", {from: 6, to: 14}, human),
    slide("Micro-batch", "batch", powers(0, 8), B => `${B} text${B === 1 ? "" : "s"}`), slide("GPUs", "gpus", powers(0, 14)),
    slide("MFU", "mfu", Array.from({length: 80}, (_, n) => (n + 1) / 100), mfu => `${Math.round(100 * mfu)} %`),
  ];
  const title = h("p", {class: "zhw-title", role: "status"});
  const figures = ["parameters", "operations in all", "time", "cost"].map(name => ({value: h("b", {}), label: h("small", {}, name)}));

  /** A bar in parts, with the parts named below. `parts` are keys, names and colours. */
  function bar(parts) {
    const head = h("p", {class: "zhw-bg-head"}), rest = h("i", {class: "zhw-bg-free"}), limit = h("i", {class: "zhw-bg-limit"});
    const pieces = parts.map(([key, name, hue]) => ({key, name, piece: h("i", {class: `zhw-bg-${hue}`}), value: h("b", {}), share: h("small", {}), hue}));
    const track = h("div", {class: "zhw-bg-track", role: "img"}, ...pieces.map(({piece}) => piece), rest, limit);
    const list = h("ul", {class: "zhw-bg-parts"}, ...pieces.map(({name, value, share, hue}) => h("li", {}, h("i", {class: `zhw-bg-${hue}`, "aria-hidden": "true"}), h("span", {}, name), value, share)));
    const show = (counts, say, text, full = 0) => {
      const total = sum(counts), whole = Math.max(full, total);
      head.textContent = text;
      pieces.forEach(({key, piece, value, share}) => {
        piece.style.width = `${100 * counts[key] / whole}%`;
        value.textContent = say(counts[key]);
        share.textContent = percent(counts[key] / total);
      });
      rest.style.width = `${100 * (1 - total / whole)}%`;
      limit.hidden = !full || total <= full;
      limit.style.left = `${100 * full / whole}%`;
      track.setAttribute("aria-label", `${text}: ${pieces.map(({key, name}) => `${name} ${percent(counts[key] / total)}`).join(", ")}`);
    };
    return {show, part: h("section", {class: "zhw-bg-bar"}, head, track, list)};
  }

  const parameters = bar([["tokens", "token embedding", "third"], ["positions", "positions", "fourth"], ["attention", "attention", "data"], ["feed-forward", "feed-forward", "grad"], ["norms", "norms", "muted"]]);
  const flops = bar([["output", "output projection", "third"], ["attention", "attention's scores", "fourth"], ["projections", "attention's matrices", "data"], ["feed-forward", "feed-forward", "grad"]]);
  const memory = bar([["weights", "weights", "data"], ["gradients", "gradients", "grad"], ["optimizer", "optimizer", "third"], ["activations", "activations", "fourth"], ["logits", "logits", "muted"]]);
  const fit = h("p", {class: "zhw-bg-said", role: "status"}), said = h("p", {class: "zhw-bg-said", role: "status"});
  const place = ratio => `${(100 * Math.log(Math.min(MOST, Math.max(FEWEST, ratio)) / FEWEST) / Math.log(MOST / FEWEST)).toFixed(2)}%`;
  const here = h("i", {class: "zhw-bg-here"});
  const scale = h("div", {class: "zhw-bg-scale", role: "img"}, here,
    ...[0.1, 1, 10, 100, 1000, 10000].map(x => h("small", {class: "zhw-bg-tick", style: `left: ${place(x)}`}, grouped(x) === "0" ? "0.1" : grouped(x))),
    ...KNOWN.map(([name, ratio]) => h("span", {class: "zhw-bg-known", style: `left: ${place(ratio)}`}, h("small", {}, name), h("i", {}))));

  element.replaceChildren(h("div", {class: "zhw zhw-bg"},
    h("div", {class: "zhw-bar"}, h("label", {}, "Begin with", example), h("label", {}, "Kind of GPU", kind), h("label", {}, "Dollars per GPU hour", price)),
    h("div", {class: "zhw-bg-sliders"}, ...sliders.map(({label}) => label), h("div", {class: "zhw-buttons"}, share, again)),
    title,
    h("div", {class: "zhw-bp-figures zhw-fl-figures"}, ...figures.map(({value, label}) => h("span", {}, value, label))),
    h("div", {class: "zhw-bg-two"}, parameters.part, flops.part),
    h("div", {class: "zhw-bg-two"}, h("div", {}, memory.part, fit),
      h("section", {class: "zhw-bg-bar"}, h("p", {class: "zhw-bg-head"}, "Tokens per parameter"), scale, said)),
    h("p", {class: "zhw-note"}, "Counted for a GPT-2 of this size with 50,304 rows of tokens: two operations for each multiplication, forward and backward; every GPU holds the whole model. The prices are guesses to begin with: put in what you pay.")));

  // ---------- what the controls do

  function begin(n) {
    const {name, ...given} = runs[n];
    before = given.tokens;
    change(given);
    example.value = n;
  }

  function change(by) {
    run = {...run, ...by};
    const gpu = gpus.find(({name}) => name === run.kind);
    Object.assign(run, {peak: gpu.peak * 1e12, memory: gpu.memory * 1e9});
    if (!priced) run.price = gpu.price;
    example.value = "";
    update();
  }

  // ---------- drawing

  function update() {
    const found = plan(run, vocab_size);
    for (const {show} of sliders) show();
    kind.value = run.kind;
    share.textContent = run.tokens === twenty() ? `Back to ${human(before)} tokens` : "20 tokens per parameter";
    if (document.activeElement !== price) price.value = run.price.toFixed(2);
    title.textContent = `${human(found.N)} parameters read ${human(run.tokens)} tokens in ${duration(found.seconds)} on ${grouped(run.gpus)} ${run.kind}${run.gpus > 1 ? "s" : ""}, ${human(found.rate)} tokens a second, for ${money(found.cost)}`;
    [human(found.N), power(found.work, 1), duration(found.seconds), money(found.cost)].forEach((text, n) => { figures[n].value.textContent = text; });
    parameters.show(found.parameters, human, `${grouped(found.N)} parameters`);
    flops.show(found.flops, human, `${human(sum(found.flops))} operations per token`);
    memory.show(found.memory, bytes, "Memory of each GPU", run.memory);
    fit.textContent = verdict(found, run);
    fit.classList.toggle("zhw-grad", !found.fits);
    here.style.left = place(found.ratio);
    scale.setAttribute("aria-label", `${human(found.ratio)} tokens per parameter, on a scale from ${FEWEST} to ${grouped(MOST)} with ${KNOWN.map(([name, ratio]) => `${name} at ${human(ratio)}`).join(", ")}`);
    said.textContent = chinchilla(found);
  }

  begin(0);
}

start("budget", mount);
