"""What every test file relies on: the tools importable by name, figures without a screen, no time limit on slow machines,
a browser, and what is made once for all processes that run tests."""

import importlib.util
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
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


def pytest_addoption(parser):
    parser.addoption("--deep", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config, items):
    """What takes long begins first, so that no process is left alone with it at the end. The other tests of a file stay
    together, since what they share is made once for each process."""
    for item in items:
        if not (item.get_closest_marker("long") or item.path.stem in ("test_site", "test_widgets")):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        if item.get_closest_marker("deep") and not config.getoption("--deep"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: make test-deep"))
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id):
    """`made_once(name, make)`: a folder that `make(folder)` filled, once, whichever process came first."""

    def folder(name, make):
        if worker_id == "master":  # the only process
            path = tmp_path_factory.mktemp(name)
            make(path)
            return path
        shared = tmp_path_factory.getbasetemp().parent / name
        with FileLock(f"{shared}.lock"):
            if not (ready := shared / ".ready").exists():
                shutil.rmtree(shared, ignore_errors=True)
                shared.mkdir()
                make(shared)
                ready.touch()
        return shared

    return folder


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


def start_chrome(profile, **environment):
    """A browser session, with `environment` beside what is set already."""
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
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(driver, env={**os.environ, **environment})
    session = webdriver.Chrome(options=options, service=service)
    session.set_script_timeout(60)
    return session


@pytest.fixture(scope="session")
def chrome(tmp_path_factory):
    session = start_chrome(tmp_path_factory.mktemp("profile"))
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


def eventually(condition, what, seconds=60):
    """Wait until `condition()` is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(0.05)
    return value
