// Byte-pair encoding trained by hand: press for the next merge, or choose another pair and see what it costs.
import {bytesOf, countPairs, face, flowing, hues, places, quoted, ranking, replacePair, translate, visible} from "./bpe.js";
import {calm, h, s, start} from "./widget.js";

// ------------------------------------------------------------ training

/** Training at its beginning: the bytes of a text, as one word, or as the words of a split pattern. */
export function begin(text, split) {
  const words = (split ? Array.from(text.matchAll(split), match => match[0]) : [text]).map(bytesOf);
  return {words, vocab: Array.from({length: 256}, (_, byte) => [byte]), pairs: ranking(countPairs(words)), merges: []};
}

/** Training one merge further. Nothing of the old state is changed. */
export function advance({words, vocab, merges}, pair) {
  const merged = replacePair(words, pair, vocab.length);
  return {words: merged, vocab: [...vocab, pair.flatMap(id => vocab[id])], pairs: ranking(countPairs(merged)), merges: [...merges, pair]};
}

export const length = ({words}) => words.reduce((sum, word) => sum + word.length, 0);

/** The pair to merge next. One that occurs only once is not worth a token, so there training by hand ends. */
export const best = ({pairs}) => pairs[0]?.count > 1 ? pairs[0] : null;

/** How many tokens are left after 0, 1, 2, ... merges of the most frequent pair. */
export function greedy(state) {
  const left = [length(state)];
  for (let top; (top = best(state));) left.push(length(state = advance(state, top.pair)));
  return left;
}

// ------------------------------------------------------------ saying it

const grouped = n => n.toLocaleString("en");
const many = (n, thing) => `${grouped(n)} ${thing}${n === 1 ? "" : "s"}`;
const named = ({vocab}, pair) => pair.map(id => quoted(vocab[id])).join(" + ");

/** Why this pair is next. */
export function reason(state) {
  const top = best(state), [, second] = state.pairs;
  if (!top) return state.pairs.length ? "No pair occurs twice any more: here another merge would not pay." : "Nothing is left to merge.";
  const why = second?.count === top.count ? `as often as ${named(state, second.pair)}, but seen first` : "more often than any other pair";
  return `Next: ${named(state, top.pair)}, ${many(top.count, "time")}, ${why}. It becomes token ${state.vocab.length}.`;
}

/** How the reader does against the greedy rule: `left` is what greedy leaves after each number of merges. */
export function verdict(state, left) {
  const done = state.merges.length, mine = length(state), theirs = left[Math.min(done, left.length - 1)];
  const same = `after ${many(done, "merge")}`;
  if (done >= left.length) return `Greedy found only ${many(left.length - 1, "merge")} worth making and stopped at ${many(theirs, "token")}; you have ${mine}.`;
  if (mine === theirs) return `Your own choice, and no worse: greedy also has ${many(theirs, "token")} ${same}.`;
  const by = `${Math.abs(mine - theirs)} ${mine > theirs ? "fewer" : "more"}`;
  return `${mine > theirs ? "Greedy would have done better" : "You are ahead of greedy"}: it has ${many(theirs, "token")} ${same}, ${by} than you.`;
}

// ------------------------------------------------------------ the widget

const ROWS = 8; // of the table of pairs
const PACE = 600; // milliseconds between two merges
const LIMIT = 2000; // characters of the reader's own text
const HINT = "Or choose another pair of the table: can you do better than this rule?";
const WIDE = 340, TALL = 120, SIDE = 34, FOOT = 18; // of the chart, in its own units

