// The letters as points in the plane, at every stage of training: the network reads three of them and guesses the next.
import {calm, h, s, start} from "./widget.js";

// ------------------------------------------------------------ the network

export const CONTEXT = 3; // letters that the network reads

/** A typed text as the network takes it: the indices of its last letters, after as many dots as are missing. What is
 * no letter is left out and named in `ignored`. */
export function context(text, symbols) {
  const typed = [...text.toLowerCase()].filter(c => c.trim()), known = typed.filter(c => symbols.includes(c));
  return {ids: [...Array(CONTEXT).fill(0), ...known.map(c => symbols.indexOf(c))].slice(-CONTEXT),
    ignored: [...new Set(typed.filter(c => !symbols.includes(c)))]};
}

/** The flat list C of a snapshot as points, one [x, y] for each symbol. */
export const points = ({C}) => Array.from({length: C.length / 2}, (_, i) => [C[2 * i], C[2 * i + 1]]);

/** vector @ matrix + bias, the matrix (rows, columns) flat, row after row. */
const affine = (vector, matrix, bias) => bias.map((b, j) => vector.reduce((sum, x, i) => sum + x * matrix[i * bias.length + j], b));

/** The logits of the letter after the context `ids`: places side by side, a layer of tanh, a linear layer. */
export const forward = (places, {W1, b1, W2, b2}, ids) => affine(affine(ids.flatMap(id => places[id]), W1, b1).map(Math.tanh), W2, b2);

/** Probabilities from logits; the largest is taken off first, so that no exponential overflows. */
export function softmax(logits) {
  const most = Math.max(...logits), weights = logits.map(x => Math.exp(x - most));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map(weight => weight / sum);
}

/** The indices of the `n` largest values, the largest first. */
export const largest = (values, n) => values.map((_, i) => i).sort((a, b) => values[b] - values[a]).slice(0, n);

// ------------------------------------------------------------ the plane

/** The points on the way from one list to another; t = 0 is the first, t = 1 the second. */
export const interpolate = (from, to, t) => from.map((p, i) => p.map((x, k) => x + t * (to[i][k] - x)));

/** The `n` points nearest to point `i`: [{index, distance}], the nearest first. */
export const nearest = (places, i, n = 3) => places.map((p, index) => ({index, distance: Math.hypot(p[0] - places[i][0], p[1] - places[i][1])}))
  .filter(({index}) => index !== i).sort((a, b) => a.distance - b.distance).slice(0, n);

/** The square that shows all points with a margin: its middle and half its side. */
export function view(places) {
  const [x, y] = [0, 1].map(k => places.map(p => p[k])).map(values => [Math.min(...values), Math.max(...values)]);
  return {x: (x[0] + x[1]) / 2, y: (y[0] + y[1]) / 2, half: 0.58 * Math.max(x[1] - x[0], y[1] - y[0], 0.1)};
}

/** Where grid lines go between two ends: four to nine round numbers. */
export function ticks(low, high) {
  const rough = (high - low) / 9, ten = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(n => n * ten).find(size => size >= rough);
  return Array.from({length: Math.floor(high / step) - Math.ceil(low / step) + 1}, (_, i) => (Math.ceil(low / step) + i) * step);
}

/** Names for crowded places: each name starts at its place and moves aside until no two are closer than `gap`. The
 * names in `pinned` stay. */
export function spread(places, gap, pinned = []) {
  const names = places.map((p, i) => pinned.includes(i) ? [...p] : [p[0] + 1e-3 * Math.cos(i), p[1] + 1e-3 * Math.sin(i)]); // no two in one place
  for (let round = 0; round < 200; round++) {
    let crowded = false;
    for (let i = 0; i < names.length; i++) for (let j = 0; j < i; j++) {
      const dx = names[i][0] - names[j][0], dy = names[i][1] - names[j][1], distance = Math.hypot(dx, dy) || 1e-9;
      const stay = [i, j].map(k => pinned.includes(k));
      if (distance > gap - 0.05 || stay[0] && stay[1]) continue;
      crowded = true;
      const push = (gap - distance) / distance * (stay[0] || stay[1] ? 1 : 0.5);
      if (!stay[0]) { names[i][0] += dx * push; names[i][1] += dy * push; }
      if (!stay[1]) { names[j][0] -= dx * push; names[j][1] -= dy * push; }
    }
    if (!crowded) break;
  }
  return names;
}

