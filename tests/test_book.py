"""The structure of the book: what holds of every notebook, of the modules made from them and of the files around them.

Each rule is a function that returns the faults it finds. It runs on this book, where it must find none,
and on small books broken on purpose, where it must find the fault.
"""

import ast
import base64
import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import execute
import pytest
import yaml
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
APPENDIX = 90  # notebooks from this number on are not chapters, and chapters may use them only for showing things
MODULE_LINES = 400  # what a module may hold and still be read in one sitting
PAGE_COLUMNS = 88
HIDDEN = {"source_hidden": True, "outputs_hidden": True}  # what Jupyter calls a collapsed cell
CLOSING = ["What we kept", "Summary", "Pitfalls", "Exercises", "References", "Reproduce this chapter", "Next"]
DIRECTIVES = {
    "default_exp",
    "export",
    "exporti",
    "hide",
    "slow",
    "gpu",
    "notest",
    "eval:",
    "fig-alt:",
    "fig-cap:",
    "code-fold:",
    "code-summary:",
    "layout-ncol:",
}
STANDARD_LIBRARY_ONLY = {"autograd"}
FOR_READING_ONLY = {"matplotlib", "IPython", "ipykernel", "jupyter_client", "nbdev"}
UNFINISHED = re.compile(
    r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK|lorem ip" r"sum|not implemented y" r"et|for n" r"ow)\b|<{7} |>{7} "
)
MACHINE_PATH = re.compile(r"/(?:home|Users|root|tmp)/\w|\b[A-Z]:\\\\?Users\\")


class Notebook:
    def __init__(self, path):
        self.path = path
        self.label = path.stem
        self.number, _, self.name = path.stem.partition("-")
        self.is_chapter = not self.number.isdigit() or int(self.number) < APPENDIX
        self.cells = execute.load(path)["cells"]
        for cell in self.cells:
            cell["source"] = execute.joined(cell["source"])
        self.code = [cell for cell in self.cells if cell["cell_type"] == "code"]
        self.prose = "\n\n".join(cell["source"] for cell in self.cells if cell["cell_type"] == "markdown")

    def place(self, cell):
        return f"cell {self.cells.index(cell) + 1}"

    @cached_property
    def front_matter(self):
        first = self.cells[0] if self.cells else {"cell_type": "", "source": ""}
        found = re.fullmatch(r"---\n(.*)\n---\s*", first["source"], re.S)
        content = yaml.safe_load(found[1]) if first["cell_type"] == "raw" and found else None
        return content if isinstance(content, dict) else {}

    @property
    def modules(self):
        """The modules this notebook exports to: its own and those that `#| export NAME` names."""
        named = [
            value
            for cell in self.code
            for directive, value in execute.DIRECTIVE.findall(cell["source"])
            if directive == "export" and value
        ]
        return [self.name, *dict.fromkeys(named)]


