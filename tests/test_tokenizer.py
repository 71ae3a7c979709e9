"""zerohero.tokenizer: against a naive trainer, tiktoken, tokenizers and rustbpe, in Python and in machine code, on odd input."""

import contextlib
import copy
import importlib.util
import itertools
import json
import os
import pickle
import random
import string
import subprocess
import sys
import sysconfig
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zerohero import bpe, data, tokenizer
from zerohero.bpe import GPT2_PATTERN, GPT4_PATTERN, apply_merges, byte_letters, count_words, learn_merges, split_words
from zerohero.data import load_shakespeare
from zerohero.tokenizer import BasicTokenizer, GPT2Tokenizer, RegexTokenizer, merges_from_ranks, show_token

tiktoken = pytest.importorskip("tiktoken")
HAS_NUMBA = importlib.util.find_spec("numba") is not None
PATTERNS = {"gpt2": GPT2_PATTERN, "gpt4": GPT4_PATTERN}
BOTH = pytest.mark.parametrize(
    "jit",
    ["0", pytest.param("1", marks=pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed"))],
    ids=["python", "machine"],
)
CLASSES = "sStLeév1२' \n\r\t\u00a0!—\x1cſ\N{GRINNING FACE}"  # what the patterns tell apart
TEXTS = st.text(st.one_of(st.sampled_from(CLASSES), st.characters(exclude_categories=["Cs"])))


@contextlib.contextmanager
def machine(jit):
    """Python alone, "0", or machine code, "1", however short the text."""
    before = os.environ.get("ZEROHERO_JIT")
    os.environ["ZEROHERO_JIT"] = jit
    try:
        yield
    finally:
        os.environ.pop("ZEROHERO_JIT")
        if before is not None:
            os.environ["ZEROHERO_JIT"] = before


def words_of(text, pattern):
    return [word for words in split_words(text, pattern) for word in words]


# ---- splitting ----


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_ascii_twins_split_every_short_string_alike(pattern):
    fast, exact = bpe._finders(pattern)
    alphabet = "sVe1' \n\t!\x1c\x7f"
    for length in range(6):
        for letters in itertools.product(alphabet[: 11 if length < 5 else 8], repeat=length):
            text = "".join(letters)
            assert fast(text) == exact(text), repr(text)


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_twins_split_alike(pattern, text):
    fast, exact = bpe._finders(pattern)
    assert fast(text) == exact(text) and "".join(fast(text)) == text


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@given(st.lists(st.sampled_from(["a b", "a ", " a", "b", " ", "\n", "é ", "1 ", "'s ", "\u00a0"])), st.integers(1, 5))
def test_cutting_where_it_is_safe_changes_no_word(pattern, parts, size):
    text = "".join(parts)
    pieces = list(bpe._pieces(text, size))
    assert "".join(pieces) == text
    assert [word for piece in pieces for word in regex.findall(pattern, piece)] == regex.findall(pattern, text)


def machine_words(parts, pattern):
    """The words that machine code finds in each of `parts`."""
    from zerohero import tokenizer_jit

    text, bounds, marks = tokenizer_jit.split_parts(parts, bpe._PATTERN_NUMBERS[pattern])
    text, bounds = text.tobytes(), bounds.tolist()
    words = [text[start:end].decode() for start, end in zip(bounds, bounds[1:])]
    return [words[start:end] for start, end in zip([0, *marks], marks)]


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed")
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
class TestMachineSplitting:
    def test_every_short_string(self, pattern):
        texts = ["".join(t) for n in range(4) for t in itertools.product(CLASSES, repeat=n)]
        texts += ["".join(t) for t in itertools.product("sV1' \n\t!\u00a0ſ", repeat=5)]
        find = regex.compile(pattern).findall
        assert machine_words(texts, pattern) == [*map(find, texts)]

    def test_code_points_in_every_place(self, pattern):
        characters = map(chr, [*range(0xD800), *range(0xE000, 0x20000), *range(0x20000, 0x110000, 97)])
        text = "".join(f"{c}a{c} {c}{c}1{c}'{c}!{c}\n{c} " for c in characters)
        assert machine_words([text], pattern)[0] == regex.findall(pattern, text)

    @given(texts=st.lists(TEXTS))
    def test_any_texts(self, pattern, texts):
        assert machine_words(texts, pattern) == [regex.findall(pattern, text) for text in texts]


def test_patterns_of_ones_own_must_cover_the_text():
    assert words_of("ab1c", r"\d|(\w)(?=\w)|[\s\S]") == ["a", "b", "1", "c"]
    assert words_of("abc", "[a-c]|") == ["a", "b", "c"]
    with pytest.raises(ValueError, match="out at position 2 or before, in 'ab c'"):
        words_of("ab c", r"\w")
    with pytest.raises(ValueError, match="is wrong: "):
        RegexTokenizer("(")


# ---- training ----


def naive_merges(documents, pattern, many):
    """Merges by the book: count all pairs of the text, take the most frequent, of equals the first; and whether there
    ever were equals."""
    words = [list(word.encode()) for document in documents for word in words_of(document, pattern)]
    merges, ties = [], False
    while len(merges) < many:
        counts = Counter(pair for word in words for pair in zip(word, word[1:]))
        if not counts:
            break
        best = max(counts, key=counts.get)  # a dict keeps the order in which the pairs were seen
        ties |= [*counts.values()].count(counts[best]) > 1
        words = [replaced(word, best, 256 + len(merges)) for word in words]
        merges.append(best)
    return merges, ties


def replaced(ids, pair, new):
    out, i = [], 0
    while i < len(ids):
        both = tuple(ids[i : i + 2]) == pair
        out.append(new if both else ids[i])
        i += 2 if both else 1
    return out


def trained(documents, pattern, vocab_size, **options):
    learner = BasicTokenizer() if pattern is None else RegexTokenizer(pattern)
    learner.train(documents, vocab_size, **options)
    return learner


DOCUMENTS = st.lists(st.text(st.sampled_from("ab é\n")) | TEXTS)


@BOTH
@pytest.mark.filterwarnings("ignore:.*no pair is left")
@pytest.mark.parametrize("pattern", [None, GPT2_PATTERN, GPT4_PATTERN, r"\w+|[\s\S]"])
@settings(max_examples=200)
@given(documents=DOCUMENTS, many=st.integers(0, 30), workers=st.integers(1, 2))
@example(documents=["aaabdaaabac"], many=3, workers=1)
@example(documents=["aaaa aaaaa aaaaaaaaaa"], many=10, workers=1)
def test_training_equals_naive_training(jit, pattern, documents, many, workers):
    with machine(jit):
        learner = trained(documents, pattern, 256 + many, num_workers=workers)
    assert [*learner.merges] == naive_merges(documents, pattern, many)[0]
    assert [*learner.merges.values()] == [*range(256, 256 + len(learner.merges))]


@BOTH
def test_training_on_the_plays(jit):
    text = load_shakespeare()[:20_000]
    with machine(jit):
        learner = trained(text, GPT4_PATTERN, 356)
    assert [*learner.merges] == naive_merges([text], GPT4_PATTERN, 100)[0]


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed")
def test_both_ways_learn_the_same_of_all_plays():
    text, found = load_shakespeare(), []
    for jit in "01":
        with machine(jit):
            found.append(trained(text, GPT4_PATTERN, 4096).merges)
    assert [*found[0].items()] == [*found[1].items()]


@settings(max_examples=300)
@given(st.text(st.sampled_from("abcde "), min_size=20, max_size=200), st.integers(1, 12))
def test_training_equals_other_libraries_where_there_are_no_ties(text, many):
    merges, ties = naive_merges([text], GPT2_PATTERN, many)
    if ties or len(merges) < many:
        return
    ours = trained([text], GPT2_PATTERN, 256 + many)
    rustbpe = pytest.importorskip("rustbpe")
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator([text], 256 + many, pattern=GPT2_PATTERN)
    assert {bytes(token): rank for token, rank in theirs.get_mergeable_ranks()} == {
        token: i for i, token in ours.vocab.items()
    }


def test_training_reads_documents_one_by_one():
    alive = []

    def documents():
        for i in range(300):
            alive.append(i)
            yield "the cat sat on the mat. " * 500

    with machine("0"):
        words = count_words(documents(), GPT4_PATTERN)
    assert len(alive) == 300 and words[b" the"] == 300 * 500 * 2 - 300


def test_training_in_processes_counts_the_same():
    documents = [load_shakespeare()[i : i + 90_000] for i in range(0, 360_000, 90_000)]
    with machine("0"):
        once = count_words(documents, GPT4_PATTERN)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bpe, "_BATCH", 1 << 16)
            twice = count_words(documents, GPT4_PATTERN, num_workers=2)
    assert [*once.items()] == [*twice.items()]


def test_training_says_what_is_wrong():
    learner = RegexTokenizer()
    with pytest.raises(ValueError, match="255 tokens are too few"):
        learner.train("abc", 255)
    with pytest.warns(UserWarning, match="257 tokens: after 1 merges no pair is left to reach 300"):
        learner.train("ab", 300)
    with pytest.warns(UserWarning, match="256 tokens: after 0 merges"):
        learner.train([], 257)
    with pytest.raises(TypeError, match="must be a str, not bytes"):
        learner.train([b"ab"], 300)
    with pytest.raises(ValueError, match="lone surrogate.*at position 1"):
        learner.train(["ok", "a\ud800"], 300)
    assert learner.merges == {}  # a failed training changes nothing


# ---- encoding and decoding ----


@pytest.fixture(scope="module")
def gpt2():
    return GPT2Tokenizer()


@pytest.fixture(scope="module")
def gpt2_of_tiktoken(tmp_path_factory):
    """tiktoken's own, from the files in the data folder and with no network."""
    folder = tmp_path_factory.mktemp("tiktoken")
    for source, name in (
        (data.GPT2_ENCODER, "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6"),
        (data.GPT2_MERGES, "6d1cbeee0f20b3d9449abfede4726ed8212e3aee"),
    ):
        (folder / name).write_bytes(data.fetch(source))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        return tiktoken.get_encoding("gpt2")


@pytest.fixture(scope="module")
def learnt():
    """One tokenizer of each kind, trained on a little of the plays, with special tokens."""
    tokenizers = [trained(load_shakespeare()[:100_000], pattern, 600) for pattern in (None, *PATTERNS.values())]
    for each in tokenizers:
        each.register_special_tokens({"<|end|>": 600, "<|end|>er": 601, "a b": 650, "(.*)": 603, "\\w+": 604})
    return tokenizers


@BOTH
@settings(max_examples=1000)
@given(text=TEXTS)
def test_round_trip_and_equality_with_tiktoken(jit, text, gpt2, gpt2_of_tiktoken):
    with machine(jit):
        ids = gpt2.encode_ordinary(text)
    assert gpt2.decode(ids) == text and ids == gpt2_of_tiktoken.encode_ordinary(text)


@BOTH
@settings(max_examples=100)
@given(texts=st.lists(TEXTS), threads=st.integers(1, 3))
def test_round_trip_of_trained_tokenizers(jit, texts, threads, learnt):
    for each in [*learnt, BasicTokenizer(), RegexTokenizer(), RegexTokenizer(r"[ab]|[\s\S]")]:
        with machine(jit):
            batch = each.encode_batch(texts, threads)
            assert batch == [each.encode_ordinary(text) for text in texts]
        assert [each.decode(ids) for ids in batch] == texts


@settings(max_examples=2000)
@given(st.binary())
@example(b"\xff\xfe")
@example("\N{GRINNING FACE}".encode()[:3])
def test_round_trip_of_any_bytes(learnt, content):
    for each in learnt:
        ids = each.encode_bytes(content)
        assert each.decode_bytes(ids) == content
        assert each.decode(ids) == content.decode(errors="replace")
        with contextlib.suppress(UnicodeDecodeError):
            assert ids == each.encode_ordinary(content.decode())


def everything_assigned():
    characters = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Cs")]
    random.Random(1337).shuffle(characters)
    return "".join(characters)


def source_code():
    folder = Path(sysconfig.get_path("stdlib"))
    return "".join(path.read_text(encoding="utf-8", errors="ignore") for path in sorted(folder.glob("[a-j]*.py")))


LONG = {
    "plays": load_shakespeare,
    "source code": source_code,
    "unicode": everything_assigned,
    "a letter": lambda: "a" * 100_000,
    "spaces": lambda: " " * 100_000 + "a",
    "emoji": lambda: "\N{GRINNING FACE}" * 50_000,
    "lines": lambda: "\n" * 50_000 + " \n" * 50_000,
    "digits": lambda: string.digits * 10_000,
    "contractions": lambda: "'s't'LL" * 10_000,
}


@BOTH
@pytest.mark.parametrize("kind", LONG)
def test_long_texts_equal_tiktoken(jit, kind, gpt2, gpt2_of_tiktoken):
    text = LONG[kind]()
    with machine(jit):
        ids = gpt2.encode_ordinary(text)
    assert ids == gpt2_of_tiktoken.encode_ordinary(text) and gpt2.decode(ids) == text


@BOTH
@pytest.mark.parametrize("kind", LONG)
def test_long_texts_equal_tiktoken_with_gpt4s_pattern(jit, kind, learnt):
    with machine(jit):
        assert learnt[2].encode_ordinary(LONG[kind]()) == learnt[2].to_tiktoken().encode_ordinary(LONG[kind]())


class CountingDict(dict):
    asked = 0

    def get(self, key, default=None):
        self.asked += 1
        return super().get(key, default)


@pytest.mark.parametrize("unit", ["a", " ", "\N{GRINNING FACE}", "ab"])
def test_merging_is_not_quadratic(unit):
    learner = trained([unit * 4096], None, 256 + 10)
    asked = []
    for repeats in (2_000, 20_000):
        merges = CountingDict(learner.merges)
        apply_merges([*(unit * repeats).encode()], merges)
        asked.append(merges.asked)
    assert asked[1] < 11 * asked[0]


def test_learning_is_not_quadratic(monkeypatch):
    work = []
    for repeats in (2_000, 20_000):
        steps = Counter()

        def counted(heap, entry, steps=steps, replace=bpe.heapq.heapreplace):
            steps["corrected"] += 1
            return replace(heap, entry)

        with machine("0"), monkeypatch.context() as patch:
            patch.setattr(bpe.heapq, "heapreplace", counted)
            learn_merges({b"ab" * repeats: 1, b"a" * repeats: 1}, 12)
        work.append(steps["corrected"])
    assert work[1] < 11 * work[0] + 100


def test_lone_surrogates_say_where():
    for each in (BasicTokenizer(), RegexTokenizer(), GPT2Tokenizer()):
        for encode in (each.encode, each.encode_ordinary, lambda text, each=each: each.encode_batch([text])):
            with pytest.raises(ValueError, match=r"'\\udc80', at position 3, in 'abc\\udc80def'"):
                encode("abc\udc80def")


def test_what_cannot_be_encoded_or_decoded(learnt):
    each = learnt[2]
    with pytest.raises(TypeError, match="must be a str, not NoneType"):
        each.encode(None)
    with pytest.raises(TypeError, match="must be a str, not int"):
        each.encode_batch([1])
    for wrong in (602, -1, 10**9):
        with pytest.raises(ValueError, match=f"{wrong}, at position 1, is the id of no token; the highest is 650"):
            each.decode([97, wrong])
    with pytest.raises(TypeError):
        each.decode([1.5])
    numpy = pytest.importorskip("numpy")
    assert each.decode(numpy.array([97, 98])) == each.decode(iter([97, 98])) == "ab"
    assert each.decode([]) == "" and each.encode("") == [] and each.encode_batch([]) == []


def test_untrained_tokenizers_encode_bytes():
    for each in (BasicTokenizer(), RegexTokenizer()):
        assert each.encode("é!") == [0xC3, 0xA9, 33] and len(each) == each.vocab_size == 256
        assert each.to_tiktoken().encode("é!") == each.to_huggingface().encode("é!").ids == [0xC3, 0xA9, 33]


def test_the_cache_of_words_stays_small():
    words = tokenizer._WordCache(list(range(256)), {}, most=3)
    assert [words[w] for w in ("a", "b", "c", "d", "a")] == [[97], [98], [99], [100], [97]] and len(words) <= 3
    assert words["x" * 100] == [120] * 100 and "x" * 100 not in words


def test_tokenizers_can_be_copied_and_sent(gpt2):
    text = "Hello, world"
    for twin in (copy.deepcopy(gpt2), pickle.loads(pickle.dumps(gpt2))):
        assert twin.encode(text) == gpt2.encode(text) == [15496, 11, 995]


# ---- special tokens ----


@BOTH
def test_special_tokens_and_their_policies(jit, learnt):
    with machine(jit):
        for each in learnt:
            plain = each.encode_ordinary
            text = "x<|end|>era b(.*)\\w+<|end|>"
            assert each.encode(text, "all") == [*plain("x"), 601, 650, 603, 604, 600]
            assert each.encode(text, "none") == plain(text)
            assert each.encode(text, {"<|end|>"}) == [*plain("x"), 600, *plain("era b(.*)\\w+"), 600]
            assert each.encode(text, set()) == plain(text)
            assert each.decode(each.encode(text, "all")) == text
            with pytest.raises(ValueError, match=r"special token '<\|end\|>er' is in the text, at 1"):
                each.encode(text)
            assert each.encode("x<|en") == plain("x<|en")
            with pytest.raises(ValueError, match=r"a set out of .*, not \{'b'\}"):
                each.encode(text, {"b"})
            with pytest.raises(ValueError, match="not 'some'"):
                each.encode(text, "some")


@given(st.lists(st.sampled_from(["<|end|>", "<|end|>er", "a b", "(.*)", "\\w+", "a", " b", "<|", "x"])))
def test_special_tokens_anywhere(learnt, parts):
    text = "".join(parts)
    for each in learnt:
        ids = each.encode(text, "all")
        assert each.decode(ids) == text
        assert ids == each.to_huggingface().encode(text).ids


def test_special_tokens_that_cannot_be(learnt):
    each = copy.deepcopy(learnt[1])
    for wrong in ({"": 700}, {"x": 5}, {"x": -1}, {"x": 1 << 40}, {"x": 700, "y": 700}, {"\ud800": 700}, {5: 700}):
        with pytest.raises(ValueError):
            each.register_special_tokens(wrong)
    assert each.special_tokens == learnt[1].special_tokens
    each.register_special_tokens({"x": 700})
    assert each.encode("x", "all") == [700] and each.vocab_size == 701 and each.encode("<|end|>")


# ---- files ----


@settings(max_examples=30)
@given(TEXTS.filter(bool), st.integers(256, 10_000))
def test_files(tmp_path_factory, text, i):
    folder = tmp_path_factory.mktemp("model")
    for each, other in ((BasicTokenizer(), BasicTokenizer()), (RegexTokenizer(GPT2_PATTERN), RegexTokenizer())):
        each.train("aaabdaaabac aab", 259)
        each.register_special_tokens({text: i + 3})
        each.save(folder / "x")
        assert other.load(folder / "x.model") is other
        for name in ("pattern", "byte_ids", "merges", "special_tokens", "vocab"):
            assert getattr(other, name) == getattr(each, name)
        assert [*other.merges] == [*each.merges]


def test_the_tree_can_be_read(tmp_path):
    each = BasicTokenizer()
    each.train("aaabdaaabac", 259)
    each.register_special_tokens({"<end>": 300})
    each.save(tmp_path / "x")
    lines = (tmp_path / "x.vocab").read_text(encoding="utf-8").splitlines()
    assert [line.split(maxsplit=2) for line in lines[256:]] == [
        ["256", '"aa"', '["a" "a"]'],
        ["257", '"aaa"', '[["a" "a"] "a"]'],
        ["258", '"aaab"', '[[["a" "a"] "a"] "b"]'],
        ["300", '"<end>"', "special"],
    ]
    assert [show_token(t) for t in (b" \n", b"\xff", "é—".encode(), b"\"'")] == ['" \\n"', '"\\xff"', '"é—"', '"\\"\'"']


def test_gpt2_can_be_saved(gpt2, tmp_path):
    gpt2.save(tmp_path / "gpt2")
    again = RegexTokenizer().load(tmp_path / "gpt2.model")
    assert again.merges == gpt2.merges and again.special_tokens == gpt2.special_tokens
    assert again.encode("Hello, world<|endoftext|>", "all") == [15496, 11, 995, 50256]


def signed(record):
    record = {key: value for key, value in record.items() if key != "sha256"}
    return json.dumps(record | {"sha256": data.sha256(json.dumps(record).encode())}).encode()


def hostile(record):
    """Files that someone wrote who knows the format."""
    yield signed(record | {"merges": [f"{a} {a} {256 + i}" for i, a in enumerate([97, *range(256, 356)])]}), "bytes"
    yield signed(record | {"merges": ["97 98 256", "97 98 257"]}), "merged twice"
    yield signed(record | {"merges": ["97 300 256"]}), "unknown"
    yield signed(record | {"merges": ["97 98 99"]}), "cannot become 99"
    yield signed(record | {"merges": ["97 98 257", "97 99 256"]}), "cannot become 256 after 257"
    yield signed(record | {"merges": ["97 98 99999999999"]}), "cannot become"
    yield signed(record | {"merges": ["97 98"]}), "not enough"
    yield signed(record | {"merges": [[97, 98, 256]]}), "not a model file"
    yield signed(record | {"merges": ["__import__('os') 1 2"]}), "invalid literal"
    yield signed(record | {"byte_ids": "1 2 3"}), "3 bytes"
    yield signed(record | {"byte_ids": " ".join("1" * 256)}), "different ids"
    yield signed(record | {"special_tokens": {"x": "y"}}), "cannot be"
    yield signed(record | {"special_tokens": {"x": 97}}), "cannot have the id 97"
    yield signed(record | {"special_tokens": 5}), "not a model file"
    yield signed(record | {"pattern": "("}), "pattern .* is wrong"
    yield signed(record | {"pattern": 5}), "pattern 5 is wrong"
    yield signed(record | {"format": "zerohero tokenizer 9"}), "format"
    yield signed({"format": record["format"]}), "KeyError"
    yield b"[" * 100_000, "not a model file"
    yield b"[1]", "not a model file"
    yield b"\x80\x04\x95", "cannot be loaded"  # how a pickle begins
    yield b"", "cannot be loaded"


def test_damaged_and_hostile_files(tmp_path):
    each = RegexTokenizer()
    each.train("hello hello world", 260)
    each.save(tmp_path / "x")
    content = (tmp_path / "x.model").read_bytes()
    before = each.merges.copy()
    path = tmp_path / "y.model"
    for cut in range(0, len(content) - 2, 37):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match="cannot be loaded"):
            each.load(path)
    changed = content.replace(b"104 101 256", b"104 102 256")
    assert changed != content
    for bad, reason in [(changed, "changed since it was saved"), *hostile(json.loads(content))]:
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=reason):
            each.load(path)
    assert each.merges == before and each.encode("hello") == RegexTokenizer().load(tmp_path / "x.model").encode("hello")
    with pytest.raises(FileNotFoundError):
        each.load(tmp_path / "none.model")
    assert BasicTokenizer().load(tmp_path / "x.model").pattern == GPT4_PATTERN


