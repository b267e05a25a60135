"""Each cleaner on texts small enough to see through; whole books are in test_books.py."""

from __future__ import annotations

import time
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jslm.config import CleanerName
from jslm.text.cleaners import CLEANERS, apply_cleaners


def clean(name: str, text: str) -> str:
    """The cleaned text alone."""
    return CLEANERS[name](text).text


def test_the_schema_names_the_cleaners() -> None:
    assert set(get_args(CleanerName)) == set(CLEANERS)


def test_cleaners_run_in_their_order_and_say_what_they_removed() -> None:
    text = "A _word_ here.  \n\n\n\nB.\x00\n"
    assert apply_cleaners(text, ["emphasis", "normalize"]) == (
        "A word here.\n\nB.",
        {"emphasis": {"marks": 2}, "normalize": {"control characters": 1, "white space": 5}},
        {},
    )
    assert apply_cleaners("<p>a</p>", ["normalize", "html"])[0] == "a"
    assert apply_cleaners("plain", list(CLEANERS)) == ("plain", {}, {})
    assert apply_cleaners("a [Illustration: bc]", ["html", "gutenberg", "page_numbers"])[2] == {}
    assert apply_cleaners("<b>a</b>", ["html"])[2] == {"html": pytest.approx(1 - 1 / 8)}


@pytest.mark.parametrize("name", CLEANERS)
@given(text=st.text(st.sampled_from("aB 1.\n\t-_*[](){}<>:'&;é\u00a0\x0c\x1b"), max_size=80))
def test_no_text_makes_a_cleaner_fail(name: str, text: str) -> None:
    cleaned = CLEANERS[name](text)
    assert all(count > 0 for count in cleaned.removed.values())
    assert CLEANERS[name](text) == cleaned


