"""Fine-tuning on conversations: the presets at reduced size, and a model that learned to answer."""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jslm.config import Config, config_from_dict, load_config
from jslm.corpora.chat_examples import generate_examples
from jslm.errors import JslmError
from jslm.evaluate.text_loss import split_loss
from jslm.formats import export_model, import_model, load_model
from jslm.infer import Chat, LanguageModel, load
from jslm.prepare import prepare
from jslm.prompts.chat import BUILT_IN
from jslm.runs.checkpoint import CheckpointStore
from jslm.sample.__main__ import main as sample
from jslm.tokens import open_tokens
from jslm.train import train

ROOT = Path(__file__).resolve().parents[2]
CHATML = ["<|im_start|>", "<|im_end|>"]
SMALL = [
    "model.n_layers=1",
    "model.d_model=16",
    "model.n_heads=2",
    "model.d_ff=16",
    "model.context_length=256",
    "model.dtype=float32",
    "optimizer.warmup_steps=2",
    "train.steps=6",
    "train.batch_size=4",
    "train.micro_batch=2",
    "train.eval_every=3",
    "train.log_every=1",
    "train.tensorboard=false",
    "train.report=false",
    "sample.max_new_tokens=4",
]
PRESETS = {"lillm_39m_sft": ["model.n_kv_heads=1", "tokenizer.vocab_size=300"], "gpt2_chat": []}


