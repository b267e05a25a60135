"""The verb that turns a corpus into token files: `prepare`, and `ensure_prepared` for the other verbs."""

from jslm.prepare.check import PreparedData
from jslm.prepare.pipeline import ensure_prepared, prepare

__all__ = ["PreparedData", "ensure_prepared", "prepare"]
