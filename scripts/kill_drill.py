"""Kills `jslm train` in the middle of uploads, again and again, and sees that nothing is lost.

    python scripts/kill_drill.py --kills 30

A tiny run in a bucket (Amazon's API or Google's on loopback, `scripts/bucket.py`) is killed at a random request that
puts an object there, before or after it is stored; each next start has an empty cache, as another machine does, or that
of before. After each kill the newest checkpoint that was complete must still be, with every byte as its manifest says,
and the next start must go on from it or from a later one. At the end every array, and the losses of every step, are
those of a run that was never killed and knows no bucket.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import re
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

# Beside this file; the folder of a script that is run is on the path already, that of a test is not.
sys.path.insert(0, str(Path(__file__).resolve().parent))
from bucket import STORES

ROOT = Path(__file__).resolve().parents[1]
STEPS_A_START = 4
CONFIG = """
run_dir = "{run_dir}"
[data]
source = "text.txt"
dir = "data"
[tokenizer]
kind = "char"
[model]
n_layers = 1
d_model = 16
n_heads = 2
d_ff = 16
context_length = 16
dropout = 0.1
dtype = "float32"
[optimizer]
schedule = "constant"
warmup_steps = 4
[train]
steps = 4
batch_size = 8
eval_every = 0
log_every = 1
report = false
tensorboard = false
[checkpoint]
every = 2
[sample]
prompts = []
"""
# Google takes a small object with one POST.
_PUTS = ("PUT", "POST")
_MANIFEST = re.compile(r"run/checkpoints/step_(\d+)/manifest\.json")


def main() -> int:
    """Runs the drill; returns the exit status: 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument(
        "--kills", type=int, default=30, metavar="N", help="kills in the middle of uploads (default 30)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which requests are hit (default 0)")
    parser.add_argument("--store", choices=sorted(STORES), default="s3", help="whose API (default s3)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jslm-kill-drill-") as folder:
        return drill(Path(folder), args.kills, args.seed, args.store)


