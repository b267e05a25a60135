"""jslm: raw text in, a small language model out.

`jslm.load(path)` opens a run folder (or one exported file) as a `LanguageModel`; everything else is a verb:
`jslm prepare`, `jslm train`, `jslm sample`. Importing this package imports no heavy library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["JslmError", "__version__", "load"]

if TYPE_CHECKING:
    from jslm.errors import JslmError
    from jslm.infer import load


def __getattr__(name: str) -> Any:
    # PEP 562: `jslm.load` pulls in JAX only when somebody uses it, so that `--help` stays quick.
    if name == "load":
        from jslm.infer import load

        return load
    if name == "JslmError":
        from jslm.errors import JslmError

        return JslmError
    raise AttributeError(f"module 'jslm' has no attribute {name!r}")