// ------------------------------------------------------------ saying it

export const percent = p => p < 0.0005 ? "under 0.1 %" : `${(100 * p).toFixed(1)} %`;
const comes = (symbols, i) => i ? `'${symbols[i]}'` : "the end";
const number = x => x.toFixed(2).replace("-", "\u2212").replace(/^\u2212(0\.00)$/, "$1");

/** "step 1,500: validation loss 2.58" */
export const stepLine = ({step, loss}) => `step ${step.toLocaleString("en")}: validation loss ${loss.toFixed(2)}`;

/** "'emm'", or where a name starts, in words */
export const after = (symbols, ids) => ids.some(Boolean) ? `after '${ids.map(id => symbols[id]).join("")}'` : "at the start of a name";

/** "likeliest: 'a' 44.1 %, the end 26.0 %, 'e' 21.3 %" */
export const likelyLine = (symbols, p) => `likeliest: ${largest(p, 3).map(i => `${comes(symbols, i)} ${percent(p[i])}`).join(", ")}`;

/** "'m' is at (−0.35, 0.63); nearest: 'd' 0.24, 'j' 0.17" */
export const nearLine = (symbols, places, i) => `'${symbols[i]}' is at (${places[i].map(number).join(", ")}); nearest: ${
  nearest(places, i).map(({index, distance}) => `'${symbols[index]}' ${distance.toFixed(2)}`).join(", ")}`;

/** What moving letters did to the letter that was likeliest before. */
export function changeLine(symbols, ids, moved, before, now) {
  if (!moved.length) return "";
  const names = moved.map(i => `'${symbols[i]}'`).join(", ");
  if (!moved.some(i => ids.includes(i))) return `${names} moved, but the network does not read ${moved.length > 1 ? "them" : "it"} here: nothing changes.`;
  const [was] = largest(before, 1), [is] = largest(now, 1);
  return `${names} moved: ${comes(symbols, was)} ${percent(before[was])} → ${percent(now[was])}, ${
    is === was ? "still the likeliest" : `and ${comes(symbols, is)} is the likeliest with ${percent(now[is])}`}. The lines mark the bars as they were.`;
}

// ------------------------------------------------------------ the widget

const SIZE = 340, EDGE = 30, GAP = 16, REACH = 14; // of the plane, in its own units
const BAR = 13, TALL = 180, FOOT = 20, SIDE = 40; // of the bar chart
const TOPS = [0.1, 0.2, 0.4, 0.6, 0.8, 1];
const PAUSE = 600; // milliseconds from one snapshot to the next
const NUDGE = 0.05; // of an arrow key, in units of the plane
const HINT = "Ringed letters are read now. Point at a letter to see its nearest; drag it to move it. With the keyboard: its own key finds it, the arrow keys move it.";

