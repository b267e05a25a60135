"""The exported page in a real browser: tokens and rewrites are Python's, it works offline, and asks nobody else."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jslm import JslmError
from jslm.config import config_from_dict
from jslm.formats.onnx.model import write as write_onnx
from jslm.formats.onnx.runtime import OnnxDecoder
from jslm.formats.web import runtime
from jslm.formats.web.graph import OPSET
from jslm.formats.web.model import write
from jslm.infer import LanguageModel
from jslm.model import Params, init_params, loss_sums
from jslm.runs.bundle import Bundle
from jslm.tokenizer import BpeTokenizer, CharTokenizer, Tokenizer
from tests.quiet_server import QuietServer
from tests.random_models import lively_params

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
# A path like that of a project's page on a shared host.
PLACE = "some/where/"
HOSTILE = "<img src=x onerror=alert(1)> & <b>bold</b>\n"
BIASES = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gqa untied": {"n_kv_heads": 2, "tie_embeddings": False},
    "mqa head_dim": {"n_kv_heads": 1, "head_dim": 16},
    "qk_norm": {"qk_norm": True, "n_kv_heads": 2, **BIASES},
    "gpt2": {"norm": "layernorm", "position": "learned", "activation": "gelu", **BIASES},
    "no positions": {"norm": "layernorm", "norm_bias": False, "position": "none", "activation": "relu2"},
    "softcap geglu": {"activation": "geglu", "logit_softcap": 5.0, "rope_theta": 500.0, "norm_eps": 1e-3},
    "linear exact": {"activation": "gelu_exact", "rope_scaling": {"kind": "linear", "factor": 2.0}},
    "ntk relu": {"activation": "relu", "rope_scaling": {"kind": "ntk", "factor": 2.0}},
    "yarn": {"rope_scaling": {"kind": "yarn", "factor": 4.0, "attention_factor": 1.3}},
    "llama3": {"rope_scaling": {"kind": "llama3", "factor": 8.0, "original_context_length": 16}},
}
CONTEXT = 400
STORY = "Once upon a time there was a little cat. The cat didn't like the rain, and it's true: 12345 drops!\n" * 8
# Sentences, and what becomes of them formally and plainly.
PAIRS = {
    "The ball was thrown by Tom.": ("Tom threw the ball.", "Tom threw it!"),
    "A cake was eaten by the dog.": ("The dog ate a cake.", "Dog ate cake!"),
    "The café was found by Ann.": ("Ann found the café.", "Ann found it!"),
}


@pytest.fixture(scope="module")
def package() -> Path:
    """npm's package, from the cache or from npm."""
    try:
        return runtime._cached()
    except JslmError as error:
        pytest.skip(f"onnxruntime-web is not here: {error}")


def random_bundle(tokenizer: Tokenizer, sample: dict[str, Any] | None = None, **model: Any) -> Bundle:
    shape = {"n_layers": 2, "d_model": 32, "n_heads": 4, "d_ff": 48, "context_length": CONTEXT, "dtype": "float32"}
    values = {"model": {**shape, "vocab_size": tokenizer.vocab_size, **model}, "sample": sample or {}}
    config = config_from_dict(values, "test")
    params = lively_params(config.model)
    return Bundle(config, params, tokenizer, source="runs/tiny")


def language_model(bundle: Bundle) -> LanguageModel:
    params = jax.tree.map(jnp.asarray, bundle.params)
    return LanguageModel(bundle.config, params, bundle.tokenizer, ends_documents=bundle.ends_documents)


