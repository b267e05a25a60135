from __future__ import annotations

import copy
import functools
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jslm.infer.language_model as language_model
import jslm.infer.programs as programs
from jslm.config import ModelConfig
from jslm.errors import JslmError
from jslm.infer import LanguageModel, make_request
from jslm.model import Params, apply_decoder, logits_from_hidden
from jslm.tokenizer import ByteTokenizer, CharTokenizer

CONTEXT = 64
EOT = ByteTokenizer().eot_id
MakeModel = Callable[..., LanguageModel]


@functools.partial(jax.jit, static_argnames="config")
def full_forward(params: Params, tokens: jax.Array, config: ModelConfig) -> jax.Array:
    return logits_from_hidden(params, apply_decoder(params, tokens, config), config)


def next_logits(model: LanguageModel, ids: list[int]) -> np.ndarray:
    """Of the token after `ids`, by the whole forward pass without a cache."""
    padded = np.zeros((1, CONTEXT), np.int32)
    padded[0, : len(ids)] = ids
    return np.asarray(full_forward(model.params, jnp.asarray(padded), model.config.model))[0, len(ids) - 1]


def naive_greedy(model: LanguageModel, ids: list[int], count: int, window: bool = False) -> list[int]:
    written: list[int] = []
    ids = list(ids)
    while len(written) < count:
        if window and len(ids) >= CONTEXT:
            ids = ids[-(CONTEXT // 2) :]
        token = int(next_logits(model, ids).argmax())
        if token == EOT:
            break
        ids.append(token)
        written.append(token)
    return written


def start(text: str) -> list[int]:
    return [EOT, *text.encode()]


def test_prompts_are_read_as_the_training_data_was(model: LanguageModel) -> None:
    options = make_request(model.config.sample)
    assert model.row("\ufeffa\r\nb\rc ", 0, options).ids == start("a\nb\nc ")
    assert model.generate("a\r\nb", seed=3) == model.generate("a\nb", seed=3)
    data = model.config.data.model_copy(update={"cleaners": ["normalize"]})
    normalized = copy.copy(model)
    normalized.config = model.config.model_copy(update={"data": data})
    # Composed, without the zero-width space; what a prompt ends with stays.
    assert normalized.row("cafe\u0301\u200b\u00a0\n ", 0, options).ids == start("café \n ")
    assert model.row("cafe\u0301 ", 0, options).ids == start("cafe\u0301 ")


def test_greedy_is_the_argmax_of_the_full_forward(model: LanguageModel) -> None:
    (result,) = model.generate_results("Once upon", greedy=True)
    assert result.tokens == naive_greedy(model, start("Once upon"), 40)
    assert (len(result.tokens), result.finish_reason, result.prompt) == (40, "length", "Once upon")
    assert len(set(result.tokens)) > 10, "a sequence that hardly varies would agree by chance"


def test_ragged_batch_is_each_prompt_alone(model: LanguageModel) -> None:
    prompts = ["a", "a longer prompt", "", "four"]
    results = model.generate_results(prompts, greedy=True, max_new_tokens=20)
    assert [r.tokens for r in results] == [naive_greedy(model, start(p), 20) for p in prompts]


def test_temperature_zero_is_greedy(model: LanguageModel) -> None:
    assert model.generate("abc", temperature=0.0) == model.generate("abc", greedy=True, temperature=2.0)


@pytest.mark.parametrize("greedy", [False, True])
def test_logprobs_are_those_of_the_models_own_distribution(model: LanguageModel, greedy: bool) -> None:
    (result,) = model.generate_results("abc", temperature=1.7, top_k=50, greedy=greedy, max_new_tokens=12)
    ids = start("abc")
    for token, logprob in zip(result.tokens, result.logprobs, strict=True):
        assert logprob == pytest.approx(float(jax.nn.log_softmax(next_logits(model, ids))[token]), abs=1e-4)
        ids.append(token)


def test_seed_decides_the_text(model: LanguageModel) -> None:
    first = model.generate("abc", seed=7)
    assert first == model.generate("abc", seed=7)
    texts = {model.generate("abc", seed=seed) for seed in (7, 8, 2**40, 2**40 + 7, 2**63 - 1)}
    assert len(texts) == 5


def test_text_does_not_depend_on_its_neighbours(model: LanguageModel) -> None:
    options: dict[str, Any] = {"top_p": 0.9, "max_new_tokens": 20}
    alone = [model.generate(prompt, num_samples=2, seed=3, **options) for prompt in ("one", "another one")]
    together = model.generate(["one", "another one"], num_samples=3, seed=3, **options)
    assert [samples[:2] for samples in together] == alone
    assert len({*together[0], *together[1]}) == 6


def test_nothing_depends_on_its_neighbours_in_bfloat16(model: LanguageModel) -> None:
    """Where a rounding that another number of rows makes would be seen: to the last bit, and in long prompts too."""
    params = jax.tree.map(lambda leaf: 4 * leaf if leaf.ndim > 1 else leaf, model.params)
    narrow = LanguageModel(model.config, params, model.tokenizer, dtype=jnp.dtype(jnp.bfloat16))
    prompts = ["one", "another one", "a prompt of some more tokens than the others have"]
    together = narrow.generate_results(prompts, num_samples=3, seed=3, max_new_tokens=12)
    for number, prompt in enumerate(prompts):
        (alone,) = narrow.generate_results(prompt, seed=3, max_new_tokens=12)
        assert (alone.tokens, alone.logprobs) == (together[3 * number].tokens, together[3 * number].logprobs)


def test_text_does_not_depend_on_dispatches_or_batches(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model.generate(["one", "another one"], num_samples=2, seed=3)
    monkeypatch.setattr(language_model, "DISPATCH_TOKENS", 7)
    assert model.generate(["one", "another one"], num_samples=2, seed=3) == whole
    monkeypatch.setattr(language_model, "_BATCH_BYTES", 1)
    assert model.generate(["one", "another one"], num_samples=2, seed=3) == whole


def test_shapes_of_what_generate_returns(model: LanguageModel) -> None:
    def shape(value: Any) -> Any:
        return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__

    assert shape(model.generate("a", max_new_tokens=2)) == "str"
    assert shape(model.generate("a", num_samples=2, max_new_tokens=2)) == ["str"] * 2
    assert shape(model.generate(["a", "b"], max_new_tokens=2)) == ["str"] * 2
    assert shape(model.generate(("a",), max_new_tokens=2)) == ["str"]
    assert shape(model.generate(["a", "b"], num_samples=3, max_new_tokens=2)) == [["str"] * 3] * 2
    assert model.generate([], max_new_tokens=2) == []


def test_end_of_text_ends_a_row_and_not_its_neighbours(ending: LanguageModel) -> None:
    results = ending.generate_results("abc", num_samples=24, max_new_tokens=60)
    reasons = {result.finish_reason for result in results}
    assert reasons == {"stop", "length"}, "choose another end_of_text in conftest"
    for result in results:
        assert (result.finish_reason == "length") == (len(result.tokens) == 60)
        assert EOT not in result.tokens
        assert result.text == bytes(result.tokens).decode()
        assert result.text.isalpha() or not result.text
    assert ending.generate("abc", num_samples=2, max_new_tokens=60) == [result.text for result in results[:2]]


def test_stop_strings(letters: LanguageModel) -> None:
    whole = str(letters.generate("abc"))
    for stop in (whole[17:20], [whole[30:32], whole[17:20]], [whole[:1]], ["not there"]):
        ends = [at for text in ([stop] if isinstance(stop, str) else stop) if (at := whole.find(text)) >= 0]
        expected = whole[: min(ends, default=len(whole))]
        (result,) = letters.generate_results("abc", stop=stop)
        assert (result.text, result.finish_reason) == (expected, "stop" if ends else "length")
        pieces = list(letters.stream("abc", stop=stop))
        assert "".join(pieces) == expected
        assert "" not in pieces


@pytest.mark.parametrize("sliding_window", [False, True])
def test_stream_joins_to_what_generate_returns(model: LanguageModel, sliding_window: bool) -> None:
    options: dict[str, Any] = {"seed": 5, "top_k": 20, "max_new_tokens": 100, "sliding_window": sliding_window}
    pieces = list(model.stream("abc", **options))
    assert "".join(pieces) == model.generate("abc", **options)
    assert len(pieces) > 2


def test_stream_can_be_left_early(letters: LanguageModel) -> None:
    stream = letters.stream("abc", max_new_tokens=60)
    first = next(stream)
    assert 0 < len(first) < 60
    assert str(letters.generate("abc", max_new_tokens=60)).startswith(first)


@pytest.mark.parametrize("position", ["rope", "learned"])
def test_sliding_window_goes_on_past_the_context(make_model: MakeModel, position: str) -> None:
    model = make_model(position=position)
    prompts = ["abc", "a longer prompt"]
    inside = model.generate_results(prompts, greedy=True, max_new_tokens=40)
    past = model.generate_results(prompts, greedy=True, max_new_tokens=140, sliding_window=True)
    for prompt, short, long in zip(prompts, inside, past, strict=True):
        assert len(long.tokens) == 140
        assert long.tokens[:40] == short.tokens
        assert long.tokens == naive_greedy(model, start(prompt), 140, window=True)


def test_sliding_window_takes_a_prompt_longer_than_the_context(model: LanguageModel) -> None:
    prompt = "x" * 50 + "a prompt of more than the context" + "y" * 50
    (result,) = model.generate_results(prompt, greedy=True, max_new_tokens=10, sliding_window=True)
    assert result.tokens == naive_greedy(model, list(prompt.encode()), 10, window=True)


def test_prompt_that_fills_the_context_is_an_error(model: LanguageModel) -> None:
    (result,) = model.generate_results("x" * 63, greedy=True, max_new_tokens=1)
    assert result.tokens == naive_greedy(model, [120] * 63, 1), "no room for the token that starts a document"
    for generate in (model.generate, model.stream):
        with pytest.raises(
            JslmError, match="prompt is 64 tokens, the context of this model is 64; shorten it or use sl"
        ):
            generate("x" * 64)


def test_full_context_ends_the_sample_with_one_warning(make_model: MakeModel, caplog: pytest.LogCaptureFixture) -> None:
    model = make_model()
    with caplog.at_level(logging.WARNING, "jslm"):
        results = model.generate_results(["abc", "x" * 50], greedy=True, max_new_tokens=1000)
        model.generate("abc", greedy=True, max_new_tokens=1000)
    assert [len(result.tokens) for result in results] == [CONTEXT - 4, CONTEXT - 51]
    assert [result.finish_reason for result in results] == ["length"] * 2
    assert [record.getMessage() for record in caplog.records] == [
        "the context of 64 tokens was full after 60 new tokens, before max_new_tokens = 1000; "
        "sliding_window=True writes on"
    ]
    # Where a verb has no way past the context, none is named.
    caplog.clear()
    model = make_model()
    model.sliding_name = ""
    with caplog.at_level(logging.WARNING, "jslm"):
        model.generate("abc", greedy=True, max_new_tokens=1000)
    assert [record.getMessage() for record in caplog.records] == [
        "the context of 64 tokens was full after 60 new tokens, before max_new_tokens = 1000"
    ]
    with pytest.raises(JslmError, match=r"; shorten it$"):
        model.generate("x" * 64)


def test_context_of_one_token_is_an_error(make_model: MakeModel) -> None:
    tiny = make_model(context_length=1)
    with pytest.raises(JslmError, match="context of this model is 1"):
        tiny.generate("", greedy=True)
    with pytest.raises(JslmError, match="context of this model is 1"):
        tiny.generate("a", greedy=True, sliding_window=True)


def test_what_a_prompt_begins_with(make_model: MakeModel) -> None:
    with_ends, without = make_model(), make_model(ends_documents=False)

    def written(model: LanguageModel, prompt: str, **options: Any) -> list[int]:
        return model.generate_results(prompt, greedy=True, max_new_tokens=5, **options)[0].tokens

    def naive(ids: list[int]) -> list[int]:
        return naive_greedy(with_ends, ids, 5)

    assert written(with_ends, "") == naive([EOT])
    assert written(with_ends, "ab") == naive([EOT, 97, 98])
    assert written(with_ends, "ab", document_start=False) == naive([97, 98])
    assert written(without, "ab") == naive([97, 98])
    assert written(without, "") == naive([ord("\n")])
    assert len({tuple(naive(ids)) for ids in ([EOT], [97, 98], [EOT, 97, 98], [10])}) == 4


def test_empty_prompt_where_the_alphabet_has_no_line_break(make_model: MakeModel) -> None:
    model = make_model(CharTokenizer("ab"), ends_documents=False)
    expected = int(np.argmax(model.logits([0])[0, 0]))
    (result,) = model.generate_results("", greedy=True, max_new_tokens=1)
    assert result.tokens == ([expected] if expected else [])


def test_unknown_characters_are_named(make_model: MakeModel, caplog: pytest.LogCaptureFixture) -> None:
    model = make_model(CharTokenizer("ab"))
    with caplog.at_level(logging.WARNING, "jslm"):
        model.generate("ab☃é", max_new_tokens=2, num_samples=2)
        model.generate("ab", max_new_tokens=2)
    assert [record.getMessage() for record in caplog.records] == [
        "prompt: the tokenizer has never seen 'é', '☃'; the model reads an unknown character there"
    ]


def test_repetition_penalty_is_over_prompt_and_written_tokens(model: LanguageModel) -> None:
    penalty = 1.8
    prompts = ["abc", "a longer prompt"]
    results = model.generate_results(prompts, greedy=True, repetition_penalty=penalty, max_new_tokens=25)
    for prompt, result in zip(prompts, results, strict=True):
        ids = start(prompt)
        for token in result.tokens:
            logits = next_logits(model, ids)
            for seen in set(ids[1:]):
                logits = logits.copy()
                logits[seen] = logits[seen] / penalty if logits[seen] > 0 else logits[seen] * penalty
            assert token == logits.argmax()
            ids.append(token)
    assert results[0].tokens != model.generate_results(prompts[0], greedy=True, max_new_tokens=25)[0].tokens


def test_defaults_are_those_of_the_config(model: LanguageModel) -> None:
    (result,) = model.generate_results("abc")
    assert len(result.tokens) == model.config.sample.max_new_tokens == 40
    assert result.text == model.generate("abc", temperature=1.0)


def test_logits(model: LanguageModel) -> None:
    ids = np.random.default_rng(0).integers(0, 257, (3, 11))
    logits = model.logits(ids)
    assert logits.shape == (3, 11, 257)
    assert logits.dtype == np.float32
    for row, row_ids in zip(logits, ids.tolist(), strict=True):
        np.testing.assert_allclose(row[-1], next_logits(model, row_ids), atol=1e-4)
        np.testing.assert_allclose(row[4], next_logits(model, row_ids[:5]), atol=1e-4)
    np.testing.assert_allclose(model.logits(ids[0].tolist())[0], logits[0], atol=1e-5)
    assert model.logits([[1] * CONTEXT]).shape == (1, CONTEXT, 257)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "expected integers of shape"),
        ([1.5], "expected integers of shape"),
        ([[[1]]], "expected integers of shape"),
        ([[1], [1, 2]], "rows of different lengths"),
        ([0, 257], "from 0 to 257; this model's vocabulary is 0 to 256"),
        ([-1], "from -1 to -1"),
        ([1] * 65, "65 tokens, the context of this model is 64"),
    ],
)
def test_logits_refuses(model: LanguageModel, ids: Any, message: str) -> None:
    with pytest.raises(JslmError, match=message):
        model.logits(ids)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("num_samples", 0),
        ("max_new_tokens", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("stop", ["x", ""]),
    ],
)
def test_impossible_options_are_named(model: LanguageModel, option: str, value: Any) -> None:
    for generate in (model.generate, model.stream):
        with pytest.raises(JslmError, match=rf"^{option} = .*; expected "):
            generate("abc", **{option: value})


