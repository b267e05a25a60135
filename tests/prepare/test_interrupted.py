"""Prepare that is killed, runs into a full disk, or meets files that have changed meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jslm.config import Config, DataConfig, DedupConfig, FilterConfig, PrepareConfig, TokenizerConfig
from jslm.errors import JslmError
from jslm.prepare import corpus, encode, pipeline, prepare
from jslm.prepare.tasks import Workers
from jslm.prepare.work import WorkFolder
from jslm.text.readers.problems import stop

ROOT = Path(__file__).resolve().parents[2]
silent: Callable[[str], None] = lambda message: None  # noqa: E731
WORDS = "the cat sat on a warm mat while rain fell over old grey roofs and nobody spoke of going home".split()  # noqa: SIM905

# A run as from the command line, with parts so small that there are many of them.
RUN = """
import sys
from jslm.prepare import corpus, encode, pipeline, summary
from jslm.prepare.__main__ import main
corpus.PART_BYTES, corpus.BATCH_CHARACTERS = 12_000, 4_000
encode.PART_CHARACTERS, encode.CHUNK_CHARACTERS = 12_000, 4_000
pipeline.MIN_PARALLEL_BYTES = 0
print("ready", flush=True)
sys.exit(main(sys.argv[1:]))
"""


def write_corpus(folder: Path, documents: int = 150) -> None:
    """Documents with duplicates, a line that many share, short ones, and records that can't be read."""
    generator = random.Random(5)
    folder.mkdir()
    for name in ("a", "b", "c"):
        lines = []
        for number in range(documents):
            text = "\n".join(
                " ".join(generator.choices(WORDS, k=12)) + f" {generator.randrange(10**6)}." for _ in range(5)
            )
            if number % 7 == 0:
                text = f"Subscribe to our weekly newsletter!\n{text}"
            lines.append(json.dumps({"text": "too short" if number % 11 == 0 else text}))
            if number % 13 == 0:
                lines.append(lines[-1])
            if number % 50 == 0:
                lines.append('{"text": 3}')
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def write_config(folder: Path) -> Path:
    path = folder / "drill.toml"
    path.write_text(
        f'[data]\nsource = "{folder / "in"}"\ncleaners = ["normalize"]\n'
        "[data.filters]\nmin_characters = 20\n[data.dedup]\nexact = true\nnear = 0.9\nmax_line_documents = 8\n"
        '[tokenizer]\nvocab_size = 400\ntrain_share = 0.5\n[prepare]\non_bad_document = "skip"\n'
    )
    return path


def start(config: Path, run_dir: Path, workers: int) -> subprocess.Popen[str]:
    """A run that has imported all it needs; what it says goes to a file."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "stderr").open("a") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, "--config", str(config), f"run_dir={run_dir}", f"prepare.workers={workers}"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TIKTOKEN_CACHE_DIR": str(run_dir)},
        )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def files_of(run_dir: Path) -> dict[str, bytes]:
    # Without the time at which the sources were looked at.
    return {path.name: path.read_bytes() for path in (run_dir / "data").iterdir() if path.name != "inputs.json"}


@pytest.mark.slow
def test_twenty_kills_leave_the_same_files(tmp_path: Path) -> None:
    write_corpus(tmp_path / "in")
    config = write_config(tmp_path)
    whole = start(config, tmp_path / "whole", workers=1)
    begun = time.monotonic()
    assert whole.communicate(timeout=60)[0] is not None
    assert whole.returncode == 0, (tmp_path / "whole" / "stderr").read_text()
    seconds = time.monotonic() - begun
    expected = files_of(tmp_path / "whole")
    assert sorted(expected) == [".lock", "meta.json", "tokenizer.json", "train.bin", "train.idx", "val.bin", "val.idx"]

    generator = random.Random(time.time_ns())
    kills = finished = round_ = 0
    while kills < 20 or not finished:
        run_dir = tmp_path / f"killed{round_}"
        # A run with processes takes three times as long to start.
        process = start(config, run_dir, workers=2 if kills % 5 == 4 else 1)
        if kills < 20:
            time.sleep(generator.uniform(0, 0.7 * seconds))
            process.kill()
        process.communicate(timeout=60)
        if process.returncode == -signal.SIGKILL:
            kills += 1
            # What is there under its own name is whole.
            if (run_dir / "data" / "meta.json").exists():
                meta = json.loads((run_dir / "data" / "meta.json").read_text())
                assert (run_dir / "data" / "train.bin").stat().st_size == 2 * meta["train"]["tokens"]
        else:
            said = (run_dir / "stderr").read_text()
            assert process.returncode == 0, said
            assert files_of(run_dir) == expected, said
            finished += 1
            round_ += 1
    said = "".join(path.read_text() for path in tmp_path.glob("killed*/stderr"))
    assert "going on after" in said
    assert "starting over" not in said


def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PART_BYTES", 3000)
    monkeypatch.setattr(corpus, "BATCH_CHARACTERS", 1000)
    monkeypatch.setattr(encode, "PART_CHARACTERS", 3000)
    monkeypatch.setattr(encode, "CHUNK_CHARACTERS", 1000)


def make_config(folder: Path, **data: Any) -> Config:
    return Config(
        run_dir=str(folder / "run"),
        data=DataConfig(source=str(folder / "in"), **data),
        tokenizer=TokenizerConfig(kind="byte"),
        prepare=PrepareConfig(workers=1, on_bad_document="skip"),
    )


def interrupt_after(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which raises KeyboardInterrupt in place of its call after `count`."""
    calls = 0

    def counted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > count:
            raise KeyboardInterrupt
        return function(*args)

    return counted


