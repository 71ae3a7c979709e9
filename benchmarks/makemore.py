"""A training step of the networks of chapters 3 to 6, beside the straightforward torch code of the same network.

The straightforward side is written as in Karpathy's lectures: parameters in a list, layers as plain expressions or small
classes that keep their output, one update per parameter, the loss read at every step. Ours is what the chapters keep:
`fit` with their modules, and for chapter 5 its backward functions. Both start from the same parameters, draw the same
batches of 32, and must report the same losses; they take turns, and the median counts. One thread each.

    python benchmarks/makemore.py
"""

import copy
import functools

import torch
import torch.nn.functional as F
from _record import times_in_turns, write_record

from zerohero.backprop import (
    batchnorm_backward,
    cross_entropy_backward,
    embedding_backward,
    linear_backward,
    tanh_backward,
)
from zerohero.batchnorm import BatchNorm1d, Embedding, Linear, Sequential, Tanh
from zerohero.data import CharTokenizer, context_windows, load_names, split
from zerohero.mlp import MLP, fit
from zerohero.wavenet import FlattenConsecutive, WaveNet

STEPS, ROUNDS, BATCH, RATE, SEED = 400, 9, 32, 0.1, 2147483647


def seeded():
    return torch.Generator().manual_seed(SEED)


# ---- the straightforward side: a network is a function of its parameters that returns its forward pass ----


def descend(network, parameters, X, Y):
    """The lectures' loop: forward, backward, update, and the loss as a number."""
    parameters = [p.detach().clone() for p in parameters]
    for p in parameters:
        p.requires_grad = True
    forward, generator, losses = network(*parameters), seeded(), []
    for _ in range(STEPS):
        ix = torch.randint(0, X.shape[0], (BATCH,), generator=generator)
        loss = F.cross_entropy(forward(X[ix]), Y[ix])
        for p in parameters:
            p.grad = None
        loss.backward()
        for p in parameters:
            p.data += -RATE * p.grad
        losses.append(loss.item())
    return losses


def plain_mlp(C, W1, b1, W2, b2):
    def forward(x):
        emb = C[x]
        h = torch.tanh(emb.view(emb.shape[0], -1) @ W1 + b1)
        return h @ W2 + b2

    return forward


class PlainLinear:
    def __init__(self, weight, bias=None):
        self.weight, self.bias = weight, bias

    def __call__(self, x):
        self.out = x @ self.weight
        if self.bias is not None:
            self.out += self.bias
        return self.out


class PlainBatchNorm:
    def __init__(self, gain, bias):
        self.gain, self.bias = gain, bias
        self.running_mean, self.running_var = torch.zeros(len(gain)), torch.ones(len(gain))

    def __call__(self, x):
        dim = 0 if x.ndim == 2 else (0, 1)
        mean, var = x.mean(dim, keepdim=True), x.var(dim, keepdim=True, unbiased=False)
        self.out = self.gain * ((x - mean) / torch.sqrt(var + 1e-5)) + self.bias
        with torch.no_grad():
            self.running_mean = 0.9 * self.running_mean + 0.1 * mean
            self.running_var = 0.9 * self.running_var + 0.1 * var
        return self.out


class PlainTanh:
    def __call__(self, x):
        self.out = torch.tanh(x)
        return self.out


