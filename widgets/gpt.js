// A decoder-only transformer in plain JavaScript: it reads one character at a time and remembers keys and values.
// Parameters have GPT-2's names, and matrices the shape (out, in). There are no biases.

/** Numbers stored in 16 bits (IEEE half precision, little-endian), as 32-bit floats. */
export function halves(buffer, offset, count) {
  const view = new DataView(buffer, offset, 2 * count);
  return Float32Array.from({length: count}, (_, i) => {
    const bits = view.getUint16(2 * i, true), exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24
      : exponent === 31 ? (fraction ? NaN : Infinity)
      : (1 + fraction / 1024) * 2 ** (exponent - 15);
    return bits >> 15 ? -size : size;
  });
}

/** The model from its description, as in shakespeare.json, and the bytes of its weights. */
export function load({config, characters, tensors}, buffer) {
  const weights = new Map();
  let end = 0;
  for (const {name, shape, offset} of tensors) {
    const count = shape.reduce((a, b) => a * b, 1);
    end = Math.max(end, offset + 2 * count);
    if (end > buffer.byteLength) throw new Error(`the weights have ${buffer.byteLength} bytes, but ${name} ends at ${end}`);
    weights.set(name, halves(buffer, offset, count));
  }
  if (end !== buffer.byteLength) throw new Error(`the weights have ${buffer.byteLength} bytes instead of ${end}`);
  const layers = Array.from({length: config.n_layer}, (_, i) => {
    const of = name => weights.get(`transformer.h.${i}.${name}.weight`);
    return {ln1: of("ln_1"), qkv: of("attn.c_attn"), mix: of("attn.c_proj"), ln2: of("ln_2"), widen: of("mlp.c_fc"), narrow: of("mlp.c_proj")};
  });
  const of = name => weights.get(`transformer.${name}.weight`);
  const symbols = [...characters], ids = new Map(symbols.map((symbol, i) => [symbol, i]));
  return {...config, symbols, ids, layers, wte: of("wte"), wpe: of("wpe"), lnF: of("ln_f"), activate: ACTIVATIONS[config.activation]};
}

// ------------------------------------------------------------ the pieces

/** W x, where W has as many columns as x has numbers. */
export function linear(x, W) {
  const columns = x.length, out = new Float32Array(W.length / columns);
  for (let row = 0, at = 0; row < out.length; row++) {
    let sum = 0;
    for (let i = 0; i < columns; i++) sum += W[at++] * x[i];
    out[row] = sum;
  }
  return out;
}

/** LayerNorm without bias: mean 0 and variance 1, times one learned number each. */
export function normalise(x, gain) {
  let mean = 0, variance = 0;
  for (const v of x) mean += v / x.length;
  for (const v of x) variance += (v - mean) ** 2 / x.length;
  const scale = 1 / Math.sqrt(variance + 1e-5);
  return x.map((v, i) => (v - mean) * scale * gain[i]);
}

/** The error function, to 1.5e-7: formula 7.1.26 of Abramowitz and Stegun's handbook. */
export function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * Math.exp(-x * x);
  return Math.sign(x) * (1 - tail);
}