def rewriting_bundle() -> Bundle:
    """Knows PAIRS by heart, in both styles; the formal one where none is named."""
    texts = [*PAIRS, *(text for both in PAIRS.values() for text in both)]
    tokenizer = CharTokenizer("".join(texts) + "\n\t")
    shape = {"n_layers": 2, "d_model": 48, "n_heads": 4, "n_kv_heads": 2, "d_ff": 96, "context_length": 96}
    conditions = [{"name": "style", "labels": ["formal", "plain"]}]
    model = {**shape, "dtype": "float32", "vocab_size": tokenizer.vocab_size, "conditions": conditions, "qk_norm": True}
    config = config_from_dict({"model": model, "data": {"packing": "documents", "prompt_end": "\t"}}, "test")
    rows, targets, kinds = [], [], []
    for prompt, both in PAIRS.items():
        for label in (0, 1, -1):
            first, second = tokenizer.encode(prompt + "\t"), [*tokenizer.encode(both[max(label, 0)]), tokenizer.eot_id]
            row, target = np.zeros(64, np.int32), np.full(64, -1, np.int32)
            row[: len(first) + len(second)] = [tokenizer.eot_id, *first, *second[:-1]]
            target[len(first) : len(first) + len(second)] = second
            rows.append(row)
            targets.append(target)
            kinds.append(np.full((64, 1), label, np.int32))
    batch = [jnp.asarray(np.stack(part)) for part in (rows, targets, kinds)]
    optimizer = optax.adam(5e-3)

    @jax.jit
    def learn(params: Params, state: optax.OptState) -> tuple[Params, optax.OptState]:
        inputs, outputs, labels = batch
        gradients = jax.grad(lambda p: loss_sums(p, inputs, outputs, config.model, conditions=labels)[0] / 100)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state

    params = init_params(config.model, jax.random.key(0))
    state = optimizer.init(params)
    for _ in range(120):
        params, state = learn(params, state)
    return Bundle(config, jax.tree.map(np.asarray, params), tokenizer, source="runs/rewriter")


class Handler(http.server.SimpleHTTPRequestHandler):
    """As `python -m http.server`, in silence."""

    def log_message(self, *arguments: Any) -> None:
        del arguments


class Unpacking(Handler):
    """As hosts that take a .gz for a file whose contents they may unpack on the way."""

    def end_headers(self) -> None:
        if self.path.endswith(".gz"):
            self.send_header("Content-Encoding", "gzip")
        super().end_headers()


@contextlib.contextmanager
def served(folder: Path, handler: type[Handler] = Handler) -> Iterator[str]:
    server = QuietServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder and the address of its server; pages are at `PLACE` in it."""
    folder = tmp_path_factory.mktemp("site")
    with served(folder) as address:
        yield folder / PLACE, address + PLACE


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """`visit(address, **context)`: the page, opened; it must neither log an error nor ask anyone else for anything."""
    problems: list[str] = []
    contexts = []

    def open_page(address: str, *, loads: bool = True, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on("console", lambda message: problems.extend([message.text] * (loads and message.type == "error")))
        # Of the page, its worker and its service worker.
        context.on("request", lambda asked: problems.extend([asked.url] * (not asked.url.startswith(address))))
        page.goto(address)
        if loads:
            page.locator("#main").wait_for(state="visible")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


RUN = """async ({ prompt, settings, labels }) => {
  const { Engine } = await import("./engine.js");
  if (!window.mine) {
    window.mine = new Engine();
    await window.mine.run("open", {}, { progress() {} });
  }
  const all = [];
  const on = { tokens: (found) => all.push(...found) };
  const { end } = await window.mine.run("write", { prompt, settings, labels }, on);
  const [ids, logprobs, texts] = ["id", "logprob", "text"].map((name) => all.map((one) => one[name]));
  return { end, ids, logprobs, text: texts.join("") };
}"""
GREEDY = {"temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0, "repetition_penalty": 1, "seed": 0, "max_tokens": 24}


def written(page: Any, prompt: str, labels: list[int] | None = None, **settings: Any) -> dict[str, Any]:
    """What the page's own engine writes."""
    found: dict[str, Any] = page.evaluate(
        RUN, {"prompt": prompt, "settings": {**GREEDY, **settings}, "labels": labels or []}
    )
    return found