@pytest.mark.parametrize("lines", [0, 20])
def test_a_run_goes_on_after_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    small_parts(monkeypatch)
    write_corpus(tmp_path / "in", documents=40)
    dedup = DedupConfig(exact=True, max_line_documents=lines // 4)
    config = make_config(tmp_path, dedup=dedup, filters=FilterConfig(min_characters=20), cleaners=["normalize"])
    expected = files_of(prepare(config, log=silent).dir.parent)
    (tmp_path / "run" / "data" / "meta.json").unlink()
    log: list[str] = []
    runs = 0
    while True:
        runs += 1
        with monkeypatch.context() as patch:
            # Each run writes one part more, and is then interrupted while it writes the next.
            patch.setattr(WorkFolder, "write", interrupt_after(1 + (runs == 1), WorkFolder.write))
            try:
                prepare(config, log=log.append)
                break
            except KeyboardInterrupt:
                assert runs < 100
    assert runs > 20
    assert files_of(tmp_path / "run") == expected
    assert sum("that an interrupted run has read" in line for line in log) > 5
    assert sum("that an interrupted run has tokenised" in line for line in log) > 5
    meta = json.loads(expected["meta.json"])
    assert meta["dropped"]["dedup"]["reasons"]["exact"]["items"] > 3
    assert meta["skipped"]["count"] == 3
    assert (meta["dropped"].get("lines", {}).get("reasons", {}) != {}) == bool(lines)


def test_what_was_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    write_corpus(tmp_path / "in", documents=30)
    config = make_config(tmp_path, cleaners=["normalize"])
    cleaned: list[str] = []

    def clean(document: Any, data: DataConfig) -> Any:
        cleaned.append(document.text)
        return document

    monkeypatch.setattr(corpus, "clean_document", clean)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "encode_corpus", interrupt_after(0, encode.encode_corpus))
        with pytest.raises(KeyboardInterrupt):
            prepare(config, log=silent)
    assert len(cleaned) > 80
    cleaned.clear()
    prepare(config, log=silent)
    assert cleaned == []


@pytest.mark.parametrize("change", ["file", "setting", "nothing"])
def test_parts_made_of_something_else_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    write_corpus(tmp_path / "in", documents=30)
    config = make_config(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "add_parts", interrupt_after(0, encode.add_parts))
        with pytest.raises(KeyboardInterrupt):
            prepare(config, log=silent)
    if change == "file":
        path = tmp_path / "in" / "b.jsonl"
        path.write_text(path.read_text().replace("cat", "dog"))
        os.utime(path, ns=(1, 1))
    elif change == "setting":
        config = make_config(tmp_path, filters=FilterConfig(min_characters=20))
    log: list[str] = []
    found = files_of(prepare(config, log=log.append).dir.parent)
    assert any("starting over" in line for line in log) == (change != "nothing")
    fresh = config.model_copy(update={"run_dir": str(tmp_path / "fresh")})
    assert files_of(prepare(fresh, log=silent).dir.parent) == found


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_is_one_line_and_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path / "in", documents=30)
    config = make_config(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "encode_corpus", interrupt_after(0, encode.encode_corpus))
        with pytest.raises(KeyboardInterrupt):
            prepare(config, log=silent)
    next_part = tmp_path / "run" / "data" / ".work" / "part.tmp"
    next_part.symlink_to("/dev/full")
    with pytest.raises(JslmError, match=r"no space left on the disk; free some") as caught:
        prepare(config, log=silent)
    assert "\n" not in str(caught.value)
    next_part.unlink()
    found = files_of(prepare(config, log=silent).dir.parent)
    fresh = config.model_copy(update={"run_dir": str(tmp_path / "fresh")})
    assert files_of(prepare(fresh, log=silent).dir.parent) == found


