"""Continuous batching: whatever shares the batch, each request writes what it would write alone."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kv_cache import MODELS, N, V

from zerohero import batching
from zerohero.batching import Engine, Request, generate_batch
from zerohero.sampling import Sampler

pytestmark = pytest.mark.usefixtures("one_thread")
GREEDY = Sampler(temperature=0)
SAMPLERS = {
    "greedy": GREEDY,
    "plain": Sampler(),
    "filtered": Sampler(0.8, top_k=9, top_p=0.9, min_p=0.01),
    "penalised": Sampler(0.7, repetition_penalty=1.3, presence_penalty=0.3, frequency_penalty=0.2),
}


def some(rng, count, longest=3 * N):
    return [[rng.randrange(V) for _ in range(rng.randint(1, longest))] for _ in range(count)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_batch_writes_what_each_writes_alone(name, sampler):
    model, rng = MODELS[name], random.Random(name)
    prompts = some(rng, 14)
    prompts[3:5] = [[*prompts[0][:8], 1, 2], prompts[0][:12]]  # beginnings to share
    most, seeds = [rng.randint(0, 30) for _ in prompts], list(range(14))
    together = generate_batch(model, prompts, most, rows=5, sampler=sampler, seeds=seeds, chunk=7, shared=2, stop=[3])
    for request, ids, size, seed in zip(together, prompts, most, seeds):
        (alone,) = generate_batch(model, [ids], size, sampler=sampler, seeds=[seed], stop=[3])
        assert request.tokens == alone.tokens and request.finished == alone.finished
        assert request.ids == ids
        assert request.finished == ("stop" if request.tokens[-1:] == [3] else "length")
        assert len(request.tokens) == size or request.finished == "stop"


@settings(max_examples=40)
@given(st.data())
def test_any_way_of_joining_comes_to_the_same(data):
    """Requests are added at random moments, to engines of any size, with any chunk."""
    model = MODELS[data.draw(st.sampled_from(["learned", "rope"]))]
    rng = random.Random(data.draw(st.integers(0, 10**6)))
    requests = [Request(ids, rng.randint(1, 12), GREEDY) for ids in some(rng, 6)]
    engine = Engine(
        model, data.draw(st.integers(1, 7)), chunk=data.draw(st.integers(1, 40)), shared=data.draw(st.integers(1, 20))
    )
    seen = {id(r): [] for r in requests}
    waiting = list(requests)
    while waiting or engine.active or engine.waiting:
        while waiting and rng.random() < 0.5:
            engine.add(waiting.pop(0))
        for request, token in engine.step():
            seen[id(request)].append(token)
        assert len(engine.active) <= len(engine.held)
    for request in requests:
        (alone,) = generate_batch(model, [request.ids], request.max_new_tokens, sampler=GREEDY)
        assert request.tokens == alone.tokens == seen[id(request)]


def counted(monkeypatch):
    """How many tokens each pass of the model looks at."""
    sizes, original = [], batching.cached_logits

    def count(model, pieces, *args, **kwargs):
        sizes.append([len(piece) for piece in pieces])
        return original(model, pieces, *args, **kwargs)

    monkeypatch.setattr(batching, "cached_logits", count)
    return sizes


def test_a_long_prompt_joins_in_pieces_and_holds_nobody_up(monkeypatch):
    sizes = counted(monkeypatch)
    engine = Engine(MODELS["learned"], 2, chunk=4, shared=100)
    first, second = Request([1], 12, GREEDY), Request(list(range(14)), 2, GREEDY)
    engine.add(first)
    engine.step()
    engine.add(second)
    for _ in range(6):
        engine.step()
    assert sizes == [[1], [1, 4], [1, 4], [1, 4], [1, 2], [1, 1], [1]]
    assert len(first.tokens) == 7 and second.finished == "length"


def test_a_window_that_jumps_is_read_in_pieces_and_holds_nobody_up(monkeypatch):
    sizes = counted(monkeypatch)
    engine = Engine(MODELS["learned"], 2, chunk=5)
    jumps, other = Request(list(range(N)), 2, GREEDY), Request([1], 5, GREEDY)
    engine.run([jumps, other])
    # after its first token the text has 17, of which the window holds the last
    # 13; with nobody left to wait for them, the rest of these need no pieces
    assert sizes == [[5, 1], [5, 1], [5, 1], [1, 1], [5, 1], [8]]
    assert jumps.tokens == generate_batch(MODELS["learned"], [jumps.ids], 2, sampler=GREEDY)[0].tokens


def test_a_prompt_that_fits_is_computed_once_and_then_a_token_a_step(monkeypatch):
    sizes = counted(monkeypatch)
    generate_batch(MODELS["rope"], [[1, 2, 3, 4]], 5, sampler=GREEDY)
    assert sizes == [[4], [1], [1], [1], [1]]


def test_a_shared_beginning_is_computed_once(monkeypatch):
    sizes = counted(monkeypatch)
    beginning = list(range(10))
    prompts = [[*beginning, 1], [*beginning, 2, 3], [*beginning, 1]]
    engine = Engine(MODELS["rope"], 1, shared=4)
    texts = []
    for ids in prompts:
        request = Request(ids, 1, GREEDY)
        engine.run([request])
        texts.append(request.tokens)
    assert sizes == [[11], [2], [1]]
    assert texts == [generate_batch(MODELS["rope"], [ids], 1, sampler=GREEDY)[0].tokens for ids in prompts]
    sizes.clear()
    Engine(MODELS["rope"], 3, shared=4).run([Request(ids, 1, GREEDY) for ids in prompts])
    assert sizes == [[11, 12, 11]]  # all at once there is nothing to copy yet


def test_continuous_batching_takes_fewer_steps_than_static_batches(monkeypatch):
    sizes = counted(monkeypatch)
    model, rng = MODELS["learned"], random.Random(0)
    prompts = some(rng, 24, 4)
    most = [2 + int(rng.expovariate(1 / 20)) for _ in prompts]
    generate_batch(model, prompts, most, rows=6, sampler=GREEDY)
    continuous = len(sizes)
    static = sum(max(most[i : i + 6]) for i in range(0, 24, 6))
    assert max(most) <= continuous < 0.8 * static
    # no row is idle while a request waits
    assert all(len(step) == 6 for step in sizes[: continuous - max(most)])


def test_logprobs_are_the_models_own():
    model = MODELS["rope"]
    sampler = Sampler(0.5, top_k=3, repetition_penalty=1.5)
    (request,) = generate_batch(model, [[1, 2]], 6, sampler=sampler, seeds=[1], logprobs=True)
    text = torch.tensor([request.ids + request.tokens])
    with torch.no_grad():
        every = model(text[:, :-1])[0][0, 1:].log_softmax(-1)
    expected = every[torch.arange(6), text[0, 2:]]
    torch.testing.assert_close(torch.tensor(request.logprobs), expected, rtol=0, atol=1e-5)
    assert generate_batch(model, [[1, 2]], 6, seeds=[1])[0].logprobs == []


@pytest.mark.parametrize("stop", [[5], [[5]], [[2, 5]], [7, [1, 1], [2, 5]]])
def test_the_end_is_where_a_stop_is_complete(stop):
    request = Request([9, 2], 10, stop=stop)
    for token in (5, 2, 5):
        if not request.finished:
            request.take(token)
    # the prompt is no part of a stop
    assert request.tokens == ([5] if stop in ([5], [[5]]) else [5, 2, 5])
    assert request.finished == "stop"


def test_a_request_can_be_taken_out(monkeypatch):
    model = MODELS["learned"]
    first, second, third = (Request([i], 9, GREEDY) for i in range(3))
    engine = Engine(model, 2)
    for request in (first, second, third):
        engine.add(request)
    engine.step()
    engine.drop(first)
    engine.drop(third)
    assert engine.active == [second] and not engine.waiting
    engine.run()
    assert second.tokens == generate_batch(model, [[1]], 9, sampler=GREEDY)[0].tokens
    assert len(first.tokens) == 1 and not first.finished and third.tokens == []
    engine.drop(first)  # it is out already
    engine.run([first])  # and may come back, to go on where it was
    assert first.tokens == generate_batch(model, [[0]], 9, sampler=GREEDY)[0].tokens


def test_training_mode_is_left_as_it_was():
    model = MODELS["characters"].train()  # with dropout
    try:
        a, b = (generate_batch(model, [[1, 2]], 20, sampler=GREEDY)[0].tokens for _ in range(2))
        assert a == b and model.training
    finally:
        model.eval()


def test_nan_in_one_text_is_said(monkeypatch):
    model = MODELS["learned"]
    monkeypatch.setattr(batching, "cached_logits", lambda *a, **k: torch.full((1, V), float("nan")))
    with pytest.raises(ValueError, match="the logits hold nan"):
        generate_batch(model, [[1]], 3)


def test_wrong_input_is_named():
    model = MODELS["learned"]
    with pytest.raises(ValueError, match="The prompt is empty"):
        Request([], 3)
    with pytest.raises(ValueError, match="Cannot make -1 new tokens"):
        Request([1], -1)
    with pytest.raises(ValueError, match="Cannot make 2.5 new tokens"):
        Request([1], 2.5)
    with pytest.raises(ValueError, match="stop is a list of tokens, or of sequences of tokens, not 5"):
        Request([1], 1, stop=5)
    with pytest.raises(ValueError, match="stop is empty"):
        Request([1], 1, stop=[[]])
    with pytest.raises(ValueError, match=r"numbered from 0 to 22; the prompt has 23"):
        generate_batch(model, [[1, 23]], 3)
    with pytest.raises(ValueError, match=r"the prompt has -1"):
        Engine(model, 1).add(Request([-1], 1))
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        Engine(model, 1, chunk=0)
    with pytest.raises(ValueError, match="slide must be from 1 to 16"):
        Engine(model, 1, slide=17)
    with pytest.raises(ValueError, match="2 prompts need as many lengths and seeds, not 1 and 2"):
        generate_batch(model, [[1], [2]], [3])
    assert generate_batch(model, [], 3) == []
    assert [r.tokens for r in generate_batch(model, [[1], [2]], 0)] == [[], []]
