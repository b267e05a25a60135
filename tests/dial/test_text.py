"""What the dial finds in texts of each kind, and what it says of what is none."""

from __future__ import annotations

import json
import random
import textwrap
from pathlib import Path

import pytest

from jslm.dial.text import LEAST_BYTES, look
from jslm.errors import JslmError

WORDS = "the cat of my old neighbour was in that house and he sat with a big red dog near to some tree"


def sentences(count: int, seed: int = 0) -> list[str]:
    choice, words = random.Random(seed), WORDS.split()
    found = (" ".join(choice.choice(words) for _ in range(choice.randint(5, 15))) for _ in range(count))
    return [f"{sentence.capitalize()}." for sentence in found]


@pytest.fixture
def prose() -> str:
    return "\n\n".join(" ".join(sentences(6, seed)) for seed in range(60))


@pytest.fixture
def book(prose: str) -> str:
    wrapped = "\n\n".join(textwrap.fill(paragraph, 70) for paragraph in prose.split("\n\n"))
    return (
        "The Project Gutenberg eBook of A Cat\n\nThis ebook is for the use of anyone anywhere.\n\n"
        "*** START OF THE PROJECT GUTENBERG EBOOK A CAT ***\n\n" + wrapped + "\n\n"
        "*** END OF THE PROJECT GUTENBERG EBOOK A CAT ***\n\nSection 1. Foundation information.\n"
    )


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, "utf-8")
    return str(path)


def test_a_gutenberg_book(tmp_path: Path, book: str) -> None:
    facts = look([write(tmp_path, "cat.txt", book)])
    assert (facts.kind, facts.script, facts.language, facts.files) == ("book", "Latin", "English", 1)
    assert facts.size == len(book.encode())
    cleaners = facts.settings["cleaners"]
    assert isinstance(cleaners, list)
    assert cleaners[0] == "gutenberg"
    assert {"unwrap", "normalize"} <= set(cleaners)
    assert any("licence" in reason for reason in facts.reasons)


def test_prose_with_a_line_a_paragraph_is_not_unwrapped(tmp_path: Path, prose: str) -> None:
    facts = look([write(tmp_path, "notes.txt", prose)])
    assert facts.kind == "prose"
    assert facts.settings["cleaners"] == ["normalize"]


def test_a_folder_counts_its_files(tmp_path: Path, book: str, prose: str) -> None:
    for number in range(3):
        write(tmp_path, f"{number}.txt", book)
    write(tmp_path, "other.md", prose)
    facts = look([str(tmp_path)])
    assert (facts.files, facts.documents) == (4, 4)


def test_stories_between_marks(tmp_path: Path) -> None:
    text = "\n<|endoftext|>\n".join(" ".join(sentences(8, seed)) for seed in range(40))
    facts = look([write(tmp_path, "stories.txt", text)])
    assert facts.kind == "stories"
    assert facts.documents == 40
    assert facts.settings["separator"] == "<|endoftext|>"


def test_plays_scripts_code_and_chat(tmp_path: Path) -> None:
    lines = sentences(100)
    play = "\n\n".join(
        f"{speaker}:\n{line}" for speaker, line in zip(["ROMEO", "Second Witch"] * 50, lines, strict=True)
    )
    scene = "\n\n".join(f"INT. HOUSE - NIGHT\n\n{line}\n\n          CAT\n     {line}" for line in lines)
    code = "\n".join(f"def f{number}(x):\n    y = x + {number};\n    return y" for number in range(200))
    chat = "\n".join(f"User: {line}\nAssistant: {line}" for line in lines)
    for kind, text in {"play": play, "script": scene, "code": code, "chat": chat}.items():
        assert look([write(tmp_path, f"{kind}.txt", text)]).kind == kind
    assert "screenplay" in look([str(tmp_path / "script.txt")]).settings["cleaners"]  # type: ignore[operator]
    assert look([str(tmp_path / "code.txt")]).settings["cleaners"] == []


def test_records(tmp_path: Path) -> None:
    stories = "\n".join(json.dumps({"id": number, "story": line}) for number, line in enumerate(sentences(200)))
    facts = look([write(tmp_path, "a.jsonl", stories)])
    assert (facts.kind, facts.settings["text_field"]) == ("records", "story")
    messages = [{"role": "user", "content": "Hi, cat"}, {"role": "assistant", "content": "Hello, dog, come in"}]
    chats = "\n".join(json.dumps({"messages": messages}) for _ in range(100))
    facts = look([write(tmp_path, "b.jsonl", chats)])
    assert (facts.kind, facts.settings["messages"], facts.documents) == ("chat", "messages", 100)


def test_scripts_and_languages(tmp_path: Path) -> None:
    french = "Le chat et les souris que la nuit a vus dans une maison et des arbres. " * 200
    russian = "Кошка сидела на окне и смотрела на дождь. " * 200
    found = [look([write(tmp_path, "t.txt", text)]) for text in (french, russian)]
    assert [(facts.script, facts.language) for facts in found] == [("Latin", "French"), ("Cyrillic", "")]
    assert found[1].bytes_per_character > 1.7


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "zeros.txt").write_bytes(bytes(3_000_000))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "table.jsonl").write_text('{"x": 1}\n', "utf-8")
    cases = {
        write(tmp_path, "empty.txt", ""): "no text in .*empty.txt",
        write(
            tmp_path, "short.txt", "A cat sat on a mat, and that is all there is."
        ): f"45 bytes .* give {LEAST_BYTES:,}",
        write(tmp_path, "line.txt", "One line of text and no more than that."): "too little to learn from",
        str(tmp_path / "zeros.txt"): "zeros.txt: .*NUL byte",
        str(tmp_path / "pictures"): "pictures.*no .* file",
        str(tmp_path / "pictures" / "a.png"): "a.png: this is a PNG image",
        str(tmp_path / "table.jsonl"): "no key 'text'.*keys found: 'x'",
        str(tmp_path / "absent.txt"): "absent.txt",
    }
    for source, message in cases.items():
        with pytest.raises(JslmError, match=message) as caught:
            look([source])
        assert "\n" not in str(caught.value)
