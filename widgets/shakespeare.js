// The trained transformer writes while the reader watches: every character is drawn from the bars beside the text.
import {distribution, encode, load, reader} from "./gpt.js";
import {calm, draw, h, random, start} from "./widget.js";

/** Characters that cannot be seen have names. */
export const named = symbol => ({" ": "space", "\n": "new line"})[symbol] ?? symbol;

/** What is wrong with a prompt, or "". */
export function complaint(characters, prompt) {
  const odd = [...new Set([...prompt].filter(symbol => !characters.includes(symbol)))];
  if (!odd.length) return "";
  const listed = odd.map(symbol => `'${symbol}'`).join(", ");
  return `The network has never seen ${listed}. It knows letters, space, new line and ${[...characters].filter(c => !/[A-Za-z\s]/.test(c)).join(" ")}`;
}

/** The `count` likeliest, best first, as indices. */
export const likeliest = (p, count) => Array.from(p, (_, i) => i).sort((a, b) => p[b] - p[a] || a - b).slice(0, count);

// ------------------------------------------------------------ the widget

const SHOWN = 12; // bars
const PACE = 45; // milliseconds between two characters, at least
const SLICE = 12; // milliseconds of computing before the page gets its turn
const LIMIT = 4000; // characters, so that a forgotten tab comes to rest
const PROMPT = "ROMEO:\n";
const percent = p => p === 0 ? "0 %" : p < 0.0005 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`;
const wait = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));

/** Put the figure into `element`. `data` is as in shakespeare.json; the weights come when they are wanted. */
export function mount(element, data) {
  const V = data.characters.length, T = data.config.block_size;
  let model = null, loading = null, thinker = null; // the network, once it has arrived
  let written = "", logits = null, uniform = null; // after the prompt; what comes next; the chances
  let failure = ""; // why the weights did not come
  let run = 0, running = false; // every change of plan gets a number, so that work for an old one can tell

  // ---------- the parts

  const button = (text, onclick) => h("button", {type: "button", onclick}, text);
  const go = button("Start", () => running ? pause() : play());
  const step = button("Step", () => { pause(); once(); });
  const prompt = h("textarea", {class: "zhw-gpt-prompt", rows: 2, maxlength: 600, spellcheck: "false", autocapitalize: "none", oninput: restart});
  prompt.value = PROMPT;
  const slider = (min, max, step, value) => h("input", {type: "range", min, max, step, value, oninput: show});
  const warmth = slider(0, 2, 0.05, 0.8), top = slider(1, V, 1, V), seed = h("input", {type: "number", min: 0, max: 999999, step: 1, value: 7, oninput: restart});
  const warmthText = h("output", {}), topText = h("output", {});
  const given = h("b", {}), old = h("span", {class: "zhw-gpt-old"}), fresh = h("span", {}), caret = h("i", {class: "zhw-gpt-caret"});
  const page = h("div", {class: "zhw-gpt-page", tabindex: 0, role: "region", "aria-label": "What the network has written"}, old, given, fresh, caret);
  const status = h("p", {class: "zhw-title", role: "status"}), context = h("p", {class: "zhw-note"});
  const bars = Array.from({length: SHOWN}, () => {
    const name = h("span", {class: "zhw-gpt-name"}), full = h("i", {class: "zhw-gpt-full"}), plain = h("i", {class: "zhw-gpt-plain"}), share = h("small", {});
    const bar = {name, full, plain, share, id: null};
    bar.button = h("button", {type: "button", class: "zhw-gpt-bar", onclick: () => { pause(); take(bar.id); think(++run); }}, name, h("span", {class: "zhw-gpt-track"}, full, plain), share);
    return bar;
  });
  const chart = h("div", {class: "zhw-gpt-bars", role: "group", "aria-label": "The likeliest next characters; press one to choose it"}, ...bars.map(bar => bar.button));

  element.replaceChildren(h("div", {class: "zhw zhw-gpt"},
    h("div", {class: "zhw-bar"}, h("label", {class: "zhw-gpt-asked"}, "Prompt: how the text begins", prompt),
      h("div", {class: "zhw-buttons"}, go, step, button("Restart", restart), h("label", {class: "zhw-seed"}, "Seed ", seed))),
    h("div", {class: "zhw-sliders"},
      h("label", {}, h("span", {class: "zhw-name"}, "Temperature"), warmth, warmthText),
      h("label", {}, h("span", {class: "zhw-name"}, "Top-k"), top, topText)),
    status,
    h("div", {class: "zhw-gpt-two"}, h("div", {}, page, context), h("div", {}, chart,
      h("p", {class: "zhw-note"}, "Bars: the chances after temperature and top-k. Ticks: what the network itself said. Press a bar to choose it yourself.")))));

  // ---------- what happens

  const settings = () => [Number(warmth.value), Number(top.value)];
  const wrong = () => complaint(data.characters, prompt.value);
  const text = () => (prompt.value || "\n") + written;

  /** The weights, once; after a failure the next call tries again. */
  function arrive() {
    loading ??= (async () => {
      failure = "";
      status.textContent = `Loading the network, ${(data.bytes / 1e6).toFixed(1)} MB…`;
      try {
        const response = await fetch(new URL("shakespeare.bin", import.meta.url));
        if (!response.ok) throw new Error(`the server answered ${response.status}`);
        model = load(data, await response.arrayBuffer());
        thinker = reader(model);
      } catch (error) {
        loading = null;
        status.textContent = failure = `The network could not be loaded (shakespeare.bin: ${error.message}). Press Start to try again.`;
        throw error;
      }
    })();
    return loading;
  }

  /** Find out what comes next, a slice at a time; false if the reader has other plans by then. */
  async function think(mine) {
    if (wrong()) return false;
    await arrive();
    if (mine !== run || wrong()) return false;
    const thought = thinker.think(encode(model, text()));
    for (let since = performance.now(), now = thought.next(); ; now = thought.next()) {
      if (now.done) { logits = now.value; break; }
      if (performance.now() - since < SLICE) continue;
      await wait(0);
      if (mine !== run) return false;
      since = performance.now();
    }
    if (!(running && calm())) show();
    return true;
  }

  function take(id) {
    if (id === null) return;
    written += data.characters[id];
    logits = null;
  }

  const choose = () => take(draw(distribution(logits, ...settings()), uniform()));

  async function once() {
    const mine = ++run;
    if (!await think(mine).catch(() => false)) return;
    choose();
    await think(mine);
  }

  async function play() {
    const mine = ++run;
    running = true;
    label();
    let due = performance.now(), lines = 0;
    if (await think(mine).catch(() => false)) do {
      choose();
      // who asks for stillness sees two lines at a time, and asks for the next
      if (calm() && written.endsWith("\n") && ++lines === 2) break;
      due = Math.max(due + PACE, performance.now());
      if (!await think(mine)) break;
      if (!calm()) await wait(Math.max(0, due - performance.now()));
    } while (mine === run && written.length < LIMIT);
    if (mine !== run) return;
    running = false;
    label();
    await think(mine).catch(() => false);
  }

  function pause() {
    const halfway = running && !logits;
    if (running) run++;
    running = false;
    label();
    show();
    if (halfway && loading) think(run).catch(() => false); // the character just drawn has to be read
  }

  function restart() {
    run++;
    running = false;
    written = "";
    logits = null;
    uniform = random(Number(seed.value) || 0);
    label();
    show();
    if (loading) think(run).catch(() => false);
  }

  // ---------- drawing

  function label() {
    go.textContent = running ? "Pause" : "Start";
  }

  /** One sentence about what the bars say. */
  function words(p, plain) {
    const [temperature, k] = settings(), possible = p.filter(x => x > 0.005).length;
    const after = [...text()].slice(-8).map(symbol => symbol === "\n" ? "↵" : symbol).join("");
    const best = likeliest(p, 1)[0], name = named(data.characters[best]);
    if (temperature === 0) return `After '${after}': temperature 0 always takes the likeliest, ${name}`;
    if (k === 1) return `After '${after}': top-k 1 leaves only the likeliest, ${name}`;
    if (p[best] > 0.9) return `After '${after}': hardly a choice, ${name} has ${percent(p[best])}`;
    return `After '${after}': ${possible} characters have a chance above 0.5 %; ${name} leads with ${percent(p[best])}`;
  }

  function show() {
    const [temperature, k] = settings(), problem = wrong();
    warmthText.textContent = temperature.toFixed(2);
    topText.textContent = k === V ? `all ${V}` : k;
    go.disabled = step.disabled = Boolean(problem);
    const beyond = Math.max(0, text().length - T), begun = prompt.value || "\n";
    old.replaceChildren(h("b", {}, begun.slice(0, beyond)), written.slice(0, Math.max(0, beyond - begun.length)));
    given.textContent = begun.slice(beyond);
    fresh.textContent = written.slice(Math.max(0, beyond - begun.length));
    page.scrollTop = page.scrollHeight;
    const p = logits && !problem ? distribution(logits, temperature, k) : null, plain = p && distribution(logits, 1);
    const order = p ? likeliest(plain, SHOWN) : [], most = p ? Math.max(...p, ...plain) : 1;
    if (p || !running) bars.forEach((bar, i) => { // while it computes, the old bars stay
      const id = bar.id = order[i] ?? null, name = p ? named(data.characters[id]) : "–";
      bar.button.disabled = !p;
      bar.name.textContent = name;
      bar.name.classList.toggle("zhw-gpt-word", name.length > 1);
      bar.full.style.width = p ? `${(100 * p[id] / most).toFixed(1)}%` : "0";
      bar.plain.style.left = p ? `${(100 * plain[id] / most).toFixed(1)}%` : "0";
      bar.share.textContent = p ? percent(p[id]) : "";
      if (p) bar.button.setAttribute("aria-label", `${name}: ${percent(p[id])}, the network says ${percent(plain[id])}`);
      else bar.button.removeAttribute("aria-label");
    });
    if (problem || failure) status.textContent = problem || failure;
    else if (written.length >= LIMIT) status.textContent = `That makes ${LIMIT} characters. Press Restart to begin again.`;
    else if (p) status.textContent = words(p, plain);
    else if (!loading) status.textContent = "Press Start: the network then writes on from the prompt, one character at a time.";
    context.textContent = (prompt.value ? "" : "The prompt is empty, so the text begins from a new line. ") + (beyond
      ? `In view: the last ${T} characters. The grey ones are forgotten, and since the view slides, all ${T} are read anew for each character.`
      : `In view: ${text().length} of at most ${T} characters. What was read is kept, so each new character costs one step.`);
  }

  restart();
  // the weights come when the figure does, if the reader never presses Start
  new IntersectionObserver((entries, observer) => {
    if (!entries.some(entry => entry.isIntersecting)) return;
    observer.disconnect();
    think(run).catch(() => false);
  }).observe(element);
}

start("shakespeare", mount);
