"""HTML and EPUB to text."""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import unquote
from xml.etree import ElementTree

from jslm.config import DataConfig
from jslm.errors import JslmError
from jslm.text.document import Document
from jslm.text.readers.containers import seekable
from jslm.text.readers.problems import OnBad, need
from jslm.text.readers.text import decode

_UNSEEN = frozenset(
    "head script style noscript template svg math canvas iframe object select textarea button".split()  # noqa: SIM905
)
# What stands on lines of its own, with an empty line around it.
_PARAGRAPHS = frozenset(
    "p h1 h2 h3 h4 h5 h6 div section article header footer main aside nav blockquote pre ul ol dl table figure "  # noqa: SIM905
    "form fieldset address hr center details".split()
)
_LINES = frozenset("li dt dd tr caption figcaption summary option".split())  # noqa: SIM905
_SELF_CLOSED = re.compile(r"<((?!(?:area|base|br|col|embed|hr|img|input|link|meta|source|wbr)\b)[a-zA-Z]\w*)([^<>]*)/>")
_SPACE = re.compile(r"[ \t\n\r\f]+")
_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
# Fonts are scrambled in many books; that is no lock.
_LOCKS = re.compile(rb"<(?:\w+:)?CipherReference[^>]*URI=[\"'][^\"']*\.(?:x?html?|opf|ncx)[\"']", re.IGNORECASE)


def read_html(stream: BinaryIO, name: str, config: DataConfig, on_bad: OnBad) -> Iterator[Document]:
    """The text of a page. Memory: the page."""
    yield Document(html_to_text("".join(decode(stream, name, config.encoding))), name)


def html_to_text(html: str) -> str:
    """What a browser would show: paragraphs apart by an empty line, cells by a tab, white space folded but in `<pre>`.

    Parsed as HTML5 by Lexbor (selectolax), so that unclosed and wrongly nested tags are no errors.
    """
    parser = need("selectolax.lexbor", "reading HTML", "selectolax")
    if html[:200].lstrip().startswith("<?xml"):
        # To an HTML parser <title/> opens an element that never ends.
        html = _SELF_CLOSED.sub(r"<\1\2></\1>", html)
    body = parser.LexborHTMLParser(html).body
    return _Layout().text(body) if body is not None else ""


class _Layout:
    """Collects the text of a tree of nodes, walked without recursion: pages may be nested thousands deep."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        # Line breaks owed before the next text; -1: nothing has been written yet.
        self._owed = -1
        self._space = False

    def text(self, root: Any) -> str:
        """The text below `root`."""
        open_nodes: list[tuple[Any, str]] = []
        pre_depth = 0
        node = root.child
        while True:
            if node is None:
                if not open_nodes:
                    return "".join(self._parts)
                node, tag = open_nodes.pop()
                pre_depth -= tag == "pre"
                self._edge(tag)
                node = node.next
                continue
            tag = node.tag or ""
            if tag == "-text":
                self._write(node.text_content or "", pre_depth > 0)
            elif tag[0:1] not in ("_", "-", "!") and tag not in _UNSEEN:
                self._edge(tag)
                if tag in ("td", "th") and self._owed == 0:
                    self._put("\t")
                child = node.child
                if child is not None:
                    open_nodes.append((node, tag))
                    pre_depth += tag == "pre"
                    node = child
                    continue
                if tag == "br":
                    self._break(self._owed % 2 + 1)
            node = node.next

    def _edge(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self._break(2)
        elif tag in _LINES:
            self._break(1)

    def _break(self, count: int) -> None:
        self._space = False
        if self._owed >= 0:
            self._owed = max(self._owed, count)

    def _write(self, text: str, is_pre: bool) -> None:
        if is_pre:
            text = text.replace("\r\n", "\n")
            if text:
                self._put(text)
            return
        folded = _SPACE.sub(" ", text)
        if folded == " " or not folded:
            self._space = self._space or folded == " "
            return
        if folded[0] == " ":
            self._space = True
        stripped = folded.strip(" ")
        self._put((" " if self._space and self._owed == 0 else "") + stripped)
        self._space = folded[-1] == " "

    def _put(self, text: str) -> None:
        if self._owed > 0:
            self._parts.append("\n" * self._owed)
        self._owed = 0
        self._space = False
        self._parts.append(text)


def read_epub(stream: BinaryIO, name: str, config: DataConfig, on_bad: OnBad) -> Iterator[Document]:
    """The chapters of a book as one text, in the order in which it is read, without its table of contents page.

    EPUB 3.3, sections 4 (container), 5.6 (manifest) and 5.7 (spine). Memory: the book. Raises JslmError: no EPUB, a
    locked one.
    """
    with seekable(stream) as file, zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        if _ENCRYPTION in names and _LOCKS.search(archive.read(_ENCRYPTION)):
            raise JslmError(f"{name}: the book is locked (DRM); leave it out of data.source")
        texts = []
        for chapter in _spine(archive, name):
            if chapter not in names:
                raise JslmError(f"{name}: the chapter {chapter} is missing; the file is damaged")
            with archive.open(chapter) as page:
                html = "".join(decode(page, f"{name}:{chapter}", "auto"))  # type: ignore[arg-type]
            texts.append(html_to_text(html if html.startswith("<?xml") else f"<?xml?>{html}").strip())
    yield Document("\n\n".join(text for text in texts if text), name)


def _spine(archive: zipfile.ZipFile, name: str) -> list[str]:
    """Paths of the chapters, in order."""
    container = _xml(archive, _CONTAINER, name)
    package = next((entry.get("full-path", "") for entry in container.iter() if _tag(entry) == "rootfile"), "")
    root = _xml(archive, package, name)
    folder = posixpath.dirname(package)
    pages = {}
    for item in root.iter():
        if _tag(item) == "item" and "nav" not in item.get("properties", "").split():
            path = posixpath.normpath(posixpath.join(folder, unquote(item.get("href", ""))))
            if item.get("media-type") in ("application/xhtml+xml", "text/html"):
                pages[item.get("id")] = path
    order = [item.get("idref") for item in root.iter() if _tag(item) == "itemref" and item.get("linear") != "no"]
    return [pages[reference] for reference in order if reference in pages]


def _xml(archive: zipfile.ZipFile, path: str, name: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(archive.read(path))
    except KeyError:
        raise JslmError(f"{name}: no {path or 'package file'} in it; this is no EPUB") from None
    except ElementTree.ParseError as error:
        raise JslmError(f"{name}: {path} is not valid XML: {error}") from None


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
