"""Sources that were edited after the preparation, however alike they look, and sources that only look edited."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from jslm.config import Config, DataConfig, PrepareConfig, TokenizerConfig
from jslm.config.data_schema import MixtureCorpus
from jslm.errors import JslmError
from jslm.prepare import PreparedData, check_prepared, ensure_prepared, freshness, pipeline, prepare, stale_corpus
from jslm.prepare.__main__ import main
from jslm.text.readers import InputFile, remote
from jslm.train.corpora import open_prepared

silent: Callable[[str], None] = lambda message: None  # noqa: E731
OLD, NEW = "the cat sat on the mat. " * 20, "the dog sat on the mat. " * 20
HOUR_NS = 3_600_000_000_000


def make_config(folder: Path, source: Path | str, **data: Any) -> Config:
    return Config(
        run_dir=str(folder / "run"),
        data=DataConfig(source=str(source), **data),
        tokenizer=TokenizerConfig(kind="char"),
        prepare=PrepareConfig(workers=1),
    )


def write_old(path: Path, text: str) -> Path:
    """A file that was changed an hour ago, longer than any clock is coarse."""
    path.write_text(text)
    set_time(path, time.time_ns() - HOUR_NS)
    return path


def set_time(path: Path, mtime_ns: int) -> None:
    os.utime(path, ns=(mtime_ns, mtime_ns))


def settle(folder: Path) -> None:
    """As if the sources had been looked at long after their last change of any kind."""
    path = folder / freshness.INPUTS_NAME
    inputs = json.loads(path.read_text("utf-8"))
    for entry in inputs:
        entry["at_ns"] += HOUR_NS
    path.write_text(json.dumps(inputs), "utf-8")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were hashed."""
    names: list[str] = []
    plain = freshness._hash

    def watched(file: InputFile) -> str:
        names.append(Path(file.name).name)
        return plain(file)

    monkeypatch.setattr(freshness, "_hash", watched)
    return names


def refused(config: Config) -> str:
    with pytest.raises(JslmError) as caught:
        ensure_prepared(config, log=silent)
    with pytest.raises(JslmError):
        prepare(config, log=silent)
    assert "\n" not in str(caught.value)
    # The advice.
    assert "--force" in str(caught.value)
    prepare(config, force=True, log=silent)
    ensure_prepared(config, log=silent)
    return str(caught.value)


def test_an_edit_to_the_same_size_right_after_the_preparation_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text(OLD)
    config = make_config(tmp_path, source)
    prepare(config, log=silent)
    before = source.stat().st_mtime_ns
    source.write_text(NEW)
    # A clock so coarse that it did not tick.
    set_time(source, before)
    assert f"{source} has changed since these files were made; prepare again" in refused(config)


def test_an_edit_whose_time_was_put_back_is_noticed(tmp_path: Path) -> None:
    source = write_old(tmp_path / "a.txt", OLD)
    config = make_config(tmp_path, source)
    prepared = prepare(config, log=silent)
    settle(prepared.dir)
    write_old(tmp_path / "b.txt", NEW)
    set_time(tmp_path / "b.txt", source.stat().st_mtime_ns)
    # As cp -p, rsync and tar do.
    shutil.copy2(tmp_path / "b.txt", source)
    assert "has changed" in refused(config)


def test_what_was_touched_or_copied_and_is_the_same_is_fresh_and_hashed_once(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "NOTED_BYTES", 0)
    source = write_old(tmp_path / "a.txt", OLD)
    config = make_config(tmp_path, source)
    prepared = prepare(config, log=silent)
    assert hashed == ["a.txt"]
    settle(prepared.dir)
    for _ in range(2):
        ensure_prepared(config, log=silent)
    assert hashed == ["a.txt"]
    for change in (lambda: os.utime(source), lambda: source.chmod(0o600)):
        change()
        ensure_prepared(config, log=silent)
        settle(prepared.dir)
        ensure_prepared(config, log=silent)
    assert hashed == ["a.txt"] * 3


