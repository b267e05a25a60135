"""The page's own code in node beside Python's, what the exported folder holds, and where its runtime comes from."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm import JslmError
from jslm.config import RewriteConfig, config_from_dict
from jslm.formats import export_model, inspect_model
from jslm.formats.web import model as web
from jslm.formats.web import runtime
from jslm.formats.web.vocabulary import tokenizer_fields
from jslm.infer.faithful import unfaithful
from jslm.infer.judgement import judge
from jslm.infer.request import make_request
from jslm.infer.samplers import Sampling, filter_logits, likeliest_tokens, penalise_repetition
from jslm.infer.sentences import Unreadable, read_sentence, split_sentences
from jslm.model import init_params
from jslm.prompts.as_read import as_read
from jslm.prompts.rewrite_words import REWRITE_WORDS
from jslm.runs.bundle import Bundle
from jslm.tokenizer import (
    BpeTokenizer,
    ByteTokenizer,
    CharTokenizer,
    Gpt2Tokenizer,
    SentencePieceTokenizer,
    StreamDecoder,
    Tokenizer,
)
from tests.rewrite_pairs import ABBREVIATED, pairs
from tests.tokenizer_layouts import LAYOUTS

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
STATIC = Path(web.__file__).parent / "static"
WORDS = [
    *("Once", "upon", "a", "time", "little", "café", "naïve", "don't", "I'll", "we've", "you're", "THE", "x'S", "ﬁ"),
    *("日本語", "漢字", "한국어", "Привет", "مرحبا", "שלום", "हिन्दी", "ไทย", "e\u0301", "n\u0303o", "ǅ", "\ufffd"),
    *("🙂", "👩\u200d👩\u200d👧", "🏳️\u200d🌈", "½", "²", "ⅷ", "٣", "12345", "3.14", "1,000", "e=mc²", "--", "...", "▁"),
    *("<|endoftext|>", "<|unk|>", "<|user|>", "<s>", "</s>", "<0x0A>", "http://a.b/c?d=1", "snake_case", '"q"', "\\n"),
    *("\x00", "\x1c", "\x7f", "\x85", "\xad", "\u200b", "\ufeff", "\u2060", "a" * 300, "ab" * 200),
]
SPACES = ["", "", " ", "  ", "     ", "\n", "\n\n", "\t", " \n", "\r\n", "\r", "\x0b", "\x0c", "\x85", "\u3000", "\xa0"]
SPACES += ["\u2028", "\u1680", "\ufeff", "\x1c"]
STORY = "Once upon a time there was a little cat. The cat didn't like the rain, and it's true: 12345 drops!\n" * 8


def texts() -> list[str]:
    choice = random.Random(0)
    found = ["", " ", "  ", "\n", "\r\n", " a", "a ", "  a  b  ", "\ufeffa", "🙂", "\x00", "'", "<|endoftext|>", STORY]
    while len(found) < 600:
        pieces = (choice.choice(SPACES) + choice.choice(WORDS) for _ in range(choice.randint(1, 10)))
        found.append("".join(pieces) + choice.choice(SPACES))
    # Any character at all.
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    found += ["".join(map(chr, choice.sample(points, 40))) for _ in range(200)]
    return found


def sentencepiece() -> SentencePieceTokenizer:
    """Pieces of the story with scores, two of them equal."""
    words = sorted(set(re.findall(r" ?[^ \n]+", STORY)))
    parts = {word[:end] for word in words for end in range(1, len(word) + 1)} | {word[1:] for word in words}
    ordinary = sorted({*filter(None, parts), *STORY, " ", "é", "日"})
    scores = [-float(index % 97) for index in range(len(ordinary))]
    special = ["<unk>", "\n<s>\n", "\n</s>\n"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *ordinary]
    return SentencePieceTokenizer(pieces, [0.0] * 259 + scores, end_of_text="<s>")


@pytest.fixture
def tiktoken_files(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(assets / "tiktoken_cache"))


@pytest.fixture
def node(tmp_path: Path) -> Callable[[str, Any], Any]:
    """`node(script, value)`: what `answer(found)` was called with beside the page's modules, `value` given."""
    folder = tmp_path / "code"
    shutil.copytree(STATIC, folder)
    (folder / "package.json").write_text('{"type": "module"}')

    def run(script: str, value: Any) -> Any:
        whole = (
            'import { readFileSync, writeFileSync } from "node:fs";\n'
            'const value = JSON.parse(readFileSync(0, "utf-8"));\n'
            'const answer = (found) => writeFileSync("answer.json", JSON.stringify(found));\n' + script
        )
        (folder / "test.js").write_text(whole, "utf-8")
        assert NODE
        text = json.dumps(value)
        done = subprocess.run([NODE, "test.js"], input=text, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads((folder / "answer.json").read_text("utf-8"))

    return run


def make_tokenizer(kind: str) -> Tokenizer:
    match kind:
        case "char":
            return CharTokenizer("".join(WORDS[:40]) + STORY, ["<|user|>"])
        case "byte":
            return ByteTokenizer(["<|user|>"])
        case "bpe":
            return BpeTokenizer.train([STORY, " ".join(WORDS)] * 2, 600, ["<|user|>", "<|a|>"])
        case "gpt2":
            return Gpt2Tokenizer(["<|user|>"])
        case _:
            return sentencepiece()


ENCODE = """
import { makeTokenizer, TextStream } from "./tokenizer.js";
const tokenizer = makeTokenizer(value.fields);
answer(value.texts.map((text) => {
  const ids = tokenizer.encode(text);
  const stream = new TextStream(tokenizer.leadingSpace);
  return { ids, back: ids.map((id) => stream.push(tokenizer.pieces[id])), unknown: tokenizer.unknown(text) };
}));
"""


@needs_node
@pytest.mark.parametrize("kind", ["char", "byte", "bpe", "gpt2", "sentencepiece"])
def test_ids_and_texts_are_those_of_python(
    kind: str, node: Callable[[str, Any], Any], request: pytest.FixtureRequest
) -> None:
    if kind == "gpt2":
        request.getfixturevalue("tiktoken_files")
    tokenizer, strings = make_tokenizer(kind), texts()
    for text, found in zip(
        strings, node(ENCODE, {"fields": tokenizer_fields(tokenizer), "texts": strings}), strict=True
    ):
        ids = tokenizer.encode(text)
        assert found["ids"] == ids, repr(text)
        decoder = StreamDecoder(tokenizer)
        assert found["back"] == [decoder.push([token]) for token in ids], repr(text)
        assert sorted(found["unknown"]) == tokenizer.unknown_characters(text)


@needs_node
def test_lone_surrogates_become_what_utf8_has(node: Callable[[str, Any], Any]) -> None:
    # JSON carries them as escapes.
    strings = ["a\ud800b", "\udc00", "x\ud83d"]
    for kind in ("char", "byte", "bpe", "sentencepiece"):
        tokenizer = make_tokenizer(kind)
        for text, found in zip(
            strings, node(ENCODE, {"fields": tokenizer_fields(tokenizer), "texts": strings}), strict=True
        ):
            assert found["ids"] == tokenizer.encode(text), (kind, repr(text))


@needs_node
def test_every_piece_is_that_of_python(node: Callable[[str, Any], Any]) -> None:
    script = (
        'import { makeTokenizer } from "./tokenizer.js";\n'
        "answer(makeTokenizer(value).pieces.map((one) => Array.from(one)));"
    )
    for kind in ("char", "byte", "bpe", "sentencepiece"):
        tokenizer = make_tokenizer(kind)
        expected = [list(tokenizer.decode_bytes([token])) for token in range(tokenizer.vocab_size)]
        assert node(script, tokenizer_fields(tokenizer)) == expected, kind


@needs_node
def test_texts_are_read_and_stripped_as_in_python(node: Callable[[str, Any], Any]) -> None:
    script = (
        'import { asRead, strip } from "./text.js";\n'
        "answer(value.map((text) => [asRead(text, false), asRead(text, true), strip(text)]));"
    )
    points = [chr(code) for code in (*range(0x3100), *range(0xF900, 0x10000))]
    strings = [*texts(), *(f"{one}a{one}" for one in points)]
    expected = [[as_read(text), as_read(text, ["normalize"]), text.strip()] for text in strings]
    assert node(script, strings) == expected


VECTORS = Path(__file__).resolve().parents[1] / "vectors"
JUDGE = """
import { judge, joined, kept, readable, splitSentences } from "./judging.js";
import { makeCheck } from "./faithful.js";
import { asRead } from "./text.js";
import { makeTokenizer } from "./tokenizer.js";
const check = makeCheck(value.words);
const card = { rewrite: { settings: value.settings, words: value.words, end: "\\t" }, context: 80, normalize: false };
const tokenizer = makeTokenizer(value.tokenizer);
answer({
  differences: value.pairs.map(([source, output, mayAdd]) => check(source, output, mayAdd)),
  parts: value.texts.map(splitSentences),
  judged: value.judged.map(([sentence, text, logprobs, end]) =>
    judge(card.rewrite, sentence, sentence.trim().normalize("NFC"), text, logprobs, end, false)),
  readable: value.shown.map((text) => {
    const found = readable(card, tokenizer, text, tokenizer.encode(asRead(text + "\\t", false)).length);
    return found.reason ? { reason: found.reason } : { text: found.text, back: found.back(found.text) };
  }),
});
"""


@needs_node
def test_sentences_are_judged_as_in_python(node: Callable[[str, Any], Any]) -> None:
    settings = RewriteConfig(faithful=True, threshold=0.4, calibration=[0.5, 0.9, 0.3, 0.1])
    given = [(*pair, False) for pair in pairs()]
    vectors = json.loads((VECTORS / "rewriter_int8.json").read_text("utf-8"))["differences"]
    given += [(entry["source"], entry["output"], entry["may_add"]) for entry in vectors]
    choice = random.Random(1)
    judged = [
        (
            f" {source}\t",
            output,
            [-choice.random() * 0.1 for _ in range(choice.randint(0, 12))],
            choice.choice(["stop"] * 9 + ["length"]),
        )
        for source, output, _ in choice.sample(given, 400)
    ]
    judged += [("It was e\u0301mis.", "It was \xe9mis.", [-0.1], "stop"), ("a b", "a \ufffd", [-99.0], "stop")]
    strings = [source for source, _, _ in given[:300]] + texts()
    strings += [" ".join(choice.sample(strings[:300], 3)) for _ in range(200)] + list(ABBREVIATED)
    tokenizer = CharTokenizer("abcdefghijklmnopqrstuvwxyz .ABéèÉÀ—…日\u2003\U0001f642")
    shown = [text.strip() for text in strings] + ["жЖ🙈 A日", "Ä Ö É", "\u200b a", "a\tb"]
    value = {
        "words": REWRITE_WORDS,
        "settings": {"threshold": 0.4, "calibration": settings.calibration, "sentences": True, "beams": 0},
        "pairs": given,
        "texts": strings,
        "judged": judged,
        "tokenizer": tokenizer_fields(tokenizer),
        "shown": shown,
    }
    found = node(JUDGE, value)
    assert found["differences"] == [unfaithful(source, output, may_add=add) for source, output, add in given]
    assert found["parts"] == [split_sentences(text) for text in strings]
    reasons = set()
    for (sentence, text, logprobs, end), theirs in zip(judged, found["judged"], strict=True):
        ours = judge(settings, sentence, text, logprobs, end, threshold=settings.threshold)
        for name in ("confidence", "logprob"):
            number = getattr(ours, name)
            assert theirs.pop(name) == (None if number is None else pytest.approx(number)), sentence
        assert theirs == {name: getattr(ours, name) for name in theirs}
        reasons.add(ours.reason.partition(":")[0])
    assert len(reasons) >= 6

    class Shape:
        config = config_from_dict({"model": {"context_length": 80}, "data": PAIRS}, "test")

        def as_read(self, text: str) -> str:
            return as_read(text)

    model: Any = Shape()
    model.tokenizer = tokenizer
    for text, theirs in zip(shown, found["readable"], strict=True):
        try:
            put, stand_ins = read_sentence(model, text)
            mine = {"text": put, "back": stand_ins.take(put)}
        except Unreadable as reason:
            mine = {"reason": str(reason)}
        assert theirs == mine


SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_p": 0.7},
    {"min_p": 0.2},
    {"temperature": 1.7, "top_k": 30, "top_p": 0.95, "min_p": 0.01},
    {"repetition_penalty": 1.3, "top_k": 3},
    {"top_k": 4, "top_p": 0.5},
]


