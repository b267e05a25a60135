"""Sixteen books of Project Gutenberg, whole: nothing of the frame is left, nothing of the book is lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jslm.config import load_config
from jslm.text.cleaners import CLEANERS
from jslm.text.documents import clean_document, read_raw_documents

CONFIG = load_config(Path(__file__).resolve().parents[2] / "configs" / "books_40m.toml").data

# The first words of the file's book (its title page, as printed), the first sentence of its text, and its last words.
BOOKS = {
    "2591-0.txt": (
        "Grimms’ Fairy Tales\n\nBy Jacob Grimm and Wilhelm Grimm\n\nCONTENTS:",
        "A certain king had a beautiful garden, and in the garden stood a tree which bore golden apples.",
        "They have been an essential ingredient of children’s reading ever since.",
    ),
    "345-8_latin1.txt": (
        "DRACULA",
        "3 May. Bistritz.--Left Munich at 8:35 P. M., on 1st May, arriving at Vienna early next morning;",
        "GROSSET & DUNLAP, Publishers, NEW YORK",
    ),
    "44157-0_french.txt": (
        "ENTRE NOUS.",
        "Inspirée par les si jolis ouvrages „Nog bij Moeder”, „Dicht bij Huis” et „De Wereld in” nous avons voulu",
        "la lecture,                     het lezen.",
    ),
    "9198-8_latin1.txt": (
        "THE COMPLETE ANGLER;\n\nOR,\n\nTHE CONTEMPLATIVE MAN'S RECREATION.",
        'The "first edition" has been a favourite theme for the scorn of those who love it not.',
        "And upon all that hate contentions, and love quietnesse, and vertue, and Angling.\n\nFINIS.",
    ),
    "98-0.txt": (
        "A TALE OF TWO CITIES\n\nA STORY OF THE FRENCH REVOLUTION\n\nBy Charles Dickens",
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness,",
        "it is a far, far better rest that I go to than I have ever known.”",
    ),
    "old_moby10b_small_print.txt": (
        "MOBY DICK; OR THE WHALE\n\nby Herman Melville\n\nETYMOLOGY.",
        "Call me Ishmael. Some years ago--never mind how long precisely--having little or no money in my purse,",
        "that in her retracing search after her missing children, only found another orphan.",
    ),
    "pg11.txt": (
        "Alice’s Adventures in Wonderland\n\nby Lewis Carroll",
        "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do:",
        "remembering her own child-life, and the happy summer days.\n\nTHE END",
    ),
    "pg16389.txt": (
        "The Enchanted April\n\nby Elizabeth Von Arnim",
        "It began in a Woman’s Club in London on a February afternoon—an uncomfortable club, and a",
        "out into the village they still could smell the acacias.",
    ),
    "pg174.txt": (
        "The Picture of Dorian Gray\n\nby Oscar Wilde",
        "The artist is the creator of beautiful things. To reveal art and conceal the artist is art’s aim.",
        "It was not till they had examined the rings that they recognized who it was.\n\nTHE END",
    ),
    "pg25344.txt": (
        "THE SCARLET LETTER.",
        "Much to the author’s surprise, and (if he may say so without additional offence) considerably",
        "SABLE, THE LETTER A, GULES.”\n\n     Cambridge: Electrotyped and Printed by Welch, Bigelow, & Co.",
    ),
    "pg2542.txt": (
        "A Doll’s House\n\nby Henrik Ibsen",
        "[SCENE.—A room furnished comfortably and tastefully, but not extravagantly. At the back, a door to the right",
        "The most wonderful thing of all—?\n\n[The sound of a door shutting is heard from below.]",
    ),
    "pg345.txt": (
        "DRACULA",
        "3 May. Bistritz.--Left Munich at 8:35 P. M., on 1st May, arriving at Vienna early next morning;",
        "GROSSET & DUNLAP, Publishers, NEW YORK",
    ),
    "pg394.txt": (
        "CRANFORD",
        "IN the first place, Cranford is in possession of the Amazons; all the holders of houses above a certain rent",
        "PRINTED BY\n                           TURNBULL AND SPEARS,\n                                EDINBURGH",
    ),
    "pg46.txt": (
        "A CHRISTMAS CAROL\n\nIN PROSE\nBEING\nA Ghost Story of Christmas",
        "MARLEY was dead: to begin with. There is no doubt whatever about that.",
        "And so, as Tiny Tim observed, God bless Us, Every One!",
    ),
    "pg64317.txt": (
        "The Great Gatsby",
        "In my younger and more vulnerable years my father gave me some advice that I’ve been turning over in my mind",
        "So we beat on, boats against the current, borne back ceaselessly into the past.",
    ),
    "pg84.txt": (
        "Frankenstein;\n\nor, the Modern Prometheus\n\nby Mary Wollstonecraft (Godwin) Shelley",
        "You will rejoice to hear that no disaster has accompanied the commencement of an enterprise which you have",
        "He was soon borne away by the waves and lost in darkness and distance.",
    ),
}
# What Project Gutenberg and its volunteers write, and no author of these books.
FRAME = re.compile(
    r"gutenberg|\be-?texts?\b|\be-?books?\b|small print|public domain|pgdp|proofread|transcri(?:ber|ption)|preparer"
    r"|\[(?:illustration|picture|vignette|footnote|sidenote)|(?-i:Produced by)|livre électronique|typos? fixed"
    r"|page \d+: |license agreement",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def books(assets: Path) -> dict[str, tuple[str, str]]:
    """Raw and cleaned text by name."""
    config = CONFIG.model_copy(update={"source": str(assets / "gutenberg")})
    return {
        Path(document.source).name: (document.text, clean_document(document, config).text)
        for document in read_raw_documents(config)
    }


def test_every_book_is_listed(books: dict[str, tuple[str, str]]) -> None:
    assert set(books) == set(BOOKS)


@pytest.mark.parametrize("name", BOOKS)
def test_a_book_begins_and_ends_with_its_own_words(books: dict[str, tuple[str, str]], name: str) -> None:
    first, opening, last = BOOKS[name]
    text = books[name][1]
    assert text.lstrip().startswith(first)
    assert opening in text
    assert text.endswith(last)


@pytest.mark.parametrize("name", BOOKS)
def test_nothing_of_the_frame_is_left(books: dict[str, tuple[str, str]], name: str) -> None:
    assert [match[0] for match in FRAME.finditer(books[name][1])] == []


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text)


@pytest.mark.parametrize("name", BOOKS)
def test_no_word_between_beginning_and_end_is_lost(books: dict[str, tuple[str, str]], name: str) -> None:
    raw, cleaned = books[name]
    # The raw book without its markers and notes, told apart in another way than the cleaner's: by the last start line
    # and the first end line, and by what the notes at hand are known to be.
    start = [m.end() for m in re.finditer(r"^\*\*\* ?START OF.*$|^\*END.THE SMALL PRINT.*$", raw, re.MULTILINE)][-1]
    end = re.search(r"^(\*\*\* ?END OF|End of (the |this )?Project)", raw, re.MULTILINE)
    assert end is not None
    body = words(re.sub(r"\[(Illustration|Picture|Vignette|Sidenote|Footnote)[^\[\]]*\]", "", raw[start : end.start()]))
    kept = words(cleaned)
    # Each word of the cleaned text in turn, in order; what is between two of them was removed.
    position, skipped = 0, []
    for word in kept:
        begin = position
        while position < len(body) and body[position] != word:
            position += 1
        skipped.append(body[begin:position])
        position += 1
    assert position <= len(body), "words that the book has not"
    # At the ends, credits and notes; in between nothing but footnotes, and marks of them.
    inside = [gap for gap in skipped[60:] if gap]
    assert sum(map(len, inside)) <= {"pg25344.txt": 1, "2591-0.txt": 1}.get(name, 0), inside[:5]
    assert sum(map(len, skipped[:60])) <= {"old_moby10b_small_print.txt": 100, "44157-0_french.txt": 60}.get(name, 40)
    assert len(body) - position <= {"44157-0_french.txt": 100, "pg25344.txt": 120}.get(
        name, 120 if "345" in name else 0
    )


def test_cleaning_twice_is_cleaning_once(books: dict[str, tuple[str, str]]) -> None:
    for name in ("pg11.txt", "pg2542.txt", "44157-0_french.txt"):
        text = books[name][1]
        for cleaner in ("gutenberg", "footnotes", "page_numbers", "normalize"):
            assert CLEANERS[cleaner](text).text == text, (name, cleaner)