def write_chat(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_train_and_resume_exactly(
    preset: str, tmp_path: Path, text_file: Path, helpers: Any, request: pytest.FixtureRequest
) -> None:
    if preset == "gpt2_chat":
        cache = request.getfixturevalue("assets") / "tiktoken_cache"
        request.getfixturevalue("monkeypatch").setenv("TIKTOKEN_CACHE_DIR", str(cache))
    source = write_chat(tmp_path / "chat.jsonl", [example.record() for example in generate_examples(60)])
    text = ["objective=text", "init_from="]
    base_only = [*(f"train.{item}" for item in text), "data.messages=", "data.packing=windows", "tokenizer.path="]
    file, common = ROOT / "configs" / f"{preset}.toml", [*SMALL, *PRESETS[preset]]
    base = tmp_path / "base"
    places = [f"run_dir={base}", f"data.dir={tmp_path / 'text'}", f"data.source={text_file}"]
    train(load_config(file, [*common, *base_only, *places]))
    places = [f"data.dir={tmp_path / 'chat'}", f"data.source={source}", f"train.init_from={base}"]
    if preset == "lillm_39m_sft":
        places.append(f"tokenizer.path={base / 'tokenizer.json'}")

    def config(name: str) -> Config:
        return load_config(file, [*common, *places, f"run_dir={tmp_path / name}"])

    assert config("whole").train.objective == "sft"
    train(config("whole"))
    assert (tmp_path / "whole" / "chat_template.jinja").read_text("utf-8") == BUILT_IN["plain"]
    # As it was when it was killed after the checkpoint at step 3.
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    store = CheckpointStore(tmp_path / "resumed" / "checkpoints")
    assert store.steps() == [3, 6]
    shutil.rmtree(store.path(6))
    train(config("resumed"))
    helpers.assert_same_arrays(
        helpers.read_checkpoint(tmp_path / "resumed"), helpers.read_checkpoint(tmp_path / "whole")
    )
    changed = helpers.read_checkpoint(tmp_path / "whole")
    assert any(changed[name].tobytes() != array.tobytes() for name, array in helpers.read_checkpoint(base).items())


WORDS = ["cat", "dog", "sun", "ten"]


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned to repeat a word, and then to say it again."""
    folder = tmp_path_factory.mktemp("talker")
    choice = random.Random(0)
    records = []
    for _ in range(200):
        first, second = choice.choice(WORDS), choice.choice(WORDS)
        turns = [("user", first), ("assistant", first * 2), ("user", second), ("assistant", second * 2)]
        records.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    source = write_chat(folder / "chat.jsonl", records)
    values: dict[str, Any] = {
        "run_dir": str(folder / "run"),
        "data": {"source": str(source), "messages": "messages", "chat_template": "chatml", "packing": "documents"},
        "tokenizer": {"kind": "char", "special_tokens": CHATML},
        "model": {"n_layers": 2, "d_model": 48, "n_heads": 2, "context_length": 64, "dtype": "float32"},
        "optimizer": {"name": "muon", "learning_rate": 0.01, "warmup_steps": 10},
        "train": {
            "objective": "sft", "steps": 150, "batch_size": 16, "eval_every": 150, "tensorboard": False,
            "report": False,
        },
        "sample": {"max_new_tokens": 12, "temperature": 0.0},
    }  # fmt: skip
    train(config_from_dict(values, "test"))
    return folder / "run"


@pytest.fixture(scope="module")
def model(talker: Path) -> LanguageModel:
    return load(talker)


def test_it_answers_and_stops(model: LanguageModel) -> None:
    messages = [{"role": "user", "content": "dog"}]
    assert "".join(model.stream_chat(messages)) == "dogdog"
    messages += [{"role": "assistant", "content": "dogdog"}, {"role": "user", "content": "sun"}]
    assert "".join(model.stream_chat(messages)) == "sunsun"
    with pytest.raises(JslmError, match=r"the conversation is 1[0-9]+ tokens, the context of this model is 64"):
        model.stream_chat([{"role": "user", "content": "cat" * 40}])


def test_the_loss_is_that_of_the_answers(model: LanguageModel, talker: Path) -> None:
    """Token by token, against logits of whole documents."""
    file = open_tokens(talker / "data", "val")
    assert file.learned is not None
    nats, count = 0.0, 0
    for start, stop in zip(file.offsets[:-1].astype(int), file.offsets[1:].astype(int), strict=True):
        ids, learned = file.tokens[start:stop].astype(int), file.learned[start:stop]
        logits = model.logits([model.tokenizer.bos_id, *ids[:-1].tolist()])[0].astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        nats -= sum(logprobs[place, ids[place]] for place in np.flatnonzero(learned))
        count += int(learned.sum())
    result = split_loss(model, talker / "data")
    assert (result.tokens, result.documents) == (count, 20)
    assert result.nats == pytest.approx(nats, rel=1e-4)
    # What the answers' characters are, without what ends them.
    assert result.characters == count - 2 * 20


def test_a_conversation_on_the_command_line(
    talker: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # More than the context holds: the oldest turns are forgotten.
    said = ["cat", "dog", "", "sun", "ten", "cat"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in said)))
    assert sample(["--run", str(talker), "--chat"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["catcat", "dogdog", "sunsun", "tenten", "catcat"]
    assert "(forgotten: the first 2 messages)" in err
    monkeypatch.setattr(sys, "stdin", io.StringIO("ten\n"))
    assert sample(["--run", str(talker), "--chat", "--json"]) == 0
    answered = {"role": "assistant", "content": "tenten"}
    assert json.loads(capsys.readouterr().out)["messages"] == [{"role": "user", "content": "ten"}, answered]
    assert sample(["--run", str(talker), "--chat", "--num-samples", "2"]) == 2
    assert "--num-samples has no meaning with --chat" in capsys.readouterr().err


def test_a_model_without_a_template_does_not_chat(
    talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(talker, tmp_path / "run")
    (tmp_path / "run" / "chat_template.jinja").unlink()
    monkeypatch.setattr(sys, "stdin", io.StringIO("ten\n"))
    assert sample(["--run", str(tmp_path / "run"), "--chat"]) == 2
    assert "this model has no chat template: it continues texts (jslm sample without --chat)" in capsys.readouterr().err


def test_the_template_travels(talker: Path, model: LanguageModel, tmp_path: Path) -> None:
    export_model(talker, tmp_path / "hf", format="hf")
    assert (tmp_path / "hf" / "chat_template.jinja").read_text("utf-8") == BUILT_IN["chatml"]
    import_model(tmp_path / "hf", tmp_path / "back")
    export_model(talker, tmp_path / "one.safetensors", format="safetensors")
    messages = [{"role": "user", "content": "dog <|im_end|>"}]
    wanted = Chat(model).prompt_ids(messages)
    for path in (tmp_path / "hf", tmp_path / "back", tmp_path / "one.safetensors"):
        assert load_model(path).chat_template == BUILT_IN["chatml"]
        assert Chat(load(path)).prompt_ids(messages) == wanted
    # The content is text, whatever it spells: the end of the turn is the template's alone.
    special = model.tokenizer.special_tokens
    assert [wanted.count(special[name]) for name in ("<|endoftext|>", *CHATML)] == [1, 2, 1]


def test_gguf_has_the_template(talker: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    export_model(talker, tmp_path / "one.gguf", format="gguf")
    field = gguf.GGUFReader(tmp_path / "one.gguf").fields["tokenizer.chat_template"]
    assert field.contents() == BUILT_IN["chatml"]


def test_the_server_reads_what_training_did(talker: Path, model: LanguageModel) -> None:
    pytest.importorskip("starlette")
    from jslm.serve import Limits
    from jslm.serve.models import open_models

    served = open_models([str(talker)], Limits())["run"]
    messages = [{"role": "user", "content": "dog"}]
    assert served.chat is not None
    assert served.chat.prompt_ids(messages) == Chat(model).prompt_ids(messages)
    assert served.chat.stops == ("<|im_end|>",)


def test_text_without_completions_is_refused(make_config: Callable[..., Config]) -> None:
    data = {"mixture": [{"dir": make_config("text").data_dir}], "source": "", "packing": "documents"}
    prepare(make_config("text", data={"packing": "documents"}), log=lambda message: None)
    with pytest.raises(JslmError, match=r"text/data: text without completions, and train\.objective = 'sft'"):
        train(make_config("run", data=data, train={"objective": "sft"}))


@pytest.mark.parametrize("exported", [False, True])
def test_a_later_run_keeps_the_template(
    make_config: Callable[..., Config], talker: Path, tmp_path: Path, exported: bool
) -> None:
    start = tmp_path / "one.safetensors" if exported else talker
    if exported:
        export_model(talker, start, format="safetensors")
    keys = {"n_layers": 2, "d_model": 48, "n_heads": 2, "d_ff": 0, "context_length": 64}
    values = make_config(
        "later",
        model=keys,
        tokenizer={"path": str(talker / "tokenizer.json")},
        train={"init_from": str(start), "steps": 1},
    )
    train(values)
    assert load_model(values.run_dir).chat_template == BUILT_IN["chatml"]