def drill(folder: Path, kills: int, seed: int, store: str) -> int:
    """`kills` kills in `folder`, at requests drawn by `seed`; says what happens. 1 where something was lost."""
    choice = random.Random(seed)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "big", "red", "dog"]
    (folder / "text.txt").write_text("\n".join(" ".join(choice.choices(words, k=8)) for _ in range(120)), "utf-8")
    (folder / "bucket.toml").write_text(CONFIG.format(run_dir=f"{store}://bucket/run"), "utf-8")
    (folder / "local.toml").write_text(CONFIG.format(run_dir="local"), "utf-8")
    _run(folder, "local.toml", {}, "jslm.prepare")
    done, start, newest, lost = 0, 0, 0, 0
    with STORES[store]() as bucket:
        while done < kills and start < 3 * kills + 3:
            start += 1
            cache = folder / f"cache{start if choice.random() < 0.5 else 0}"
            killed, said = _start(folder, bucket, cache, start * STEPS_A_START, choice)
            newest_before, done = newest, done + killed
            resumed = re.search(r"resuming at step ([\d,]+)", said)
            began = int(resumed[1].replace(",", "")) if resumed else 0
            complete = _complete(bucket)
            newest = max(complete, default=0)
            broken = [step for step in complete if _broken(bucket, step)]
            fine = newest >= newest_before and not broken and (began >= newest_before or (killed and not resumed))
            lost += not fine
            print(
                f"start {start}: {'killed' if killed else 'ended'}; went on from {began}, complete {complete}"
                + ("" if fine else f"; LOST: {newest_before} was complete, broken {broken}; {said[-500:]}"),
                flush=True,
            )
        steps = (start + 1) * STEPS_A_START
        last = _run(
            folder, "bucket.toml", bucket.environment | {"JSLM_CACHE": str(folder / "last")}, "jslm.train", steps
        )
        incomplete = {name.split("/")[2] for name in bucket.names("run/checkpoints/")} - {
            f"step_{step:08d}" for step in _complete(bucket)
        }
        losses = _losses(bucket.read("run/metrics.jsonl"))
        names = bucket.names(f"run/checkpoints/step_{steps:08d}/")
        for name in names:
            file = folder / "end" / name.removeprefix("run/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bucket.read(name))
    _run(folder, "local.toml", {}, "jslm.train", steps)
    whole = _losses((folder / "local" / "metrics.jsonl").read_bytes())
    same = _arrays(folder / "end", steps) == _arrays(folder / "local", steps)
    print(
        f"{done} kills, {lost} lost a checkpoint; left unfinished at the end: {sorted(incomplete) or 'none'}; "
        f"arrays {_same(same)}, losses of {len(whole)} steps {_same(losses == whole)}"
    )
    if done < kills:
        print(f"only {done} of {kills} starts were killed: {last[-300:]}")
    return int(bool(lost or incomplete or not same or losses != whole or done < kills))


def _start(folder: Path, bucket: Any, cache: Path, steps: int, choice: random.Random) -> tuple[bool, str]:
    """One start, killed at a request; whether it was, and what it had said."""
    target, before = choice.randint(3, 40), choice.random() < 0.5
    count = 0
    process = subprocess.Popen(
        [sys.executable, "-m", "jslm.train", "--config", "bucket.toml", f"train.steps={steps}"],
        cwd=folder,
        env=_environment(bucket.environment | {"JSLM_CACHE": str(cache)}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )

    def hit(when: bool) -> None:
        nonlocal count
        if when is not before:
            return
        count += 1
        if count == target:
            process.kill()
            process.wait()

    bucket.before = lambda method, path: hit(True) if method in _PUTS else None
    bucket.after = lambda method, path: hit(False) if method in _PUTS else None
    said = process.communicate(timeout=1200)[1]
    # A request that was under way is stored or not; nothing comes after it, however busy the machine is.
    bucket.settle()
    bucket.before = bucket.after = lambda method, path: None
    if process.returncode not in (0, -9):
        raise SystemExit(f"jslm train ended with {process.returncode}: {said}")
    return process.returncode != 0, said


def _losses(metrics: bytes) -> list[float]:
    lines = map(json.loads, metrics.splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def _same(is_same: bool) -> str:
    return "the same" if is_same else "DIFFERENT"


def _complete(bucket: Any) -> list[int]:
    found = (_MANIFEST.fullmatch(name) for name in bucket.names("run/checkpoints/"))
    return sorted(int(match[1]) for match in found if match)


def _broken(bucket: Any, step: int) -> bool:
    prefix = f"run/checkpoints/step_{step:08d}/"
    names = bucket.names(prefix)
    for name, (size, checksum) in json.loads(bucket.read(f"{prefix}manifest.json"))["files"].items():
        if prefix + name not in names:
            return True
        data = bucket.read(prefix + name)
        if (len(data), zlib.crc32(data)) != (size, checksum):
            return True
    return False


def _arrays(run_dir: Path, step: int) -> dict[str, bytes]:
    """Every array of a checkpoint, in a process without the environment of the bucket's."""
    code = (
        "import sys, pickle, numpy as np\n"
        "from jslm.runs.checkpoint import CheckpointStore, flatten_tree\n"
        "store, step = CheckpointStore(sys.argv[1]), int(sys.argv[2])\n"
        "names = {name.split('/')[0] for name in store._saved_arrays(step) if '/' in name}\n"
        "trees = {name: store.load_part(step, name) for name in sorted(names)}\n"
        "arrays = {name: np.asarray(leaf).tobytes() for name, leaf in flatten_tree(trees).items()}\n"
        "sys.stdout.buffer.write(pickle.dumps(arrays))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run_dir / "checkpoints"), str(step)],
        env=_environment({}),
        capture_output=True,
    )
    if done.returncode:
        raise SystemExit(
            f"the arrays of step {step} in {run_dir} could not be read back: ended with {done.returncode}: "
            f"{done.stderr.decode(errors='replace')}"
        )
    return dict(pickle.loads(done.stdout))


def _run(folder: Path, config: str, environment: dict[str, str], module: str, steps: int = STEPS_A_START) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, "--config", config, f"train.steps={steps}"],
        cwd=folder,
        env=_environment(environment),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{module} ended with {done.returncode}: {done.stderr}")
    return done.stderr


def _environment(more: dict[str, str]) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "JSLM_HUGE_PAGES": "off"} | more


if __name__ == "__main__":
    sys.exit(main())
