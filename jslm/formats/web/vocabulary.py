"""A tokenizer as the page's own `tokenizer.js` takes it."""

from __future__ import annotations

import json
from typing import Any

from jslm.errors import JslmError
from jslm.tokenizer import Tokenizer
from jslm.tokenizer.bpe import byte_spelling

KINDS = ("char", "byte", "bpe", "gpt2", "sentencepiece")


def tokenizer_fields(tokenizer: Tokenizer) -> dict[str, Any]:
    """The JSON object. Raises JslmError for a kind that the page has no code for."""
    if tokenizer.kind not in KINDS:
        raise JslmError(
            f"tokenizer.kind = {tokenizer.kind!r}: the page encodes text with {', '.join(KINDS)}; export with "
            "--format onnx, whose folder transformers.js opens in a browser with any tokenizer.json"
        )
    special = tokenizer.special_tokens
    saved = json.loads(tokenizer.to_json())
    fields: dict[str, Any] = {
        "kind": tokenizer.kind,
        "special": special,
        "bos": tokenizer.bos_id,
        "eot": tokenizer.eot_id,
        "leading_space": tokenizer.leading_space,
    }
    match tokenizer.kind:
        case "char":
            fields |= {"characters": saved["characters"], "unknown": special["<|unk|>"]}
        case "bpe":
            model = saved["tokenizers"]["model"]
            ids = {token: index for token, index in model["vocab"].items() if token not in special}
            fields["tokens"] = sorted(ids, key=ids.__getitem__)
            fields["merges"] = [ids[part] for merge in model["merges"] for part in merge]
        case "gpt2":
            # Each id's bytes, spelled as in GPT-2's own files.
            spell = byte_spelling()
            ordinary = range(min(special.values()))
            fields["tokens"] = ["".join(spell[byte] for byte in tokenizer.decode_bytes([token])) for token in ordinary]
        case "sentencepiece":
            fields |= {"pieces": saved["pieces"], "scores": saved["scores"]}
    return fields
