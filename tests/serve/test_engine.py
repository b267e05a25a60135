from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.infer import LanguageModel
from jslm.infer import programs as step
from jslm.infer.request import TOP_TOKENS
from jslm.infer.state import piece_lengths
from jslm.serve.engine import Refused

PROMPTS = ["one", "", "another prompt", "x" * 40]
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"seed": 5},
    {"seed": 2**40 + 5, "temperature": 0.7, "top_k": 20},
    {"seed": 9, "top_p": 0.8, "min_p": 0.01, "repetition_penalty": 1.3},
    {"seed": 3, "stop": ("e", "\x00\x01")},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: ",".join(settings))
def test_equals_generate(bench: Any, bytes_model: LanguageModel, settings: dict[str, Any]) -> None:
    heard = bench.ask("bytes", PROMPTS, num_samples=2, max_new_tokens=30, **settings).wait()
    wanted = bytes_model.generate_results(PROMPTS, num_samples=2, max_new_tokens=30, **settings)
    assert [(h.text, [t.token for t in h.tokens], h.finish_reason) for h in heard] == [
        (w.text, w.tokens, w.finish_reason) for w in wanted
    ]
    for h, w in zip(heard, wanted, strict=True):
        assert [t.logprob for t in h.tokens] == pytest.approx(w.logprobs, abs=1e-4)
    assert len({h.text for h in heard}) >= 4, "texts that are alike would agree by chance"


def test_crossing_samples_of_all_settings_are_each_as_alone(bench: Any, bytes_model: LanguageModel) -> None:
    choice = random.Random(0)
    asked: list[tuple[Any, dict[str, Any]]] = []
    while len(asked) < 40:
        values = {**choice.choice(SETTINGS), "max_new_tokens": choice.randint(1, 40)}
        prompt = "".join(choice.choice("abc é") for _ in range(choice.randint(0, 10)))
        if bench.engine.stats()["bytes"].waiting >= 4:
            time.sleep(0.005)
            continue
        asked.append((bench.ask("bytes", [prompt], **values), {"prompt": prompt, **values}))
    for caller, values in asked:
        (heard,) = caller.wait()
        assert heard.text == bytes_model.generate(**values)
    bench.wait_until_free()


def test_numbers_are_the_same_bits_alone_and_in_a_crowd(bench: Any) -> None:
    def ask() -> Any:
        return bench.ask("bytes", ["the one"], seed=7, max_new_tokens=30, wants_top=True)

    (alone,) = ask().wait()
    crowd = [bench.ask("bytes", [f"{i}" * i], seed=i, top_k=9, presence_penalty=1.0) for i in range(1, 4)]
    (crowded,) = ask().wait()
    assert crowded.tokens == alone.tokens
    assert len(alone.tokens) > 5
    for caller in crowd:
        caller.wait()


def test_long_prompts_are_read_in_pieces(bench: Any, letters: LanguageModel) -> None:
    prompts = ["".join(random.Random(n).choices("abcdefgh", k=n)) for n in (127, 128, 129, 700, 1000)]
    heard = bench.ask("letters", prompts, seed=4, max_new_tokens=12).wait()
    assert [h.text for h in heard] == letters.generate(prompts, seed=4, max_new_tokens=12)
    assert len({h.text for h in heard}) >= 3


def test_running_samples_write_on_while_prompts_are_read(bench: Any, letters: LanguageModel) -> None:
    running = bench.ask("letters", [""], seed=0, max_new_tokens=1000)
    assert running.begun.wait(30)
    before = running.heard[0].pieces
    readers = bench.ask("letters", ["a" * 1000] * 3, seed=1, max_new_tokens=1)
    readers.wait()
    # 3,000 tokens of 256 a round: the running sample has written between them.
    assert running.heard[0].pieces >= before + 8
    (heard,) = running.wait()
    assert heard.text == letters.generate("", seed=0, max_new_tokens=1000)


def test_piece_lengths_cover_the_prompt_and_fit_the_context() -> None:
    for context in (2, 40, 100, 192, 1024):
        for tokens in range(1, context):
            pieces = piece_lengths(tokens, 128, context)
            assert sum(count for count, _ in pieces) == tokens
            start = 0
            for count, padded in pieces:
                assert count <= padded <= 128
                assert start + padded <= context
                start += count
    assert piece_lengths(300, 128, 1024) == [(128, 128), (128, 128), (44, 64)]


def test_presence_and_frequency_penalties_beside_a_naive_loop(bench: Any, bytes_model: LanguageModel) -> None:
    for presence, frequency in ((2.0, 0.0), (0.0, 1.5), (-1.0, 0.5)):
        values = {"presence_penalty": presence, "frequency_penalty": frequency}
        (heard,) = bench.ask("bytes", ["ab"], temperature=0.0, max_new_tokens=40, **values).wait()
        ids = [256, *b"ab"]
        written: list[int] = []
        while len(written) < 40:
            logits = bytes_model.logits(ids)[0, -1].copy()
            for token in set(written):
                logits[token] -= presence + frequency * written.count(token)
            token = int(logits.argmax())
            if token == 256:
                break
            ids.append(token)
            written.append(token)
        assert [t.token for t in heard.tokens] == written
    (plain,) = bench.ask("bytes", ["ab"], temperature=0.0, max_new_tokens=40).wait()
    assert [t.token for t in plain.tokens] != written


