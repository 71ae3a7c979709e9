// Writing a text token by token: what a cache spares, and what guessing ahead saves on top of it.
import {h, player, start} from "./widget.js";

// ------------------------------------------------------------ arithmetic

/** How many positions are computed up to and with each step, without a cache and with one: the prompt, then one more token a step. */
export function computed(prompt, steps) {
  const rows = [];
  for (let n = 0, without = 0; n < steps; n++) {
    without += prompt + n;
    rows.push({without, with: prompt + n});
  }
  return rows;
}

/** The text after each pass: pieces of {text, kind}, "guess" for an accepted guess, "target" for what the target said itself. */
export function written(passes) {
  const pieces = [], states = [];
  for (const {guesses, accepted, next} of passes) {
    guesses.slice(0, accepted).forEach(text => pieces.push({text, kind: "guess"}));
    pieces.push({text: next, kind: "target"});
    states.push([...pieces]);
  }
  return states;
}

/** Of all passes together: how many, tokens written, tokens guessed, guesses accepted. */
export function totals(passes) {
  const sum = pick => passes.reduce((total, pass) => total + pick(pass), 0);
  const guessed = sum(({guesses}) => guesses.length), accepted = sum(pass => pass.accepted);
  return {passes: passes.length, tokens: accepted + passes.length, guessed, accepted};
}

// ------------------------------------------------------------ saying it

export const spelled = text => text === "\n" ? "⏎" : text === " " ? "·" : text;
const quoted = texts => `“${texts.map(spelled).join("").trimStart()}”`;
const positions = n => `${n} position${n === 1 ? "" : "s"}`;

/** What happens in a pass, in a sentence or two. */
export function explain({guesses, accepted, next}) {
  const n = guesses.length, wrong = n - accepted;
  if (!n) return `Nothing is found, so there is no guess to check. The model says ${quoted([next])}.`;
  const begin = `Found further up: ${quoted(guesses)}. The model looks at ${n === 1 ? "it" : `all ${n}`} in one pass`;
  if (!wrong) return `${begin} and agrees${n === 1 ? "" : " with every one"}. Its last logits give one token more, ${quoted([next])}, for nothing.`;
  const agreed = accepted ? `agrees with ${quoted(guesses.slice(0, accepted))}` : n === 1 ? "does not agree" : "agrees with none";
  const forgets = `Its cache forgets ${positions(wrong)}.`;
  return `${begin}, ${agreed}, and says ${quoted([next])} where the guess was ${quoted([guesses[accepted]])}. ${forgets}`;
}

// ------------------------------------------------------------ the widget

const PACE = 900; // milliseconds between two steps