/** Put the figure into `element`. `data` is as in mlp.json; symbol 0 stands before the first letter and for the end. */
export function mount(element, data) {
  const {symbols, frames} = data, trained = frames.map(points), last = frames.length - 1;
  let at = last, frame = last, moved = new Map(), text = "emm", looked, grip, running, playing, ease = 1;

  // ---------- the plane

  const kind = i => i === 0 ? "zhw-dot" : "aeiou".includes(symbols[i]) ? "zhw-vowel" : "zhw-consonant";
  const grid = s("g", {"aria-hidden": "true"}), ties = s("g", {"aria-hidden": "true"});
  const letters = symbols.map((symbol, i) => {
    const leader = s("line", {class: "zhw-leader"}), place = s("circle", {class: "zhw-place", r: 2});
    const chip = s("g", {class: `zhw-letter ${kind(i)}`, role: "img", "aria-roledescription": "letter that can be moved", tabindex: i === 1 ? 0 : -1, "data-letter": symbol,
      onfocus: () => { rove(i); look(i); }, onblur: () => look(), onkeydown: event => steer(event, i)},
    s("circle", {class: "zhw-hit", r: REACH}), s("circle", {class: "zhw-chip", r: 7.6}), s("text", {y: 4}, symbol));
    return {leader, place, chip};
  });
  const chips = s("g", {}, ...letters.map(({chip}) => chip));
  const plane = s("svg", {class: "zhw-plane", viewBox: `0 0 ${EDGE + SIZE} ${SIZE + 18}`, role: "application", "aria-label": "The letters in the plane. A letter's key goes to it, the arrow keys move it.",
    onpointerdown: hold, onpointermove: point, onpointerleave: () => { if (!grip) look(focused()); }, onpointerup: release, onpointercancel: release,
    ontouchstart: event => { if (grip) event.preventDefault(); }}, // a finger on a letter moves it, and elsewhere the page
  s("rect", {class: "zhw-paper", x: EDGE, y: 0, width: SIZE, height: SIZE}), grid, ties,
  ...letters.flatMap(({leader, place}, i) => [s("g", {class: kind(i), "aria-hidden": "true"}, leader, place)]), chips);
  const nearText = h("p", {class: "zhw-note"});

  // ---------- the bars

  const bars = symbols.map((symbol, i) => ({
    now: s("rect", {class: `zhw-rate ${kind(i)}`, x: SIDE + i * BAR + 1, width: BAR - 2}),
    was: s("path", {class: "zhw-counted"}),
    says: s("title", {}),
    letter: s("text", {class: "zhw-head", x: SIDE + (i + 0.5) * BAR, y: TALL + 15}, symbol),
  }));
  const scale = [0.5, 1].map(share => ({share, label: s("text", {class: "zhw-tick", x: SIDE - 5, y: TALL - (TALL - 6) * share + 4}),
    line: s("path", {class: "zhw-grid", d: `M${SIDE} ${TALL - (TALL - 6) * share}h${symbols.length * BAR}`})}));
  const chart = s("svg", {class: "zhw-chart", viewBox: `0 0 ${SIDE + symbols.length * BAR} ${TALL + FOOT}`, role: "img"},
    ...scale.flatMap(({line, label}) => [line, label]),
    ...bars.flatMap(({now, was, says, letter}, i) => [now, was, letter, s("rect", {class: "zhw-hit", x: SIDE + i * BAR, y: 0, width: BAR, height: TALL + FOOT}, says)]));

  // ---------- the controls

  const slider = h("input", {type: "range", "aria-label": "Step of training", min: 0, max: last, step: 1, value: last, oninput: () => { pause(); moved.clear(); travel(Number(slider.value), 250); }});
  const stepText = h("output", {class: "zhw-step"});
  const play = h("button", {type: "button", onclick: () => playing ? stop() : run()}, "Play");
  const back = h("button", {type: "button", onclick: putBack}, "Put back");
  const box = h("input", {type: "text", value: text, maxlength: 20, size: 8, autocomplete: "off", autocapitalize: "none", spellcheck: "false",
    oninput: () => { text = box.value; update(); }});
  const ignoredText = h("small", {role: "status"});
  const chartTitle = h("p", {class: "zhw-title"});
  const likelyText = h("p", {class: "zhw-likely", role: "status"});
  const changeText = h("p", {class: "zhw-change", role: "status"});

  element.replaceChildren(h("div", {class: "zhw zhw-two zhw-mlp"},
    h("div", {}, h("div", {class: "zhw-training"}, play, h("label", {}, stepText, slider)), plane, nearText),
    h("div", {class: "zhw-side"}, h("div", {class: "zhw-typed"}, h("label", {}, "Letters so far ", box), ignoredText), chartTitle, chart, likelyText, changeText, back)));

  // ---------- through the training

  /** Go to a snapshot, in a straight line and in `duration` milliseconds; at once for a reader who asks for stillness. */
  function travel(target, duration, arrived) {
    cancelAnimationFrame(running);
    const from = at;
    let begun, before;
    const move = now => {
      const t = calm() ? 1 : Math.min(1, (now - (begun ??= now)) / duration);
      at = t === 1 ? target : from + t * (target - from);
      ease = calm() ? 1 : 1 - Math.exp(((before ?? now) - now) / 80);
      before = now;
      if (Math.round(at) === frame) arrange();
      else { frame = Math.round(at); if (playing) slider.value = frame; update(); }
      if (t === 1 && arrived) { const next = arrived; arrived = null; ease = 1; next(); }
      else if (t < 1 || letters.some(({restless}) => restless)) running = requestAnimationFrame(move);
      ease = 1;
    };
    if (calm()) move(0);
    else running = requestAnimationFrame(move);
  }

  function run() {
    moved.clear();
    if (frame === last) at = frame = slider.value = 0;
    update();
    playing = true;
    play.textContent = "Pause";
    const onward = () => {
      if (calm()) playing = setTimeout(() => travel(frame + 1, 0, frame + 1 < last ? onward : stop), PAUSE);
      else travel(frame + 1, PAUSE, frame + 1 < last ? onward : stop);
    };
    onward();
  }

  function pause() {
    clearTimeout(playing);
    cancelAnimationFrame(running);
    playing = null;
    play.textContent = "Play";
  }

  /** Rest on the snapshot whose numbers are shown. */
  function stop() {
    pause();
    at = frame;
    slider.value = frame;
    update();
  }

  // ---------- moving letters

  /** The places on the way through training, the same with those that the reader chose, and the part of the plane. */
  const learned = () => interpolate(trained[Math.floor(at)], trained[Math.ceil(at)], at % 1);
  const places = () => learned().map((p, i) => moved.get(i) ?? p);
  const part = () => view(learned());
  const onPaper = ([x, y], {x: mx, y: my, half}) => [EDGE + SIZE * (0.5 + (x - mx) / half / 2), SIZE * (0.5 - (y - my) / half / 2)];

  function put(i, [x, y]) {
    stop();
    const {x: mx, y: my, half} = part(), most = 0.96 * half; // the letter stays inside the frame
    moved.set(i, [[x, mx], [y, my]].map(([value, middle]) => Math.min(middle + most, Math.max(middle - most, value))));
    update();
  }

  function putBack() {
    const [i] = [...moved.keys()].slice(-1);
    moved.clear();
    update();
    letters[i].chip.focus({preventScroll: true}); // a disabled button would lose the keyboard
  }

  function steer(event, i) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [right, up] = {ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0]}[event.key] ?? [];
    const other = symbols.indexOf(event.key.toLowerCase());
    if (right === undefined && other < 0) return;
    event.preventDefault();
    if (other >= 0) return letters[other].chip.focus();
    const [x, y] = places()[i], size = event.shiftKey ? 5 * NUDGE : NUDGE;
    put(i, [x + right * size, y + up * size]);
  }

  const rove = i => letters.forEach(({chip}, j) => chip.setAttribute("tabindex", i === j ? 0 : -1));
  const focused = () => { const i = letters.findIndex(({chip}) => chip === document.activeElement); return i < 0 ? undefined : i; };

  /** The pointer in units of the drawing, and the letter it is at. */
  function under(event) {
    const box = plane.getBoundingClientRect(), unit = (EDGE + SIZE) / box.width;
    const [x, y] = [(event.clientX - box.left) * unit, (event.clientY - box.top) * unit];
    const [found] = letters.map(({spot}, i) => ({i, distance: Math.hypot(spot[0] - x, spot[1] - y)})).sort((a, b) => a.distance - b.distance);
    return {x, y, i: found.distance < REACH ? found.i : undefined};
  }

  function hold(event) {
    const {x, y, i} = under(event);
    if (i === undefined || !event.isPrimary || event.button > 0) return;
    event.preventDefault();
    stop();
    letters[i].chip.focus({preventScroll: true});
    plane.setPointerCapture(event.pointerId);
    grip = {i, x, y, from: places()[i]};
    look(i);
  }

  function point(event) {
    const {x, y, i} = under(event);
    if (!grip) return look(i ?? focused());
    const unit = 2 * part().half / SIZE;
    if (x !== grip.x || y !== grip.y) put(grip.i, [grip.from[0] + (x - grip.x) * unit, grip.from[1] - (y - grip.y) * unit]);
  }

  function release() {
    grip = null;
  }

  function look(i) {
    if (i === looked || grip && i !== grip.i) return;
    looked = i;
    arrange();
  }

  // ---------- drawing

  /** The plane: its grid, the letters and the neighbours of the one that is looked at. */
  function arrange() {
    const now = places(), seen = part(), {ids} = context(text, symbols);
    const spots = now.map(p => onPaper(p, seen)), goals = spread(spots, GAP, [...moved.keys()]);
    const names = letters.map((letter, i) => { // a name goes aside, and changes sides, without a jump
      const aside = goals[i].map((x, k) => x - spots[i][k]), was = letter.aside ?? aside;
      letter.aside = aside.map((x, k) => was[k] + ease * (x - was[k]));
      letter.restless = aside.some((x, k) => Math.abs(x - letter.aside[k]) > 0.2);
      return letter.aside.map((x, k) => x + spots[i][k]);
    });
    grid.replaceChildren(...["x", "y"].flatMap(axis => ticks(seen[axis] - seen.half, seen[axis] + seen.half).flatMap(value => {
      const [x, y] = onPaper(axis === "x" ? [value, seen.y] : [seen.x, value], seen);
      const line = s("path", {class: Math.abs(value) < 1e-9 ? "zhw-zero" : "zhw-grid", d: axis === "x" ? `M${x} 0v${SIZE}` : `M${EDGE} ${y}h${SIZE}`});
      const label = s("text", axis === "x" ? {class: "zhw-head", x, y: SIZE + 14} : {class: "zhw-tick", x: EDGE - 4, y: y + 4}, String(Number(value.toFixed(2))).replace("-", "\u2212"));
      return [line, label];
    })));
    letters.forEach((letter, i) => {
      const {leader, place, chip} = letter, [x, y] = spots[i];
      letter.spot = names[i];
      place.setAttribute("cx", x);
      place.setAttribute("cy", y);
      leader.setAttribute("x1", x);
      leader.setAttribute("y1", y);
      leader.setAttribute("x2", names[i][0]);
      leader.setAttribute("y2", names[i][1]);
      chip.setAttribute("transform", `translate(${names[i].map(v => v.toFixed(2))})`);
      chip.classList.toggle("zhw-read", ids.includes(i));
      chip.classList.toggle("zhw-lit", i === looked);
      chip.setAttribute("aria-label", nearLine(symbols, now, i));
    });
    const near = looked === undefined ? [] : nearest(now, looked);
    ties.replaceChildren(...near.map(({index}) => s("line", {class: "zhw-tie", x1: names[looked][0], y1: names[looked][1], x2: names[index][0], y2: names[index][1]})));
    nearText.textContent = looked === undefined ? HINT : nearLine(symbols, now, looked);
  }

  /** Everything. */
  function update() {
    const {ids, ignored} = context(text, symbols), model = frames[frame];
    const chosen = trained[frame].map((p, i) => moved.get(i) ?? p);
    const before = softmax(forward(trained[frame], model, ids)), p = softmax(forward(chosen, model, ids));
    const top = TOPS.find(value => value >= Math.max(...before, ...p) - 1e-9) ?? 1, room = TALL - 6;
    const change = moved.size > 0 && [...moved.keys()].some(i => ids.includes(i));
    bars.forEach(({now, was, says}, j) => {
      now.setAttribute("y", TALL - room * p[j] / top);
      now.setAttribute("height", room * p[j] / top);
      was.setAttribute("d", `M${SIDE + j * BAR} ${TALL - room * before[j] / top}h${BAR}`);
      was.style.display = change ? "" : "none";
      says.textContent = `${comes(symbols, j)}: ${percent(p[j])}`;
    });
    for (const {share, label} of scale) label.textContent = `${Math.round(100 * top * share)} %`;
    chartTitle.textContent = `What comes ${after(symbols, ids)}`;
    likelyText.textContent = likelyLine(symbols, p);
    chart.setAttribute("aria-label", `Next letter ${after(symbols, ids)}; ${likelyLine(symbols, p)}`);
    changeText.textContent = changeLine(symbols, ids, [...moved.keys()], before, p);
    ignoredText.textContent = ignored.length ? `ignored: ${ignored.join(" ")}` : "";
    stepText.textContent = stepLine(model);
    slider.setAttribute("aria-valuetext", stepLine(model));
    back.disabled = !moved.size;
    arrange();
  }

  update();
}

start("mlp", mount);
