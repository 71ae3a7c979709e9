"""Render the book into `_site`: with Quarto where it is installed, with smalldocs elsewhere.

Both read the same `_quarto.yml`. The work happens in a temporary copy of the sources, so the working tree
stays as it was, and the finished site replaces the old one in one rename.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, NamedTuple

SOURCES = "_quarto.yml", "index.qmd", "settings.ini", "nbs", "site", "widgets"
# a page that links to a file in one of these gets a copy of it
LINKED = "benchmarks", "results", "runs", "tests", "tools", "zerohero"
STAMP = ".zerohero-site"  # marks a folder as ours to replace, and holds the hash of what it was rendered from
KATEX_CDN = re.compile(r"https://cdn\.jsdelivr\.net/npm/katex@[^/\"']+/dist/")
GPT2_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"  # of vocab.bpe, as in zerohero.data
# smalldocs says of these keys, which only Quarto reads, that it leaves them out.
QUARTO_ONLY = re.compile(r"theme site/theme(-dark)?\.scss|.*\b(html-math-method|ipynb-filters|execute\.enabled)\b")


class SiteError(Exception):
    """The site cannot be built; the message says why and what to do."""


class Package(NamedTuple):
    """What the site takes from the npm registry: a pinned package, and of its files those that `wanted` matches,
    under the name of its first group."""

    name: str
    version: str
    sha256: str  # of the archive that the registry delivers
    wanted: re.Pattern
    without: str  # what becomes of the pages if it is not to be had

    @property
    def folder(self):
        """Its name in the cache, and that of its archive."""
        return f"{self.name.replace('@', '').replace('/', '-')}-{self.version}"


class Face(NamedTuple):
    """A font of the book: how styles.css calls it, and the package that carries it. Each file holds all weights of
    the upright or of the italic letters of some scripts; browsers fetch those that a page needs."""

    family: str
    package: Package


# Beyond these scripts, as in the chapter on tokenizers, letters are the reader's own system's.
FONT_FILES = re.compile(
    r"package/((?:files/)?(?:[\w-]+-(?:latin|latin-ext|greek|cyrillic)-wght-(?:normal|italic)\.woff2|LICENSE|wght(?:-italic)?\.css))"
)
FONT_RULE = re.compile(r"@font-face \{.*?\n\}", re.S)
KATEX = Package(
    "katex",
    "0.16.47",
    "ad2d1ab2f7fcc227019784320e8a2c5218ff6bb333b36df4136d10365ae29375",
    re.compile(r"package/dist/((?:katex\.min\.(?:css|js)|contrib/auto-render\.min\.js|fonts/[\w-]+\.woff2))"),
    "pages will load their mathematics from a CDN",
)
SYSTEM_FONT = "pages will use a font of the reader's system"
FACES = [
    Face(family, Package(f"@fontsource-variable/{name}", "5.3.1", sha256, FONT_FILES, SYSTEM_FONT))
    for family, name, sha256 in (
        ("Source Serif 4", "source-serif-4", "8c452853c74be1e43e9fbfe76321c26f4678a2d431e93209ff1d9faec03fd96f"),
        ("Source Sans 3", "source-sans-3", "dfa23bee63f9cc5c2871149a453215093bd8f1b694a5c1d999ecdc7560435fcf"),
        ("Source Code Pro", "source-code-pro", "1dcc7f2c5f4cae190ed582852a0180eebe87084cac9d06de7429e44c31a39a38"),
    )
]


def source_files(root):
    """The files the site is made of, relative to `root`, in a fixed order."""
    missing = [name for name in SOURCES if not (root / name).exists()]
    if missing:
        raise SiteError(f"{root} has no {', '.join(missing)}; run from a checkout of the book or pass --root")
    found = [
        path.relative_to(root)
        for name in SOURCES + LINKED
        for path in sorted([root / name, *(root / name).rglob("*")])
        if path.is_file()
    ]
    private = ".", "_"  # caches, checkpoints, the record of executed notebooks
    return [
        path
        for path in found
        if not path.name.endswith(".test.js") and not any(part.startswith(private) for part in path.parts[1:])
    ]


def fingerprint(root, files, renderer, packages, gpt2):
    """A hash of everything that decides what the site looks like."""
    carried = [package.folder for package, folder in packages.items() if folder]
    digest = hashlib.sha256(f"{renderer} {carried} gpt2={bool(gpt2)}".encode())
    digest.update(Path(__file__).read_bytes())
    for file in files:
        digest.update(f"\0{file.as_posix()}\0".encode() + (root / file).read_bytes())
    return digest.hexdigest()


def find_renderer():
    """The renderer's name and version, and the path of `quarto` where it is that one."""
    if quarto := shutil.which("quarto"):
        version = subprocess.run([quarto, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        return f"quarto {version}", quarto
    if importlib.util.find_spec("smalldocs"):
        return f"smalldocs {importlib.metadata.version('smalldocs')} nbdev {importlib.metadata.version('nbdev')}", None
    if sys.version_info < (3, 11):
        raise SiteError(
            f"Python {sys.version_info.major}.{sys.version_info.minor} cannot render the book: without Quarto that takes smalldocs, "
            "which needs Python 3.11. Install Quarto (https://quarto.org) or use a newer Python; reading and testing work as they are."
        )
    raise SiteError(
        "neither Quarto nor smalldocs is installed; `pip install -r requirements.lock`, or install Quarto (https://quarto.org)"
    )


def fetch(package, say):
    """The folder with the package's files, from the cache or through npm; None where npm cannot deliver them."""
    import platformdirs

    cached = platformdirs.user_cache_path("zerohero") / package.folder
    if cached.is_dir():
        return cached
    npm = shutil.which("npm")
    if not npm:
        say(f"{package.name}: npm is not installed, so {package.without}")
        return None
    say(f"{package.name}: fetching version {package.version} through npm")
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent) as temp:
        command = [npm, "pack", f"{package.name}@{package.version}", "--fetch-retries=1", "--fetch-timeout=60000"]
        done = subprocess.run(command, check=False, cwd=temp, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            say(f"{package.name}: npm could not fetch it, so {package.without} ({reason})")
            return None
        archive = Path(temp, f"{package.folder}.tgz")
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != package.sha256:
            raise SiteError(
                f"npm delivered a {archive.name} with sha256 {found}, expected {package.sha256}; check the registry npm is configured to use"
            )
        unpacked = Path(temp, "unpacked")
        with tarfile.open(archive) as tar:
            for member in tar:
                if wanted := package.wanted.fullmatch(member.name):
                    target = unpacked / wanted[1]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(tar.extractfile(member).read())
        with contextlib.suppress(OSError):  # another process was first
            unpacked.rename(cached)
    return cached


def find_gpt2(say):
    """GPT-2's merges out of the data folder; None where they are not there, or damaged."""
    import platformdirs

    folder = os.environ.get("ZEROHERO_DATA") or platformdirs.user_cache_dir("zerohero", appauthor=False)
    file = Path(folder).expanduser() / "vocab.bpe"
    if file.is_file() and hashlib.sha256(content := file.read_bytes()).hexdigest() == GPT2_SHA256:
        return content
    say("tokenizer: GPT-2's merges are not in the data folder, so the figure leaves GPT-2 out")
    return None


def render_with_quarto(stage, quarto):
    """Let Quarto render `stage`; it finds nbdev_filter next to the running Python."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [quarto, "render"], check=False, cwd=stage, env={**os.environ, "PATH": path, "QUARTO_PYTHON": sys.executable}
    )
    if done.returncode:
        raise SiteError(f"quarto render failed with exit code {done.returncode}; its own message is above")


def render_with_smalldocs(stage, say):
    """Do to each notebook what Quarto's `ipynb-filters` would, then let smalldocs render `stage`."""
    from nbdev.cli import nbdev_filter
    from smalldocs.config import BuildError, ConfigError
    from smalldocs.site import build

    notebooks = sorted(stage.glob("nbs/*.ipynb"))
    with contextlib.chdir(stage):  # nbdev looks for settings.ini from the working folder upwards
        for n, notebook in enumerate(notebooks, 1):
            say(f"[{n}/{len(notebooks)}] {notebook.name}")
            notebook.write_text(
                nbdev_filter(nb_txt=notebook.read_text(encoding="utf-8"), printit=False), encoding="utf-8", newline="\n"
            )
    try:
        site = build(stage, quiet=True)
    except (BuildError, ConfigError) as error:
        raise SiteError(f"smalldocs: {error}") from error
    warnings = [warning for warning in site.warnings if not QUARTO_ONLY.match(warning)]
    if broken := [warning for warning in warnings if "broken link" in warning]:
        raise SiteError("the book has broken links:\n  " + "\n  ".join(broken))
    for warning in warnings:
        say(f"warning: {warning}")


def use_local_katex(site, katex):
    """Copy KaTeX into the site and point every page at the copy."""
    shutil.copytree(katex, site / "site_libs/katex", dirs_exist_ok=True)
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        local = posixpath.relpath("site_libs/katex", page.parent.relative_to(site).as_posix()) + "/"
        if (changed := KATEX_CDN.sub(local, text)) != text:
            page.write_text(changed, encoding="utf-8", newline="\n")


def use_own_fonts(site, fonts):
    """Copy the book's fonts into the site and name them in its style sheet. `fonts` has the folder of each face."""
    rules = []
    for face, folder in fonts.items():
        own = site / "site_libs/fonts" / folder.name
        own.mkdir(parents=True)
        shutil.copyfile(folder / "LICENSE", own / "LICENSE")
        for rule in FONT_RULE.findall(
            "".join(sheet.read_text(encoding="utf-8") for sheet in sorted(folder.glob("*.css")))
        ):
            file = re.search(r"url\(\./(files/[\w-]+\.woff2)\)", rule)[1]
            if (folder / file).is_file():
                shutil.copyfile(folder / file, own / Path(file).name)
                rule = rule.replace(f"./{file}", f"../site_libs/fonts/{folder.name}/{Path(file).name}")
                rules.append(re.sub(r"(?<=font-family: )[^;]+", f'"{face.family}"', rule))
    sheet = site / "site/styles.css"
    sheet.write_text("\n".join([*rules, sheet.read_text(encoding="utf-8")]), encoding="utf-8", newline="\n")


def offer_gpt2(site, merges):
    """Put GPT-2's merges beside the tokenizer's figure, and tell the figure. They are OpenAI's, so the book has no copy."""
    data = site / "widgets/tokenizer.json"
    if data.is_file():
        (site / "widgets/gpt2.txt").write_bytes(merges)
        content = json.loads(data.read_text(encoding="utf-8")) | {"gpt2": "gpt2.txt"}
        data.write_text(json.dumps(content), encoding="utf-8")


def swap(new, output):
    """Put the folder `new` in the place of `output`."""
    incoming, outgoing = (output.with_name(f"{output.name}.{kind}") for kind in ("new", "old"))
    for left_over in (incoming, outgoing):
        shutil.rmtree(left_over, ignore_errors=True)
    shutil.copytree(new, incoming)
    if output.exists():
        output.rename(outgoing)
    incoming.rename(output)
    shutil.rmtree(outgoing, ignore_errors=True)


def render(root, output, say=print):
    """Render the book at `root` into `output` unless it is up to date; returns whether it rendered."""
    if output.exists() and not (output.is_dir() and ((output / STAMP).exists() or not any(output.iterdir()))):
        raise SiteError(f"{output} exists and is not a rendered site; move it away or give another --output")
    renderer, quarto = find_renderer()
    packages = {package: fetch(package, say) for package in (KATEX, *(face.package for face in FACES))}
    gpt2 = find_gpt2(say)
    files = source_files(root)
    stamp = fingerprint(root, files, renderer, packages, gpt2)
    if (output / STAMP).is_file() and (output / STAMP).read_text() == stamp:
        say(f"{output.name} is up to date")
        return False
    say(f"rendering with {renderer.split(' nbdev')[0]}")
    with tempfile.TemporaryDirectory(prefix="zerohero-site-") as temp:
        stage = Path(temp).resolve()
        for file in files:
            (stage / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / file, stage / file)
        if quarto:
            render_with_quarto(stage, quarto)
        else:
            render_with_smalldocs(stage, say)
        site = stage / "_site"
        if katex := packages[KATEX]:
            use_local_katex(site, katex)
        use_own_fonts(site, {face: folder for face in FACES if (folder := packages[face.package])})
        if gpt2:
            offer_gpt2(site, gpt2)
        (site / STAMP).write_text(stamp)
        output.parent.mkdir(parents=True, exist_ok=True)
        swap(site, output)
    say(f"wrote {sum(1 for _ in output.rglob('*.html'))} pages to {output}")
    return True


class Handler(SimpleHTTPRequestHandler):
    """Static files with the types browsers insist on, whatever the machine's own table says."""

    extensions_map: ClassVar = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".css": "text/css",
        ".json": "application/json",
        ".svg": "image/svg+xml",
        ".woff2": "font/woff2",
        ".py": "text/plain; charset=utf-8",
    }

    def end_headers(self):
        self.send_header("Cache-Control", "no-store")  # a reload after a new render must show it
        super().end_headers()

    def log_message(self, *args):
        """Say nothing per request: the address is what the reader needs to see."""


class Server(ThreadingHTTPServer):
    allow_reuse_address = os.name != "nt"  # Windows would let two servers share a port


def server(folder, port):
    """An HTTP server for `folder` on the loopback interface; port 0 picks a free one."""
    try:
        return Server(("127.0.0.1", port), partial(Handler, directory=str(folder)))
    except OSError as error:
        raise SiteError(f"port {port} cannot be opened ({error.strerror}); choose another with --port") from error


def main(argv=None):
    parser = argparse.ArgumentParser(
        description="Render the book into a website; does nothing when the website is up to date."
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).parents[1],
        help="the checkout to render (default: the one this script is in)",
    )
    parser.add_argument("--output", type=Path, help="folder to write (default: _site in the checkout)")
    parser.add_argument("--serve", action="store_true", help="then serve the website on this machine")
    parser.add_argument("--port", type=int, default=8000, help="port to serve on (default 8000; 0 picks a free one)")
    args = parser.parse_args(argv)
    root = args.root.resolve()
    output = (args.output or root / "_site").resolve()
    try:
        render(root, output, partial(print, flush=True))
        if args.serve:
            with server(output, args.port) as httpd:
                print(f"the book is at http://127.0.0.1:{httpd.server_port}/ (Ctrl-C closes it)", flush=True)
                with contextlib.suppress(KeyboardInterrupt):
                    httpd.serve_forever()
    except SiteError as error:
        print(f"site: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
