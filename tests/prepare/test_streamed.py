"""A corpus in a bucket: streamed with bounded memory, gone on with after an outage, prepared into a bucket."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jslm.config import Config, DataConfig, config_from_dict
from jslm.errors import JslmError
from jslm.prepare import corpus, prepare
from jslm.storage import folders, local_copy, stores
from jslm.text.documents import read_documents
from tests.text.hub import hub

# Connections of asynchronous clients live until their event loop ends, with the process: so does what warns of them.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)


@pytest.fixture
def served(bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The bucket, its server named in the environment of this process, without a wait between tries."""
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JSLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stores, "TRIES", 1)
    folders._pulled.cache_clear()
    yield bucket
    bucket.down = False
    bucket.before = lambda method, path: None


def parquet(texts: list[str]) -> bytes:
    out = io.BytesIO()
    pq.write_table(
        pa.table({"text": texts, "unread": ["x" * 100] * len(texts)}), out, row_group_size=10**6, write_batch_size=64
    )
    return out.getvalue()


def test_columns_larger_than_memory_may_be_are_read_piece_by_piece(served: Any) -> None:
    texts = [os.urandom(5_000).hex() for _ in range(2_000)]
    served.write("stream/part.parquet", parquet(texts))
    # Another pool than that which wrote it.
    before, pool = pa.default_memory_pool(), pa.system_memory_pool()
    pa.set_memory_pool(pool)
    try:
        length = sum(len(text.text) for text in read_documents(DataConfig(source="s3://bucket/stream/*.parquet")))
    finally:
        pa.set_memory_pool(before)
    assert length == 20_000_000
    # One column chunk of 20 MB was never there as a whole; its pages are 1 MB, each compressed and not.
    assert 0 < pool.max_memory() < 10_000_000
    served.delete("stream/part.parquet")


def test_what_was_read_before_the_network_went_is_not_read_again(
    served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "PART_BYTES", 40_000)
    monkeypatch.setattr(corpus, "BATCH_CHARACTERS", 10_000)
    choice = random.Random(0)
    words = [f"{choice.randrange(10**6)}" for _ in range(3_000)]
    (tmp_path / "here").mkdir()
    for name in ("a", "b", "c"):
        data = parquet([" ".join(choice.choices(words, k=150)) for _ in range(100)])
        served.write(f"corpus/{name}.parquet", data)
        (tmp_path / "here" / f"{name}.parquet").write_bytes(data)

    def config(source: str, folder: str) -> Config:
        return config_from_dict({"data": {"source": source, "dir": folder}, "tokenizer": {"kind": "char"}}, "test")

    streamed = config("s3://bucket/corpus/*.parquet", "s3://bucket/prepared/mine")

    def cut(method: str, path: str) -> None:
        served.down |= method == "GET" and path.endswith("/c.parquet")

    served.before = cut
    said: list[str] = []
    with pytest.raises(JslmError, match=r"s3://bucket/corpus/c\.parquet: cannot be read"):
        prepare(streamed, log=said.append)
    served.down, served.before = False, lambda method, path: None
    gets: list[str] = []
    served.before = lambda method, path: gets.append(path) if method == "GET" else None
    prepared = prepare(streamed, log=said.append)
    assert any(line.startswith("going on after ") for line in said)
    assert not any(path.endswith("/a.parquet") for path in gets)
    local = prepare(config(str(tmp_path / "here"), str(tmp_path / "data")), log=said.append)
    for name in ("train.bin", "val.bin", "tokenizer.json"):
        wanted = (local.dir / name).read_bytes()
        assert (prepared.dir / name).read_bytes() == wanted == served.read(f"prepared/mine/{name}")
    assert prepared.dir == local_copy("s3://bucket/prepared/mine", "data")
    assert not any("work" in name for name in served.names("prepared/"))
    # Another machine takes it from there.
    monkeypatch.setenv("JSLM_CACHE", str(tmp_path / "other"))
    folders._pulled.cache_clear()
    said.clear()
    assert prepare(streamed, log=said.append).meta == prepared.meta
    assert "already prepared" in said[-1]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(served: Any, tmp_path: Path) -> None:
    """Prepared from a bucket: three times the text, in a process that grows by a fraction of what is new."""
    code = (
        "import re, sys\n"
        "from jslm.prepare.__main__ import main\n"
        "status = main(sys.argv[1:])\n"
        # Not getrusage: that counts the process that started this one too, up to its exec.
        "print('peak', 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]))\n"
        "sys.exit(status)\n"
    )
    choice = random.Random(0)
    words = [f"{choice.randrange(10**6)}" for _ in range(3_000)]
    # Three shards that differ, under many names: what is the same is not held twice by the server alone.
    shards = [parquet([" ".join(choice.choices(words, k=300)) for _ in range(1_000)]) for _ in range(3)]
    (tmp_path / "run.toml").write_text('[tokenizer]\nkind = "char"\n', "utf-8")
    peaks, tokens = [], []
    for count in (10, 30):
        for number in range(count):
            served.write(f"grows{count}/{number:02}.parquet", shards[number % 3])
        command = ["--config", "run.toml", f"data.source=s3://bucket/grows{count}/*.parquet", f"data.dir=data{count}"]
        done = subprocess.run(
            [sys.executable, "-c", code, *command],
            cwd=tmp_path, env=environment(served.environment), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]))
        tokens.append((tmp_path / f"data{count}" / "train.bin").stat().st_size)
        for number in range(count):
            served.delete(f"grows{count}/{number:02}.parquet")
    # Both are larger than all that is collected before it is written.
    assert tokens[0] > 2 * corpus.PART_BYTES
    assert tokens[1] > 2.9 * tokens[0]
    new = (tokens[1] - tokens[0]) // 2
    assert peaks[1] - peaks[0] < new // 3, (peaks, new)