@pytest.fixture(scope="module")
def bpe() -> BpeTokenizer:
    return BpeTokenizer.train([STORY, "日本語 café 🙂 " * 9], 300)


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_of_every_shape(
    shape: str, site: tuple[Path, str], package: Path, visit: Callable[..., Any], bpe: BpeTokenizer
) -> None:
    made, name = random_bundle(bpe, **SHAPES[shape]), shape.replace(" ", "-")
    write(made, site[0] / name, "float32", onnxruntime_web=package)
    page, model = visit(f"{site[1]}{name}/"), language_model(made)
    # The last one is read in several pieces, and writing on makes room more than once.
    for prompt, tokens in (("Once upon", 24), ("", 24), ("日本語 café\r\n🙂", 24), ("the cat " * 120, 80)):
        expected = model.generate_results(prompt, greedy=True, max_new_tokens=tokens)[0]
        found = written(page, prompt, max_tokens=tokens)
        assert found["ids"] == expected.tokens, prompt
        assert found["text"] == expected.text
        np.testing.assert_allclose(found["logprobs"], expected.logprobs, atol=2e-4)
        assert found["end"] == expected.finish_reason
    penalised = model.generate_results("Once", greedy=True, max_new_tokens=40, repetition_penalty=1.3)[0]
    assert written(page, "Once", max_tokens=40, repetition_penalty=1.3)["ids"] == penalised.tokens


def greedy_by_onnxruntime(graph: Path, ids: list[int], count: int, end: int) -> list[int]:
    """By the exported file itself, without the page's slots."""
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    shapes = {entry.name: entry.shape for entry in session.get_inputs() if entry.name.startswith("past_key_values")}
    past = {name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in shapes.items()}
    found: list[int] = []
    for part in (ids[:-1], ids[-1:], *([] for _ in range(count - 1))):
        given = part or found[-1:]
        if not given:
            continue
        before = next(iter(past.values())).shape[2]
        feeds = {
            "input_ids": np.array([given], np.int64),
            "attention_mask": np.ones((1, before + len(given)), np.int64),
            "position_ids": np.arange(before, before + len(given))[None],
        }
        logits, new = session.run(["logits", "new"], {**feeds, **past})
        past = {name: np.concatenate([past[name], rows[None]], 2) for name, rows in zip(shapes, new, strict=True)}
        if given == ids[-1:] or found:
            found.append(int(logits[0, -1].argmax()))
            if found[-1] == end:
                return found[:-1]
    return found


def greedy_by_jslm(decoder: OnnxDecoder, ids: list[int], count: int, end: int) -> list[int]:
    cache, logits = decoder.prefill([ids], [len(ids)])
    found: list[int] = []
    while len(found) < count and (token := int(logits[0].argmax())) != end:
        found.append(token)
        cache, logits = decoder.step([token], cache, [len(ids) + len(found) - 1])
    return found


@pytest.mark.parametrize("dtype", ["int8", "int7", "float16"])
def test_tokens_of_rounded_weights_are_those_of_onnxruntime(
    dtype: str, site: tuple[Path, str], package: Path, visit: Callable[..., Any], bpe: BpeTokenizer, tmp_path: Path
) -> None:
    made = random_bundle(bpe, qk_norm=True, n_kv_heads=2)
    write(made, site[0] / dtype, dtype, onnxruntime_web=package)
    write_onnx(made, tmp_path / "onnx", dtype, opset=OPSET)
    page, opened = visit(f"{site[1]}{dtype}/"), OnnxDecoder(tmp_path / "onnx")
    for prompt in ("Once upon", "The cat didn't like", "日本語", "rain " * 30):
        found = written(page, prompt)["ids"]
        ids = [bpe.bos_id, *bpe.encode(prompt)]
        assert found == greedy_by_onnxruntime(site[0] / dtype / "model.onnx", ids, 24, bpe.eot_id)
        # The folder that --format onnx writes, with the same operators.
        assert found == greedy_by_jslm(opened, ids, 24, bpe.eot_id)


@pytest.fixture(scope="module")
def rewriter(site: tuple[Path, str], package: Path) -> tuple[LanguageModel, str]:
    """The model in Python, and the address of its page."""
    made = rewriting_bundle()
    write(made, site[0] / "rewriter", "float32", onnxruntime_web=package)
    return language_model(made), f"{site[1]}rewriter/"


