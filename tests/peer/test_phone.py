"""A run's report and the inspection page on a phone: nothing is cut or scrolls sideways, in a real browser."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jslm.config import config_from_dict
from jslm.inspect.__main__ import main as inspect
from jslm.prepare import prepare
from jslm.train.metrics import MetricsLog
from jslm.train.report import append_samples, write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
# Elements that reach past the screen, but for what stands in a box that scrolls by itself.
PAST_THE_EDGE = """() => [...document.querySelectorAll("body *")].filter(one => {
  const box = one.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 0.5 || box.left < -0.5) && !one.closest("pre, .scroll, caption");
}).map(one => `${one.tagName}.${one.className} ${one.textContent.slice(0, 40)}`)"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run that has all sections, with large numbers and long words."""
    folder = tmp_path_factory.mktemp("a_run_with_a_name_that_is_far_longer_than_any_phone_is_wide")
    with MetricsLog(folder, resume_step=None) as log:
        for step in range(10, 410, 10):
            loss = 1.2 + 5 * math.exp(-step / 20)
            log.write(step, {"train/loss": loss, "lr": 1e-3 / step, "grad_norm": 9 / step, "tokens_per_s": 4e4})
            if step % 100 == 0:
                log.write(step, {"val/loss": loss, "val/bits_per_byte": 0.43 * loss})
    problems = {f"not a sentence that fits here: {'x' * 60} {number}": 100 - number for number in range(20)}
    split = {"tokens": 1_123_456_789, "documents": 12_345_678, "bytes": 5_010_000_000}
    info = {
        "status": "finished", "steps": 400, "devices": "2 CPU cores", "parameters": {"total": 9, "token_embedding": 9},
        "data": {"train": split, "val": split, "sources": ["stories:20MB"]}, "python": "3.13.1 of a long description",
        "story_check": {"passed": 0, "of": 100, "problems": problems}, "mesh": {"data": 2, "fsdp": 1, "tensor": 1},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(info))
    (folder / "config.toml").write_text(f'run_dir = "{"x" * 200}"\n')
    append_samples(folder / "samples.md", 400, [("Once", " upon a " + "time" * 40)])
    return write_report(folder)


@pytest.fixture(scope="module")
def inspection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    (folder / "text.txt").write_text("\n\n".join(f"the cat number {n} sat on {'word' * (n % 9)}" for n in range(900)))
    values = {
        "run_dir": str(folder / "run"),
        "data": {"source": str(folder / "text.txt"), "dir": str(folder / "data"), "separator": "\n\n"},
        "tokenizer": {"kind": "bpe", "vocab_size": 300},
    }
    prepare(config_from_dict(values, "test"))
    assert inspect([str(folder / "data"), "--html", str(folder / "page.html")]) == 0
    return folder / "page.html"


@pytest.fixture
def phone() -> Iterator[Any]:
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True)
        yield context.new_page()
        browser.close()


def is_within_the_screen(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate(PAST_THE_EDGE) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_report_fits(phone: Any, report: Path) -> None:
    phone.goto(report.as_uri())
    is_within_the_screen(phone)
    # The story check's words have most of the width, and its folded rest is all there.
    assert phone.locator("table.bars", has_text="problem").first.locator("tbody th").first.bounding_box()["width"] > 180
    assert phone.get_by_text("12 more problems").is_visible()
    assert phone.locator("table.bars tbody tr", has_text="not a sentence").count() == 20


def test_the_inspection_page_fits_and_tells_of_tokens_by_touch(phone: Any, inspection: Path) -> None:
    phone.goto(inspection.as_uri())
    is_within_the_screen(phone)
    cut = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth).length"
    assert phone.evaluate(cut) == 0
    token = phone.locator(".token").nth(5)
    token.tap()
    shown = phone.evaluate("getComputedStyle(document.activeElement, '::after').content")
    assert token.get_attribute("title") in shown.replace("\\", "")
