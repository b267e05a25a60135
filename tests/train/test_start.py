"""What a run takes from the model of `train.init_from`, and what it may not say against it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jslm.config import ModelConfig, config_from_dict, config_to_toml, load_config, said_to_toml, start_differences
from jslm.config.meaning import FREE_FIELDS
from jslm.errors import JslmError
from jslm.formats import export_model, load_model, with_start
from jslm.prepare import prepare
from jslm.prompts.chat_templates import BUILT_IN
from jslm.runs.folder import RunFolder
from jslm.train import train

MODEL = {
    "n_layers": 1, "d_model": 16, "n_heads": 4, "n_kv_heads": 2, "d_ff": 16, "context_length": 16, "dtype": "float32",
    "norm_eps": 1e-6, "rope_theta": 5000.0, "logit_softcap": 30.0, "activation": "geglu", "qk_norm": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step, and the same model as one file."""
    run = tmp_path_factory.mktemp("start") / "base"
    values = {
        "run_dir": str(run),
        "data": {"source": str(text_file)},
        "tokenizer": {"kind": "bpe", "vocab_size": 4096},
        "model": MODEL,
        "train": {"steps": 1, "batch_size": 8, "eval_batches": 1, "tensorboard": False, "report": False},
        "sample": {"prompts": []},
    }
    assert train(config_from_dict(values, "test")).exit_status == 0
    export_model(run, run.parent / "base.safetensors", format="safetensors")
    return run


def tuned(start: Path, folder: Path, source: Path, **sections: Any) -> dict[str, Any]:
    """`train.init_from` and a data source: all that a fine-tuning config has to say."""
    return {
        "run_dir": str(folder / "tuned"),
        "data": {"source": str(source)},
        "train": {"init_from": str(start), "steps": 1, "batch_size": 8, "tensorboard": False, "report": False},
        **sections,
    }


@pytest.mark.parametrize("start", ["base", "base.safetensors"])
def test_a_start_and_a_source_are_enough(base: Path, tmp_path: Path, text_file: Path, start: str) -> None:
    config = config_from_dict(tuned(base.parent / start, tmp_path, text_file), "test")
    assert train(config).step == 1
    first, second = load_model(base), load_model(tmp_path / "tuned")
    assert second.config.model == first.config.model
    assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
    # It goes on without what it started from.
    values = tuned(tmp_path / "gone", tmp_path, text_file)
    values["train"]["steps"] = 2
    assert train(config_from_dict(values, "test")).step == 2


# Each of another meaning than MODEL's, though most have arrays of the same shapes.
OTHERS: dict[str, Any] = {
    "n_heads": 2, "norm_eps": 1e-5, "rope_theta": 10000.0, "logit_softcap": 0.0, "activation": "swiglu",
    "qk_norm": False, "position": "none", "tie_embeddings": False, "norm": "layernorm", "qkv_bias": True,
    "rope_scaling": {"kind": "yarn", "factor": 2.0}, "d_model": 32, "n_layers": 2,
}  # fmt: skip


@pytest.mark.parametrize("key", OTHERS)
def test_what_is_said_against_it_is_an_error(base: Path, tmp_path: Path, text_file: Path, key: str) -> None:
    config = config_from_dict(tuned(base, tmp_path, text_file, model={key: OTHERS[key]}), "test")
    with pytest.raises(
        JslmError, match=rf"train\.init_from = .*: model\.{key}.* there, and this config says"
    ) as caught:
        train(config)
    assert "\n" not in str(caught.value)
    # Before anything was prepared.
    assert not (tmp_path / "tuned" / "data").exists()


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ({"kind": "char"}, "tokenizer.kind is 'bpe' there, and this config says 'char'"),
        ({"vocab_size": 300}, "tokenizer.vocab_size is "),
        ({"special_tokens": ["<|x|>"]}, "tokenizer.special_tokens is "),
    ],
)
def test_another_tokenizer_is_an_error(
    base: Path, tmp_path: Path, text_file: Path, tokenizer: dict[str, Any], message: str
) -> None:
    with pytest.raises(JslmError) as caught:
        with_start(config_from_dict(tuned(base, tmp_path, text_file, tokenizer=tokenizer), "test"))
    assert message in str(caught.value)


