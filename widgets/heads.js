// Where every head of the trained transformer looks, for lines that it had never seen.
import {h, start} from "./widget.js";

/** The attention of one line: `maps[layer][head][t]` holds the weights of position t on 0 to t. */
export function unpack({text, data}, layers, heads) {
  const T = text.length, bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), view = new DataView(bytes.buffer);
  const wanted = layers * heads * T * (T + 1);
  if (bytes.length !== wanted) throw new Error(`${bytes.length} bytes do not fill ${layers * heads} triangles over ${T} characters, which take ${wanted}`);
  let at = 0;
  const row = t => Float64Array.from({length: t + 1}, () => view.getUint16(2 * at++, true) / 65535);
  const triangle = () => Array.from({length: T}, (_, t) => row(t));
  return Array.from({length: layers}, () => Array.from({length: heads}, triangle));
}

/** The positions with the largest weights, best first, as long as they matter. */
export const strongest = (weights, count = 3) =>
  Array.from(weights, (_, s) => s).sort((a, b) => weights[b] - weights[a] || a - b).slice(0, count).filter((s, n) => n === 0 || weights[s] >= 0.05);

/** "the one before", "itself", "12 back" */
export const distance = n => n === 0 ? "itself" : n === 1 ? "one back" : `${n} back`;

/** What a head does over a whole line, where that is plain: shares of its attention, first positions left out. */
export function habit(text, triangle) {
  const from = 4, share = test => {
    let sum = 0;
    for (let t = from; t < text.length; t++) triangle[t].forEach((w, s) => { if (test(s, t)) sum += w; });
    return sum / (text.length - from);
  };
  const mostly = [
    ["itself", share((s, t) => s === t)],
    ["the character before", share((s, t) => s === t - 1)],
    ["new lines", share((s, t) => s !== t && text[s] === "\n")],
    ["spaces", share((s, t) => s !== t && text[s] === " ")],
    ["earlier characters like it", share((s, t) => s < t - 1 && text[s] === text[t] && !/\s/.test(text[s]))],
  ].sort((a, b) => b[1] - a[1])[0];
  return {what: mostly[0], share: mostly[1]};
}

// ------------------------------------------------------------ the widget

const DOT = 3; // pixels of a small map per weight
const names = {" ": "the space", "\n": "the new line"};
const said = symbol => names[symbol] ?? `'${symbol}'`;
const percent = w => `${Math.round(100 * w)} %`;
const strength = w => w ** 0.6; // so that small weights can be told from none

