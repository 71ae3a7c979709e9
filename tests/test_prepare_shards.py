"""zerohero.prepare_shards and zerohero.text_sources: texts of every kind in, the same shards out, whoever encodes them."""

import argparse
import gzip
import importlib.util
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from zerohero import prepare_shards, shard_files
from zerohero.data import load_shakespeare
from zerohero.prepare_shards import choose_encoder, count_of, prepare, shard_tokenizer, tokenized
from zerohero.shard_files import map_shard, read_header, read_index
from zerohero.shards import ShardLoader
from zerohero.text_sources import TextFiles, clean_text, split_documents, text_source
from zerohero.tokenizer import BasicTokenizer, GPT2Tokenizer, RegexTokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
HAS_NUMBA = importlib.util.find_spec("numba") is not None
HAS_TIKTOKEN = importlib.util.find_spec("tiktoken") is not None


@pytest.fixture(autouse=True)
def without_machine_code(monkeypatch):
    """Texts are short here: Python is done before numba is loaded."""
    monkeypatch.setenv("ZEROHERO_JIT", "0")


@pytest.fixture(scope="module")
def gpt2():
    return GPT2Tokenizer()


SPEECHES = load_shakespeare().split("\n\n")[:900]
ODD = [
    "",
    "é \N{GRINNING FACE}",
    "a\n\nb",
    "<|endoftext|>",
    " leading",
    "tab\there",
    "\u2028line\x85s",
    '{"a": 1}',
    "x" * 3000,
]


def write_parquet(path, texts, column="text", rows=100, **more):
    table = pyarrow.table({"id": range(len(texts)), column: pyarrow.array(texts, pyarrow.string()), **more})
    parquet.write_table(table, path, row_group_size=rows)


def write_json_lines(path, texts, ascii=True):
    lines = "\n".join(json.dumps({"text": text, "n": 1}, ensure_ascii=ascii) for text in texts) + "\n"
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())


def write_text(path, texts, separator="<|endoftext|>"):
    content = separator.join(texts).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def sources(tmp_path):
    """The same texts in files of every kind, in a folder each."""
    texts = [text for text in SPEECHES[:250] + ODD if "<|endoftext|>" not in text]
    for name, write in (
        ("a.parquet", write_parquet),
        ("a.jsonl", write_json_lines),
        ("b.jsonl.gz", write_json_lines),
        ("a.txt", write_text),
        ("b.txt.gz", write_text),
    ):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        write(folder / name, texts)
    return tmp_path, texts


def tokens_of(folder, split="train"):
    found = [folder / shard["file"] for shard in read_index(folder)["splits"][split]]
    return np.concatenate([np.array(map_shard(path, read_header(path))) for path in found]).tolist()


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def run(*arguments):
    return prepare([str(argument) for argument in arguments])


# ---- from texts to shards ----


def test_all_kinds_of_files_give_the_same_shards(sources, gpt2):
    folder, texts = sources
    expected = [token for text in texts if text for token in (50256, *gpt2.encode_ordinary(text))]
    for kind in ("a_parquet", "a_jsonl", "b_jsonl_gz", "a_txt", "b_txt_gz"):
        record = run(folder / kind, "--out", folder / "out" / kind, "--validation-fraction", 0)
        assert tokens_of(folder / "out" / kind) == expected, kind
        settings = record["settings"]
        assert settings["vocab_size"] == 50257 and settings["end_of_text"] == 50256
        assert settings["source"]["tokenizer"] == "gpt2"
    loader = ShardLoader(folder / "out" / "a_txt", 2, 16, vocab_size=50304, verify=True)
    assert loader.next_batch()[0].shape == (2, 16)
    assert (
        shard_tokenizer(folder / "out" / "a_txt").decode(expected[1:9]) == texts[0][: len(gpt2.decode(expected[1:9]))]
    )


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    write_json_lines(tmp_path / "in" / "b.jsonl", ["second"])
    write_text(tmp_path / "in" / "deeper" / "c.txt", ["third", "fourth"])
    write_parquet(tmp_path / "in" / "A.PARQUET", ["first", None, ""])
    (tmp_path / "in" / "notes.md").write_text("not read")
    source = text_source(str(tmp_path / "in"))
    assert list(source.texts()) == ["first", None, "", "second", "third", "fourth"]
    assert source.position == source.size == sum(p.stat().st_size for p in source.paths)


