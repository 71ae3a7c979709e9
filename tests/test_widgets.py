"""The interactive figures: their logic in Node, their behaviour in a real browser."""

import json
import random
import re
import shutil
import subprocess
import threading
import unicodedata
import warnings
from pathlib import Path

import pytest
from conftest import eventually, tool

ROOT = Path(__file__).resolve().parents[1]
WIDGETS = ROOT / "widgets"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>widget</title><link rel="icon" href="data:,"><link rel="stylesheet" href="styles.css"><body style="margin: 0"><main class="content">
<div class="zh-widget" data-widget="NAME"><img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" alt="still"></div></main>
<script type="module" src="widgets/NAME.js"></script></body></html>"""
NAMES = sorted(path.stem for path in WIDGETS.glob("*.json") if path.stem != "package")
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
    for name in NAMES:
        (folder / f"{name}.html").write_text(PAGE.replace("NAME", name), encoding="utf-8")
    return folder


@pytest.fixture
def visit(chrome, folder):
    """Open a widget's page; `calm` is a reader who asks for reduced motion."""
    with tool.server(folder, 0) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()

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


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", NAMES)
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


# ------------------------------------------------------------ batchnorm


def layers(chrome):
    """The lines of the layers that are shown: what is written beside the two histograms of each."""
    found = texts(chrome, ".zhw-bn-layer:not([hidden]):not(.zhw-bn-head) small")
    return list(zip(found[::2], found[1::2]))


def set_range(chrome, name, value):
    script = (
        "const label = [...document.querySelectorAll('.zhw-bn-sliders label')].find(e => e.innerText.includes(arguments[0]));"
        "const r = label.querySelector('input'); r.value = arguments[1]; r.dispatchEvent(new Event('input'))"
    )
    chrome.execute_script(script, name, value)


def choose(chrome, nonlinearity):
    find(chrome, f".zhw option[value='{nonlinearity}']").click()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_deepest_network_fits(visit, width):
    chrome = visit("batchnorm", width)
    assert not chrome.find_elements("css selector", "[data-widget] > img"), "the still picture is still there"
    for nonlinearity, gain in (("tanh", 4), ("relu", 4), ("linear", 0.1)):
        choose(chrome, nonlinearity)
        set_range(chrome, "Gain", gain)
        set_range(chrome, "Depth", 10)
        assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
        outside = (
            "const w = document.querySelector('.zhw').getBoundingClientRect(); return [...document.querySelectorAll('.zhw *')].filter(e => {"
            "const r = e.getBoundingClientRect(); return r.width && (r.left < w.left - 2 || r.right > w.right + 2); }).map(e => e.outerHTML.slice(0, 100))"
        )
        assert chrome.execute_script(outside) == []


def test_dark_reaches_the_histograms(visit):
    chrome = visit("batchnorm")
    style = (
        "return ['.zhw-bn-hist-data', '.zhw-bn-hist-grad', '.zhw button'].map(c => {"
        "const s = getComputedStyle(document.querySelector(c)); return s.fill + s.color })"
    )
    light = chrome.execute_script(style)
    chrome.execute_script("document.documentElement.dataset.scheme = 'alternate'")
    assert all(a != b for a, b in zip(light, chrome.execute_script(style)))


