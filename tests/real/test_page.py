"""The page of ``phi3quant report`` in a browser: what it looks like to someone who opens it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.reporting.page import write_page
from phi3quant.reporting.report import make_report
from phi3quant.run.calibration import Calibration
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe

REQUIRED = "PHI3QUANT_REQUIRE_BROWSER"
"""Set where a missing browser is a failure: not every machine can have one."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESK = 390, 1280
WHITE = (255, 255, 255)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on the bundled model by AWQ, in three formats, and by plain rounding."""
    folder = tmp_path_factory.mktemp("report")
    few = Calibration(samples=16)
    formats = ("compressed-tensors", "gguf", "onnx")
    quantize("phi3-tiny", folder / "awq", Recipe("awq", formats=formats, calibration=few))
    quantize("phi3-tiny", folder / "rtn", Recipe("rtn"))
    report = make_report([folder / "awq", folder / "rtn"], text=EvaluationText(max_tokens=4096))
    write_page(folder / "report.html", report)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        missing = "no browser to look at the page with: chromium and chromium-driver are wanted"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{missing}, and {REQUIRED} is set")
        pytest.skip(missing)
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.fixture
def show(browser: Any, page: Path) -> Callable[..., Any]:
    """A function that opens the page at a width, by day or by night."""

    def opened(width: int, *, dark: bool = False) -> Any:
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width == PHONE}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        browser.get(page.as_uri())
        return browser

    return opened


def colour(browser: Any, selector: str, which: str) -> tuple[int, ...]:
    """A computed colour of the first element that is selected."""
    found = browser.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]",
        *(selector, which),
    )
    return tuple(int(part) for part in found[found.index("(") + 1 : -1].split(",")[:3])


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_without_a_complaint_and_nothing_runs_over(
    show: Callable[..., Any], width: int, *, dark: bool
) -> None:
    browser = show(width, dark=dark)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return innerWidth") == width
    over = "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
    assert browser.execute_script(over) == 0
    loaded = browser.execute_script("return performance.getEntriesByType('resource').length")
    assert loaded == 0
    # Nothing that can be seen sticks out, save in boxes that scroll by themselves.
    out = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter(each => !each.closest('.scroll')"
        " && each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML)"
    )
    assert out == []


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_tables_and_figures_take_up_room(show: Callable[..., Any], width: int) -> None:
    browser = show(width)
    areas = browser.execute_script(
        "return [...document.querySelectorAll('figure svg, #quality table, #divergence table')]"
        ".map(each => [each.getBoundingClientRect().width, each.getBoundingClientRect().height])"
    )
    assert len(areas) == 5
    assert all(wide > 250 and high > 100 for wide, high in areas)
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('figure svg text')]"
        ".map(each => each.getBoundingClientRect().height)"
    )
    assert len(drawn) > 40
    # On a phone, letters in figures may not be shrunk to nothing.
    assert min(drawn) > 7


def test_night_is_dark_and_letters_still_show(show: Callable[..., Any]) -> None:
    for dark in (False, True):
        browser = show(PHONE, dark=dark)
        paper = sum(colour(browser, "body", "backgroundColor"))
        assert (paper < 150) == dark
        for selector, which in (
            *(("p", "color"), ("td", "color"), (".note", "color"), ("summary", "color")),
            ("figure svg text", "fill"),
        ):
            assert abs(sum(colour(browser, selector, which)) - paper) > 250, (selector, dark)


def test_paper_shows_what_is_folded_away(show: Callable[..., Any]) -> None:
    browser = show(DESK, dark=True)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert colour(browser, "body", "backgroundColor") == WHITE
    heights = browser.execute_script(
        "return [...document.querySelectorAll('details table, details ol')]"
        ".map(each => each.getBoundingClientRect().height)"
    )
    assert len(heights) > 4
    assert min(heights) > 10
