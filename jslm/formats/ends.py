"""The tokens that end what a model writes, for files whose readers ask for ids."""

from __future__ import annotations

from jslm.errors import JslmError
from jslm.prompts.chat import ChatTemplate
from jslm.runs.bundle import Bundle


def end_tokens(bundle: Bundle) -> list[int]:
    """Ids at which writing stops: the token that ends a document, then the one that the chat template puts after an
    answer, where that is a special token of its own."""
    tokenizer = bundle.tokenizer
    found = [tokenizer.eot_id]
    if bundle.chat_template:
        try:
            stops = ChatTemplate(bundle.chat_template, tokenizer).stops
        except JslmError:
            # A template that does not run ends nothing; who chats with the model is told what is wrong with it.
            stops = ()
        found += [tokenizer.special_tokens[stop] for stop in stops if stop in tokenizer.special_tokens]
    return list(dict.fromkeys(found))