# ---- other libraries ----


def test_gpt2_is_rebuilt_from_its_ranks(gpt2, gpt2_of_tiktoken):
    rebuilt = RegexTokenizer.from_tiktoken(gpt2_of_tiktoken)
    assert [*rebuilt.merges.items()] == [*gpt2.merges.items()] and rebuilt.byte_ids == gpt2.byte_ids
    assert rebuilt.special_tokens == gpt2.special_tokens == {"<|endoftext|>": 50256}
    assert rebuilt.pattern == GPT2_PATTERN
    back = gpt2.to_tiktoken()
    assert back._mergeable_ranks == gpt2_of_tiktoken._mergeable_ranks and back.n_vocab == 50257


@settings(max_examples=150)
@given(text=TEXTS | st.text(st.sampled_from("the <|end|>er a b"), max_size=200))
def test_trained_tokenizers_are_the_same_elsewhere(learnt, text):
    for each in learnt:
        ids = each.encode(text, "none")
        assert each.to_tiktoken().encode_ordinary(text) == ids
        assert RegexTokenizer.from_tiktoken(each.to_tiktoken()).encode_ordinary(text) == ids
        theirs = each.to_huggingface()
        assert theirs.encode(text).ids == each.encode(text, "all")
        assert theirs.decode(theirs.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.filterwarnings("ignore:.*no pair is left")
@settings(max_examples=300)
@given(st.lists(st.text(st.sampled_from("ab"), max_size=12)), st.integers(1, 12))
def test_merges_come_back_from_ranks_however_odd_the_text(documents, many):
    each = trained(documents, None, 256 + many)
    if len(set(each.vocab.values())) == len(each.vocab):
        assert merges_from_ranks({token: i for i, token in each.vocab.items()}) == each.merges
    else:
        with pytest.raises(ValueError, match="same bytes"):
            each.to_tiktoken()


def test_huggingface_files_encode_alike(learnt, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    learnt[2].to_huggingface().save(str(tmp_path / "tokenizer.json"))
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = load_shakespeare()[200_000:300_000]
    assert theirs.encode(text).ids == learnt[2].encode(text, "all")


def test_what_other_libraries_cannot_hold(learnt):
    each = copy.deepcopy(learnt[2])
    each.register_special_tokens({"e": 700})
    with pytest.raises(ValueError, match="Both a special and an ordinary token"):
        each.to_huggingface()
    broken = {bytes([b]): b for b in range(256)} | {b"abc": 256}
    with pytest.raises(ValueError, match='token "abc", 256, is not the union'):
        merges_from_ranks(broken)


def test_byte_letters_are_gpt2s(gpt2):
    letters, (ids, _) = byte_letters(), data.gpt2_vocabulary()
    assert letters[32] == "Ġ" and len(set(letters)) == 256
    assert all(ids["".join(letters[b] for b in token)] == i for i, token in gpt2.vocab.items() if i != 50256)


# ---- the choice of machine code, and memory ----


def test_without_numba_all_is_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "zerohero.tokenizer_jit", None)  # as if it could not be imported
    monkeypatch.delattr("zerohero.tokenizer_jit", raising=False)
    monkeypatch.setattr(bpe, "JIT_FROM", 1)
    with machine(""):
        assert bpe.machine_code(1 << 30) is None
        assert GPT2Tokenizer().encode("Hello, world") == [15496, 11, 995]
    with machine("1"), pytest.raises(ImportError):
        bpe.machine_code(1)


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed")
def test_machine_code_works_where_it_cannot_be_kept(monkeypatch):
    from zerohero import words_jit

    asked = []

    def njit(cache=False, **options):
        asked.append(cache)
        if cache:
            raise RuntimeError("no locator available")  # what numba says where it finds no folder to write to
        return lambda function: (function, options)

    monkeypatch.setattr(words_jit, "njit", njit)
    assert words_jit.leaf(len) == (len, {"nogil": True, "_nrt": False}) and asked == [True, False]


def test_short_texts_do_not_load_numba():
    code = "import sys; from zerohero.tokenizer import RegexTokenizer as R; t = R(); t.train('a b a b', 257); t.encode('a b')"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(bool(sys.modules.get('numba')))"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr


STREAM = """
import re, resource, sys
from zerohero.tokenizer import RegexTokenizer

def peak():
    try:  # on Linux the other number is at least that of the process that started this one
        return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

before = peak()
text = "".join(f"word{i % 997} and {i % 89} more, it's {i % 7}. " for i in range(50_000))
learner = RegexTokenizer()
learner.train((text for _ in range(100)), 1000)
print(len(text) * 100, peak() - before, len(learner))
"""


@BOTH
def test_a_stream_larger_than_its_memory(jit):
    pytest.importorskip("resource")
    environment = {**os.environ, "ZEROHERO_JIT": jit}
    stream = STREAM if jit == "1" else STREAM.replace("range(100)", "range(20)").replace("* 100", "* 20")
    done = subprocess.run([sys.executable, "-c", stream], capture_output=True, text=True, env=environment)
    assert not done.returncode, done.stderr
    size, memory, tokens = map(int, done.stdout.split())
    assert tokens == 1000 and memory < 300e6 and (jit == "0" or size > 1.3e8)
