"""Film scripts without page furniture, and with their elements told apart by line breaks instead of indentation."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from jslm.text.cleaners.base import Cleaned, Tally

_APOSTROPHE = "['’`]"
# Each pattern begins with a letter or two that are looked for first; a line is given up to its end, not its beginning.
_CONTINUED = re.compile(
    rf"^ *(?:\d+[A-Z]? +)?\(?(?:CONTINUED|CONT{_APOSTROPHE}D|MORE)\)?[:.]*(?: *\(\d+\))? *(?:\d+[A-Z]?\.?)?$",
    re.MULTILINE,
)
_GOES_ON = rf"\((?:CONT{_APOSTROPHE}?D\.?|CONT\.|CONTINUED|CONTINUING|continuing|cont{_APOSTROPHE}?d\.?|cont\.)\)"
# On the line under a name it goes whole: an empty line would part the name from the words.
_SPEECH_GOES_ON_BELOW = re.compile(rf"(?<=\S)\n *{_GOES_ON}(?=\n)")
_SPEECH_GOES_ON = re.compile(rf"{_GOES_ON}$", re.MULTILINE)
# Behind an empty line: directly under a name it would be what someone says.
_PAGE_NUMBER = re.compile(r"(?<!\n)\n\n++ *+(?:Page )?-? ?\d{1,3}[A-Z]? ?[.-]?(?=\n|\Z)")
_REVISION = re.compile(
    r"\b(?:[Rr]ev(?:ised|ision|\.)?|REV(?:ISED|ISION|\.)?|[Dd]raft|DRAFT)\b"
    r"[^\n]{0,50}?\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}[^\n]{0,40}$",
    re.MULTILINE,
)
_MAX_PAGE_HEAD = 140
_REVISION_SIGNS = ("Rev", "rev", "REV", "raft", "RAFT")
_STARS = re.compile(r"(?<! ) {2,}\*+$", re.MULTILINE)
_SCENE = re.compile(
    r"^(?:[A-Z]?\d{1,4}[A-Z]{0,2}[.)]?[ \t]+)?(?P<heading>(?:INT|EXT|EST|I/E|INT\.?/EXT|EXT\.?/INT)[. /-][^\n]*?)"
    r"(?:[ \t]{2,}[A-Z]?\d{1,4}[A-Z]{0,2}[.)]?)?[ \t]*$"
)
_TRANSITION = re.compile(r"(?:FADE|CUT|DISSOLVE|SMASH|MATCH|WIPE|THE END|BACK TO|INTERCUT)\b.*|.* TO:")
_NAME = re.compile(
    r"(?:Mc|Mac|De|Di|Du|Le|La|O['’])?[A-Z0-9#](?=[^a-z]*[A-Z]|['’])[^a-z!?:]{0,38}?(?: ?\([^)]*\))?(?<!\.)"
    r"|[A-Z .]+ [JS]R\."
)
_NAME_PREFIXES = ("Mc", "Mac", "De", "Di", "Du", "Le", "La")
_SPACES = re.compile(r"  +")
_BLANK_LINES = re.compile(r"\n(?: *\n){2,}")
# How much further right than the action a name stands in indented scripts.
_NAME_OFFSET = 8
_MIN_NAMES = 3
# A line indented so much differently begins a block of its own.
_OTHER_BLOCK = 5


def screenplay(text: str) -> Cleaned:
    """A script as blocks with an empty line between: headings, action, and speeches, each under its speaker's name.

    Removed: page numbers, `CONTINUED`, `(MORE)` and `(CONT'D)`, scene numbers in the margins, headers of revisions and
    their stars. Runs of spaces become one, the lines of an action or a speech one line. A speech is a name in capitals
    on a line, perhaps a `(parenthetical)` on the next, and the words on the line after, so all three stay told apart
    without their indentation.
    """
    removed = Tally()
    lines = text.expandtabs().replace("\f", "\n\n").split("\n")
    text = "\n".join([line.rstrip() for line in lines])
    removed.add("white space", sum(map(len, lines)) + len(lines) - 1 - len(text))
    if "*" in text:
        text = removed.cut(_STARS, "revision marks", text)
    if "(CONT" in text or "(cont" in text:
        text = removed.cut(_SPEECH_GOES_ON_BELOW, "continued lines", text)
        text = removed.cut(_SPEECH_GOES_ON, "continued lines", text)
    if "CONT" in text or "MORE" in text:
        text = removed.cut(_CONTINUED, "continued lines", text)
    if any(sign in text for sign in _REVISION_SIGNS):
        text = _without_revisions(text, removed)
    text = removed.cut(_PAGE_NUMBER, "page numbers", text, "\n\n")
    parsed = [_Line.parse(line) for line in _BLANK_LINES.sub("\n\n", text).split("\n")]
    result = "\n\n".join(_blocks(parsed))
    numbers = sum(line.numbers for line in parsed)
    removed.add("scene numbers", numbers)
    removed.add("white space", len(text) - numbers - len(result))
    return Cleaned(result, removed)


def _without_revisions(text: str, removed: Tally) -> str:
    """Without the lines that name a revision and its date, as the heads of pages do."""
    parts: list[str] = []
    position = 0
    for match in _REVISION.finditer(text):
        start = text.rfind("\n", position, match.start()) + 1 or position
        if match.end() - start <= _MAX_PAGE_HEAD:
            parts.append(text[position:start])
            removed.add("revision marks", match.end() - start)
            position = match.end()
    return "".join([*parts, text[position:]])


@dataclass(slots=True)
class _Line:
    """A line without its indentation and margins; `kind` is what its words alone tell."""

    text: str
    indent: int
    kind: Literal["blank", "scene", "transition", "capitals", "words"]
    numbers: int

    @staticmethod
    def parse(raw: str) -> _Line:
        stripped = raw.strip()
        if not stripped:
            return _Line("", 0, "blank", 0)
        indent = len(raw) - len(raw.lstrip())
        text = _SPACES.sub(" ", stripped) if "  " in stripped else stripped
        if ("T" in text or "I/E" in text) and (scene := _SCENE.match(stripped)):
            heading = _SPACES.sub(" ", scene["heading"])
            return _Line(heading, indent + scene.start("heading"), "scene", len(text) - len(heading))
        if not text.isupper():
            is_name = text.startswith(_NAME_PREFIXES) and _NAME.fullmatch(text)
            return _Line(text, indent, "capitals" if is_name else "words", 0)
        if _TRANSITION.fullmatch(text):
            return _Line(text, indent, "transition", 0)
        return _Line(text, indent, "capitals" if _NAME.fullmatch(text) else "words", 0)


def _blocks(lines: list[_Line]) -> list[str]:
    """Headings, transitions, paragraphs of action and speeches, in their order."""
    layout = _Layout.of(lines)
    blocks: list[str] = []
    action: list[str] = []
    # The name over the last block, where that is a speech.
    speaker = ""
    index, count = 0, len(lines)
    while index < count:
        line = lines[index]
        if line.kind == "blank":
            # A page's end may have cut a sentence in two.
            if action and not (index + 1 < count and _goes_on(action[-1], lines[index + 1].text)):
                _finish(action, blocks)
                speaker = ""
        elif line.kind in ("scene", "transition"):
            _finish(action, blocks)
            blocks.append(line.text)
            speaker = ""
        elif line.kind == "capitals" and (words := layout.words_after(lines, index)):
            speaker = "" if action else speaker
            _finish(action, blocks)
            speech, index = _speech(lines, words, layout)
            name = line.text.partition(" (")[0]
            if name == speaker and _goes_on(blocks[-1], speech[0]):
                blocks[-1] += " " + "\n".join(speech)
            else:
                blocks.append("\n".join([line.text, *speech]))
            speaker = name
            continue
        else:
            before = lines[index - 1] if index else line
            if before.kind != "blank" and abs(line.indent - before.indent) > _OTHER_BLOCK:
                _finish(action, blocks)
            action.append(line.text)
        index += 1
    _finish(action, blocks)
    return blocks


def _finish(action: list[str], blocks: list[str]) -> None:
    if action:
        blocks.append(" ".join(action))
        action.clear()


def _goes_on(before: str, after: str) -> bool:
    """Whether a sentence runs from one text into the other."""
    return after[:1].islower() and (before[-1].isalnum() or before[-1] in ",-")


def _speech(lines: list[_Line], index: int, layout: _Layout) -> tuple[list[str], int]:
    """The lines of a speech from `index` on (parentheticals on lines of their own), and where what follows begins."""
    parts: list[str] = []
    is_aside = False
    while index < len(lines) and layout.is_spoken(lines[index]):
        text = lines[index].text
        if text[0] == "(":
            parts.append(text)
            is_aside = True
        elif parts and (not parts[-1].endswith(")") if is_aside else True):
            parts[-1] += f" {text}"
        else:
            parts.append(text)
            is_aside = False
        is_aside = is_aside and parts[-1][0] == "("
        index += 1
    return parts, index


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where names and action stand; `name` is 0 in scripts without indentation."""

    action: int
    name: int

    @staticmethod
    def of(lines: list[_Line]) -> _Layout:
        """From the indentation that most lines of either kind have."""
        plain = Counter(line.indent for line in lines if line.kind == "scene")
        plain = plain or Counter(line.indent for line in lines if line.kind == "words")
        action = plain.most_common(1)[0][0] if plain else 0
        right = action + _NAME_OFFSET
        names = Counter(line.indent for line in lines if line.kind == "capitals" and line.indent >= right)
        common = names.most_common(1)
        return _Layout(action, common[0][0] if common and common[0][1] >= _MIN_NAMES else 0)

    def words_after(self, lines: list[_Line], index: int) -> int:
        """Where the words begin that the name at `index` says; 0 where it is no speaker's name."""
        following = index + 1
        if self.name:
            if lines[index].indent < self.name - _NAME_OFFSET // 2:
                return 0
            if following + 1 < len(lines) and lines[following].kind == "blank":
                following += 1
                if lines[following].indent >= lines[index].indent:
                    return 0
        elif index and lines[index - 1].kind != "blank":
            return 0
        return following if following < len(lines) and self.is_spoken(lines[following]) else 0

    def is_spoken(self, line: _Line) -> bool:
        """Whether a line below a name belongs to its speech."""
        if line.kind in ("blank", "scene"):
            return False
        if not self.name:
            return True
        is_name = line.kind == "capitals" and abs(line.indent - self.name) <= 1
        return line.indent > self.action + 2 and not is_name