SENTENCES = [
    *PAIRS,
    "  The ball was thrown by Tom.\t",
    "The ball was eaten by Ann.",
    "A cake was thrown by Tom",
    "The Übel was found.",
    "The\tball.",
    "   ",
    "Tom threw the ball.",
    "The dog was found by Ann. " * 5,
]
REWRITE = """async ({ sentences, labels }) => {
  const { Engine } = await import("./engine.js");
  if (!window.mine) {
    window.mine = new Engine();
    await window.mine.run("open", {}, { progress() {} });
  }
  const all = [];
  await window.mine.run("rewrite", { sentences, labels }, { rewrite: (found) => all.push(found) });
  return all;
}"""


@pytest.mark.parametrize("style", ["formal", "plain", ""])
def test_rewrites_are_those_of_python(
    style: str, rewriter: tuple[LanguageModel, str], visit: Callable[..., Any]
) -> None:
    model, address = rewriter
    conditions = {"style": style} if style else None
    expected = model.rewrite(SENTENCES, conditions=conditions)
    labels = [["formal", "plain"].index(style) if style else -1]
    found = visit(address).evaluate(REWRITE, {"sentences": SENTENCES, "labels": labels})
    # It has learned something, and it is not the same for both.
    assert [each.output for each in expected[:3]] == [both[style == "plain"] for both in PAIRS.values()]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours["source"], ours["output"], ours["changed"]) == (theirs.source, theirs.output, theirs.changed)
        if theirs.logprob is None:
            assert ours["confidence"] is None
        else:
            assert ours["confidence"] == pytest.approx(theirs.confidence, abs=2e-4)
        assert ours["reason"] == theirs.reason
    why = {each["source"]: each["reason"] for each in found}
    assert "has never seen 'Ü'" in why["The Übel was found."]
    assert why["The\tball."].startswith("'\\t' in it")
    assert "the context of this model is 96" in why["The dog was found by Ann. " * 5]


def test_rewriting_on_the_page(rewriter: tuple[LanguageModel, str], visit: Callable[..., Any]) -> None:
    page = visit(rewriter[1])
    assert page.title() == "rewriter"
    assert page.locator("#tab-rewrite").get_attribute("aria-selected") == "true"
    page.locator("#conditions select").select_option(label="plain")
    page.fill("#sentences", "The ball was thrown by Tom.\n\n<b>Übel</b>")
    page.keyboard.press("Control+Enter")
    page.get_by_text("2 rewritten in").wait_for()
    items = page.locator("#rewrites li")
    assert items.nth(0).locator(".target").text_content() == "Tom threw it!"
    assert items.nth(0).locator("del").count() >= 1
    assert "confidence" in items.nth(0).text_content()
    assert items.nth(1).locator(".target").text_content() == "<b>Übel</b>"
    assert "left as it is: the tokenizer has never seen" in items.nth(1).text_content()
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#rewrites b").count() == 0
    page.click("#tab-about")
    assert "onnxruntime-web" in page.locator("#panel-about").text_content()
    assert not page.locator("#conditions").is_visible()


@pytest.fixture(scope="module")
def writer(site: tuple[Path, str], package: Path) -> str:
    """The address of a page that writes much and never ends by itself soon."""
    tokenizer = CharTokenizer(HOSTILE + STORY)
    made = random_bundle(tokenizer, {"temperature": 0.7, "top_k": 40, "max_new_tokens": 50}, context_length=1024)
    write(made, site[0] / "writer", "int8", onnxruntime_web=package)
    return f"{site[1]}writer/"