def test_gain_and_depth_move_the_histograms(visit):
    chrome = visit("batchnorm")
    shapes = "return [...document.querySelectorAll('.zhw-bn-layer:not([hidden]) path')].map(e => e.getAttribute('d'))"
    before = chrome.execute_script(shapes)
    assert len(layers(chrome)) == 5 and len(before) == 10
    set_range(chrome, "Gain", 0.5)
    assert all(a != b for a, b in zip(before, chrome.execute_script(shapes)))
    assert "signal fades" in text(chrome, ".zhw-bn-verdict") and "gradient fades" in text(chrome, ".zhw-bn-verdict")
    sizes = [float(re.search(r"std ([\d.]+)", forward)[1]) for forward, _ in layers(chrome)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.1 * sizes[0]
    set_range(chrome, "Depth", 8)
    assert len(layers(chrome)) == 8 and layers(chrome)[-1][1] == "std 1.0"
    button(chrome, "Gain 5/3").click()
    assert text(chrome, ".zhw-bn-verdict").startswith("Healthy")


def test_too_much_gain_saturates_and_batchnorm_repairs_it(visit):
    chrome = visit("batchnorm")
    set_range(chrome, "Gain", 4)
    assert "saturated" in text(chrome, ".zhw-bn-verdict")
    find(chrome, ".zhw-bn-check input").click()
    assert text(chrome, ".zhw-bn-verdict").startswith("Healthy")
    alike = layers(chrome)
    set_range(chrome, "Gain", 0.5)
    assert [forward for forward, _ in layers(chrome)] == [forward for forward, _ in alike], (
        "with BatchNorm the gain should not matter"
    )


def test_the_nonlinearity_and_the_draw_can_be_changed_from_the_keyboard(visit):
    chrome = visit("batchnorm")
    find(chrome, ".zhw select").send_keys(DOWN)
    assert "zero" in layers(chrome)[0][0] and button(chrome, "Gain √2").is_enabled()
    before = layers(chrome)
    button(chrome, "New draw").send_keys("\n")
    assert layers(chrome) != before
    find(chrome, ".zhw-bn-sliders input").send_keys(RIGHT)
    assert texts(chrome, ".zhw-bn-sliders output")[0] == "1.01"
    assert all("of layer" in line and "std" in line for line in aria_labels(chrome))


def aria_labels(chrome):
    script = "return [...document.querySelectorAll('.zhw-bn-layer:not([hidden]) svg')].map(e => e.getAttribute('aria-label'))"
    labels = chrome.execute_script(script)
    assert len(labels) == 2 * len(layers(chrome))
    return labels


# ------------------------------------------------------------ backprop


def tensors():
    return json.loads((WIDGETS / "backprop.json").read_text(encoding="utf-8"))["nodes"]


def chosen(chrome):
    (only,) = chrome.find_elements("css selector", ".zhw-tensor[aria-pressed='true']")
    in_sight = (
        "const box = document.querySelector('.zhw-graph').getBoundingClientRect(), r = arguments[0].getBoundingClientRect();"
        "return r.top >= box.top && r.bottom <= box.bottom"
    )
    assert chrome.execute_script(in_sight, only), "the chosen tensor is scrolled out of sight"
    assert [only] == chrome.find_elements("css selector", ".zhw-tensor[tabindex='0']")
    return only.get_attribute("data-tensor")


@pytest.mark.parametrize("width", [1280, 390])
def test_next_walks_through_the_backward_pass(visit, width):
    chrome = visit("backprop", width)
    assert chosen(chrome) == "loss" and not button(chrome, "Previous").is_enabled()
    for i, node in enumerate(tensors()[1:], 1):
        button(chrome, "Next").click()
        assert chosen(chrome) == node["name"]
        assert text(chrome, ".zhw-count") == f"gradient {i} of 26"
        blocks = texts(chrome, ".zhw-derivation pre")
        assert blocks[-2].split("\n") == node["backward"]
        assert blocks[-1].startswith(f"d{node['name']}{node['entry']['where']} = ")
        assert len(chrome.find_elements("css selector", ".zhw-known")) == i
    assert not button(chrome, "Next").is_enabled()
    button(chrome, "Previous").click()
    assert chosen(chrome) == "emb"


def test_a_tensor_unfolds_when_clicked(visit):
    chrome = visit("backprop")
    find(chrome, "[data-tensor='counts']").click()
    assert chosen(chrome) == "counts"
    assert text(chrome, ".zhw-derivation .zhw-title") == "dcounts (32, 27)"
    assert texts(chrome, ".zhw-derivation pre")[0].split("\n") == [
        "probs = counts * counts_sum_inv",
        "counts_sum = counts.sum(1, keepdim=True)",
    ]
    assert len(chrome.find_elements("css selector", ".zhw-arriving")) == 2


def test_arrow_keys_walk_the_graph(visit):
    chrome, names = visit("backprop", 390), [node["name"] for node in tensors()]
    find(chrome, ".zhw-tensor[tabindex='0']").send_keys(DOWN)
    assert chosen(chrome) == names[1]
    for keys, name in ((RIGHT, names[2]), (UP, names[1]), (LEFT, "loss"), (UP, "loss"), ("\ue010", "C"), (DOWN, "C")):
        chrome.switch_to.active_element.send_keys(keys)
        assert chosen(chrome) == chrome.switch_to.active_element.get_attribute("data-tensor") == name
    button(chrome, "Previous").send_keys("\n")
    button(chrome, "Next").send_keys("\n")
    assert chosen(chrome) == "C" and chrome.switch_to.active_element.text == "Previous"


# ------------------------------------------------------------ mlp


def letter(chrome, symbol):
    return find(chrome, f".zhw-letter[data-letter='{symbol}']")


def spots(chrome):
    """Where the letters' dots are drawn."""
    script = "return [...document.querySelectorAll('.zhw-place')].map(e => [Number(e.getAttribute('cx')), Number(e.getAttribute('cy'))])"
    return chrome.execute_script(script)


def moved(before, after):
    """The letters that are no longer where they were."""
    return "".join(c for c, a, b in zip(".abcdefghijklmnopqrstuvwxyz", before, after) if a != b)


def chart(chrome):
    return chrome.execute_script(
        "return [...document.querySelectorAll('.zhw-rate')].map(e => Number(e.getAttribute('height')))"
    )


def slide(chrome, value):
    chrome.execute_script(
        "const r = document.querySelector('.zhw-training input'); r.value = arguments[0]; r.dispatchEvent(new Event('input'))",
        value,
    )


def frames():
    return json.loads((WIDGETS / "mlp.json").read_text(encoding="utf-8"))["frames"]


def step_line(frame):
    return f"step {frame['step']:,}: validation loss "


@pytest.mark.parametrize("width", [1280, 390])
def test_mlp_fits_at_every_step_and_with_every_note(visit, width):
    chrome = visit("mlp", width)
    find(chrome, ".zhw-typed input").send_keys("1234567890-éß")
    letter(chrome, "m").send_keys(RIGHT, "e", LEFT, "m")
    for index in range(len(frames())):
        slide(chrome, index)
        assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
        out = chrome.execute_script(
            "const r = document.querySelector('.zhw-plane').getBoundingClientRect(); return [...document.querySelectorAll('.zhw-chip')].filter(e => {"
            "const c = e.getBoundingClientRect(); return c.left < r.left || c.right > r.right + 1 || c.top < r.top || c.bottom > r.bottom; }).length"
        )
        assert out == 0


def test_mlp_goes_through_the_training(visit):
    chrome, seen = visit("mlp"), set()
    assert text(chrome, ".zhw-step").startswith(step_line(frames()[-1]))
    slider = find(chrome, ".zhw-training input")
    for index in reversed(range(len(frames()))):
        assert text(chrome, ".zhw-step").startswith(step_line(frames()[index]))
        assert slider.get_attribute("aria-valuetext") == text(chrome, ".zhw-step")
        seen.add((str(spots(chrome)), str(chart(chrome))))
        slider.send_keys(LEFT)
    assert len(seen) == len(frames())
    assert slider.get_attribute("value") == "0"


def test_mlp_bars_are_the_networks_distribution(visit):
    chrome = visit("mlp")
    data = json.loads((WIDGETS / "mlp.json").read_text(encoding="utf-8"))
    box = find(chrome, ".zhw-typed input")
    box.clear()
    box.send_keys("Xx1" + data["check"]["context"].upper())
    assert text(chrome, ".zhw-typed small") == "ignored: 1"
    assert text(chrome, ".zhw-side .zhw-title") == f"What comes after '{data['check']['context']}'"
    weights = [2.718281828 ** (x - max(data["check"]["logits"])) for x in data["check"]["logits"]]
    bars = chart(chrome)
    assert [bar / sum(bars) for bar in bars] == pytest.approx([w / sum(weights) for w in weights], abs=1e-3)
    best = sorted(zip(weights, data["symbols"]), reverse=True)[:3]
    words = [f"{'the end' if c == '.' else repr(c)} {100 * w / sum(weights):.1f} %" for w, c in best]
    assert text(chrome, ".zhw-likely") == "likeliest: " + ", ".join(words)
    for typed, title in (("\ue003" * 20, "at the start of a name"), ("q", "after '..q'"), ("u", "after '.qu'")):
        box.send_keys(typed)
        assert text(chrome, ".zhw-side .zhw-title") == f"What comes {title}"
        assert chart(chrome) != bars
        bars = chart(chrome)
    assert len(chrome.find_elements("css selector", ".zhw-read")) == 3, "the dot, q and u have rings"


def test_mlp_a_dragged_letter_changes_the_bars_at_once(visit):
    from selenium.webdriver import ActionChains

    chrome = visit("mlp")
    before, bars = spots(chrome), chart(chrome)
    likely = text(chrome, ".zhw-likely")
    assert not button(chrome, "Put back").is_enabled() and text(chrome, ".zhw-change") == ""
    ActionChains(chrome).click_and_hold(letter(chrome, "m")).move_by_offset(60, 90).perform()
    held = spots(chrome)
    assert moved(before, held) == "m"
    assert held[13][0] > before[13][0] + 30 and held[13][1] > before[13][1] + 50
    assert chart(chrome) != bars
    assert re.match(r"'m' moved: .+ \d+\.\d % → .+ %, ", text(chrome, ".zhw-change"))
    ActionChains(chrome).release().move_by_offset(40, 40).perform()
    assert spots(chrome) == held, "the letter followed the pointer after its release"
    button(chrome, "Put back").click()
    assert spots(chrome) == before and chart(chrome) == bars and text(chrome, ".zhw-likely") == likely
    assert not button(chrome, "Put back").is_enabled() and text(chrome, ".zhw-change") == ""
    assert chrome.switch_to.active_element == letter(chrome, "m")


def test_mlp_a_letter_cannot_leave_the_plane(visit):
    from selenium.webdriver import ActionChains

    chrome = visit("mlp")
    box = letter(chrome, "e").rect
    away = int(1200 - box["x"]), int(5 - box["y"])
    ActionChains(chrome).click_and_hold(letter(chrome, "e")).move_by_offset(*away).release().perform()
    paper = chrome.execute_script(
        "return ['x', 'y', 'width', 'height'].map(k => Number(document.querySelector('.zhw-paper').getAttribute(k)))"
    )
    (x, y), (left, top, width, height) = spots(chrome)[5], paper
    assert left + 0.9 * width < x < left + width and top < y < top + 0.1 * height


def test_mlp_a_finger_moves_a_letter_and_elsewhere_the_page(visit):
    chrome = visit("mlp", 390)
    chrome.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:

        def swipe(element, dx, dy):
            """A finger goes up from a point beside the middle of an element."""
            box = element.rect
            x, y = box["x"] + box["width"] / 2 + dx, box["y"] + box["height"] / 2 + dy
            for kind, path in (("Start", [0]), ("Move", range(10, 110, 10)), ("End", [])):
                for up in path or [None]:
                    at = [] if up is None else [{"x": x, "y": y - up}]
                    chrome.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": at})

        before = spots(chrome)
        swipe(letter(chrome, "e"), 3, 0)
        after = spots(chrome)
        assert moved(before, after) == "e" and after[5][1] < before[5][1] - 80
        assert chrome.execute_script("return scrollY") == 0
        chrome.execute_script("document.body.style.paddingBottom = '50rem'")
        swipe(find(chrome, ".zhw-plane .zhw-paper"), 160, 80)
        eventually(lambda: chrome.execute_script("return scrollY") > 30, "the page scrolls")
        assert spots(chrome) == after
    finally:
        chrome.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_mlp_arrow_keys_move_a_letter_and_its_key_finds_it(visit):
    chrome = visit("mlp")
    assert len(chrome.find_elements("css selector", ".zhw-letter[tabindex='0']")) == 1
    before, bars = spots(chrome), chart(chrome)
    find(chrome, ".zhw-letter[tabindex='0']").send_keys("k")
    assert chrome.switch_to.active_element == letter(chrome, "k") and spots(chrome) == before
    for key, axis, sign in ((RIGHT, 0, 1), (LEFT, 0, -1), (UP, 1, -1), (DOWN, 1, 1)):
        was = spots(chrome)
        letter(chrome, "k").send_keys(key)
        now = spots(chrome)
        assert moved(was, now) == "k" and (now[11][axis] - was[11][axis]) * sign > 2
        assert now[11][1 - axis] == pytest.approx(was[11][1 - axis])
    letter(chrome, "k").send_keys(UP)
    assert chart(chrome) == bars, "k is not read, so nothing depends on it"
    assert text(chrome, ".zhw-change") == "'k' moved, but the network does not read it here: nothing changes."
    letter(chrome, "k").send_keys("m", UP)
    assert moved(before, spots(chrome)) == "km" and chart(chrome) != bars
    assert text(chrome, ".zhw-change").startswith("'k', 'm' moved: ")
    slide(chrome, 0)
    slide(chrome, len(frames()) - 1)
    assert spots(chrome) == before, "another step of training has its own places"


def test_mlp_a_letter_names_its_nearest(visit):
    from selenium.webdriver import ActionChains

    chrome, symbols = visit("mlp"), ".abcdefghijklmnopqrstuvwxyz"
    flat = frames()[-1]["C"]
    places = [complex(x, y) for x, y in zip(flat[::2], flat[1::2])]

    def said(symbol):
        i = symbols.index(symbol)
        others = sorted((abs(p - places[i]), c) for p, c in zip(places, symbols) if c != symbol)[:3]
        return ", ".join(f"'{c}' {distance:.2f}" for distance, c in others)

    hint = text(chrome, ".zhw-note")
    ActionChains(chrome).move_to_element(letter(chrome, "a")).perform()
    assert text(chrome, ".zhw-note").startswith("'a' is at (") and text(chrome, ".zhw-note").endswith(said("a"))
    assert len(chrome.find_elements("css selector", ".zhw-tie")) == 3
    ActionChains(chrome).move_to_element(find(chrome, ".zhw-likely")).perform()
    assert text(chrome, ".zhw-note") == hint and not chrome.find_elements("css selector", ".zhw-tie")
    letter(chrome, "a").send_keys("n")
    assert text(chrome, ".zhw-note").endswith(said("n"))
    assert letter(chrome, "n").get_attribute("aria-label") == text(chrome, ".zhw-note")


@pytest.mark.parametrize("calm", [True, False], ids=["calm", "moving"])
def test_mlp_plays_the_training_to_its_end(visit, calm):
    chrome = visit("mlp", calm=calm)
    last = spots(chrome)
    for index in (1, len(frames()) - 1):
        line = step_line(frames()[index])
        slide(chrome, index)
        eventually(lambda line=line: text(chrome, ".zhw-step").startswith(line), "the slider's step is shown")
    eventually(lambda: spots(chrome) == last, "the letters come to rest where they were")
    button(chrome, "Play").click()
    assert text(chrome, ".zhw-step").startswith(step_line(frames()[0])), "at its end the training begins again"
    watch = """const done = arguments[arguments.length - 1], seen = new Set(), begun = performance.now();
    const look = () => {
      seen.add(document.querySelector('.zhw-place').getAttribute('cx'));
      if (performance.now() - begun < 1500) requestAnimationFrame(look); else done(seen.size);
    };
    look();"""
    places = chrome.execute_async_script(watch)
    assert places <= 5 if calm else places > 8, "letters jump for who asks for stillness, and glide for others"
    button(chrome, "Pause").click()
    paused = text(chrome, ".zhw-step"), spots(chrome)
    chrome.execute_async_script("setTimeout(arguments[0], 1000)")
    assert (text(chrome, ".zhw-step"), spots(chrome)) == paused
    slide(chrome, len(frames()) - 4)
    button(chrome, "Play").click()
    eventually(lambda: text(chrome, ".zhw-step").startswith(step_line(frames()[-1])), "it comes to the end")
    eventually(lambda: find(chrome, ".zhw-training button").text == "Play", "and stops there")
    assert spots(chrome) == last


# ------------------------------------------------------------ wavenet


def write(chrome, name):
    button(chrome, "Clear").click()
    find(chrome, ".zhw-typed").send_keys(name)


def choice(chrome, letter):
    return find(chrome, f".zhw-choice:nth-child({'.abcdefghijklmnopqrstuvwxyz'.index(letter) + 1})")


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


# ------------------------------------------------------------ the transformer: writing, attention by hand, heads


def press(chrome, selector, *keys):
    find(chrome, selector).send_keys(*keys)


def page_text(chrome):
    return chrome.execute_script("return document.querySelector('.zhw-gpt-page').textContent")


def ask(chrome, prompt):
    """Put a prompt into its box, as typing would."""
    script = "const p = document.querySelector('.zhw-gpt-prompt'); p.value = arguments[0]; p.dispatchEvent(new Event('input'))"
    chrome.execute_script(script, prompt)


def gpt_bars(chrome):
    """Names and chances as the bars tell them; none before the network has read the prompt."""
    labels = [b.get_attribute("aria-label") for b in chrome.find_elements("css selector", ".zhw-gpt-bar:enabled")]
    return [
        re.fullmatch(r"(.+): (?:< )?([\d.]+) %, the network says (?:< )?([\d.]+) %", label).groups() for label in labels
    ]


def test_shakespeare_predicts_what_python_does(visit):
    chrome = visit("shakespeare")
    stored = json.loads((WIDGETS / "shakespeare.json").read_text(encoding="utf-8"))
    check = next(check for check in stored["checks"] if len(check["logits"]) > 3)
    weights = [2.718281828459045**z for z in check["logits"][-1]]
    chances = sorted((100 * w / sum(weights) for w in weights), reverse=True)
    ask(chrome, check["prompt"])
    eventually(lambda: gpt_bars(chrome), "the weights come when the figure is in view", 20)
    assert [float(plain) for _, _, plain in gpt_bars(chrome)] == pytest.approx(chances[:12], abs=0.1)
    top = chrome.find_elements("css selector", ".zhw-gpt input[type=range]")[1]
    top.send_keys("\ue011", RIGHT)  # Home, then one up: top-k 2
    shares = [float(share) for _, share, _ in gpt_bars(chrome)]
    assert sum(shares[:2]) == pytest.approx(100, abs=0.2) and shares[2:] == [0] * 10


@pytest.mark.parametrize("calm", [True, False], ids=["calm", "moving"])
def test_shakespeare_writes_on_and_repeats_itself_with_the_same_seed(visit, calm):
    chrome = visit("shakespeare", calm=calm)

    def written(count):
        ask(chrome, "O gentle lady")
        eventually(lambda: gpt_bars(chrome), "the prompt is read", 20)
        button(chrome, "Start").click()
        eventually(lambda: len(page_text(chrome)) >= count, "text appears", 60)
        if not calm:
            button(chrome, "Pause").click()
        eventually(lambda: gpt_bars(chrome) and button(chrome, "Start"), "it rests", 30)
        return page_text(chrome)

    one, two = written(30), written(30)
    shorter = min(len(one), len(two))
    assert one.startswith("O gentle lady") and one[:shorter] == two[:shorter]
    chosen = find(chrome, ".zhw-gpt-bar:enabled .zhw-gpt-name").text
    find(chrome, ".zhw-gpt-bar:enabled").click()
    assert page_text(chrome) == two + {"space": " ", "new line": "\n"}.get(chosen, chosen)
    button(chrome, "Restart").click()
    assert page_text(chrome) == "O gentle lady"


def test_shakespeare_says_what_is_wrong(visit, folder):
    chrome = visit("shakespeare")
    ask(chrome, "ROMEO 2:")
    assert text(chrome, ".zhw-gpt .zhw-title").startswith("The network has never seen '2'.")
    assert not button(chrome, "Start").is_enabled() and button(chrome, "Restart").is_enabled()
    ask(chrome, "")
    assert texts(chrome, ".zhw-gpt .zhw-note")[0].startswith("The prompt is empty, so the text begins from a new line.")
    button(chrome, "Step").click()
    eventually(lambda: len(page_text(chrome)) == 2, "one character follows the new line", 20)
    weights = folder / "widgets/shakespeare.bin"
    weights.rename(weights.with_suffix(".away"))
    try:
        chrome = visit("shakespeare")
        said = "The network could not be loaded (shakespeare.bin: "
        eventually(lambda: text(chrome, ".zhw-gpt .zhw-title").startswith(said), "it says so")
        chrome.find_elements("css selector", ".zhw-gpt input[type=range]")[0].send_keys(RIGHT)
        assert text(chrome, ".zhw-gpt .zhw-title").startswith(said)
    finally:
        weights.with_suffix(".away").rename(weights)
    button(chrome, "Step").click()
    eventually(lambda: gpt_bars(chrome), "the next attempt succeeds", 20)


def grid(chrome, stage):
    return texts(chrome, f"[data-stage='{stage}'] .zhw-at-cell")


def test_attention_steps_lead_to_pythons_numbers(visit):
    chrome = visit("attention")
    stored = json.loads((WIDGETS / "attention.json").read_text(encoding="utf-8"))
    button(chrome, "Reset").click()
    for n, (stage, rows) in enumerate(stored["stages"].items(), 1):
        assert set(grid(chrome, stage)) == {"·"}
        button(chrome, "Next").click()
        assert f"step {n} of 5" in text(chrome, ".zhw-count")
        flat = [x for row in rows for x in row]
        found = [float(x.replace("−", "-").replace("∞", "inf")) for x in grid(chrome, stage)]
        assert found == pytest.approx([float("-inf") if x is None else x for x in flat], abs=0.0051)
    assert not button(chrome, "Next").is_enabled()
    button(chrome, "Back").click()
    assert set(grid(chrome, "output")) == {"·"}


def test_attention_numbers_can_be_changed_and_explain_themselves(visit):
    from selenium.webdriver import ActionChains

    chrome = visit("attention")
    before = {stage: grid(chrome, stage) for stage in ("scores", "weights", "output")}
    first = find(chrome, ".zhw-at-free[tabindex='0']")
    first.send_keys(UP, UP)
    assert float(first.get_attribute("aria-valuenow")) == pytest.approx(0.7)
    assert [a != b for a, b in zip(before["scores"], grid(chrome, "scores"))] == [True] * 5 + [False] * 20
    first.send_keys(RIGHT)
    assert chrome.switch_to.active_element.get_attribute("aria-label") == "query of come, number 2"
    key = find(chrome, ".zhw-at-k")
    ActionChains(chrome).click_and_hold(key).move_by_offset(30, 0).release().perform()
    ActionChains(chrome).move_by_offset(40, 0).perform()
    assert float(key.get_attribute("aria-valuenow")) == pytest.approx(-0.1)
    ActionChains(chrome).move_to_element(find(chrome, "[data-stage='output'] [role='gridcell']")).perform()
    assert text(chrome, ".zhw-at-sum").startswith("Number 1 of the output of 'come': 1.00 × 0.00 = 0.00")
    press(chrome, "[data-stage='weights'] .zhw-at-cell[tabindex='0']", DOWN, RIGHT)
    assert text(chrome, ".zhw-at-sum").startswith("The weight of 'unto' for 'unto': ")
    mask = chrome.find_elements("css selector", ".zhw-at-checks input")[1]
    mask.click()
    assert "0.00" != grid(chrome, "weights")[1] and len(chrome.find_elements("css selector", ".zhw-at-peek")) == 20
    button(chrome, "Reset").click()
    for _ in range(5):
        button(chrome, "Next").click()
    assert {stage: grid(chrome, stage) for stage in before} == before


def test_heads_follow_the_pointer_and_the_keyboard(visit):
    from selenium.webdriver import ActionChains

    chrome = visit("heads")
    stored = json.loads((WIDGETS / "heads.json").read_text(encoding="utf-8"))
    letters = chrome.find_elements("css selector", ".zhw-hd-letter")
    assert len(letters) == len(stored["lines"][1]["text"])
    assert len(chrome.find_elements("css selector", ".zhw-hd-map")) == stored["n_layer"] * stored["n_head"]
    ActionChains(chrome).move_to_element(letters[20]).perform()
    assert letters[20].get_attribute("aria-selected") == "true"
    ActionChains(chrome).move_to_element(find(chrome, ".zhw-hd-two p.zhw-note")).perform()
    letters[20].send_keys(RIGHT)
    assert chrome.switch_to.active_element == letters[21]
    letters[21].send_keys("\ue011", LEFT)
    assert chrome.switch_to.active_element == letters[0]
    assert text(chrome, ".zhw-hd .zhw-title").endswith("100 % (itself)"), "the first character sees only itself"
    heights = "return [...document.querySelectorAll('.zhw-hd-well i')].map(e => parseFloat(e.style.height))"
    letters[0].send_keys("\ue010")
    shares = chrome.execute_script(heights)
    assert sum(shares) == pytest.approx(100, abs=3)
    chrome.find_elements("css selector", ".zhw-hd-map")[-1].click()
    assert text(chrome, ".zhw-hd .zhw-title").startswith(f"Layer {stored['n_layer']}, head {stored['n_head']}, ")
    assert chrome.execute_script(heights) != shares
    find(chrome, ".zhw-hd-line option[value='0']").click()
    assert len(chrome.find_elements("css selector", ".zhw-hd-letter")) == len(stored["lines"][0]["text"])


# ------------------------------------------------------------ the tokenizer: the playground, merging by hand


def odd_strings(count):
    """Strings to encode, the same ones every time: what people write, and what they hardly ever do."""
    rng = random.Random(8)
    assigned = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) not in ("Cn", "Cs", "Co")]
    words = "the and unto thee yellow don't I'LL we've HE'S it\u2019s 'tis 'ſ o'er def return x += = 1999 3,14 ½ Ⅷ ٣٤".split()
    spaces = [*"    \n\t\r\x0b\x1c\x85\xa0\u180e\u2028\u3000\ufeff", "  ", "\n\n", "\r\n"]
    emoji = "😀", "👩‍🚀", "👍🏽", "🇫🇮", "❤️", "\u200d", "e\u0301"
    kinds = (
        lambda: "".join(rng.choice(words) + rng.choice(spaces) for _ in range(rng.randint(1, 12))),
        lambda: "".join(rng.choices(assigned, k=rng.randint(1, 30))),
        lambda: "".join(rng.choice(rng.choice((emoji, spaces, words))) for _ in range(rng.randint(1, 20))),
        lambda: "".join(rng.choice(spaces) for _ in range(rng.randint(1, 20))),
        lambda: "".join(rng.choices("'sStTmMlLdDvVrReE ſ", k=rng.randint(1, 20))),
        lambda: "".join(rng.choices("aab \n0!", k=rng.randint(1, 60))),
        lambda: rng.choice("a 0!\n🍓ä中") * rng.randint(1, 500) + rng.choice(words),
    )
    return ["", "\n", " ", "\n \n", "a" * 20_000, " " * 5000 + "x", "🍓" * 3000] + [
        rng.choice(kinds)() for _ in range(count - 7)
    ]