class Book:
    def __init__(self, root):
        self.root = root
        self.notebooks = [Notebook(path) for path in sorted(root.glob("nbs/*.ipynb"))]
        self.modules = {
            path.stem: path.read_text(encoding="utf-8")
            for path in sorted(root.glob("zerohero/*.py"))
            if not path.stem.startswith("_")
        }

    def order(self, module):
        """The place of a module in the book; None if no notebook makes it."""
        return next((number for number, notebook in enumerate(self.notebooks) if module in notebook.modules), None)

    @cached_property
    def files(self):
        """The files that belong to the project: all that git does not ignore."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            check=False,
            cwd=self.root,
            capture_output=True,
            text=True,
        )
        if listed.returncode:  # not a git checkout
            return [
                path
                for path in self.root.rglob("*")
                if path.is_file() and not re.search(r"[\\/][._]", str(path.relative_to(self.root.parent)))
            ]
        return [self.root / name for name in filter(None, listed.stdout.split("\0")) if (self.root / name).is_file()]


def directives(cell):
    return execute.DIRECTIVE.findall(cell["source"])


def option(cell, key):
    return next((value.strip("\"'").strip() for name, value in directives(cell) if name == key), "")


# ---- one notebook ----


def names_agree(book, notebook):
    """01-autograd.ipynb says `default_exp autograd` and makes zerohero/autograd.py."""
    if not re.fullmatch(r"\d\d-[a-z][a-z0-9_]*", notebook.label):
        return ["is not named like 01-autograd.ipynb: two digits, a hyphen, a module name"]
    said = [value for cell in notebook.code for name, value in directives(cell) if name == "default_exp"]
    faults = (
        [] if said == [notebook.name] else [f"says default_exp {said}; it should say it once, with {notebook.name!r}"]
    )
    return faults + [
        f"has no module zerohero/{name}.py; run `make export`" for name in notebook.modules if name not in book.modules
    ]


def front_matter_complete(book, notebook):
    matter = notebook.front_matter
    if not matter:
        return ["does not open with a raw cell of YAML front matter between --- lines"]
    faults = [
        f"front matter lacks {key}"
        for key in ("title", "description", "date", "categories", "image", "image-alt")
        if not matter.get(key)
    ]
    if not isinstance(matter.get("date"), datetime.date):
        faults.append(f"front matter has date {matter.get('date')!r}; write it as 2026-01-31")
    if not isinstance(matter.get("categories"), list):
        faults.append("front matter has categories that are not a list; write [one, two]")
    if not (notebook.path.parent / str(matter.get("image"))).is_file():
        faults.append(f"front matter names an image that does not exist: {matter.get('image')}")
    return faults + [
        f"front matter has {key}, with which nbdev passes over the tests" for key in matter if key.startswith("skip_")
    ]


def directives_known(book, notebook):
    """A misspelt directive is silently a comment, and nbdev takes `#| export:` to be about the next line."""
    return [
        f"{notebook.place(cell)} has the unknown directive #| {name}"
        for cell in notebook.code
        for name, _ in directives(cell)
        if name not in DIRECTIVES
    ]


def figures_described(book, notebook):
    faults = []
    for cell in notebook.code:
        kinds = {kind for output in cell["outputs"] for kind in output.get("data", {})}
        drawn = any(
            "<svg" in execute.joined(output["data"]["text/html"])
            for output in cell["outputs"]
            if "text/html" in output.get("data", {})
        )
        if (drawn or any(kind.startswith("image/") for kind in kinds)) and not option(cell, "fig-alt:"):
            faults.append(f"{notebook.place(cell)} shows a figure without #| fig-alt")
    faults += [
        f"shows ![]({target}) without a description" for target in re.findall(r"!\[\s*\]\(([^)]*)\)", notebook.prose)
    ]
    return faults + [
        f"shows {tag} without alt text"
        for tag in re.findall(r"<img\b[^>]*>", notebook.prose)
        if not re.search(r'\balt="[^"]+"', tag)
    ]


def closing_sections(book, notebook):
    found = re.findall(r"^## (.+?)\s*$", notebook.prose, re.M)
    if not notebook.is_chapter or found[-len(CLOSING) :] == CLOSING:
        return []
    return [f"ends with the sections {found[-len(CLOSING) :]}; every chapter ends with {CLOSING}"]


def answers_hidden(book, notebook):
    """Exercises have answers that run, folded on the page and hidden in Jupyter."""
    answers = [cell for cell in notebook.code if option(cell, "code-summary:") == "Answer"]
    faults = [
        f"{notebook.place(cell)} is an answer that shows itself: it needs #| code-fold: true and the metadata jupyter.source_hidden and outputs_hidden"
        for cell in answers
        if option(cell, "code-fold:") != "true" or cell["metadata"].get("jupyter") != HIDDEN
    ]
    return faults + (["has exercises but no answer"] if notebook.is_chapter and not answers else [])


def outputs_presentable(book, notebook):
    faults = []
    for cell in notebook.code:
        for output in cell["outputs"]:
            texts = [
                output.get("text", ""),
                *(value for kind, value in output.get("data", {}).items() if kind.startswith("text/")),
            ]
            text = "".join(map(execute.joined, texts))
            if output["output_type"] == "error":
                faults.append(
                    f"{notebook.place(cell)} shows an error, {output['ename']}; catch it and show what the reader should see"
                )
            elif output.get("name") == "stderr":
                faults.append(f"{notebook.place(cell)} shows warnings or logs: {text.strip()[:60]!r}")
            elif found := MACHINE_PATH.search(text):
                faults.append(
                    f"{notebook.place(cell)} shows a path of the machine that ran it: {text[found.start() :][:60]!r}"
                )
    return faults


def clean_and_fresh(book, notebook):
    return execute.problems(book.root, notebook.path)


def cells_short(book, notebook):
    faults, sizes = [], []
    for cell in notebook.code:
        size = sum(bool(line.strip()) and not line.startswith("#|") for line in cell["source"].splitlines())
        exported = any(name.startswith("export") for name, _ in directives(cell))
        if size > 40 and not exported:
            faults.append(
                f"{notebook.place(cell)} has {size} lines; split it, 40 is the most for a cell that is not exported"
            )
        sizes += [size] if size else []
    if notebook.is_chapter and sizes and statistics.median(sizes) >= 8:
        faults.append(f"has a median of {statistics.median(sizes):g} lines per code cell; it should be under 8")
    return faults


def size_moderate(book, notebook):
    size = notebook.path.stat().st_size
    faults = [f"is {size / 1e6:.1f} MB; 1.5 MB is the most (figures at a lower resolution?)"] if size > 1.5e6 else []
    lines = {name: code_lines(book.modules.get(name, "")) for name in notebook.modules}
    return faults + [
        f"makes zerohero/{name}.py of {count} lines of code; {MODULE_LINES} is the most"
        for name, count in lines.items()
        if count > MODULE_LINES
    ]


def code_lines(source):
    """The number of lines that hold code: blank lines, comments and docstrings explain rather than weigh."""
    tree = ast.parse(source)
    documented = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node)
    ]
    docstrings = {line for node in documented for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in docstrings
        for number, line in enumerate(source.splitlines(), 1)
    )


def code_fits_the_page(book, notebook):
    """Longer lines would scroll sideways on the page."""
    return [
        f"{notebook.place(cell)} has a line of {len(line)} columns; the page shows {PAGE_COLUMNS}: {line.strip()[:50]}"
        for cell in notebook.code
        for line in cell["source"].splitlines()
        if len(line) > PAGE_COLUMNS and not line.startswith("#|")
    ]


def imports_go_back(book, notebook):
    """A chapter uses earlier ones; an exported cell uses no appendix."""
    own, faults = book.notebooks.index(notebook), []
    for cell in notebook.code:
        exported = any(name.startswith("export") for name, _ in directives(cell))
        for module in execute.imported_modules(execute.parse(cell["source"]), "zerohero"):
            order = book.order(module)
            if order is None:
                faults.append(f"{notebook.place(cell)} imports zerohero.{module}, which no notebook makes")
            elif order > own and (exported or book.notebooks[order].is_chapter):
                faults.append(f"{notebook.place(cell)} imports zerohero.{module}, which comes later")
    return faults


def publics_documented(book, notebook):
    faults = []
    for name in notebook.modules:
        for node in ast.parse(book.modules.get(name, "")).body:
            if (
                isinstance(node, (ast.FunctionDef, ast.ClassDef))
                and not node.name.startswith("_")
                and not ast.get_docstring(node)
            ):
                faults.append(f"exports {node.name} without a docstring")
    return faults


# ---- links ----


class Anchors(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.ids = set()
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.ids |= {value for key, value in attributes if key in ("id", "name")}


def without_code(markdown):
    """Markdown without what only looks like a link: code and mathematics."""
    for pattern in (r"^(```+|~~~+).*?^\1", r"(`+)(?!`).*?\1", r"\$\$.*?\$\$", r"\$[^$\n]+\$"):
        markdown = re.sub(pattern, "", markdown, flags=re.M | re.S)
    return markdown


def slug(heading):
    """The anchor that Quarto gives a heading: letters, digits, `_`, `-` and `.`, from the first letter on."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"\s*\{[^}]*\}\s*$", "", heading)).lower()
    return re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", text).strip()))