@needs_node
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_what_may_be_drawn_and_how_often(settings: dict[str, Any], node: Callable[[str, Any], Any]) -> None:
    """20,000 draws come as often as Python's probabilities say, and nothing else comes."""
    sample = config_from_dict({"sample": {"temperature": 1.0}}, "test").sample
    request = make_request(sample, **settings)
    noise = np.random.default_rng(0)
    logits = (2 * noise.standard_normal(60)).astype(np.float32)
    # Some that tie.
    logits[40:45] = logits[7]
    seen = [1, 3, 7]
    marks = np.zeros((1, 60), bool)
    marks[0, seen] = True
    penalised = penalise_repetition(
        jnp.asarray(logits)[None], jnp.asarray(marks), jnp.full(1, request.repetition_penalty, jnp.float32)
    )
    kept = np.asarray(jax.nn.softmax(filter_logits(penalised, Sampling.of([request])), axis=-1))[0]
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    given = {name: getattr(request, name) for name in names}
    script = """
import { choose, Draws, penalise } from "./sampling.js";
const draws = new Draws(value.seed);
const logits = penalise(Float32Array.from(value.logits), value.seen, value.settings.repetition_penalty);
const counts = value.logits.map(() => 0);
const first = [];
for (let i = 0; i < 20000; i++) {
  const id = choose(logits, value.settings, draws);
  counts[id]++;
  if (i < 20) first.push(id);
}
const greedy = choose(logits, { ...value.settings, temperature: 0 }, draws);
answer({ counts, first, greedy, penalised: Array.from(logits) });
"""
    value = {"logits": logits.tolist(), "seen": seen, "settings": given, "seed": 5}
    found = node(script, value)
    assert found["penalised"] == np.asarray(penalised)[0].tolist()
    assert found["greedy"] == int(likeliest_tokens(penalised)[0])
    counts = np.array(found["counts"])
    assert set(np.flatnonzero(counts)) <= set(np.flatnonzero(kept))
    expected = 20_000 * kept
    # Six standard deviations.
    assert np.all(np.abs(counts - expected) <= 6 * np.sqrt(expected) + 3)
    again = node(script, value)
    assert again == found
    assert node(script, {**value, "seed": 6})["first"] != found["first"]
    # The upper half counts as well.
    assert node(script, {**value, "seed": 5 + 2**32})["first"] != found["first"]


