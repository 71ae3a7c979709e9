"""zerohero.shard_files and zerohero.shards: every window once, whatever the sizes; shards that survive kills; files that are wrong, named."""

import json
import math
import os
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zerohero import shard_files
from zerohero.shard_files import (
    HEADER_BYTES,
    INDEX_FILE,
    ShardHeader,
    map_shard,
    read_header,
    read_index,
    verify_shards,
    write_shards,
)
from zerohero.shards import ShardLoader, shuffled

pytestmark = pytest.mark.usefixtures("one_thread")
EOT = 100


def made_documents(seed, many, longest):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, EOT, rng.integers(0, longest + 1)) for _ in range(many)]


def write(folder, documents, **options):
    return write_shards(documents, folder, **{"vocab_size": EOT + 1, "end_of_text": EOT, **options})


def row_of_tokens(folder, split="train"):
    """All tokens of a split, laid end to end."""
    files = [folder / shard["file"] for shard in read_index(folder)["splits"][split]]
    return np.concatenate([np.array(map_shard(file, read_header(file))) for file in files])


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def folder(tmp_path):
    """Five shards of training and one of validation."""
    write(tmp_path / "shards", made_documents(0, 60, 30), shard_tokens=200, validation_fraction=0.1)
    assert len(read_index(tmp_path / "shards")["splits"]["train"]) >= 4
    return tmp_path / "shards"


# ---- writing ----


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=30),
    shard_tokens=st.integers(1, 40),
    fraction=st.sampled_from([0, 0.01, 0.3, 0.9]),
)
def test_shards_hold_the_documents(tmp_path_factory, lengths, shard_tokens, fraction):
    folder = tmp_path_factory.mktemp("written")
    documents = [np.full(length, number) for number, length in enumerate(lengths)]
    if not any(lengths):
        with pytest.raises(ValueError, match="nothing to write"):
            write(folder, documents)
        return
    record = write(folder, documents, shard_tokens=shard_tokens, validation_fraction=fraction)
    expected = {"train": [], "validation": []}
    for document in filter(len, documents):
        held_out, total = len(expected["validation"]), sum(map(len, expected.values()))
        split = "validation" if held_out < fraction * total else "train"
        expected[split] += [EOT, *document.tolist()]
    for split, tokens in expected.items():
        sizes = [shard["tokens"] for shard in record["splits"][split]]
        assert sum(sizes) == len(tokens) and all(size == shard_tokens for size in sizes[:-1])
        if tokens:
            assert row_of_tokens(folder, split).tolist() == tokens
    assert record["documents"] == len(documents)
    verify_shards(folder)
    assert not list(folder.glob("*.part")) and {p.suffix for p in folder.iterdir()} == {".bin", ".json"}


def test_validation_is_whole_documents_from_everywhere(tmp_path):
    documents = made_documents(1, 4000, 40)
    record = write(tmp_path, documents, validation_fraction=0.05)
    row = row_of_tokens(tmp_path, "validation")
    held_out = {tuple(piece.tolist()) for piece in np.split(row, np.flatnonzero(row == EOT))[1:]}
    marked = [(EOT, *document.tolist()) in held_out for document in documents if len(document)]
    tenths = [sum(part) for part in np.array_split(marked, 10)]
    assert min(tenths) > 0.5 * max(tenths) > 0
    tokens = {split: sum(s["tokens"] for s in found) for split, found in record["splits"].items()}
    assert tokens["validation"] / sum(tokens.values()) == pytest.approx(0.05, abs=0.001)
    lengths = [len(d) for d in documents if len(d)]
    chosen = [length for length, here in zip(lengths, marked) if here]
    assert np.mean(chosen) == pytest.approx(np.mean(lengths), rel=0.15)  # neither the short nor the long ones


def test_it_stops_with_the_document_that_reaches_max_tokens(tmp_path):
    taken = []

    def documents():
        for number in range(100):
            taken.append(number)
            yield [number] * 9

    record = write(tmp_path, documents(), max_tokens=95)
    assert sum(s["tokens"] for found in record["splits"].values() for s in found) == 100
    assert taken == [*range(10)] and record["documents"] == 10