def test_it_streams_shows_probabilities_and_stops(writer: str, visit: Callable[..., Any]) -> None:
    page = visit(writer)
    # As the run's [sample] says.
    assert [page.input_value(f"#{name}") for name in ("temperature", "top_k", "max_tokens")] == ["0.7", "40", "50"]
    assert not page.locator("#tab-rewrite").is_visible()
    page.locator("#max_tokens").fill("1000")
    page.fill("#prompt", "<b>bold</b>")
    page.keyboard.press("Control+Enter")
    page.locator("#output .token").nth(20).wait_for(state="attached")
    page.keyboard.press("Escape")
    page.get_by_text("; stopped.").wait_for()
    count = page.locator("#output .token").count()
    assert 20 < count < 1000
    assert page.locator("#output b").count() == 0
    page.locator("#output .token").nth(3).hover()
    assert page.locator("#tip tr").count() >= 5
    page.locator("#output").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#status").text_content().endswith(" %")
    page.click("#keep")
    assert page.input_value("#prompt") == page.locator("#output").text_content()
    # Every field has a name for those who cannot see it.
    unnamed = page.locator("input, textarea, select, button").evaluate_all(
        "all => all.filter(one => !(one.labels?.length || one.textContent.trim() || one.ariaLabel)).map(one => one.id)"
    )
    assert unnamed == []
    page.locator("#tab-write").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#panel-about").is_visible()


def test_a_seed_gives_its_text_again(writer: str, visit: Callable[..., Any]) -> None:
    page = visit(writer)
    texts = []
    for seed in ("7", "7", "8"):
        page.fill("#seed", seed)
        page.click("#write")
        page.get_by_text(f"Seed {seed}.").wait_for()
        texts.append(page.locator("#output").text_content())
    assert texts[0] == texts[1] != texts[2]
    # In a page opened anew too; what its engine writes is what was shown.
    settings: dict[str, Any] = {"temperature": 0.7, "top_k": 40, "seed": 7, "max_tokens": 50}
    assert written(visit(writer), "", **settings)["text"] == texts[0]
    page.fill("#seed", "")
    for _ in range(2):
        page.click("#again")
        page.get_by_text("a second").wait_for()
        page.locator("#write:enabled").wait_for()
        texts.append(page.locator("#output").text_content())
    assert texts[-1] != texts[-2]


def test_errors_are_told_and_work_goes_on(writer: str, visit: Callable[..., Any]) -> None:
    page = visit(writer)
    too_long = {1100: "the prompt is 1100 tokens, the context of this model is 1024", 20_000: "20000 characters"}
    for length, words in too_long.items():
        page.fill("#prompt", "a" * length)
        page.click("#write")
        page.locator("#problem", has_text=words).wait_for()
    page.fill("#prompt", "a")
    page.click("#write")
    page.get_by_text("50 tokens in").wait_for()
    assert page.locator("#problem").text_content() == ""


