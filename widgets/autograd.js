// An expression graph to step through: forward one value at a time, then backward one chain rule at a time.
import {calm, fixed, h, s, short, start} from "./widget.js";

// ------------------------------------------------------------ the engine

// Per operation: the sign in its circle, how the code writes it, its value, its slope with respect to each input as a
// number and as code, and the rule in words. `x` holds the inputs' data (or names), `y` the output's, `k` the exponent.
const OPS = {
  "+": {
    sign: "+", code: ([a, b]) => `${a} + ${b}`, value: ([a, b]) => a + b, slopes: () => [1, 1], written: () => ["1", "1"],
    words: "A sum hands its gradient to both inputs unchanged.",
  },
  "-": {
    sign: "\u2212", code: x => x.length > 1 ? `${x[0]} - ${x[1]}` : `-${x[0]}`, value: x => x.length > 1 ? x[0] - x[1] : -x[0],
    slopes: x => x.length > 1 ? [1, -1] : [-1], written: x => x.length > 1 ? ["1", "-1"] : ["-1"],
    words: "What is subtracted gets the gradient with its sign turned.",
  },
  "*": {
    sign: "×", code: ([a, b]) => `${a} * ${b}`, value: ([a, b]) => a * b, slopes: ([a, b]) => [b, a],
    written: ([a, b]) => [b, a], words: "In a product each factor gets the gradient times the other factor.",
  },
  "/": {
    sign: "÷", code: ([a, b]) => `${a} / ${b}`, value: ([a, b]) => a / b, slopes: ([a, b]) => [1 / b, -a / b ** 2],
    written: ([a, b]) => [`1/${b}`, `-${a}/${b}**2`], words: "A larger divisor makes the result smaller, hence the minus.",
  },
  "**": {
    sign: "**", code: ([a], k) => `${a}**${k}`, value: ([a], k) => a ** k, slopes: ([a], y, k) => [k * a ** (k - 1)],
    written: ([a], y, k) => [`${k}*${a}**${k - 1}`], words: "The power rule: the exponent comes down in front and drops by one.",
  },
  tanh: {
    sign: "tanh", code: ([a]) => `tanh(${a})`, value: ([a]) => Math.tanh(a), slopes: (x, y) => [1 - y ** 2],
    written: (x, y) => [`(1 - ${y}**2)`], words: "The nearer tanh is to 1 or −1, the flatter it is and the less gradient gets through.",
  },
  relu: {
    sign: "relu", code: ([a]) => `relu(${a})`, value: ([a]) => Math.max(0, a), slopes: (x, y) => [Number(y > 0)],
    written: (x, y) => [`(${y} > 0)`], words: "relu lets the gradient through where its input is positive, and stops it elsewhere.",
  },
  exp: {
    sign: "exp", code: ([a]) => `exp(${a})`, value: ([a]) => Math.exp(a), slopes: (x, y) => [y], written: (x, y) => [y],
    words: "exp is its own slope.",
  },
  log: {
    sign: "log", code: ([a]) => `log(${a})`, value: ([a]) => Math.log(a), slopes: ([a]) => [1 / a], written: ([a]) => [`1/${a}`],
    words: "The slope of the logarithm is one over its input.",
  },
};

function operation(node) {
  const known = OPS[node.op.startsWith("**") ? "**" : node.op];
  if (!known) throw new Error(`node ${node.id} has the operation "${node.op}"; known are ${Object.keys(OPS).join(" ")}`);
  return known;
}

/** The ids of the computed values, inputs before outputs. */
export const computed = ({nodes, order}) => order.filter(id => nodes[id].op);

/** All ids in the order in which the formula is read, inputs before what they make. */
export function reading({nodes, output, order}) {
  const seen = new Set();
  const visit = id => { if (!seen.has(id)) { nodes[id].inputs.forEach(visit); seen.add(id); } };
  [output, ...order].forEach(visit);
  return [...seen];
}

/** Every node's data, by id. `leaves` replaces the data of leaves, by id. */
export function forward({nodes, order}, leaves = {}) {
  const data = [];
  for (const id of order) {
    const node = nodes[id];
    data[id] = node.op ? operation(node).value(node.inputs.map(i => data[i]), node.power) : leaves[id] ?? node.data;
  }
  return data;
}

/** Every node's gradient after `count` steps of the backward pass, and what each step added to which input.
 * The first step sets the output's own gradient; each further one passes the gradient of one node to its inputs. */
