"""Text never becomes a special token, whatever a tokenizer of another program is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as LibraryTokenizer

from jslm import JslmError
from jslm.config import config_from_dict
from jslm.formats.tokenizers import read_huggingface_tokenizer
from jslm.infer import LanguageModel, make_request, rewrite_prompt
from jslm.prepare.encode import Chunk, encode_chunks
from jslm.prompts.chat import ChatTemplate
from jslm.tokenizer import HuggingFaceTokenizer, load_tokenizer
from tests.tokenizer_layouts import LAYOUTS, Layout, special, unigram


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]()


@pytest.fixture(scope="module")
def tokenizer(layout: Layout) -> HuggingFaceTokenizer:
    return layout.tokenizer()


def unknown_ids(layout: Layout) -> set[int]:
    model = layout.fields["model"]
    return {layout.ids[model["unk_token"]]} if model.get("unk_token") else {model.get("unk_id", -1)}


def spellings(tokenizer: HuggingFaceTokenizer) -> list[str]:
    """Every special token in texts that normalisers, cutters and flags treat in different ways."""
    texts = []
    for name in tokenizer.special_tokens:
        wide = "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in name)
        texts += [name, f"a{name}the", f"  {name} cat", f"the {name}\n", name * 3, name.upper(), name.lower(), wide]
        texts += [f"{name[:1]} {name[1:]}", f"{name[:-1]}{name}{name[-1:]}", f"##{name}", f"▁{name}"]
    return [*texts, " ".join(tokenizer.special_tokens), "".join(tokenizer.special_tokens)]


def test_no_text_becomes_one(layout: Layout, tokenizer: HuggingFaceTokenizer, tmp_path: Path) -> None:
    controls = set(tokenizer.special_tokens.values())
    assert {tokenizer.bos_id, tokenizer.eot_id} <= controls
    tokenizer.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    texts = spellings(tokenizer)
    batch = tokenizer.encode_batch(texts)
    assert [array.tolist() for array in tokenizer.encode_arrays(texts)] == batch
    assert again.encode_batch(texts) == batch
    for text, ids in zip(texts, batch, strict=True):
        assert tokenizer.encode(text) == ids
        # What the vocabulary can spell is spelled; the rest is unknown, and never a control token.
        assert not set(ids) & (controls - unknown_ids(layout)), text
        if layout.spells_all:
            assert not set(ids) & controls, text
            # SentencePiece's sign for a space is one, and a space that begins a text may be taken for its own.
            space = " " if "ByteFallback" in str(layout.fields["decoder"]) else "▁"
            assert tokenizer.decode(ids).strip(" ") == text.replace("▁", space).strip(" ")


def test_what_goes_before_a_text(layout: Layout, tokenizer: HuggingFaceTokenizer) -> None:
    """By the file's post-processor, which may put the token that ends a text behind it."""
    library = LibraryTokenizer.from_str(json.dumps(layout.fields))
    assert tokenizer.adds_bos is (library.encode("the cat").ids[0] == tokenizer.bos_id)


def test_allowed_they_are_those_of_the_file(layout: Layout, tokenizer: HuggingFaceTokenizer) -> None:
    for name, token in tokenizer.special_tokens.items():
        assert tokenizer.encode(name, allow_special=True) in ([token], [*tokenizer.encode(" "), token])


def test_other_ids_are_the_librarys(layout: Layout, tokenizer: HuggingFaceTokenizer) -> None:
    """Nothing else moves, tokens after the special ones included: `<tool_call>`, runs of spaces and line breaks."""
    library = LibraryTokenizer.from_str(json.dumps(layout.fields))
    ordinary = [token["content"] for token in layout.fields["added_tokens"] if not token["special"]]
    ordinary = [name for name in ordinary if name not in tokenizer.special_tokens]
    for text in ["the cat  didn't\n\n\nlike 2024 漢字🙂é", "", " ", *ordinary, "a ".join(ordinary), "zzz unknown the"]:
        assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids, text


