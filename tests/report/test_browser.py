"""The page in a real browser: it loads nothing, fits a phone, and has colours for light and dark."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from home import Home

from selfimp_dagster.report import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_DESKTOP, _PHONE = 1280, 390


@pytest.fixture(scope="module")
def url(two_rounds: Home, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(two_rounds.store, "tiny", tmp_path_factory.mktemp("page") / "report.html").as_uri()


@pytest.fixture
def page(browser: "Browser", request: pytest.FixtureRequest) -> Iterator["Page"]:
    """A page of the width and colour scheme that a test is parametrized with."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    yield context.new_page()
    context.close()


_EVERY = [(width, scheme) for width in (_DESKTOP, _PHONE) for scheme in ("light", "dark")]


@pytest.mark.parametrize("page", _EVERY, indirect=True)
def test_nothing_is_loaded_nothing_is_wrong_and_nothing_is_cut_off(page: "Page", url: str) -> None:
    said: list[str] = []
    loaded: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: loaded.append(request.url))
    page.goto(url)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert (said, loaded) == ([], [url])
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    beyond = """[...document.querySelectorAll('main *')].filter(one =>
        one.getBoundingClientRect().right > innerWidth + 1 && !one.closest('.scroll, pre, svg')).length"""
    assert page.evaluate(beyond) == 0


@pytest.mark.parametrize("page", [(_DESKTOP, "light"), (_DESKTOP, "dark")], indirect=True)
def test_text_stands_out_in_light_and_in_dark(page: "Page", url: str) -> None:
    page.goto(url)
    paper = _rgb(page, "body", "backgroundColor")
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (_luminance(paper) < 0.05) is dark
    assert (_luminance(paper) > 0.9) is not dark
    for element, colour in (("body", "color"), (".soft", "color"), ("svg text", "fill"), ("h2", "color")):
        assert _contrast(_rgb(page, element, colour), paper) >= 4.5, element
    for badge in (".badge.promoted", ".badge.rejected"):
        if page.locator(badge).count():
            back = _rgb(page, badge, "backgroundColor")
            assert _contrast(_rgb(page, badge, "color"), back) >= 4.5, badge
    assert _contrast(_rgb(page, "svg .promoted circle", "fill"), paper) >= 3


@pytest.mark.parametrize("page", [(_PHONE, "light")], indirect=True)
def test_a_link_in_the_tree_opens_its_round(page: "Page", url: str) -> None:
    page.goto(url)
    first = page.locator("#round-0000")
    assert not first.is_visible()
    page.get_by_role("link", name="0000", exact=True).click()
    assert first.is_visible()


@pytest.mark.parametrize("page", [(_DESKTOP, "dark")], indirect=True)
def test_it_prints_on_white(page: "Page", url: str) -> None:
    page.goto(url)
    page.emulate_media(media="print", color_scheme="dark")
    assert _luminance(_rgb(page, "body", "backgroundColor")) > 0.9
    assert not page.locator("nav.contents").is_visible()


def _rgb(page: "Page", selector: str, colour: str) -> tuple[float, ...]:
    found = page.locator(selector).first.evaluate(f"one => getComputedStyle(one).{colour}")
    return tuple(float(part) for part in found[found.index("(") + 1 : -1].split(",")[:3])


def _luminance(rgb: tuple[float, ...]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [c / 12.92 if (c := part / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for part in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)