def test_what_may_differ_is_what_the_list_says(base: Path, tmp_path: Path, text_file: Path) -> None:
    """Spelled-out defaults and what asked for it agree, and free fields are the config's where it says them."""
    model = {"head_dim": 4, "vocab_size": 0, "dropout": 0.3, "init_std": 0.5, "remat": "full", "context_length": 8}
    tokenizer = {"kind": "bpe", "vocab_size": 4096}
    values = tuned(base, tmp_path, text_file, model=model, tokenizer=tokenizer)
    found = with_start(config_from_dict(values, "test")).model
    assert (found.dropout, found.remat, found.context_length, found.norm_eps) == (0.3, "full", 8, 1e-6)
    # Whatever is added to the model from now on is compared, unless someone puts it on the list.
    assert set(ModelConfig.model_fields) >= FREE_FIELDS
    plain = ModelConfig()
    for name, other in {"position": "none", "rope_theta": 7.0, "head_dim": 32, "vocab_size": 9}.items():
        changed = plain.model_copy(update={name: other})
        key = "model.rope_scaling.kind" if name == "position" else f"model.{name}"
        assert (start_differences(changed, plain) == []) == (name == "vocab_size"), key
    learned = ModelConfig(position="learned")
    assert start_differences(learned.model_copy(update={"context_length": 512}), learned) == [
        ("model.context_length", 512, 256)
    ]
    assert start_differences(learned.model_copy(update={"rope_theta": 1.0}), learned) == []


def test_overrides_and_files_keep_what_was_said(base: Path, tmp_path: Path, text_file: Path) -> None:
    file = tmp_path / "tuned.toml"
    file.write_text(f'[data]\nsource = "{text_file}"\n[train]\ninit_from = "{base}"\n', "utf-8")
    config = load_config(file, [f"run_dir={tmp_path / 'run'}", "model.dropout=0.1"])
    assert config.model.model_fields_set == {"dropout"}
    whole = with_start(config)
    assert whole.model == load_model(base).config.model.model_copy(update={"dropout": 0.1})
    assert with_start(whole) == whole
    # As `--print-config` and a sweep's trials write it.
    file.write_text(said_to_toml(config), "utf-8")
    again = load_config(file)
    assert again.model.model_fields_set == {"dropout"}
    assert with_start(again) == whole
    file.write_text(config_to_toml(whole), "utf-8")
    assert load_config(file) == whole


def test_the_chat_template_is_that_of_the_start(base: Path, tmp_path: Path) -> None:
    start = tmp_path / "talker"
    start.symlink_to(base)
    source = tmp_path / "chat.jsonl"
    turn = '{"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]}\n'
    source.write_text(turn * 20, "utf-8")
    import shutil

    start.unlink()
    shutil.copytree(base, start)
    own = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}" + (
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    for template in (BUILT_IN["plain"], own):
        (start / "chat_template.jinja").write_text(template, "utf-8")
        folder = tmp_path / str(len(template))
        values = tuned(start, folder, source)
        values["data"] |= {"messages": "messages", "packing": "documents"}
        config = config_from_dict(values, "test")
        assert train(config).step == 1
        assert load_model(folder / "tuned").chat_template == template
        values["train"]["steps"] = 2
        assert train(config_from_dict(values, "test")).step == 2
        values["data"]["chat_template"] = "chatml"
        with pytest.raises(JslmError, match=r"data\.chat_template is .* there, and this config says 'chatml'"):
            prepare(config_from_dict(values | {"run_dir": str(folder / "other")}, "test"))