def test_conversations_have_the_templates_own_alone(layout: Layout, tokenizer: HuggingFaceTokenizer) -> None:
    source = (
        "{{ bos_token }}{% for message in messages %}" + "".join(list(tokenizer.special_tokens)[-1:])
        + "{{ message.role }}: {{ message.content }}{{ eos_token }}{% endfor %}"
    )  # fmt: skip
    template = ChatTemplate(source, tokenizer)
    controls = set(tokenizer.special_tokens.values()) - unknown_ids(layout)

    def found(text: str) -> tuple[list[int], list[int]]:
        turns = [{"role": role, "content": text} for role in ("system", "user", "assistant")]
        chunks = [
            Chunk(part.text, "train", part.is_learned, part.is_special, False, False, False, None, ())
            for part in template.document(turns)
        ]
        ids = encode_chunks(tokenizer.to_json(), chunks).stretches["train"].ids.tolist()
        prompt = template.prompt_ids(turns[:2])
        return [token for token in ids if token in controls], [token for token in prompt if token in controls]

    plain = found("the cat")
    assert plain[1]
    for text in spellings(tokenizer):
        assert found(text) == plain, text


def test_prompts_and_sentences_have_none(layout: Layout, tokenizer: HuggingFaceTokenizer) -> None:
    shape = {"n_layers": 1, "d_model": 8, "n_heads": 1, "context_length": 4096, "vocab_size": tokenizer.vocab_size}
    config = config_from_dict({"model": shape}, "test")
    model = LanguageModel.__new__(LanguageModel)
    model.config, model.tokenizer, model.ends_documents = config, tokenizer, True
    options = make_request(config.sample)
    controls = set(tokenizer.special_tokens.values()) - unknown_ids(layout)
    for text in spellings(tokenizer):
        for prompt in (text, rewrite_prompt(config.data, text)):
            ids = model.row(prompt, 0, options).ids
            # One may begin the document.
            assert not set(ids[1:]) & controls, prompt


def test_tokens_that_the_settings_call_special_are(tmp_path: Path) -> None:
    """transformers knows them by `tokenizer_config.json` and `special_tokens_map.json` too."""
    fields = unigram(
        *special("<unk>", "<s>", "</s>", "<sep>", "<user>", "<tool>"), lists_them=False, byte_fallback=True
    )
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields), "utf-8")
    settings: dict[str, Any] = {
        "bos_token": {"content": "<s>"}, "eos_token": "</s>", "sep_token": "<sep>",
        "added_tokens_decoder": {"4": {"content": "<user>", "special": True}, "7": {"content": "<0x01>"}},
    }  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": ["<tool>"]}), "utf-8")
    tokenizer = read_huggingface_tokenizer(tmp_path, {}, 0)
    assert tokenizer.special_tokens == {"<s>": 1, "</s>": 2, "<sep>": 3, "<user>": 4, "<tool>": 5}
    for text in tokenizer.special_tokens:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert not set(tokenizer.encode(text)) & set(range(6))


def test_an_end_of_one_character_stays_text() -> None:
    fields = LAYOUTS["gpt2"]().fields
    line_break = LAYOUTS["gpt2"]().ids["Ċ"]
    tokenizer = HuggingFaceTokenizer(fields, bos_id=None, eos_id=line_break)
    assert tokenizer.decode_bytes(tokenizer.encode("a\nb")) == b"a\nb"
    assert tokenizer.eot_id == line_break


def test_what_cannot_be_spelled_is_an_error_of_one_line() -> None:
    fields = unigram(*special("<unk>", "</s>"))
    fields["model"]["unk_id"] = None
    tokenizer = HuggingFaceTokenizer(fields, bos_id=None, eos_id=1)
    assert np.array(tokenizer.encode("the cat")).size
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(JslmError, match="no unknown token"):
            encode("漢")


def test_ids_with_a_gap_are_refused() -> None:
    fields = LAYOUTS["gpt2"]().fields
    token = {**fields["added_tokens"][0], "content": "<|far|>", "id": 5000}
    with pytest.raises(JslmError, match=r"'<\|far\|>' has the id 5000"):
        HuggingFaceTokenizer({**fields, "added_tokens": [*fields["added_tokens"], token]}, bos_id=None, eos_id=0)