def anchors(path):
    markdown = Notebook(path).prose if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    markdown = re.sub(r"^(```+|~~~+).*?^\1", "", markdown, flags=re.M | re.S)
    headings = re.findall(r"^#{1,6} (.+?)\s*$", markdown, re.M)
    named = re.findall(r"\{[^}]*#([\w-]+)[^}]*\}", markdown)
    return {slug(heading) for heading in headings} | set(named) | Anchors(markdown).ids


def broken_links(path, markdown):
    markdown = without_code(markdown)
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", markdown) + re.findall(
        r"""\b(?:href|src)=["']([^"']+)["']""", markdown
    )
    for target in targets:
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            continue
        file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not file.exists():
            yield f"links to {target}, which does not exist"
        elif (
            parts.fragment and file.suffix in (".ipynb", ".md", ".qmd") and unquote(parts.fragment) not in anchors(file)
        ):
            yield f"links to {target}, but {file.name} has no such heading"


def links_resolve(book, notebook):
    return list(broken_links(notebook.path, notebook.prose))


# ---- the whole book ----


def notebooks_numbered(book):
    numbers = [notebook.number for notebook in book.notebooks]
    faults = [f"two notebooks have the number {number}" for number in sorted(set(numbers)) if numbers.count(number) > 1]
    ignored = [str(path.relative_to(book.root)) for path in book.root.glob("nbs/.notest")]
    return (
        faults
        + [f"{path} makes nbdev_test pass over the notebooks beside it" for path in ignored]
        + ([] if numbers else ["there is no notebook in nbs"])
    )


def modules_have_notebooks(book):
    return [
        f"zerohero/{name}.py is made by no notebook; delete it or write the notebook"
        for name in book.modules
        if book.order(name) is None
    ]