class PlainFlatten:
    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        B, T, C = x.shape
        x = x.view(B, T // self.n, C * self.n)
        self.out = x.squeeze(1) if x.shape[1] == 1 else x
        return self.out


def plain_tree(embedding, *levels, fuse=2):
    """A network that fuses `fuse` letters at a time: `levels` holds weight, gain and bias of each, and at the end weight
    and bias of the last layer."""
    *levels, weight, bias = levels
    layers = []
    for i in range(0, len(levels), 3):
        layers += [PlainFlatten(fuse), PlainLinear(levels[i]), PlainBatchNorm(*levels[i + 1 : i + 3]), PlainTanh()]
    layers.append(PlainLinear(weight, bias))

    def forward(x):
        x = embedding[x]
        for layer in layers:
            x = layer(x)
        return x

    return forward


@torch.no_grad()
def plain_backprop(parameters, X, Y):
    """The lecture's training without autograd: its backward pass, with the loop over the places of the embedding."""
    C, W1, gain, bias, W2, b2 = parameters = [p.detach().clone() for p in parameters]
    generator, losses = seeded(), []
    for _ in range(STEPS):
        ix = torch.randint(0, X.shape[0], (BATCH,), generator=generator)
        x, y, n = X[ix], Y[ix], BATCH
        emb = C[x]
        flat = emb.view(emb.shape[0], -1)
        before = flat @ W1
        mean, var = before.mean(0, keepdim=True), before.var(0, keepdim=True, unbiased=False)
        inverse = (var + 1e-5) ** -0.5
        normal = (before - mean) * inverse
        h = torch.tanh(gain * normal + bias)
        logits = h @ W2 + b2
        loss = F.cross_entropy(logits, y)
        dlogits = F.softmax(logits, 1)
        dlogits[range(n), y] -= 1
        dlogits /= n
        dh = dlogits @ W2.T
        dW2, db2 = h.T @ dlogits, dlogits.sum(0)
        dpre = (1.0 - h**2) * dh
        dgain, dbias = (normal * dpre).sum(0), dpre.sum(0)
        dbefore = gain * inverse / n * (n * dpre - dpre.sum(0) - normal * (dpre * normal).sum(0))
        dflat = dbefore @ W1.T
        dW1 = flat.T @ dbefore
        demb = dflat.view(emb.shape)
        dC = torch.zeros_like(C)
        for k in range(x.shape[0]):
            for j in range(x.shape[1]):
                dC[x[k, j]] += demb[k, j]
        for p, g in zip(parameters, (dC, dW1, dgain, dbias, dW2, db2)):
            p.data += -RATE * g
        losses.append(loss.item())
    return losses


# ---- ours ----


def fitted(network, X, Y):
    return fit(network, X, Y, STEPS, RATE, batch_size=BATCH, generator=seeded()).tolist()


@torch.no_grad()
def by_hand(parameters, X, Y):
    """Chapter 5's training without autograd."""
    C, W1, gain, bias, W2, b2 = parameters = [p.detach().clone() for p in parameters]
    generator, losses = seeded(), torch.empty(STEPS)
    for step in range(STEPS):
        ix = torch.randint(len(X), (BATCH,), generator=generator)
        x, y = X[ix], Y[ix]
        flat = F.embedding(x, C).flatten(1)
        before = flat @ W1
        var, mean = torch.var_mean(before, 0, correction=0)
        inverse = (var + 1e-5).rsqrt()
        normalised = (before - mean) * inverse
        h = torch.tanh(gain * normalised + bias)
        logits = h @ W2 + b2
        losses[step] = F.cross_entropy(logits, y)
        dh, dW2, db2 = linear_backward(cross_entropy_backward(1.0, logits, y), h, W2)
        dbefore, dgain, dbias = batchnorm_backward(tanh_backward(dh, h), normalised, inverse, gain)
        dflat, dW1, _ = linear_backward(dbefore, flat, W1)
        dC = embedding_backward(dflat.view(*x.shape, -1), x, len(C))
        for p, g in zip(parameters, (dC, dW1, dgain, dbias, dW2, db2)):
            p.add_(g, alpha=-RATE)
    return losses.tolist()


# ---- side by side ----


def main():
    torch.set_num_threads(1)
    names, generator = load_names(), seeded()
    tokenizer = CharTokenizer("".join(names), boundary=".")
    train = split(names)[0]
    three, eight = context_windows(train, 3, tokenizer), context_windows(train, 8, tokenizer)

    mlp, tree = MLP(generator=generator), WaveNet(generator=generator)
    normed = Sequential(
        Embedding(27, 10, generator),
        FlattenConsecutive(3),
        Linear(30, 200, bias=False, generator=generator),
        BatchNorm1d(200),
        Tanh(),
        Linear(200, 27, generator=generator),
    )
    values = list(normed.parameters())
    contests = {
        "MLP": (mlp, lambda: descend(plain_mlp, mlp.parameters(), *three), lambda: fitted(copy.deepcopy(mlp), *three)),
        "MLP with BatchNorm": (
            normed,
            lambda: descend(functools.partial(plain_tree, fuse=3), values, *three),
            lambda: fitted(copy.deepcopy(normed), *three),
        ),
        "the same, without autograd": (normed, lambda: plain_backprop(values, *three), lambda: by_hand(values, *three)),
        "WaveNet": (
            tree,
            lambda: descend(plain_tree, tree.parameters(), *eight),
            lambda: fitted(copy.deepcopy(tree), *eight),
        ),
    }
    rows = []
    print(f"{'':28}{'parameters':>10}  lectures' code      ours   ratio   (microseconds per step of {BATCH})")
    for name, (model, plain, ours) in contests.items():
        milliseconds, losses = times_in_turns({"plain": plain, "ours": ours}, ROUNDS)
        for a, b in zip(losses["plain"][:20], losses["ours"][:20]):
            assert abs(a - b) < 1e-3, f"{name}: the two sides compute different losses, {a} and {b}"
        a, b = (1000 * milliseconds[side] / STEPS for side in ("plain", "ours"))
        size = sum(p.numel() for p in model.parameters())
        rows.append(
            {"network": name, "parameters": size, "plain": round(a, 1), "ours": round(b, 1), "ratio": round(a / b, 2)}
        )
        print(f"{name:28}{size:>10,}{a:>16.0f}{b:>10.0f}{a / b:>8.2f}")
    write_record("makemore", f"microseconds per training step of {BATCH}, one thread, medians", ROUNDS, rows)


if __name__ == "__main__":
    main()
