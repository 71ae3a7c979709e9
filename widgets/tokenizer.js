// The tokenizer as a playground: type, see the tokens, and follow one word from its bytes to its tokens.
import {Tokenizer, face, flowing, hex, hues, quoted, readGpt2, visible} from "./bpe.js";
import {h, start} from "./widget.js";

// ------------------------------------------------------------ saying it

const grouped = n => n.toLocaleString("en");
const many = (n, thing) => `${grouped(n)} ${thing}${n === 1 ? "" : "s"}`;

/** "58 tokens for 204 characters, 210 bytes: 3.62 bytes per token" */
export function summary(tokens, characters, bytes) {
  if (!tokens) return "No text, no tokens: type something.";
  return `${many(tokens, "token")} for ${many(characters, "character")}, ${many(bytes, "byte")}: ${(bytes / tokens).toFixed(2)} bytes per token`;
}

/** The rank of each pair of neighbours in a state of a word, and the index of the pair that goes next, or -1. */
export function nextPair(tokenizer, tokens) {
  const ranks = tokens.slice(1).map(({id}, i) => tokenizer.rank(tokens[i].id, id));
  return {ranks, next: ranks.reduce((best, rank, i) => rank !== undefined && (best < 0 || rank < ranks[best]) ? i : best, -1)};
}

/** What to see in a state of a word. */
export function sentence(tokenizer, tokens) {
  const {next, ranks} = nextPair(tokenizer, tokens), known = ranks.filter(rank => rank !== undefined).length;
  if (tokens.length === 1) return tokens[0].id < 256 ? "One byte: there is nothing to merge." : "One token is left: the whole word is in the vocabulary.";
  if (next < 0) return `No two neighbours are a pair of the vocabulary: ${tokens.length} tokens are what the model reads.`;
  const [left, right] = [tokens[next], tokens[next + 1]].map(({id}) => quoted(tokenizer.bytes(id)));
  const why = known === 1 ? "the only rank here" : `the lowest of ${known} ranks here`;
  return `Next: ${left} + ${right}, rank ${grouped(ranks[next])}, ${why}. It becomes token ${grouped(256 + ranks[next])}.`;
}

/** The longest word that is no longer than `limit` bytes: a good one to begin with. */
export const longest = (words, limit) => words.reduce((best, word, n) => {
  const size = new Blob([word]).size;
  return size <= limit && size > best.size ? {n, size} : best;
}, {n: 0, size: 0}).n;

// ------------------------------------------------------------ the widget

const SHOWN = 3000; // tokens on the page; the counts are of all
const LONGEST = 48; // bytes of a word whose merges are drawn
const VIEWS = {text: "text", ids: "ids", bytes: "bytes"};