def test_stream_writes_one_sample(model: LanguageModel) -> None:
    with pytest.raises(JslmError, match="num_samples = 2; stream writes one sample"):
        model.stream("abc", num_samples=2)


def test_half_precision_casts_weights_once_and_keeps_norms(make_model: MakeModel) -> None:
    model = make_model(dtype="bfloat16")
    types = {jax.tree_util.keystr(path): leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(model.params)}
    norms = {name for name in types if "norm" in name}
    assert norms
    assert {name for name, dtype in types.items() if dtype == jnp.float32} == norms
    (result,) = model.generate_results("abc", greedy=True, max_new_tokens=20)
    assert len(result.tokens) == 20
    assert np.all(np.isfinite(result.logprobs))
    assert model.logits([1, 2]).dtype == np.float32


def test_diverged_parameters_are_an_error_not_noise(make_model: MakeModel) -> None:
    made = make_model()
    params = {**made.params, "final_norm": {"scale": made.params["final_norm"]["scale"] * jnp.nan}}
    broken = LanguageModel(made.config, params, ByteTokenizer())
    with pytest.raises(JslmError, match="logits are not finite"):
        broken.generate("abc", greedy=True)


def test_tokenizer_of_another_size_is_refused(model: LanguageModel) -> None:
    with pytest.raises(JslmError, match=r"model\.vocab_size = 257, but the tokenizer has 4 entries"):
        LanguageModel(model.config, model.params, CharTokenizer("ab"))


