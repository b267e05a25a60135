"""Facts and batches as one page that needs nothing else: escaped text, no scripts, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from jslm.inspect.batch import Place, ShownBatch
from jslm.inspect.facts import FolderFacts, SplitFacts
from jslm.inspect.terminal import sample_text, visible
from jslm.tokenizer import Tokenizer

SEGMENT_COLORS = 6
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --ink: #1d1d1f; --soft: #6a6a70; --line: #dcdad5; --bar: #4a7ab5; }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { padding: .15rem .8rem .15rem 0; text-align: right; }
th { color: var(--soft); font-weight: 500; } td.left, th.left { text-align: left; }
td.bar { text-align: left; width: 20rem; } td.bar i { background: var(--bar); display: block; height: .8rem; }
code, pre { font: 13px/1.6 ui-monospace, monospace; } .scroll { overflow-x: auto; }
pre { border: 1px solid var(--line); border-radius: 6px; overflow-wrap: anywhere; padding: .7rem;
  white-space: pre-wrap; }
.soft, .masked, .padding { color: var(--soft); } .masked { opacity: .6; text-decoration: line-through; }
.padding { font-style: italic; } .token:hover { outline: 1px solid var(--bar); }
.s1 { background: #cfe3f7; } .s2 { background: #fbe3b5; } .s3 { background: #cfeccb; } .s4 { background: #f3d2ea; }
.s5 { background: #ddd8f6; } .s6 { background: #f8d3c9; }
.token:focus { outline: 2px solid var(--bar); }
.token:focus::after { background: var(--paper); border: 1px solid var(--bar); border-radius: 6px; content: attr(title);
  left: 1rem; bottom: 1rem; max-width: calc(100% - 2rem); color: var(--ink); padding: .3rem .6rem; position: fixed;
  text-decoration: none; }
@media (max-width: 40rem) {
  body { margin: 1rem auto; } td.bar { width: 30%; min-width: 2rem; }
  td.count { white-space: nowrap; } .scroll table { width: 100%; font-size: .85rem; }
  th, td { padding-right: .5rem; } .entry { overflow-wrap: anywhere; }
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #161618; --ink: #ececea; --soft: #a3a39d; --line: #3a3a3e; --bar: #6f9fd8; }
  .s1 { background: #1f3a55; } .s2 { background: #54421a; } .s3 { background: #234a20; } .s4 { background: #512c47; }
  .s5 { background: #352f5e; } .s6 { background: #5a2e22; }
}
"""


def page(facts: FolderFacts, batches: Sequence[ShownBatch]) -> str:
    """The whole page as HTML. Everything that comes from the corpus, its names included, is escaped."""
    title = f"data in {facts.folder}"
    sources = ", ".join(map(str, facts.meta.get("sources", [])))
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p class=soft>{_text(sources)}; tokenizer {_text(str(facts.meta['tokenizer'].get('kind', '')))} of "
        f"{facts.tokenizer.vocab_size:,} entries, fingerprint {_text(str(facts.meta['tokenizer']['fingerprint']))}</p>",
        _totals(facts),
        *(_split(split) for split in facts.splits if split.documents),
        *(_batch(batch, facts.tokenizer) for batch in batches),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n"
        "</html>\n"
    )


def _totals(facts: FolderFacts) -> str:
    # A split a column: a phone has room for few.
    columns = [
        [
            split.split,
            f"{split.documents:,}",
            f"{split.tokens:,}",
            f"{split.utf8_bytes / 1e6:,.2f}",
            f"{split.bytes_per_token:.2f}",
            f"{split.distinct_tokens:,} of {facts.tokenizer.vocab_size:,}",
        ]
        for split in facts.splits
    ]
    names = ("", "documents", "tokens", "MB", "bytes/token", "tokens used")
    rows = "".join(
        f"<tr><th class=left>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, *cells in zip(names, *columns, strict=True)
    )
    return f"<div class=scroll><table class=totals>{rows}</table></div>"


def _split(split: SplitFacts) -> str:
    highest = max(bucket.documents for bucket in split.histogram)
    lengths = "".join(
        f"<tr><td class=count>{bucket.low:,}-{bucket.high:,}</td><td>{bucket.documents:,}</td>"
        f"{_bar(bucket.documents, highest)}</tr>"
        for bucket in split.histogram
    )
    most = split.frequent[0].count if split.frequent else 1
    tokens = "".join(
        f"<tr><td>{entry.count:,}</td><td>{entry.count / split.tokens:.2%}</td><td>{entry.token}</td>"
        f"<td class='left entry'><code>'{_text(entry.spelling)}'</code></td>{_bar(entry.count, most)}</tr>"
        for entry in split.frequent
    )
    samples = "".join(
        f"<p class=soft>document {sample.number:,}, {sample.tokens:,} token(s)</p>"
        f"<pre>{_text(sample_text(sample))}</pre>"
        for sample in split.samples
    )
    summary = ", ".join(f"{name} {value:,.0f}" for name, value in split.lengths.items())
    return (
        f"<h2>{split.split}: tokens a document</h2><p class=soft>{summary}</p>"
        f"<div class=scroll><table>{lengths}</table></div>"
        f"<h2>{split.split}: most frequent tokens</h2><div class=scroll><table>{tokens}</table></div>"
        f"<h2>{split.split}: sample documents</h2>{samples}"
    )


def _bar(value: int, highest: int) -> str:
    return f'<td class=bar><i style="width:{value / highest:.2%}"></i></td>'


def _batch(batch: ShownBatch, tokenizer: Tokenizer) -> str:
    rows = "".join(_row(number, row, tokenizer) for number, row in enumerate(batch.rows))
    apart = " A color a document; they do not see each other." if batch.packing == "documents" else ""
    return (
        f"<h2>batch {batch.step}, data.packing = {batch.packing}, rows of {batch.context_length}</h2>"
        "<p class=soft>What is struck through has no target and is never in the loss; hold the pointer over a token, "
        f"or tap it, for its id and its target.{apart}</p>{rows}"
    )


def _row(number: int, row: list[Place], tokenizer: Tokenizer) -> str:
    shown = [_token(place, tokenizer) for place in row if place.kind != "padding"]
    padding = len(row) - len(shown)
    if padding:
        shown.append(f"<span class=padding> padding: {padding}</span>")
    return f"<p class=soft>row {number}</p><pre>{''.join(shown)}</pre>"


def _token(place: Place, tokenizer: Tokenizer) -> str:
    piece = tokenizer.decode_bytes([place.token])
    try:
        text = piece.decode("utf-8").replace("\n", "↵\n")
    except UnicodeDecodeError:
        text = tokenizer.id_to_token(place.token)
    color = f" s{(place.segment - 1) % SEGMENT_COLORS + 1}" if place.segment else ""
    masked = " masked" if place.kind == "masked" else ""
    target = "no target" if place.target is None else f"target {place.target} '{tokenizer.id_to_token(place.target)}'"
    document = f", document {place.segment}" if place.segment else ""
    title = _text(f"position {place.position}{document}, id {place.token}, {target}")
    return f'<span class="token{color}{masked}" tabindex=-1 title="{title}">{_text(text)}</span>'


def _text(text: str) -> str:
    return escape(visible(text), quote=True)
