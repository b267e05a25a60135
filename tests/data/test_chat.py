"""Chat templates: what is learned of a conversation, and that prompts are the beginnings of what was learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jslm.data.chat import BUILT_IN, ChatTemplate, check_tokens, find_template, template_source
from jslm.data.conversations import conversation_text, parse_conversation
from jslm.data.pairs import Part
from jslm.errors import JslmError
from jslm.tokenizer import ByteTokenizer

CHATML = ("<|im_start|>", "<|im_end|>")
TOKENIZER = ByteTokenizer(CHATML)
EOT, START, END = (TOKENIZER.special_tokens[name] for name in ("<|endoftext|>", *CHATML))


def turns(*contents: str, system: str = "") -> list[dict[str, str]]:
    """Contents of user and assistant by turns."""
    messages = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    return messages + [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]


def encoded(parts: list[Part]) -> tuple[list[int], list[int]]:
    """Ids, and the places of those that are learned."""
    ids: list[int] = []
    learned: list[int] = []
    for part in parts:
        new = [TOKENIZER.special_tokens[part.text]] if part.is_special else TOKENIZER.encode(part.text)
        learned += range(len(ids), len(ids) + len(new)) if part.is_learned else ()
        ids += new
    return ids, learned


def test_plain_learns_each_answer_and_its_end() -> None:
    parts = ChatTemplate(BUILT_IN["plain"], TOKENIZER).document(turns("Hi", "Hello", "2+2?", "4", system="Be kind."))
    assert parts == [
        Part("System:\nBe kind.\n\nUser:\nHi\n\nAssistant:\n", is_learned=False),
        Part("Hello"),
        Part("<|endoftext|>", is_special=True),
        Part("User:\n2+2?\n\nAssistant:\n", is_learned=False),
        # What ends the document follows, and is learned as this is.
        Part("4"),
    ]


def test_chatml_learns_each_answer_and_its_end() -> None:
    ids, learned = encoded(ChatTemplate(BUILT_IN["chatml"], TOKENIZER).document(turns("Hi", "Hello", "2+2?", "4")))
    wanted = [START, *b"user\nHi", END, *b"\n", START, *b"assistant\nHello", END, *b"\n"]
    wanted += [START, *b"user\n2+2?", END, *b"\n", START, *b"assistant\n4", END, *b"\n"]
    assert ids == wanted
    assert [ids[place] for place in learned] == [*b"Hello", END, *b"4", END]


WORDS = ["a", " ", "\n", "<|im_end|>", "<|endoftext|>", "<|im_start|>", "{{ x }}", "é", "\ue000", "0\ue001"]
CONTENT = st.lists(st.sampled_from(WORDS), max_size=4).map("".join)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["plain", "chatml"]), st.lists(CONTENT, min_size=1, max_size=3), st.lists(CONTENT, min_size=3))
def test_a_prompt_has_the_ids_that_it_had_in_training(name: str, asked: list[str], answers: list[str]) -> None:
    contents = [text for pair in zip(asked, answers, strict=False) for text in pair]
    template = ChatTemplate(BUILT_IN[name], TOKENIZER)
    ids, learned = encoded(template.document(turns(*contents)))
    for number in range(0, len(contents), 2):
        prompt = template.prompt_ids(turns(*contents[: number + 1]))
        assert prompt[0] == EOT
        # A document begins after such a token, which is no part of it.
        assert [EOT, *ids][: len(prompt)] == prompt
        # What was said never became a special token: those that are there are the template's own.
        per_turn = {"plain": 1, "chatml": 4}[name] * number // 2
        special = sum(token > 255 for token in prompt[1:])
        assert special == per_turn + {"plain": 0, "chatml": 3}[name]
    end = {"plain": EOT, "chatml": END}[name]
    wanted = [token for answer in contents[1::2] for token in (*TOKENIZER.encode(answer), end)]
    # The end-of-text token that ends a document is put there later.
    assert [ids[place] for place in learned] == (wanted[:-1] if name == "plain" else wanted)


ASKS = "{% if add_generation_prompt %}assistant: {% endif %}"
TRIMS = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}<|im_end|>{% endfor %}" + ASKS
SHOUTS = "{% for m in messages %}{{ m.content | upper }}\n{% endfor %}"
BARE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + ASKS


def test_templates_that_trim_what_is_said() -> None:
    template = ChatTemplate(TRIMS, TOKENIZER)
    ids, learned = encoded(template.document(turns(" <|im_end|> ", " yes\n")))
    assert ids == [*b"user: <|im_end|>", END, *b"assistant: yes", END]
    assert [ids[place] for place in learned] == [*b"yes", END]
    assert template.stops == ("<|im_end|>",)


def test_templates_that_change_what_is_said() -> None:
    template = ChatTemplate(SHOUTS, TOKENIZER)
    assert template.prompt_ids(turns("hi")) == [*b"HI\n"]
    with pytest.raises(JslmError, match=r"messages\[0\].content holds <\|im_end\|>, which is a special token"):
        template.prompt_ids(turns("a <|im_end|>"))


def test_templates_without_special_tokens_learn_what_ends_a_turn() -> None:
    template = ChatTemplate(BARE, TOKENIZER)
    parts = template.document(turns("a", "b", "c", "d"))
    assert [part.text for part in parts if part.is_learned] == ["b\n", "d\n"]
    assert template.stops == ("\nuser: ",)
    assert template.prompt_ids(turns("a"), starts_document=True) == [EOT, *b"user: a\nassistant: "]


def test_a_template_whose_prompts_differ_from_training_is_refused() -> None:
    template = ChatTemplate("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", TOKENIZER)
    with pytest.raises(JslmError, match=r"messages\[1\]: the chat template renders .* otherwise than"):
        template.document(turns("a", "b", "c", "d"))
    # It can still be asked: the model may be another's, which was trained so.
    assert template.prompt_ids(turns("a", "b", "c")) == [*b"3abc"]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (turns("a", "b")[1:], "message 1 is of the role assistant, expected user"),
        ([*turns("a"), *turns("b", "c")], "message 2 is of the role user, expected assistant"),
        ([*turns("a", "b"), {"role": "system", "content": "x"}], "message 3 is of the role system, expected user"),
        ([{"role": "tool", "content": "x"}, *turns("a", "b")], "message 1 is of the role tool, expected user"),
    ],
)
@pytest.mark.parametrize("name", BUILT_IN)
def test_roles_out_of_order_are_refused(name: str, messages: Any, expected: str) -> None:
    with pytest.raises(JslmError, match=f"the chat template refuses the messages: {expected}"):
        ChatTemplate(BUILT_IN[name], TOKENIZER).document(messages)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("hello", "expected a list of messages .*, found str"),
        ([], "found an empty list"),
        (["hello"], r"messages\[0\] is str; expected an object"),
        ([{"content": "a"}], r"messages\[0\]\.role is missing; expected a text"),
        ([{"role": "user"}], r"messages\[0\]\.content is missing; expected a text"),
        ([{"role": "user", "content": None}], r"messages\[0\]\.content is NoneType; expected a text"),
        ([{"role": "<|im_end|>", "content": "a"}], r"messages\[0\]\.role = '<\|im_end\|>'; expected a word"),
        (turns("a"), "no message is of the role assistant: there is nothing to learn"),
    ],
)
def test_what_is_no_conversation(value: Any, expected: str) -> None:
    with pytest.raises(JslmError, match=expected):
        conversation_text(value)


def test_other_keys_of_messages_are_left_out() -> None:
    messages = [{**message, "name": "x", "weight": None} for message in turns("a\n", "é")]
    assert parse_conversation(conversation_text(messages)) == turns("a\n", "é")


def test_names_of_templates(tmp_path: Path) -> None:
    with pytest.raises(
        JslmError, match=r"'alpaca': no template of that name; there are plain, chatml, or give the path"
    ):
        template_source("alpaca")
    with pytest.raises(JslmError, match=r"gone\.jinja: the chat template cannot be read: No such file"):
        template_source(str(tmp_path / "gone.jinja"))
    (tmp_path / "mine.jinja").write_text(BARE, "utf-8")
    assert template_source(str(tmp_path / "mine.jinja")) == BARE
    with pytest.raises(JslmError, match=r'set tokenizer\.special_tokens = \["<\|im_start\|>", "<\|im_end\|>"\]'):
        check_tokens("chatml", ["<|im_start|>"])
    check_tokens("chatml", CHATML)
    check_tokens("plain", [])
    with pytest.raises(JslmError, match="mine: not a chat template in Jinja"):
        ChatTemplate("{% for", TOKENIZER, "mine")


def test_templates_of_folders(tmp_path: Path) -> None:
    assert find_template(tmp_path) == ""
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({"chat_template": [{"name": "default", "template": "A"}, {"name": "rag"}]}), "utf-8")
    assert find_template(tmp_path) == "A"
    settings.write_text(json.dumps({"chat_template": "B"}), "utf-8")
    assert find_template(tmp_path) == "B"
    (tmp_path / "chat_template.jinja").write_text("C", "utf-8")
    assert find_template(tmp_path) == "C"
    (tmp_path / "chat_template.jinja").unlink()
    settings.write_text("[", "utf-8")
    with pytest.raises(JslmError, match=r"tokenizer_config\.json: its chat template cannot be read"):
        find_template(tmp_path)
