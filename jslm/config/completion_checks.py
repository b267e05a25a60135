"""What `train.objective = "sft"`, pairs (`data.prompt_end`) and conversations (`data.messages`) need of other keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.config.schema import Config


def check_completions(config: Config) -> None:
    """Raises ValueError, in one line, for settings that contradict each other."""
    data = config.data
    if config.train.objective == "sft" and not (data.prompt_end or data.messages or data.mixture):
        raise ValueError(
            "train.objective = 'sft' learns completions, and data names none; set data.prompt_end for pairs of prompt "
            "and completion, or data.messages for conversations"
        )
    if data.prompt_end and data.messages:
        raise ValueError(
            f"data.prompt_end = {data.prompt_end!r} is for pairs and data.messages = {data.messages!r} for "
            "conversations, whose prompts the chat template ends; set one of the two"
        )
    if data.prompt_end:
        said = f"data.prompt_end = {data.prompt_end!r} is for whole pairs of prompt and completion"
        _check_whole(said, config, {})
    if data.messages:
        said = f"data.messages = {data.messages!r} is for whole conversations"
        _check_whole(
            said,
            config,
            {
                "data.template": (data.template, ""),
                "data.cleaners": (data.cleaners, []),
                "data.dedup.max_line_documents": (data.dedup.max_line_documents, 0),
                "data.dedup.max_line_occurrences": (data.dedup.max_line_occurrences, 0),
                "data.end_of_text": (data.end_of_text, "auto"),
            },
        )
    elif data.chat_template != "plain":
        raise ValueError(
            f"data.chat_template = {data.chat_template!r} renders conversations; name the key of the records that "
            "holds them with data.messages"
        )


def _check_whole(said: str, config: Config, more: dict[str, tuple[Any, Any]]) -> None:
    clashes = {
        "data.packing": (config.data.packing, "documents"),
        "data.split": (config.data.split, "document"),
        "data.augment.copies": (config.data.augment.copies, 0),
        "train.curriculum": (config.train.curriculum, []),
        **more,
    }
    allowed = {"data.split": ("auto", "document"), "data.end_of_text": ("auto", "always")}
    for key, (found, wanted) in clashes.items():
        if found not in allowed.get(key, (wanted,)):
            shown = f"{len(found)} entries" if isinstance(found, list) else repr(found)
            raise ValueError(f"{said}, which {key} = {shown} would cut apart or change; use {key} = {wanted!r}")