def test_tokens_take_four_bytes_where_they_must(tmp_path):
    for vocab_size, size in ((1 << 16, 2), ((1 << 16) + 1, 4)):
        folder = tmp_path / str(vocab_size)
        write_shards([[vocab_size - 1, 0]], folder, vocab_size=vocab_size, end_of_text=1)
        (path,) = folder.glob("*.bin")
        assert path.stat().st_size == HEADER_BYTES + 3 * size
        loader = ShardLoader(folder, 1, 2, shuffle=False)
        assert loader.next_batch()[1].tolist() == [[vocab_size - 1, 0]] and loader.vocab_size == vocab_size


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([1, 2, EOT + 1], r"Document 1 has the token 101 at position 2; a vocabulary of 101 ends at 100"),
        ([-1], "token -1 at position 0"),
        (np.array([3, 70_000], np.uint32), "token 70000 at position 1"),
        ([1.5], "must be a sequence of integers"),
        ([[1, 2], [3, 4]], r"of shape \(2, 2\)"),
        ("text", "must be a sequence of integers"),
        (["a"], "must be a sequence of integers"),
    ],
)
def test_tokens_out_of_range_are_refused(tmp_path, document, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, [[1, 2], document])
    with pytest.raises(ValueError, match="unfinished"):
        ShardLoader(tmp_path, 1, 1)


def test_documents_may_be_lists_arrays_tensors_or_bytes_of_a_generator(tmp_path):
    write(
        tmp_path,
        iter([[1, 2], np.array([3], np.uint16), torch.tensor([4, 5]), (6,), range(7, 9)]),
        validation_fraction=0,
    )
    assert row_of_tokens(tmp_path).tolist() == [EOT, 1, 2, EOT, 3, EOT, 4, 5, EOT, 6, EOT, 7, 8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"end_of_text": 101}, "end-of-text token 101 is none"),
        ({"vocab_size": 0}, "1 to 2"),
        ({"vocab_size": (1 << 32) + 1}, "1 to 2"),
        ({"shard_tokens": 0}, "shard_tokens must be 1"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"validation_fraction": -0.1}, "validation_fraction"),
    ],
)
def test_wrong_arguments_of_write_shards(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, [[1]], **options)
    assert not list(tmp_path.iterdir())


def test_a_finished_folder_is_left_alone(folder):
    before = contents(folder)
    options = {"shard_tokens": 200, "validation_fraction": 0.1}
    assert write(folder, iter(()), **options) == read_index(folder)
    with pytest.raises(ValueError, match="shard_tokens is 200, not 300"):
        write(folder, [[1]], shard_tokens=300, validation_fraction=0.1)
    with pytest.raises(ValueError, match="source is None, not {'name': 'plays'}"):
        write(folder, [[1]], source={"name": "plays"}, **options)
    assert contents(folder) == before


def test_a_folder_with_other_files_is_not_written_to(tmp_path):
    (tmp_path / "train_000000.bin").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"holds train_000000.bin, which is not of this preparation"):
        write(tmp_path, [[1]])
    assert contents(tmp_path) == {"train_000000.bin": b"mine"}


# ---- killed and taken up again ----


class Killed(BaseException):
    pass


