"""What the command line asked for, and the processes that follow from it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bench.process import Spec
from scripts.bench.rounds import Budget, Say

_LANES = "scripts.bench.lanes."


@dataclass(frozen=True)
class Settings:
    """One run of the benchmarks; `deadline` as `time.monotonic` counts, `folder` for what is only needed meanwhile."""

    sizes: tuple[str, ...]
    has_peer: bool
    peer_python: str
    rounds: int
    seconds: float
    deadline: float
    folder: Path
    say: Say

    def budget(self, *, factor: float = 1.0, at_most: int | None = None) -> Budget:
        """Turns of the chosen length times `factor`."""
        rounds = self.rounds if at_most is None else min(self.rounds, at_most)
        return Budget(rounds, self.seconds * factor, self.deadline)

    def ours(self, name: str, module: str, **values: Any) -> Spec:
        """A lane of jslm, in this interpreter."""
        # A GPU's memory is for all lanes: JAX would take most of it at once.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if self.has_peer else {}
        environment |= one_gpu()
        return Spec(f"jslm {name}".strip(), "jslm", _LANES + module, sys.executable, values, environment)

    def peer(self, name: str, module: str, *, python: str = "", **values: Any) -> Spec:
        """A lane of something else, in the peers' interpreter unless told otherwise."""
        return Spec(name, "peer", _LANES + module, python or self.peer_python, values, peer_environment())


def one_gpu() -> dict[str, str]:
    """What shows a process the first of its GPUs alone: lanes and peaks are those of one device."""
    return {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}


def peer_environment() -> Mapping[str, str]:
    """No network; what `torch.compile` made stays for the next run, as what XLA made does."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return {
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(Path(cache, "jslm", "inductor"))),
        **one_gpu(),
    }
