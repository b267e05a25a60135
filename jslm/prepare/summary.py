"""What was prepared, for people."""

from __future__ import annotations

from jslm.prepare.check import PreparedData
from jslm.prepare.removed import removed_lines
from jslm.text.dropped import DropReport, Gutted
from jslm.tokens.token_file import META_NAME, SPLITS

_STAGES = {"filters": "filters", "dedup": "duplicates", "lines": "repeated lines"}


def summary(prepared: PreparedData) -> str:
    """A table of the splits, for people."""
    meta = prepared.meta
    rows = [("split", "documents", "tokens", "MB", "bytes/token")]
    for split in SPLITS:
        part = meta[split]
        ratio = f"{part['bytes'] / part['tokens']:.2f}" if part["tokens"] else "-"
        rows.append((split, f"{part['documents']:,}", f"{part['tokens']:,}", f"{part['bytes'] / 1e6:,.2f}", ratio))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    tokenizer = meta["tokenizer"]
    lines.append(
        f"vocabulary {tokenizer['vocab_size']:,} ({tokenizer['kind']}); split by {meta['split']}; in {prepared.dir}"
    )
    lines += removed_lines(meta.get("removed", {}), meta["settings"].get("data.cleaners", []))
    lines += [Gutted(**fields).line(cleaner) for cleaner, fields in meta.get("gutted", {}).items()]
    for stage, fields in meta.get("dropped", {}).items():
        report = DropReport.from_json(fields)
        if stage != "filters" or report.reasons:
            lines += [f"{_STAGES[stage]}: {line}" if not line.startswith("  ") else line for line in report.lines()]
    if skipped := meta.get("skipped", {}).get("count", 0):
        lines.append(f"skipped: {skipped:,} file(s) or record(s) that could not be read; {META_NAME} lists them")
    return "\n".join(lines)
