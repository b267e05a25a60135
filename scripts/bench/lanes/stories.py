"""Text to tokenise, and a tokenizer trained on it. Not measured: opened once for the files it leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jslm.corpora.stories import generate_stories
from jslm.tokenizer import BpeTokenizer
from scripts.bench.lanes.corpus import Corpus


def open_lane(spec: dict[str, Any]) -> Corpus:
    """Writes `text.txt` (`spec["megabytes"]`), `tokenizer.json` and `library.json` into `spec["folder"]`."""
    folder = Path(spec["folder"])
    texts = [story.text.replace("\n\n", "\n") for story in generate_stories(spec["megabytes"], 0)]
    (folder / "text.txt").write_text("\n\n".join(texts), "utf-8")
    tokenizer = BpeTokenizer.train(texts[:1000], spec["vocab_size"])
    tokenizer.save(folder / "tokenizer.json")
    (folder / "library.json").write_text(tokenizer.tokenizers_json(), "utf-8")
    return Corpus({"vocab_size": tokenizer.vocab_size})