export const ACTIVATIONS = {
  relu2: x => x > 0 ? x * x : 0,
  gelu: x => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  gelu_tanh: x => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

/** Turn the pairs (x[i], x[i + D/2]) of the D numbers of each head by an angle that grows with the position; in place. */
export function rotate(x, position, heads) {
  const D = x.length / heads, half = D / 2;
  for (let i = 0; i < half; i++) {
    const angle = position * 10000 ** (-2 * i / D), cos = Math.cos(angle), sin = Math.sin(angle);
    for (let at = i; at < x.length; at += D) {
      const a = x[at], b = x[at + half];
      x[at] = a * cos - b * sin;
      x[at + half] = b * cos + a * sin;
    }
  }
  return x;
}

export function softmax(scores) {
  const most = scores.reduce((a, b) => Math.max(a, b), -Infinity), weights = Float64Array.from(scores, z => Math.exp(z - most));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map(weight => weight / sum);
}

// ------------------------------------------------------------ reading

/** What the model has read: nothing yet. Keys and values of each layer, one row of n_embd numbers per position. */
export function begin(model) {
  const room = () => new Float32Array(model.block_size * model.n_embd);
  return {length: 0, layers: model.layers.map(() => ({keys: room(), values: room()}))};
}

/** Each head of one layer looks back from the newest position: what it gathers, and its weights. */
function attend(q, {keys, values}, position, heads) {
  const C = q.length, D = C / heads, gathered = new Float32Array(C), attention = [];
  for (let first = 0; first < C; first += D) {
    const scores = new Float32Array(position + 1);
    for (let s = 0; s <= position; s++) {
      let sum = 0;
      for (let i = first; i < first + D; i++) sum += q[i] * keys[s * C + i];
      scores[s] = sum / Math.sqrt(D);
    }
    const weights = softmax(scores);
    for (let s = 0; s <= position; s++) for (let i = first; i < first + D; i++) gathered[i] += weights[s] * values[s * C + i];
    attention.push(weights);
  }
  return {gathered, attention};
}

/** Read the character `id` after those in `cache`: the logits of the next one, and the weights of every layer and head. */
export function feed(model, cache, id) {
  const {n_embd: C, n_head, layers, wte, wpe} = model, position = cache.length;
  if (position >= model.block_size) throw new Error(`the context of ${model.block_size} characters is full`);
  const x = wte.slice(id * C, (id + 1) * C), add = y => { for (let i = 0; i < C; i++) x[i] += y[i]; };
  if (model.positions === "learned") add(wpe.subarray(position * C, (position + 1) * C));
  const maps = layers.map((layer, n) => {
    const qkv = linear(normalise(x, layer.ln1), layer.qkv);
    const q = qkv.subarray(0, C), k = qkv.subarray(C, 2 * C), kept = cache.layers[n];
    if (model.positions === "rotary") [q, k].forEach(z => rotate(z, position, n_head));
    kept.keys.set(k, position * C);
    kept.values.set(qkv.subarray(2 * C), position * C);
    const {gathered, attention} = attend(q, kept, position, n_head);
    add(linear(gathered, layer.mix));
    add(linear(linear(normalise(x, layer.ln2), layer.widen).map(model.activate), layer.narrow));
    return attention;
  });
  cache.length++;
  return {logits: linear(normalise(x, model.lnF), wte), maps}; // the head is the embedding again
}

/** Read all of `ids` from an empty cache: one answer of `feed` per position. */
export function read(model, ids) {
  const cache = begin(model);
  return ids.map(id => feed(model, cache, id));
}

/** Whoever asks again and again about a growing text: `think` reads only what is new, and yields after each character so
 * that the page can breathe. A full context slides, as in Python, and everything in it then stands at another position:
 * all of it has to be read anew. */
export function reader(model) {
  let cache = begin(model), seen = [], logits = null;
  return {
    *think(ids) {
      const view = ids.slice(-model.block_size);
      if (seen.length > view.length || seen.some((id, i) => id !== view[i])) {
        cache = begin(model);
        seen = [];
      }
      while (seen.length < view.length) {
        const id = view[seen.length];
        ({logits} = feed(model, cache, id));
        seen.push(id);
        yield seen.length;
      }
      return logits;
    },
  };
}

// ------------------------------------------------------------ writing

/** The numbers of the characters of `text`. */
export function encode(model, text) {
  return [...text].map(symbol => {
    const id = model.ids.get(symbol);
    if (id === undefined) throw new Error(`'${symbol}' is not among the characters of the model`);
    return id;
  });
}

/** The probabilities to draw from. Temperature 0 always takes the likeliest; only the `k` likeliest stay in play. */
export function distribution(logits, temperature, k = logits.length) {
  if (temperature === 0) {
    const best = logits.indexOf(logits.reduce((a, b) => Math.max(a, b), -Infinity));
    return Float64Array.from(logits, (_, i) => i === best ? 1 : 0);
  }
  const least = Float64Array.from(logits).sort()[Math.max(0, logits.length - k)];
  return softmax(Float64Array.from(logits, z => z < least ? -Infinity : z / temperature));
}