@pytest.fixture(scope="module")
def encoded():
    """What Python makes of a thousand strings: by vocabulary, with GPT-2's where its files are."""
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed")
    from zerohero.data import GPT2_MERGES, DataError, fetch
    from zerohero.tokenizer import GPT2Tokenizer, RegexTokenizer

    data = json.loads((WIDGETS / "tokenizer.json").read_text(encoding="utf-8"))
    strings, tokens, python = odd_strings(1000), [bytes([i]) for i in range(256)], {}
    for a, b in zip(data["merges"][::2], data["merges"][1::2]):
        tokens.append(tokens[a] + tokens[b])
    for size in data["sizes"]:
        ranks = {token: i for i, token in enumerate(tokens[:size])}
        encoding = tiktoken.Encoding(
            str(size), pat_str=data["patterns"]["gpt4"], mergeable_ranks=ranks, special_tokens={}
        )
        python[size] = RegexTokenizer.from_tiktoken(encoding)
    try:
        merges = fetch(GPT2_MERGES).decode()
        python["gpt2"] = GPT2Tokenizer()
    except DataError:
        merges = None
    ids = {name: [tokenizer.encode_ordinary(text) for text in strings] for name, tokenizer in python.items()}
    return {"strings": strings, "ids": ids, "merges": merges}


