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

import pytest
from conftest import eventually, tool

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(ROOT.glob("nbs/*.ipynb"))
CHAPTERS = [path for path in NOTEBOOKS if int(path.stem[:2]) < 90]
PAGES = ["index.html", *(f"nbs/{path.stem}.html" for path in NOTEBOOKS)]
WIDGETS = [
    (f"nbs/{path.stem}.html", name)
    for path in NOTEBOOKS
    for name in re.findall(r'data-widget=\\?"([\w-]+)', path.read_text(encoding="utf-8"))
]
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


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """The site, rendered once into a temporary folder."""
    if sys.version_info < (3, 11) and not shutil.which("quarto"):
        pytest.skip("rendering needs Quarto, or smalldocs on Python 3.11")
    output = tmp_path_factory.mktemp("rendered") / "_site"
    done = run_tool("--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout, done.stdout
    return output


@pytest.fixture(scope="session")
def address(rendered):
    """Where the site is served, on the loopback interface."""
    with tool.server(rendered, 0) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()


@pytest.fixture
def visit(chrome, address):
    """Open a page as a new reader would: nothing stored, a given window, a system set to light or dark."""

    def open_page(page, size=DESK, scheme="light"):
        chrome.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        chrome.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
        )
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


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("page", PAGES)
def test_page_fits_and_loads(visit, rendered, address, page, size):
    chrome = visit(page, size)
    chrome.execute_script(UNFOLD)
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= size[0], "the page scrolls sideways"
    assert chrome.execute_script(CUT_OFF) == []
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


@pytest.mark.parametrize("page", PAGES)
def test_contrast_in_light_and_dark(visit, page):
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
    dark = chrome.execute_script(background)
    assert dark != light
    chrome.refresh()
    eventually(lambda: chrome.execute_script(background) == dark, "a reader who chose dark stays in the dark")


@pytest.mark.parametrize("page", PAGES)
def test_figures_take_the_page_colour_in_the_dark(visit, chrome, page):
    """A figure's white paper must not glare: it is turned dark, and what it leaves black becomes the page."""
    visit(page).find_element("css selector", ".quarto-color-scheme-toggle").click()
    eventually(lambda: chrome.execute_script("return !!document.querySelector('.quarto-dark')"), "dark")
    styles = chrome.execute_script(
        "return [...document.querySelectorAll('main .cell-output-display img, main .thumbnail img')]"
        ".map(i => [getComputedStyle(i).filter, getComputedStyle(i).mixBlendMode])"
    )
    assert styles, "the page shows no figure"
    assert all(filters.startswith("invert(1)") and blend == "screen" for filters, blend in styles)


@pytest.mark.parametrize("page", PAGES[1:])
def test_sidebar_opens_on_a_phone(visit, page):
    chrome = visit(page, PHONE)
    inside = "const r = document.querySelector('#quarto-sidebar').getBoundingClientRect(); return r.left >= 0 && r.width > 0 && r.right <= innerWidth"
    assert not chrome.execute_script(inside)
    chrome.find_element("css selector", ".quarto-btn-toggle").click()
    eventually(lambda: chrome.execute_script(inside), "the sidebar is in view")
    chrome.find_element("css selector", "#quarto-sidebar a[href$='index.html']").click()
    arrives(chrome, "index.html")


@pytest.mark.parametrize("page", PAGES)
def test_folded_code_opens(visit, page):
    chrome = visit(page)
    folds = chrome.find_elements("css selector", "details.code-fold")
    written = (ROOT / page).with_suffix(".ipynb")
    assert len(folds) == (written.read_text(encoding="utf-8").count("#| code-fold: true") if written.is_file() else 0)
    for fold in folds:
        code = fold.find_element("css selector", "pre")
        outputs = fold.find_elements("xpath", "following-sibling::*[contains(@class, 'cell-output')]")
        parts = [code, *outputs]
        assert not any(part.is_displayed() for part in parts), "an answer is open before the reader asks"
        fold.find_element("css selector", "summary").send_keys("\n")
        eventually(lambda parts=parts: all(p.is_displayed() for p in parts), "the code and its output show")


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


