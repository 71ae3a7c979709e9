"""The rendered pages, in a real browser: what a reader sees, at a desk and on a phone, in light and in dark."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import nbformat
import pytest
import yaml
from conftest import eventually, start_chrome, tool

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(ROOT.glob("nbs/*.ipynb"))
CHAPTERS = [path for path in NOTEBOOKS if int(path.stem[:2]) < 90]
PAGES = ["index.html", *(f"nbs/{path.stem}.html" for path in NOTEBOOKS)]
WIDGETS = {
    f"nbs/{path.stem}.html": names
    for path in NOTEBOOKS
    if (names := re.findall(r'data-widget=\\?"([\w-]+)', path.read_text(encoding="utf-8")))
}
DESK, PHONE = (1280, 900), (390, 844)
CDN = "cdn.jsdelivr.net"


def run_tool(*args, **kwargs):
    return subprocess.run(
        [sys.executable, str(ROOT / "tools/site.py"), *map(str, args)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        **kwargs,
    )


def render(folder):
    done = run_tool("--output", folder / "_site")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout, done.stdout


@pytest.fixture(scope="session")
def rendered(made_once):
    """The site, rendered once into a temporary folder."""
    if sys.version_info < (3, 11) and not shutil.which("quarto"):
        pytest.skip("rendering needs Quarto, or smalldocs on Python 3.11")
    return made_once("rendered", render) / "_site"


@pytest.fixture(scope="session")
def address(rendered):
    """Where the site is served, on the loopback interface."""
    with tool.server(rendered, 0) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()


def resize(chrome, size):
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    chrome.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


@pytest.fixture
def visit(chrome, address):
    """Open a page as a new reader would: nothing stored, a given window, a system set to light or dark."""

    def open_page(page, size=DESK, scheme="light"):
        chrome.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        chrome.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": address.rstrip("/"), "storageTypes": "all"})
        chrome.get("about:blank")
        for kind in ("performance", "browser"):
            chrome.get_log(kind)  # what an earlier page left
        chrome.get(address + page)
        chrome.execute_async_script(SETTLE)
        return chrome

    return open_page


def arrives(chrome, page):
    eventually(lambda: chrome.current_url.endswith(page), f"the browser is on {page}")


def uses_cdn(rendered, page):
    return CDN in (rendered / page).read_text(encoding="utf-8")


# Load what waits for scrolling, open what is folded, and let images, fonts and widgets arrive.
SETTLE = """
const done = arguments[arguments.length - 1];
(async () => {
  for (const img of document.images) { img.loading = "eager"; await img.decode().catch(() => 0); }
  await document.fonts.ready;
  for (let n = 0; n < 60 && document.querySelector(".zh-widget > img"); n++) await new Promise(r => setTimeout(r, 50));
  await new Promise(r => setTimeout(r, 100));
  done();
})();"""

UNFOLD = """
document.querySelectorAll("details").forEach(d => d.open = true);
document.querySelectorAll("main .collapse").forEach(c => c.classList.add("show"));"""

# Elements that stick out of the window and that no box around them lets the reader scroll to.
CUT_OFF = """
const scrolls = e => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
return [...document.querySelectorAll("main *, header *")].filter(e => {
  const r = e.getBoundingClientRect();
  if (!r.width || !r.height || r.right <= innerWidth + 1 && r.left >= -1 || e.closest(".katex-mathml, .katex .hide-tail")) return false;
  for (let p = e.parentElement; p; p = p.parentElement) if (scrolls(p)) return false;
  return true;
}).map(e => e.outerHTML.slice(0, 120));"""

# Every visible text with less contrast than WCAG AA asks for: 4.5, or 3 for large letters.
CONTRAST = r"""
const context = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d", {willReadFrequently: true});
const known = new Map();
const rgba = color => {
  if (!known.has(color)) {
    context.clearRect(0, 0, 1, 1); context.fillStyle = color; context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    known.set(color, [r, g, b, a / 255]);
  }
  return known.get(color);
};
const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a)];
const luminance = color => color.slice(0, 3).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const ratio = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
const behind = element => {  // the colour an element is painted on
  const layers = [];
  for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
};
const opacity = element => { let o = 1; for (let e = element; e; e = e.parentElement) o *= getComputedStyle(e).opacity; return o; };
const bad = [];
const judge = (element, text, color, background, style) => {
  const seen = over([...color.slice(0, 3), color[3] * opacity(element)], background);
  const size = parseFloat(style.fontSize), large = size >= 24 || size >= 18.66 && style.fontWeight >= 700;
  const found = ratio(seen, background);
  if (found < (large ? 3 : 4.5)) bad.push(`${found.toFixed(2)} "${text.trim().slice(0, 40)}" in ${element.outerHTML.slice(0, 90)}`);
};
let judged = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; node = walker.nextNode();) {
  const element = node.parentElement, style = getComputedStyle(element);
  if (!node.data.trim() || element.closest("script, style, noscript, .katex-mathml, :disabled, .cell-output svg, .visually-hidden")) continue;
  if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
  judged++;
  if (!element.closest("svg")) { judge(element, node.data, rgba(style.color), behind(element), style); continue; }
  element.scrollIntoView({block: "center", inline: "center", behavior: "instant"});
  const box = element.getBoundingClientRect();
  const below = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2)
    .filter(e => e.closest("svg") && !e.closest("text, svg > title") && e.tagName != "svg");
  const shapes = below.reverse().map(e => {
    const s = getComputedStyle(e), c = rgba(s.fill == "none" ? "transparent" : s.fill);
    return [...c.slice(0, 3), c[3] * s.fillOpacity * opacity(e)];
  });
  judge(element, node.data, rgba(style.fill), shapes.reduce((ground, shape) => over(shape, ground), behind(element.closest("svg").parentElement)), style);
}
for (const input of document.querySelectorAll("input[placeholder]"))
  if (input.checkVisibility()) judge(input, input.placeholder, rgba(getComputedStyle(input, "::placeholder").color), behind(input), getComputedStyle(input));