/** Put the figure into `element`. `data` is as in merges.json. */
export function mount(element, data) {
  const split = translate(data.pattern), names = Object.keys(data.texts);
  let path = [], left = [], looked = null, timer = null; // the states so far, and whether the reader chose; greedy's counts; a row of the table

  // ---------- the parts

  const button = (text, onclick) => h("button", {type: "button", onclick}, text);
  const merge = button("Merge", () => { stop(); step(); });
  const back = button("Back", () => { stop(); path.pop(); update(); refocus(merge); });
  const play = button("Play", () => timer ? stop() : run());
  const again = button("Start again", restart);
  const choice = h("select", {"aria-label": "Text", onchange: pickText}, ...names.map(name => h("option", {value: name}, name)), h("option", {value: ""}, "Your own text …"));
  const whole = h("input", {type: "checkbox", onchange: restart});
  const own = h("textarea", {class: "zhw-tk-input", rows: 3, maxlength: LIMIT, spellcheck: "false", "aria-label": "Your own text", oninput: restart});
  const title = h("p", {class: "zhw-title", role: "status"}), result = h("p", {class: "zhw-bp-result", role: "status"});
  const page = h("div", {class: "zhw-tk-page zhw-bp-page", "data-view": "text", tabindex: 0, role: "region", "aria-label": "The text as tokens"});
  const rows = Array.from({length: ROWS}, (_, n) => {
    const name = h("span", {class: "zhw-bp-pair"}), bar = h("i", {}), count = h("small", {});
    const look = () => { looked = n; paint(); };
    const row = h("button", {type: "button", class: "zhw-bp-row", onclick: () => { stop(); step(n); }, onpointerenter: look, onfocus: look, onpointerleave: unlook, onblur: unlook},
      name, h("span", {class: "zhw-bp-track"}, bar), count);
    return {row, name, bar, count};
  });
  const figures = ["tokens", "bytes per token", "vocabulary", "merges"].map(name => ({name, value: h("b", {})}));
  const made = h("div", {class: "zhw-bp-made", tabindex: 0, role: "region", "aria-label": "Tokens made so far"});
  const line = {greedy: s("path", {class: "zhw-bp-greedy"}), mine: s("path", {class: "zhw-bp-mine"}), now: s("circle", {class: "zhw-bp-now", r: 4})};
  const ticks = [0, 1].flatMap(part => [s("text", {class: "zhw-tick", x: SIDE - 5, y: part ? 10 : TALL + 4}), s("text", {class: "zhw-bp-tick", x: part ? WIDE : SIDE, y: TALL + FOOT - 3})]);
  const chart = s("svg", {viewBox: `0 0 ${WIDE + 6} ${TALL + FOOT}`, role: "img"}, s("path", {class: "zhw-grid", d: `M${SIDE} 4V${TALL}H${WIDE}`, fill: "none"}), line.greedy, line.mine, line.now, ...ticks);

  element.replaceChildren(h("div", {class: "zhw zhw-bp"},
    h("div", {class: "zhw-bar"}, h("div", {class: "zhw-buttons"}, merge, back, play, again),
      h("div", {class: "zhw-bp-set"}, choice, h("label", {class: "zhw-bp-check"}, whole, "Split into words first"))),
    own, h("div", {}, title, result),
    h("div", {class: "zhw-bp-two"}, page, h("div", {class: "zhw-bp-table", role: "group", "aria-label": "The most frequent pairs; press one to merge it"},
      h("p", {class: "zhw-bp-head"}, "Pairs of neighbours, and how often they occur"), ...rows.map(({row}) => row))),
    h("div", {class: "zhw-bp-figures"}, ...figures.map(({name, value}) => h("span", {}, value, h("small", {}, name)))),
    h("div", {class: "zhw-bp-two"}, h("div", {}, h("p", {class: "zhw-bp-head"}, "Tokens made so far"), made), h("div", {}, h("p", {class: "zhw-bp-head"}, "Tokens left after each merge; thin: greedy"), chart))));

  // ---------- what the controls do

  const state = () => path.at(-1).state;

  function pickText() {
    if (!choice.value) own.value = own.value || Object.values(data.texts)[0];
    restart();
    if (!choice.value) own.focus();
  }

  function restart() {
    stop();
    own.hidden = Boolean(choice.value);
    const first = begin(choice.value ? data.texts[choice.value] : own.value, whole.checked && split);
    path = [{state: first, strayed: false}];
    left = greedy(first);
    update();
  }

  /** Merge the n-th pair of the table. */
  function step(n = 0) {
    path.push({state: advance(state(), state().pairs[n].pair), strayed: path.at(-1).strayed || n > 0});
    looked = null;
    update();
    refocus(back);
  }

  function run() {
    const ended = () => !best(state());
    if (calm()) {
      while (!ended()) path.push({state: advance(state(), best(state()).pair), strayed: path.at(-1).strayed});
      update();
      return refocus(back);
    }
    const tick = () => {
      step();
      timer = ended() ? null : setTimeout(tick, PACE);
      play.textContent = timer ? "Pause" : "Play";
      if (!timer) refocus(back);
    };
    tick();
  }

  function stop() {
    clearTimeout(timer);
    timer = null;
    play.textContent = "Play";
  }

  function refocus(to) {
    const {activeElement} = document;
    if (activeElement === document.body || activeElement.disabled) to.focus();
  }

  function unlook() {
    looked = null;
    paint();
  }

  // ---------- drawing

  /** The text, with the pair marked that is next or that the reader looks at. */
  function paint() {
    const {words, vocab, pairs} = state(), top = looked === null ? best(state()) : pairs[looked];
    const colours = hues(words.flat().map(id => id < 256 ? NaN : id)); // single bytes have none
    let n = 0;
    page.replaceChildren(...words.flatMap((word, w) => {
      const lefts = new Set(top ? places(word, top.pair) : []);
      return word.map((id, i) => {
        const {text, raw} = face(vocab[id]), hue = colours[n++];
        const kinds = [id >= 256 && `zhw-tk-token zhw-tk-${hue}`, raw && "zhw-tk-raw", lefts.has(i) ? "zhw-bp-left" : lefts.has(i - 1) && "zhw-bp-right", whole.checked && !i && w && "zhw-bp-word"];
        return h("span", {class: kinds.filter(Boolean).join(" ")}, raw ? text : flowing(text));
      });
    }));
    title.textContent = looked === null || looked === 0 ? reason(state())
      : `${named(state(), top.pair)}, ${many(top.count, "time")}. Press to merge this pair instead.`;
    rows.forEach(({row}, i) => row.classList.toggle("zhw-bp-next", i === 0 && Boolean(best(state()))));
  }

  function update() {
    const {vocab, pairs, merges} = state(), tokens = length(state()), bytes = left[0], ended = !best(state());
    merge.disabled = play.disabled = ended;
    back.disabled = path.length === 1;
    const most = pairs[0]?.count;
    rows.forEach(({row, name, bar, count}, n) => {
      const pair = pairs[n];
      row.disabled = !pair;
      row.style.visibility = pair ? "" : "hidden";
      if (!pair) return;
      const [a, b] = pair.pair.map(id => visible(face(vocab[id]).text));
      name.replaceChildren(h("span", {}, a), h("span", {}, b));
      bar.style.width = `${100 * pair.count / most}%`;
      count.textContent = grouped(pair.count);
      row.setAttribute("aria-label", `${named(state(), pair.pair)}, ${many(pair.count, "time")}`);
    });
    const values = [grouped(tokens), tokens ? (bytes / tokens).toFixed(2) : "–", grouped(vocab.length), grouped(merges.length)];
    figures.forEach(({value}, i) => { value.textContent = values[i]; });
    result.textContent = path.at(-1).strayed ? verdict(state(), left) : ended ? "" : HINT;
    result.classList.toggle("zhw-grad", path.at(-1).strayed);
    made.replaceChildren(...merges.map((pair, i) => h("span", {}, h("small", {}, String(256 + i)), h("b", {class: "zhw-tk-token zhw-tk-" + (256 + i) % 4}, visible(face(vocab[256 + i]).text)))));
    made.scrollTop = made.scrollHeight;
    draw(tokens);
    paint();
  }

  function draw(tokens) {
    const counts = path.map(({state}) => length(state)), most = Math.max(1, left.length - 1, counts.length - 1), high = Math.max(1, left[0]);
    const x = k => SIDE + (WIDE - SIDE) * k / most, y = count => TALL - (TALL - 4) * count / high;
    const trace = counts => counts.map((count, k) => `${k ? "L" : "M"}${x(k).toFixed(1)} ${y(count).toFixed(1)}`).join("");
    line.greedy.setAttribute("d", trace(left));
    line.mine.setAttribute("d", trace(counts));
    line.now.setAttribute("cx", x(counts.length - 1));
    line.now.setAttribute("cy", y(tokens));
    ["0", "0", grouped(high), `${most} merges`].forEach((text, i) => { ticks[i].textContent = text; });
    chart.setAttribute("aria-label", `${many(tokens, "token")} are left after ${many(counts.length - 1, "merge")}, of ${grouped(left[0])}; greedy merging comes down to ${grouped(left.at(-1))} after ${left.length - 1}.`);
  }

  choice.value = data.first ?? names[0];
  restart();
}

start("merges", mount);
