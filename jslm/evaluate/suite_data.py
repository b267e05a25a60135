"""Documents of the benchmarks of `--suite`, from files on this machine: which files, what is in them, what is missing.

Checked before a model is opened, and made what lm-evaluation-harness would have fetched. Nothing is downloaded, and
nothing heavy is imported.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jslm.errors import JslmError
from jslm.evaluate.questions import arc_parts, number_of, read_lines, read_records, text_of, texts_of
from jslm.extras import load_extra

Document = dict[str, Any]
PARADIGMS = 67


class Files(NamedTuple):
    """A split of a benchmark: how many documents it has, and where they are; the first pattern that finds files counts.

    Patterns are below the folder of the data, `**` for any folders between.
    """

    split: str
    official: int
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A task of the harness: its name there, the dataset on the Hub (`repository`, `config`) and the split it reads.

    `places` has the splits that are taken for it, the right one first; `keys` are what a record must have, `read` makes
    a document of one as the dataset has it. `fetch` is what of the dataset is needed, `folder` where it goes.
    """

    task: str
    repository: str
    config: str | None
    split: str
    places: tuple[Files, ...]
    keys: tuple[str, ...]
    read: Callable[[str, Mapping[str, Any]], Document]
    folder: str
    fetch: str = ""
    also: str = ""

    def how(self, folder: Path) -> str:
        """The command that fetches the data into `folder`, and which files do as well."""
        only = ["--include", self.fetch] if self.fetch else []
        command = ["hf", "download", self.repository, "--repo-type", "dataset", *only, "--local-dir"]
        line = shlex.join([*command, str(folder / self.folder)])
        return f"{line} (or put {self.also} in {folder})"