# The names of vocabularies and the numbers of strings on which JavaScript and Python differ.
COMPARE = """({Tokenizer, readGpt2}, data, {strings, ids, merges}) => {
  const gpt2 = merges && readGpt2(merges);
  const make = name => name === "gpt2" ? new Tokenizer(data.patterns.gpt2, gpt2.merges, undefined, gpt2.bytes)
    : new Tokenizer(data.patterns.gpt4, data.merges, Number(name));
  return Object.entries(ids).flatMap(([name, all]) => {
    const tokenizer = make(name);
    return strings.flatMap((text, n) => String(tokenizer.encode(text)) === String(all[n]) ? [] : [[name, n]]);
  });
}"""


def run_node(tmp_path, script, *given):
    """What a script for Node, written into a file, prints as JSON."""
    node = shutil.which("node")
    if not node:
        pytest.skip("Node is not installed")
    for n, content in enumerate(given):
        (tmp_path / f"{n}.json").write_text(json.dumps(content), encoding="utf-8")
    head = f"""import {{readFileSync}} from "node:fs";
const read = path => JSON.parse(readFileSync(path, "utf8")), widget = name => import(new URL(name, {json.dumps(WIDGETS.as_uri() + "/")}));
const given = {json.dumps([str(tmp_path / f"{n}.json") for n in range(len(given))])}.map(read);
"""
    (tmp_path / "script.mjs").write_text(head + script, encoding="utf-8")
    done = subprocess.run(
        [node, str(tmp_path / "script.mjs")], check=False, capture_output=True, text=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_thousand_strings_are_encoded_as_in_python(encoded, tmp_path):
    data = json.loads((WIDGETS / "tokenizer.json").read_text(encoding="utf-8"))
    script = f"console.log(JSON.stringify(({COMPARE})(await widget('bpe.js'), ...given)))"
    assert len(encoded["strings"]) == 1000
    assert run_node(tmp_path, script, data, encoded) == []


def test_a_thousand_strings_are_encoded_as_in_python_in_a_browser(visit, encoded):
    chrome = visit("tokenizer")
    script = f"""const done = arguments[arguments.length - 1];
    Promise.all([import("./widgets/bpe.js"), fetch("widgets/tokenizer.json").then(r => r.json())])
      .then(([bpe, data]) => done(({COMPARE})(bpe, data, arguments[0])), error => done(String(error)));"""
    assert chrome.execute_async_script(script, encoded) == []


def test_the_merges_by_hand_are_pythons(tmp_path):
    from zerohero.tokenizer import BasicTokenizer, RegexTokenizer

    data = json.loads((WIDGETS / "merges.json").read_text(encoding="utf-8"))
    rng = random.Random(5)
    strings = ["".join(rng.choices(*kind, k=rng.randint(2, 50))) for kind in (["ab"], ["abc "], ["aé\n'"]) * 100]
    script = """const {begin, advance} = await widget("merges.js"), {translate} = await widget("bpe.js"), [pattern, strings] = given;
    const finish = state => state.pairs.length ? finish(advance(state, state.pairs[0].pair)) : state.merges;
    console.log(JSON.stringify([false, translate(pattern)].map(split => strings.map(text => finish(begin(text, split))))));"""
    found = run_node(tmp_path, script, data["pattern"], strings)
    for kind, merges in zip((BasicTokenizer, lambda: RegexTokenizer(data["pattern"])), found):
        for text, pairs in zip(strings, merges):
            tokenizer = kind()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the text runs out of pairs
                tokenizer.train(text, 400)
            assert [list(pair) for pair in tokenizer.merges] == pairs, repr(text)


def playground():
    return json.loads((WIDGETS / "tokenizer.json").read_text(encoding="utf-8"))


def radio(chrome, value):
    chrome.execute_script(
        "[...document.querySelectorAll('.zhw-tk-choices input')].find(i => i.value.trim() === arguments[0]).click()",
        str(value),
    )


def put(chrome, content):
    """Put a text into the box, as pasting would, with the caret at its end."""
    script = "t.value = arguments[0]; t.dispatchEvent(new Event('input'))"
    chrome.execute_script(f"const t = document.querySelector('.zhw-tk-input'); {script}", content)


def token_texts(chrome):
    every = "[...document.querySelectorAll('.zhw-tk-page [role=option]')]"
    return chrome.execute_script(f"return {every}.map(e => e.textContent)")


def counted(chrome):
    return text(chrome, ".zhw-tk > .zhw-title")


def test_playground_shows_text_ids_and_bytes(visit):
    chrome, data = visit("tokenizer"), playground()
    for written, ids in zip(data["texts"], data["checks"]["1024"]):
        radio(chrome, 1024)
        radio(chrome, "ids")
        assert token_texts(chrome) == [str(i) for i in ids]
        radio(chrome, "bytes")
        assert bytes.fromhex(" ".join(token_texts(chrome))).decode() == written
        radio(chrome, "text")
        assert counted(chrome).startswith(
            f"{len(ids)} tokens for {len(written)} characters, {len(written.encode())} bytes: "
        )
        button(chrome, "Another text").click()
    assert find(chrome, ".zhw-tk-input").get_attribute("value") == data["texts"][0], "the texts go round"
    radio(chrome, 256)
    assert len(token_texts(chrome)) == len(data["texts"][0].encode())


def test_playground_follows_the_typing(visit):
    chrome = visit("tokenizer")
    box = find(chrome, ".zhw-tk-input")
    put(chrome, "")
    assert counted(chrome).startswith("No text") and token_texts(chrome) == []
    assert text(chrome, ".zhw-tk-why") == "" and not button(chrome, "Merge").is_enabled()
    box.send_keys("Hark, yonder")
    assert "".join(token_texts(chrome)) == "Hark, yonder"
    assert text(chrome, ".zhw-tk-about").endswith("It comes from the word '␣yonder'.")
    box.send_keys(LEFT * 8, "!")
    assert text(chrome, ".zhw-tk-about").endswith("It comes from the word '!,'."), "the word at the caret"
    put(chrome, "x" * 300)
    assert "too long to be drawn" in text(chrome, ".zhw-tk-why")
    assert not find(chrome, ".zhw-tk input[type=range]").is_enabled()
    put(chrome, "a\n" * 4000)
    assert len(token_texts(chrome)) == 3000 and text(chrome, ".zhw-tk > .zhw-note").startswith("and 5,000 tokens more")


def test_playground_steps_through_the_merges_of_a_word(visit):
    chrome, data = visit("tokenizer"), playground()
    put(chrome, "a fortnight")
    radio(chrome, 1024)
    rank = {pair: i for i, pair in enumerate(zip(data["merges"][:1536:2], data["merges"][1:1536:2]))}
    ids, steps = list(b" fortnight"), 0
    while pairs := [(rank[p], -i) for i, p in enumerate(zip(ids, ids[1:])) if p in rank]:
        lowest, at = min(pairs, key=lambda pair: (pair[0], -pair[1]))
        said = text(chrome, ".zhw-tk-why")
        assert f"rank {lowest:,}, " in said and said.endswith(f"It becomes token {256 + lowest:,}.")
        shown = texts(chrome, ".zhw-tk-ranks small")
        assert shown == [str(rank.get(pair, "–")) for pair in zip(ids, ids[1:])]
        assert find(chrome, ".zhw-tk-lowest").text == str(lowest)
        chrome.execute_script("arguments[0].focus()", button(chrome, "Merge"))
        button(chrome, "Merge").send_keys("\n")
        ids[-at : 2 - at], steps = [256 + lowest], steps + 1
        assert text(chrome, ".zhw-tk-word .zhw-count").startswith(f"merge {steps} of ")
        assert len(chrome.find_elements("css selector", ".zhw-tk-row:not(.zhw-tk-ranks, .zhw-tk-later)")) == steps + 1
    assert steps > 3 and f"{len(ids)} tokens are what the model reads" in text(chrome, ".zhw-tk-why")
    assert len(chrome.find_elements("css selector", ".zhw-tk-now span")) == len(ids)
    assert not button(chrome, "Merge").is_enabled() and chrome.switch_to.active_element.text == "Back"
    assert not chrome.find_elements("css selector", ".zhw-tk-later")
    find(chrome, ".zhw-tk input[type=range]").send_keys(LEFT)
    assert text(chrome, ".zhw-tk-word .zhw-count").startswith(f"merge {steps - 1} of ")


def test_playground_tokens_can_be_chosen_with_pointer_and_keys(visit):
    chrome = visit("tokenizer")
    put(chrome, "Unhousel'd, disappointed, unanel'd")
    tokens = chrome.find_elements("css selector", ".zhw-tk-page [role=option]")
    tokens[0].click()
    assert tokens[0].get_attribute("aria-selected") == "true" and chrome.switch_to.active_element == tokens[0]
    tokens[0].send_keys(RIGHT)
    assert chrome.switch_to.active_element == tokens[1]
    tokens[1].send_keys("\ue010")
    assert chrome.switch_to.active_element == tokens[-1]
    tokens[-1].send_keys(RIGHT)
    assert chrome.switch_to.active_element == tokens[-1]
    tokens[-1].send_keys(UP)
    assert "the word" in text(chrome, ".zhw-tk-about") and chrome.switch_to.active_element != tokens[-1]
    chrome.switch_to.active_element.send_keys("\ue011", DOWN)
    words = texts(chrome, ".zhw-tk-about b")
    assert len(words) == 2 and words[1] != "'Unhousel'"
    assert len(chrome.find_elements("css selector", ".zhw-tk-page [tabindex='0']")) == 1


def test_playground_is_instant_on_a_page(visit):
    chrome, page = visit("tokenizer"), " ".join(playground()["texts"]) * 8
    script = """const t = document.querySelector('.zhw-tk-input');
    return Math.min(...[0, 1, 2, 3, 4].map(n => { t.value = arguments[0] + n; const from = performance.now(); t.dispatchEvent(new Event('input'));
      document.body.offsetHeight; return performance.now() - from; }));"""
    assert len(page) > 3000
    assert chrome.execute_script(script, page) < 250, "milliseconds from a key to the tokens on the page"


def test_playground_offers_gpt2_where_the_site_has_it(visit, folder, encoded):
    chrome = visit("tokenizer")
    assert not chrome.find_elements("css selector", "input[value='gpt2']")
    data = folder / "widgets/tokenizer.json"
    was = data.read_text(encoding="utf-8")
    merges = folder / "widgets/gpt2.txt"
    try:
        tool.offer_gpt2(folder, b"not the merges")
        chrome = visit("tokenizer")
        radio(chrome, "gpt2")
        eventually(lambda: "could not be loaded" in counted(chrome), "it says what is wrong")
        if encoded["merges"] is None:
            pytest.skip("GPT-2's files are not here")
        merges.write_text(encoded["merges"], encoding="utf-8", newline="\n")
        radio(chrome, 1024)
        radio(chrome, "ids")
        radio(chrome, "gpt2")
        n = next(n for n, string in enumerate(encoded["strings"]) if "yellow" in string and "\r" not in string)
        eventually(lambda: "could not" not in counted(chrome), "the next attempt succeeds")
        put(chrome, encoded["strings"][n])
        eventually(lambda: token_texts(chrome) == [str(i) for i in encoded["ids"]["gpt2"][n]], "GPT-2's ids")
    finally:
        data.write_text(was, encoding="utf-8")
        merges.unlink(missing_ok=True)


def by_hand(kind, name):
    data = json.loads((WIDGETS / "merges.json").read_text(encoding="utf-8"))
    return data["checks"][kind][list(data["texts"]).index(name)], data["texts"][name]


def figures(chrome):
    """Tokens, bytes per token, vocabulary, merges."""
    return texts(chrome, ".zhw-bp-figures b")


def page_tokens(chrome):
    return chrome.execute_script("return [...document.querySelectorAll('.zhw-bp-page span')].map(e => e.textContent)")


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_merging_by_hand_is_training(visit, split):
    chrome = visit("merges")
    merges, passage = by_hand(int(split), "This England")
    if split:
        find(chrome, ".zhw-bp-check input").click()
    length = len(passage.encode())
    assert figures(chrome) == [str(length), "1.00", "256", "0"]
    for n in range(1, 13):
        assert len(chrome.find_elements("css selector", ".zhw-bp-left")) <= int(texts(chrome, ".zhw-bp-row small")[0])
        button(chrome, "Merge").click()
        tokens = len(page_tokens(chrome))
        assert figures(chrome) == [str(tokens), f"{length / tokens:.2f}", str(256 + n), str(n)]
    assert "".join(page_tokens(chrome)).replace("↵", "") == passage
    vocabulary = [bytes([i]) for i in range(256)]
    for a, b in merges[:12]:
        vocabulary.append(vocabulary[a] + vocabulary[b])
    shown = [token.decode().replace(" ", "␣").replace("\n", "↵") for token in vocabulary[256:]]
    assert texts(chrome, ".zhw-bp-made b") == shown and "can you do better" in text(chrome, ".zhw-bp-result")
    button(chrome, "Back").click()
    assert figures(chrome)[3] == "11"
    button(chrome, "Start again").click()
    assert figures(chrome) == [str(length), "1.00", "256", "0"] and not button(chrome, "Back").is_enabled()


def test_another_pair_is_compared_with_greedy(visit):
    from selenium.webdriver import ActionChains

    chrome = visit("merges")
    find(chrome, ".zhw-bp-set option[value='aaabdaaabac']").click()
    rows = chrome.find_elements("css selector", ".zhw-bp-row:enabled")
    assert rows[0].get_attribute("aria-label") == "'a' + 'a', 4 times"
    last = rows[-1]
    name = last.get_attribute("aria-label").split(",")[0]
    ActionChains(chrome).move_to_element(last).perform()
    assert text(chrome, ".zhw-bp .zhw-title").startswith(name) and text(chrome, ".zhw-bp .zhw-title").endswith(
        "instead."
    )
    assert len(chrome.find_elements("css selector", ".zhw-bp-left")) == 1
    ActionChains(chrome).move_to_element(find(chrome, ".zhw-bp-figures")).perform()
    assert text(chrome, ".zhw-bp .zhw-title").startswith("Next: 'a' + 'a', 4 times")
    last.send_keys("\n")
    said = "Greedy would have done better: it has 9 tokens after 1 merge, 1 fewer than you."
    assert figures(chrome)[0] == "10" and text(chrome, ".zhw-bp-result") == said
    button(chrome, "Back").click()
    assert "can you do better" in text(chrome, ".zhw-bp-result")


@pytest.mark.parametrize("calm", [True, False], ids=["calm", "moving"])
def test_merging_plays_to_its_end(visit, calm):
    chrome = visit("merges", calm=calm)
    find(chrome, ".zhw-bp-set option[value='aaabdaaabac']").click()
    button(chrome, "Play").click()
    eventually(lambda: "No pair occurs twice" in text(chrome, ".zhw-bp .zhw-title"), "training ends", 20)
    assert figures(chrome) == ["5", "2.20", "259", "3"]
    assert not button(chrome, "Merge").is_enabled() and not button(chrome, "Play").is_enabled()
    assert chrome.switch_to.active_element.text == "Back", "the keyboard is not lost"


def test_own_text_is_merged_too(visit):
    chrome = visit("merges")
    assert not find(chrome, ".zhw-bp textarea").is_displayed()
    find(chrome, ".zhw-bp-set option[value='']").click()
    box = find(chrome, ".zhw-bp textarea")
    assert chrome.switch_to.active_element == box
    put(chrome, "")
    assert figures(chrome) == ["0", "–", "256", "0"] and not button(chrome, "Merge").is_enabled()
    box.send_keys("naïve, naïve!")
    button(chrome, "Merge").click()
    assert figures(chrome)[0] == "13" and texts(chrome, ".zhw-bp-row")[0].split()[-1] == "2"


# ------------------------------------------------------------ GPT-2: flash attention in tiles, the budget of a run


def flash():
    return json.loads((WIDGETS / "flash.json").read_text(encoding="utf-8"))


def kept(chrome, t):
    """What the table says of query t: factor, maximum, sum, output, and the output of ordinary attention."""
    return texts(chrome, f".zhw-fl-kept .zhw-fl-row:nth-child({t + 2}) .zhw-fl-cell")


def tile_scores(chrome):
    return texts(chrome, ".zhw-fl-now")


def two(x):
    """Two digits, as the figure writes them."""
    return "−∞" if x is None else f"{x:.2f}".replace("-0.00", "0.00").replace("-", "−")


@pytest.mark.parametrize("size", ["2 × 2", "4 × 2", "8 × 8"])
@pytest.mark.parametrize("width", [1280, 390])
def test_flash_tiles_hold_pythons_numbers(visit, width, size):
    chrome, data = visit("flash", width), flash()
    find(chrome, f".zhw-bar option[value='{size}']").click()
    rows, corrections = int(size[0]), 0
    assert text(chrome, ".zhw-fl > .zhw-title").startswith("Nothing is computed yet")
    for n, tile in enumerate(data["tiles"][size], 1):
        button(chrome, "Next").click()
        assert tile_scores(chrome) == [two(x) for row in tile["scores"] for x in row]
        button(chrome, "Next").click()
        for i in range(rows):
            factor, largest, *_ = kept(chrome, tile["row"] + i)
            assert largest == two(tile["max"][i])
            assert factor == (f"× {two(tile['factor'][i])}" if tile["column"] else "")
            corrections += bool(tile["column"]) and tile["factor"][i] < 1
        lit = chrome.find_elements("css selector", ".zhw-fl-kept .zhw-fl-factor.zhw-fl-new")
        assert len(lit) == sum(factor < 1 for factor in tile["factor"]) * bool(tile["column"])
        button(chrome, "Next").click()
        for i in range(rows):
            numbers = [tile["max"][i], tile["sum"][i], *tile["mixed"][i]]
            assert kept(chrome, tile["row"] + i)[1:5] == [two(x) for x in numbers]
        assert figures(chrome)[2:] == [f"{n} of {len(data['tiles'][size])}", str(corrections)]
        if tile is data["tiles"][size][-1] or data["tiles"][size][n]["row"] != tile["row"]:
            button(chrome, "Next").click()
            for t in range(tile["row"], tile["row"] + rows):
                assert kept(chrome, t)[3:] == 2 * [two(x) for x in data["output"][t]]
    assert not button(chrome, "Next").is_enabled() and corrections == (0 if size == "8 × 8" else 7)
    found = re.search(
        r"equal to ordinary attention: the largest difference is (.*)$", text(chrome, ".zhw-fl > .zhw-title")
    )
    assert found[1] == "0" or int(found[1].split("10")[1].translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))) <= -15
    assert figures(chrome)[:2] == [{"2 × 2": "12", "4 × 2": "24", "8 × 8": "96"}[size], "64"]


