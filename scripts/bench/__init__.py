"""Benchmarks: jslm beside its peers, in one run on one machine.

What is measured is a *lane*: one program in one variant, in a process of its own with its own interpreter
(`worker.py`), as PyTorch's Python need not be jslm's. `rounds.py` lets lanes take turns, so that what else the machine
does meets all of them alike. Modules under `lanes/` run in those processes; the others are plain Python.
"""
