"""The words that the check of rewrites needs (`jslm.infer.faithful`): small ones, and irregular verbs.

They travel in the portable file and the page of a model that asks for the check, so that a reader in another language
has no words of its own, and checks by those that the model's threshold was chosen with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

REWRITE_WORDS: Final[Mapping[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
