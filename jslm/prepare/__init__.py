"""The verb that turns a corpus into token files: `prepare`, and `ensure_prepared` for the other verbs."""

from jslm.prepare.check import PreparedData, stale_corpus
from jslm.prepare.pipeline import check_prepared, ensure_prepared, prepare

__all__ = ["PreparedData", "check_prepared", "ensure_prepared", "prepare", "stale_corpus"]
