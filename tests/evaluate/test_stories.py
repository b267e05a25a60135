"""The story check of a run tells of every problem, however many there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jslm.corpora.stories import check_story
from jslm.evaluate.stories import check_samples
from jslm.train.report import write_report


class Writer:
    """Stands for a model that writes as many kinds of nonsense as stories."""

    def generate(self, prompt: str, *, num_samples: int, seed: int) -> list[str]:
        return [f"The {number} purple bytes sang." for number in range(num_samples)]


def test_every_problem_of_every_story_is_listed() -> None:
    model: Any = Writer()
    check = check_samples(model, count=20)
    wanted = {problem for story in model.generate("", num_samples=20, seed=0) for problem in check_story(story)}
    assert len(wanted) > 20
    assert set(check["problems"]) == wanted
    assert (check["passed"], check["of"]) == (0, 20)
    counts = list(check["problems"].values())
    assert counts == sorted(counts, reverse=True)


def test_the_report_lists_them_all_too(tmp_path: Path) -> None:
    problems = ", ".join(f'"problem {number}": {100 - number}' for number in range(30))
    (tmp_path / "run.json").write_text(f'{{"story_check": {{"passed": 0, "of": 100, "problems": {{{problems}}}}}}}')
    page = write_report(tmp_path).read_text("utf-8")
    assert all(f">problem {number}<" in page for number in range(30))
    assert "22 more problems" in page
