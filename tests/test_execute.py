"""The tools behind the Makefile: the one that runs stale chapters, on small books made here, and the one that makes the environment."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import execute
import nbformat
import pytest
from nbdev.clean import clean_nb

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location(
    "venv_tool", ROOT / "tools/venv.py"
)  # by path: the standard library has a venv too
venv_tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(venv_tool)


def code(source, *outputs, **metadata):
    return {
        "cell_type": "code",
        "source": source,
        "metadata": metadata,
        "outputs": list(outputs),
        "execution_count": None,
    }


def text(source):
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def stream(content, name="stdout"):
    return {"output_type": "stream", "name": name, "text": content}


def notebook(*cells):
    return execute.clean({"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def outputs(notebook):
    return ["".join(output.get("text", ["?"])) for cell in notebook["cells"] for output in cell.get("outputs", [])]


class Book:
    """A folder with chapters 00-one, 01-two, ... and a module of its own."""

    def __init__(self, root, *chapters):
        self.root = root
        self.names = [f"{number:02}-{word}" for number, word in zip(range(len(chapters)), ("one", "two", "three"))]
        (root / "nbs").mkdir()
        (root / "zerohero").mkdir()
        (root / "zerohero/__init__.py").write_text("")
        (root / "zerohero/helper.py").write_text("from zerohero.base import BASE\n\nANSWER = BASE + 2\n")
        (root / "zerohero/base.py").write_text("BASE = 40\n")
        for name, cells in zip(self.names, chapters):
            self.write(name, *cells)

    def path(self, name="00-one"):
        return self.root / f"nbs/{name}.ipynb"

    def write(self, name, *cells):
        self.path(name).write_text(execute.dump(notebook(*cells)), encoding="utf-8", newline="\n")

    def outputs(self, name="00-one"):
        return outputs(execute.load(self.path(name)))

    def files(self):
        return {path.name: path.read_bytes() for path in (self.root / "nbs").iterdir()}

    def execute(self, *arguments):
        return execute.main([*arguments, "--root", str(self.root)])

    def stamp(self):
        for name in self.names:
            execute.write_freeze(self.root, f"{name}.ipynb", execute.state(self.root, execute.load(self.path(name))))

    def reasons(self, name="00-one"):
        return execute.problems(self.root, self.path(name))


@pytest.fixture
def book(tmp_path):
    return lambda *chapters: Book(tmp_path, *chapters)


# ---- cleaning ----

MESSY = [
    code(
        "object()",
        {
            "output_type": "execute_result",
            "execution_count": 3,
            "metadata": {},
            "data": {"text/plain": "<object at 0x7f12ab>"},
        },
    ),
    code(
        "draw()",
        {
            "output_type": "display_data",
            "metadata": {},
            "data": {"image/png": "iVBOR\n", "image/svg+xml": "<svg>\n</svg>"},
        },
    ),
    code(
        "train()",
        stream("\r  0%|    | 0/9", "stderr"),
        stream("\r100%|####| 9/9 [00:01<00:00]\n", "stderr"),
        stream("loss 1.2\n"),
        stream("loss 0.8\n"),
    ),
    code(
        "slider()",
        {"output_type": "display_data", "metadata": {}, "data": {execute.WIDGET: {"model_id": "1"}, "text/plain": "x"}},
    ),
    code("count()", stream("1 of 2\r2 of 2\nready\r\n")),
    code(
        "warn()",
        stream("look out\n", "stderr"),
        collapsed=True,
        execution={"iopub": "now"},
        jupyter={"source_hidden": True},
        tags=["wide"],
    ),
]


def test_cleaning_removes_what_no_reader_would_miss():
    cleaned = notebook(*json.loads(json.dumps(MESSY)))
    first, drawn, trained, slider, counted, warned = (cell["outputs"] for cell in cleaned["cells"])
    assert first == [
        {"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": {"text/plain": ["<object>"]}}
    ]
    assert drawn[0]["data"] == {"image/png": "iVBOR", "image/svg+xml": ["<svg>\n", "</svg>"]}
    assert trained == [stream(["loss 1.2\n", "loss 0.8\n"])]
    assert slider == []
    assert counted == [stream(["2 of 2\n", "ready\n"])]
    assert warned == [stream(["look out\n"], "stderr")]
    assert cleaned["cells"][5]["metadata"] == {"jupyter": {"source_hidden": True}, "tags": ["wide"]}
    assert cleaned["metadata"] == {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}


def test_cleaning_is_stable_and_keeps_ids():
    messy = json.loads(json.dumps(MESSY))
    messy[0]["id"] = "abcd1234"
    once = execute.dump(notebook(*messy))
    assert execute.dump(execute.clean(json.loads(once))) == once
    ids = [cell["id"] for cell in json.loads(once)["cells"]]
    assert ids[0] == "abcd1234"
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("path", sorted(ROOT.glob("nbs/*.ipynb")), ids=lambda path: path.stem)
def test_jupyter_and_nbdev_would_write_the_same_file(path):
    """Otherwise saving in Jupyter, or nbdev's git hook, would undo the cleaning."""
    cleaned = execute.clean(execute.load(path))
    before = execute.dump(cleaned)
    assert nbformat.writes(nbformat.reads(before, as_version=4)) + "\n" == before
    clean_nb(cleaned, allowed_cell_metadata_keys=["jupyter", "tags"])
    assert execute.dump(cleaned) == before


