"""Sentences with rewrites of them, right and wrong ones: what readers in other languages are compared on."""

from __future__ import annotations

import random
from pathlib import Path

from jslm.evaluate.answers import read_items

NATURAL = Path(__file__).resolve().parents[1] / "data" / "rewrite" / "natural.tsv"
_ADDED = (
    "not",
    "someone",
    "Bob",
    "24",
    "(",
    "he",
    "no",
    "n't",
    "Émile",
    "ΣΑΣ",
    "x_y",
    "½",
    "iPhone",
    "is",
    "’d",
    "3:30",
    "#",
    "50%",
    "\U0001f600",
    "—",
)
# Signs that a rewrite keeps, and punctuation that it need not.
SIGNS = (
    ("# The letter was written by the clerk", "The clerk wrote the letter", "'#' is lost"),
    ("\U0001f600 It was seen by us.", "We saw it.", "'\U0001f600' is lost"),
    ("50% of it was paid by us.", "We paid 50 of it.", "'%' is lost"),
    ("A well-known man was seen by us.", "We saw a well known man.", "'-' is lost"),
    ("It was seen by us.", "We saw it -", "'-' is not in the sentence"),
    ("It was sent to a@b.com by us.", "We sent it to a b.com.", "'@' is lost"),
    ("foo_bar was called by us.", "We called foo bar.", "_ is there 0 times, and was 1"),
    ("It was seen – by us; 5 €!", "We saw it: 5 €.", ""),
)


# Forms with a letter doubled, and irregular ones, that a verb has and has not.
_FORMS = {
    "hummed": ("hum", "hums", "hummed", "humming", "humm", "humme", "hummes", "hummeing", "huming"),
    "added": ("add", "adds", "ad", "adding"),
    "filled": ("fill", "fil", "fille"),
    "programmed": ("program", "programme", "programmes"),
    "silhouetted": ("silhouette", "silhouet"),
    "misled": ("mislead", "misle", "misl"),
    "agreed": ("agree", "agre", "agrees"),
    "refed": ("refeed", "refe"),
    "𝐚dded": ("𝐚d", "𝐚dd"),
    "dded": ("dd", "d", "dde"),
}


# Full stops that end a sentence, and that do not.
ABBREVIATED = {
    "Dr. Smith was praised. He left.": ["Dr. Smith was praised. ", "He left."],
    "It was signed by Mr. Brown. (Cf. Fig. 2.) Yes.": ["It was signed by Mr. Brown. ", "(Cf. Fig. 2.) ", "Yes."],
    "J. K. Rowling wrote it. So did I. Did J.R.R. Tolkien?": [
        "J. K. Rowling wrote it. ",
        "So did I. ",
        "Did J.R.R. Tolkien?",
    ],
    "Cats, e.g. Tom, were seen by Chen et al. in May. Dogs etc. Were not.": [
        "Cats, e.g. Tom, were seen by Chen et al. in May. ",
        "Dogs etc. ",
        "Were not.",
    ],
    "No. 5 was sold. I said no. He left. It is 5. We go.": [
        "No. 5 was sold. ",
        "I said no. ",
        "He left. ",
        "It is 5. ",
        "We go.",
    ],
    "A gentleman mr. x. Abcdefghmr. No? ß. É. b. 3. c": [
        *("A gentleman mr. x. ", "Abcdefghmr. ", "No? ", "ß. ", "É. b. ", "3. ", "c"),
    ],
    # A blank line ends one, whatever stands before it.
    "\n\n A\nb \r\n\r\nMr.\n \nC": ["\n\n A\nb \r\n\r\n", "Mr.\n \n", "C"],
    "# Title\n\nIt was seen. \n\n\n* One\n* Two\n\n": ["# Title\n\n", "It was seen. \n\n\n", "* One\n* Two\n\n"],
    " \n\n ": [" \n\n "],
    "See “Mr. X” (St. Ives). And “Mr.” too. Mr.\n\nX": [
        "See “Mr. X” (St. Ives). ",
        "And “Mr.” ",
        "too. ",
        "Mr.\n\n",
        "X",
    ],
}


def pairs() -> list[tuple[str, str]]:
    """Each natural sentence with its answers, and these with words lost, added, exchanged, or spelled otherwise."""
    choice = random.Random(0)
    found = [(f"It may be {word} by us.", f"We may {form} it.") for word, forms in _FORMS.items() for form in forms]
    found += [(source, output) for source, output, _ in SIGNS]
    for item in read_items(NATURAL):
        found += [(item.sentence, answer) for answer in item.answers]
        for answer in item.answers[:2]:
            for _ in range(3):
                words = answer.split()
                at = choice.randrange(len(words))
                match choice.randrange(6):
                    case 0:
                        words.pop(at)
                    case 1:
                        words[at] = words[at].swapcase()
                    case 2:
                        words.insert(at, choice.choice(_ADDED))
                    case 3:
                        words[at] = words[at][:-1] or "a"
                    case 4:
                        words[at] += choice.choice(("s", "ed", "ing", "n't", "'s", "\u200bx"))
                    case _:
                        words = words[at:] + words[:at]
                found.append((item.sentence, " ".join(words)))
    return found