@settings(max_examples=25)
@given(start=st.integers(0, 30))
def test_reading_can_begin_anywhere(mixed_files, start):
    everything = list(TextFiles(mixed_files, "text", "|").texts())
    assert len(everything) == 26
    source = TextFiles(mixed_files, "text", "|")
    assert list(source.texts(start)) == everything[start:]
    assert source.position == source.size


@pytest.fixture(scope="module")
def mixed_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    write_parquet(folder / "a.parquet", [f"p{i}" for i in range(10)], rows=3)
    write_parquet(folder / "b.parquet", [f"q{i}" for i in range(4)], rows=100)
    write_json_lines(folder / "c.jsonl", [f"j{i}" for i in range(5)])
    write_text(folder / "d.txt.gz", [f"t{i}" for i in range(6)], "|")
    write_json_lines(folder / "e.jsonl.gz", ["last"])
    return folder


@given(
    pieces=st.lists(st.sampled_from(["a", "|", "||", "\n", "\n\n", "b" * 30, "é"])),
    separator=st.sampled_from(["|", "||", "\n\n", "b|b", "aa"]),
    size=st.integers(1, 9),
)
def test_documents_are_split_as_if_the_file_were_read_whole(pieces, separator, size):
    text = "".join(pieces)

    class Slow(io.StringIO):
        def read(self, many):
            return super().read(min(many, size))

    assert list(split_documents(Slow(text), separator)) == [part.strip("\n") for part in text.split(separator)]


def test_line_ends_of_windows_make_no_difference(tmp_path):
    for name, content in (("unix", b"one\n\ntwo\nlines\n"), ("windows", b"\xef\xbb\xbfone\r\n\r\ntwo\r\nlines\r\n")):
        (tmp_path / f"{name}.txt").write_bytes(content)
        source = TextFiles(tmp_path / f"{name}.txt", "text", "\n\n")
        assert list(source.texts()) == ["one", "two\nlines"]


def test_texts_that_utf8_cannot_express(tmp_path, gpt2):
    write_json_lines(tmp_path / "a.jsonl", ["half \ud83d of it", "whole"])
    run(tmp_path / "a.jsonl", "--out", tmp_path / "out", "--validation-fraction", 0)
    assert gpt2.decode(tokens_of(tmp_path / "out")) == "<|endoftext|>half ? of it<|endoftext|>whole"
    (tmp_path / "b.txt").write_bytes(b"not \xff UTF-8")
    assert list(TextFiles(tmp_path / "b.txt", "text", "|").texts()) == ["not \N{REPLACEMENT CHARACTER} UTF-8"]
    assert clean_text("\ud800") == "?" and clean_text(None) == ""


def test_it_stops_at_the_number_of_tokens(sources, capsys):
    folder, _ = sources
    run(folder / "a_parquet", "--out", folder / "out", "--tokens", "2k", "--shard-tokens", 500)
    record = read_index(folder / "out")
    sizes = {split: [s["tokens"] for s in found] for split, found in record["splits"].items()}
    assert 2000 <= sum(map(sum, sizes.values())) < 3000 and record["documents"] < 100
    assert sizes["train"][:3] == [500, 500, 500] and sum(sizes["validation"]) > 0
    printed = capsys.readouterr()
    assert "train" in printed.out and "written and verified" in printed.out
    assert "tok/s" in printed.err  # the bar


# ---- who encodes ----


def encoded(tokenizer, texts, kind, workers=2, size=1 << 40):
    name, executor, encode = choose_encoder(tokenizer, workers, size, kind)
    with executor:
        return name, [ids.tolist() for ids in tokenized(texts, executor, encode, 3)]


@pytest.mark.parametrize("kind", ["machine code", "tiktoken", "Python"])
def test_all_encoders_agree(gpt2, kind, monkeypatch):
    if kind == "machine code":
        if not HAS_NUMBA:
            pytest.skip("numba is not installed")
        monkeypatch.setenv("ZEROHERO_JIT", "1")
    elif kind == "tiktoken" and not HAS_TIKTOKEN:
        pytest.skip("tiktoken is not installed")
    monkeypatch.setattr(prepare_shards, "BATCH_CHARACTERS", 5000)
    own = RegexTokenizer()
    own.train("\n".join(SPEECHES[:200]), 400)
    for tokenizer in (gpt2, own):
        texts = [*SPEECHES[:120], *ODD, *SPEECHES[120:]]
        name, found = encoded(tokenizer, texts, kind, size=1000)
        assert name == kind
        assert found == [tokenizer.encode_ordinary(text) for text in texts]


@pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed")
def test_the_fastest_encoder_is_chosen(gpt2, monkeypatch):
    monkeypatch.setenv("ZEROHERO_JIT", "1")
    assert choose_encoder(gpt2, 1, 10)[0] == "machine code"
    own_pattern = RegexTokenizer(r"\w+|[\s\S]")  # not one of those that machine code knows
    assert choose_encoder(own_pattern, 1, 10)[0] == "tiktoken" if HAS_TIKTOKEN else "Python"


def test_processes_encode_in_order(gpt2, monkeypatch):
    monkeypatch.setattr(prepare_shards, "BATCH_CHARACTERS", 3000)
    name, found = encoded(gpt2, SPEECHES[:60], "Python")
    assert name == "Python" and found == [gpt2.encode_ordinary(text) for text in SPEECHES[:60]]


def test_results_keep_their_order_and_only_a_few_wait(gpt2):
    asked, seen, rng = [], [], random.Random(0)

    def slow(texts):
        time.sleep(rng.random() / 100)
        return [np.array([int(text)]) for text in texts]

    def numbers():
        for number in range(60):
            asked.append(number)
            yield str(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_shards, "BATCH_CHARACTERS", 1)
        _, executor, _ = choose_encoder(gpt2, 4, 100)
        with executor:
            for ids in tokenized(numbers(), executor, slow, 8):
                seen.append(ids[0])
                assert len(asked) - len(seen) <= 9
    assert seen == [*range(60)]


def test_the_number_of_workers_does_not_matter(sources):
    folder, _ = sources
    for workers in (1, 2, 3):
        run(folder / "a_parquet", "--out", folder / "out" / str(workers), "--workers", workers, "--shard-tokens", "3k")
    assert contents(folder / "out" / "1") == contents(folder / "out" / "2") == contents(folder / "out" / "3")


def test_a_failing_worker_is_not_swallowed(sources, monkeypatch):
    folder, _ = sources

    def broken(*_):
        raise RuntimeError("no encoder today")

    for name in ("encode_by_python", "encode_by_tiktoken"):
        monkeypatch.setattr(prepare_shards, name, broken)
    with pytest.raises(RuntimeError, match="no encoder today"):
        run(folder / "a_txt", "--out", folder / "out")


# ---- tokenizers ----


@pytest.fixture
def own_model(tmp_path):
    own = RegexTokenizer()
    own.train("\n".join(SPEECHES[:200]), 300)
    own.register_special_tokens({"<|endoftext|>": 300, "<|end|>": 301})
    own.save(tmp_path / "own")
    return tmp_path / "own.model", own


def test_a_tokenizer_of_ones_own(sources, own_model):
    (folder, texts), (path, own) = sources, own_model
    out = folder / "out"
    run(folder / "a_jsonl", "--out", out, "--tokenizer", path, "--validation-fraction", 0)
    assert tokens_of(out) == [token for text in texts if text for token in (300, *own.encode_ordinary(text))]
    assert ShardLoader(out, 1, 8).vocab_size == 302
    path.unlink()
    assert shard_tokenizer(out).vocab == own.vocab  # it is kept beside the shards
    shard_files.write_shards([[1, 2]], folder / "bare", vocab_size=3, end_of_text=0)
    with pytest.raises(ValueError, match="do not say what tokenizer"):
        shard_tokenizer(folder / "bare")


