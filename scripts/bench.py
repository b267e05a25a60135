"""`python scripts/bench.py PART`: how fast jslm is on this machine, and beside PyTorch. `--help` lists the rest."""

from __future__ import annotations

import sys
from pathlib import Path

# Found from any folder, and under the one name that the processes started from here know the package by.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.bench.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