def names_unique(book):
    owners = {}
    for module, source in book.modules.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__all__"]:
                for name in ast.literal_eval(node.value):
                    owners.setdefault(name, []).append(module)
    owners.pop("main", None)  # every script has one; it is not for import
    return [
        f"{name} is public in {' and '.join(modules)}; give one of them another name"
        for name, modules in owners.items()
        if len(modules) > 1
    ]


def modules_in_sync(book, scratch):
    """Exporting the notebooks into an empty folder gives the modules that are here."""
    for name in (
        "settings.ini",
        "pyproject.toml",
        "zerohero/__init__.py",
        *(f"nbs/{notebook.path.name}" for notebook in book.notebooks),
    ):
        (scratch / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(book.root / name, scratch / name)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/export.py")],
        check=False,
        cwd=scratch,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    if done.returncode:
        return [f"tools/export.py fails: {done.stderr.strip()}"]
    made = {path.name: path.read_text(encoding="utf-8") for path in scratch.glob("zerohero/*.py")}
    here = {path.name: path.read_text(encoding="utf-8") for path in book.root.glob("zerohero/*.py")}
    return [
        f"zerohero/{name} differs from what its notebook exports; run `make export`"
        for name in sorted(made.keys() | here)
        if made.get(name) != here.get(name)
    ]


IMPORT_ALL = """
import importlib, json, sys
report, names = sys.argv[1], sys.argv[2:]
loaded = {}
for name in names:
    before = set(sys.modules)
    importlib.import_module(f"zerohero.{name}")
    loaded[name] = sorted({module.partition(".")[0] for module in set(sys.modules) - before})
open(report, "w").write(json.dumps(loaded))
"""


def imports_quiet_and_light(book, scratch):
    """Importing prints nothing and loads no plotting; the first module needs nothing but Python."""
    library = [
        name for name in book.modules if (order := book.order(name)) is not None and book.notebooks[order].is_chapter
    ]
    first = [name for name in library if name in STANDARD_LIBRARY_ONLY]
    names = first + [name for name in library if name not in first]
    rest = [name for name in book.modules if name not in names]  # last: what they load is theirs to load
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, str(scratch / "report"), *names, *rest],
        check=False,
        cwd=book.root,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(book.root)},
    )
    if done.returncode:
        return [f"importing the modules fails: {done.stderr.strip()}"]
    loaded = json.loads((scratch / "report").read_text())
    faults = [
        f"importing the modules prints {said.strip()[:80]!r}" for said in (done.stdout, done.stderr) if said.strip()
    ]
    for name in names:
        faults += [f"import zerohero.{name} loads {other}" for other in sorted(FOR_READING_ONLY & set(loaded[name]))]
    for name in first:
        foreign = set(loaded[name]) - sys.stdlib_module_names - {"zerohero"}
        faults += [
            f"import zerohero.{name} loads {other}; it should need nothing but the standard library"
            for other in sorted(foreign)
        ]
    return faults


def style_checked(book):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--quiet", "--no-cache", "--output-format", "concise", "."],
        check=False,
        cwd=book.root,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip().splitlines() + done.stderr.strip().splitlines()


def nothing_unfinished(book):
    faults = []
    for path in book.files:
        content = path.read_bytes()
        if b"\0" in content or path.name == "requirements.lock":
            continue
        text = (
            "\n".join(cell["source"] for cell in Notebook(path).cells) if path.suffix == ".ipynb" else content.decode()
        )
        name = path.relative_to(book.root).as_posix()
        faults += [
            f"{name}, line {text.count(chr(10), 0, found.start()) + 1}: {found[0]!r}"
            for found in UNFINISHED.finditer(text)
        ]
    return faults


def documents_link_right(book):
    paths = [path for path in book.files if path.suffix in (".md", ".qmd")]
    return [
        f"{path.relative_to(book.root).as_posix()} {fault}"
        for path in paths
        for fault in broken_links(path, path.read_text(encoding="utf-8"))
    ]


def strings(tree):
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, (dict, list)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from strings(branch)


def site_lists_notebooks(book):
    """The sidebar has every notebook, in order, and the page of contents links to every chapter."""
    config = yaml.safe_load((book.root / "_quarto.yml").read_text(encoding="utf-8"))
    listed = [name for name in strings(config["website"]["sidebar"]) if name.endswith(".ipynb")]
    expected = [f"nbs/{notebook.path.name}" for notebook in book.notebooks]
    faults = [] if listed == expected else [f"_quarto.yml lists {listed} in its sidebar; the notebooks are {expected}"]
    home = {name: (book.root / name).read_text(encoding="utf-8") for name in ("index.qmd", "README.md")}
    return faults + [
        f"{name} does not link to {path}" for name, text in home.items() for path in expected if f"({path})" not in text
    ]


