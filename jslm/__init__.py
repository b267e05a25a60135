"""jslm: raw text in, a small language model out.

`jslm.load(path)` opens a run folder (or one exported file) as a `LanguageModel`; `jslm.train(config)` trains one, and
calls functions of yours; everything else is a verb: `jslm prepare`, `jslm sample`. Importing this package imports no
heavy library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jslm.lazy import lazy_names

__version__ = "0.1.0"
__all__ = ["JslmError", "__version__", "load", "train"]

if TYPE_CHECKING:
    from jslm.errors import JslmError
    from jslm.infer import load
    from jslm.train import train

__getattr__ = lazy_names(__name__, {"JslmError": "jslm.errors", "load": "jslm.infer", "train": "jslm.train"})
