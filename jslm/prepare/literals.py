"""What stands in a text as ordinary characters and hardly anybody means: separators, Project Gutenberg's headers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from jslm.config import DataConfig
from jslm.text.cleaners.gutenberg_frame import is_framed

# What other programs put between documents, and what chat templates put around messages.
_BETWEEN_DOCUMENTS = ("<|endoftext|>", "<|end_of_text|>", "<|endofdoc|>", "</s>", "<eos>", "<EOS>", "[EOS]")
_AROUND_MESSAGES = (
    *("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end|>", "<|user|>", "<|assistant|>"),
    *("<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"),
)

_GUTENBERG = "Project Gutenberg's header or licence"


def find_literals(text: str, config: DataConfig) -> dict[str, int]:
    """How often each of them stands in a document; empty for conversations, whose template has such tokens itself."""
    if config.messages:
        return {}
    found = {_GUTENBERG: 1} if "gutenberg" not in config.cleaners and is_framed(text) else {}
    # Looking for one character is much quicker than for each of the names.
    if not ("<" in text or "[" in text):
        return found
    return found | {name: count for name in (*_BETWEEN_DOCUMENTS, *_AROUND_MESSAGES) if (count := text.count(name))}


def hints(found: Mapping[str, Sequence[object]], config: DataConfig) -> Iterator[str]:
    """A line for each that is there: `found` has its count and first place."""
    for name, (count, place) in found.items():
        if name == _GUTENBERG:
            yield (
                f"{place}: {name} stands in the text ({count:,} document(s) in all), and would be learned with it; set "
                f"'data.cleaners={_with_gutenberg(config)}'"
            )
            continue
        said = f"{place}: {name} stands in the text ({count:,} time(s) in all), and is read as ordinary characters; "
        if name in _AROUND_MESSAGES:
            yield said + "conversations are learned as such from records, with data.messages and data.chat_template"
        elif config.separator:
            yield said + f"data.separator is {config.separator!r}; where this one ends documents, make them alike"
        else:
            yield said + f"where it ends documents of a text file, set data.separator='{name}'"


def _with_gutenberg(config: DataConfig) -> str:
    return "[" + ", ".join(f'"{name}"' for name in ("gutenberg", *config.cleaners)) + "]"