# ---- what makes a chapter stale ----


def test_a_new_chapter_is_stale_and_a_stamped_one_is_not(book):
    made = book([code("1 + 1")])
    assert made.reasons() == ["it was never run"]
    made.stamp()
    assert made.reasons() == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([code("x = 1")], [code("x = 2")], ["its code changed"]),
        ([code("x = 1")], [code("x = 1"), code("x")], ["its code changed", "its outputs changed"]),
        ([code("x = 1"), code("y = 2")], [code("y = 2"), code("x = 1")], ["its code changed"]),
        (
            [code("x = 1")],
            [code("#| slow\nx = 1")],
            ["its code changed", "its slow cells changed (run with --flags slow)"],
        ),
        ([code("#| slow\nx = 1")], [code("#| slow\nx = 2")], ["its slow cells changed (run with --flags slow)"]),
        (
            [code("#| gpu\n#| slow\nx = 1")],
            [code("#| gpu\n#| slow\nx = 2")],
            ["its gpu slow cells changed (run with --flags gpu slow)"],
        ),
        ([code("#| eval: false\nx = 1")], [code("x = 1")], ["its code changed"]),
        ([code("x")], [code("x", stream("1"))], ["its outputs changed"]),
        ([text("old words"), code("x = 1")], [text("new words"), code("x = 1")], []),
        ([code('#| fig-alt: "a dot"\nx = 1')], [code('#| fig-alt: "a red dot"\nx = 1')], []),
        ([code("x = 1")], [code("x = 1\n")], []),
    ],
)
def test_what_counts_as_a_change(book, before, after, expected):
    made = book(before)
    made.stamp()
    made.write("00-one", *after)
    assert made.reasons() == expected


@pytest.mark.parametrize(
    "statement",
    [
        "import zerohero.helper",
        "from zerohero.helper import ANSWER",
        "from zerohero import helper",
        "def f():\n    from zerohero.helper import ANSWER",
        "%time\nfrom zerohero.helper import ANSWER",
    ],
)
def test_a_module_counts_however_deep_it_is_imported(book, statement):
    made = book([code(statement)], [code("1")])
    made.stamp()
    (made.root / "zerohero/base.py").write_text("BASE = 41\n")
    assert made.reasons() == ["zerohero.base changed"]
    assert made.reasons("01-two") == []


def test_where_a_module_was_exported_from_does_not_count(book):
    made = book([code("import zerohero.base")])
    made.stamp()
    (made.root / "zerohero/base.py").write_text(
        "# AUTOGENERATED! DO NOT EDIT! File to edit: x.\n# %% ../nbs/x.ipynb #1f\nBASE = 40\n"
    )
    assert made.reasons() == []


def test_a_file_that_the_code_names_counts(book):
    made = book([code('open("../results.json")'), text("see `../zerohero/base.py`")])
    (made.root / "results.json").write_text("[1]\n")
    made.stamp()
    assert made.reasons() == []
    (made.root / "results.json").write_bytes(b"[1]\r\n")  # as a checkout on Windows may have it
    assert made.reasons() == []
    (made.root / "results.json").write_text("[2]\n")
    assert made.reasons() == ["../results.json changed"]
    (made.root / "results.json").unlink()
    assert made.reasons() == ["../results.json changed"]


def test_line_endings_of_a_checkout_do_not_count(book):
    made = book([code("x = 1\ny = 2")])
    made.stamp()
    made.path().write_bytes(made.path().read_bytes().replace(b"\n", b"\r\n"))
    assert made.reasons() == []


def test_the_stamps_of_deleted_chapters_go(book):
    made = book([code("1")], [code("2")])
    made.stamp()
    made.path("01-two").unlink()
    execute.write_freeze(made.root, "00-one.ipynb", {})
    assert list(execute.read_freeze(made.root)) == ["00-one.ipynb"]


# ---- running ----


def test_a_run_saves_clean_outputs_and_the_next_one_has_nothing_to_do(book, capsys):
    made = book(
        [text("## A start"), code("from zerohero.helper import ANSWER\nprint(ANSWER)"), code("object()")],
        [code("import os, sys\nprint(os.path.basename(os.getcwd()), sys.executable)")],
    )
    assert made.execute() == 0
    assert made.outputs() == ["42\n", "?"]
    assert made.outputs("01-two") == [f"nbs {sys.executable}\n"]
    assert "0x" not in made.path().read_text()
    assert "A start" in capsys.readouterr().err
    before = made.files()
    assert set(before) == {"00-one.ipynb", "01-two.ipynb", "_freeze.json"}
    assert made.execute("--check") == 0
    assert made.execute() == 0
    assert made.files() == before
    assert "nothing to run" in capsys.readouterr().out