@pytest.mark.parametrize("name", CLEANERS)
@pytest.mark.parametrize(
    "unit", ["\n", " ", "-", "[", "_a ", "* ", "\n \n", "(", "<a", "[Illustration\n", "1\n", "A\n\n", "a-\n"]
)
def test_time_grows_with_the_text_and_no_faster(name: str, unit: str) -> None:
    text = "Project Gutenberg\n" + unit * (120_000 // len(unit)) + "\nend é"
    # 0.1 s; a pattern that looks at each character again for each other one would take minutes. A machine may stop and
    # clean up in the middle of one try.
    assert any(_seconds(name, text) < 3 for _ in range(3))


def _seconds(name: str, text: str) -> float:
    started = time.thread_time()
    CLEANERS[name](text)
    return time.thread_time() - started


# Gutenberg

BODY = "CHAPTER I\n\nIt was a day.\n\nThe end of it."
MODERN = (
    "The Project Gutenberg eBook of A Day\n\nTitle: A Day\n\n"
    "*** START OF THE PROJECT GUTENBERG EBOOK A DAY, WITH A TITLE\nOVER TWO LINES ***\n\n{}\n\n"
    "*** END OF THE PROJECT GUTENBERG EBOOK A DAY ***\n\nUpdated editions will replace the previous one.\n"
)
SMALL_PRINT = (
    "**The Project Gutenberg Etext of A Day**\n\n***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\n"
    'Why is this "Small Print!" statement here?\n'
    "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n\n{}\n\n"
    "End of The Project Gutenberg Etext of A Day\n"
)


@pytest.mark.parametrize(
    "frame", [MODERN, SMALL_PRINT, SMALL_PRINT.replace("End of The", "*** This is the End of the")]
)
def test_headers_and_footers_of_all_times_go(frame: str) -> None:
    cleaned = CLEANERS["gutenberg"](frame.format(BODY))
    assert cleaned.text == BODY
    assert set(cleaned.removed) == {"header", "footer"}


def test_books_one_after_the_other_are_all_kept() -> None:
    text = MODERN.format(BODY) + SMALL_PRINT.format("Second.") + MODERN.format("Third.")
    assert clean("gutenberg", text) == f"{BODY}\n\n\nSecond.\n\n\nThird."


def test_a_file_with_both_kinds_of_start_has_one_book() -> None:
    both = SMALL_PRINT.partition("\n\n\n")[0] + "\n\nTitle: A Day\n\n" + MODERN[MODERN.index("*** START") :]
    assert clean("gutenberg", both.format(BODY)) == BODY


OLD_HEADER = (
    "The Project Gutenberg Etext of A Day, by A. B.\n#2 in our series by A. B.\n\n"
    "Copyright laws are changing all over the world. Be sure to check\n"
    "the laws for your country before redistributing these files!!!\n\n"
    "**Welcome To The World of Free Plain Vanilla Electronic Texts**\n\nTitle: A Day\n\nAuthor: A. B.\n\n"
    "Release Date: May, 2002  [Etext #1]\n\nEdition: 10\n\n"
)
PRINT_BELOW = (
    "\nMore information about this book is at the top of this file.\n\n"
    "We are now trying to release all our etexts one year in advance\nof the official release dates.\n\n"
    "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\n"
    'Why is this "Small Print!" statement here?  You know: lawyers.\n\n'
    "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.02/11/02*END*\n\n"
)
ENDS = (
    "",
    "End of Project Gutenberg Etext of A Day, by A. B.",
    "End of the Project Gutenberg EBook of A Day",
    "The End of the Project Gutenberg etext of A Day",
    "*** END OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK A DAY ***",
    "Fin de Project Gutenberg Etext de Le Jour, par A. B.",
    "Fin du Projet Gutenberg : Le Jour",
    "Fin de Proyecto Gutenberg: El día",
    'Ende dieses Project Gutenberg Etextes "Ein Tag".',
    "Ende dieses Projekt Gutenberg Etextes Ein Tag, von A. B.",
    "Ende des Projekt Gutenberg EBooks Ein Tag",
    "Einde van het Project Gutenberg eboek van Een dag",
    "Fine di questo Etext del Progetto Gutenberg",
    "Fim do Projecto Gutenberg: Um dia",
    "Slut på Project Gutenbergs En dag",
    "Project Gutenbergin julkaiseman teoksen loppu",
)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("body", [BODY, f"{BODY}\n\n" * 300])
def test_a_small_print_at_the_end_ends_the_book(end: str, body: str) -> None:
    body = body.strip()
    framed = f"{OLD_HEADER}{body}\n\n{end}\n\n{PRINT_BELOW}"
    assert clean("gutenberg", framed) == body
    started = framed.replace("Edition: 10\n", "*** START OF THE PROJECT GUTENBERG EBOOK, A DAY ***\n")
    assert clean("gutenberg", started) == body
    # The same above and below: the files of the next years.
    assert clean("gutenberg", f"{OLD_HEADER}{PRINT_BELOW}{body}\n\n{end}") == body


def test_a_small_print_between_two_files_loses_neither() -> None:
    body = f"{BODY}\n\n" * 20
    text = f"{OLD_HEADER}{body}{PRINT_BELOW}{MODERN.format('Second.')}{OLD_HEADER}{PRINT_BELOW}Third book, no end."
    assert clean("gutenberg", text) == f"{body.strip()}\n\n\nSecond.\n\n\nThird book, no end."


def test_lines_of_a_book_that_name_the_project_end_nothing() -> None:
    mentions = "Fine work, said the man of Project Gutenberg.\n\nEnd of story: there is Project Gutenberg."
    many = f"{BODY}\n\n" * 20
    text = f"{many}{mentions}\n\n{many}".strip()
    assert clean("gutenberg", f"{MODERN.format(text)}") == text


def test_a_book_where_a_header_should_be_is_kept() -> None:
    body = "A line of the book that goes on and on, and says nothing of its maker.\n\n" * 100
    start, end = (f"*** {word} OF THE PROJECT GUTENBERG EBOOK A DAY ***\n\n" for word in ("START", "END"))
    assert (
        clean("gutenberg", f"{body}{start}{BODY}\n\n{end}{body}") == f"{body.strip()}\n\n\n{BODY}\n\n\n{body.strip()}"
    )


def test_without_marks_the_paragraphs_that_name_it_go() -> None:
    text = f"A Day\n\nThe Project Gutenberg Etext of A Day\n\n{BODY}\n\nProduced by A. B., Project Gutenberg"
    assert clean("gutenberg", text) == f"A Day\n\n{BODY}"


@pytest.mark.parametrize(
    "credit",
    [
        "Produced by A. B. and the Online Distributed\nProofreading Team at https://www.pgdp.net",
        "E-text prepared by A. B.",
        "This etext was transcribed by A. B. from the 1904 edition",
        "Transcribed from the 1904 edition by A. B., email a@b.org",
        "Scanned and proofed by A. B.",
        "HTML version by A. B.",
        "Transcriber's Note:\n\nItalics are marked with _underscores_.\n\nSpelling is as printed.\n\n",
        "[Transcriber's Note: Italics are marked\nwith underscores, as [here].]",
        "+---------------------+\n| Transcriber’s Note: |\n| Spelling is odd.    |\n+---------------------+\n\n",
        "Notes on this etext:\n\nThe letters were replaced.\n\n",
    ],
)
def test_credits_and_notes_at_the_beginning_go(credit: str) -> None:
    assert clean("gutenberg", MODERN.format(f"{credit}\n\n\nA DAY\n\n{BODY}")).strip() == f"A DAY\n\n{BODY}"


@pytest.mark.parametrize(
    "notes",
    [
        "Transcriber's Notes\n\n\nPage 3: changed 'teh' to 'the'.\n\n\nPage 9: a missing period inserted.",
        "      * * * * *\n\nTypographical errors corrected by the etext transcriber:\n\nteh=> the {pg 3}",
        "TRANSCRIBER’S ENDNOTE: original spelling retained.",
    ],
)
def test_notes_at_the_end_go(notes: str) -> None:
    assert clean("gutenberg", MODERN.format(f"{BODY}\n\n{notes}")) == BODY


def test_a_book_goes_on_behind_notes_in_its_middle() -> None:
    story = "She went on to tell him of the winter, of the snow and of the long road home. " * 5
    text = f"{BODY}\n\nTranscriber's Note: a page of the original is missing here.\n\n\n{story}\n\n\n{story}"
    assert clean("gutenberg", MODERN.format(text)).count(story.strip()) == 2
    assert "missing here" not in clean("gutenberg", MODERN.format(text))


def test_illustrations_go_and_what_they_cut_in_two_is_whole() -> None:
    text = (
        "He went to the\n\n[Illustration: A door, [drawn] by\nA. B.]\n\nhouse.\n\n    [Picture: A house]\n\n"
        "The end [Illustration] of it.\n\n[Illustrations are listed below]\n\nFIN"
    )
    expected = "He went to the\nhouse.\n\nThe end of it.\n\nFIN"
    assert clean("gutenberg", MODERN.format(text)) == expected


def test_other_texts_are_left_alone() -> None:
    text = "Produced by A. B.\n\n[Illustration]\n\nTranscriber's Note: x."
    assert CLEANERS["gutenberg"](text).removed == {}
    assert clean("gutenberg", text) == text


# Page numbers and footnotes


def test_page_numbers_in_the_middle_of_sentences_go_and_chapters_stay() -> None:
    pages = [f"This is page {n}, which goes on\n\n{n}\n\nto the next. " + "More text. " * 9 for n in range(7, 15)]
    cleaned = CLEANERS["page_numbers"]("\n\n".join(pages))
    assert cleaned.text.startswith("This is page 7, which goes on\nto the next.")
    assert "\n10\n" not in cleaned.text
    assert cleaned.removed == {"page numbers": sum(len(str(n)) for n in range(7, 15))}
    chapters = "\n\n".join(f"{n}\n\nA chapter of its own, which ends here." for n in range(1, 9))
    assert clean("page_numbers", f"\n\n{chapters}") == f"\n\n{chapters}"
    assert clean("page_numbers", "In the year\n\n1904\n\nall was well.") == "In the year\n\n1904\n\nall was well."


def test_marked_page_numbers_always_go() -> None:
    text = "One [Page 12] two[Pg xiv] three {pg 7}.\n- 13 -\nPage 14 of 20\nHe saw 3 - 4 - there.\n\x0c 15\nEnd {8} [9]"
    assert clean("page_numbers", text) == "One two three.\n\n\nHe saw 3 - 4 - there.\n\nEnd {8} [9]"


def test_footnotes_go_with_their_marks() -> None:
    text = (
        "A word[1] and another[*] and one more {3} here, but a[5] stays.\n\n[Footnote 1: See\n\nbelow [sic].]\n\nB.\n\n"
        "     [*] Simpleton,\n     or so.\n\n{3} A third.\n\n[6] Not a note, as nothing points here.\n\n"
        "C [Sidenote: side]."
    )
    cleaned = CLEANERS["footnotes"](text)
    assert cleaned.text == (
        "A word and another and one more here, but a[5] stays.\n\nB.\n\n[6] Not a note, as nothing points here.\n\nC."
    )
    assert set(cleaned.removed) == {"notes", "marks", "side notes"}
    assert clean("footnotes", "One.[1]\n\nFOOTNOTES:\n\n[1] A note.\n") == "One.\n\n"


# Unwrap

PROSE = (
    "It is a truth universally acknowledged, that a single man in possession\n"
    "of a good fortune, must be in want of a wife. However little known the\n"
    "feelings or views of such a man may be on his first entering a neigh-\n"
    "bourhood, this truth is so well fixed in the minds of the well-\n"
    "known families--the Bennets, the Lucases and the Longs alike, of all--\n"
    "that he is considered as the rightful property of one of their\n"
    "daughters."
)
ELSEWHERE = "\n\nThe neighbourhood was known well.\n"


def test_prose_becomes_one_line_and_cut_words_are_whole() -> None:
    cleaned = CLEANERS["unwrap"](PROSE + ELSEWHERE)
    assert cleaned.text == (
        PROSE.replace("neigh-\nbourhood", "neighbourhood").replace("-\n", "-").replace("\n", " ") + ELSEWHERE
    )
    assert cleaned.removed == {"line breaks": 6, "hyphens": 1}


@pytest.mark.parametrize(
    "block",
    [
        "  Then wear the gold hat, if that will move her;\n  If you can bounce high, bounce for her too,\n"
        "  Till she cry “Lover, gold-hatted, high-bouncing lover,\n  I must have you!”",
        "Of Mans First Disobedience, and the Fruit of that Forbidden Tree\nWhose mortal taste brought Death into our\n"
        "And all our woe, with loss of Eden, till one greater Man\nRestore us, and regain the blissful Seat,",
        "la grande maison,               het groote huis.\nil arrive souvent,              hij komt dikwijls.",
        "CHAPTER I. The Period ............................................ 3\n"
        "CHAPTER II. The Mail and all the rest of it, which is long ....... 17",
        "| a table with a long cell in its first column | and one more   |\n"
        "| and another long cell under the first cell   | and the last   |",
        "                      JAMES R. OSGOOD AND COMPANY, AND COMPANY,\n                  LATE TICKNOR AND FIELDS",
        "Torvald Helmer.\nNora, his wife.\nDoctor Rank.\nMrs Linde.",
        "- milk\n- bread and butter\n- a pound of flour",
    ],
)
def test_verse_tables_and_lists_keep_their_lines(block: str) -> None:
    text = f"{PROSE}\n\n{block}\n\n{PROSE}"
    assert clean("unwrap", text).split("\n\n")[1] == block


def test_speakers_stay_on_their_own_lines() -> None:
    play = (
        "NORA.\nHide the Christmas Tree carefully, Helen. Be sure the children do not\nsee it until this evening, "
        "when it is dressed.\n\nPORTER.\nSixpence."
    )
    expected = play.replace("do not\nsee", "do not see")
    assert clean("unwrap", f"{PROSE}\n\n{play}") == clean("unwrap", PROSE) + f"\n\n{expected}"


def test_texts_that_are_not_wrapped_keep_every_line_break() -> None:
    stories = "\n".join(["A story of one line, that is as long as it is, and goes on and on and on. " * 3] * 5)
    assert clean("unwrap", stories) == stories
    code = "def f(x):\n    return x\n\nprint(f(3))"
    assert clean("unwrap", code) == code


@given(
    st.lists(
        st.sampled_from(["word", "Another", "a-b", "x--", "-", "\n", "\n\n", "   ", "“So", "longer-"]), max_size=80
    )
)
def test_unwrap_changes_nothing_but_white_space_and_hyphens(parts: list[str]) -> None:
    text = " ".join(parts)
    cleaned = CLEANERS["unwrap"](text)
    assert "".join(cleaned.text.split()).replace("-", "") == "".join(text.split()).replace("-", "")
    assert cleaned.text.count("-") == text.count("-") - cleaned.removed.get("hyphens", 0)


# Screenplay

SCRIPT = """FADE IN:

12   INT. HOUSE - NIGHT                                          12

     John enters the room.  He looks
     around, and sees   MARY sitting.

                         JOHN
               (whispering)
          Hello?  Is anybody
          there?                                                   *

                         MARY (V.O.)
          I was waiting for you to come and
          tell me about
                         (MORE)

                                                           13.

12   CONTINUED: (2)                                              12

                         MARY (CONT'D)
          the plan.

     He sits down and begins to take the

                                  Blue Revised 3/4/98      14.

     shoes off.  BANG!

                         McCOY
               (continuing)
          12.
     He counts.

                                                  CUT TO:

     EXT. BEACH - DAY

                         DR. WHO
          THE WHOLE SEA!

                         JOHN
          Oh.
                                                  (CONTINUED)
"""
SCRIPT_TEXT = """FADE IN:

INT. HOUSE - NIGHT

John enters the room. He looks around, and sees MARY sitting.

JOHN
(whispering)
Hello? Is anybody there?

MARY (V.O.)
I was waiting for you to come and tell me about the plan.

He sits down and begins to take the shoes off. BANG!

McCOY
12.

He counts.

CUT TO:

EXT. BEACH - DAY

DR. WHO
THE WHOLE SEA!

JOHN
Oh."""


def test_a_script_keeps_its_elements_apart_without_indentation() -> None:
    cleaned = CLEANERS["screenplay"](SCRIPT)
    assert cleaned.text == SCRIPT_TEXT
    assert set(cleaned.removed) == {"white space", "continued lines", "page numbers", "scene numbers", "revision marks"}
    assert sum(cleaned.removed.values()) == len(SCRIPT) - len(cleaned.text)
    assert clean("screenplay", SCRIPT_TEXT) == SCRIPT_TEXT


def test_a_script_with_tabs_or_without_indentation_comes_out_the_same() -> None:
    tabs = SCRIPT.replace(" " * 25, "\t\t\t ").replace("\n", "\r\n").replace("\r\n", "\n")
    assert clean("screenplay", tabs) == SCRIPT_TEXT
    flat = "\n".join(line.strip() for line in SCRIPT.split("\n")).replace("12.\nHe counts", "12.\n\nHe counts")
    assert clean("screenplay", flat) == SCRIPT_TEXT


# Plain


def test_normalize_composes_and_keeps_indentation() -> None:
    text = "\ufeffCafe\u0301\u00a0au\u200b lait.\x07  Then.\t\n\n\n\n  verse     table\u2028x\x0cy \n\n"
    cleaned = CLEANERS["normalize"](text)
    assert cleaned.text == "Café au lait. Then.\n\n  verse     table\nx\ny"
    assert cleaned.removed == {"composed characters": 1, "control characters": 3, "white space": 7}
    persian = "می\u200cخواهم 👨\u200d👩"
    assert clean("normalize", persian) == persian


def test_emphasis_marks_go_and_names_in_programs_stay() -> None:
    assert clean("emphasis", "A _word, and\nmore_ and =bold=.") == "A word, and\nmore and bold."
    for text in ("snake_case_name and x_1", "a = b = c", "if a==b: c==d", "____", "_ alone _"):
        assert clean("emphasis", text) == text


def test_mojibake_is_mended_line_by_line() -> None:
    text = "The cafÃ© â€œopenâ€\x9d at 5.\nA good line: café “so” – ﬁne.\nplain"
    cleaned = CLEANERS["mojibake"](text)
    assert cleaned.text == "The café “open” at 5.\nA good line: café “so” – ﬁne.\nplain"
    assert cleaned.removed == {"characters in mended lines": len(text.split("\n")[0])}


def test_html_becomes_text_and_other_text_stays() -> None:
    assert clean("html", "<p>One &amp; <b>two</b></p><p>three</p>") == "One & two\n\nthree"
    for text in ("1 < 2 and 3 > 2", "AT&T & co; x", "<|endoftext|>", "a\n\n  b"):
        assert clean("html", text) == text


def test_stories_decoded_wrongly_come_back(assets: Path) -> None:
    text = (assets / "tinystories" / "v1_train_head_2MiB.txt").read_text("utf-8", errors="ignore")
    assert CLEANERS["mojibake"](text).removed == {}
    lines = [line for line in text.split("\n") if set(line) & set("“”’—é")]
    assert len(lines) > 100
    # What a program that takes everything for Windows-1252 makes of them; five bytes mean nothing there.
    wrong = ["".join(_as_windows_1252(byte) for byte in line.encode("utf-8")) for line in lines]
    cleaned = CLEANERS["mojibake"]("\n".join(wrong))
    assert cleaned.text == "\n".join(lines)
    assert cleaned.removed == {"characters in mended lines": sum(map(len, wrong))}


def _as_windows_1252(byte: int) -> str:
    return bytes([byte]).decode("latin-1" if byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else "cp1252")
