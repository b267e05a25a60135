"""A corpus in a bucket: streamed with bounded memory, gone on with after an outage, prepared into a bucket."""

from __future__ import annotations

import io
import os
import random
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
