"""Small tokenizers laid out as the `tokenizer.json` of well-known models: the same steps, flags and special tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as LibraryTokenizer

from jslm.tokenizer import HuggingFaceTokenizer

TEXT = ["Once upon a time there was a little cat. The cat didn't like the rain in 2024!\n"] * 4
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# All that names of special tokens are written with.
CHARACTERS = [chr(code) for code in range(0x21, 0x7F)]
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4_WORDS = QWEN_WORDS.replace("{N}|", "{N}{1,3}|")


@dataclass(frozen=True)
class Layout:
    """`fields` is the JSON; `spells_all`: there is a token for every byte, so that any text comes back."""

    fields: dict[str, Any]
    bos: str | None
    eos: str
    spells_all: bool = True

    @property
    def ids(self) -> dict[str, int]:
        found: dict[str, int] = LibraryTokenizer.from_str(json.dumps(self.fields)).get_vocab(with_added_tokens=True)
        return found

    def tokenizer(self) -> HuggingFaceTokenizer:
        bos = None if self.bos is None else self.ids[self.bos]
        return HuggingFaceTokenizer(self.fields, bos_id=bos, eos_id=self.ids[self.eos])


def special(*names: str, **flags: bool) -> list[AddedToken]:
    return [AddedToken(name, special=True, **{"normalized": False, **flags}) for name in names]


def template(tokens: dict[str, int], *single: str) -> dict[str, Any]:
    def part(name: str) -> dict[str, Any]:
        return (
            {"Sequence": {"id": name, "type_id": 0}} if name in "AB" else {"SpecialToken": {"id": name, "type_id": 0}}
        )

    used = {name: {"id": name, "ids": [tokens[name]], "tokens": [name]} for name in single if name != "A"}
    pair = [*map(part, single), part("B")]
    return {"type": "TemplateProcessing", "single": [*map(part, single)], "pair": pair, "special_tokens": used}


def byte_level(
    *added: AddedToken, splits: Sequence[Any] = (), use_regex: bool = True, first: bool = False, **fields: Any
) -> dict[str, Any]:
    """Byte-level BPE; `first`: the added tokens are the first of the vocabulary, and not behind it."""
    library = LibraryTokenizer(models.BPE(ignore_merges=fields.pop("ignore_merges", False)))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    library.pre_tokenizer = pre_tokenizers.Sequence([*splits, level]) if splits else level
    trainer = trainers.BpeTrainer(
        vocab_size=300, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(added) if first else [],
    )  # fmt: skip
    library.train_from_iterator(TEXT, trainer)
    library.add_tokens(list(added))
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return {**json.loads(library.to_str()), "decoder": decoder, **fields}


def back_to_spaces(*, strips: bool) -> dict[str, Any]:
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    replace = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    steps = [replace, {"type": "ByteFallback"}, {"type": "Fuse"}, *([strip] if strips else [])]
    return {"type": "Sequence", "decoders": steps}


def metaspace(scheme: str, *, split: bool = True) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}


def sentencepiece_bpe(*names: AddedToken, **fields: Any) -> dict[str, Any]:
    """BPE over characters with byte fallback, the special tokens first."""
    pieces = [SPACE, *"\nOncetimhrwaldkT.'"]
    merges = [(SPACE, "t"), ("h", "e"), (f"{SPACE}t", "he"), (SPACE, "a"), ("c", "a")]
    vocabulary = [*(name.content for name in names), *BYTES, *pieces, *map("".join, merges)]
    model = models.BPE(
        vocab={piece: index for index, piece in enumerate(dict.fromkeys(vocabulary))},
        merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True,
    )  # fmt: skip
    library = LibraryTokenizer(model)
    library.add_tokens(list(names))
    return {**json.loads(library.to_str()), "decoder": back_to_spaces(strips=True), **fields}


def unigram(
    *names: AddedToken, unknown: str = "<unk>", lists_them: bool = True, byte_fallback: bool = False, **fields: Any
) -> dict[str, Any]:
    """Unigram whose vocabulary holds the special tokens, as good as certain, beside words and characters."""
    pieces = [(name.content, 0.0) for name in names]
    pieces += [(byte, 0.0) for byte in BYTES] if byte_fallback else []
    pieces += [(SPACE, -2.0), (f"{SPACE}the", -3.0), (f"{SPACE}a", -3.1), ("at", -3.5), ("<", -4.0), ("/s", -4.0)]
    known = {piece for piece, _ in pieces}
    pieces += [(char, -6.0) for char in CHARACTERS if char not in known]
    found = next(index for index, (piece, _) in enumerate(pieces) if piece == unknown)
    library = LibraryTokenizer(models.Unigram(pieces, unk_id=found, byte_fallback=byte_fallback))
    if lists_them:
        library.add_tokens(list(names))
    decoder = back_to_spaces(strips=True) if byte_fallback else metaspace("always")
    return {**json.loads(library.to_str()), "pre_tokenizer": metaspace("always"), "decoder": decoder, **fields}


def normalizers(*steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def _llama2() -> Layout:
    steps = [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ]
    fields = sentencepiece_bpe(*special("<unk>", "<s>", "</s>"), normalizer=normalizers(*steps))
    return Layout({**fields, "post_processor": template({"<s>": 1}, "<s>", "A")}, "<s>", "</s>")


def _mistral3() -> Layout:
    names = special("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]")
    fields = sentencepiece_bpe(*names, pre_tokenizer=metaspace("first", split=False))
    return Layout({**fields, "post_processor": template({"<s>": 1}, "<s>", "A")}, "<s>", "</s>")


def _gemma() -> Layout:
    lines = [AddedToken("\n" * count, special=False, normalized=False) for count in (2, 3)]
    html = [AddedToken("<b>", special=False, normalized=False)]
    names = special("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
    fields = sentencepiece_bpe(
        *names, *lines, *html,
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        pre_tokenizer={
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
        },
        decoder=back_to_spaces(strips=False),
    )  # fmt: skip
    return Layout({**fields, "post_processor": template({"<bos>": 2}, "<bos>", "A")}, "<bos>", "<eos>")


def _llama3() -> Layout:
    names = special("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    split = pre_tokenizers.Split(Regex(GPT4_WORDS), "isolated")
    fields = byte_level(*names, splits=[split], use_regex=False, ignore_merges=True)
    start = next(token["id"] for token in fields["added_tokens"])
    post = template({"<|begin_of_text|>": start}, "<|begin_of_text|>", "A")
    return Layout({**fields, "post_processor": post}, "<|begin_of_text|>", "<|end_of_text|>")


def _qwen() -> Layout:
    tools = [AddedToken(name, special=False, normalized=False) for name in ("<tool_call>", "</tool_call>", "<think>")]
    split = pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated")
    names = special("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    fields = byte_level(*names, *tools, splits=[split], use_regex=False, normalizer={"type": "NFC"})
    return Layout(fields, None, "<|im_end|>")


def _phi() -> Layout:
    spaces = [AddedToken(" " * count, special=False, normalized=True) for count in (8, 4, 2)]
    marks = special("<|im_start|>", "<|im_end|>", "<|im_sep|>", lstrip=True, rstrip=True)
    # As in Phi's file, the end of a text is no special token by its flags.
    end = AddedToken("<|endoftext|>", special=False, normalized=False)
    return Layout(byte_level(*spaces, *marks, end), None, "<|endoftext|>")


def _deepseek() -> Layout:
    ends = special("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", normalized=True)
    fields = byte_level(*ends, splits=[pre_tokenizers.Digits(True)], first=True)
    post = template({"<｜begin▁of▁sentence｜>": 0}, "<｜begin▁of▁sentence｜>", "A")
    return Layout({**fields, "post_processor": post}, "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")


def _t5() -> Layout:
    names = special("<pad>", "</s>", "<unk>", *(f"<extra_id_{number}>" for number in range(3)))
    cutter = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace("always")]}
    fields = unigram(*names, pre_tokenizer=cutter)
    return Layout({**fields, "post_processor": template({"</s>": 1}, "A", "</s>")}, None, "</s>", spells_all=False)


def _albert() -> Layout:
    steps = [
        {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
        {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    ]  # fmt: skip
    cutter = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace("always")]}
    names = [*special("<pad>", "<unk>", "[CLS]", "[SEP]"), *special("[MASK]", "<ctl>", lstrip=True)]
    fields = unigram(*names, normalizer=normalizers(*steps), pre_tokenizer=cutter)
    post = template({"[CLS]": 2, "[SEP]": 3}, "[CLS]", "A", "[SEP]")
    return Layout({**fields, "post_processor": post}, "[CLS]", "[SEP]", spells_all=False)


def _xlm_roberta() -> Layout:
    steps = [{"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]
    names = [*special("<s>", "<pad>", "</s>", "<unk>"), *special("<mask>", lstrip=True)]
    fields = unigram(*names, normalizer=normalizers(*steps))
    post = template({"<s>": 0, "</s>": 2}, "<s>", "A", "</s>")
    return Layout({**fields, "post_processor": post}, "<s>", "</s>", spells_all=False)


def _unigram_bytes() -> Layout:
    return Layout(unigram(*special("<unk>", "<s>", "</s>"), byte_fallback=True), "<s>", "</s>")


def _unigram_unlisted() -> Layout:
    """No added tokens: what begins and ends a document is known by the model's config alone."""
    names = special("<unk>", "<s>", "</s>")
    return Layout(unigram(*names, lists_them=False, byte_fallback=True), "<s>", "</s>")