return {judged, bad};"""


# ------------------------------------------------------------ every page


def test_every_source_is_a_page_and_nothing_else(rendered):
    assert sorted(path.relative_to(rendered).as_posix() for path in rendered.rglob("*.html")) == sorted(PAGES)


# Whether the sidebar is in view.
SIDEBAR = """const r = document.querySelector("#quarto-sidebar").getBoundingClientRect();
return r.left >= 0 && r.width > 0 && r.right <= innerWidth;"""


# Lines of code that a reader has to scroll to.
WIDE_CODE = """return [...document.querySelectorAll("main div.sourceCode pre")].filter(e => e.scrollWidth > e.clientWidth)
.map(e => e.textContent.slice(0, 80));"""


def fits(chrome, size):
    resize(chrome, size)
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= size[0], "the page scrolls sideways"
    assert chrome.execute_script(CUT_OFF) == []


@pytest.mark.parametrize("page", PAGES)
def test_page_fits_and_loads(visit, rendered, address, page):
    chrome = visit(page, PHONE)
    chrome.execute_script(UNFOLD)
    fits(chrome, PHONE)
    if page != "index.html":  # which has no sidebar
        assert not chrome.execute_script(SIDEBAR)
        chrome.find_element("css selector", ".quarto-btn-toggle").click()
        eventually(lambda: chrome.execute_script(SIDEBAR), "the sidebar opens on a phone")
    fits(chrome, DESK)
    if (rendered / "site_libs/fonts").is_dir():
        assert chrome.execute_script(WIDE_CODE) == [], "code of 88 columns fits the page of a desk"
    images = chrome.execute_script("return [...document.images].map(i => [i.src.slice(0, 80), i.naturalWidth, i.alt])")
    assert [src for src, width, alt in images if not width or not alt.strip()] == [], (
        "images that are broken or have no alt text"
    )
    math = chrome.execute_script(
        "return [...document.querySelectorAll('.math')].map(m => [m.textContent, !!m.querySelector('.katex'), !!m.querySelector('.katex-error')])"
    )
    events = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    requests = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    away = [
        url for url in requests if urlsplit(url).scheme not in ("data", "blob", "about") and not url.startswith(address)
    ]
    errors = [entry["message"] for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"]
    assert any(url == address + page for url in requests), "the log of requests is empty, so it proves nothing"
    if uses_cdn(rendered, page):
        assert [url for url in away if urlsplit(url).hostname != CDN] == []
        assert [error for error in errors if CDN not in error] == []
        pytest.skip(
            "npm could not deliver KaTeX when the site was rendered, so its mathematics comes from a CDN; the rest of the page holds"
        )
    assert away == [] and errors == []
    assert [text for text, done, failed in math if failed or not done] == [], "mathematics that did not render"
    prose = chrome.execute_script(
        "return [...document.querySelectorAll('main :is(p, li, td)')].map(e => { const c = e.cloneNode(true); "
        "c.querySelectorAll('code, .katex').forEach(x => x.remove()); return c.textContent; })"
    )
    assert [text for text in prose if re.search(r"\$[^$\d\s][^$]*\$", text)] == [], (
        "dollars that were meant as mathematics"
    )


# Machines on which no font is what a page was designed with. Monospaced letters for everything are the widest there are.
FEW_FONTS = {
    "DejaVu": ("DejaVu Serif", "DejaVu Sans", "DejaVu Sans Mono"),
    "one font": ("DejaVu Sans Mono",),
    "none of the usual": ("STIXGeneral",),
}
FONT_CONFIG = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}</dir><cachedir>{folder}/cache</cachedir>{aliases}</fontconfig>"""
FONT_ALIAS = "<alias><family>{}</family><prefer><family>{}</family></prefer></alias>"


