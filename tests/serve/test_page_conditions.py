"""The served page of a model with conditions, in a real browser."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from jslm.infer import LanguageModel

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


def test_conditions_are_chosen_by_label(
    make_site: Callable[..., Any], styled: LanguageModel, letters: LanguageModel
) -> None:
    rewriter = copy.copy(styled)
    data = styled.config.data.model_copy(update={"template": "{prompt} => {completion}"})
    rewriter.config = styled.config.model_copy(update={"data": data})
    site = make_site({"styled": rewriter, "letters": letters})
    problems: list[str] = []
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        asked: list[Any] = []
        page.on("request", lambda request: asked.extend([request.post_data_json] * (request.method == "POST")))
        page.goto(f"http://127.0.0.1:{site.port}")
        group = page.get_by_role("group", name="What the text is to be")
        group.get_by_label("style").select_option("formal")
        page.locator("#seed").fill("4")
        page.locator("#max_tokens").fill("20")
        page.get_by_role("button", name="Write").click()
        page.get_by_text("a second").wait_for()
        assert asked.pop()["conditions"] == {"style": "formal"}
        page.get_by_role("tab", name="Rewrite").click()
        page.fill("#sentences", "It is seen.")
        group.get_by_label("tone").select_option("kind")
        page.get_by_role("button", name="Rewrite").click()
        page.get_by_text("1 rewritten.").wait_for()
        assert asked.pop()["conditions"] == {"style": "formal", "tone": "kind"}
        page.get_by_role("tab", name="About the model").click()
        assert group.is_hidden()
        page.get_by_role("tab", name="Write", exact=True).click()
        assert group.is_visible()
        page.locator("#model").select_option("letters")
        assert group.is_hidden()
        page.get_by_role("button", name="Write").click()
        page.get_by_text("a second").wait_for()
        assert asked.pop()["conditions"] == {}
        browser.close()
    assert problems == []
