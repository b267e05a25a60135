"""How many stories sampled from a model keep their facts straight."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.infer import LanguageModel


def check_samples(model: LanguageModel, count: int = 100, seed: int = 0) -> dict[str, Any]:
    """Samples `count` stories as the run's `[sample]` section says, from the start of a document, and checks each.

    Returns `{"passed", "of", "problems": {problem: how many stories have it}}`, every problem of every story, the most
    frequent first.
    """
    # Compiling the grammar takes a moment, and only runs on stories need it.
    from jslm.corpora.stories import check_story

    stories = model.generate("", num_samples=count, seed=seed)
    problems: Counter[str] = Counter()
    passed = 0
    for story in stories:
        found = check_story(str(story).strip())
        passed += not found
        problems.update(set(found))
    return {"passed": passed, "of": len(stories), "problems": dict(problems.most_common())}
