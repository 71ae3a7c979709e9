"""The interactive figures: their logic in Node, their behaviour in a real browser."""

import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from conftest import eventually, tool

ROOT = Path(__file__).resolve().parents[1]
WIDGETS = ROOT / "widgets"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>widget</title><link rel="icon" href="data:,"><link rel="stylesheet" href="styles.css"><body style="margin: 0"><main class="content">
<div class="zh-widget" data-widget="NAME"><img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" alt="still"></div></main>
<script type="module" src="widgets/NAME.js"></script></body></html>"""
LEFT, RIGHT, UP, DOWN = "\ue012", "\ue014", "\ue013", "\ue015"


@pytest.mark.parametrize("path", sorted(WIDGETS.glob("*.test.js")), ids=lambda path: path.name)
def test_logic_in_node(path):
    node = shutil.which("node")
    if not node:
        pytest.skip("Node is not installed")
    done = subprocess.run(
        [node, "--test", str(path)], check=False, capture_output=True, text=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"pass (\d+)", done.stdout)[1]) > 0, "no test ran"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A site of nothing but the widgets, each on a page of its own."""
    folder = tmp_path_factory.mktemp("widgets")
    shutil.copytree(WIDGETS, folder / "widgets")
    shutil.copy2(ROOT / "site/styles.css", folder)
    for name in (path.stem for path in WIDGETS.glob("*.json") if path.stem != "package"):
        (folder / f"{name}.html").write_text(PAGE.replace("NAME", name), encoding="utf-8")
    return folder


@pytest.fixture
def visit(chrome, folder):
    """Open a widget's page; `calm` is a reader who asks for reduced motion."""
    with tool.server(folder, 0) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()

        def open_page(name, width=1280, calm=True, mounted=True):
            features = [{"name": "prefers-reduced-motion", "value": "reduce" if calm else "no-preference"}]
            chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            chrome.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
            )
            chrome.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
            chrome.get(f"http://127.0.0.1:{httpd.server_port}/{name}.html")
            if mounted:
                eventually(lambda: chrome.find_elements("css selector", ".zhw"), "the widget mounts")
            return chrome

        chrome.execute_cdp_cmd("Network.enable", {})
        yield open_page
        httpd.shutdown()


def button(chrome, text):
    return next(b for b in chrome.find_elements("css selector", ".zhw button") if b.text == text)


def find(chrome, selector):
    return chrome.find_element("css selector", selector)


def texts(chrome, selector):
    """The texts of all elements, read at one moment: a moving widget may replace an element between two questions."""
    script = "return [...document.querySelectorAll(arguments[0])].map(e => (e.innerText ?? e.textContent).trim())"
    return chrome.execute_script(script, selector)


def text(chrome, selector):
    (only,) = texts(chrome, selector)
    return only


def expressions():
    return json.loads((WIDGETS / "autograd.json").read_text(encoding="utf-8"))["expressions"]


def shown(number):
    """How a box writes a number of ordinary size."""
    digits = 3 if abs(number) < 9.9995 else 2
    return f"{number:.{digits}f}".replace("-", "−")


def graph(chrome, kind):
    return texts(chrome, f".zhw-node .zhw-number.zhw-{kind}")