def test_a_data_set_of_the_hub_is_gone_on_with(tmp_path: Path) -> None:
    choice = random.Random(0)
    words = [f"{choice.randrange(10**6)}" for _ in range(3_000)]
    names = [f"default/train/{number:04}.parquet" for number in range(4)]
    files = {name: parquet([" ".join(choice.choices(words, k=100)) for _ in range(100)]) for name in names}
    (tmp_path / "run.toml").write_text('[tokenizer]\nkind = "char"\n', "utf-8")
    # What is whole before it ends is small here, so that there is something to go on after.
    code = (
        "import sys\n"
        "from jslm.prepare import corpus\n"
        "corpus.PART_BYTES, corpus.BATCH_CHARACTERS = 40_000, 10_000\n"
        "from jslm.prepare.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    with hub(files) as served:
        for source, folder in (
            ("hf-dataset:owner/name", "by-id"),
            ("hf://datasets/owner/name@refs/convert/parquet/default/train/*.parquet", "by-files"),
        ):

            def command(source: str = source, folder: str = folder) -> subprocess.CompletedProcess[str]:
                return subprocess.run(
                    [sys.executable, "-c", code, "--config", "run.toml", f"data.source={source}", f"data.dir={folder}"],
                    cwd=tmp_path, env=environment(served.environment), capture_output=True, text=True,
                )  # fmt: skip

            served.closed.add(names[2])
            refused = command()
            assert refused.returncode == 2, refused.stderr
            assert "0002.parquet: cannot be read: not open to you" in refused.stderr.splitlines()[-1]
            # What lasts is not tried again.
            assert "trying again" not in refused.stderr
            served.closed.clear()
            served.fetched.clear()
            done = command()
            assert done.returncode == 0, done.stderr
            assert "going on after" in done.stderr
            assert names[0] not in served.fetched
            assert {names[2], names[3]} <= set(served.fetched)
    (tmp_path / "here").mkdir()
    for name, data in files.items():
        (tmp_path / "here" / Path(name).name).write_bytes(data)
    local = config_from_dict(
        {"data": {"source": str(tmp_path / "here"), "dir": str(tmp_path / "data")}, "tokenizer": {"kind": "char"}},
        "test",
    )
    wanted = prepare_here(local)
    for folder in ("by-id", "by-files"):
        assert (tmp_path / folder / "train.bin").read_bytes() == wanted


def prepare_here(config: Config) -> bytes:
    return (prepare(config, log=lambda line: None).dir / "train.bin").read_bytes()


def environment(more: dict[str, str]) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])} | more
