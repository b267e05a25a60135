"""The judging page in a real browser: by keyboard and by touch, on a phone and a desk, and blind until the end."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jslm.judge.answers import Answers
from jslm.judge.desk import Desk
from jslm.judge.server import JudgeServer
from jslm.judge.study import Pair, open_study

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
HOSTILE = "<img src=x onerror=alert(1)><b>bold</b> & " + "long" * 60
PAIRS = [Pair("<i>Once</i>", f"first {n} {HOSTILE}", f"other {n}\n\n" + "upon a time " * 40) for n in range(3)]
PAST_THE_EDGE = """() => [...document.querySelectorAll("body *")].filter(one => {
  const box = one.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map(one => `${one.tagName}.${one.className} ${one.textContent.slice(0, 40)}`)"""
# WCAG 2: the ratio of what is written to what it is written on.
CONTRAST = """id => {
  const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(part => part / 255)
    .map(part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const one = document.getElementById(id);
  let under = one;
  while (getComputedStyle(under).backgroundColor === "rgba(0, 0, 0, 0)") under = under.parentElement;
  const both = [getComputedStyle(one).color, getComputedStyle(under).backgroundColor].map(light).sort((a, b) => b - a);
  return (both[0] + 0.05) / (both[1] + 0.05);
}"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., tuple[Desk, str]]]:
    """`serve(scales=..., people=...)`: the desk behind a page, and its address."""
    running = []

    def begin(scales: bool = False, people: int = 1) -> tuple[Desk, str]:
        sides = {name: {"path": name, "step": 1, "label": f"secret-{name}"} for name in "ab"}
        study = open_study(tmp_path / "study", {**sides, "scales": scales}, lambda: PAIRS)
        desk = Desk(study, Answers(study), people, lambda _: None)
        server = JudgeServer(desk, "127.0.0.1", 0)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return desk, server.url

    yield begin
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def open_page() -> Iterator[Callable[..., Any]]:
    """`open_page(url, width, **options)`: a page that may neither log an error nor ask another host for anything."""
    problems: list[str] = []
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def begin(url: str, width: int, **options: Any) -> Any:
            page = browser.new_context(viewport={"width": width, "height": 740}, **options).new_page()
            page.set_default_timeout(60_000)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("dialog", lambda dialog: problems.append(dialog.message))
            page.on("request", lambda request: problems.extend([request.url] * (not request.url.startswith(url))))
            page.goto(url)
            return page

        yield begin
        browser.close()
    assert problems == []


def log_in(page: Any, name: str) -> None:
    page.fill("#name", name)
    page.keyboard.press("Enter")
    page.locator("#pair").wait_for()


def answered(page: Any, text: str) -> None:
    playwright.expect(page.locator("#progress")).to_have_text(text, timeout=60_000)


def test_by_keyboard_on_a_desk(serve: Callable[..., tuple[Desk, str]], open_page: Callable[..., Any]) -> None:
    desk, url = serve(people=2)
    page = open_page(url, 1280)
    log_in(page, "Ada")
    answered(page, "Ada: 0 of 3 answered")
    assert page.locator("#prompt").inner_text() == "<i>Once</i>"
    assert "<img src=x" in page.locator("main").inner_text()
    left, right = (page.locator(f"article:has(#{side})").bounding_box() for side in ("left", "right"))
    assert left["y"] == right["y"]
    assert "Keys: 1 to 3" in page.locator("#keys").inner_text()
    page.keyboard.press("9")
    page.keyboard.press("ArrowLeft")
    answered(page, "Ada: 1 of 3 answered")
    page.keyboard.press("Backspace")
    page.locator("button[aria-pressed=true]", has_text="First").wait_for()
    page.keyboard.press("3")
    answered(page, "Ada: 1 of 3 answered")
    ((number, given),) = desk.answers.given("Ada").items()
    assert given["better"] == (-1 if desk.study.left("Ada", number) == "a" else 1)
    # Who comes back, by name, goes on at the next pair.
    page.reload()
    log_in(page, "ada")
    answered(page, "Ada: 1 of 3 answered")
    for count in (2, 3):
        page.keyboard.press("2")
        if count == 2:
            answered(page, "Ada: 2 of 3 answered")
    page.get_by_text("1 of 2 people have answered all. The result is shown when all have.").wait_for()
    assert "secret" not in page.content()
    other = open_page(url, 1280)
    log_in(other, "Bo")
    for count in range(1, 4):
        assert "secret" not in other.content()
        other.locator("button", has_text="First").click()
        if count < 3:
            answered(other, f"Bo: {count} of 3 answered")
    other.get_by_text("secret-a against secret-b: 3 prompts, 2 people").wait_for()
    assert "Krippendorff's alpha" in other.locator("#result").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_by_touch_on_a_phone(
    scheme: str, serve: Callable[..., tuple[Desk, str]], open_page: Callable[..., Any]
) -> None:
    desk, url = serve(scales=True)
    page = open_page(url, 360, has_touch=True, is_mobile=True, color_scheme=scheme)
    assert page.evaluate(PAST_THE_EDGE) == []
    page.fill("#name", "Ada")
    page.get_by_role("button", name="Begin").tap()
    page.locator("#pair").wait_for()
    for count in range(3):
        answered(page, f"Ada: {count} of 3 answered")
        assert page.evaluate(PAST_THE_EDGE) == []
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        # The buttons stay in sight, however long the texts are.
        groups = page.locator("fieldset")
        for group in (groups.nth(0), groups.nth(1)):
            box = group.locator("button").nth(3).bounding_box()
            assert box["y"] + box["height"] <= 740
            assert box["height"] >= 44
        for shown in ("left", "prompt", "progress"):
            assert page.evaluate(CONTRAST, shown) >= 4.5
        groups.nth(0).locator("button").nth(4).tap()
        groups.nth(1).locator("button").nth(0).tap()
    page.get_by_text("secret-a against secret-b: 3 prompts, 1 person").wait_for()
    assert page.evaluate(PAST_THE_EDGE) == []
    given = desk.answers.given("Ada")
    assert all(values["coherence"] == -values["quality"] != 0 for values in given.values())


def test_an_answer_that_does_not_arrive_is_said(
    serve: Callable[..., tuple[Desk, str]], open_page: Callable[..., Any]
) -> None:
    desk, url = serve()
    page = open_page(url, 800)
    log_in(page, "Ada")
    page.route("**/api/answer", lambda route: route.abort())
    page.keyboard.press("1")
    page.get_by_text("The server does not answer. What you have answered is kept").wait_for()
    page.unroute("**/api/answer")
    page.keyboard.press("3")
    answered(page, "Ada: 1 of 3 answered")
    assert not page.locator("#problem").is_visible()
    assert len(desk.answers.given("Ada")) == 1