@needs_node
def test_random_numbers_fill_the_interval(node: Callable[[str, Any], Any]) -> None:
    script = (
        'import { Draws } from "./sampling.js";\n'
        "const draws = new Draws(value);\nanswer(Array.from({ length: 20000 }, () => draws.next()));"
    )
    found = np.array([node(script, seed) for seed in (0, 1)])
    assert found.min() >= 0
    assert found.max() < 1
    counts = np.stack([np.histogram(row, 50, (0, 1))[0] for row in found])
    assert np.all(np.abs(counts - 400) < 6 * 20)
    # One seed tells nothing of the next.
    assert abs(np.corrcoef(found)[0, 1]) < 0.03
    assert abs(np.corrcoef(found[0, :-1], found[0, 1:])[0, 1]) < 0.03


# The folder.


@pytest.fixture(scope="module")
def package() -> Path:
    """npm's package, from the cache or from npm."""
    try:
        return runtime._cached()
    except JslmError as error:
        pytest.skip(f"onnxruntime-web is not here: {error}")


def bundle(tokenizer: Tokenizer, **sections: Any) -> Bundle:
    shape = {"n_layers": 1, "d_model": 32, "n_heads": 2, "context_length": 32, "dtype": "float32"}
    model = {**shape, "vocab_size": tokenizer.vocab_size, **sections.pop("model", {})}
    config = config_from_dict({"model": model, **sections}, "test")
    params = jax.tree.map(np.asarray, init_params(config.model, jax.random.key(0)))
    return Bundle(config, params, tokenizer, source="runs/tiny")