def test_one_program_serves_prompts_and_limits_of_many_lengths(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.generate("abc", max_new_tokens=5)

    def traced(*arguments: Any, **options: Any) -> None:
        raise AssertionError("compiled anew")

    monkeypatch.setattr(programs, "apply_cached", traced)
    for prompt, count in (("", 1), ("abcdef", 9), ("x" * 15, 40)):
        model.generate(prompt, max_new_tokens=count, seed=count, temperature=0.5 + count)
    with pytest.raises(AssertionError, match="compiled anew"):
        model.generate(["abc"] * 5, max_new_tokens=1)


def test_speed_counts_decoding(make_model: MakeModel) -> None:
    model = make_model()
    model.generate("abc", max_new_tokens=9, greedy=True, num_samples=2)
    assert model.decode_tokens == 18
    assert 0 < model.decode_seconds < 5


_ON_A_MESH = """
import jax
from jslm.config import config_from_dict
from jslm.model import init_params, param_axes
from jslm.parallel import make_mesh, tree_shardings
from jslm.infer import LanguageModel
from jslm.tokenizer import ByteTokenizer

shape = {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 16, "context_length": 32, "vocab_size": 257}
config = config_from_dict({"model": {**shape, "init_std": 0.5}, "mesh": {"data": 2, "fsdp": 2}}, "test")
params = jax.jit(lambda: init_params(config.model, jax.random.key(0)))()

def outputs(params):
    model = LanguageModel(config, params, ByteTokenizer())
    options = {"repetition_penalty": 1.1, "max_new_tokens": 9}
    return model.generate(["a", "bcd"], **options), "".join(model.stream("a")), model.logits([1, 2]).tobytes()

expected = outputs(params)
mesh = make_mesh(config.mesh)
with jax.set_mesh(mesh):
    assert outputs(jax.device_put(params, tree_shardings(mesh, param_axes(config.model)))) == expected
"""


@pytest.mark.multidevice
def test_parameters_on_a_mesh_of_several_devices() -> None:
    """As during training: the parameters are sharded and the mesh is set."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _ON_A_MESH],
        capture_output=True,
        text=True,
        cwd=root,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_penalties_of_openai_are_over_the_continuation(model: LanguageModel) -> None:
    """By hand: presence once, frequency each time, taken from the logits of what was written, not of the prompt."""
    values: dict[str, Any] = {"presence_penalty": 1.5, "frequency_penalty": 0.75}
    (result,) = model.generate_results("abab", greedy=True, max_new_tokens=30, **values)
    ids, counts = [256, *b"abab"], np.zeros(257)
    for token in result.tokens:
        logits = model.logits(ids)[0, -1] - 1.5 * (counts > 0) - 0.75 * counts
        assert token == logits.argmax()
        ids.append(token)
        counts[token] += 1
    assert result.tokens != model.generate_results("abab", greedy=True, max_new_tokens=30)[0].tokens


def test_penalties_hold_where_the_context_is_read_anew(letters: LanguageModel) -> None:
    """The counts of what was written stay, also of what the context has lost."""
    values: dict[str, Any] = {"greedy": True, "sliding_window": True, "max_new_tokens": 150, "frequency_penalty": 3.0}
    (result,) = letters.generate_results("a", **values)
    ids, counts, start = [256, ord("a")], np.zeros(257), 0
    for token in result.tokens:
        if len(ids) - start >= 64:
            start = len(ids) - 32
        assert token == (letters.logits(ids[start:])[0, -1] - 3.0 * counts).argmax()
        ids.append(token)
        counts[token] += 1
    assert counts.max() >= 5, "none would have been lost"


def test_likeliest_tokens_are_told(model: LanguageModel) -> None:
    results = model.generate_results(["ab", "cde"], greedy=True, max_new_tokens=5, top_logprobs=3)
    for prompt, result in zip((b"ab", b"cde"), results, strict=True):
        assert len(result.top_logprobs) == len(result.tokens) == 5
        for place, (token, logprob, top) in enumerate(
            zip(result.tokens, result.logprobs, result.top_logprobs, strict=True)
        ):
            logits = model.logits([256, *prompt, *result.tokens[:place]])[0, -1].astype(np.float64)
            wanted = logits - np.log(np.exp(logits).sum())
            assert [each for each, _ in top] == np.argsort(-wanted, kind="stable")[:3].tolist()
            assert [value for _, value in top] == pytest.approx(np.sort(-wanted)[:3] * -1, abs=1e-4)
            assert top[0][0] == token
            assert top[0][1] == pytest.approx(logprob, abs=1e-6)
    assert model.generate_results("ab", greedy=True, max_new_tokens=5)[0].top_logprobs == []