export function backward(expression, data, count = Infinity) {
  const {nodes, output} = expression;
  const grad = nodes.map(() => 0);
  const visits = [];
  for (const id of [output, ...computed(expression).reverse()].slice(0, count)) {
    const {inputs, power} = nodes[id];
    if (!visits.length) grad[id] = 1;
    const slopes = visits.length ? operation(nodes[id]).slopes(inputs.map(i => data[i]), data[id], power) : [];
    visits.push({id, added: slopes.map((slope, n) => {
      const amount = slope * grad[id];
      return {input: inputs[n], slope, amount, total: grad[inputs[n]] += amount};
    })});
  }
  return {grad, visits};
}

// ------------------------------------------------------------ saying it

const isCode = /^[^\s+*/()-]+$/;
const number = x => x < 0 ? `(${short(x)})` : short(x);

/** What the code calls each value, by id: its label; the number itself for a constant; n1, n2, ... for what has no label. */
export function names(expression) {
  const {nodes, output} = expression;
  const unnamed = reading(expression).filter(id => nodes[id].op && !nodes[id].label);
  return nodes.map(({id, label, data, const: constant}) => {
    if (constant) return String(data);
    if (label) return isCode.test(label) ? label : `(${label})`;
    return id === output ? "out" : `n${unnamed.indexOf(id) + 1}`;
  });
}

/** "e = a * b", or "a" for a leaf. */
export function definition(expression, id) {
  const name = names(expression), node = expression.nodes[id];
  return node.op ? `${node.label || name[id]} = ${operation(node).code(node.inputs.map(i => name[i]), node.power)}` : name[id];
}

/** What a forward step did: code and numbers. */
export function forwardLine(expression, id, data) {
  const {op, inputs, power} = expression.nodes[id];
  const numbers = operation(expression.nodes[id]).code(inputs.map(i => (/^[a-z]/.test(op) ? short : number)(data[i])), power);
  return {code: definition(expression, id), numbers: `= ${numbers.replace(" * ", " × ").replace(" - ", " \u2212 ")} = ${short(data[id])}`};
}

/** What a backward step did: one line of code and numbers for each input. */
export function backwardLines(expression, {id, added}, grad) {
  const {nodes} = expression, node = nodes[id], name = names(expression);
  const field = i => nodes[i].const ? name[i] : `${name[i]}.data`;
  const written = added.length ? operation(node).written(node.inputs.map(field), field(id), node.power) : [];
  return added.map(({input, slope, amount, total}, n) => ({
    code: `${name[input]}.grad += ${written[n]} * ${name[id]}.grad`,
    numbers: `= ${short(slope)} × ${number(grad[id])} = ${short(amount)} (now ${fixed(total)})`,
  }));
}

// ------------------------------------------------------------ the drawing's geometry

/** Centres that are at least `gaps[i]` apart and as near as possible, in least squares, to where they want to be. */
export function spread(wanted, gaps) {
  const offsets = wanted.map((_, i) => gaps.slice(0, i).reduce((a, b) => a + b, 0));
  const blocks = []; // neighbours that would collide move as one block, to the mean of their wishes
  wanted.forEach((want, i) => {
    let block = {sum: want - offsets[i], size: 1};
    while (blocks.length && blocks.at(-1).sum / blocks.at(-1).size > block.sum / block.size) {
      const last = blocks.pop();
      block = {sum: block.sum + last.sum, size: block.size + last.size};
    }
    blocks.push(block);
  });
  return blocks.flatMap(({sum, size}) => Array(size).fill(sum / size)).map((place, i) => place + offsets[i]);
}

/** How many pairs of edges cross between neighbouring layers. */
function crossings(layers) {
  layers.forEach(places => places.forEach((place, i) => { place.index = i; }));
  let count = 0;
  for (const places of layers) for (const [i, upper] of places.entries()) for (const lower of places.slice(i + 1))
    for (const a of upper.before) for (const b of lower.before) count += a.index > b.index;
  return count;
}

/** A layered drawing: `layer[id]`, `across[id]` (the centre's place within its layer), and for every edge the places it
 * passes in the layers between. `size` is a box's extent within a layer, `gap` the room between two. */