/** Put the figure into `element`. `data` is as in decoding.json. */
export function mount(element, data) {
  const {prompt, answer, request, passes} = data, P = prompt.length, G = answer.length, text = [...prompt, ...answer];
  const sums = computed(P, G), states = written(passes);
  let view = "cache", at = 0;

  const button = (name, onclick = () => {}) => h("button", {type: "button", onclick}, name);
  const back = button("Back", () => { stop(); go(at - 1); }), next = button("Next", () => { stop(); go(at + 1); });
  const play = button("Play"), stop = player(play, {at: () => at, last: () => last(), go, pace: PACE});
  const again = button("Start again", () => { stop(); go(0); });
  const choice = h("select", {onchange: () => { stop(); view = choice.value; go(0); }}, h("option", {value: "cache"}, "The cache"), h("option", {value: "guesses"}, "Guess and check"));
  const slider = h("input", {type: "range", min: 0, "aria-label": "Step", oninput: () => { stop(); go(Number(slider.value)); }}), where = h("output", {});
  const title = h("p", {class: "zhw-title", role: "status"}), why = h("p", {class: "zhw-de-why", "aria-live": "polite"});
  const counts = Array.from({length: 3}, () => ({value: h("b", {}), label: h("small", {})}));

  /** A grid of one row per step and one column per position. */
  const grid = name => {
    const cells = answer.map((_, n) => text.slice(0, -1).map(() => h("i", {role: "cell"})));
    const head = text.slice(0, -1).map((word, i) => h("span", {role: "columnheader", class: i < P ? "zhw-de-given" : ""}, spelled(word)));
    const row = (...children) => h("div", {role: "row", class: "zhw-de-row"}, ...children);
    const map = h("div", {class: "zhw-de-map", role: "table", "aria-label": name, style: `--columns: ${text.length - 1}`}, row(...head), ...cells.map(line => row(...line)));
    return {cells, box: h("div", {}, h("p", {class: "zhw-de-head"}, name), map)};
  };
  const grids = [grid("Without a cache"), grid("With a cache")];
  const cacheView = h("div", {class: "zhw-de-two"}, ...grids.map(({box}) => box));
  const lines = passes.map(({guesses, accepted, next: said}, n) => {
    const kind = i => i < accepted ? "guess" : i === accepted ? "wrong" : "unread";
    const cells = guesses.map((guess, i) => h("span", {class: `zhw-de-${kind(i)}`}, spelled(guess)));
    return h("li", {}, h("small", {}, `pass ${n + 1}`), h("span", {class: "zhw-de-cells"}, ...cells, h("span", {class: "zhw-de-target"}, spelled(said))));
  });
  const passList = h("ol", {class: "zhw-de-passes", "aria-label": "Passes of the model"}, ...lines);
  const output = h("p", {class: "zhw-de-text"});
  const guessView = h("div", {class: "zhw-de-two"}, passList, h("div", {}, h("p", {class: "zhw-de-head"}, "The text"), output));
  const notes = {
    cache: h("p", {class: "zhw-note"}, `A row is a step, a column a position; · is a space, ⏎ a new line. `, h("i", {class: "zhw-de-key zhw-de-work"}), " computed in this step; ", h("i", {class: "zhw-de-key zhw-de-kept"}), " keys and values found in the cache. A real text: the small model of the plays."),
    guesses: h("p", {class: "zhw-note"}, h("span", {class: "zhw-de-guess"}, "guess"), " accepted, ", h("span", {class: "zhw-de-wrong"}, "guess"), " refused, ", h("span", {class: "zhw-de-unread"}, "guess"), " after a refusal, thrown away; ", h("span", {class: "zhw-de-target"}, "token"), " of the model itself. A real text: SmolLM2 corrects a sentence, greedy; the guesses are what followed the last words where they stood before."),
  };
  const foot = h("div", {});

  element.replaceChildren(h("div", {class: "zhw zhw-de"},
    h("div", {class: "zhw-bar"}, h("div", {class: "zhw-buttons"}, back, next, play, again), h("label", {}, "What to look at", choice)),
    h("label", {class: "zhw-fl-slider"}, slider, where),
    title, why, cacheView, guessView,
    h("div", {class: "zhw-bp-figures zhw-de-figures"}, ...counts.map(({value, label}) => h("span", {}, value, label))), foot));

  const last = () => view === "cache" ? G : passes.length;

  function go(to) {
    at = Math.max(0, Math.min(last(), to));
    update();
    const {activeElement} = document;
    if (activeElement === document.body || activeElement.disabled) (at === last() ? back : next).focus();
  }

  const say = (...pairs) => counts.forEach(({value, label}, i) => { [value.textContent, label.textContent] = pairs[i]; });

  function showCache() {
    grids.forEach(({cells}, cached) => cells.forEach((line, n) => line.forEach((cell, i) => {
      const there = n < at && i < P + n, work = there && (!cached || n === 0 || i === P + n - 1);
      cell.className = there ? (work ? "zhw-de-work" : "zhw-de-kept") : "";
      cell.classList.toggle("zhw-de-now", n === at - 1 && work);
      cell.setAttribute("aria-label", there ? (work ? "computed" : "from the cache") : "nothing");
    })));
    const sum = at ? sums[at - 1] : {without: 0, with: 0};
    title.textContent = at ? `Step ${at} writes ${quoted([answer[at - 1]])}` : "Nothing is written yet. Press Next";
    why.textContent = !at ? `The prompt has ${positions(P)}. Every layer computes a query, a key and a value for each.`
      : at === 1 ? "The first step computes the prompt, with a cache and without: the prefill."
        : `Without a cache, all ${positions(P + at - 1)} are computed to learn one more token. With it there is one, the token of the step before; what the others have to say is found in the cache.`;
    say([String(sum.without), "positions computed without"], [String(sum.with), "with a cache"], [at ? (sum.without / sum.with).toFixed(1) : "–", "times as many without"]);
  }

  function showGuesses() {
    lines.forEach((line, n) => {
      line.classList.toggle("zhw-de-hidden", n >= at);
      line.classList.toggle("zhw-de-now", n === at - 1);
    });
    const pieces = at ? states[at - 1] : [], {tokens, guessed, accepted} = totals(passes.slice(0, at));
    output.replaceChildren(h("span", {class: "zhw-de-given"}, `${request}\n\n`), ...pieces.map(({text: piece, kind}) => h("span", {class: `zhw-de-${kind}`}, piece)));
    title.textContent = at ? `Pass ${at}: ${passes[at - 1].accepted} of ${passes[at - 1].guesses.length} guesses right, ${passes[at - 1].accepted + 1} token${passes[at - 1].accepted ? "s" : ""} written` : "Nothing is written yet. Press Next";
    why.textContent = at ? explain(passes[at - 1]) : `Up to ${data.gamma} tokens are guessed, from the text so far; the model looks at all of them at once.`;
    say([String(at), "passes of the model"], [at ? (tokens / at).toFixed(2) : "–", "tokens a pass"], [guessed ? `${Math.round(100 * accepted / guessed)} %` : "–", "of the guesses accepted"]);
  }

  function update() {
    cacheView.hidden = view !== "cache";
    guessView.hidden = view === "cache";
    foot.replaceChildren(notes[view]);
    (view === "cache" ? showCache : showGuesses)();
    back.disabled = again.disabled = at === 0;
    next.disabled = at === last();
    slider.max = last();
    slider.value = at;
    where.textContent = `step ${at} of ${last()}`;
    slider.setAttribute("aria-valuetext", where.textContent);
    choice.value = view;
  }

  go(0);
}

start("decoding", mount);