/** Put the figure into `element`. `data` is as in heads.json. */
export function mount(element, data) {
  const {n_layer, n_head} = data;
  let line = 1, layer = 0, head = 0, t = 0, maps = null, letters = [];

  const option = (text, value) => h("option", {value}, text);
  const list = (label, count) => h("select", {"aria-label": label, onchange: pick}, ...Array.from({length: count}, (_, i) => option(i + 1, i)));
  const lines = h("select", {onchange: () => { line = Number(lines.value); open(); }}, ...data.lines.map(({text}, i) => option(text.trim().replaceAll("\n", " / "), i)));
  const layers = list("Layer", n_layer), heads = list("Head", n_head);
  const button = (text, onclick) => h("button", {type: "button", onclick}, text);
  const verse = h("div", {class: "zhw-hd-verse", role: "listbox", "aria-label": "The line; left and right lead along it", "aria-orientation": "horizontal"});
  const title = h("p", {class: "zhw-title", role: "status"}), note = h("p", {class: "zhw-note"});
  const small = Array.from({length: n_layer}, (_, l) => Array.from({length: n_head}, (_, n) => {
    const ink = h("div", {class: "zhw-hd-ink"}), mark = h("div", {class: "zhw-hd-mark"});
    const choose = h("button", {type: "button", class: "zhw-hd-map", onclick: () => { layer = l; head = n; show(); }},
      h("span", {class: "zhw-hd-square"}, ink, mark), h("small", {}, `${l + 1}.${n + 1}`));
    return {ink, mark, choose};
  }));

  element.replaceChildren(h("div", {class: "zhw zhw-hd"},
    h("div", {class: "zhw-bar"}, h("label", {class: "zhw-hd-line"}, "A line from the validation text", lines),
      h("div", {class: "zhw-walk"}, button("Previous", () => go(t - 1)), button("Next character", () => go(t + 1)),
        h("label", {}, "Layer ", layers), h("label", {}, "Head ", heads))),
    verse,
    h("div", {class: "zhw-hd-two"},
      h("div", {class: "zhw-hd-words"}, title, note, h("p", {class: "zhw-note"},
        "Darker and longer: more attention. In each small map a row is a position, and what it looks at lies along the row; rows of maps are layers. Press one to choose it.")),
      h("div", {class: "zhw-hd-maps", role: "group", "aria-label": "All heads", style: `--heads: ${n_head}`}, ...small.flat().map(({choose}) => choose)))));

  // ---------- what the controls do

  function pick() {
    layer = Number(layers.value);
    head = Number(heads.value);
    show();
  }

  function go(to, focus = false) {
    const T = letters.length;
    t = (to + T) % T;
    show();
    if (focus) letters[t].cell.focus();
  }

  function walk(event) {
    const to = {ArrowLeft: Math.max(0, t - 1), ArrowRight: Math.min(letters.length - 1, t + 1), Home: 0, End: letters.length - 1}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    go(to, true);
  }

  /** Lay the line out, in rows as it is printed, and paint its small maps. */
  function open() {
    const {text} = data.lines[line];
    maps = unpack(data.lines[line], n_layer, n_head);
    letters = [...text].map((symbol, s) => {
      const bar = h("i", {}), share = h("small", {});
      const cell = h("span", {role: "option", class: "zhw-hd-letter", onpointerenter: () => go(s), onfocus: () => { if (t !== s) go(s); }, onclick: () => go(s, true), onkeydown: walk},
        h("b", {}, symbol === "\n" ? "↵" : symbol === " " ? "\u00a0" : symbol), h("span", {class: "zhw-hd-well"}, bar, share));
      return {cell, bar, share};
    });
    const rows = [[]];
    [...text].forEach((symbol, s) => {
      rows.at(-1).push(letters[s].cell);
      if (symbol === "\n" && text.slice(0, s).trim()) rows.push([]);
    });
    verse.replaceChildren(...rows.map(cells => h("div", {role: "presentation"}, ...cells)));
    small.forEach((row, l) => row.forEach(({ink}, n) => paint(ink, maps[l][n])));
    t = text.length - 3;
    show();
  }

  /** The weights as a mask over the colour of the page, so that light and dark need no second picture. */
  function paint(ink, triangle) {
    const T = triangle.length, canvas = h("canvas", {width: T * DOT, height: T * DOT}), context = canvas.getContext("2d");
    triangle.forEach((weights, row) => weights.forEach((w, column) => {
      context.globalAlpha = strength(w);
      context.fillRect(column * DOT, row * DOT, DOT, DOT);
    }));
    const url = `url(${canvas.toDataURL()})`;
    ink.style.maskImage = url;
    ink.style.webkitMaskImage = url;
  }

  // ---------- drawing

  function show() {
    const {text} = data.lines[line], weights = maps[layer][head][t], T = text.length;
    layers.value = layer;
    heads.value = head;
    lines.value = line;
    letters.forEach(({cell, bar, share}, s) => {
      const w = s <= t ? weights[s] : 0;
      cell.style.setProperty("--ink", `${(45 * strength(w)).toFixed(1)}%`);
      bar.style.height = `${(100 * w).toFixed(1)}%`;
      share.textContent = w >= 0.095 ? Math.round(100 * w) : "";
      cell.classList.toggle("zhw-hd-here", s === t);
      cell.classList.toggle("zhw-hd-future", s > t);
      cell.setAttribute("aria-selected", s === t);
      cell.setAttribute("aria-label", `${said(text[s])}, position ${s + 1}${s > t ? "" : `, ${percent(w)}`}`);
      cell.tabIndex = s === t ? 0 : -1;
    });
    small.forEach((row, l) => row.forEach(({mark, choose}, n) => {
      mark.style.top = `${100 * t / T}%`;
      mark.style.height = `${100 / T}%`;
      const here = l === layer && n === head;
      choose.setAttribute("aria-pressed", here);
      choose.setAttribute("aria-label", `layer ${l + 1}, head ${n + 1}`);
    }));
    const best = strongest(weights).map(s => `${said(text[s])} ${percent(weights[s])} (${distance(t - s)})`);
    title.textContent = `Layer ${layer + 1}, head ${head + 1}, reading ${said(text[t])}: looks at ${best.join(", ")}`;
    const {what, share} = habit(text, maps[layer][head]);
    note.textContent = share >= 0.35
      ? `Over the whole line, this head gives ${percent(share)} of its attention to ${what}.`
      : `No simple habit over the whole line: the largest share, ${percent(share)}, goes to ${what}.`;
  }

  open();
  // begin with the head that spreads its attention most: there is most to see
  const peak = triangle => triangle.reduce((sum, weights) => sum + Math.max(...weights), 0);
  const soft = maps.flatMap((row, l) => row.map((triangle, n) => ({l, n, peak: peak(triangle)}))).sort((a, b) => a.peak - b.peak)[0];
  [layer, head] = [soft.l, soft.n];
  show();
}

start("heads", mount);