def fonts_of(chrome, selector):
    """The fonts that the letters of an element are painted with, and whether each came with the page."""
    chrome.execute_cdp_cmd("DOM.enable", {})
    chrome.execute_cdp_cmd("CSS.enable", {})
    root = chrome.execute_cdp_cmd("DOM.getDocument", {"depth": 0})["root"]["nodeId"]
    node = chrome.execute_cdp_cmd("DOM.querySelector", {"nodeId": root, "selector": selector})
    used = chrome.execute_cdp_cmd("CSS.getPlatformFontsForNode", node)["fonts"]
    return {(font["familyName"], font["isCustomFont"]) for font in used}


@pytest.fixture(scope="session")
def few_fonts(request, tmp_path_factory):
    """A browser on a machine with few fonts, and the name of the one that text is shown in."""
    if sys.platform != "linux":
        pytest.skip("what fonts a browser finds can be chosen on Linux only")
    families = FEW_FONTS[request.param]
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib, which brings some fonts, is not installed")
    folder = tmp_path_factory.mktemp("fonts")
    for family in families:
        shutil.copy2(Path(matplotlib.get_data_path(), f"fonts/ttf/{family.replace(' ', '')}.ttf"), folder)
    usual = zip(("serif", "sans-serif", "system-ui", "monospace"), (families * 4)[:2] + (families * 4)[1:3])
    aliases = "".join(FONT_ALIAS.format(*pair) for pair in usual)
    (folder / "fonts.conf").write_text(FONT_CONFIG.format(folder=folder, aliases=aliases), encoding="utf-8")
    session = start_chrome(tmp_path_factory.mktemp("profile"), FONTCONFIG_FILE=str(folder / "fonts.conf"))
    session.execute_cdp_cmd("Network.enable", {})
    session.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/site_libs/fonts/*"]})
    yield session, families[0]
    session.quit()


LONGEST = sorted(NOTEBOOKS, key=lambda path: path.stat().st_size)[-3:]
FEW_FONTS_ON = [
    *(("DejaVu", page) for page in PAGES),
    *(
        (fonts, page)
        for fonts in [*FEW_FONTS][1:]
        for page in PAGES[:1] + [f"nbs/{path.stem}.html" for path in LONGEST]
    ),
]


@pytest.mark.parametrize(("few_fonts", "page"), FEW_FONTS_ON, indirect=["few_fonts"])
def test_page_fits_without_its_own_fonts(few_fonts, address, page):
    chrome, family = few_fonts
    resize(chrome, PHONE)
    chrome.get(address + page)
    chrome.execute_async_script(SETTLE)
    assert fonts_of(chrome, "main h1") == {(family, False)}, "the machine has other fonts than this test is about"
    chrome.execute_script(UNFOLD)
    fits(chrome, PHONE)
    fits(chrome, DESK)


def test_the_fonts_are_the_books_own(visit, rendered):
    if not (rendered / "site_libs/fonts").is_dir():
        pytest.skip("npm could not deliver the fonts when the site was rendered")
    chrome = visit("nbs/01-autograd.html")
    used = [fonts_of(chrome, selector) for selector in ("main h1", "#quarto-sidebar a span", "main pre code")]
    for fonts, face in zip(used, tool.FACES):
        assert fonts and all(own and name.startswith(face.family) for name, own in fonts), f"{fonts}, not {face.family}"


# How figures are drawn in the dark: their white paper must not glare. It is turned dark, and what that leaves black
# becomes the page.
FIGURES = """return [...document.querySelectorAll('main .cell-output-display img, main .thumbnail img')]
  .map(i => [getComputedStyle(i).filter.split(" ")[0], getComputedStyle(i).mixBlendMode].join(" "));"""


@pytest.mark.parametrize("page", PAGES)
def test_light_and_dark(visit, page):
    chrome = visit(page)
    chrome.execute_script(UNFOLD)
    background = "return getComputedStyle(document.body).backgroundColor"
    light = chrome.execute_script(background)
    for mode in ("light", "dark"):
        found = chrome.execute_script(CONTRAST)
        assert found["judged"] > 50, "the page has less text than its frame alone"
        assert found["bad"] == [], f"{mode}: contrast below WCAG AA"
        if mode == "light":
            chrome.execute_script("scrollTo(0, 0)")
            chrome.find_element("css selector", ".quarto-color-scheme-toggle").click()
            eventually(lambda: chrome.execute_script("return !!document.querySelector('.quarto-dark')"), "dark")
            time.sleep(0.4)  # colours fade from one mode to the other
    dark, figures = chrome.execute_script(background), chrome.execute_script(FIGURES)
    assert dark != light
    assert set(figures) == {"invert(1) screen"}, "a figure glares in the dark, or the page shows none"
    chrome.refresh()
    eventually(lambda: chrome.execute_script(background) == dark, "a reader who chose dark stays in the dark")


# Of each folded cell, how many of its parts, the code and what it printed, a reader sees.
FOLDS = """return [...document.querySelectorAll("details.code-fold")].map(fold => {
  const parts = [fold.querySelector("pre"), ...fold.parentElement.querySelectorAll(":scope > .cell-output, :scope > [class*=cell-output]")];
  return [parts.filter(p => p.checkVisibility() && p.getBoundingClientRect().height > 0).length, parts.length];
});"""


@pytest.mark.parametrize("page", PAGES)
def test_folded_code_opens(visit, page):
    chrome = visit(page)
    folds = chrome.execute_script(FOLDS)
    written = (ROOT / page).with_suffix(".ipynb")
    assert len(folds) == (written.read_text(encoding="utf-8").count("#| code-fold: true") if written.is_file() else 0)
    assert not any(seen for seen, _ in folds), "an answer is open before the reader asks"
    summaries = chrome.find_elements("css selector", "details.code-fold > summary")
    for summary in summaries[:1] + summaries[-1:]:  # by the keyboard, and the rest at once
        summary.send_keys("\n")
    chrome.execute_script(
        "document.querySelectorAll('details.code-fold:not([open]) > summary').forEach(s => s.click())"
    )
    open_folds = lambda: all(seen == parts for seen, parts in chrome.execute_script(FOLDS))  # noqa: E731
    eventually(open_folds, "all code and its outputs show")


class Links(HTMLParser):
    """The links and the anchors of one page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.add(attrs.get("id"))
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])


def test_links_lead_somewhere(rendered):
    pages = {
        path.relative_to(rendered).as_posix(): Links(path.read_text(encoding="utf-8"))
        for path in rendered.rglob("*.html")
    }
    broken = []
    for name, page in pages.items():
        for link in page.links:
            url = urlsplit(urljoin(f"http://book/{name}", link))
            target = unquote(url.path).lstrip("/")
            target = target + "index.html" if target.endswith("/") or not target else target
            anchor = unquote(url.fragment)
            if url.hostname != "book" or anchor.startswith("category="):
                continue
            if not (rendered / target).is_file() or (anchor and target in pages and anchor not in pages[target].ids):
                broken.append(f"{name}: {link}")
    assert broken == []


# ------------------------------------------------------------ the house


def front_matter(notebook):
    cell = json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]
    return dict(re.findall(r"^(title|description): *[\"']?(.*?)[\"']?$", "".join(cell["source"]), re.MULTILINE))


def test_home_lists_the_chapters_in_reading_order(visit, address):
    chrome = visit("index.html")
    items = chrome.execute_script(
        "return [...document.querySelectorAll('.quarto-listing [data-index]')].map(e => [e.querySelector('a').href, "
        "e.querySelector('.listing-title').textContent, e.querySelector('.listing-description').textContent, !!e.querySelector('img')])"
    )
    wanted = [
        [f"{address}nbs/{path.stem}.html", front_matter(path)["title"], front_matter(path)["description"], True]
        for path in CHAPTERS
    ]
    assert items == wanted
    table = chrome.find_element("css selector", "main table").text
    assert all(path.stem[3:] in table for path in CHAPTERS)


def test_next_leads_through_the_whole_book(visit, rendered):
    for before, page, after in zip([None, *PAGES], PAGES, [*PAGES[1:], None]):
        text = (rendered / page).read_text(encoding="utf-8")
        links = dict(re.findall(r'nav-page-(previous|next)">\s*<a href="([^"]+)"', text))
        links = {kind: urljoin(f"/{page}", link) for kind, link in links.items()}
        assert links == {kind: f"/{name}" for kind, name in (("previous", before), ("next", after)) if name}
        marked = re.findall(r'<a href="([^"]+)" class="sidebar-[^"]*\bactive"', text)
        assert page == "index.html" or [urljoin(f"/{page}", link) for link in marked] == [f"/{page}"]
    chrome = visit("index.html")
    for kind, page in (("next", PAGES[1]), ("next", PAGES[2]), ("previous", PAGES[1]), ("previous", PAGES[0])):
        chrome.execute_script(f"document.querySelector('.nav-page-{kind} a').click()")
        arrives(chrome, page)
        assert page == PAGES[0] or chrome.find_element("css selector", "#quarto-sidebar .active").is_displayed()


@pytest.mark.parametrize(("size", "scheme"), [(DESK, "dark"), (PHONE, "light")], ids=["desk", "phone"])
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_search_finds_a_word_of_each_chapter(visit, address, path, size, scheme):
    chrome = visit("index.html", size, scheme)
    assert chrome.execute_script("return !!document.querySelector('.quarto-dark')") == (scheme == "dark"), (
        "the page ignores the system's mode"
    )
    word = max(re.findall(r"[A-Za-z]+", front_matter(path)["title"]), key=len)
    chrome.find_element("css selector", "#quarto-search input").send_keys(word)
    hits = "return [...document.querySelectorAll('.smalldocs-search-results a, .aa-Panel a')].map(a => a.href.split('#')[0])"
    eventually(lambda: f"{address}nbs/{path.stem}.html" in chrome.execute_script(hits), f"search finds {word!r}")
    assert chrome.execute_script(CONTRAST)["bad"] == []
    assert chrome.execute_script(CUT_OFF) == []


# ------------------------------------------------------------ widgets

STATE = """
const widget = document.querySelector(`[data-widget="${arguments[0]}"]`);
return widget.outerHTML + [...widget.querySelectorAll("input, select")].map(i => i.value) + [...widget.querySelectorAll("canvas")].map(c => c.toDataURL());"""


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("page", WIDGETS)
def test_widgets_answer_click_and_keyboard(visit, page, size):
    chrome = visit(page, size)
    for name in WIDGETS[page]:
        answers(chrome, name)


def answers(chrome, name):
    from selenium.common.exceptions import ElementClickInterceptedException

    selector = f'[data-widget="{name}"]'
    widget = chrome.find_element("css selector", selector)
    assert not widget.find_elements("css selector", ":scope > img"), f"{name}: the still picture was not replaced"

    def changes(action, what):
        before = chrome.execute_script(STATE, name)
        action()
        eventually(lambda: chrome.execute_script(STATE, name) != before, f"{name}: {what}")

    button = f"{selector} button:enabled"

    def clicked():  # a long page still moves while what is above the widget takes its place
        first = chrome.find_element("css selector", button)
        chrome.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", first)
        try:
            first.click()
        except ElementClickInterceptedException:
            return False
        return True

    changes(lambda: eventually(clicked, f"{name}: nothing covers the first button"), "a click changes it")
    changes(lambda: chrome.find_element("css selector", button).send_keys("\n"), "Enter on a button changes it")
    if sliders := widget.find_elements("css selector", "input[type=range]:enabled"):
        changes(lambda: sliders[0].send_keys("\ue014"), "the right arrow key moves a slider")


# ------------------------------------------------------------ the tool


@pytest.fixture
def project(tmp_path):
    """A book of one short chapter, with this book's settings and looks, free to break."""
    root = tmp_path / "book"
    for name in ("site", "widgets"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy2(ROOT / "settings.ini", root)
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    config["website"]["sidebar"]["contents"] = ["index.qmd", "nbs/00-one.ipynb"]
    (root / "_quarto.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (root / "index.qmd").write_text("---\ntitle: A book\n---\n\n[One](nbs/00-one.ipynb)\n", encoding="utf-8")
    cells = [
        nbformat.v4.new_raw_cell("---\ntitle: One\n---"),
        nbformat.v4.new_markdown_cell("The sum of $a$ and $b$."),
        nbformat.v4.new_code_cell("#| export\ntotal = 1 + 1"),
    ]
    (root / "nbs").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "nbs/00-one.ipynb")
    return root


def snapshot(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.long
def test_second_render_does_nothing_and_a_change_is_seen(rendered, project, tmp_path):
    output = tmp_path / "out"
    before = snapshot(project)
    assert run_tool("--root", project, "--output", output).returncode == 0
    assert snapshot(project) == before, "rendering touched the sources"
    pages = snapshot(output)
    again = run_tool("--root", project, "--output", output)
    assert "up to date" in again.stdout
    assert snapshot(output) == pages
    (project / "index.qmd").write_text(
        (project / "index.qmd").read_text(encoding="utf-8") + "\nA heron stood there.\n", encoding="utf-8"
    )
    assert "up to date" not in run_tool("--root", project, "--output", output).stdout
    assert "A heron stood there." in (output / "index.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book", "out"], "something was left behind"


def test_a_broken_link_stops_the_render_and_keeps_the_old_site(rendered, project, tmp_path):
    output = tmp_path / "out"
    run_tool("--root", project, "--output", output)
    old = snapshot(output)
    with (project / "index.qmd").open("a", encoding="utf-8") as file:
        file.write("\n[lost](nbs/77-nowhere.ipynb)\n")
    done = run_tool("--root", project, "--output", output)
    if shutil.which("quarto"):
        pytest.skip("Quarto only warns of broken links; test_links_lead_somewhere finds them")
    assert done.returncode == 1 and "77-nowhere" in done.stderr
    assert snapshot(output) == old


def test_it_replaces_no_folder_but_its_own(tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    done = run_tool("--output", tmp_path)
    assert done.returncode == 1 and "is not a rendered site" in done.stderr
    assert (tmp_path / "letters.txt").read_text() == "dear"


def test_incomplete_checkout_is_named(tmp_path):
    with pytest.raises(tool.SiteError, match="_quarto.yml, index.qmd"):
        tool.source_files(tmp_path)


def test_old_python_without_quarto_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(tool.shutil, "which", lambda name: None)
    monkeypatch.setattr(tool.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(tool.sys, "version_info", type("Version", (tuple,), {"major": 3, "minor": 10})((3, 10)))
    with pytest.raises(tool.SiteError, match=r"Python 3\.10 .* needs Python 3\.11.*Quarto"):
        tool.find_renderer()


def fake_npm(monkeypatch, tmp_path, run):
    import platformdirs

    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache")
    monkeypatch.setattr(tool.shutil, "which", lambda name: "npm")
    monkeypatch.setattr(tool.subprocess, "run", run)


def pack(folder, names):
    """What `npm pack` leaves in `folder`: an archive with `names` in it."""
    (folder / "file").write_text("x")
    with tarfile.open(folder / f"{tool.KATEX.folder}.tgz", "w:gz") as tar:
        for name in names:
            tar.add(folder / "file", arcname=name)


def test_without_npm_mathematics_comes_from_the_cdn(monkeypatch, tmp_path):
    fake_npm(monkeypatch, tmp_path, None)
    monkeypatch.setattr(tool.shutil, "which", lambda name: None)
    said = []
    assert tool.fetch(tool.KATEX, said.append) is None and "CDN" in said[0]


def test_npm_that_fails_is_no_failure(monkeypatch, tmp_path):
    fake_npm(
        monkeypatch,
        tmp_path,
        lambda *args, **kwargs: subprocess.CompletedProcess(args, 1, "", "npm error network unreachable\n"),
    )
    said = []
    assert tool.fetch(tool.KATEX, said.append) is None and "network unreachable" in said[-1]


def test_another_katex_than_the_pinned_one_is_refused(monkeypatch, tmp_path):
    def run(*args, cwd, **kwargs):
        pack(Path(cwd), ["package/dist/katex.min.js"])
        return subprocess.CompletedProcess(args, 0, "", "")

    fake_npm(monkeypatch, tmp_path, run)
    with pytest.raises(tool.SiteError, match="sha256"):
        tool.fetch(tool.KATEX, print)
    assert list((tmp_path / "cache").iterdir()) == []


def test_only_the_wanted_files_leave_the_archive(monkeypatch, tmp_path):
    names = ["katex.min.js", "fonts/A.woff2", "fonts/../../../escaped.woff2"]
    pack(tmp_path, [*(f"package/dist/{name}" for name in names), "package/src/katex.less"])
    archive = next(tmp_path.glob("*.tgz"))

    def run(*args, cwd, **kwargs):
        shutil.copy2(archive, cwd)
        return subprocess.CompletedProcess(args, 0, "", "")

    fake_npm(monkeypatch, tmp_path, run)
    package = tool.KATEX._replace(sha256=tool.hashlib.sha256(archive.read_bytes()).hexdigest())
    katex = tool.fetch(package, print)
    assert sorted(path.relative_to(katex).as_posix() for path in katex.rglob("*") if path.is_file()) == [
        "fonts/A.woff2",
        "katex.min.js",
    ]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [katex.name]


RULE = """@font-face {{
  font-family: 'Variable {0}';
  src: url(./files/{0}-wght-normal.woff2) format('woff2-variations');
  unicode-range: U+0041;
}}
"""


def test_fonts_are_copied_with_their_licence_and_named_as_the_style_sheet_does(tmp_path):
    site, folder = tmp_path / "site", tmp_path / "serif-1.0"
    (site / "site").mkdir(parents=True)
    (site / "site/styles.css").write_text("body { margin: 0 }")
    (folder / "files").mkdir(parents=True)
    (folder / "wght.css").write_text(RULE.format("a-latin") + RULE.format("a-thai"))
    (folder / "files/a-latin-wght-normal.woff2").write_bytes(b"letters")
    (folder / "LICENSE").write_text("open")
    tool.use_own_fonts(site, {tool.FACES[0]: folder})
    sheet = (site / "site/styles.css").read_text()
    assert re.findall("font-family: (.*);", sheet) == ['"Source Serif 4"'], "the scripts that are there, and no others"
    assert (site / "site" / re.search(r"url\((.*?)\)", sheet)[1]).resolve().read_bytes() == b"letters"
    assert sheet.endswith("body { margin: 0 }")
    assert [path.read_text() for path in site.rglob("LICENSE")] == ["open"]


def test_the_style_sheet_asks_for_the_fonts_first():
    sheet = (ROOT / "site/styles.css").read_text(encoding="utf-8")
    assert re.findall(r'--zh-(?:serif|sans|mono): "(.*?)"', sheet) == [face.family for face in tool.FACES]


def test_pages_point_at_the_local_katex(tmp_path):
    (tmp_path / "site/nbs").mkdir(parents=True)
    (tmp_path / "katex").mkdir()
    for page in ("index.html", "nbs/a.html"):
        (tmp_path / "site" / page).write_text(
            '<script src="https://cdn.jsdelivr.net/npm/katex@0.15.1/dist/katex.min.js">'
        )
    tool.use_local_katex(tmp_path / "site", tmp_path / "katex")
    assert (tmp_path / "site/index.html").read_text() == '<script src="site_libs/katex/katex.min.js">'
    assert (tmp_path / "site/nbs/a.html").read_text() == '<script src="../site_libs/katex/katex.min.js">'


def test_gpt2s_merges_come_from_the_data_folder_if_they_are_whole(monkeypatch, tmp_path):
    monkeypatch.setenv("ZEROHERO_DATA", str(tmp_path))
    said = []
    assert tool.find_gpt2(said.append) is None and "leaves GPT-2 out" in said[0]
    (tmp_path / "vocab.bpe").write_bytes(b"#version: 0.2\nh e\n")
    assert tool.find_gpt2(said.append) is None and len(said) == 2
    monkeypatch.setattr(tool, "GPT2_SHA256", tool.hashlib.sha256(b"#version: 0.2\nh e\n").hexdigest())
    assert tool.find_gpt2(said.append) == b"#version: 0.2\nh e\n" and len(said) == 2
    (tmp_path / "widgets").mkdir()
    tool.offer_gpt2(tmp_path, b"merges")
    assert not list((tmp_path / "widgets").iterdir()), "a book without this figure needs no merges"
    (tmp_path / "widgets/tokenizer.json").write_text('{"size": 4096}')
    tool.offer_gpt2(tmp_path, b"merges")
    assert json.loads((tmp_path / "widgets/tokenizer.json").read_text()) == {"size": 4096, "gpt2": "gpt2.txt"}
    assert (tmp_path / "widgets/gpt2.txt").read_bytes() == b"merges"


def test_the_site_knows_the_merges_that_the_book_knows():
    from zerohero.data import GPT2_MERGES

    assert (GPT2_MERGES.file, GPT2_MERGES.sha256) == ("vocab.bpe", tool.GPT2_SHA256)


def test_the_playground_offers_gpt2_where_its_merges_are(visit, rendered):
    if "nbs/08-tokenizer.html" not in PAGES:
        pytest.skip("the chapter is not written yet")
    chrome = visit("nbs/08-tokenizer.html")
    choice = "[data-widget='tokenizer'] input[value='gpt2']"
    if not (rendered / "widgets/gpt2.txt").exists():
        assert not chrome.find_elements("css selector", choice)
        pytest.skip("GPT-2's merges are not in the data folder")
    count = "return document.querySelector('[data-widget=tokenizer] [role=status]').textContent"
    before = chrome.execute_script(count)
    chrome.execute_script(f'document.querySelector("{choice}").click()')
    eventually(lambda: chrome.execute_script(count) != before, "GPT-2 cuts the text in another way")
    assert " tokens for " in chrome.execute_script(count)


def test_quarto_renders_a_copy_with_nbdev_filter_in_reach(monkeypatch, project, tmp_path):
    seen = {}

    def quarto(command, cwd, env, **kwargs):
        seen.update(command=command, cwd=Path(cwd), first=env["PATH"].split(os.pathsep)[0])
        shutil.copytree(Path(cwd) / "site", Path(cwd) / "_site/site")
        (Path(cwd) / "_site/index.html").write_text(
            '<link href="https://cdn.jsdelivr.net/npm/katex@latest/dist/katex.min.css">'
        )
        return subprocess.CompletedProcess(command, seen.get("fail", 0))

    (tmp_path / "katex").mkdir()
    monkeypatch.setattr(tool, "find_renderer", lambda: ("quarto 1.5", "/bin/quarto"))
    monkeypatch.setattr(tool, "fetch", lambda package, say: tmp_path / "katex" if package is tool.KATEX else None)
    monkeypatch.setattr(tool.subprocess, "run", quarto)
    assert tool.render(project, tmp_path / "out", print)
    assert seen["command"] == ["/bin/quarto", "render"] and project not in [seen["cwd"], *seen["cwd"].parents]
    assert seen["first"] == str(Path(sys.executable).parent)
    assert (tmp_path / "out/index.html").read_text() == '<link href="site_libs/katex/katex.min.css">'
    seen["fail"] = 3
    (project / "index.qmd").write_text("changed")
    with pytest.raises(tool.SiteError, match="exit code 3"):
        tool.render(project, tmp_path / "out", print)


def test_modules_are_served_as_javascript(address, rendered):
    script = next(rendered.rglob("*.js")).relative_to(rendered).as_posix()
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address + script) as reply:
        assert reply.headers["Content-Type"] == "text/javascript"


def test_serve_says_where_the_book_is(rendered):
    command = [sys.executable, "-u", str(ROOT / "tools/site.py"), "--output", str(rendered), "--serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = next(line for line in process.stdout if "http://" in line)
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                re.search(r"http://[\d.:]+/", said)[0]
            ) as reply:
                assert b"zerohero" in reply.read()
        finally:
            process.terminate()


def test_a_taken_port_is_named(tmp_path):
    with tool.server(tmp_path, 0) as first, pytest.raises(tool.SiteError, match="--port"):
        tool.server(tmp_path, first.server_port)