def test_the_end_of_text_can_be_named(sources, own_model):
    (folder, _), (path, _) = sources, own_model
    run(folder / "a_jsonl", "--out", folder / "out", "--tokenizer", path, "--end-of-text", "<|end|>")
    assert tokens_of(folder / "out")[0] == 301
    with pytest.raises(ValueError, match=r"has no special token '<eos>'; it has \['<\|endoftext\|>', '<\|end\|>'\]"):
        run(folder / "a_jsonl", "--out", folder / "none", "--tokenizer", path, "--end-of-text", "<eos>")
    plain = BasicTokenizer()
    plain.save(folder / "plain")
    with pytest.raises(ValueError, match=r"it has none.*register_special_tokens\(\{'<\|endoftext\|>': 256\}\)"):
        run(folder / "a_jsonl", "--out", folder / "none", "--tokenizer", folder / "plain.model")
    assert not (folder / "none").exists()


def test_shards_of_another_tokenizer_are_not_continued(sources, own_model):
    (folder, _), (path, own) = sources, own_model
    run(folder / "a_jsonl", "--out", folder / "out", "--tokenizer", path)
    before = contents(folder / "out")
    with pytest.raises(ValueError, match="vocab_size is 302, not 50257"):
        run(folder / "a_jsonl", "--out", folder / "out")
    own.register_special_tokens({"<|endoftext|>": 300, "<|fin|>": 301})
    own.save(path.with_suffix(""))
    with pytest.raises(ValueError, match=r"tokenizer\.model is another tokenizer than"):
        run(folder / "a_jsonl", "--out", folder / "out", "--tokenizer", path)
    write_json_lines(folder / "a_jsonl" / "z.jsonl", ["one more"])
    assert contents(folder / "out") == before


def test_another_source_is_not_continued(sources):
    folder, _ = sources
    run(folder / "a_jsonl", "--out", folder / "out")
    run(folder / "a_jsonl", "--out", folder / "out")  # done is done
    with pytest.raises(ValueError, match="shards of another kind: source is"):
        run(folder / "a_parquet", "--out", folder / "out")


# ---- the hub ----


def fake_datasets(monkeypatch, load_dataset):
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)


class FakeStream:
    def __init__(self, rows):
        self.rows = rows

    def skip(self, many):
        return FakeStream(self.rows[many:])

    def iter(self, batch_size):
        for i in range(0, len(self.rows), batch_size):
            rows = self.rows[i : i + batch_size]
            yield {"text": rows, "url": rows}


def test_fineweb_edu_is_streamed(tmp_path, monkeypatch, gpt2):
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return FakeStream(SPEECHES)

    fake_datasets(monkeypatch, load_dataset)
    run("fineweb-edu", "--tokens", "5k", "--out", tmp_path / "out", "--validation-fraction", 0)
    assert calls == [(("HuggingFaceFW/fineweb-edu", "sample-10BT"), {"split": "train", "streaming": True})]
    tokens = tokens_of(tmp_path / "out")
    assert gpt2.decode(tokens).startswith("<|endoftext|>" + "<|endoftext|>".join(SPEECHES[:20]))
    assert 5000 <= len(tokens) < 5500
    source = read_index(tmp_path / "out")["settings"]["source"]
    assert source["hub"] == "HuggingFaceFW/fineweb-edu" and source["config"] == "sample-10BT"
    calls.clear()
    run(
        "ada/plays", "--config", "c", "--split", "test", "--column", "url", "--out", tmp_path / "other", "--tokens", 100
    )
    assert calls == [(("ada/plays", "c"), {"split": "test", "streaming": True})]


