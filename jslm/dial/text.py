"""What a text is: its size, script, language, kind, and what its files need to be read well."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

from jslm.config import DataConfig, config_from_dict
from jslm.errors import JslmError
from jslm.text.cleaners import apply_cleaners
from jslm.text.documents import InputFile, StoriesSource, read_entry, resolve_sources, size_of
from jslm.text.readers import NoColumn, format_name, peek

# What is looked at: enough for shares of lines and characters, a second to read.
SAMPLE_CHARACTERS = 4_000_000
_SAMPLE_FILES = 40
# A page: less has nothing to be learned from, and nothing to be held out.
LEAST_BYTES = 4_000
END_OF_TEXT = "<|endoftext|>"
# Keys of records that hold the text, the likeliest first.
_TEXT_FIELDS = ("text", "content", "story", "body", "document", "article", "Script", "completion", "output")
_MESSAGES = ("messages", "conversations")
# Settings that say which part of a record is its text.
_COLUMNS = ("text_field", "template", "messages")
# gzip and Zstandard make about a third of text, Parquet about half.
_UNPACKED = {".gz": 3.0, ".zst": 3.0, ".zip": 3.0, ".tgz": 3.0, ".parquet": 2.0, ".epub": 2.0}

_SCENE = re.compile(r"^[ \t]*(?:\d+[A-Z]?[. ]+)?(?:INT|EXT|I/E|INT/EXT)[./ ]", re.MULTILINE)
_SPEAKER = re.compile(r"^(?:[A-Z][A-Z .'-]{1,30}|[A-Z][a-z]+(?: [A-Z][a-z]+){0,2})[:.]$", re.MULTILINE)
_TURN = re.compile(r"^(?:User|Assistant|Human|Bot|AI|Q|A|Question|Answer)[ ]?:", re.MULTILINE)
_CODE = re.compile(
    r"[;{}]\s*$|^\s*(?:def|class|import|from|return|public|private|static|function|const|let|#include)\b"
)
_MOJIBAKE = re.compile("â€|Ã[©¨¼¶¤ŸŸ]|Â[ \u00a0£°»«]")
_WORDS = {
    "English": ("the", "and", "of", "to", "was", "that", "with", "he"),
    "French": ("le", "la", "les", "et", "des", "que", "une", "dans"),
    "German": ("der", "die", "und", "das", "nicht", "ist", "ein", "mit"),
    "Spanish": ("el", "los", "que", "las", "una", "por", "con", "del"),
    "Italian": ("il", "che", "di", "non", "una", "per", "sono", "della"),
    "Portuguese": ("o", "que", "não", "uma", "os", "com", "para", "do"),
    "Dutch": ("de", "het", "een", "van", "niet", "dat", "zijn", "en"),
}


@dataclass(frozen=True)
class TextFacts:
    """What was found. `size` is bytes of UTF-8 text, estimated where files are packed or generated, and `documents` is
    estimated from the sample; `distinct` counts the characters of the sample, `bytes_per_character` is its mean.

    `kind`: book, prose, play, script, stories, chat, code or records. `settings` are those of `[data]` that reading it
    takes, and `reasons` says why, a line each.
    """

    files: int
    size: int
    documents: int
    kind: str
    script: str
    language: str
    distinct: int
    bytes_per_character: float
    settings: dict[str, object]
    reasons: tuple[str, ...]


def look(sources: Sequence[str], given: Mapping[str, Any] | None = None) -> TextFacts:
    """Reads a sample of `sources` (files, folders, globs, addresses) and says what it is.

    `given`: settings of `[data]` that are asked for; they are read by, and nothing else is found in their place.
    Raises JslmError, naming the file: nothing there, nothing readable, binary data, records without a text, or less
    than `LEAST_BYTES` of text; and for settings that do not hold.
    """
    given = dict(given or {})
    if given.get("messages") or given.get("prompt_end"):
        # Trained whole.
        given = {"packing": "documents", **given}
    config = config_from_dict({"data": {**given, "source": list(sources)}}, "command line").data
    entries = resolve_sources(config)
    files, stored = size_of(entries)
    written = sum(1e6 * entry.megabytes for entry in entries if isinstance(entry, StoriesSource))
    if all(isinstance(entry, StoriesSource) for entry in entries):
        return _generated(stored)
    formats = Counter(format_name(entry.name) for entry in entries if isinstance(entry, InputFile))
    keys: dict[str, object] = {name: given[name] for name in _COLUMNS if given.get(name)}
    others: tuple[str, ...] = ()
    if not keys and set(formats) & {"jsonl", "json", "csv", "tsv", "parquet"}:
        keys, others = _record_keys(entries, config)
        config = DataConfig.model_validate({**config.model_dump(), **keys})
    texts, is_whole = _sample(entries, config)
    sample = "\n".join(texts)
    packed = {entry.name: _packing(entry.name) * entry.size for entry in entries if isinstance(entry, InputFile)}
    seen = sum(len(text.encode("utf-8")) for text in texts)
    size = seen if is_whole else max(seen, int(sum(packed.values()) + written))
    if size < LEAST_BYTES:
        raise JslmError(
            f"data.source: {', '.join(sources)}: {size:,} bytes of text, too little to learn from; give "
            f"{LEAST_BYTES:,} or more (a chapter; a book is better)"
        )
    facts = _judge(sample, texts, files, size, keys)
    reasons = [reason for reason in facts.reasons if reason.partition(":")[0] not in given]
    if others:
        there, taken = ", ".join(map(repr, others)), next(iter(keys.values()))
        reasons.insert(
            0, f"records: of {there} only '{taken}' is read; another: data.text_field=KEY, several: data.template"
        )
    return replace(facts, settings={**facts.settings, **given}, reasons=tuple(reasons))


def _judge(sample: str, texts: list[str], files: int, size: int, keys: dict[str, object]) -> TextFacts:
    settings, reasons = dict(keys), []
    share = size / sum(len(text.encode("utf-8")) for text in texts)
    documents = len(texts) if keys else files
    cleaners: list[str] = []
    is_gutenberg = any(
        "Project Gutenberg" in text[:20_000] and apply_cleaners(text[:200_000], ["gutenberg"])[1].get("gutenberg")
        for text in texts[:_SAMPLE_FILES]
    )
    if is_gutenberg:
        cleaners.append("gutenberg")
        reasons.append("cleaners: Project Gutenberg's header and licence are not part of the book")
    kind = _kind(sample, keys, is_gutenberg)
    if END_OF_TEXT in sample:
        settings["separator"] = END_OF_TEXT
        documents, kind = int(sample.count(END_OF_TEXT) * share) + 1, "stories"
        reasons.append(f"separator: the text has {END_OF_TEXT} between its parts")
    elif keys:
        documents = int(documents * share)
    if _MOJIBAKE.search(sample) and len(_MOJIBAKE.findall(sample)) > len(sample) / 100_000:
        cleaners.append("mojibake")
        reasons.append("cleaners: some characters were decoded wrongly once, as in â€™ for an apostrophe; mended")
    if settings.get("messages"):
        # Trained whole, as their chat template has them.
        return _facts(sample, files, size, int(documents * share), "chat", settings, [])
    if kind == "script":
        cleaners.append("screenplay")
        reasons.append("cleaners: a screenplay's page furniture goes, its columns become lines")
    elif _is_wrapped(sample):
        cleaners += ["footnotes", "page_numbers", "unwrap", "emphasis"]
        reasons.append("cleaners: lines are broken at a fixed width; paragraphs become lines, verse stays")
        kind = "book" if kind == "prose" else kind
    elif is_gutenberg:
        cleaners += ["footnotes", "page_numbers", "emphasis"]
    if kind != "code":
        cleaners.append("normalize")
    settings["cleaners"] = cleaners
    return _facts(sample, files, size, documents, kind, settings, reasons)


def _facts(
    sample: str, files: int, size: int, documents: int, kind: str, settings: dict[str, object], reasons: list[str]
) -> TextFacts:
    counts = Counter(sample[:1_000_000])
    script = _script(counts)
    return TextFacts(
        files=files,
        size=size,
        documents=documents,
        kind=kind,
        script=script,
        language=_language(sample) if script == "Latin" else "",
        distinct=len(set(sample)),
        bytes_per_character=len(sample.encode("utf-8")) / len(sample),
        settings=settings,
        reasons=tuple(reasons),
    )


def _generated(size: int) -> TextFacts:
    reasons = ("stories that jslm writes itself: clean, and of known entropy",)
    return TextFacts(0, size, size // 600, "stories", "Latin", "English", 60, 1.0, {"packing": "documents"}, reasons)


def _sample(entries: Sequence[InputFile | StoriesSource], config: DataConfig) -> tuple[list[str], bool]:
    """Beginnings of files spread over the sources; and whether that is all of the text."""
    step = max(1, -(-len(entries) // _SAMPLE_FILES))
    chosen = entries[::step]
    each = SAMPLE_CHARACTERS // len(chosen)
    texts: list[str] = []
    is_whole = step == 1
    for entry in chosen:
        if isinstance(entry, StoriesSource):
            found = [document.text for document in islice(read_entry(entry, config), 100)]
            is_whole = False
        else:
            found = list(peek(entry, config, each))
            is_whole = is_whole and sum(map(len, found)) < each
        texts += [text for text in found if text.strip()]
    if not texts:
        raise JslmError(f"data.source: no text in {', '.join(config.sources)}; every file in it is empty or blank")
    return texts, is_whole


def _record_keys(
    entries: Sequence[InputFile | StoriesSource], config: DataConfig
) -> tuple[dict[str, object], tuple[str, ...]]:
    """(the keys of `[data]` that find the text of the first file of records, the record's own keys where it has none
    called text). Raises JslmError where nothing finds it."""
    first = next(entry for entry in entries if isinstance(entry, InputFile) and format_name(entry.name) != "text")
    tries: list[dict[str, object]] = [{"text_field": name} for name in _TEXT_FIELDS]
    tries += [{"messages": name, "packing": "documents"} for name in _MESSAGES]
    problems = []
    for keys in tries:
        try:
            next(iter(peek(first, DataConfig.model_validate({**config.model_dump(), **keys}), 1)), None)
        except JslmError as error:
            problems.append(error)
        else:
            missed = problems[0] if problems else None
            return keys, missed.found if isinstance(missed, NoColumn) else ()
    if len(entries) > 1:
        raise JslmError(f"{problems[0]}, or leave the file out")
    raise problems[0]


def _packing(name: str) -> float:
    return next((factor for ending, factor in _UNPACKED.items() if name.lower().endswith(ending)), 1.0)


def _kind(sample: str, keys: dict[str, object], is_gutenberg: bool) -> str:
    lines = [line for line in sample[:1_000_000].split("\n") if line.strip()]
    if "messages" in keys or len(_TURN.findall(sample[:1_000_000])) > 0.1 * len(lines):
        return "chat"
    if len(_SCENE.findall(sample[:1_000_000])) * 5000 > min(len(sample), 1_000_000):
        return "script"
    if sum(bool(_CODE.search(line)) for line in lines) > 0.3 * len(lines):
        return "code"
    if len(_SPEAKER.findall(sample[:1_000_000])) > 0.08 * len(lines):
        return "play"
    if is_gutenberg:
        return "book"
    return "records" if keys else "prose"


def _is_wrapped(sample: str) -> bool:
    """Whether prose is broken at a fixed width: most lines are of about that, and go on in small letters."""
    lines = sample[:1_000_000].split("\n")
    pairs = [(line, after) for line, after in pairwise(lines) if line.strip() and after.strip()]
    if len(pairs) < 50:
        return False
    long = sum(45 <= len(line) <= 90 for line, _ in pairs)
    goes_on = sum(after.lstrip()[0].islower() for _, after in pairs)
    return long > 0.5 * len(pairs) and goes_on > 0.4 * len(pairs)


def _script(counts: Counter[str]) -> str:
    """The script of most letters, as Unicode names it: Latin, Cyrillic, CJK."""
    scripts: Counter[str] = Counter()
    for character, count in counts.items():
        if character.isalpha():
            scripts[unicodedata.name(character, "UNKNOWN").split()[0].split("-")[0]] += count
    if not scripts:
        return "no letters"
    name = scripts.most_common(1)[0][0]
    return name if name == "CJK" else name.capitalize()


def _language(sample: str) -> str:
    """The language whose commonest words the sample has most of; empty where none has many."""
    words = Counter(re.findall(r"[^\W\d_]+", sample[:200_000].lower()))
    total = sum(words.values())
    found = {language: sum(words[word] for word in common) for language, common in _WORDS.items()}
    best = max(found, key=lambda language: found[language])
    return best if found[best] > 0.08 * total else ""