PAIRS = {"prompt_end": "\t", "packing": "documents"}
CHECKED = {"threshold": 0.5, "faithful": True}
STYLES = [{"name": "style", "labels": ["plain", "formal"]}, {"name": "mood", "labels": ["glad"]}]


def test_the_folder_and_its_description(tmp_path: Path, package: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    made = bundle(
        ByteTokenizer(),
        data=PAIRS,
        model={"conditions": STYLES},
        card={"description": "Tiny & <b>bold</b>"},
        rewrite=CHECKED,
    )
    for name in ("one", "two"):
        web.write(made, tmp_path / name, "int8", condition={"mood": "glad"}, onnxruntime_web=package)
    folder = tmp_path / "one"
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    # The same model makes the same folder.
    assert files == {
        path.relative_to(tmp_path / "two").as_posix(): path.read_bytes()
        for path in (tmp_path / "two").rglob("*")
        if path.is_file()
    }
    fields = json.loads(files["model.json"])
    assert fields["conditions"] == [{"name": "style", "labels": ["plain", "formal"]}]
    settings = {"threshold": 0.5, "calibration": [], "sentences": False, "beams": 0}
    assert fields["rewrite"] == {"parts": ["", "\t"], "end": "\t", "settings": settings, "words": REWRITE_WORDS}
    assert ["Built in", "mood = glad"] in fields["about"]
    for entry in fields["files"]:
        assert len(files[entry["name"]]) == entry["stored"]
    # What the worker keeps is all there is, but for itself and the card.
    worker = files["sw.js"].decode()
    found = re.search(r"const FILES = (\[.*\]);", worker)
    assert found
    assert set(json.loads(found[1])) == {"./", *files} - {"sw.js", "README.md"}
    # No address of another host, but in names of XML and in what the runtime says of itself.
    for name, content in files.items():
        if name.endswith((".js", ".html", ".css")):
            assert not re.search(rb"https?://(?!localhost|www\.w3\.org/)", content), name
    described = inspect_model(folder)
    assert described["format"] == "page for browsers by jslm"
    assert described["rewrites"] == "yes"
    web.write(bundle(ByteTokenizer()), tmp_path / "other", "float32", onnxruntime_web=package)
    other = (tmp_path / "other" / "sw.js").read_text()
    assert other.splitlines()[0] != worker.splitlines()[0]
    assert json.loads((tmp_path / "other" / "model.json").read_text())["rewrite"] is None


def test_a_template_goes_around_the_sentence() -> None:
    data = {"template": "Say: {prompt} ({prompt})\nNow: {completion}", "prompt_end": "Now: ", "packing": "documents"}
    found = web._rewriting(bundle(ByteTokenizer(), data=data), {})
    assert found is not None
    assert (found["parts"], found["end"]) == (["Say: ", " (", ")\nNow: "], "Now: ")
    assert "words" not in found
    wants_more = {**PAIRS, "template": "{question}: {prompt}\t{completion}"}
    assert web._rewriting(bundle(ByteTokenizer(), data=wants_more), {}) is None


def test_what_the_page_cannot_do_is_refused(tmp_path: Path) -> None:
    tokenizer = next(iter(LAYOUTS.values()))().tokenizer()
    with pytest.raises(JslmError, match="--format onnx"):
        web.write(bundle(tokenizer), tmp_path / "page", "int8")
    assert not list(tmp_path.iterdir())
    with pytest.raises(JslmError, match="--opset: web has no such option"):
        export_model(tmp_path, tmp_path / "page", format="web", opset=20)
    with pytest.raises(JslmError, match="--dtype bfloat16: web holds int8"):
        export_model(tmp_path, tmp_path / "page", format="web", dtype="bfloat16")


def test_damaged_descriptions_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    (tmp_path / "sw.js").touch()
    for text, message in (
        ("{", "no JSON"),
        ("{}", "not as jslm writes it"),
        ('{"format": "jslm-web", "files": []}', "version"),
    ):
        (tmp_path / "model.json").write_text(text)
        with pytest.raises(JslmError, match=message):
            inspect_model(tmp_path)


# Where the runtime comes from.


def put_npm(folder: Path, script: str) -> None:
    """A program called npm, first on the path."""
    folder.mkdir(exist_ok=True)
    program = folder / "npm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_a_file_of_another_version_or_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.tgz").write_bytes(b"something else")
    with pytest.raises(JslmError, match=r"other\.tgz: not the package onnxruntime-web@.*npm pack"):
        runtime.write_runtime(tmp_path, tmp_path / "other.tgz")
    with pytest.raises(JslmError, match="no such file"):
        runtime.write_runtime(tmp_path, tmp_path / "none.tgz")


