// The network of chapter 5 as a graph of tensors: choose one to see how its gradient was found.
import {h, s, start} from "./widget.js";

// ------------------------------------------------------------ the words

// Per tensor: the rule that gives its gradient, and what the shapes say. The code and the numbers come from the chapter.
export const WORDS = {
  loss: ["The loss with respect to itself has the slope 1. Everything starts from there.", "One number, and so is its gradient."],
  logprobs: ["The loss is minus the mean of 32 picked entries. Each of them has the slope −1/32, all others have 0.", "(32, 27), with one number in each row that is not zero."],
  probs: ["The slope of ln p is 1/p. A right answer that got a small probability gets a large gradient.", "Entry by entry: no sum, no copy."],
  counts_sum_inv: ["In a product each factor gets the gradient times the other factor.", "A column (32, 1) was copied along the rows, so its gradient is summed along the rows. Only the answer’s term is not zero."],
  counts_sum: ["The power rule: the slope of s⁻¹ is −s⁻².", "A column to a column, entry by entry."],
  counts: ["Used twice, so two gradients add up: as a factor of probs, and as a term of counts_sum, which hands its gradient to each of its terms.", "The column dcounts_sum is copied along the rows; + does that by itself."],
  norm_logits: ["The exponential is its own slope, and its value is counts.", "Entry by entry."],
  logit_maxes: ["What is subtracted gets the gradient with its sign turned.", "A column was copied along the rows, so its gradient is summed along the rows. The sum is zero but for rounding: the maximum cannot change the loss."],
  logits: ["Used twice: directly, and through the maximum, which passes its gradient to the one entry in each row that held it.", "one_hot puts the column dlogit_maxes (32, 1) at these places of a (32, 27)."],
  h: ["logits = h @ W2 + b2. Each entry of h meets a row of W2 on its way, and collects the gradient along that row.", "(32, 27) @ (27, 64) is (32, 64), the shape of h. No other product of the two is."],
  W2: ["Each weight is multiplied by one entry of h in every example, and collects from all of them.", "(64, 32) @ (32, 27) is (64, 27), the shape of W2. The product sums over the 32 examples."],
  b2: ["What is added passes its gradient on unchanged.", "The bias (27,) was copied to 32 rows, so its gradient is summed over them."],
  hpreact: ["The slope of tanh is 1 − h², from its own output h. The nearer h is to 1 or −1, the less gets through.", "Entry by entry."],
  bngain: ["In a product each factor gets the gradient times the other factor.", "The row (1, 64) was copied to 32 examples, so its gradient is summed over them."],
  bnbias: ["What is added passes its gradient on unchanged.", "The row (1, 64) was copied to 32 examples, so its gradient is summed over them."],
  bnraw: ["In a product each factor gets the gradient times the other factor.", "The row bngain (1, 64) is copied to the 32 examples once more."],
  bnvar_inv: ["In a product each factor gets the gradient times the other factor.", "The row (1, 64) was copied to 32 examples, so its gradient is summed over them."],
  bnvar: ["The power rule: the exponent −½ comes down in front and drops to −1½.", "A row to a row, entry by entry."],
  bndiff2: ["The variance is a mean, in which every square counts 1/32.", "A sum is copied on the way back: the row dbnvar (1, 64) goes to all 32 examples."],
  bndiff: ["Used twice, so two gradients add up: as a factor of bnraw, and in its own square, whose slope is 2 · bndiff.", "The row bnvar_inv (1, 64) is copied to all 32 examples."],
  bnmeani: ["What is subtracted gets the gradient with its sign turned.", "The row (1, 64) was copied to 32 examples, so its gradient is summed over them."],
  hprebn: ["Used twice: directly in the difference, and in the mean, where every example counts 1/32.", "The row dbnmeani (1, 64) is copied to all 32 examples."],
  embcat: ["A matrix product: each entry collects the gradient along a row of W1.", "(32, 64) @ (64, 30) is (32, 30), the shape of embcat."],
  W1: ["Each weight is multiplied by one entry of embcat in every example, and collects from all of them.", "(30, 32) @ (32, 64) is (30, 64), the shape of W1. The product sums over the 32 examples."],
  b1: ["What is added passes its gradient on unchanged. It is zero but for rounding: BatchNorm subtracts the mean, and this bias with it.", "The bias (64,) was copied to 32 rows, so its gradient is summed over them."],
  emb: ["Nothing was computed, three vectors were only laid side by side.", "The same numbers in the shape of emb, (32, 3, 10)."],
  C: ["A row of the table was copied to every place where its letter stands, so it sums the gradients of all these places.", "96 places of 10 numbers are added into 27 rows. A letter that is not in the batch gets zeros."],
};

