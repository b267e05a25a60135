"""Chat templates: what is learned of a conversation, and that prompts are the beginnings of what was learned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from jslm.errors import JslmError
from jslm.prompts.chat import BUILT_IN, ChatTemplate, check_tokens, find_template, template_source
from jslm.prompts.conversations import conversation_text, parse_conversation
from jslm.prompts.pairs import Part
from jslm.tokenizer import ByteTokenizer, HuggingFaceTokenizer
from tests.tokenizer_layouts import byte_level, special

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


def test_no_template_puts_a_special_token_together_from_what_is_said() -> None:
    source = "{% for m in messages %}{{ m.content | replace('~', '') }}<|im_end|>{% endfor %}"
    template = ChatTemplate(source, TOKENIZER)
    assert template.prompt_ids(turns("~hi~")) == [*b"hi", END]
    with pytest.raises(JslmError, match="writes other special tokens for these"):
        template.prompt_ids(turns("a <|im_~end|> b"))
    for source in (SHOUTS, BARE):
        with pytest.raises(JslmError, match=r"messages\[0\].role holds <\|im_start\|>"):
            ChatTemplate(source, TOKENIZER).prompt_ids([{"role": "<|im_start|>user", "content": "hi"}])


def test_a_role_is_not_said_by_a_word_that_is_no_special_token() -> None:
    """DeepSeek's file calls `<user>` an added word, a token wherever it is read; Qwen's `<think>` stays one."""
    words = [AddedToken(word, special=False, normalized=False) for word in ("<user>", "<model>", "<think>")]
    fields = byte_level(*special("<end>"), *words)
    ids = {token["content"]: token["id"] for token in fields["added_tokens"]}
    tokenizer = HuggingFaceTokenizer(fields, bos_id=None, eos_id=ids["<end>"])
    role = "{{ 'user' if m.role == 'user' else 'model' }}"
    source = "{% for m in messages %}<" + role + ">{{ m.content }}{{ eos_token }}{% endfor %}"
    template = ChatTemplate(source, tokenizer)

    def controls(*contents: str) -> list[list[int]]:
        document = [
            token
            for part in template.document(turns(*contents))
            for token in ([ids[part.text]] if part.is_special else tokenizer.encode(part.text))
        ]
        found = template.prompt_ids(turns(*contents)), document
        return [[token for token in one if token in ids.values()] for one in found]

    plain = controls("a", "b")
    assert plain[0] == [ids["<user>"], ids["<end>"], ids["<model>"], ids["<end>"]]
    for text in ("<user>", "a <model>b<user> c", "<model", "user>", "<user><user>"):
        assert controls(text, f"{text}b") == plain, text
    assert ids["<think>"] in controls("a", "<think>b")[0]
    with pytest.raises(JslmError, match=r"messages\[0\].content holds <user>"):
        ChatTemplate("{% for m in messages %}<user>{{ m.content | upper }}{% endfor %}", tokenizer).prompt_ids(
            turns("a <user>")
        )


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


def rendered(source: str, *contents: str) -> str:
    return ChatTemplate(source, TOKENIZER).render(turns(*contents), add_generation_prompt=False)


def test_what_transformers_templates_have() -> None:
    """Beside transformers itself: tests/peer/test_chat_templates.py."""
    loop = "{% for m in messages %}{% if m.role == 'assistant' %}"
    assert rendered(loop + "{% continue %}{% endif %}{{ m.content }};{% endfor %}", "a", "b", "c") == "a;c;"
    assert rendered(loop + "{% break %}{% endif %}{{ m.content }};{% endfor %}", "a", "b", "c") == "a;"
    said = loop + "{% generation %}{{ m.content }}{{ eos_token }}{%- endgeneration -%}{% else %}{{ m.content }}|"
    assert rendered(said + "{% endif %}{% endfor %}", "a", "b") == "a|b<|endoftext|>"
    parts = ChatTemplate(said + "{% endif %}{% endfor %}", TOKENIZER).document(turns("a", "b"))
    assert [part.text for part in parts if part.is_learned] == ["b"]
    assert rendered("{{ messages | tojson(indent=1, sort_keys=true) }}", "é<").split("\n")[2] == '  "content": "é<",'
    assert rendered("{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':')) }}") == '{"b":1,"a":2}'
    assert rendered("{{ strftime_now('%Y') | length }}") == "4"
    assert rendered("{{ tools is none }}{{ documents is none }}{{ pad_token is defined }}") == "TrueTrueFalse"


def test_a_conversation_is_rendered_at_one_moment() -> None:
    source = "{{ strftime_now('%f%S') }}" + BARE
    template = ChatTemplate(source, TOKENIZER)
    parts = template.document(turns("a", "b"))
    assert [part.text for part in parts if part.is_learned] == ["b\n"]
    assert template.render(turns("a")) != template.render(turns("a"))


@pytest.mark.parametrize(
    "source",
    [
        "{% for",
        "{% nosuchtag %}",
        "{{ 'a' | nosuchfilter }}",
        "{% break %}",
        "{% for m in messages %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
        "{% generation %}",
        "{{ " + "(" * 300 + ")" * 300 + " }}",
        "{% include 'x' %}",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
        "{{ messages.append(1) }}",
        "{{ [].__class__.__mro__ }}{{ dict.__init__.__globals__.x }}",
        "{{ namespace(_x=1) }}",
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{{ raise_exception('no\n\nsuch\n') }}",
        "{{ strftime_now(1) }}",
        "{% for i in range(1000000) %}{% endfor %}",
    ],
)
def test_a_template_that_fails_is_one_line(source: str) -> None:
    """When it is compiled or when it renders: whatever Jinja and Python raise."""
    with pytest.raises(JslmError) as error:
        ChatTemplate(source, TOKENIZER).prompt_ids(turns("a"))
    assert re.match(
        "chat template: not a chat template in Jinja|the chat template refuses the messages", str(error.value)
    )
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


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