def test_a_sweep_over_fine_tuning_starts_from_the_model(
    base: Path, tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jslm.sweep import runner
    from jslm.sweep.space import grid_trials

    file = tmp_path / "tuned.toml"
    file.write_text(f'[data]\nsource = "{text_file}"\n[train]\ninit_from = "{base}"\nsteps = 1\n', "utf-8")
    seen = []

    def run_trial(command: list[str], _log: str) -> str:
        seen.append(with_start(load_config(command[-1]), writes=False))
        return "not trained here"

    monkeypatch.setattr(runner, "run_trial", run_trial)
    trials = grid_trials(["model.dropout=0.1,0.2"])
    runner.run_sweep(file, tmp_path / "sweep", trials, log=lambda _: None)
    assert [config.model.dropout for config in seen] == [0.1, 0.2]
    assert {config.model.rope_theta for config in seen} == {5000.0}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"mesh": {"data": 3}}, r"mesh\.data = 3, .* does not fit \d+ device"),
        ({"train": {"init_from": "nowhere"}}, "nowhere: no such run folder or model file"),
        ({"train": {"init_from": "BASE", "init_checkpoint": "7"}}, "no checkpoint '7'; there are best, latest, 1"),
        (
            {
                "train": {"init_from": "BASE", "lora": {"rank": 2, "targets": ["gate"]}},
                "model": {"activation": "geglu"},
            },
            "",
        ),
        ({"tokenizer": {"kind": "bpe", "vocab_size": 100}}, r"tokenizer\.vocab_size = 100 has no room"),
        ({"tokenizer": {"path": "no.json"}}, r"no\.json: no such file"),
    ],
)
def test_what_needs_no_data_is_checked_before_it_is_read(
    base: Path, tmp_path: Path, text_file: Path, sections: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Read(Exception):
        pass

    def read(*_args: Any, **_keys: Any) -> None:
        raise Read

    monkeypatch.setattr("jslm.prepare.pipeline.read_corpus", read)
    values: dict[str, Any] = {"run_dir": str(tmp_path / "run"), "data": {"source": str(text_file)}}
    for name, keys in sections.items():
        values[name] = {key: str(base) if value == "BASE" else value for key, value in keys.items()}
    config = config_from_dict(values, "test")
    if not message:
        with pytest.raises(Read):
            train(config)
        return
    with pytest.raises(JslmError, match=message):
        train(config)


def test_another_run_in_the_folder_is_seen_before_data_is_read(
    base: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_args: Any, **_keys: Any) -> None:
        raise AssertionError("data was prepared")

    monkeypatch.setattr("jslm.train.setup.open_prepared", read)
    values = RunFolder(base).read_config().model_dump()
    values["model"]["norm_eps"] = 1e-3
    with pytest.raises(JslmError, match=r"holds a run with model\.norm_eps = 1e-06, and this config has 0\.001"):
        train(config_from_dict(values, "test"))


def test_adapters_of_what_a_model_lacks(make_config: Callable[..., Any], base: Path) -> None:
    from jslm.train.checks import check_before_data

    config = make_config(
        model={"activation": "gelu"}, train={"init_from": str(base), "lora": {"rank": 2, "targets": ["gate"]}}
    )
    with pytest.raises(
        JslmError, match=r"train\.lora\.targets = \['gate'\].* has no gate, so nothing would be learned"
    ):
        check_before_data(config, RunFolder(config.run_dir))


def test_state_that_would_be_read_otherwise(
    base: Path, tmp_path: Path, text_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Adapters are merged by their alpha, which no array shows; free settings may change, which is said."""
    values = tuned(base, tmp_path, text_file)
    values["train"]["lora"] = {"rank": 2, "alpha": 4.0}
    train(config_from_dict(values, "test"))
    values["train"] |= {"steps": 2, "lora": {"rank": 2, "alpha": 8.0}}
    with pytest.raises(JslmError, match=r"holds a run with train\.lora\.alpha = 4\.0, and this config has 8\.0"):
        train(config_from_dict(values, "test"))
    values["train"]["lora"]["alpha"] = 4.0
    values["model"] = {"condition_dropout": 0.3}
    with caplog.at_level(logging.WARNING, "jslm"):
        assert train(config_from_dict(values, "test")).step == 2
    assert "model.condition_dropout" in caplog.text
    values["optimizer"] = {**values.get("optimizer", {}), "name": "muon", "muon_beta2": 0.95}
    values["run_dir"] = str(tmp_path / "muon")
    train(config_from_dict(values, "test"))
    values["optimizer"]["muon_beta2"] = 0.0
    with pytest.raises(JslmError, match=r"a run with optimizer\.muon_beta2 = 0\.95, and this config has 0\.0"):
        train(config_from_dict(values, "test"))
