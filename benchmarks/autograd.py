"""One full-batch training step of micrograd's two-moons demonstration on four engines, side by side.

100 points, a 2-16-16-1 network of 337 parameters with relu, hinge loss and L2, as in the demonstration notebook of micrograd.
All engines start from the same parameters and must report the same losses; their steps alternate, and the median counts.
Everything is measured as Python runs it, and once more with the garbage collector off during a step: collecting what
micrograd's closures leave behind, and looking through all living values, takes much of the time of the scalar engines.

    python benchmarks/autograd.py
"""

import copy
import random

import numpy as np
import torch
from _record import times_in_turns, write_record
from micrograd.nn import MLP

import zerohero.autograd
from zerohero.autograd import ScalarMLP, Tensor, two_moons

SIZES, DECAY, RATE, ROUNDS = [2, 16, 16, 1], 1e-4, 0.1, 7
MICROGRAD, SEPARATE, SCALARS, ARRAYS, PYTORCH = (
    "micrograd 0.1.0",
    "Value, separate sums",
    "Value",
    "Tensor",
    f"torch {torch.__version__}",
)


def scalar_step(model, points, labels):
    """A function that runs one training step of a network of scalars, micrograd's or ours, and returns its loss."""
    outputs = (lambda point: model(point)) if isinstance(model, MLP) else (lambda point: model(point)[0])

    def step():
        scores = [outputs(point) for point in points]
        losses = [(1 + -label * score).relu() for label, score in zip(labels, scores)]
        loss = sum(losses) * (1.0 / len(losses)) + DECAY * sum(p * p for p in model.parameters())
        model.zero_grad()
        loss.backward()
        for p in model.parameters():
            p.data -= RATE * p.grad
        return loss.data

    return step


def with_separate_sums(step):
    """`step` with one value per product and per sum, as micrograd has them, in place of `weighted_sum`."""

    def separately():
        fused = zerohero.autograd.weighted_sum
        zerohero.autograd.weighted_sum = lambda weights, inputs, bias: sum(
            (w * x for w, x in zip(weights, inputs)), bias
        )
        try:
            return step()
        finally:
            zerohero.autograd.weighted_sum = fused

    return separately


def layer_arrays(model):
    """For each layer of a ScalarMLP, its weights (inputs, outputs) and biases (outputs,)."""
    layers = [layer.neurons for layer in model.layers]
    return [
        (np.array([[w.data for w in n.weights] for n in layer]).T, np.array([n.bias.data for n in layer]))
        for layer in layers
    ]


def forward(layers, x):
    for k, (w, b) in enumerate(layers):
        x = x @ w + b
        x = x.relu() if k < len(layers) - 1 else x
    return x


def array_step(model, points, labels):
    layers = [(Tensor(w), Tensor(b)) for w, b in layer_arrays(model)]
    parameters = [p for layer in layers for p in layer]
    x, y = Tensor(points), Tensor(np.array(labels)[:, None])

    def step():
        hinge = (forward(layers, x) * y * -1 + 1).relu().sum() * (1 / len(points))
        loss = hinge + sum(((p * p).sum() for p in parameters), Tensor(0.0)) * DECAY
        for p in parameters:
            p.grad = np.zeros_like(p.data)
        loss.backward()
        for p in parameters:
            p.data = p.data - RATE * p.grad
        return float(loss.data)

    return step


def torch_step(model, points, labels):
    layers = [[torch.tensor(p, requires_grad=True) for p in layer] for layer in layer_arrays(model)]
    parameters = [p for layer in layers for p in layer]
    x, y = torch.tensor(points, dtype=torch.float64), torch.tensor(labels, dtype=torch.float64)[:, None]

    def step():
        loss = (1 - forward(layers, x) * y).relu().mean() + DECAY * sum((p * p).sum() for p in parameters)
        for p in parameters:
            p.grad = None
        loss.backward()
        with torch.no_grad():
            for p in parameters:
                p -= RATE * p.grad
        return loss.item()

    return step


def main():
    torch.set_num_threads(1)
    random.seed(1337)  # micrograd draws its weights from the global generator
    peer, ours = MLP(2, SIZES[1:]), ScalarMLP(SIZES)
    for p, q in zip(ours.parameters(), peer.parameters(), strict=True):
        p.data = float(q.data)
    points, labels = two_moons(rng=random.Random(1))
    steps = {
        MICROGRAD: scalar_step(peer, points, labels),
        ARRAYS: array_step(ours, points, labels),
        PYTORCH: torch_step(ours, points, labels),
        SCALARS: scalar_step(copy.deepcopy(ours), points, labels),
        SEPARATE: with_separate_sums(scalar_step(ours, points, labels)),
    }
    rows = {engine: {"engine": engine} for engine in (MICROGRAD, SEPARATE, SCALARS, ARRAYS, PYTORCH)}
    for collector in (True, False):
        median, losses = times_in_turns(steps, ROUNDS, collector=collector)
        if max(losses.values()) - min(losses.values()) > 1e-9:
            raise SystemExit(f"The engines disagree on the loss: {losses}")
        for engine, t in median.items():
            row = {"milliseconds": round(t, 3), "ratio": round(median[MICROGRAD] / t, 1)}
            rows[engine]["on" if collector else "off"] = row
    print(f"{'ms per step and ratio to micrograd':22}  garbage collector on, off")
    for engine, row in rows.items():
        print(f"{engine:22}", *("{milliseconds:10.3f} {ratio:8.1f} x".format(**row[gc]) for gc in ("on", "off")))
    write_record("autograd", "one step of two moons, 100 points, 337 parameters", ROUNDS, [*rows.values()])


if __name__ == "__main__":
    main()
