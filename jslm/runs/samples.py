"""`samples.md`: what the model wrote during training, as Markdown that reads back exactly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from jslm.files import write_text

SAMPLES_FILE = "samples.md"

_HEADING = re.compile(r"## Step (\d+)\s*")
_MARKUP = re.compile(r"[\\*_`<>&\[\]]")
_BLOCK_START = re.compile(r"^([#+=~-])", re.MULTILINE)
# Markdown ends a line at a carriage return and loses NUL; lone surrogates can't be written as UTF-8.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])|&#(\d+);")
_BOLD = re.compile(r"\*\*((?:[^\\*]|\\.)+)\*\*", re.DOTALL)


def append_samples(path: Path, step: int, samples: Sequence[tuple[str, str]]) -> None:
    """Appends a `## Step N` heading and a quoted block a sample, made of (prompt, what the model wrote after it).

    The prompt stands in bold; an empty one leaves no trace.
    """
    blocks = [f"## Step {step}\n"] + [_quote(prompt, text) for prompt, text in samples]
    with path.open("a", encoding="utf-8", newline="") as file:
        # The blank line also ends a line that a killed run left half written.
        file.write(("\n" if file.tell() else "") + "\n".join(blocks))


def read_samples(path: Path) -> list[tuple[int, str, str]]:
    """(step, prompt, text) of each sample in file order: exactly what `append_samples` was given.

    An absent file has none. Lines that are neither headings nor quoted, such as notes, are passed over.
    """
    return [(step, *_unquote(block)) for step, section in _sections(path) for block in _blocks(section)]


def drop_samples_after(path: Path, step: int) -> None:
    """Removes the samples of steps after `step`, which a run killed after its last checkpoint will write again.

    `step` -1 removes all. An absent file stays absent.
    """
    if path.exists():
        kept = ["\n".join(section) for at, section in _sections(path) if at <= step]
        write_text(path, "\n".join(section.rstrip("\n") + "\n" for section in kept))


def _quote(prompt: str, text: str) -> str:
    body = _escape(text)
    if prompt:
        body = f"**{_escape(prompt)}**{body}"
    # Two spaces at the end are Markdown's line break.
    return "> " + body.replace("\n", "  \n> ") + "\n"


def _unquote(lines: Sequence[str]) -> tuple[str, str]:
    contents = [line[2:] for line in lines]
    body = "\n".join([line.removesuffix("  ") for line in contents[:-1]] + contents[-1:])
    bold = _BOLD.match(body)
    if bold is None:
        return "", _unescape(body)
    return _unescape(bold[1]), _unescape(body[bold.end() :])


def _escape(text: str) -> str:
    text = _BLOCK_START.sub(r"\\\1", _MARKUP.sub(lambda match: "\\" + match[0], text))
    return _UNSAFE.sub(lambda match: f"&#{ord(match[0])};", text)


def _unescape(text: str) -> str:
    return _ESCAPED.sub(lambda match: match[1] or chr(int(match[2])), text)


def _sections(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(step, lines) of each heading, the heading's own line included."""
    if not path.exists():
        return
    step, section = -1, list[str]()
    for line in path.read_bytes().decode("utf-8", errors="replace").split("\n"):
        heading = _HEADING.fullmatch(line)
        if heading:
            if section and step >= 0:
                yield step, section
            step, section = int(heading[1]), []
        section.append(line)
    if step >= 0:
        yield step, section


def _blocks(section: Sequence[str]) -> Iterator[list[str]]:
    block = list[str]()
    for line in [*section, ""]:
        if line.startswith(">"):
            block.append(line)
        elif block:
            yield block
            block = []
