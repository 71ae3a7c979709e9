"""zerohero.text_stream: piece by piece the same text as decoded whole, cut at the first stop."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zerohero.data import CharTokenizer
from zerohero.text_stream import TextStream
from zerohero.tokenizer import BasicTokenizer


class Pieces:
    """A tokenizer whose tokens are pieces of a text's bytes, cut wherever it pleases."""

    def __init__(self, pieces):
        self.pieces = pieces

    def decode_bytes(self, ids):
        return b"".join(self.pieces[i] for i in ids)


def cut(text, stops):
    """Up to the stop that is complete first, and of several that end there the longest; found by trying all ends."""
    for end in range(len(text) + 1):
        for size in range(end, 0, -1):
            if text[end - size : end] in stops:
                return text[: end - size], True
    return text, False


def streamed(tokenizer, tokens, stops=()):
    flow = TextStream(tokenizer, stops)
    pieces = [flow.push(i) for i in tokens]
    return [*pieces, flow.close()], flow


# few letters, so that stops occur, overlap and begin inside one another; of one to four bytes
letters = st.sampled_from("abé語🪿")
texts = st.text(letters, max_size=12)
stop_lists = st.lists(st.text(letters, min_size=1, max_size=4), max_size=3)


@st.composite
def cut_bytes(draw, content):
    content = draw(content)
    places = sorted(draw(st.sets(st.integers(0, len(content)), max_size=8)))
    return [content[a:b] for a, b in zip([0, *places], [*places, len(content)])]


@settings(max_examples=1000)
@given(cut_bytes(texts.map(str.encode)), stop_lists)
@example([b"aa", b"ab"], ["aab"])
@example([b"ab", b"c"], ["abcd", "bc"])
@example([b"x", b"bc"], ["bc", "xbc"])
@example(["é".encode()[:1], "é".encode()[1:]], [])
def test_any_split_gives_the_same_text(pieces, stops):
    expected, finished = cut(b"".join(pieces).decode(), stops)
    parts, flow = streamed(Pieces(pieces), range(len(pieces)), stops)
    assert ("".join(parts), flow.finished) == (expected, finished)


@settings(max_examples=1000)
@given(cut_bytes(st.binary(max_size=8) | texts.map(lambda text: text.encode()[1:])))
def test_bytes_that_are_no_text(pieces):
    parts, _ = streamed(Pieces(pieces), range(len(pieces)))
    assert "".join(parts) == b"".join(pieces).decode("utf-8", "replace")


@settings(max_examples=500)
@given(texts, stop_lists)
def test_characters(text, stops):
    tokenizer = CharTokenizer("abé語🪿")
    parts, flow = streamed(tokenizer, tokenizer.encode(text), stops)
    assert ("".join(parts), flow.finished) == cut(text, stops)


@settings(max_examples=500)
@given(texts, stop_lists)
def test_nothing_is_held_that_is_certain(text, stops):
    """After each character only what may still become a stop is missing, and never the beginning of more than one."""
    flow, shown = TextStream(CharTokenizer("abé語🪿"), stops), ""
    for n, i in enumerate(CharTokenizer("abé語🪿").encode(text), 1):
        shown += flow.push(i)
        so_far, finished = cut(text[:n], stops)
        assert so_far.startswith(shown) and flow.finished == finished
        held = so_far[len(shown) :]
        if not finished:
            possible = [k for k in range(1, n + 1) if any(len(s) > k and s.startswith(so_far[n - k :]) for s in stops)]
            assert len(held) == max(possible, default=0)
        else:
            assert not held


def test_a_trained_tokenizer():
    tokenizer = BasicTokenizer()
    tokenizer.train("Bon appétit 🪿! " * 20, 270)
    tokenizer.register_special_tokens({"<|end|>": 300})
    text = "Bon 🪿 appétit, ça va? 日本"
    tokens = [*tokenizer.encode(text), 300]
    assert "".join(streamed(tokenizer, tokens)[0]) == tokenizer.decode(tokens) == text + "<|end|>"
    assert any("\N{REPLACEMENT CHARACTER}" in tokenizer.decode([i]) for i in tokens)  # what a naive stream shows
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in streamed(tokenizer, tokens)[0])


def test_character_appears_with_its_last_byte():
    goose = "🪿".encode()
    parts, _ = streamed(Pieces([goose[i : i + 1] for i in range(4)]), range(4))
    assert parts == ["", "", "", "🪿", ""]


def test_half_a_character_at_the_end():
    parts, _ = streamed(Pieces([b"a", "é".encode()[:1]]), range(2))
    assert parts == ["a", "", "\N{REPLACEMENT CHARACTER}"]


def test_false_alarm_is_let_go():
    letters = CharTokenizer("ENDor ")
    parts, flow = streamed(letters, letters.encode("EN or END or"), ["END"])
    assert parts[:3] == ["", "", "EN "]  # no stop after all
    assert "".join(parts) == "EN or " and flow.finished
    assert flow.push(0) == "" and flow.close() == ""  # what comes after the end is no text


def test_held_until_closed():
    letters = CharTokenizer("EN")
    flow = TextStream(letters, ["END"])
    assert [flow.push(i) for i in letters.encode("EN")] == ["", ""]
    assert flow.close() == "EN" and not flow.finished and flow.close() == ""


def test_stop_completed_by_closing():
    """A cut character becomes a replacement character, which may itself be a stop."""
    parts, flow = streamed(Pieces([b"a\xc3"]), [0], ["\N{REPLACEMENT CHARACTER}"])
    assert parts == ["a", ""] and flow.finished


def test_long_texts_do_not_pile_up():
    letters = CharTokenizer("ab")
    flow = TextStream(letters, ["aaab"])
    for i in random.Random(0).choices(range(2), k=1000):
        flow.push(i)
        assert len(flow.waiting) < 4


@pytest.mark.parametrize("stop", ["END", ["END", ""]])
def test_stops_that_make_no_sense(stop):
    with pytest.raises(ValueError, match="list of texts"):
        TextStream(CharTokenizer("a"), stop)