// Column and line of each tensor in the drawing; what is computed later stands higher.
const PLACES = {
  loss: [1, 0], logprobs: [1, 1], probs: [1, 2], counts_sum_inv: [2, 3], counts_sum: [2, 4], counts: [1, 5], norm_logits: [1, 6],
  logit_maxes: [2, 7], logits: [1, 8], h: [1, 9], W2: [0, 9], b2: [2, 9], hpreact: [1, 10], bngain: [0, 11], bnraw: [1, 11], bnbias: [2, 11],
  bnvar_inv: [2, 12], bnvar: [2, 13], bndiff2: [2, 14], bndiff: [1, 15], bnmeani: [2, 16], hprebn: [1, 17], embcat: [1, 18], W1: [0, 18], b1: [2, 18],
  emb: [1, 19], C: [1, 20],
};

// ------------------------------------------------------------ the graph

/** The names of the tensors that a line of code reads, each once. */
export function reads(code, names) {
  const words = code.replace(/^[^=]*=/, "").match(/[A-Za-z_]\w*/g) ?? [];
  return [...new Set(words)].filter(word => names.includes(word));
}

/** For every tensor the ones it was computed from, and the ones computed from it. */
export function relations({nodes}) {
  const names = nodes.map(node => node.name);
  const from = Object.fromEntries(nodes.map(({name, forward}) => [name, forward.flatMap(line => reads(line, names))]));
  const to = Object.fromEntries(names.map(name => [name, names.filter(other => from[other].includes(name))]));
  return {from, to};
}

/** "(32, 27)", as Python writes a shape. */
export const shape = sizes => `(${sizes.join(", ")}${sizes.length === 1 ? "," : ""})`;

/** Five digits, as the chapter's own numbers have. */
export const five = x => String(Number(x.toPrecision(5)));

/** One entry of a gradient worked out: "dprobs[0, 14] = (-0.03125) / 0.033704 = -0.92719". */
export function worked(name, {where, how, rest, value}) {
  const more = rest === null ? "" : rest.startsWith("-") ? ` + (${rest})` : ` + ${rest}`;
  const sum = how + more;
  return `d${name}${where} = ${sum}${/^\(?[-\d.e]+\)?$/.test(sum) ? "" : ` = ${five(value)}`}`;
}

/** How near autograd's gradient is. */
export const agreement = apart => apart === 0 ? "autograd’s gradient is the same to the last bit" : `autograd’s gradient differs by about ${apart.toExponential(0)} where it differs most`;

// ------------------------------------------------------------ the widget

const WIDE = 114, TALL = 34, ACROSS = 124, DOWN = 47; // of a box, and from one to the next
const LINES = 1 + Math.max(...Object.values(PLACES).map(([, line]) => line));

