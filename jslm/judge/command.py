"""What `jslm judge` does once its arguments are known to be good."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jslm.console import say
from jslm.errors import JslmError
from jslm.files import locked, write_text
from jslm.infer import load
from jslm.judge.answers import Answers
from jslm.judge.desk import Desk
from jslm.judge.figures import said
from jslm.judge.prompts import Side
from jslm.judge.server import JudgeServer
from jslm.judge.study import STUDY_FILE, Pair, Study, open_study
from jslm.parallel import start_jax
from jslm.runs.folder import RunFolder, is_run_folder
from jslm.runs.model import open_checkpoint
from jslm.runs.remote import opened
from jslm.storage import Objects, is_address
from jslm.train import write_report

_log = logging.getLogger("jslm")


def run(args: argparse.Namespace, sides: tuple[Side, Side], prompts: Sequence[str]) -> int:
    """Serves the study until it is stopped, or prints its result; returns the exit status."""
    steps = [_step(side) for side in sides]
    labels = _labels(sides, steps)
    if labels[0] == labels[1]:
        raise JslmError(f"{labels[0]}: found the same model twice; expected two models, or two checkpoints of a run")
    folder = Path(args.out) if args.out else _default_folder(sides[0], labels)
    asked: dict[str, Any] = {
        name: {"path": _place(side), "step": step, "label": label}
        for name, side, step, label in zip("ab", sides, steps, labels, strict=True)
    }
    asked |= {"scales": args.scales, "prompts": list(prompts), "overrides": list(args.overrides)}
    asked |= {"seed": args.seed, "max_new_tokens": args.max_new_tokens}
    if args.result and not (folder / STUDY_FILE).exists():
        raise JslmError(f"{folder}: no study yet; leave out --result to begin it")
    study = open_study(folder, asked, functools.partial(_write, args, sides, steps, prompts))
    if args.result:
        print("\n".join(said(Desk(study, Answers(study), args.people, lambda _: None).figures())))
        return 0
    taken = f"{folder}: a jslm judge serves this study already; stop it, or choose another --out"
    with locked(folder / ".lock", taken):
        answers = Answers(study)
        desk = Desk(study, answers, args.people, functools.partial(_publish, sides, study))
        server = JudgeServer(desk, args.host, args.port)
        say(f"jslm judge: {server.url} ({len(study.open)} pairs; answers go to {folder}; Ctrl-C ends)")
        if not server.hosts:
            _log.warning("--host %s: whoever reaches this address can answer, under any name", args.host)
        _serve(server)
        counts = ", ".join(f"{name} {count} of {len(study.open)}" for name, count in answers.people().items())
        say(f"jslm judge: stopped; {counts or 'nobody has answered'}. The same command goes on from here.")
    return 0


def _serve(server: JudgeServer) -> None:
    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    finally:
        signal.signal(signal.SIGTERM, before)
        server.server_close()


def _publish(sides: Sequence[Side], study: Study, figures: dict[str, Any]) -> None:
    """Tells the result here and in the folders of both runs, whose reports show it."""
    say("\n".join(said(figures)))
    text, file_name = json.dumps(figures, indent=1) + "\n", f"{study.folder.name}.json"
    for name, checkpoint in {side.name: side.checkpoint for side in sides}.items():
        try:
            # Of an address, the copy on this machine.
            path = Path(opened(name, checkpoint)[0])
            if not is_run_folder(path):
                continue
            file = RunFolder(path).judgements / file_name
            write_text(file, text)
            report = write_report(path) if (path / "report.html").exists() else None
            if is_address(name):
                objects = Objects(name)
                for made in filter(None, (file, report)):
                    objects.upload(made, made.relative_to(path).as_posix())
        except JslmError as error:
            # The answers are safe, and the people at the page have done all they can.
            _log.warning("%s", error)


def _write(
    args: argparse.Namespace, sides: Sequence[Side], steps: Sequence[int | None], prompts: Sequence[str]
) -> list[Pair]:
    start_jax()
    texts = []
    for side, step in zip(sides, steps, strict=True):
        say(f"jslm judge: {side.name}: writing after {len(prompts)} prompts")
        checkpoint = side.checkpoint if step is None else str(step)
        path, _ = opened(side.name, checkpoint)
        _check_is_run(side, path)
        model = load(path, checkpoint=checkpoint, overrides=args.overrides)
        length = {} if args.max_new_tokens is None else {"max_new_tokens": args.max_new_tokens}
        results = model.generate_results(list(prompts), seed=args.seed, **length)
        texts.append([result.text for result in results])
    return [Pair(*parts) for parts in zip(prompts, *texts, strict=True)]


def _step(side: Side) -> int | None:
    """The step that a run's checkpoint stands at; None for a file, which has one set of weights."""
    # A study that is begun goes on also where the run has dropped the checkpoint since, or is out of reach.
    if is_address(side.name) and side.checkpoint.isdigit():
        return int(side.checkpoint)
    path, checkpoint = opened(side.name, side.checkpoint)
    _check_is_run(side, path)
    if not is_run_folder(Path(path)):
        return None
    return int(checkpoint) if checkpoint.isdigit() else open_checkpoint(RunFolder(path), checkpoint)[1]


def _check_is_run(side: Side, path: str) -> None:
    if side.checkpoint != "best" and not is_run_folder(Path(path)):
        raise JslmError(f"{side.name}@{side.checkpoint}: not a run folder, and has no checkpoints; leave out the @")


def _labels(sides: Sequence[Side], steps: Sequence[int | None]) -> list[str]:
    """Names of both: the last parts of the paths where these tell them apart, with the step of a run."""
    paths = list(map(_place, sides))
    short = [path.rpartition("/")[2] for path in paths]
    names = short if paths[0] == paths[1] or short[0] != short[1] else paths
    return [name if step is None else f"{name}@{step}" for name, step in zip(names, steps, strict=True)]


def _place(side: Side) -> str:
    return side.name if is_address(side.name) else str(Path(side.name).resolve())


def _default_folder(side: Side, labels: Sequence[str]) -> Path:
    """Inside a run's folder, beside a model's file; of an address in the folder that the command is given in."""
    path = Path(side.name)
    base = Path() if is_address(side.name) else path if is_run_folder(path) else path.resolve().parent
    slugs = [re.sub(r"[^\w.@-]+", "-", label).strip("-") for label in labels]
    return base / "judge" / f"{slugs[0]}-against-{slugs[1]}"