@dataclass(frozen=True)
class SuiteTask:
    """A benchmark as the harness names it, and the documents of each of its tasks there.

    `split` is the one that documents are of, `wanted` the one that counts, both with `official` documents in all;
    `key` names it in the dataset, which the harness reads.
    """

    task: str
    key: str
    split: str
    wanted: str
    official: int
    official_parts: int
    parts: Mapping[str, Sequence[Document]]
    files: tuple[str, ...]

    @property
    def count(self) -> int:
        """Documents in all."""
        return sum(map(len, self.parts.values()))

    @property
    def missing(self) -> str:
        """What of the benchmark is not here, in words; empty where it is whole."""
        found = []
        if self.count < self.official:
            found.append(f"{self.count:,} of {self.official:,} documents")
        if len(self.parts) < self.official_parts:
            found.append(f"{len(self.parts)} of {self.official_parts} paradigms")
        if self.split != self.wanted:
            found.append(f"the {self.split} split in place of {self.wanted}")
        return ", ".join(found)

    @property
    def sha256(self) -> str:
        """Digest of the documents: figures of one digest compare."""
        text = json.dumps(self.parts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def plan_suite(names: Sequence[str], folder: str | Path, *, limit: int = 0) -> tuple[SuiteTask, ...]:
    """The benchmarks of `--suite` with their documents, from files in `folder`; of each the first `limit`, 0 for all.

    Raises JslmError for an unknown name, a bad file, and, with the commands that fetch them, for absent files.
    """
    folder = Path(folder)
    found: list[SuiteTask] = []
    absent = []
    for name in dict.fromkeys(part.strip() for said in names for part in said.split(",")):
        if name not in SUITE:
            near = difflib.get_close_matches(name, SUITE, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise JslmError(f"--suite {name!r}: no such benchmark{hint} There are {', '.join(SUITE)}")
        sources = SUITE[name]
        here = [task for source in sources if (task := _task(source, folder, limit))]
        found += [task for task in here if task.task not in {other.task for other in found}]
        if not here:
            absent.append(f"{name}: {' or '.join(source.how(folder) for source in sources)}")
    if absent:
        raise JslmError(
            f"--suite {','.join(line.partition(':')[0] for line in absent)}: no data in {folder} (--suite-data), and "
            f"nothing is downloaded here; fetch it first: {'; '.join(absent)}"
        )
    return tuple(found)


def _task(source: Source, folder: Path, limit: int) -> SuiteTask | None:
    for split, official, patterns in source.places:
        paths = next((paths for p in patterns if (paths := sorted(filter(Path.is_file, folder.glob(p))))), [])
        if not paths:
            continue
        parts: dict[str, list[Document]] = {}
        for path in paths:
            parts.setdefault(_part(source, path), []).extend(_documents(source, path))
        for name, documents in parts.items():
            if len(documents) > official:
                raise JslmError(
                    f"{', '.join(map(str, paths[:3]))}: {len(documents):,} documents of {name}; its {split} split has "
                    f"{official:,}: remove what is of another split, or there twice"
                )
        of = PARADIGMS if source.task == "blimp" else 1
        cut = {name: tuple(documents[: limit or None]) for name, documents in parts.items()}
        files = tuple(map(str, paths))
        return SuiteTask(source.task, source.split, split, source.split, official * of, of, cut, files)
    return None


def _part(source: Source, path: Path) -> str:
    """The harness's task that a file is of: of BLiMP a paradigm's, by the file's name or, of Parquet, its folder's."""
    if source.task != "blimp":
        return source.task
    name = path.parent.name if path.suffix == ".parquet" else path.stem
    return f"blimp_{name.removeprefix('blimp_')}"


def _documents(source: Source, path: Path) -> list[Document]:
    if path.suffix == ".parquet":
        records: Iterator[tuple[str, Mapping[str, Any]]] = _rows(path, source.keys)
    elif path.suffix == ".txt":
        lines = enumerate(read_lines(path), 1)
        records = ((f"{path}: line {n}", {"text": line.strip()}) for n, line in lines if line.strip())
    else:
        records = read_records(path, source.keys)
    documents = [source.read(where, record) for where, record in records]
    if not documents:
        raise JslmError(f"{path}: empty; expected the documents of {source.task}")
    return documents


def _rows(path: Path, keys: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    parquet = load_extra("pyarrow.parquet", "data", f"{path}: Parquet")
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise JslmError(f"{path}: not Parquet ({' '.join(str(error).split())[:120]}); fetch it again") from None
    if lacking := [key for key in keys if key not in table.column_names]:
        raise JslmError(f"{path}: no column {', '.join(lacking)} among {', '.join(table.column_names)}")
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"{path}: row {number}", row


def _sentences(where: str, record: Mapping[str, Any]) -> Document:
    return {key: text_of(where, record, key) for key in ("sentence_good", "sentence_bad")}


def _passage(where: str, record: Mapping[str, Any]) -> Document:
    text = text_of(where, record, "text")
    before, _, word = text.rpartition(" ")
    if not before.strip() or not word:
        raise JslmError(f"{where}: {text[-60:]!r}; expected a passage that ends with a space and the word to guess")
    return {"text": text}


def _endings(where: str, record: Mapping[str, Any]) -> Document:
    for key in ("activity_label", "ctx_a", "ctx_b"):
        if not isinstance(record[key], str):
            raise JslmError(f"{where}: {key} = {record[key]!r}; expected text")
    endings = texts_of(where, "endings", record["endings"])
    label = number_of(where, record, "label", len(endings))
    texts = {key: record[key] for key in ("activity_label", "ctx_a", "ctx_b")}
    return {**texts, "endings": endings, "label": str(label)}


def _answers(where: str, record: Mapping[str, Any]) -> Document:
    question, texts, labels, answer = arc_parts(where, record)
    return {"question": question, "choices": {"text": texts, "label": labels}, "answerKey": labels[answer]}


_SOURCES = (
    Source(
        "blimp", "nyu-mll/blimp", None, "train",
        (Files("train", 1000, ("blimp/**/*.parquet", "blimp/**/*.jsonl", "blimp_*.jsonl")),),
        ("sentence_good", "sentence_bad"), _sentences, "blimp", also="blimp_PARADIGM.jsonl",
    ),
    Source(
        "lambada_openai", "EleutherAI/lambada_openai", "default", "test",
        (Files("test", 5153, ("lambada_openai/**/lambada_test.jsonl", "lambada_openai/**/default/test*.parquet",
                              "lambada_test.jsonl")),),
        ("text",), _passage, "lambada_openai", also="lambada_test.jsonl",
    ),
    Source(
        "lambada_standard", "cimec/lambada", None, "test",
        (
            Files("test", 5153, ("lambada_standard/**/test*.parquet", "lambada_test*.txt")),
            Files("validation", 4869, ("lambada_standard/**/validation*.parquet", "lambada_*valid*.txt",
                                       "lambada_development*.txt")),
        ),
        ("text",), _passage, "lambada_standard", fetch="plain_text/test*", also="lambada_test_plain_text.txt",
    ),
    Source(
        "hellaswag", "Rowan/hellaswag", None, "validation",
        (Files("validation", 10042, ("hellaswag/**/validation*.parquet", "hellaswag/**/hellaswag_val.jsonl",
                                     "hellaswag_val.jsonl", "hellaswag_*.jsonl")),),
        ("activity_label", "ctx_a", "ctx_b", "endings", "label"), _endings, "hellaswag",
        fetch="data/validation*", also="hellaswag_val.jsonl",
    ),
    Source(
        "arc_easy", "allenai/ai2_arc", "ARC-Easy", "test",
        (Files("test", 2376, ("arc_easy/**/test*.parquet", "**/ARC-Easy-Test.jsonl")),),
        ("question", "answerKey"), _answers, "arc_easy", fetch="ARC-Easy/test*", also="ARC-Easy-Test.jsonl",
    ),
)  # fmt: skip
SOURCES = {source.task: source for source in _SOURCES}
# What `--suite` takes: LAMBADA is two tasks of the harness, of which those with files count.
SUITE: dict[str, tuple[Source, ...]] = {name: (source,) for name, source in SOURCES.items()}
SUITE["lambada"] = (SOURCES["lambada_openai"], SOURCES["lambada_standard"])