@pytest.mark.parametrize("name", ["autograd", "bigram"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits(visit, name, width):
    chrome = visit(name, width)
    assert not chrome.find_elements("css selector", "[data-widget] > img"), "the still picture is still there"
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
    outside = (
        "const w = document.querySelector('.zhw').getBoundingClientRect(); return [...document.querySelectorAll('.zhw *')].filter(e => {"
        "const r = e.getBoundingClientRect(); return r.width && (r.left < w.left - 2 || r.right > w.right + 2); }).map(e => e.outerHTML.slice(0, 100))"
    )
    assert chrome.execute_script(outside) == []


@pytest.mark.parametrize("name", ["autograd", "bigram"])
def test_the_dark_toggle_reaches_it(visit, name):
    chrome = visit(name)
    style = "const s = getComputedStyle(document.querySelector('.zhw button')); return [s.color, s.backgroundColor]"
    light = chrome.execute_script(style)
    chrome.execute_script("document.documentElement.dataset.scheme = 'alternate'")
    assert all(a != b for a, b in zip(light, chrome.execute_script(style)))


@pytest.mark.parametrize("missing", ["autograd.json", "widget.css"])
def test_the_picture_stays_where_something_cannot_be_loaded(visit, folder, missing):
    away = folder / "widgets" / f"{missing}.away"
    (folder / "widgets" / missing).rename(away)
    try:
        chrome = visit("autograd", mounted=False)
        eventually(
            lambda: any(
                "stays a picture" in entry["message"] and missing in entry["message"]
                for entry in chrome.get_log("browser")
            ),
            "it says why",
        )
        assert find(chrome, "[data-widget] > img").is_displayed()
        assert not chrome.find_elements("css selector", ".zhw")
    finally:
        away.rename(folder / "widgets" / missing)


# ------------------------------------------------------------ autograd


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("width", [1280, 390])
def test_all_steps_lead_to_the_engines_numbers(visit, index, width):
    chrome, expression = visit("autograd", width), expressions()[index]
    find(chrome, f".zhw option[value='{index}']").click()
    nodes = expression["nodes"]
    given = [shown(n["data"]) if not n["op"] else "–" for n in nodes]
    assert graph(chrome, "data") == given and set(graph(chrome, "grad")) == {"–"}
    count = sum(bool(n["op"]) for n in nodes)
    assert not button(chrome, "Step backward").is_enabled()
    for step in range(1, count + 1):
        button(chrome, "Step forward").click()
        assert graph(chrome, "data").count("–") == count - step
        assert f"step {step} of {count}" in text(chrome, ".zhw-readout")
    assert graph(chrome, "data") == [shown(n["data"]) for n in nodes]
    assert not button(chrome, "Step forward").is_enabled()
    for step in range(1, count + 2):
        button(chrome, "Step backward").click()
        lines = texts(chrome, ".zhw-line")
        assert lines and all(".grad" in line for line in lines)
        assert len(chrome.find_elements("css selector", ".zhw-visited")) == 1
    assert graph(chrome, "grad") == [shown(n["grad"]) for n in nodes]
    assert not button(chrome, "Step backward").is_enabled()
    button(chrome, "Reset").click()
    assert graph(chrome, "data") == given


def test_dragging_an_input_recomputes_everything(visit):
    from selenium.webdriver import ActionChains

    chrome = visit("autograd")
    button(chrome, "Run all").click()
    before = graph(chrome, "data") + graph(chrome, "grad")
    leaf = find(chrome, ".zhw-free .zhw-box")
    ActionChains(chrome).click_and_hold(leaf).move_by_offset(20, 0).release().perform()
    after = graph(chrome, "data") + graph(chrome, "grad")
    assert sum(a != b for a, b in zip(before, after)) > len(before) / 2
    assert "should change by about" in text(chrome, ".zhw-readout")
    ActionChains(chrome).move_by_offset(60, 0).perform()
    assert graph(chrome, "data") + graph(chrome, "grad") == after, "the box followed the pointer after its release"


def test_inputs_follow_the_arrow_keys(visit):
    chrome = visit("autograd")
    leaf = find(chrome, ".zhw-node[tabindex='0']")
    old = float(leaf.get_attribute("aria-valuenow"))
    leaf.send_keys(RIGHT)
    assert float(leaf.get_attribute("aria-valuenow")) == pytest.approx(old + 0.05)
    leaf.send_keys(LEFT, LEFT)
    assert float(leaf.get_attribute("aria-valuenow")) == pytest.approx(old - 0.05)
    slider = find(chrome, f".zhw-sliders [data-leaf='{leaf.get_attribute('data-node')}']")
    assert float(slider.get_attribute("value")) == pytest.approx(old - 0.05)
    slider.send_keys(RIGHT)
    assert float(leaf.get_attribute("aria-valuenow")) == pytest.approx(old)
    visited = set()
    for _ in expressions()[0]["nodes"]:
        active = chrome.switch_to.active_element if visited else leaf
        visited.add(active.get_attribute("data-node"))
        active.send_keys(DOWN)
    assert visited == {str(n["id"]) for n in expressions()[0]["nodes"]}
    assert len(chrome.find_elements("css selector", ".zhw-node[tabindex='0']")) == 1


def test_the_keyboard_can_go_through_all_steps(visit):
    chrome = visit("autograd")
    button(chrome, "Step forward").send_keys("\n")
    for _ in range(2 * sum(bool(n["op"]) for n in expressions()[0]["nodes"])):
        chrome.switch_to.active_element.send_keys("\n")  # focus moves on when a button has done all it can
    assert graph(chrome, "grad") == [shown(n["grad"]) for n in expressions()[0]["nodes"]]
    assert chrome.switch_to.active_element.text == "Reset"


def test_running_all_takes_its_time_and_can_be_paused(visit):
    chrome = visit("autograd", calm=False)
    button(chrome, "Run all").click()
    assert "step 1 of" in text(chrome, ".zhw-readout")
    eventually(lambda: "step 2 of" in text(chrome, ".zhw-readout"), "the next step comes by itself")
    button(chrome, "Pause").click()
    paused = text(chrome, ".zhw-readout")
    chrome.execute_async_script("setTimeout(arguments[0], 1200)")
    assert text(chrome, ".zhw-readout") == paused


# ------------------------------------------------------------ bigram


def cell(chrome, pair):
    row, column = (".abcdefghijklmnopqrstuvwxyz".index(c) for c in pair)
    return find(chrome, f".zhw-cell[data-row='{row}'][data-column='{column}']")


def table():
    return json.loads((WIDGETS / "bigram.json").read_text(encoding="utf-8"))["counts"]


def warm(chrome, temperature):
    chrome.execute_script(
        "const r = document.querySelector('.zhw-heat input'); r.value = arguments[0]; r.dispatchEvent(new Event('input'))",
        temperature,
    )


def test_pointing_at_a_cell_tells_its_count(visit):
    from selenium.webdriver import ActionChains

    chrome, row = visit("bigram"), table()[1]
    ActionChains(chrome).move_to_element(cell(chrome, "an")).perform()
    assert text(chrome, ".zhw-pair") == f"after 'a' comes 'n' {row[14]:,} times: {100 * row[14] / sum(row):.1f} %"
    assert texts(chrome, ".zhw-table .zhw-lit") == ["n", "a"]
    ActionChains(chrome).move_to_element(find(chrome, ".zhw-seed")).perform()
    assert text(chrome, ".zhw-side .zhw-title") == "What comes at the start of a name"


def test_arrow_keys_walk_the_table(visit):
    chrome = visit("bigram")
    assert len(chrome.find_elements("css selector", ".zhw-cell[tabindex='0']")) == 1
    for keys, pair in (
        (RIGHT, ".a"),
        (DOWN, "aa"),
        (LEFT, "a."),
        (LEFT, "a."),
        (UP, ".."),
        ("\ue010", ".z"),
        ("\ue011", ".."),
    ):
        (chrome.switch_to.active_element if pair != ".a" else find(chrome, ".zhw-cell[tabindex='0']")).send_keys(keys)
        assert chrome.switch_to.active_element == cell(chrome, pair)
    assert text(chrome, ".zhw-pair") == "a name is empty: never, so 0 % at any temperature"


def test_temperature_moves_the_bars_but_makes_nothing_possible(visit):
    chrome = visit("bigram")
    heights = "return [...document.querySelectorAll('.zhw-rate')].map(e => Number(e.getAttribute('height')))"
    shares = {}
    for temperature in (0.1, 1, 3):
        warm(chrome, temperature)
        bars = chrome.execute_script(heights)
        assert [bar == 0 for bar in bars] == [count == 0 for count in table()[0]]
        shares[temperature] = max(bars) / sum(bars)
        assert float(cell(chrome, "..").value_of_css_property("fill-opacity")) == 0
    assert shares[0.1] > shares[1] > shares[3]
    assert shares[1] == pytest.approx(max(table()[0]) / sum(table()[0]))


def test_letters_join_the_name_until_it_ends(visit):
    chrome = visit("bigram")
    for n in range(1, 60):
        button(chrome, "Next letter").click()
        letters = texts(chrome, ".zhw-letters b")
        assert len(letters) == n
        if letters[-1] == ".":
            break
        assert text(chrome, ".zhw-score").startswith("".join(letters) + " so far")
    name = "".join(letters)
    probability = 1.0
    for a, b in zip("." + name, name):
        row = table()[".abcdefghijklmnopqrstuvwxyz".index(a)]
        probability *= row[".abcdefghijklmnopqrstuvwxyz".index(b)] / sum(row)
    mantissa, exponent = re.search(r"([\d.]+) × 10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", text(chrome, ".zhw-score")).groups()
    exponent = int(exponent.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
    assert float(mantissa) * 10.0**exponent == pytest.approx(probability, rel=0.05)
    assert texts(chrome, ".zhw-names li")[0].split()[0] == name[:-1]
    button(chrome, "Next letter").click()
    assert len(texts(chrome, ".zhw-letters b")) == 1, "after the end a new name begins"


def test_the_same_seed_writes_the_same_ten_names(visit):
    chrome = visit("bigram")
    ten = []
    for seed in ("7", "8", "7"):
        box = find(chrome, ".zhw-seed input")
        box.clear()
        box.send_keys(seed, "\t")
        button(chrome, "Ten names").click()
        ten.append(texts(chrome, ".zhw-names li"))
    assert len(ten[0]) == 10 and ten[0] == ten[2] != ten[1]
    button(chrome, "Start again").click()
    assert texts(chrome, ".zhw-names li") == [] == texts(chrome, ".zhw-letters b")


@pytest.mark.parametrize("calm", [True, False], ids=["calm", "moving"])
def test_a_whole_name_is_written_to_its_end(visit, calm):
    chrome = visit("bigram", calm=calm)
    button(chrome, "Whole name").click()
    if calm:
        assert texts(chrome, ".zhw-letters b")[-1] == "."
    eventually(lambda: texts(chrome, ".zhw-letters b")[-1:] == ["."], "the name ends", 30)
    assert len(texts(chrome, ".zhw-names li")) == 1
    assert button(chrome, "Whole name").is_enabled()


# ------------------------------------------------------------ wavenet


def write(chrome, name):
    button(chrome, "Clear").click()
    find(chrome, ".zhw-typed").send_keys(name)


def choice(chrome, letter):
    return find(chrome, f".zhw-choice:nth-child({'.abcdefghijklmnopqrstuvwxyz'.index(letter) + 1})")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_tree_fits(visit, width):
    test_it_fits(visit, "wavenet", width)


def test_the_dark_toggle_reaches_the_tree(visit):
    test_the_dark_toggle_reaches_it(visit, "wavenet")


def test_typing_moves_the_tree(visit):
    chrome = visit("wavenet")
    for name, leaves in (("em", "......em"), ("Maximi lian.", "ximilian"), ("", "........")):
        write(chrome, name)
        pieces = texts(chrome, ".zhw-piece")
        assert "".join(pieces[:8]) == pieces[-1] == leaves
        assert len(pieces) == 15
    assert find(chrome, ".zhw-typed").get_attribute("value") == ""
    colours = "return [...document.querySelectorAll('.zhw-unit')].map(e => e.style.fillOpacity + e.classList)"
    before = chrome.execute_script(colours)
    write(chrome, "a")
    after = chrome.execute_script(colours)
    assert len(after) == 8 * 24 + 7 * 128 and sum(a != b for a, b in zip(before, after)) > 200


def test_the_prediction_is_that_of_python(visit):
    chrome = visit("wavenet")
    stored = json.loads((WIDGETS / "wavenet.json").read_text(encoding="utf-8"))
    for name, logits in stored["checks"].items():
        write(chrome, name)
        weights = [2.718281828459045**z for z in logits]
        for letter, weight in zip(stored["symbols"], weights):
            label = choice(chrome, letter).get_attribute("aria-label")
            assert label.startswith("the end: " if letter == "." else f"{letter}: ")
            percent = 0 if "under" in label else float(label.split()[-2])
            assert percent == pytest.approx(100 * weight / sum(weights), abs=0.2)


def test_choosing_letters_writes_a_name(visit):
    chrome = visit("wavenet")
    button(chrome, "Clear").click()
    choice(chrome, "e").click()
    for letter in "va":
        choice(chrome, letter).send_keys("\n")
    assert find(chrome, ".zhw-typed").get_attribute("value") == "eva"
    assert text(chrome, ".zhw-wavenet .zhw-title").startswith("After 'eva': ")
    choice(chrome, ".").click()
    assert text(chrome, ".zhw-drawn") == "Names: eva"
    choice(chrome, "a").click()
    assert find(chrome, ".zhw-typed").get_attribute("value") == "a", "after the end a new name begins"
    write(chrome, "abcdefghijklmnopqrstuvwxyz")
    assert find(chrome, ".zhw-typed").get_attribute("value") == "abcdefghijklmnopqrst"


@pytest.mark.parametrize("calm", [True, False], ids=["calm", "moving"])
def test_the_rest_of_a_name_is_drawn(visit, calm):
    chrome = visit("wavenet", calm=calm)
    write(chrome, "mar")
    button(chrome, "Draw the rest").click()
    eventually(lambda: "is complete" in text(chrome, ".zhw-wavenet .zhw-title"), "the name ends", 30)
    name = find(chrome, ".zhw-typed").get_attribute("value")
    assert name.startswith("mar") and text(chrome, ".zhw-drawn") == f"Names: {name}"
    assert button(chrome, "Draw the rest").is_enabled()