def test_flash_goes_back_and_by_tiles(visit):
    chrome = visit("flash")
    assert not button(chrome, "Back").is_enabled()
    shown = "return document.querySelector('.zhw-fl-two').innerText + document.querySelector('.zhw-fl-why').innerText"
    find(chrome, ".zhw-fl-slider input").send_keys(RIGHT)
    states = [chrome.execute_script(shown)]
    for _ in range(5):
        button(chrome, "Next").send_keys("\n")
        states.append(chrome.execute_script(shown))
    for state in states[-2::-1]:
        button(chrome, "Back").send_keys("\n")
        assert chrome.execute_script(shown) == state
    button(chrome, "Start again").click()
    assert chrome.switch_to.active_element.text == "Next", "the keyboard is not lost"
    ends = []
    while button(chrome, "Next tile").is_enabled():
        button(chrome, "Next tile").click()
        ends.append(text(chrome, ".zhw-fl-slider output"))
    assert ends[:3] == ["step 4 of 34", "step 7 of 34", "step 11 of 34"] and len(ends) == 10
    assert chrome.switch_to.active_element.text == "Back"


def test_flash_explains_the_chosen_row(visit):
    from selenium.webdriver import ActionChains

    chrome = visit("flash")
    slider = find(chrome, ".zhw-fl-slider input")
    slider.send_keys(*[RIGHT] * 9)  # queries 3 and 4, keys 3 and 4: both get a larger maximum
    assert "made smaller" in text(chrome, ".zhw-fl > .zhw-title")
    assert text(chrome, ".zhw-fl-why").startswith("'yellow': the largest score of this tile is 1.77")
    names = chrome.find_elements("css selector", ".zhw-fl-name:enabled")
    assert [name.text for name in names] == ["these", "yellow"]
    names[0].send_keys("\n")
    assert "sum 1.23 → 0.32" in text(chrome, ".zhw-fl-why") and names[0].get_attribute("aria-pressed") == "true"
    ActionChains(chrome).move_to_element(chrome.find_elements("css selector", ".zhw-fl-now")[-1]).perform()
    assert text(chrome, ".zhw-fl-why").startswith("'yellow'")
    assert chrome.find_elements("css selector", ".zhw-fl-why sup"), "powers are raised"
    frame = "const r = document.querySelector(arguments[0]).getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]"
    around, first = chrome.execute_script(frame, ".zhw-fl-frame"), chrome.execute_script(frame, ".zhw-fl-now")
    assert all(a <= b for a, b in zip(around[:2], first)) and around[2] > first[2] and around[3] > first[3]


