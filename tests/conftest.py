"""What every test file relies on: the tools importable by name, figures without a screen, no time limit on slow machines,
and one browser for all pages."""

import importlib.util
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
os.environ.setdefault("MPLBACKEND", "Agg")
settings.register_profile("book", deadline=None)
settings.load_profile("book")
# tools/site.py has the name of a module of Python's own
spec = importlib.util.spec_from_file_location("site_tool", ROOT / "tools/site.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def find_browser():
    """Paths of a Chromium and of its driver; None where one is missing."""
    beside = Path(os.environ.get("CHROMEWEBDRIVER", ""), "chromedriver.exe" if os.name == "nt" else "chromedriver")
    driver = shutil.which("chromedriver") or (str(beside) if beside.is_file() else None)
    usual = (
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    )
    names = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"
    browser = next(filter(None, map(shutil.which, names)), None) or next(filter(os.path.isfile, usual), None)
    return browser, driver


@pytest.fixture(scope="session")
def chrome(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser, driver = find_browser()
    if not (browser and driver):
        pytest.skip(f"no {'chromedriver' if browser else 'Chromium or Chrome'} on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    session.set_script_timeout(60)
    yield session
    session.quit()


@pytest.fixture(scope="module")
def one_thread():
    """Networks of this size only wait for a second thread, on a busy machine for minutes."""
    import torch

    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


def eventually(condition, what, seconds=5):
    """Wait until `condition()` is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(0.05)
    return value