def test_standard_input_is_known_by_its_contents(tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text('data.source = "-"\ntokenizer.kind = "byte"\n')
    arguments = [sys.executable, "-m", "jslm.prepare", "--config", str(config), f"run_dir={tmp_path / 'run'}"]
    key = tmp_path / "run" / "data" / ".work" / "key"
    interrupted = RUN.replace("print(", "def fail(*args): raise KeyboardInterrupt\npipeline.add_parts = fail\nprint(")
    said = []
    for text in ("one text\n" * 50, "one text\n" * 50, "two text\n" * 50):
        result = subprocess.run(
            [sys.executable, "-c", interrupted, *arguments[3:]],
            input=text,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert result.returncode == 130, result.stderr
        said.append((key.read_text(), "tokenised" in result.stderr, "starting over" in result.stderr))
    assert said[0][0] == said[1][0] != said[2][0]
    assert [flags for _, *flags in said] == [[False, False], [True, False], [False, True]]


MORTAL = """
import os, signal, sys, time
from jslm.prepare.tasks import Task, Workers, run_tasks
from where import where
if __name__ == "__main__":
    tasks = (Task(None, number, 1) for number in range(100))
    results = run_tasks(where, None, tasks, Workers(2))
    print(*{next(results)[1] for _ in range(10)}, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "where.py").write_text(
        "import os, time\ndef where(shared, work):\n    time.sleep(0.05)\n    return os.getpid()\n"
    )
    (tmp_path / "mortal.py").write_text(MORTAL)
    result = subprocess.run(
        [sys.executable, str(tmp_path / "mortal.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    pids = [int(pid) for pid in result.stdout.split()]
    assert pids
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, f"{pids} are still there"
        time.sleep(0.05)


def test_a_worker_that_dies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dying.py").write_text("import os\ndef die(shared, work):\n    os._exit(9)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import dying  # type: ignore[import-not-found]

    from jslm.prepare.tasks import Task, run_tasks

    with pytest.raises(JslmError, match=r"a worker process died.*prepare\.workers=1"):
        list(run_tasks(dying.die, None, [Task(None, 0, 1)], Workers(2)))


def test_an_unreadable_file_stops_or_is_listed(tmp_path: Path) -> None:
    # Opens well, and fails when it is read.
    unreadable = "/proc/self/mem"
    if not Path(unreadable).exists():
        pytest.skip("needs /proc/self/mem, a file that cannot be read")
    write_corpus(tmp_path / "in", documents=5)
    for path in (tmp_path / "in").glob("[ab].jsonl"):
        path.unlink()
    source = [unreadable, str(tmp_path / "in")]
    config = make_config(tmp_path).model_copy(update={"data": DataConfig(source=source)})
    log: list[str] = []
    meta = prepare(config, log=log.append).meta
    assert meta["skipped"]["count"] == 2
    assert meta["skipped"]["first"][0] == "/proc/self/mem: cannot be read: Input/output error"
    assert "c.jsonl:3" in meta["skipped"]["first"][1]
    assert [line for line in log if line.startswith("skipped: ")] == [f"skipped: {m}" for m in meta["skipped"]["first"]]
    stopping = config.model_copy(update={"prepare": PrepareConfig(workers=1), "run_dir": str(tmp_path / "b")})
    with pytest.raises(JslmError, match=r"^/proc/self/mem: cannot be read: Input/output error$"):
        prepare(stopping, log=silent)
    assert stop is pipeline._on_bad(stopping, silent)