@pytest.mark.parametrize("calm", [True, False], ids=["calm", "moving"])
def test_flash_plays(visit, calm):
    chrome = visit("flash", calm=calm)
    where = ".zhw-fl-slider output"
    button(chrome, "Play").click()
    if calm:
        assert text(chrome, where) == "step 34 of 34"
        return
    eventually(lambda: text(chrome, where) == "step 3 of 34", "the steps come by themselves")
    button(chrome, "Pause").click()
    paused = text(chrome, where)
    chrome.execute_async_script("setTimeout(arguments[0], 1500)")
    assert text(chrome, where) == paused
    find(chrome, ".zhw-bar option[value='8 × 8']").click()
    button(chrome, "Play").click()
    eventually(lambda: text(chrome, where) == "step 4 of 4", "it ends", 10)
    assert button(chrome, "Play").is_enabled()


def budget():
    return json.loads((WIDGETS / "budget.json").read_text(encoding="utf-8"))


def knob(chrome, name):
    """The slider of this name, and what is written beside it."""
    labels = chrome.find_elements("css selector", ".zhw-bg-sliders label")
    label = next(label for label in labels if label.text.startswith(name))
    return label.find_element("css selector", "input"), label.find_element("css selector", "output")


def turn(chrome, name, end):
    """To one end of a slider, "low" or "high"."""
    script = "arguments[0].value = arguments[0][arguments[1]]; arguments[0].dispatchEvent(new Event('input'))"
    chrome.execute_script(script, knob(chrome, name)[0], {"low": "min", "high": "max"}[end])