def packaging_agrees(book):
    """The lock satisfies what pyproject.toml asks for, and the version is the same everywhere."""
    project = tomllib.loads((book.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (book.root / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    faults = [
        f"requirements.lock does not pin {pin}"
        for pin in pins
        if not re.fullmatch(r"==[\w.!+]+", str(pin.specifier)) or pin.url
    ]
    wanted = [
        Requirement(text)
        for group in [project["dependencies"], *project["optional-dependencies"].values()]
        for text in group
    ]
    for need in wanted:
        versions = [str(pin.specifier).removeprefix("==") for pin in pins if pin.name == need.name]
        if not versions or not all(need.specifier.contains(version) for version in versions):
            faults.append(
                f"requirements.lock has {need.name} {versions or 'nowhere'}, but pyproject.toml asks for {need}"
            )
    said = {
        name: re.findall(
            r"""^(?:__)?version(?:__)? = ["']?([\w.]+)""", (book.root / name).read_text(encoding="utf-8"), re.M
        )
        for name in ("settings.ini", "zerohero/__init__.py")
    }
    return faults + (
        [] if len(set(map(tuple, said.values()))) == 1 else [f"the version is not the same everywhere: {said}"]
    )


def help_complete(book):
    text = (book.root / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\.PHONY:(.*)", text, re.M)[0].split()
    explained = re.findall(r"^make ([\w-]+) +\S", text, re.M)
    private = {"data", "verified", "export"}  # steps of the others
    return [f"`make help` does not explain {target}" for target in targets if target not in {*explained, *private}] + [
        f"`make help` explains {target}, which is no target" for target in explained if target not in targets
    ]


NOTEBOOK_RULES = [
    names_agree,
    front_matter_complete,
    directives_known,
    figures_described,
    closing_sections,
    answers_hidden,
    outputs_presentable,
    clean_and_fresh,
    cells_short,
    size_moderate,
    code_fits_the_page,
    imports_go_back,
    publics_documented,
    links_resolve,
]
BOOK_RULES = [
    notebooks_numbered,
    modules_have_notebooks,
    names_unique,
    style_checked,
    nothing_unfinished,
    documents_link_right,
    site_lists_notebooks,
    packaging_agrees,
    help_complete,
]
SCRATCH_RULES = [modules_in_sync, imports_quiet_and_light]  # these need an empty folder to work in
BOOK = Book(ROOT)


def apply(rule, book, scratch):
    """All the faults a rule finds in a book."""
    if rule in NOTEBOOK_RULES:
        return [f"{notebook.label}: {fault}" for notebook in book.notebooks for fault in rule(book, notebook)]
    return rule(book, scratch) if rule in SCRATCH_RULES else rule(book)


def report(faults):
    return "\n".join(["", *faults])


@pytest.mark.parametrize("notebook", BOOK.notebooks, ids=lambda notebook: notebook.label)
@pytest.mark.parametrize("rule", NOTEBOOK_RULES, ids=lambda rule: rule.__name__)
def test_notebook(rule, notebook):
    faults = rule(BOOK, notebook)
    assert not faults, report(faults)


@pytest.mark.parametrize("rule", BOOK_RULES + SCRATCH_RULES, ids=lambda rule: rule.__name__)
def test_book(rule, tmp_path):
    faults = apply(rule, BOOK, tmp_path)
    assert not faults, report(faults)


# ---- do the rules find what they are for? ----

PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
        "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
    )
).decode()
FRONT = '---\ntitle: "{0}"\ndescription: "About {0}."\ndate: 2026-01-31\ncategories: [{0}]\nimage: images/dot.png\nimage-alt: "A dot."\n---'


def cell(kind, source, *outputs, **metadata):
    extra = {"outputs": list(outputs), "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "source": source, "metadata": metadata, **extra}


def write_chapter(root, stem, exported, prose, *more):
    name, function = stem.partition("-")[2], re.search(r"def (\w+)", exported)[1]
    figure = {"output_type": "display_data", "metadata": {}, "data": {"image/png": PNG, "text/plain": ["<Figure>"]}}
    cells = [
        cell("raw", FRONT.format(name)),
        cell("markdown", prose),
        cell("code", f"#| default_exp {name}"),
        cell("code", f"#| export\n{exported}"),
        *(cell("code", source) for source in more),
        cell("code", f'#| fig-alt: "A dot."\n{function}(1)', figure),
        *(cell("markdown", f"## {title}\n\nWords.") for title in CLOSING[:4]),
        cell("code", f'#| code-fold: true\n#| code-summary: "Answer"\nassert {function}(2) > 0', jupyter=HIDDEN),
        *(cell("markdown", f"## {title}\n\nWords.") for title in CLOSING[4:]),
    ]
    save(root, stem, execute.clean({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))


def save(root, stem, notebook):
    execute.write(root / f"nbs/{stem}.ipynb", execute.dump(notebook))


def stamp(root):
    for path in root.glob("nbs/*.ipynb"):
        execute.write_freeze(root, path.name, execute.state(root, execute.clean(execute.load(path))))


@pytest.fixture(scope="session")
def sound_book(tmp_path_factory):
    """A book of two chapters and an appendix with which nothing is wrong."""
    root = tmp_path_factory.mktemp("sound") / "book"
    for name in ("nbs/images", "zerohero"):
        (root / name).mkdir(parents=True)
    for name in (
        "settings.ini",
        "pyproject.toml",
        "ruff.toml",
        "Makefile",
        "requirements.lock",
        "zerohero/__init__.py",
    ):
        shutil.copyfile(ROOT / name, root / name)
    (root / "nbs/images/dot.png").write_bytes(base64.b64decode(PNG))
    write_chapter(
        root,
        "00-autograd",
        'import math\n\n\ndef size(x):\n    """How large `x` is."""\n    return math.fabs(x)',
        "See [the other](01-beta.ipynb#the-sum-of-x) and ![a dot](images/dot.png).",
    )
    write_chapter(
        root,
        "01-beta",
        'from zerohero.autograd import size\n\n\ndef double(x):\n    """Twice `x`."""\n    return 2 * size(x)',
        "## The *sum* of `x`\n\nBack to [the first](00-autograd.ipynb).",
        '#| export gamma\n#| code-fold: true\ndef treble(x):\n    """Thrice `x`."""\n    return 3 * x',
    )
    write_chapter(root, "90-plot", 'def frame(x):\n    """A frame around `x`."""\n    return [x]', "Pictures.")
    names = [f"nbs/{path.name}" for path in sorted(root.glob("nbs/*.ipynb"))]
    for name in ("index.qmd", "README.md"):
        (root / name).write_text("# Book\n\n" + "\n".join(f"[a chapter]({path})" for path in names) + "\n")
    (root / "_quarto.yml").write_text(yaml.safe_dump({"website": {"sidebar": {"contents": names}}}))
    for _ in range(2):  # what is exported again is not there twice
        subprocess.run([sys.executable, str(ROOT / "tools/export.py")], check=True, cwd=root)
    stamp(root)
    return root


@pytest.mark.parametrize("rule", NOTEBOOK_RULES + BOOK_RULES + SCRATCH_RULES, ids=lambda rule: rule.__name__)
def test_rule_accepts_a_sound_book(rule, sound_book, tmp_path):
    faults = apply(rule, Book(sound_book), tmp_path)
    assert not faults, report(faults)


def swap(name, old, new):
    """A break: replaces `old` by `new` in the file `name`."""

    def change(root):
        text = (root / name).read_text(encoding="utf-8")
        assert old in text, f"{name} does not contain {old!r}"
        (root / name).write_text(text.replace(old, new), encoding="utf-8")

    return change


def add(name, text):
    def change(root):
        (root / name).parent.mkdir(exist_ok=True)
        with open(root / name, "a", encoding="utf-8") as file:
            file.write(text)

    return change


def rename(old, new):
    return lambda root: (root / old).rename(root / new)


def show(*outputs):
    """A break: makes the figure cell of the first chapter show `outputs`."""

    def change(root):
        notebook = execute.load(root / "nbs/00-autograd.ipynb")
        notebook["cells"][4]["outputs"] = list(outputs)
        save(root, "00-autograd", notebook)

    return change


def stream(name, text):
    return {"output_type": "stream", "name": name, "text": [text]}


FIRST, SECOND, PLOT = "nbs/00-autograd.ipynb", "nbs/01-beta.ipynb", "nbs/90-plot.ipynb"
BREAKS = [
    (names_agree, swap(FIRST, "default_exp autograd", "default_exp autogard"), "says default_exp ['autogard']"),
    (names_agree, rename(FIRST, "nbs/0-autograd.ipynb"), "is not named like"),
    (names_agree, rename("zerohero/beta.py", "zerohero/gamma.py"), "has no module zerohero/beta.py"),
    (names_agree, swap(SECOND, "#| export\\n", "#| export train_beta\\n"), "has no module zerohero/train_beta.py"),
    (front_matter_complete, swap(FIRST, "---", "==="), "does not open with"),
    (front_matter_complete, swap(FIRST, "description:", "descriptoin:"), "lacks description"),
    (front_matter_complete, swap(FIRST, 'image-alt: \\"A dot.\\"', 'image-alt: \\"\\"'), "lacks image-alt"),
    (front_matter_complete, swap(FIRST, "2026-01-31", "January"), "date 'January'"),
    (front_matter_complete, swap(FIRST, "[autograd]", "autograd"), "not a list"),
    (
        front_matter_complete,
        swap(FIRST, "image: images/dot.png", "image: images/dash.png"),
        "does not exist: images/dash.png",
    ),
    (front_matter_complete, swap(FIRST, "date:", "skip_exec: true\\ndate:"), "skip_exec"),
    (directives_known, swap(FIRST, "#| export", "#| export:"), "unknown directive #| export:"),
    (directives_known, swap(FIRST, "#| fig-alt:", "#| figalt:"), "unknown directive #| figalt:"),
    (figures_described, swap(FIRST, "#| fig-alt:", "#| fig-cap:"), "without #| fig-alt"),
    (figures_described, swap(FIRST, 'fig-alt: \\"A dot.\\"', 'fig-alt: \\"\\"'), "without #| fig-alt"),
    (figures_described, swap(FIRST, "![a dot]", "![ ]"), "images/dot.png"),
    (figures_described, swap(FIRST, "![a dot](images/dot.png)", "<img src='images/dot.png'>"), "without alt text"),
    (closing_sections, swap(FIRST, "## Summary", "## In short"), "In short"),
    (closing_sections, swap(FIRST, "## Next", "### Next"), "ends with the sections"),
    (answers_hidden, swap(FIRST, "code-fold: true", "code-fold: false"), "shows itself"),
    (answers_hidden, swap(FIRST, '"source_hidden": true', '"source_hidden": false'), "shows itself"),
    (answers_hidden, swap(FIRST, '"outputs_hidden": true', '"outputs_hidden": false'), "shows itself"),
    (answers_hidden, swap(FIRST, "Answer", "Solution"), "no answer"),
    (
        outputs_presentable,
        show({"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}),
        "shows an error, ValueError",
    ),
    (outputs_presentable, show(stream("stderr", "UserWarning: careful")), "UserWarning"),
    (outputs_presentable, show(stream("stdout", "saved /home/ada/book")), "shows a path of the machine"),
    (outputs_presentable, show(stream("stdout", "C:\\Users\\ada")), "shows a path of the machine"),
    (clean_and_fresh, swap(FIRST, '"execution_count": null', '"execution_count": 7'), "not clean"),
    (clean_and_fresh, swap(FIRST, "return math.fabs(x)", "return math.fabs(2 * x)"), "its code changed"),
    (
        clean_and_fresh,
        swap("zerohero/autograd.py", "math.fabs(x)", "math.fabs(2 * x)"),
        "01-beta: zerohero.autograd changed",
    ),
    (clean_and_fresh, show(stream("stdout", "another result")), "its outputs changed"),
    (clean_and_fresh, lambda root: (root / "nbs/_freeze.json").unlink(), "never run"),
    (cells_short, swap(FIRST, "assert size(2)", "x = 1\\n" * 41 + "assert size(2)"), "has 42 lines"),
    (cells_short, swap(FIRST, "size(", "x = 1\\n" * 9 + "size("), "median"),
    (code_fits_the_page, swap(FIRST, "return math.fabs(x)", "return math.fabs(x)" + " + 0" * 20), "has a line of"),
    (size_moderate, swap(FIRST, PNG, PNG + "A" * 1_500_000), "is 1.5 MB"),
    (size_moderate, add("zerohero/beta.py", "x = 1\n" * 401), "zerohero/beta.py of 4"),
    (
        imports_go_back,
        swap(FIRST, "import math", "from zerohero.beta import double"),
        "zerohero.beta, which comes later",
    ),
    (imports_go_back, swap(FIRST, "import math", "from zerohero import plot"), "zerohero.plot, which comes later"),
    (imports_go_back, swap(SECOND, "zerohero.autograd", "zerohero.utils"), "zerohero.utils, which no notebook makes"),
    (publics_documented, swap("zerohero/beta.py", '    """Twice `x`."""\n', ""), "double without a docstring"),
    (
        links_resolve,
        swap(FIRST, "(01-beta.ipynb#", "(02-beta.ipynb#"),
        "02-beta.ipynb#the-sum-of-x, which does not exist",
    ),
    (links_resolve, swap(SECOND, "The *sum* of `x`", "The product"), "no such heading"),
    (links_resolve, swap(FIRST, "Words.", "[above](#nowhere)"), "#nowhere"),
    (links_resolve, swap(FIRST, "Words.", "<script src='../widgets/none.js'></script>"), "widgets/none.js"),
    (
        notebooks_numbered,
        lambda root: shutil.copy(root / SECOND, root / "nbs/00-beta.ipynb"),
        "two notebooks have the number 00",
    ),
    (notebooks_numbered, add("nbs/.notest", ""), "pass over the notebooks"),
    (notebooks_numbered, lambda root: [path.unlink() for path in root.glob("nbs/*.ipynb")], "no notebook"),
    (modules_have_notebooks, add("zerohero/helpers.py", ""), "zerohero/helpers.py is made by no notebook"),
    (names_unique, swap("zerohero/beta.py", "['double']", "['double', 'size']"), "size is public in autograd and beta"),
    (style_checked, add("tools/odd.py", "import os\n"), "F401"),
    (style_checked, swap(FIRST, "import math", "import math, os"), "nbs/00-autograd.ipynb"),
    (nothing_unfinished, add("tools/odd.py", "# " + "TO" + "DO: more\n"), "tools/odd.py, line 1"),
    (nothing_unfinished, swap(FIRST, "Words.", "FIX" + "ME"), "nbs/00-autograd.ipynb"),
    (documents_link_right, add("README.md", "[guide](guide.md)"), "README.md links to guide.md"),
    (documents_link_right, add("index.qmd", "[x](nbs/01-beta.ipynb#x)"), "no such heading"),
    (site_lists_notebooks, swap("_quarto.yml", "- nbs/01-beta.ipynb\n", ""), "in its sidebar"),
    (site_lists_notebooks, swap("README.md", SECOND, FIRST), "README.md does not link to nbs/01-beta.ipynb"),
    (packaging_agrees, swap("requirements.lock", "torch==2", "torch==1"), "has torch"),
    (packaging_agrees, swap("requirements.lock", "tqdm==", "tqdm>="), "does not pin tqdm"),
    (packaging_agrees, swap("requirements.lock", "nbclient==", "nbcleint=="), "has nbclient nowhere"),
    (packaging_agrees, swap("settings.ini", "version = ", "version = 9"), "not the same everywhere"),
    (help_complete, swap("Makefile", ".PHONY: ", ".PHONY: deploy "), "does not explain deploy"),
    (help_complete, swap("Makefile", ".PHONY: book ", ".PHONY: "), "explains book"),
    (modules_in_sync, swap("zerohero/beta.py", "2 * size", "3 * size"), "zerohero/beta.py differs"),
    (modules_in_sync, add("zerohero/helpers.py", ""), "zerohero/helpers.py differs"),
    (modules_in_sync, swap("zerohero/gamma.py", "3 * x", "4 * x"), "zerohero/gamma.py differs"),
    (imports_quiet_and_light, add("zerohero/beta.py", "print('hello')\n"), "prints 'hello'"),
    (imports_quiet_and_light, add("zerohero/beta.py", "import matplotlib\n"), "import zerohero.beta loads matplotlib"),
    (imports_quiet_and_light, add("zerohero/autograd.py", "import tqdm\n"), "import zerohero.autograd loads tqdm"),
    (imports_quiet_and_light, add("zerohero/beta.py", "import nowhere\n"), "fails"),
]


@pytest.mark.parametrize(
    ("rule", "change", "expected"), BREAKS, ids=[f"{rule.__name__}-{expected[:30]}" for rule, _, expected in BREAKS]
)
def test_rule_finds(rule, change, expected, sound_book, tmp_path):
    root = tmp_path / "book"
    shutil.copytree(sound_book, root)
    change(root)
    (tmp_path / "scratch").mkdir()
    faults = apply(rule, Book(root), tmp_path / "scratch")
    assert any(expected in fault for fault in faults), report(faults)


def test_every_rule_is_shown_to_find_something():
    assert {rule for rule, _, _ in BREAKS} == {*NOTEBOOK_RULES, *BOOK_RULES, *SCRATCH_RULES}


def test_what_a_cell_tells_the_page_stays_out_of_the_module(sound_book):
    assert "code-fold" in (sound_book / "nbs/01-beta.ipynb").read_text(encoding="utf-8")
    assert "#|" not in (sound_book / "zerohero/gamma.py").read_text(encoding="utf-8")


def test_anchors_follow_quarto():
    assert [
        slug(text)
        for text in (
            "Two mistakes, and what they teach",
            "2. `Value`: a *number*",
            "[Loss](x.md) in ln 27",
            "A b {#id}",
        )
    ] == ["two-mistakes-and-what-they-teach", "value-a-number", "loss-in-ln-27", "a-b"]


def test_links_in_code_and_mathematics_are_not_links():
    assert list(broken_links(ROOT / "README.md", "`f[x](y)` and $g[1](2)$\n\n```\n[a](b)\n```\n")) == []