def test_nothing_to_do_starts_nothing(book):
    made = book([code("print(1)", stream("1\n"))])
    made.stamp()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "tools/execute.py"), "--root", str(made.root)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "nothing to run: no chapter is stale\n", done.stderr
    assert "argparse" in done.stderr and "nbclient" not in done.stderr and "nbformat" not in done.stderr


def test_a_failing_cell_changes_nothing(book, capsys):
    made = book(
        [code("print('fresh')")],
        [text("## Division"), code("x = 0\nprint('before')"), code("1 / x\n" + "x\n" * 9)],
        [code("print('later')")],
    )
    before = made.files()
    assert made.execute() == 1
    after = made.files()
    message = capsys.readouterr().err
    assert "01-two.ipynb, cell 3 of 3, section 'Division', failed" in message
    assert "    1 / x\n    x\n" in message
    assert "    ...\n" in message
    assert "ZeroDivisionError: division by zero" in message
    assert "\x1b" not in message
    assert made.outputs() == ["fresh\n"]  # the chapter before it was saved when it was ready
    assert {name: after[name] for name in ("01-two.ipynb", "02-three.ipynb")} == {
        name: before[name] for name in ("01-two.ipynb", "02-three.ipynb")
    }
    assert list(execute.read_freeze(made.root)) == ["00-one.ipynb"]


def test_a_kernel_that_dies_is_reported(book, capsys):
    made = book([code("import os\nos._exit(3)")])
    before = made.files()
    assert made.execute() == 1
    assert "cell 1 of 1" in capsys.readouterr().err
    assert made.files() == before


def test_an_edit_during_the_run_is_not_overwritten(book, capsys):
    made = book([code("open('00-one.ipynb', 'a').write('\\n')")])
    assert made.execute() == 1
    assert "edited while it ran" in capsys.readouterr().err
    assert made.path().read_text().endswith("\n\n")


def test_slow_cells_keep_their_outputs_until_asked(book, capsys):
    slow = "#| slow\nprint('trained', n)"
    made = book([code("n = 1\nprint(n)"), code(slow, stream("trained long ago\n"))])
    assert made.execute() == 0
    assert made.outputs() == ["1\n", "trained long ago\n"]
    assert made.execute("--check") == 1  # nobody has seen what the slow cell prints
    assert made.execute("--flags", "slow") == 0
    assert made.outputs() == ["1\n", "trained 1\n"]
    assert made.execute("--check") == 0
    made.write("00-one", code("n = 2\nprint(n)"), code(slow, stream("trained 1\n")))
    assert made.execute() == 0
    assert made.outputs() == ["2\n", "trained 1\n"]
    assert made.execute("--check") == 0  # a change elsewhere does not ask for hours of training
    assert made.execute("--flags", "slow") == 0
    assert made.outputs() == ["2\n", "trained 1\n"]
    assert made.execute("--flags", "slow", "--force") == 0
    assert made.outputs() == ["2\n", "trained 2\n"]


def test_only_the_chapters_named_are_run(book):
    made = book([code("print(1)")], [code("print(2)")])
    assert made.execute("nbs/01-two.ipynb") == 0
    assert (made.outputs(), made.outputs("01-two")) == ([], ["2\n"])


def test_an_unclean_chapter_is_reported_then_cleaned_without_running(book, capsys):
    made = book([code("print(1)", stream("1\n"))])
    made.stamp()
    made.path().write_text(made.path().read_text().replace('"execution_count": null', '"execution_count": 5'))
    assert made.execute("--check") == 1
    assert "00-one: it is not clean" in capsys.readouterr().out
    assert made.execute() == 0
    assert capsys.readouterr().out == "00-one: cleaned\nnothing to run: no chapter is stale\n"
    assert made.execute("--check") == 0


@pytest.mark.parametrize(
    ("damage", "arguments", "expected"),
    [
        (lambda root: None, ["09-none"], "there is no chapter 09-none; the chapters are 00-one"),
        (lambda root: (root / "nbs/00-one.ipynb").unlink(), [], "there are no notebooks"),
        (lambda root: (root / "nbs/00-one.ipynb").write_text("<<<"), [], "is not a notebook"),
        (lambda root: (root / "nbs/00-one.ipynb").write_text('{"nbformat": 3}'), [], "notebook format 3"),
        (lambda root: (root / "nbs/_freeze.json").write_text("{"), [], "_freeze.json is damaged"),
    ],
)
def test_errors_say_what_to_do(book, capsys, damage, arguments, expected):
    made = book([code("1")])
    damage(made.root)
    assert made.execute(*arguments) == 1
    assert expected in capsys.readouterr().err


# ---- the environment ----


def test_the_script_that_makes_the_environment_can_be_read_by_an_old_python():
    ast.parse((ROOT / "tools/venv.py").read_text(encoding="utf-8"), feature_version=(3, 4))


def test_a_python_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert "is Python 3.9; the book needs 3.10 or newer" in venv_tool.main()


def test_a_python_without_ensurepip_is_explained(monkeypatch):
    monkeypatch.setattr(venv_tool, "works", lambda *command: False)
    assert f"python3.{sys.version_info.minor}-venv" in venv_tool.main()