def test_without_npm_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(JslmError, match=r"npm is not installed; npm pack .* --onnxruntime-web FILE\.tgz"):
        runtime.write_runtime(tmp_path)
    put_npm(tmp_path / "bin", "echo 'code E404: not in this registry' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    with pytest.raises(JslmError, match=r"npm did not get it .*E404"):
        runtime.write_runtime(tmp_path)
    put_npm(tmp_path / "bin", 'echo other > "$4/onnxruntime-web.tgz"')
    with pytest.raises(JslmError, match="what npm got is another file"):
        runtime.write_runtime(tmp_path)
    assert not list((tmp_path / "cache").rglob("*.tgz"))


def test_the_package_is_kept(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    put_npm(tmp_path / "bin", f'cp "{package}" "$4/onnxruntime-web.tgz"; echo x >> "{tmp_path / "calls"}"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    for _ in range(2):
        size = runtime.write_runtime(tmp_path)
    assert size > 10_000_000
    assert (tmp_path / "calls").read_text() == "x\n"
    kept = next((tmp_path / "cache").rglob("*.tgz"))
    # A damaged one is got anew.
    kept.write_bytes(b"cut")
    runtime.write_runtime(tmp_path)
    assert (tmp_path / "calls").read_text() == "x\nx\n"
    assert "MIT License" in (tmp_path / "LICENSE.txt").read_text()