def _bert() -> Layout:
    # The decoder of real ones ("WordPiece") is one that jslm refuses.
    names = special("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    words = [*(name.content for name in names), *CHARACTERS, *(f"##{char}" for char in CHARACTERS), "the", "cat"]
    library = LibraryTokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    library.normalizer = None
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.add_tokens(list(names))
    fields = json.loads(library.to_str())
    post = template({"[CLS]": 2, "[SEP]": 3}, "[CLS]", "A", "[SEP]")
    return Layout({**fields, "post_processor": post}, "[CLS]", "[SEP]", spells_all=False)


def _words() -> Layout:
    names = special("[UNK]", "[END]", "[BOS]", single_word=True)
    words = [*(name.content for name in names), "the", "cat", "a"]
    library = LibraryTokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.add_tokens(list(names))
    return Layout(json.loads(library.to_str()), "[BOS]", "[END]", spells_all=False)


def _gpt2() -> Layout:
    return Layout(byte_level(*special("<|endoftext|>", normalized=True), first=True), "<|endoftext|>", "<|endoftext|>")


LAYOUTS: dict[str, Callable[[], Layout]] = {
    "llama2": _llama2,
    "mistral3": _mistral3,
    "gemma": _gemma,
    "llama3": _llama3,
    "gpt2": _gpt2,
    "qwen": _qwen,
    "phi": _phi,
    "deepseek": _deepseek,
    "t5": _t5,
    "albert": _albert,
    "xlm-roberta": _xlm_roberta,
    "unigram-bytes": _unigram_bytes,
    "unigram-unlisted": _unigram_unlisted,
    "bert": _bert,
    "words": _words,
}