def test_it_opens_offline(writer: str, site: tuple[Path, str], visit: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copytree(site[0] / "writer", tmp_path / "away" / "page")
    with served(tmp_path / "away") as address:
        page = visit(f"{address}page/")
        page.click("#tab-about")
        page.get_by_text("opens without a network from now on").wait_for()
        before = written(page, "The cat")
    # The server is gone, and the network as well.
    page.context.set_offline(True)
    page.reload()
    page.locator("#main").wait_for(state="visible")
    assert written(page, "The cat") == before
    page.goto(f"{address}page/index.html")
    page.locator("#main").wait_for(state="visible")


WAITING = """async () => {
  const found = await navigator.serviceWorker.ready;
  while (!found.waiting) await new Promise((soon) => setTimeout(soon, 100));
}"""


def test_a_folder_exported_again_takes_its_place(
    writer: str, site: tuple[Path, str], package: Path, visit: Callable[..., Any], tmp_path: Path
) -> None:
    del writer
    shutil.copytree(site[0] / "writer", tmp_path / "page")
    with served(tmp_path) as address:
        page = visit(f"{address}page/")
        page.click("#tab-about")
        page.get_by_text("opens without a network from now on").wait_for()
        shutil.rmtree(tmp_path / "page")
        made = random_bundle(CharTokenizer("another alphabet"))
        write(made, tmp_path / "page", "int8", onnxruntime_web=package)
        context = page.context
        # What is new is fetched while the old page is open, and is there once it was closed.
        page.reload()
        page.evaluate(WAITING)
        page.close()
        page = context.new_page()
        page.goto(f"{address}page/")
        page.locator("#main").wait_for(state="visible")
        assert page.title() == "tiny"
        page.click("#tab-about")
        page.locator("#card", has_text=f"{made.tokenizer.vocab_size} (char)").wait_for()
        names = page.evaluate("caches.keys()")
        assert len(names) == 1


@pytest.mark.parametrize("damage", ["cut graph", "cut runtime", "no graph", "no runtime", "bad card", "empty graph"])
def test_a_folder_in_part_is_told_of(
    damage: str, writer: str, site: tuple[Path, str], visit: Callable[..., Any], tmp_path: Path
) -> None:
    del writer
    folder = tmp_path / "page"
    shutil.copytree(site[0] / "writer", folder)
    graph, binary = folder / "model.onnx", folder / "onnxruntime" / f"{runtime.BINARY}.gz"
    match damage:
        case "cut graph":
            graph.write_bytes(graph.read_bytes()[:-100])
        case "cut runtime":
            binary.write_bytes(binary.read_bytes()[:1_000_000])
        case "no graph":
            graph.unlink()
        case "no runtime":
            binary.unlink()
        case "bad card":
            (folder / "model.json").write_text("{")
        case "empty graph":
            graph.write_bytes(bytes(graph.stat().st_size))
    with served(tmp_path) as address:
        page = visit(f"{address}page/", loads=False)
        page.locator("#problem:not(:empty)").wait_for()
        said = page.locator("#problem").text_content()
        assert "\n" not in said
        assert said.endswith("copy the whole exported folder to the server again")
        assert not page.locator("#main").is_visible()


def test_a_host_may_unpack_on_the_way(writer: str, site: tuple[Path, str], visit: Callable[..., Any]) -> None:
    expected = written(visit(writer), "The cat")
    with served(site[0], Unpacking) as address:
        assert written(visit(f"{address}writer/"), "The cat") == expected


PAST_THE_EDGE = """() => [...document.querySelectorAll("body *")].filter(one => {
  const box = one.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 0.5 || box.left < -0.5) && !one.closest(".skip");
}).map(one => `${one.tagName}.${one.className} ${one.textContent.slice(0, 40)}`)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(scheme: str, rewriter: tuple[LanguageModel, str], visit: Callable[..., Any]) -> None:
    size = {"width": 360, "height": 740}
    page = visit(rewriter[1], viewport=size, has_touch=True, is_mobile=True, color_scheme=scheme)
    page.fill("#sentences", "\n".join(["The ball was thrown by Tom.", "T" * 60]))
    page.locator("#rewrite").tap()
    page.get_by_text("2 rewritten in").wait_for()
    for tab in ("rewrite", "write", "about"):
        page.locator(f"#tab-{tab}").tap()
        if tab == "write":
            # A text that goes on: what is drawn first where there is none may be its end.
            page.fill("#prompt", "The ball was")
            page.locator("#write").tap()
            page.get_by_text("tokens in").wait_for()
            page.locator("#output .token").first.tap()
            assert page.locator("#tip").is_visible()
        assert page.evaluate(PAST_THE_EDGE) == []
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        # What a finger has to meet is large enough for one.
        heights = page.locator("button:visible").evaluate_all("all => all.map(one => one.offsetHeight)")
        assert min(heights) >= 40
    reds = (
        """["color", "backgroundColor"].map((name) => Number(getComputedStyle(document.body)[name].match(/\\d+/)[0]))"""
    )
    ink, paper = page.evaluate(reds)
    assert (ink < paper) is (scheme == "light")


def test_the_folder_is_small(site: tuple[Path, str], package: Path, tmp_path: Path) -> None:
    """3.6M parameters: 3.8 MB of graph, and 8 MB together as a server sends them, gzipped."""
    del site
    tokenizer = CharTokenizer("".join(map(chr, range(32, 127))) + "\n")
    made = random_bundle(tokenizer, n_layers=8, d_model=192, d_ff=512, context_length=320, qk_norm=True)
    write(made, tmp_path / "page", "int8", onnxruntime_web=package)
    files = [path for path in (tmp_path / "page").rglob("*") if path.is_file()]
    assert (tmp_path / "page" / "model.onnx").stat().st_size <= 3.8e6
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) < 8e6