def test_next_leads_through_the_whole_book(visit, chrome):
    visit("index.html")
    for path in NOTEBOOKS:
        chrome.execute_script("document.querySelector('.nav-page-next a').click()")
        arrives(chrome, f"nbs/{path.stem}.html")
        assert chrome.find_element("css selector", "#quarto-sidebar .active").is_displayed()
    for path in [*reversed(NOTEBOOKS[:-1]), None]:
        chrome.execute_script("document.querySelector('.nav-page-previous a').click()")
        arrives(chrome, f"nbs/{path.stem}.html" if path else "index.html")


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
@pytest.mark.parametrize(("page", "name"), WIDGETS)
def test_widget_answers_click_and_keyboard(visit, page, name, size):
    from selenium.common.exceptions import ElementClickInterceptedException

    chrome = visit(page, size)
    selector = f'[data-widget="{name}"]'
    widget = chrome.find_element("css selector", selector)
    assert not widget.find_elements("css selector", ":scope > img"), "the still picture was not replaced"

    def changes(action, what):
        before = chrome.execute_script(STATE, name)
        action()
        eventually(lambda: chrome.execute_script(STATE, name) != before, what)

    button = f"{selector} button:enabled"

    def clicked():  # a long page still moves while what is above the widget takes its place
        first = chrome.find_element("css selector", button)
        chrome.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", first)
        time.sleep(0.3)
        try:
            first.click()
        except ElementClickInterceptedException:
            return False
        return True

    changes(lambda: eventually(clicked, "nothing covers the first button", 20), "a click changes the widget")
    changes(lambda: chrome.find_element("css selector", button).send_keys("\n"), "Enter on a button changes the widget")
    if sliders := widget.find_elements("css selector", "input[type=range]:enabled"):
        changes(lambda: sliders[0].send_keys("\ue014"), "the right arrow key moves a slider")


# ------------------------------------------------------------ the tool


@pytest.fixture
def project(tmp_path):
    """A copy of what the site is made of, free to break."""
    for file in tool.source_files(ROOT):
        (tmp_path / "book" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, tmp_path / "book" / file)
    return tmp_path / "book"


def snapshot(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_second_render_is_instant_and_a_change_is_seen(rendered, project, tmp_path):
    output = tmp_path / "out"
    before = snapshot(project)
    assert run_tool("--root", project, "--output", output).returncode == 0
    assert snapshot(project) == before, "rendering touched the sources"
    pages = snapshot(output)
    start = time.monotonic()
    again = run_tool("--root", project, "--output", output)
    assert "up to date" in again.stdout and time.monotonic() - start < 5
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
    with tarfile.open(folder / f"katex-{tool.KATEX}.tgz", "w:gz") as tar:
        for name in names:
            tar.add(folder / "file", arcname=name)


def test_without_npm_mathematics_comes_from_the_cdn(monkeypatch, tmp_path):
    fake_npm(monkeypatch, tmp_path, None)
    monkeypatch.setattr(tool.shutil, "which", lambda name: None)
    said = []
    assert tool.fetch_katex(said.append) is None and "CDN" in said[0]


def test_npm_that_fails_is_no_failure(monkeypatch, tmp_path):
    fake_npm(
        monkeypatch,
        tmp_path,
        lambda *args, **kwargs: subprocess.CompletedProcess(args, 1, "", "npm error network unreachable\n"),
    )
    said = []
    assert tool.fetch_katex(said.append) is None and "network unreachable" in said[-1]


def test_another_katex_than_the_pinned_one_is_refused(monkeypatch, tmp_path):
    def run(*args, cwd, **kwargs):
        pack(Path(cwd), ["package/dist/katex.min.js"])
        return subprocess.CompletedProcess(args, 0, "", "")

    fake_npm(monkeypatch, tmp_path, run)
    with pytest.raises(tool.SiteError, match="sha256"):
        tool.fetch_katex(print)
    assert list((tmp_path / "cache").iterdir()) == []


def test_only_the_wanted_files_leave_the_archive(monkeypatch, tmp_path):
    def run(*args, cwd, **kwargs):
        pack(
            Path(cwd),
            [
                "package/dist/katex.min.js",
                "package/dist/fonts/A.woff2",
                "package/dist/fonts/../../../escaped.woff2",
                "package/src/katex.less",
            ],
        )
        monkeypatch.setattr(
            tool, "KATEX_SHA256", tool.hashlib.sha256(next(Path(cwd).glob("*.tgz")).read_bytes()).hexdigest()
        )
        return subprocess.CompletedProcess(args, 0, "", "")

    fake_npm(monkeypatch, tmp_path, run)
    katex = tool.fetch_katex(print)
    assert sorted(path.relative_to(katex).as_posix() for path in katex.rglob("*") if path.is_file()) == [
        "fonts/A.woff2",
        "katex.min.js",
    ]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [katex.name]


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
        (Path(cwd) / "_site").mkdir()
        (Path(cwd) / "_site/index.html").write_text(
            '<link href="https://cdn.jsdelivr.net/npm/katex@latest/dist/katex.min.css">'
        )
        return subprocess.CompletedProcess(command, seen.get("fail", 0))

    (tmp_path / "katex").mkdir()
    monkeypatch.setattr(tool, "find_renderer", lambda: ("quarto 1.5", "/bin/quarto"))
    monkeypatch.setattr(tool, "fetch_katex", lambda say: tmp_path / "katex")
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