export function layout(expression, size, gap) {
  const {nodes, order} = expression;
  const layer = [];
  for (const id of order) layer[id] = nodes[id].op ? 1 + Math.max(...nodes[id].inputs.map(i => layer[i])) : 0;
  for (const id of order.filter(id => !nodes[id].op)) { // a leaf stands just before its first use
    const uses = nodes.filter(node => node.inputs.includes(id)).map(node => layer[node.id]);
    layer[id] = uses.length ? Math.min(...uses) - 1 : 0;
  }

  let layers = Array.from({length: Math.max(...layer) + 1}, () => []);
  const boxes = nodes.map(() => ({before: [], after: [], box: true}));
  const edges = [];
  for (const id of reading(expression)) {
    nodes[id].inputs.forEach(from => {
      // a long edge keeps a place of its own in every layer it crosses
      const via = layers.slice(layer[from] + 1, layer[id]).map(() => ({before: [], after: []}));
      via.forEach((bend, i) => layers[layer[from] + 1 + i].push(bend));
      const chain = [boxes[from], ...via, boxes[id]];
      chain.slice(1).forEach((place, i) => { place.before.push(chain[i]); chain[i].after.push(place); });
      edges.push({from, to: id, via});
    });
    layers[layer[id]].push(boxes[id]);
  }

  // Sorting each layer by its neighbours' places, to and fro, untangles the edges; the best order seen is kept.
  const mean = values => values.reduce((a, b) => a + b, 0) / values.length;
  let fewest = crossings(layers), tried = layers;
  for (let sweep = 0; fewest && sweep < 8; sweep++) {
    const side = sweep % 2 ? "after" : "before";
    tried = tried.map(places => [...places]);
    for (const places of sweep % 2 ? [...tried].reverse() : tried) {
      const wish = place => place[side].length ? mean(place[side].map(other => other.index)) : place.index;
      places.sort((a, b) => wish(a) - wish(b)).forEach((place, i) => { place.index = i; });
    }
    const count = crossings(tried);
    if (count < fewest) [fewest, layers] = [count, tried];
  }

  layers.forEach(places => places.forEach((place, i) => { place.across = i * (size + gap); }));
  const sweeps = 100;
  for (let sweep = 0; sweep <= sweeps; sweep++) { // every place moves between its neighbours; at last, results line up with their inputs
    for (const places of sweep % 2 ? [...layers].reverse() : layers) {
      const wanted = places.map(place => {
        const near = sweep < sweeps ? [...place.before, ...place.after] : place.before;
        return near.length ? mean(near.map(other => other.across)) : place.across;
      });
      const gaps = places.slice(1).map((place, i) => gap + (size * (Boolean(place.box) + Boolean(places[i].box))) / 2);
      spread(wanted, gaps).forEach((across, i) => { places[i].across = across; });
    }
  }
  const least = Math.min(...layers.flat().map(place => place.across - (place.box ? size / 2 : 0)));
  for (const place of layers.flat()) place.across -= least;
  return {
    layer, across: boxes.map(box => box.across), layers: layers.length,
    edges: edges.map(edge => ({...edge, via: edge.via.map((bend, i) => [layer[edge.from] + 1 + i, bend.across])})),
    extent: Math.max(...layers.flat().map(place => place.across + (place.box ? size / 2 : 0))),
  };
}

// ------------------------------------------------------------ the widget

const BOX = [88, 54], ROUND = 24; // a value's box, an operation's circle
const STEP = 0.05; // of a leaf that is dragged
const PAUSE = 900; // milliseconds a step stays before the next, when all are run