/** Put the figure into `element`. `data` is as in backprop.json: the nodes in the order of the backward pass. */
export function mount(element, data) {
  const {nodes} = data, names = nodes.map(node => node.name), {from, to} = relations(data);
  let chosen = 0;

  const left = name => 5 + PLACES[name][0] * ACROSS, top = name => 4 + PLACES[name][1] * DOWN;
  const boxes = nodes.map(({name, shape: sizes}, i) => {
    const middle = left(name) + WIDE / 2;
    return s("g", {class: "zhw-tensor", role: "button", tabindex: -1, "data-tensor": name, "aria-label": `${name}, ${sizes.length ? sizes.join(" by ") : "one number"}`,
      onclick: () => choose(i, true), onkeydown: event => steer(event, i)},
    s("rect", {x: left(name), y: top(name), width: WIDE, height: TALL, rx: 5}),
    s("text", {class: "zhw-label", x: middle, y: top(name) + 14}, name),
    s("text", {class: "zhw-size", x: middle, y: top(name) + 28}, sizes.length ? shape(sizes) : "one number"));
  });
  const edges = names.flatMap(name => from[name].map(input => {
    const [x1, y1, x2, y2] = [left(name) + WIDE / 2, top(name) + TALL, left(input) + WIDE / 2, top(input) - 1];
    const bend = x1 === x2 ? 0 : Math.min(DOWN, (y2 - y1)) * 0.7;
    return {name, input, path: s("g", {class: "zhw-wire"},
      s("path", {class: "zhw-way", d: `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2 - 5}`}),
      s("path", {class: "zhw-tip", d: `M${x2} ${y2}l-3.5 -6.5h7z`}))};
  }));
  const svg = s("svg", {viewBox: `0 0 ${3 * ACROSS} ${LINES * DOWN}`, role: "group", "aria-label": "The network as a graph of tensors, the loss at the top. Arrow keys walk in the order of the backward pass."},
    ...edges.map(edge => edge.path), ...boxes);
  const stage = h("div", {class: "zhw-graph"}, svg);

  const button = (text, onclick) => h("button", {type: "button", onclick}, text);
  const previous = button("Previous", () => choose(chosen - 1)), next = button("Next", () => choose(chosen + 1));
  const count = h("span", {class: "zhw-count"});
  const panel = h("div", {class: "zhw-derivation", role: "status"});
  element.replaceChildren(h("div", {class: "zhw zhw-backprop"}, stage,
    h("div", {class: "zhw-story"}, h("div", {class: "zhw-walk"}, previous, next, count), panel)));

  function steer(event, i) {
    const to = {ArrowDown: i + 1, ArrowRight: i + 1, ArrowUp: i - 1, ArrowLeft: i - 1, Home: 0, End: nodes.length - 1, Enter: i, " ": i}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(to, true);
  }

  const code = lines => h("pre", {}, h("code", {}, lines.join("\n")));
  const part = (title, ...content) => content.length ? [h("h4", {}, title), ...content] : [];

  function describe({name, shape: sizes, forward, backward, entry, apart}) {
    const [rule, shapes] = WORDS[name];
    const uses = to[name].flatMap(other => nodes[names.indexOf(other)].forward);
    return [
      h("p", {class: "zhw-title zhw-grad"}, name === "loss" ? "The loss" : `d${name}`, sizes.length ? h("span", {}, ` ${shape(sizes)}`) : ""),
      ...part(name === "loss" ? "How it was computed" : `What ${name} was used for`, code(name === "loss" ? forward : uses)),
      ...part("The rule", h("p", {}, rule)),
      ...part("What the shapes say", h("p", {}, shapes)),
      ...(backward ? part("The line", code(backward)) : []),
      ...(entry ? part("One entry, in numbers", code([worked(name, entry)]),
        h("p", {class: "zhw-words"}, entry.rest === null ? "" : `The last number stands for ${entry.more} more terms of the same kind. `, `In the whole tensor, ${agreement(apart)}.`)) : []),
    ];
  }

  function choose(i, focus = false) {
    chosen = Math.min(nodes.length - 1, Math.max(0, i));
    const name = names[chosen];
    boxes.forEach((box, j) => {
      box.setAttribute("tabindex", j === chosen ? 0 : -1);
      box.setAttribute("aria-pressed", j === chosen);
      box.classList.toggle("zhw-chosen", j === chosen);
      box.classList.toggle("zhw-known", j < chosen);
    });
    for (const edge of edges) edge.path.classList.toggle("zhw-arriving", edge.input === name);
    panel.replaceChildren(...describe(nodes[chosen]));
    count.textContent = chosen ? `gradient ${chosen} of ${nodes.length - 1}` : "backward from here";
    const held = document.activeElement;
    previous.disabled = chosen === 0;
    next.disabled = chosen === nodes.length - 1;
    if (focus) boxes[chosen].focus({preventScroll: true});
    else if (held === next && next.disabled) previous.focus(); // the keyboard needs a place to be
    else if (held === previous && previous.disabled) next.focus();
    const scale = svg.getBoundingClientRect().width / (3 * ACROSS);
    stage.scrollTop = (top(name) + TALL / 2) * scale - stage.clientHeight / 2;
  }

  choose(0);
}

start("backprop", mount);