def test_check_reads_everything_again(tmp_path: Path, hashed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    source = write_old(tmp_path / "a.txt", OLD)
    config = make_config(tmp_path, source)
    prepared = prepare(config, log=silent)
    settle(prepared.dir)
    hashed.clear()
    assert check_prepared(config).meta == prepared.meta
    assert hashed == ["a.txt"]
    arguments = [f"data.source={source}", f"run_dir={tmp_path / 'run'}", "tokenizer.kind=char", "prepare.workers=1"]
    path = tmp_path / "empty.toml"
    path.write_text("")
    assert main(["--config", str(path), *arguments, "--check"]) == 0
    assert "their sources are as they were" in capsys.readouterr().out
    assert main(["--config", str(path), *arguments, "--check", "--force"]) == 2
    # A byte of the tokens, which no one reads otherwise before training.
    tokens = prepared.dir / "train.bin"
    data = bytearray(tokens.read_bytes())
    data[7] ^= 1
    tokens.write_bytes(data)
    with pytest.raises(JslmError, match=r"train\.bin: expected SHA-256"):
        check_prepared(config)
    source.unlink()
    with pytest.raises(JslmError, match="does not exist"):
        check_prepared(config)
    ensure_prepared(config, log=silent)


def test_one_file_of_a_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a.txt", "b.txt", "c.txt"):
        write_old(folder / name, OLD)
    config = make_config(tmp_path, folder)
    prepare(config, log=silent)
    (folder / "b.txt").write_text(NEW)
    assert f"{folder / 'b.txt'} has changed since" in refused(config)
    (folder / "b.txt").rename(folder / "d.txt")
    assert "d.txt is new, b.txt is gone" in refused(config)
    archive = tmp_path / "pack"
    shutil.make_archive(str(archive), "zip", folder)
    packed = make_config(tmp_path / "packed", f"{archive}.zip")
    prepare(packed, log=silent)
    (folder / "a.txt").write_text(NEW)
    size = Path(f"{archive}.zip").stat().st_size
    shutil.make_archive(str(archive), "zip", folder)
    with Path(f"{archive}.zip").open("ab") as file:
        # As large as before, whatever the compression made of it.
        file.truncate(size)
    with pytest.raises(JslmError, match=r"pack\.zip has changed"):
        ensure_prepared(packed, log=silent)


@pytest.mark.parametrize("version", ["", "ETag"])
def test_an_address_is_compared_by_its_version_or_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[str], version: str
) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/fresh/a.txt", OLD.encode())
    monkeypatch.setattr(
        remote, "content_version", lambda info: f"ETag={hash(system.cat('/fresh/a.txt'))}" * bool(version)
    )
    config = make_config(tmp_path, "memory://fresh/a.txt")
    prepare(config, log=silent)
    ensure_prepared(config, log=silent)
    assert hashed == ([] if version else ["a.txt", "a.txt"])
    system.pipe("/fresh/a.txt", NEW.encode())
    assert "memory://fresh/a.txt has changed" in refused(config).replace("memory:///", "memory://")


@pytest.mark.parametrize("rejected", [True, False])
def test_pairs_and_their_rejected_answers_too(tmp_path: Path, rejected: bool) -> None:
    source = tmp_path / "a.jsonl"
    records = [{"prompt": f"say {n}", "chosen": "yes", "rejected": "no!"} for n in range(9)]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = {"template": "{prompt}\t{chosen}", "prompt_end": "\t", "packing": "documents"}
    config = make_config(tmp_path, source, **settings, **({"rejected": "rejected"} if rejected else {}))
    prepare(config, log=silent)
    source.write_text(source.read_text().replace("no!", "nay").replace("yes", "yea"))
    assert "has changed" in refused(config)


def test_a_corpus_of_a_mixture_that_was_edited_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = []
    for name in ("a", "b"):
        prepared = prepare(make_config(tmp_path / name, write_old(tmp_path / f"{name}.txt", OLD)), log=silent)
        folders.append(prepared.dir)
    config = Config(data=DataConfig(mixture=[MixtureCorpus(dir=str(folder)) for folder in folders]))
    open_prepared(config)
    assert not caplog.text
    (tmp_path / "b.txt").write_text(NEW)
    assert stale_corpus(folders[0]) == ""
    open_prepared(config)
    assert f"data.mixture: {folders[1]}: since it was prepared, {tmp_path / 'b.txt'} has changed" in caplog.text
    (tmp_path / "b.txt").unlink()
    assert stale_corpus(folders[1]) == ""


def test_data_of_earlier_versions_opens_with_a_word_where_it_may_be_stale(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_old(tmp_path / "a.txt", OLD)
    config = make_config(tmp_path, source)
    prepared = prepare(config, log=silent)
    (prepared.dir / freshness.INPUTS_NAME).unlink()
    ensure_prepared(config, log=silent)
    assert not caplog.text
    with pytest.raises(JslmError, match=r"inputs\.json: not there, as in data that earlier versions"):
        check_prepared(config)
    set_time(source, time.time_ns() + HOUR_NS)
    ensure_prepared(config, log=silent)
    assert f"made before {source} was changed" in caplog.text
    source.write_text(OLD * 2)
    with pytest.raises(JslmError, match=r"made from 1 file\(s\)"):
        ensure_prepared(config, log=silent)


def test_a_source_that_changes_while_it_is_read_stops_the_preparation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_old(tmp_path / "a.txt", OLD)
    config = make_config(tmp_path, source)
    plain = pipeline.read_corpus

    def edited(*arguments: Any) -> Any:
        found = plain(*arguments)
        source.write_text(NEW)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "read_corpus", edited)
        with pytest.raises(JslmError, match=r"a\.txt: changed while it was read; run the same command again"):
            prepare(config, log=silent)
    # The advice; what was read of the older text is not gone on from.
    prepared: PreparedData = prepare(config, log=silent)
    assert "g" in prepared.tokenizer.decode(prepared.tokenizer.encode(NEW))