def parts(chrome, n):
    """The n-th bar: what its parts are called, and their numbers."""
    (section,) = chrome.find_elements("css selector", ".zhw-bg-bar:has(.zhw-bg-parts)")[n : n + 1]
    return dict(line.text.split("\n")[:2] for line in section.find_elements("css selector", "li"))


def test_budget_counts_as_python_in_a_browser(visit):
    chrome, cases = visit("budget"), budget()["cases"]
    script = """const [cases, done] = arguments;
    import(new URL("widgets/budget.js", location)).then(({parameterCounts, flopsPerToken, memoryPlan}) => done(cases.map(({config, batch, T}) =>
      ({parameters: parameterCounts(config), flops: flopsPerToken(config, T), memory: memoryPlan(config, batch, T)}))))"""
    found = chrome.execute_async_script(script, cases)
    assert found == [{name: case[name] for name in ("parameters", "flops", "memory")} for case in cases]


def test_budget_begins_with_the_run_that_is_known(visit):
    chrome = visit("budget")
    gpt2 = next(case for case in budget()["cases"] if case["config"]["n_layer"] == 12 and case["T"] == 1024)
    assert figures(chrome)[0] == "124M" and figures(chrome)[2] == "1.6 hours"
    assert "on 4 H100s, 1.76M tokens a second" in text(chrome, ".zhw-bg > .zhw-title")
    heads = texts(chrome, ".zhw-bg-head")
    assert heads[0] == f"{sum(gpt2['parameters'].values()):,} parameters"
    assert heads[1] == f"{sum(gpt2['flops'].values()) / 1e6:.0f}M operations per token"
    assert parts(chrome, 0)["feed-forward"] == f"{gpt2['parameters']['feed-forward'] / 1e6:.1f}M"
    assert parts(chrome, 1)["output projection"] == f"{gpt2['flops']['output'] / 1e6:.0f}M"
    assert "80.3 tokens per parameter, 4 times" in texts(chrome, ".zhw-bg-said")[1]


def test_budget_follows_the_keyboard(visit):
    chrome = visit("budget")
    for name, key, wanted in (
        ("Layers", RIGHT, "16"),
        ("Width", RIGHT, "896, 14 heads"),
        ("Context", LEFT, "512 tokens"),
        ("GPUs", RIGHT, "8"),
        ("MFU", RIGHT, "39 %"),
    ):
        slider, output = knob(chrome, name)
        slider.send_keys(key)
        assert output.text == wanted and slider.get_attribute("aria-valuetext") == wanted
        assert chrome.switch_to.active_element == slider
    assert find(chrome, ".zhw-bar select").get_attribute("value") == "", "it is the reader's own run now"
    before = figures(chrome)
    price = find(chrome, ".zhw-bg input[type=number]")
    price.clear()
    price.send_keys("5")
    assert figures(chrome)[:3] == before[:3]
    cost = float(before[3][1:])
    assert float(figures(chrome)[3][1:]) == pytest.approx(2 * cost, abs=0.02)
    find(chrome, ".zhw option[value='A100']").click()
    assert price.get_attribute("value") == "5.00", "the reader's price stays"
    button(chrome, "Start again").click()
    assert figures(chrome)[2] == "1.6 hours" and price.get_attribute("value") == "2.50"


def test_budget_goes_to_chinchillas_number_and_back(visit):
    chrome = visit("budget")
    button(chrome, "20 tokens per parameter").click()
    assert texts(chrome, ".zhw-bg-said")[1].startswith("20 tokens per parameter: about Chinchilla's 20")
    assert knob(chrome, "Tokens")[1].text == "2.49B"
    button(chrome, "Back to 10B tokens").click()
    assert knob(chrome, "Tokens")[1].text == "10B"


def test_budget_says_what_does_not_fit(visit):
    chrome = visit("budget")
    assert "it fits" in texts(chrome, ".zhw-bg-said")[0]
    find(chrome, ".zhw option[value='RTX 4090']").click()
    turn(chrome, "Micro-batch", "high")
    assert "smaller micro-batch" in texts(chrome, ".zhw-bg-said")[0]
    assert chrome.find_elements("css selector", ".zhw-bg-said.zhw-grad")
    find(chrome, ".zhw-bar option[value='4']").click()
    assert "FSDP" in texts(chrome, ".zhw-bg-said")[0]


@pytest.mark.parametrize("ends", ["low", "high"])
@pytest.mark.parametrize("width", [1280, 390])
def test_budget_fits_at_the_ends_of_its_sliders(visit, width, ends):
    chrome = visit("budget", width)
    for name in ("Layers", "Width", "Context", "Tokens", "Micro-batch", "GPUs", "MFU"):
        turn(chrome, name, ends)
    for name in ("GPUs", "MFU") if ends == "high" else ():
        turn(chrome, name, "low")
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
    cut = (
        "return [...document.querySelectorAll('.zhw-bg :is(b, small, output, p, span)')]"
        ".filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display != 'inline').map(e => e.outerHTML)"
    )
    assert chrome.execute_script(cut) == []
    assert not re.search(
        "NaN|Infinity|undefined", chrome.execute_script("return document.querySelector('.zhw').innerText")
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("name", "selector", "value"),
    [
        ("flash", ".zhw-fl-slider input", 23),
        ("flash", ".zhw-fl-slider input", 26),
        ("budget", ".zhw-bg-sliders input", 18),
    ],
)
def test_every_state_can_be_read(visit, name, selector, value, scheme):
    from test_site import CONTRAST

    chrome = visit(name)
    if scheme == "dark":
        chrome.execute_script("document.documentElement.dataset.scheme = 'alternate'")
    script = (
        "const r = document.querySelector(arguments[0]); r.value = arguments[1]; r.dispatchEvent(new Event('input'))"
    )
    chrome.execute_script(script, selector, value)
    found = chrome.execute_script(CONTRAST)
    assert found["judged"] > 40 and found["bad"] == []


# ------------------------------------------------------------ inference: choosing a token, the cache and the guesses