/** Put the figure into `element`. `expressions` are as in autograd.json. */
export function mount(element, {expressions}) {
  let expression, leaves, step, held, timer, view, upright;

  const select = h("select", {onchange: () => open(Number(select.value))}, ...expressions.map(({title}, i) => h("option", {value: i}, title)));
  const button = (text, title, kind, onclick) => h("button", {type: "button", class: kind, title, onclick}, text);
  const ahead = button("Step forward", "Compute the next value", "zhw-data", () => { pause(); go(step + 1); });
  const back = button("Step backward", "Pass a gradient on to the inputs it came from", "zhw-grad", () => { pause(); go(step + 1); });
  const all = button("Run all", "All steps, forward and backward", "", () => timer ? pause() : run());
  const reset = button("Reset", "The first inputs, nothing computed", "", () => open(expressions.indexOf(expression)));
  const stage = h("div", {class: "zhw-stage"});
  const readout = h("div", {class: "zhw-readout", role: "status"});
  const sliders = h("div", {class: "zhw-sliders"});
  element.replaceChildren(h("div", {class: "zhw"},
    h("div", {class: "zhw-bar"}, h("label", {}, "Expression ", select), h("div", {class: "zhw-buttons"}, ahead, back, all, reset)),
    stage, readout, sliders));

  const total = () => computed(expression).length;
  const last = () => 2 * total() + 1; // forward, the output's own gradient, backward

  function open(index) {
    pause();
    expression = expressions[index];
    leaves = {};
    step = 0;
    held = null;
    sliders.replaceChildren(...reading(expression).map(id => expression.nodes[id]).filter(isFree).map(node => {
      const input = h("input", {type: "range", ...range(node), step: STEP, "data-leaf": node.id,
        onpointerdown: () => hold(node.id), onfocus: () => hold(node.id), oninput: () => set(node.id, Number(input.value))});
      return h("label", {}, h("span", {class: "zhw-name"}, names(expression)[node.id]), input, h("output", {}));
    }));
    draw();
  }

  const isFree = node => !node.op && !node.const;

  function range(node) {
    const max = Math.max(4, Math.ceil(1.5 * Math.abs(node.data)));
    return {min: -max, max};
  }

  function go(to) {
    held = null;
    step = Math.min(to, last());
    update();
  }

  function run() {
    if (step === last()) step = 0;
    if (calm()) return go(last());
    readout.setAttribute("aria-live", "off"); // only the end is worth announcing
    const tick = () => {
      timer = setTimeout(tick, PAUSE);
      if (step + 1 >= last()) pause();
      go(step + 1);
    };
    tick();
  }

  function pause() {
    clearTimeout(timer);
    timer = null;
    readout.setAttribute("aria-live", "polite");
    all.textContent = "Run all";
  }

  /** Remember where a leaf stood when the reader took hold of it: the gradient there is a prediction to be checked. */
  function hold(id) {
    pause();
    const data = forward(expression, leaves);
    held = {id, data, grad: backward(expression, data).grad[id]};
  }

  function set(id, value) {
    const {min, max} = range(expression.nodes[id]);
    if (held?.id !== id) hold(id);
    leaves[id] = Number((Math.round(Math.min(max, Math.max(min, value)) / STEP) * STEP).toFixed(2));
    update();
  }

  // ---------- drawing

  function draw() {
    const {nodes} = expression, name = names(expression);
    const along = upright ? BOX[1] : BOX[0], size = upright ? BOX[0] : BOX[1];
    const pitch = along + (upright ? 50 : 56), margin = 14; // the margin holds the badges above the boxes
    const plan = layout(expression, size, upright ? 8 : 18);
    const long = (plan.layers - 1) * pitch + along;
    const [width, height] = upright ? [plan.extent, long] : [long, plan.extent];
    const at = (depth, across) => upright ? [across, depth + margin] : [depth, across + margin];
    const path = points => "M" + points.map(([d, a]) => at(d, a)).map(([x, y], i, all) => {
      if (!i) return `${x} ${y}`;
      const [x0, y0] = all[i - 1];
      return upright ? `C${x0} ${(y0 + y) / 2} ${x} ${(y0 + y) / 2} ${x} ${y}` : `C${(x0 + x) / 2} ${y0} ${(x0 + x) / 2} ${y} ${x} ${y}`;
    }).join("");

    const begin = ({from, via}) => via.at(-1)?.[1] ?? plan.across[from]; // where the last stretch of an edge begins
    const edges = plan.edges.map(({from, to, via}, k) => {
      const siblings = plan.edges.filter(edge => edge.to === to).sort((a, b) => begin(a) - begin(b));
      const fan = (siblings.indexOf(plan.edges[k]) - (siblings.length - 1) / 2) * 10;
      const twice = nodes[to].inputs.filter(input => input === from).length > 1 ? 2 * fan : 0; // two edges, not one on top of the other
      const points = [[plan.layer[from] * pitch + along, plan.across[from] + twice],
        ...via.flatMap(([layer, across]) => [[layer * pitch, across], [layer * pitch + along, across]]),
        [plan.layer[to] * pitch - ROUND - 8, plan.across[to] + fan]];
      return {from, to, shape: s("path", {class: "zhw-edge", d: path(points)})};
    });
    const groups = nodes.map((node, id) => {
      const depth = plan.layer[id] * pitch;
      const [x, y] = at(depth + along / 2, plan.across[id]);
      const left = x - BOX[0] / 2, top = y - BOX[1] / 2;
      const group = s("g", {class: `zhw-node${isFree(node) ? " zhw-free" : ""}`, tabindex: -1, "data-node": id, onkeydown: event => key(event, id), onfocus: () => rove(id)});
      if (node.op) {
        const [cx, cy] = at(depth - ROUND / 2 - 8, plan.across[id]);
        const mark = operation(node).sign + (node.power ?? "");
        const wide = Math.max(ROUND, 7 * mark.length + 6);
        edges.push({to: id, shape: s("path", {class: "zhw-edge", d: path([[depth - 8, plan.across[id]], [depth, plan.across[id]]])})});
        group.append(s("rect", {class: "zhw-op", x: cx - wide / 2, y: cy - ROUND / 2, width: wide, height: ROUND, rx: ROUND / 2}),
          s("text", {class: mark.length > 1 ? "zhw-mark" : "zhw-mark zhw-symbol", x: cx, y: cy + (mark.length > 1 ? 4 : 5.5)}, mark));
      }
      const texts = {data: s("text", {class: "zhw-number zhw-data", x: left + BOX[0] - 8, y: top + 32}), grad: s("text", {class: "zhw-number zhw-grad", x: left + BOX[0] - 8, y: top + 46})};
      const aside = upright && node.op; // of the circle above the box
      const badge = s("text", {class: "zhw-badge zhw-grad", x: aside ? x + ROUND : left + BOX[0], y: top - (aside ? 8 : 4), "text-anchor": aside ? "start" : "end"});
      group.append(s("rect", {class: "zhw-box", x: left, y: top, width: BOX[0], height: BOX[1], rx: 6}),
        s("text", {class: node.label ? "zhw-label" : "zhw-label zhw-unnamed", x: left + 8, y: top + 16}, node.label || name[id]), texts.data, texts.grad,
        s("text", {class: "zhw-what", x: left + 8, y: top + 32}, "data"), s("text", {class: "zhw-what", x: left + 8, y: top + 46}, "grad"), badge);
      let knob;
      if (isFree(node)) {
        const {min, max} = range(node);
        knob = s("circle", {class: "zhw-knob", cy: top + 11, r: 3.5});
        group.append(s("line", {class: "zhw-track", x1: left + BOX[0] - 40, x2: left + BOX[0] - 8, y1: top + 11, y2: top + 11}), knob);
        const scale = 200; // pixels of a drag from one end of the range to the other
        let from;
        group.addEventListener("pointerdown", event => {
          group.setPointerCapture(event.pointerId);
          hold(id);
          from = {x: event.clientX, value: held.data[id]};
        });
        group.addEventListener("pointermove", event => { if (from) set(id, from.value + (event.clientX - from.x) / scale * (max - min)); });
        for (const end of ["pointerup", "pointercancel"]) group.addEventListener(end, () => { from = null; });
        group.knob = value => knob.setAttribute("cx", left + BOX[0] - 40 + 32 * (value - min) / (max - min));
      }
      return {group, texts, badge};
    });
    const svg = s("svg", {viewBox: `-1 0 ${width + 2} ${height + margin + 1}`, role: "group", style: `max-width: ${width + 2}px`,
      "aria-label": "Expression graph. Up and down arrows move from value to value, left and right change an input."},
    ...edges.map(edge => edge.shape), ...groups.map(node => node.group));
    stage.replaceChildren(svg);
    view = {edges, groups};
    rove(reading(expression)[0]);
    update();
  }

  function rove(id) { // one stop for the Tab key; arrows do the rest
    view.groups.forEach(({group}, i) => group.setAttribute("tabindex", i === id ? 0 : -1));
  }

  function key(event, id) {
    const {nodes} = expression, order = reading(expression);
    const move = {ArrowUp: -1, ArrowDown: 1}[event.key], change = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (move) view.groups[order[(order.indexOf(id) + move + order.length) % order.length]].group.focus();
    else if (change && isFree(nodes[id])) set(id, forward(expression, leaves)[id] + change * STEP * (event.shiftKey ? 10 : 1));
    else return;
    event.preventDefault();
  }

  function update() {
    const {nodes, order, output} = expression, name = names(expression);
    const ops = computed(expression), count = ops.length;
    const data = forward(expression, leaves);
    const {grad, visits} = backward(expression, data, Math.max(0, step - count));
    const known = new Set(order.filter(id => !nodes[id].op || ops.indexOf(id) < step));
    const visit = visits.at(-1);
    const active = visit ? visit.id : step ? ops[step - 1] : null;

    view.groups.forEach(({group, texts, badge}, id) => {
      const node = nodes[id];
      const numbers = {data: known.has(id) ? fixed(data[id]) : "", grad: visits.length ? fixed(grad[id]) : ""};
      for (const kind of ["data", "grad"]) texts[kind].textContent = numbers[kind] || "–";
      group.classList.toggle("zhw-computing", id === active && !visit);
      group.classList.toggle("zhw-visited", id === active && Boolean(visit));
      const added = visit ? visit.added.filter(({input}) => input === id) : [];
      group.classList.toggle("zhw-receiving", added.length > 0);
      badge.textContent = added.map(({amount}) => `+= ${short(amount)}`).join("  ");
      const said = `${definition(expression, id)}, data ${numbers.data || "not computed yet"}, grad ${numbers.grad || "not computed yet"}`;
      group.setAttribute("aria-label", said);
      group.setAttribute("role", isFree(node) ? "slider" : "img");
      if (!isFree(node)) return;
      const {min, max} = range(node);
      for (const [name, value] of Object.entries({valuemin: min, valuemax: max, valuenow: data[id], valuetext: said})) group.setAttribute(`aria-${name}`, value);
      group.knob(data[id]);
      const slider = sliders.querySelector(`[data-leaf="${id}"]`);
      slider.value = data[id];
      slider.nextSibling.textContent = fixed(data[id]);
    });
    for (const {to, shape} of view.edges) {
      shape.classList.toggle("zhw-flow-data", to === active && !visit);
      shape.classList.toggle("zhw-flow-grad", to === active && Boolean(visit) && visit.added.length > 0);
    }
    const focused = document.activeElement;
    ahead.disabled = step >= count;
    back.disabled = step < count || step === last();
    all.textContent = timer ? "Pause" : "Run all";
    if (element.contains(focused) && focused.disabled) (step === last() ? reset : back).focus(); // a disabled button would lose the keyboard
    readout.replaceChildren(...say());

    function say() {
      const line = ({code, numbers}) => h("p", {class: "zhw-line"}, h("code", {}, code), " ", h("span", {}, numbers));
      const title = (text, kind, ...code) => h("p", {class: `zhw-title ${kind}`}, text, ...code.map(text => h("code", {}, text)));
      const words = text => h("p", {class: "zhw-words"}, text);
      const out = name[output];
      if (held && step === last() && data[held.id] !== held.data[held.id]) {
        const leaf = name[held.id], moved = data[held.id] - held.data[held.id];
        return [title(`${leaf} from ${short(held.data[held.id])} to ${short(data[held.id])}`, "zhw-grad"),
          line({code: `${leaf}.grad`, numbers: `was ${short(held.grad)}, so ${out} should change by about ${short(held.grad)} × ${number(moved)} = ${short(held.grad * moved)}`}),
          line({code: out, numbers: `went from ${short(held.data[output])} to ${short(data[output])}: it changed by ${short(data[output] - held.data[output])}`}),
          words("The gradient is exact for tiny steps; the further you go, the more a curve bends away from it.")];
      }
      if (!step) return [title("Nothing computed yet", ""), words("The inputs are given. Step forward computes one value at a time, from left to right. Drag an input to change it.")];
      if (!visit) return [title(`Forward, step ${step} of ${count}`, "zhw-data"), line(forwardLine(expression, active, data)),
        words(step < count ? "" : "Everything is computed. Step backward asks how the result depends on each value.")];
      const heading = title(`Backward, step ${visits.length} of ${count + 1}: `, "zhw-grad", definition(expression, active));
      if (!visit.added.length) return [heading, line({code: `${out}.grad = 1`, numbers: ""}), words(`The start: ${out} changes exactly as fast as itself. All other gradients begin at zero.`)];
      const twice = new Set(visit.added.map(({input}) => input)).size < visit.added.length;
      const again = visit.added.find(({amount, total, input}) => total !== amount && visit.added.filter(other => other.input === input).length === 1);
      return [heading, ...backwardLines(expression, visit, grad).map(line),
        words(twice ? "The same value twice: each use adds its share, hence += and not =."
          : again ? `${name[again.input]} had a gradient from its other use; += adds to it.` : operation(nodes[visit.id]).words)];
    }
  }

  // Where left to right would shrink the letters, the graph stands upright.
  new ResizeObserver(() => {
    const plan = layout(expression, BOX[1], 18);
    const turn = stage.clientWidth < 0.85 * ((plan.layers - 1) * (BOX[0] + 56) + BOX[0]);
    if (turn === upright) return;
    upright = turn;
    draw();
  }).observe(stage);
  open(0);
}

start("autograd", mount);