def test_a_stream_that_breaks_off_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_files, "SAVE_EVERY", 1000)
    monkeypatch.setattr(prepare_shards, "BATCH_CHARACTERS", 2000)
    broken = [True]

    class Breaking(FakeStream):
        def skip(self, many):
            skipped.append(many)
            return FakeStream(self.rows[many:])

        def iter(self, batch_size):
            for number, batch in enumerate(super().iter(100)):
                if number == 4 and broken:
                    raise ConnectionError("the line is dead")
                yield batch

    skipped = []
    fake_datasets(monkeypatch, lambda *args, **kwargs: Breaking(SPEECHES))
    arguments = "ada/plays", "--shard-tokens", "5k", "--validation-fraction", 0.1
    with pytest.raises(ValueError, match=r"ConnectionError: the line is dead. Without a network"):
        run(*arguments, "--out", tmp_path / "out")
    broken.clear()
    run(*arguments, "--out", tmp_path / "out")
    assert skipped and skipped[0] > 100
    run(*arguments, "--out", tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_data_set_read_by_the_real_library(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    write_parquet(data / "train-0.parquet", SPEECHES[:300], "speech")
    write_parquet(data / "train-1.parquet", SPEECHES[300:400], "speech")
    real = datasets.load_dataset

    def load_dataset(name, config, **options):
        assert name == "ada/plays"
        return real(str(data), config, cache_dir=str(tmp_path / "cache"), **options)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = text_source("ada/plays", column="speech")
    for start in (0, 1, 299, 350, 400):
        assert list(source.texts(start)) == SPEECHES[start:400]
    run("ada/plays", "--column", "speech", "--out", tmp_path / "hub")
    run(data, "--column", "speech", "--out", tmp_path / "local")
    for split in ("train", "validation"):
        assert tokens_of(tmp_path / "hub", split) == tokens_of(tmp_path / "local", split)
    with pytest.raises(ValueError, match=r"ada/plays has no column 'text'; it has \['id', 'speech'\]"):
        run("ada/plays", "--out", tmp_path / "none")


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"To read ada/plays from the hub, install: pip install datasets"):
        run("ada/plays", "--out", tmp_path / "out")


def test_without_a_network(tmp_path, monkeypatch):
    def load_dataset(*args, **kwargs):
        raise OSError("offline")

    fake_datasets(monkeypatch, load_dataset)
    with pytest.raises(ValueError, match=r"fineweb-edu cannot be read from the hub: OSError: offline. Without a netw"):
        run("fineweb-edu", "--out", tmp_path / "out")


# ---- stopped and taken up again ----


SLOWLY = """
import sys, time
from zerohero import prepare_shards, shard_files
shard_files.SAVE_EVERY = 2000
prepare_shards.BATCH_CHARACTERS = 4000
usual = prepare_shards.clean_text
def slowly(text):
    time.sleep(0.002)
    return usual(text)
if sys.argv[1] == "slow":
    prepare_shards.clean_text = slowly
try:
    prepare_shards.prepare(sys.argv[2:])
except KeyboardInterrupt:
    sys.exit("Stopped")
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_stopped_under_way_the_result_is_the_same(tmp_path, how):
    if how == "SIGINT" and os.name == "nt":
        pytest.skip("no SIGINT for a child on Windows")
    write_parquet(tmp_path / "plays.parquet", SPEECHES * 3)
    arguments = str(tmp_path / "plays.parquet"), "--shard-tokens", "7k", "--validation-fraction", "0.1", "--out"
    run(*arguments, tmp_path / "whole")
    command = [sys.executable, "-c", SLOWLY, "slow", *arguments, str(tmp_path / "out")]
    journal = tmp_path / "out" / "unfinished.json"
    # some shells start what runs in the background with SIGINT ignored
    hear = None if sys.platform == "win32" else lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, preexec_fn=hear, **pipes) as child:
        deadline = time.monotonic() + 120
        while not journal.exists() or not json.loads(journal.read_text())["documents"]:
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        child.kill() if how == "SIGKILL" else child.send_signal(signal.SIGINT)
        _, error = child.communicate(timeout=60)
    assert child.returncode != 0 and (how == "SIGKILL" or error.rstrip().endswith("Stopped"))
    begun = json.loads(journal.read_text())["documents"]
    assert 0 < begun < len(SPEECHES) * 3
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        usual = TextFiles.texts
        patch.setattr(TextFiles, "texts", lambda self, start=0: asked.append(start) or usual(self, start))
        run(*arguments, tmp_path / "out")
    assert asked == [begun]  # what was done is not done again
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# ---- the command line ----


def test_sizes():
    for text, number in (
        ("10B", 10**10),
        ("1.5M", 1_500_000),
        ("300k", 300_000),
        ("1_000", 1000),
        ("5,000", 5000),
        ("0.1b", 10**8),
        ("2G", 2 * 10**9),
        ("1T", 10**12),
    ):
        assert count_of(text) == number
    for text in ("", "ten", "-1", "1.2.3", "5X", "0"):
        with pytest.raises(argparse.ArgumentTypeError):
            count_of(text)


def test_a_dry_run_writes_nothing(sources, capsys, gpt2):
    folder, texts = sources
    assert run(folder / "a_parquet", "--out", folder / "out", "--dry-run", "--shard-tokens", "4k") is None
    assert not (folder / "out").exists()
    printed = capsys.readouterr().out
    tokens = sum(len(gpt2.encode_ordinary(text)) + 1 for text in texts if text)
    assert f"about {tokens:,}, 1.0% of them for validation" in printed  # exact, since the sample is all there is
    for part in ("1 files", "gpt2: 50,257 tokens", "bytes per token", f"about {-(-tokens // 4000)},", "GB free"):
        assert part in printed


def test_verify(sources, capsys):
    folder, _ = sources
    run(folder / "a_txt", "--out", folder / "out")
    run("--verify", "--out", folder / "out")
    assert "intact: all checksums agree" in capsys.readouterr().out
    path = folder / "out" / "train_000000.bin"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train_000000\.bin is damaged"):
        run("--verify", "--out", folder / "out")


def command_line(*arguments):
    command = [sys.executable, "-m", "zerohero.prepare_shards", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_run_as_a_module(tmp_path):
    write_text(tmp_path / "plays.txt", SPEECHES[:50], "\n\n")
    done = command_line(tmp_path / "plays.txt", "--separator", r"\n\n", "--out", tmp_path / "out")
    assert done.returncode == 0 and read_index(tmp_path / "out")["documents"] == 50
    done = command_line(tmp_path / "nothing.txt", "--out", tmp_path / "none")
    assert done.returncode == 1 and "There is no file or folder" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no such name!"], "There is no file or folder no such name!"),
        (["gone.parquet"], r"There is no file or folder gone.parquet"),
        (["notes.md"], r"notes\.md does not end in one of \.parquet"),
        (["empty"], r"empty holds no file in one of"),
        (["a.jsonl", "--column", "body"], r"Line 1 of .*a\.jsonl has no column 'body', but \['text', 'n'\]"),
        (["a.parquet", "--column", "body"], r"a\.parquet has no column 'body'; it has \['id', 'text'\]"),
        (["a.parquet", "--column", "id"], r"The column 'id' of .*a\.parquet holds no text but int64"),
        (["a.jsonl", "--column", "n"], r"A document must be text, not int: '1'"),
        (["bad.jsonl"], r"Line 2 of .*bad\.jsonl is no JSON"),
        (["list.jsonl"], r"Line 1 of .*list\.jsonl has no column 'text', but no columns"),
        (["bad.parquet"], r"bad\.parquet cannot be read"),
        (["bad.txt.gz"], r"bad\.txt\.gz cannot be read"),
        (["cut.jsonl.gz"], r"cut\.jsonl\.gz cannot be read"),
        (["blank.txt"], "There are no documents, or all are empty"),
        (["a.jsonl", "--tokenizer", "gpt5"], "There is no tokenizer 'gpt5'"),
        (["a.jsonl", "--tokenizer", "a.jsonl"], r"a\.jsonl cannot be loaded"),
        (["a.jsonl", "--separator", ""], "separator of documents cannot be empty"),
        (["a.jsonl", "--validation-fraction", "1"], "validation_fraction from 0 to below 1"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_json_lines(Path("a.jsonl"), ["one", "two"])
    write_parquet(Path("a.parquet"), ["one", "two"])
    Path("notes.md").write_text("notes")
    Path("empty").mkdir()
    Path("bad.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    Path("list.jsonl").write_text("[1]\n")
    Path("bad.parquet").write_bytes(b"PAR1 nothing")
    Path("bad.txt.gz").write_bytes(b"not compressed")
    Path("cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 500)[:40])
    Path("blank.txt").write_text("\n\n<|endoftext|>\n")
    with pytest.raises(ValueError, match=message):
        run(*arguments, "--out", "out")


@pytest.mark.parametrize(
    "arguments",
    [[], ["a.txt", "--tokens", "many", "--out", "o"], ["--out", "o"], ["a.txt", "--workers", "0", "--out", "o"]],
)
def test_wrong_options(arguments, capsys):
    with pytest.raises(SystemExit):
        prepare(arguments)
    assert "error:" in capsys.readouterr().err


def test_importing_it_loads_no_large_library():
    script = (
        "import sys, zerohero.prepare_shards; "
        "print({'datasets', 'tiktoken', 'numba', 'transformers'} & {name for name in sys.modules if sys.modules[name]})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