def test_scores_of_the_prompt_and_likeliest_tokens(bench: Any, bytes_model: LanguageModel) -> None:
    prompt = "a prompt to score"
    (heard,) = bench.ask(
        "bytes", [prompt], temperature=0.0, max_new_tokens=3, scores_prompt=True, wants_top=True
    ).wait()
    ids = [256, *prompt.encode()]
    logprobs = np.asarray(jax.nn.log_softmax(jnp.asarray(bytes_model.logits(ids)[0])))
    assert [t.token for t in heard.prompt_tokens] == ids[1:]
    assert [t.start for t in heard.prompt_tokens] == list(range(len(prompt)))
    wanted = [logprobs[i, token] for i, token in enumerate(ids[1:])]
    assert [t.logprob for t in heard.prompt_tokens] == pytest.approx(wanted, abs=1e-4)
    first = heard.tokens[0]
    assert [token for token, _ in first.top] == np.argsort(-logprobs[-1], kind="stable")[:TOP_TOKENS].tolist()
    assert [value for _, value in first.top] == pytest.approx(-np.sort(-logprobs[-1])[:TOP_TOKENS], abs=1e-4)


def test_a_sample_may_only_score(bench: Any) -> None:
    values = {"max_new_tokens": 1, "scores_prompt": True, "writes": False}
    (heard,) = bench.ask("bytes", ["some text"], **values).wait()
    assert (heard.text, heard.tokens, heard.finish_reason, len(heard.prompt_tokens)) == ("", [], "length", 9)
    (ids,) = bench.ask("bytes", [[5, 6, 7]], **values).wait()
    assert [t.logprob is None for t in ids.prompt_tokens] == [True, False, False]


def test_cancelling_frees_the_slot_within_a_dispatch(bench: Any) -> None:
    callers = [bench.ask("letters", [""], seed=n, max_new_tokens=1000) for n in range(4)]
    assert all(caller.begun.wait(30) for caller in callers)
    dispatches = bench.engine.stats()["letters"].dispatches
    for caller in callers:
        bench.engine.cancel(caller.job)
    bench.wait_until_free()
    assert bench.engine.stats()["letters"].dispatches <= dispatches + 2
    told = [caller.heard[0].pieces for caller in callers]
    bench.ask("letters", [""], max_new_tokens=20).wait()
    assert [caller.heard[0].pieces for caller in callers] == told


def test_a_waiting_job_can_be_cancelled(bench: Any) -> None:
    running = [bench.ask("letters", [""], seed=n, max_new_tokens=1000) for n in range(4)]
    waiting = bench.ask("letters", ["never"] * 6)
    bench.engine.cancel(waiting.job)
    for caller in running:
        bench.engine.cancel(caller.job)
    bench.wait_until_free()
    assert [heard.pieces for heard in waiting.heard] == [0] * 6


def test_queue_has_an_end(bench: Any) -> None:
    callers = [bench.ask("letters", [""] * 4, max_new_tokens=1000), bench.ask("letters", [""] * 8, max_new_tokens=1)]
    with pytest.raises(Refused, match="queue_full"):
        bench.ask("letters", [""] * 9)
    bench.engine.cancel(callers[0].job)
    callers[1].wait()


def test_small_jobs_do_not_wait_for_all_of_a_large_one(bench: Any) -> None:
    large = bench.ask("letters", [""] * 11, seed=1, max_new_tokens=300)
    small = bench.ask("letters", [""], seed=1, max_new_tokens=5)
    small.wait()
    assert sum(heard.finish_reason is None for heard in large.heard) >= 4
    large.wait()


def test_time_has_an_end(bench: Any) -> None:
    caller = bench.ask("letters", [""] * 6, max_new_tokens=1000, deadline=time.monotonic() + 0.05)
    assert {heard.failure for heard in caller.wait()} == {"timeout"}
    bench.wait_until_free()


def test_a_crash_ends_all_jobs(
    make_bench: Callable[..., Any], bytes_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench({"bytes": bytes_model})

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(step, "write", broken)
    caller = bench.ask("bytes", ["a"] * 5)
    assert [heard.failure for heard in caller.wait()] == ["stopped"] * 5
    assert (bench.engine.ready, bench.engine.status, str(bench.engine.failure)) == (False, "stopped", "out of memory")
    with pytest.raises(Refused, match="stopped"):
        bench.ask("bytes", ["a"])


def test_draining_finishes_what_is_there(make_bench: Callable[..., Any], bytes_model: LanguageModel) -> None:
    bench = make_bench({"bytes": bytes_model})
    caller = bench.ask("bytes", ["a"] * 5, seed=1, max_new_tokens=30)
    bench.engine.drain()
    with pytest.raises(Refused, match="draining"):
        bench.ask("bytes", ["a"])
    assert len({heard.text for heard in caller.wait()}) == 1
    bench.engine.stop()
    assert bench.engine.status == "stopped"


def test_a_model_that_diverged_fails_alone(make_bench: Callable[..., Any], bytes_model: LanguageModel) -> None:
    params = jax.tree.map(lambda leaf: leaf * jnp.nan, bytes_model.params)
    bad = LanguageModel(bytes_model.config, params, bytes_model.tokenizer)
    bench = make_bench({"bad": bad, "good": bytes_model})
    assert bench.ask("bad", ["a"]).wait()[0].failure == "not_finite"
    assert bench.ask("good", ["a"], max_new_tokens=5).wait()[0].failure is None
    bench.wait_until_free()


def test_jobs_from_many_threads(bench: Any, bytes_model: LanguageModel) -> None:
    wanted = [bytes_model.generate("abc", seed=n, max_new_tokens=15) for n in range(6)]
    found: dict[int, str] = {}

    def call(number: int) -> None:
        while True:
            try:
                found[number] = bench.ask("bytes", ["abc"], seed=number % 6, max_new_tokens=15).wait()[0].text
                return
            except Refused:
                time.sleep(0.01)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(24)] == [wanted[n % 6] for n in range(24)]