def sampling():
    return json.loads((WIDGETS / "sampling.json").read_text(encoding="utf-8"))


def slide_to(chrome, n, value):
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    chrome.execute_script(script, chrome.find_elements("css selector", ".zhw-sa-knobs input")[n], value)


def as_percent(p):
    if p == 0:
        return "0"
    return "100 %" if p >= 0.9995 else f"{100 * p:.0f} %" if p >= 0.0995 else f"{100 * p:.1f} %"


@pytest.mark.parametrize("width", [1280, 390])
def test_sampling_bars_are_the_samplers(visit, width):
    import torch

    from zerohero.sampling import Sampler

    chrome, data = visit("sampling", width), sampling()
    logits = torch.tensor(data["logits"])
    for knobs, settings in (
        ({}, {}),
        ({0: 0.6}, {"temperature": 0.6}),
        ({0: 1.2, 2: 0.8}, {"temperature": 1.2, "top_p": 0.8}),
        ({1: 7, 3: 0.3}, {"top_k": 7, "min_p": 0.3}),
        ({0: 0}, {"temperature": 0}),
    ):
        button(chrome, "Start again").click()
        for n, value in knobs.items():
            slide_to(chrome, n, value)
        p = Sampler(**settings).log_probabilities(logits).exp().tolist()
        assert texts(chrome, ".zhw-sa-bars b") == [as_percent(x) for x in [*p[:20], sum(p[20:])]]
        assert figures(chrome)[0] == str(sum(x > 0 for x in p))
        struck = chrome.find_elements("css selector", ".zhw-sa-gone .zhw-sa-word")
        assert len(struck) == sum(x == 0 for x in p[:20]) + (not any(p[20:]))
    disabled = [not one.is_enabled() for one in chrome.find_elements("css selector", ".zhw-sa-knobs input")]
    assert disabled == [False, True, True, True, False, False, False]


def test_sampling_draws_and_remembers(visit):
    chrome = visit("sampling")
    drawn = ".zhw-sa-written"
    assert text(chrome, drawn) == "Nothing is drawn yet."
    first = texts(chrome, ".zhw-sa-bars b")
    for _ in range(3):
        button(chrome, "Draw a token").send_keys("\n")
    three = text(chrome, drawn)
    assert three.count("·") == 2 and texts(chrome, ".zhw-sa-bars b") == first
    slide_to(chrome, 5, 2)
    assert texts(chrome, ".zhw-sa-bars b") != first
    button(chrome, "Draw 100").click()
    counts = [int(note[:-2]) for note in texts(chrome, ".zhw-sa-bars small") if note]
    assert sum(counts) == 103
    button(chrome, "Start again").click()
    for _ in range(3):
        button(chrome, "Draw a token").click()
    assert text(chrome, drawn) == three, "the same chance again"


def decoding():
    return json.loads((WIDGETS / "decoding.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("width", [1280, 390])
def test_decoding_counts_what_is_computed(visit, width):
    chrome, data = visit("decoding", width), decoding()
    P, G = len(data["prompt"]), len(data["answer"])
    for n in range(1, G + 1):
        button(chrome, "Next").click()
        without, cached = sum(range(P, P + n)), P + n - 1
        assert figures(chrome) == [str(without), str(cached), f"{without / cached:.1f}"]
        for grid, count in zip(chrome.find_elements("css selector", ".zhw-de-map"), (without, cached)):
            assert len(grid.find_elements("css selector", ".zhw-de-work")) == count
            assert len(grid.find_elements("css selector", ".zhw-de-work, .zhw-de-kept")) == without
    assert not button(chrome, "Next").is_enabled()
    assert chrome.switch_to.active_element.text == "Back"


def test_decoding_writes_pass_by_pass(visit):
    chrome, data = visit("decoding"), decoding()
    find(chrome, ".zhw-bar option[value='guesses']").click()
    written = data["request"] + "\n\n"
    for n, one in enumerate(data["passes"], 1):
        button(chrome, "Next").click()
        written += "".join(one["guesses"][: one["accepted"]]) + one["next"]
        shown = chrome.execute_script("return document.querySelector('.zhw-de-text').textContent")
        assert shown == written
        assert text(chrome, ".zhw-de > .zhw-title").startswith(f"Pass {n}: {one['accepted']} of {len(one['guesses'])} ")
    accepted = sum(one["accepted"] for one in data["passes"])
    assert figures(chrome)[:2] == [str(n), f"{(accepted + n) / n:.2f}"]
    button(chrome, "Back").click()
    assert len(chrome.find_elements("css selector", ".zhw-de-passes li:not(.zhw-de-hidden)")) == n - 1


@pytest.mark.parametrize("calm", [True, False], ids=["calm", "moving"])
def test_decoding_plays(visit, calm):
    chrome = visit("decoding", calm=calm)
    where, end = ".zhw-fl-slider output", len(decoding()["answer"])
    button(chrome, "Play").click()
    if calm:
        assert text(chrome, where) == f"step {end} of {end}"
        return
    eventually(lambda: text(chrome, where) == f"step 3 of {end}", "the steps come by themselves")
    button(chrome, "Pause").click()
    paused = text(chrome, where)
    chrome.execute_async_script("setTimeout(arguments[0], 1300)")
    assert text(chrome, where) == paused


def test_decoding_goes_by_the_keyboard(visit):
    from selenium.webdriver.support.ui import Select

    chrome, data = visit("decoding"), decoding()
    where = ".zhw-fl-slider output"
    find(chrome, ".zhw-fl-slider input").send_keys(RIGHT, RIGHT, RIGHT, LEFT)
    assert text(chrome, where) == f"step 2 of {len(data['answer'])}"
    choice = find(chrome, ".zhw-bar select")
    choice.send_keys(DOWN)
    assert Select(choice).first_selected_option.text == "Guess and check"
    assert text(chrome, where) == f"step 0 of {len(data['passes'])}"
    shown = [box.is_displayed() for box in chrome.find_elements("css selector", ".zhw-de-map, .zhw-de-passes")]
    assert shown == [False, False, True]
    button(chrome, "Next").send_keys("\n")
    for _ in data["passes"][1:]:
        chrome.switch_to.active_element.send_keys("\n")
    assert text(chrome, where) == f"step {len(data['passes'])} of {len(data['passes'])}"
    assert chrome.switch_to.active_element.text == "Back"


def test_decoding_says_what_the_cache_forgets(visit):
    chrome, data = visit("decoding"), decoding()
    find(chrome, ".zhw-bar option[value='guesses']").click()
    for one in data["passes"]:
        button(chrome, "Next").click()
        wrong, said = len(one["guesses"]) - one["accepted"], text(chrome, ".zhw-de-why")
        forgets = re.search(r"Its cache forgets (\d+) positions?\.$", said)
        assert (int(forgets[1]) if forgets else 0) == wrong
        line = ".zhw-de-passes li.zhw-de-now .zhw-de-"
        counts = [len(texts(chrome, line + kind)) for kind in ("guess", "wrong", "unread", "target")]
        assert counts == [one["accepted"], min(wrong, 1), max(wrong - 1, 0), 1]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["sampling", "decoding", "guesses"])
def test_choosing_and_decoding_can_be_read_in_every_state(visit, name, scheme, width):
    from test_site import CONTRAST

    chrome = visit("sampling" if name == "sampling" else "decoding", width)
    if scheme == "dark":
        chrome.execute_script("document.documentElement.dataset.scheme = 'alternate'")
    if name == "sampling":
        button(chrome, "Draw 100").click()
        slide_to(chrome, 1, 6)
        slide_to(chrome, 6, 0.5)
    else:
        if name == "guesses":
            find(chrome, ".zhw-bar option[value='guesses']").click()
        button(chrome, "Play").click()  # a calm reader sees the end at once
    found = chrome.execute_script(CONTRAST)
    assert found["judged"] > 40 and found["bad"] == []
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
    cut = (
        "return [...document.querySelectorAll('.zhw b, .zhw small, .zhw output, .zhw button, .zhw-sa-word, .zhw-de-cells, "
        ".zhw-de-cells span, .zhw-de-row span')].filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1 "
        "&& getComputedStyle(e).display != 'inline').map(e => e.outerHTML)"
    )
    assert chrome.execute_script(cut) == []


def test_the_same_heights_whatever_happens(visit):
    """What is below must not jump while a reader presses Next."""
    chrome, data = visit("decoding", 390), decoding()
    height = "return document.querySelector('.zhw').getBoundingClientRect().height"
    for view in ("cache", "guesses"):
        find(chrome, f".zhw-bar option[value='{view}']").click()
        heights = {round(chrome.execute_script(height))}
        for _ in data["answer" if view == "cache" else "passes"]:
            button(chrome, "Next").click()
            heights.add(round(chrome.execute_script(height)))
        assert len(heights) == 1, f"{view}: {sorted(heights)}"