class Fuse:
    """Lets `many` operations on files pass, then raises."""

    def __init__(self, many):
        self.left = many

    def around(self, function):
        def fused(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                raise Killed
            return function(*args, **kwargs)

        return fused


def crash_anywhere(folder, documents, options, many):
    """Writes shards, and breaks off at the operation number `many`; True if it came that far."""
    fuse = Fuse(many)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", fuse.around(Path.replace))
        patch.setattr(Path, "unlink", fuse.around(Path.unlink))
        patch.setattr(os, "fsync", fuse.around(os.fsync))
        patch.setattr(shard_files._Split, "append", fuse.around(shard_files._Split.append))
        patch.setattr(shard_files._Split, "open", fuse.around(shard_files._Split.open))
        try:
            write(folder, documents, **options)
        except Killed:
            return False
    return True


@pytest.mark.parametrize("as_function", [False, True])
def test_a_crash_at_any_operation_leaves_what_can_be_gone_on_with(tmp_path, monkeypatch, as_function):
    monkeypatch.setattr(shard_files, "SAVE_EVERY", 70)
    documents = made_documents(2, 30, 25)
    options = {"shard_tokens": 90, "validation_fraction": 0.3}
    write(tmp_path / "whole", documents, **options)
    expected, given_documents = contents(tmp_path / "whole"), documents
    if as_function:

        def given_documents(start):
            return iter(documents[start:])

    many, finished = 0, False
    while not finished:
        folder = tmp_path / str(many)
        finished = crash_anywhere(folder, given_documents, options, many)
        if not finished:  # again, and the second time it crashes early in its second life
            crash_anywhere(folder, given_documents, options, many % 7)
            write(folder, given_documents, **options)
        assert contents(folder) == expected, many
        many += 1
    assert many > 60


CHILD = """
import sys, time
from zerohero import shard_files
shard_files.SAVE_EVERY = 500
def slowly():
    for number in range(400):
        time.sleep(0.002)
        yield [number % 100] * (number % 61)
def report(documents, tokens):
    print(documents, flush=True)
options = dict(vocab_size=101, end_of_text=100, shard_tokens=700, validation_fraction=0.1)
shard_files.write_shards(slowly(), sys.argv[1], report=report, **options)
"""


def test_killed_in_the_middle_the_result_is_the_same(tmp_path):
    documents = ([number % 100] * (number % 61) for number in range(400))
    write(tmp_path / "whole", documents, shard_tokens=700, validation_fraction=0.1)
    killed, goals = [], [90, 301]
    while True:
        command = [sys.executable, "-c", CHILD, str(tmp_path / "killed")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout:
                if len(killed) < len(goals) and int(line) >= goals[len(killed)]:
                    child.kill()  # SIGKILL, where there are signals
                    killed.append(int(line))
                    break
            else:
                assert child.wait() == 0
                break
        assert child.returncode != 0
        with pytest.raises(ValueError, match="are unfinished. Give the command"):
            ShardLoader(tmp_path / "killed", 1, 8)
    assert len(killed) == 2
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_what_was_begun_with_other_settings_is_not_gone_on_with(tmp_path):
    def interrupted():
        yield from made_documents(0, 20, 20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, interrupted())
    with pytest.raises(ValueError, match="end_of_text is 100, not 99"):
        write(tmp_path, [[1]], end_of_text=99)


def test_what_a_killed_run_wrote_last_and_nobody_wants_is_removed(tmp_path):
    def interrupted():
        yield from made_documents(0, 40, 20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", interrupted(), shard_tokens=50)  # before its first state was saved
    assert len(list((tmp_path / "out").glob("*.bin"))) > 4
    for name in ("out", "whole"):
        write(tmp_path / name, made_documents(0, 5, 20), shard_tokens=50)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_damaged_half_shard_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_files, "SAVE_EVERY", 50)

    def interrupted():
        yield from made_documents(0, 20, 20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, interrupted())
    part = tmp_path / "train_000000.bin.part"
    content = part.read_bytes()
    for broken in (content[:HEADER_BYTES] + b"\1" + content[HEADER_BYTES + 1 :], content[:140], None):
        part.write_bytes(broken) if broken else part.unlink()
        with pytest.raises(ValueError, match=r"train_000000.bin.part is missing or damaged"):
            write(tmp_path, made_documents(0, 20, 20))
    part.write_bytes(content + b"more than was noted")
    write(tmp_path, made_documents(0, 20, 20))
    mended = contents(tmp_path)
    write(tmp_path / "whole", made_documents(0, 20, 20))
    assert contents(tmp_path / "whole") == mended


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files")
def test_a_full_disk_is_named_and_costs_nothing(tmp_path):
    script = """
        import resource, sys
        from zerohero.shard_files import write_shards
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            write_shards([[number % 100] * 50 for number in range(700)], sys.argv[1], vocab_size=101, end_of_text=100)
        except OSError as error:
            sys.exit(f"{type(error).__name__} {error}")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "full")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "are unfinished" in done.stderr and "do the same again to go on" in done.stderr
    for name in ("full", "whole"):
        write(tmp_path / name, [[number % 100] * 50 for number in range(700)])
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


# ---- the shuffle ----


@pytest.mark.parametrize("seed", [0, 1, 1337])
def test_shuffled_is_a_permutation_of_every_small_size(seed):
    for size in [*range(1, 700), 1023, 1024, 1025, 9999, 65_536, 65_537]:
        found = shuffled(np.arange(size), size, seed)
        assert found.dtype == np.int64
        assert np.array_equal(np.sort(found), np.arange(size)), size


def test_shuffled_keeps_large_sizes_apart():
    for size in (9_765_624, 10**9 + 7, 10**12, 2**53 - 1):
        some = np.unique(np.random.default_rng(0).integers(0, size, 200_000))
        found = shuffled(some, size, 7)
        assert len(np.unique(found)) == len(some) and found.min() >= 0 and found.max() < size


def test_shuffled_asks_each_place_by_itself():
    whole = shuffled(np.arange(1000), 1000, 3, 2)
    some = np.array([[5, 999], [0, 5]])
    assert np.array_equal(shuffled(some, 1000, 3, 2), whole[some])
    assert shuffled(np.arange(0), 1000, 3).size == 0


def test_shuffled_is_the_same_on_every_machine():
    assert shuffled(np.arange(12), 12, 1337, 0).tolist() == [0, 2, 3, 6, 8, 10, 7, 11, 5, 4, 1, 9]
    found = shuffled(np.array([0, 1, 9_765_623]), 9_765_624, 1337, 3)
    assert found.tolist() == [1_992_065, 4_536_706, 4_038_252]


def chi_squared(counts):
    """How far `counts` are from all being equal, in standard deviations of what chance makes of it."""
    counts = np.asarray(counts, float).ravel()
    expected, freedom = counts.mean(), counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


def test_all_orders_of_few_things_are_equally_likely():
    for size in (2, 3, 4, 5):
        many = math.factorial(size)
        found = Counter(tuple(shuffled(np.arange(size), size, seed)) for seed in range(100 * many // 2))
        assert len(found) == many and chi_squared([*found.values()]) < 5


def test_the_shuffle_mixes():
    size, cells = 50_000, 50
    images = [shuffled(np.arange(size), size, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (0, 2), (1, 0), (2, 0))]
    parts = np.arange(size) * cells // size
    for image in images:
        # from every part of the row to every part, and neighbours to places that know nothing of each other
        for a, b in (
            (parts, parts[image]),
            (parts[image[:-1]], parts[image[1:]]),
            (parts[image[:-7]], parts[image[7:]]),
        ):
            table = np.zeros((cells, cells))
            np.add.at(table, (a, b), 1)
            assert abs(chi_squared(table)) < 5
        assert (image == np.arange(size)).sum() < 12  # about one thing stays where it was
        steps = np.abs(np.diff(image))
        assert steps.mean() == pytest.approx(size / 3, rel=0.03)
        assert len(np.unique(np.diff(image))) > 0.6 * 0.63 * size  # no step is preferred
    for i, image in enumerate(images):
        for other in images[:i]:
            assert (image == other).sum() < 12
            assert abs(np.corrcoef(image, other)[0, 1]) < 0.025


# ---- every window once ----


def all_batches(folder, batch_size, block_size, world_size, windows, **options):
    """The windows that all ranks have read, as tuples, until `windows` or a few more are there, and the loaders."""
    loaders = [
        ShardLoader(folder, batch_size, block_size, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    found = []
    while len(found) < windows:
        for loader in loaders:
            x, y = loader.next_batch()
            assert x.shape == y.shape == (batch_size, block_size) and x.dtype == y.dtype == torch.int64
            assert x.is_contiguous() and y.is_contiguous() and torch.equal(x[:, 1:], y[:, :-1])
            found += [(*a, b[-1]) for a, b in zip(x.tolist(), y.tolist())]
    assert len({loader.position for loader in loaders}) == 1
    return found, loaders


@settings(max_examples=100)
@given(
    tokens=st.integers(2, 150),
    shard_tokens=st.integers(1, 120),
    batch_size=st.integers(1, 9),
    block_size=st.integers(1, 20),
    world_size=st.integers(1, 5),
    seed=st.integers(0, 2**63),
    shuffle=st.booleans(),
)
@example(tokens=2, shard_tokens=1, batch_size=9, block_size=1, world_size=5, seed=0, shuffle=True)
def test_each_window_once_per_epoch(
    tmp_path_factory, tokens, shard_tokens, batch_size, block_size, world_size, seed, shuffle
):
    folder = tmp_path_factory.mktemp("windows")
    options = {"vocab_size": 1000, "end_of_text": 999, "shard_tokens": shard_tokens, "validation_fraction": 0}
    write_shards([range(tokens - 1)], folder, **options)  # all tokens differ, so windows tell where they are from
    row = [999, *range(tokens - 1)]
    windows = [tuple(row[i : i + block_size + 1]) for i in range(0, tokens - block_size, block_size)]
    if not windows:
        with pytest.raises(ValueError, match="too few for one window"):
            ShardLoader(folder, batch_size, block_size)
        return
    many = 3 * len(windows)
    found, loaders = all_batches(folder, batch_size, block_size, world_size, many, seed=seed, shuffle=shuffle)
    for epoch in range(3):
        assert sorted(found[epoch * len(windows) : (epoch + 1) * len(windows)]) == sorted(windows)
    assert found[: len(windows)] == windows or shuffle
    assert loaders[0].windows == len(windows) and loaders[0].tokens == tokens
    assert loaders[0].position == len(found) and loaders[0].epoch == len(found) // len(windows)
    alone = ShardLoader(folder, 1, block_size, seed=seed, shuffle=shuffle).window_numbers(0, many)
    assert found[:many] == [windows[number] for number in alone]  # the same row of windows for everybody


def test_epochs_and_seeds_have_orders_of_their_own(folder):
    found, (loader,) = all_batches(folder, 1, 4, 1, 1)
    orders = [tuple(loader.window_numbers(epoch * loader.windows, loader.windows)) for epoch in range(3)]
    orders.append(tuple(ShardLoader(folder, 1, 4, seed=1).window_numbers(0, loader.windows)))
    orders.append(tuple(range(loader.windows)))
    assert len(set(orders)) == 5
    row = row_of_tokens(folder)
    assert list(found[0]) == row[4 * orders[0][0] :][:5].tolist()


@settings(max_examples=40)
@given(
    first=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    then=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    batches=st.integers(0, 40),
)
def test_a_run_goes_on_with_any_number_of_ranks(shared_folder, first, then, batches):
    block_size, row = 7, row_of_tokens(shared_folder)
    loader = ShardLoader(shared_folder, 1, block_size)
    assert 3 * loader.windows < 1000
    alone = [tuple(row[number * 7 :][:8].tolist()) for number in loader.window_numbers(0, 1000)]
    head, loaders = all_batches(shared_folder, first[1], block_size, first[0], batches * first[0] * first[1])
    states = [json.loads(json.dumps(each.state_dict())) for each in loaders]
    assert all(state == states[0] for state in states) and len(json.dumps(states[0])) < 120
    resumed = [
        ShardLoader(shared_folder, then[1], block_size, rank=rank, world_size=then[0]) for rank in range(then[0])
    ]
    for each in resumed:
        each.load_state_dict(states[0])
    tail = []
    for _ in range(3):
        for each in resumed:
            x, y = each.next_batch()
            tail += [(*a, b[-1]) for a, b in zip(x.tolist(), y.tolist())]
    assert (head + tail) == alone[: len(head) + len(tail)]


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    write(folder, made_documents(9, 100, 40), shard_tokens=333)
    return folder


def test_a_state_of_other_windows_is_refused(folder, shared_folder):
    state = ShardLoader(folder, 2, 8).state_dict()
    for other in (
        ShardLoader(folder, 2, 16),
        ShardLoader(folder, 2, 8, seed=1),
        ShardLoader(folder, 2, 8, shuffle=False),
        ShardLoader(shared_folder, 2, 8),
    ):
        with pytest.raises(ValueError, match="is of other windows: "):
            other.load_state_dict(state)
        assert other.position == 0
    with pytest.raises(ValueError, match="position"):
        ShardLoader(folder, 2, 8).load_state_dict({**state, "position": None})
    with pytest.raises(ValueError, match="position"):
        ShardLoader(folder, 2, 8).load_state_dict({**state, "position": -1})


@pytest.mark.long
def test_ten_billion_tokens_cost_megabytes(tmp_path):
    resource = pytest.importorskip("resource", reason="no getrusage on this system")
    probe = tmp_path / "probe"
    with open(probe, "wb") as file:
        file.truncate(1 << 24)
    if probe.stat().st_blocks * 512 > 1 << 20 or not hasattr(resource, "getrusage"):
        pytest.skip("no sparse files here")
    entries, n = [], 100_000_000
    for number in range(100):
        path = tmp_path / f"train_{number:06}.bin"
        with open(path, "wb") as file:
            file.write(ShardHeader(2, 50257, 50256, n, bytes(32)).pack())
            file.truncate(HEADER_BYTES + 2 * n)  # zeros that take no room on the disk
        entries.append({"file": path.name, "tokens": n, "sha256": bytes(32).hex()})
    record = {"settings": {"vocab_size": 50257, "end_of_text": 50256}, "documents": 1, "splits": {"train": entries}}
    shard_files._write_json(tmp_path / INDEX_FILE, record)
    script = """
        import resource, sys
        from zerohero.shards import ShardLoader
        def peak():
            unit = 1 if sys.platform == "darwin" else 1024
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        before = peak()
        loader = ShardLoader(sys.argv[1], 16, 1024, world_size=8, rank=5)
        loader.position = loader.windows - 5_000
        for _ in range(60):
            loader.next_batch()
        print(loader.tokens, loader.epoch, peak() - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    tokens, epoch, growth = map(int, done.stdout.split())
    assert tokens == 10**10 and epoch == 1 and growth < 40e6


# ---- files that are wrong ----


def rewrite(path, **fields):
    """Gives the shard `path` another header, with a checksum that fits."""
    header = read_header(path)._replace(**fields)
    path.write_bytes(header.pack() + path.read_bytes()[HEADER_BYTES:])


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def foreign(path):
    path.write_bytes(np.array([20240520, 1, 100], "<i4").tobytes() + bytes(4096))


def other_preparation(path):
    """Puts a shard of the same size and vocabulary, but of other documents, in the place."""
    folder = path.parent.parent / "other"
    write(folder, made_documents(77, 60, 30), shard_tokens=200, validation_fraction=0.1)
    shutil.copy(folder / path.name, path)


FAULTS = {
    "truncated": (lambda path: os.truncate(path, 300), r"train_000002.bin is truncated: it has 300 bytes"),
    "cut in the header": (lambda path: os.truncate(path, 50), r"train_000002.bin ends within its header"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "train_000002.bin has something behind"),
    "empty": (lambda path: path.write_bytes(b""), r"train_000002.bin is no shard of zerohero: it begins with b''"),
    "foreign": (foreign, r"train_000002.bin is no shard of zerohero"),
    "damaged header": (lambda path: flip(path, 20), "train_000002.bin has a damaged header"),
    "other vocabulary": (lambda path: rewrite(path, vocab_size=500), "train_000002.bin has the vocab_size 500"),
    "other end": (lambda path: rewrite(path, end_of_text=7), "train_000002.bin has the end_of_text 7"),
    "other version": (lambda path: path.write_bytes(newer(path)), "train_000002.bin has version 2; this"),
    "missing": (lambda path: path.unlink(), "train_000002.bin is missing"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "train_000002.bin cannot be read"),
    "mixed": (other_preparation, "train_000002.bin is not what shards.json describes"),
    "too many": (lambda path: shutil.copy(path, path.with_name("train_000099.bin")), "train_000099.bin does not bel"),
    "bad index": (lambda path: (path.parent / INDEX_FILE).write_text("{"), "shards.json cannot be read"),
    "other index": (lambda path: (path.parent / INDEX_FILE).write_text('{"format": "x"}'), "its format is 'x'"),
    "empty index": (
        lambda path: (path.parent / INDEX_FILE).write_text('{"format": "zerohero shards 1"}'),
        "shards.json",
    ),
    "no index": (lambda path: (path.parent / INDEX_FILE).unlink(), "has no shards.json, so it is no folder of shards"),
}


def newer(path):
    content = path.read_bytes()
    fields = bytearray(content[: shard_files._HEADER.size])
    fields[8] = 2
    check = shard_files.zlib.crc32(fields).to_bytes(4, "little")
    return (bytes(fields) + check).ljust(HEADER_BYTES, b"\0") + content[HEADER_BYTES:]


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_shards_are_named_at_construction(folder, fault):
    ShardLoader(folder, 2, 8, verify=True)
    change, message = FAULTS[fault]
    change(folder / "train_000002.bin")
    for verify in (False, True):
        with pytest.raises(ValueError, match=message):
            ShardLoader(folder, 2, 8, verify=verify)


@settings(max_examples=40)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tmp_path_factory, place, bit):
    folder = tmp_path_factory.mktemp("flipped")
    write(folder, made_documents(0, 10, 30), validation_fraction=0)
    path = folder / "train_000000.bin"
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at] ^= 1 << bit
    path.write_bytes(content)
    if at < shard_files._HEADER.size + 4:
        with pytest.raises(ValueError, match=r"train_000000\.bin"):
            ShardLoader(folder, 2, 8)
    elif at >= HEADER_BYTES:
        ShardLoader(folder, 2, 8)
        with pytest.raises(ValueError, match=r"train_000000\.bin is damaged: its checksum"):
            ShardLoader(folder, 2, 8, verify=True)
        with pytest.raises(ValueError, match="checksum"):
            verify_shards(folder)


def test_a_validation_shard_that_is_wrong_spoils_only_validation(folder):
    os.truncate(folder / "validation_000000.bin", 200)
    ShardLoader(folder, 2, 8)
    with pytest.raises(ValueError, match=r"validation_000000\.bin is truncated"):
        ShardLoader(folder, 2, 8, split="validation")
    with pytest.raises(ValueError, match=r"validation_000000\.bin is truncated"):
        verify_shards(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"shape \(0, 8\)"),
        ({"block_size": 0}, r"shape \(2, 0\)"),
        ({"rank": 2, "world_size": 2}, "no rank 2 among 2"),
        ({"rank": -1}, "no rank -1 among 1"),
        ({"world_size": 0}, "no rank 0 among 0"),
        ({"seed": -1}, "seed must be 0"),
        ({"split": "test"}, "no shards of the split 'test', only of train, validation"),
        ({"block_size": 100_000}, "too few for one window of 100001"),
        ({"vocab_size": 64}, "vocabulary of 101, the model has one of 64"),
    ],
)
def test_wrong_arguments_of_the_loader(folder, options, message):
    with pytest.raises(ValueError, match=message):
        ShardLoader(folder, **{"batch_size": 2, "block_size": 8, **options})


def test_a_larger_model_vocabulary_is_fine(folder):
    assert ShardLoader(folder, 2, 8, vocab_size=128).vocab_size == 101


def test_folders_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        ShardLoader(tmp_path / "nowhere", 2, 8)
    with pytest.raises(ValueError, match=r"has no shards\.json"):
        ShardLoader(tmp_path, 2, 8)
