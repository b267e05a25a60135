"""The files of a run: its folder, its checkpoints (the only user of Orbax), and a model in memory (`Bundle`).

Importing this package imports nothing heavy.
"""

from jslm.runs.folder import RunFolder, resolve_checkpoint

__all__ = ["RunFolder", "resolve_checkpoint"]
