"""The served page in a real browser: types, streams, stops, rewrites, and never lets text become markup."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jslm.config import config_from_dict
from jslm.train import train

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("starlette", reason="the extra `serve` is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]

HOSTILE = "<img src=x onerror=alert(1)> & <b>bold</b>\n"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of a model that has learned to write markup and endless lines."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "text.txt").write_text(HOSTILE * 400, "utf-8")
    values = {
        "run_dir": str(folder / "run"),
        "data": {"source": str(folder / "text.txt"), "split": "position", "end_of_text": "never"},
        "tokenizer": {"kind": "char"},
        "model": {"n_layers": 2, "d_model": 32, "n_heads": 2, "context_length": 2048, "dtype": "float32"},
        "optimizer": {"name": "muon", "learning_rate": 1e-2, "warmup_steps": 5},
        "train": {
            "steps": 60, "batch_size": 2, "curriculum": [{"context": 64, "until": 1.0}], "eval_batches": 1,
            "eval_every": 20, "tensorboard": False, "report": False,
        },
    }  # fmt: skip
    train(config_from_dict(values, "test"))
    (folder / "run" / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message.content }}\n{% endfor %}", "utf-8"
    )
    command = [sys.executable, "-m", "jslm.serve", "--run", str(folder / "run"), "--port", "0"]
    log = (folder / "log").open("w+")
    server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        yield _wait(server, folder / "log")
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def _wait(server: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(600):
        assert server.poll() is None, log.read_text("utf-8")
        text = log.read_text("utf-8")
        if "http://" in text:
            url = "http://" + text.split("http://")[1].split()[0]
            try:
                with urllib.request.urlopen(f"{url}/ready") as answer:
                    if answer.status == 200:
                        return url
            except urllib.error.HTTPError:
                pass
        time.sleep(0.5)
    raise AssertionError(log.read_text("utf-8"))


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """The page, opened; it must neither log an error nor ask another host for anything."""
    problems: list[str] = []
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page()
        opened.set_default_timeout(60_000)
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("dialog", lambda dialog: problems.append(dialog.message))
        opened.on("request", lambda request: problems.extend([request.url] * (not request.url.startswith(address))))
        opened.goto(address)
        opened.locator("#model option").first.wait_for(state="attached")
        yield opened
        browser.close()
    assert problems == []


def greedy(page: Any, tokens: int) -> None:
    for name, value in (("temperature", 0), ("max_tokens", tokens)):
        page.locator(f"#{name}").fill(str(value))


def test_it_streams_text_as_text(page: Any) -> None:
    greedy(page, 40)
    page.fill("#prompt", "<img src")
    page.keyboard.press("Control+Enter")
    page.get_by_text("a second").wait_for()
    text = page.locator("#output").text_content()
    # Learned by heart, more or less.
    assert text.startswith("<img src=x one")
    assert "<b>" in text
    assert page.locator("#output img, #output b").count() == 0
    assert page.locator("#output .token").count() == 40
    # Probabilities: by pointer, and token by token with the keyboard.
    page.locator("#output .token").nth(3).hover()
    assert "%" in page.locator("#tip").text_content()
    page.locator("#output").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#status").text_content().endswith(" %")
    page.click("#keep")
    assert page.input_value("#prompt") == text


def test_stop_and_again(page: Any) -> None:
    greedy(page, 2000)
    page.click("#write")
    page.locator("#output .token").nth(20).wait_for(state="attached")
    page.keyboard.press("Escape")
    page.get_by_text("Stopped.").wait_for()
    written = page.locator("#output .token").count()
    assert written < 2000
    time.sleep(0.5)
    assert page.locator("#output .token").count() == written
    greedy(page, 10)
    page.click("#again")
    page.get_by_text("10 tokens in").wait_for()
    assert page.locator("#output .token").count() == 10


def tell_that_it_rewrites(page: Any) -> None:
    """The page again, with a list of models in which this one has learned pairs."""

    def changed(route: Any) -> None:
        answer = route.fetch()
        found = answer.json()
        found["data"][0]["rewrites"] = True
        route.fulfill(response=answer, json=found)

    page.route("**/v1/models", changed)
    page.reload()
    page.locator("#tab-rewrite").wait_for()


def test_rewrites_show_their_differences(page: Any) -> None:
    assert not page.locator("#tab-rewrite").is_visible(), "the model has learned no pairs"
    tell_that_it_rewrites(page)
    page.click("#tab-rewrite")
    page.fill("#sentences", "<b>bold\n\n<img src=x")
    page.click("#rewrite")
    page.get_by_text("2 rewritten.").wait_for()
    assert page.locator("#rewrites li").count() == 2
    assert page.locator("#rewrites ins").count() >= 1
    assert page.locator("#rewrites img, #rewrites b").count() == 0
    assert "confidence" in page.locator("#rewrites").text_content()
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_chat_streams_turns(page: Any) -> None:
    greedy(page, 20)
    page.click("#tab-chat")
    page.fill("#say", "<b>bold</b>")
    page.click("#send")
    page.locator("#send:enabled").wait_for()
    turns = page.locator("#messages li span").all_text_contents()
    assert turns[0] == "<b>bold</b>"
    assert len(turns) == 2
    assert turns[1]
    page.click("#clear")
    assert page.locator("#messages li").count() == 0


def test_the_model_is_described(page: Any) -> None:
    page.click("#tab-run")
    page.locator("#card tr").first.wait_for()
    assert "parameters" in page.locator("#card").text_content()
    assert page.locator("#curves svg circle").count() >= 3


def test_tabs_by_keyboard(page: Any) -> None:
    tell_that_it_rewrites(page)
    page.locator("#tab-write").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tab-rewrite").get_attribute("aria-selected") == "true"
    assert page.locator("#panel-rewrite").is_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#panel-run").is_visible()
    # Every field has a name for those who cannot see it.
    unnamed = page.locator("input, textarea, select, button").evaluate_all(
        "all => all.filter(one => !(one.labels?.length || one.textContent.trim() || one.ariaLabel)).map(one => one.id)"
    )
    assert unnamed == []


def test_errors_are_told(page: Any) -> None:
    page.fill("#prompt", "x" * 4000)
    page.click("#write")
    page.locator("#problem", has_text="this model takes 2047").wait_for()
    assert page.locator("#write").is_enabled()


def test_probabilities_open_by_touch_on_a_phone(page: Any) -> None:
    phone = page.context.browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    touched = phone.new_page()
    touched.goto(page.url)
    touched.locator("#model option").first.wait_for(state="attached")
    greedy(touched, 30)
    touched.fill("#prompt", "<img src")
    touched.locator("#write").tap()
    touched.get_by_text("a second").wait_for()
    tip = touched.locator("#tip")
    for number in (3, 12):
        touched.locator("#output .token").nth(number).tap()
        assert "%" in tip.text_content()
        assert tip.is_visible(), "the tip went when the finger did"
        assert touched.locator("#output .token.shown").count() == 1
    touched.locator("#prompt").tap()
    assert not tip.is_visible()
    for tab in ("write", "chat", "run"):
        touched.locator(f"#tab-{tab}").tap()
        widths = touched.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert widths == [360, 360], tab
    phone.close()