/** Put the figure into `element`. `data` is as in tokenizer.json; its `gpt2` names a file that only the site has. */
export function mount(element, data) {
  const made = new Map(); // tokenizers by the name of their choice
  let vocabulary = String(data.size), view = "text", example = 0;
  let words = [], tokens = [], chosen = 0; // a token has an id and the index of its word
  let states = [], index = 0; // of the word that is followed

  // ---------- the parts

  const button = (text, onclick) => h("button", {type: "button", onclick}, text);
  const choices = (legend, options, value, change) => h("fieldset", {class: "zhw-tk-choices"}, h("legend", {}, legend), ...Object.entries(options).map(([key, text]) =>
    h("label", {}, h("input", {type: "radio", name: `zhw-tk-${legend}`, value: key, checked: key === value ? "" : undefined, onchange: () => change(key)}), h("span", {}, text))));

  const input = h("textarea", {class: "zhw-tk-input", rows: 4, spellcheck: "false", autocapitalize: "none", autocomplete: "off",
    oninput: () => { encode(); choose(wordAt(input.selectionStart - 1)); }});
  const sizes = data.sizes.map(n => [` ${n}`, n === 256 ? "bytes" : grouped(n)]); // a blank, or JavaScript would sort the names
  const vocabularies = choices("Vocabulary", Object.fromEntries(data.gpt2 ? [...sizes, ["gpt2", "GPT-2"]] : sizes), ` ${data.size}`, name => change(name.trim()));
  const count = h("p", {class: "zhw-title", role: "status"});
  const page = h("div", {class: "zhw-tk-page", role: "listbox", "aria-label": "Tokens: left and right lead from one to the next, up and down from word to word", onclick: pick, onkeydown: steer});
  const rest = h("p", {class: "zhw-note"});
  const about = h("p", {class: "zhw-tk-about"}), why = h("p", {class: "zhw-tk-why", role: "status"});
  const back = button("Back", () => go(index - 1)), forth = button("Merge", () => go(index + 1));
  const slider = h("input", {type: "range", min: 0, step: 1, "aria-label": "Merges of the word that are done", oninput: () => go(Number(slider.value))});
  const where = h("span", {class: "zhw-count"});
  const stairs = h("div", {class: "zhw-tk-stairs", role: "group", tabindex: 0, "aria-label": "The word after each merge"});

  element.replaceChildren(h("div", {class: "zhw zhw-tk"},
    h("div", {class: "zhw-tk-typed"}, h("label", {}, "Your text", input), button("Another text", () => { example = (example + 1) % data.texts.length; show(data.texts[example]); })),
    h("div", {class: "zhw-bar"}, vocabularies, choices("Show as", VIEWS, view, key => { view = key; draw(); mark(); })),
    count, page, rest,
    h("section", {class: "zhw-tk-word"}, about, h("div", {class: "zhw-walk"}, back, forth, slider, where), why, stairs,
      h("p", {class: "zhw-note"}, "One row after each merge, with its rank. The small numbers below are the ranks of neighbours; – is a pair that the vocabulary does not have. Dashed: merges to come."))));

  // ---------- what the controls do

  const tokenizer = () => made.get(vocabulary);

  async function load(name) {
    if (name !== "gpt2") return new Tokenizer(data.patterns.gpt4, data.merges, Number(name));
    const response = await fetch(new URL(data.gpt2, import.meta.url));
    if (!response.ok) throw new Error(`${data.gpt2} answered ${response.status}`);
    const {bytes, merges} = readGpt2(await response.text());
    return new Tokenizer(data.patterns.gpt2, merges, 256 + merges.length / 2, bytes);
  }

  async function change(name) {
    const picked = () => vocabularies.querySelector(":checked").value.trim() === name; // the reader may have gone on meanwhile
    try {
      if (!made.has(name)) made.set(name, await load(name));
      if (!picked()) return;
      const place = words.slice(0, tokens[chosen]?.word).join("").length;
      vocabulary = name;
      encode();
      choose(wordAt(place));
    } catch (error) {
      if (picked()) count.textContent = `GPT-2's vocabulary could not be loaded: ${error.message}`;
    }
  }

  function show(text) {
    input.value = text;
    encode();
    choose(longest(words, 9));
  }

  /** The index of the word that holds a character. */
  function wordAt(place) {
    let end = 0;
    return Math.max(0, words.findIndex(word => (end += word.length) > place));
  }

  /** Follow a word: choose its first token. */
  function choose(word) {
    chosen = Math.max(0, tokens.slice(0, SHOWN).findIndex(token => token.word === word));
    mark();
    follow();
  }

  function select(n) {
    const other = tokens[n].word !== tokens[chosen].word;
    chosen = n;
    mark();
    if (other) follow();
    page.children[n].focus();
  }

  function pick(event) {
    const token = event.target.closest("[role=option]");
    if (token) select([...page.children].indexOf(token));
  }

  function steer(event) {
    const last = page.children.length - 1, word = tokens[chosen]?.word, first = n => tokens.findIndex(token => token.word === n);
    const to = {ArrowLeft: chosen - 1, ArrowRight: chosen + 1, ArrowUp: first(word - 1), ArrowDown: first(word + 1), Home: 0, End: last}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to <= last) select(to);
  }

  function go(to) {
    index = Math.max(0, Math.min(states.length - 1, to));
    drawWord();
    const {activeElement} = document;
    if (activeElement === document.body || activeElement.disabled) (back.disabled ? forth : back).focus();
  }

  function follow() {
    const word = words[tokens[chosen]?.word] ?? "";
    states = word && new Blob([word]).size <= LONGEST ? tokenizer().states(word) : [];
    index = 0;
    drawWord();
  }

  // ---------- drawing

  function encode() {
    words = tokenizer().words(input.value);
    tokens = words.flatMap((text, word) => tokenizer().word(text).map(id => ({id, word})));
    draw();
  }

  function draw() {
    const bytes = tokens.reduce((sum, {id}) => sum + tokenizer().bytes(id).length, 0), colours = hues(tokens.map(({id}) => id));
    count.textContent = summary(tokens.length, [...input.value].length, bytes);
    page.dataset.view = view;
    page.replaceChildren(...tokens.slice(0, SHOWN).map(({id}, n) => {
      const bytes = tokenizer().bytes(id), {text, raw} = face(bytes);
      const shown = view === "ids" ? id : view === "bytes" ? bytes.map(hex).join(" ") : raw ? text : flowing(text);
      return h("span", {role: "option", tabindex: -1, class: `zhw-tk-token zhw-tk-${colours[n]}${raw ? " zhw-tk-raw" : ""}`}, shown);
    }));
    rest.textContent = tokens.length > SHOWN ? `and ${many(tokens.length - SHOWN, "token")} more, which are counted but not shown` : "";
  }

  /** Mark the chosen token and its word, and say what it is. */
  function mark() {
    for (const old of page.querySelectorAll(".zhw-tk-mine")) {
      old.classList.remove("zhw-tk-mine");
      old.removeAttribute("aria-selected");
      old.tabIndex = -1;
    }
    about.replaceChildren();
    if (!tokens.length) return;
    const {id, word} = tokens[chosen], bytes = tokenizer().bytes(id);
    tokens.slice(0, SHOWN).forEach((token, n) => { if (token.word === word) page.children[n].classList.add("zhw-tk-mine"); });
    page.children[chosen].tabIndex = 0;
    page.children[chosen].setAttribute("aria-selected", "true");
    const name = words[word].length > 40 ? `${words[word].slice(0, 40)}…` : words[word];
    about.append("Token ", h("b", {}, quoted(bytes)), ` has the id ${grouped(id)} and the ${bytes.length === 1 ? "byte" : "bytes"} `, h("code", {}, bytes.map(hex).join(" ")),
      ". It comes from the word ", h("b", {}, `'${visible(name)}'`), ".");
  }

  function drawWord() {
    const last = states.length - 1, tokens = states[index]?.tokens ?? [];
    slider.max = Math.max(0, last);
    slider.value = index;
    slider.disabled = last < 1;
    back.disabled = index === 0;
    forth.disabled = index >= last;
    where.textContent = last < 0 ? "" : `merge ${index} of ${last}`;
    stairs.replaceChildren();
    why.textContent = tokens.length ? sentence(tokenizer(), tokens) : words.length ? `The word is longer than ${LONGEST} bytes: too long to be drawn.` : "";
    if (!tokens.length) return;
    const size = states[0].tokens.length, {next, ranks} = nextPair(tokenizer(), tokens);
    const span = (from, to) => `grid-column: ${from} / ${to}`; // each byte has two columns, so that a rank can stand between two bytes
    const rows = states.slice(0, index + 1).map(({tokens, at, rank}, row) => h("div", {class: row === index ? "zhw-tk-row zhw-tk-now" : "zhw-tk-row"}, ...tokens.map((token, n) => {
      const {text, raw} = face(tokenizer().bytes(token.id)), end = tokens[n + 1]?.at ?? size;
      const kind = [raw && "zhw-tk-raw", token.at === at && "zhw-tk-made", row === index && next >= 0 && (n === next ? "zhw-tk-left" : n === next + 1 && "zhw-tk-right")];
      return h("span", {class: kind.filter(Boolean).join(" "), style: span(2 * token.at + 1, 2 * end + 1)}, visible(text), ...(token.at === at ? [h("small", {}, grouped(rank))] : []));
    })));
    const between = ranks.map((rank, n) => h("small", {class: n === next ? "zhw-tk-lowest" : "", style: span(2 * tokens[n + 1].at, 2 * tokens[n + 1].at + 2)}, rank ?? "–"));
    const later = states.slice(index + 1).map(({tokens, at}) => { // where the merges to come will be
      const end = tokens[tokens.findIndex(token => token.at === at) + 1]?.at ?? size;
      return h("div", {class: "zhw-tk-row zhw-tk-later"}, h("i", {style: span(2 * at + 1, 2 * end + 1)}));
    });
    stairs.style.setProperty("--bytes", size);
    stairs.append(...rows, h("div", {class: "zhw-tk-row zhw-tk-ranks"}, ...between), ...later);
    stairs.scrollTop = rows.at(-1).offsetTop - stairs.clientHeight / 2;
  }

  made.set(vocabulary, new Tokenizer(data.patterns.gpt4, data.merges, data.size));
  show(data.texts[0]);
}

start("tokenizer", mount);
