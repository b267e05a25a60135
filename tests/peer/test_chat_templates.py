"""transformers renders and tokenises conversations of an exported model as jslm does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest

from jslm import JslmError
from jslm.formats.formats import format_named
from jslm.infer import Chat, LanguageModel
from jslm.prompts.chat import BUILT_IN, ChatTemplate
from jslm.runs.bundle import Bundle
from jslm.tokenizer import BpeTokenizer, ByteTokenizer

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.peer
MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello there, 12 people!"},
    {"role": "assistant", "content": "Good morning."},
    {"role": "user", "content": "What's\n\nnew?"},
]
SPECIAL = ("<|im_start|>", "<|im_end|>")
TEXTS = ["User: hello there, Assistant: good morning, people! What is new?\n\n"] * 20


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_the_same_ids(name: str, kind: str, random_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    tokenizer = ByteTokenizer(SPECIAL) if kind == "byte" else BpeTokenizer.train(TEXTS, 300, SPECIAL)
    bundle = replace(random_bundle(tokenizer, context_length=512), chat_template=BUILT_IN[name])
    write = format_named("hf").write
    assert write is not None
    write(bundle, tmp_path / "hf", "float32")
    peer: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    params = jax.tree.map(jax.numpy.asarray, bundle.params)
    model = LanguageModel(bundle.config, params, tokenizer, chat_template=bundle.chat_template)
    wanted = peer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert Chat(model).prompt_ids(MESSAGES) == wanted


# One case a feature: its name after "### ", then the template; the line break before the next name is not its own.
_CASES = Path(__file__).with_name("chat_features.txt").read_text("utf-8").removesuffix("\n").removeprefix("### ")
FEATURES = dict(case.split("\n", 1) for case in _CASES.split("\n### "))


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("asks", [True, False])
def test_templates_render_as_in_transformers(name: str, asks: bool) -> None:
    """transformers' own environment; what it refuses is refused."""
    from transformers.utils.chat_template_utils import render_jinja_template

    template = FEATURES[name]
    tokens = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    try:
        [wanted], _ = render_jinja_template([MESSAGES], chat_template=template, add_generation_prompt=asks, **tokens)
    except Exception:
        with pytest.raises(JslmError):
            ChatTemplate(template, ByteTokenizer()).render(MESSAGES, add_generation_prompt=asks)
    else:
        assert ChatTemplate(template, ByteTokenizer()).render(MESSAGES, add_generation_prompt=asks) == wanted
