"""A run folder as a `Bundle`, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jslm.config import Config, config_from_dict, state_difference
from jslm.errors import JslmError
from jslm.files import whole_folder, write_text
from jslm.model import count_parameters, merge_adapters, param_shapes
from jslm.prompts.chat import model_template
from jslm.runs.bundle import Bundle
from jslm.runs.checkpoint import CheckpointStore, check_params
from jslm.runs.folder import RunFolder, resolve_checkpoint
from jslm.runs.samples import read_samples
from jslm.tokenizer import load_tokenizer

# Figures of `run.json` that a model card or a header repeats.
_FIGURES = ("val/loss", "val/perplexity", "val/bits_per_byte", "val/tokens", "tokens_seen", "train_seconds")
_DPO_FIGURES = ("val/accuracy", "val/margin", "val/pairs", "tokens_seen", "train_seconds")


def read_run(path: Path, *, checkpoint: str = "best", ema: bool | None = None) -> Bundle:
    """The model of a run folder; the arrays are on this process's first device. Raises
    JslmError where it is damaged or has no such checkpoint."""
    folder = RunFolder(path)
    config = folder.read_config()
    tokenizer = load_tokenizer(folder.tokenizer)
    store, step = open_checkpoint(folder, str(checkpoint))
    metadata = store.metadata(step)
    found = metadata.get("tokenizer_fingerprint")
    if found != tokenizer.fingerprint:
        raise JslmError(
            f"{folder.tokenizer}: tokenizer {tokenizer.fingerprint}, but {store.path(step)} was trained with {found}; "
            "put back the tokenizer.json that training wrote"
        )
    _check_config(folder, config, store.path(step), metadata)
    info = folder.read_info()
    is_imported = info.get("status", "imported" if metadata.get("imported") else "") == "imported"
    # An imported model is one set of weights, whatever its training averaged.
    averaged = config.train.ema_decay > 0 and not is_imported if ema is None else ema
    params = store.load_part(step, "ema" if averaged else "params")
    if config.train.lora.rank and not is_imported:
        params = merge_adapters(store.load_part(step, "base"), params, config.train.lora)
    check_params(params, param_shapes(config.model), str(store.path(step)), str(folder.config))
    return Bundle(
        config,
        params,
        tokenizer,
        ends_documents=_ends_documents(info, metadata, config),
        figures={**_figures(info, step, metadata), **_sample(folder, step)},
        source=str(path),
        chat_template=_read_template(folder, metadata),
    )


def open_checkpoint(folder: RunFolder, asked: str = "best") -> tuple[CheckpointStore, int]:
    """The run's checkpoints, verified, and the step among them that `asked` names: "best", "latest" or a number.

    Damaged ones are named and set aside, and the best or latest of the others is taken. Raises JslmError where none is
    whole, there is none, or the one that is asked for by number is damaged or not there.
    """
    store = CheckpointStore(folder.checkpoints)
    steps = store.steps()
    if asked.isdigit() and int(asked) in steps:
        # No other will do, and none needs to be read.
        store.verify(int(asked))
        return store, int(asked)
    whole = store.whole_steps()
    return store, resolve_checkpoint(whole, store.best_step(whole), asked, folder.path)


def write_run(bundle: Bundle, path: Path) -> None:
    """Writes a run folder that sampling, training (`train.init_from`) and exporting take: the whole, or nothing.

    Raises JslmError where `path` exists and is not empty, or cannot be written.
    """
    model = bundle.config.model
    check_params(bundle.params, param_shapes(model), bundle.source, "its own config")
    values = bundle.config.model_dump()
    values["run_dir"] = str(path)
    values["tokenizer"]["path"] = str(RunFolder(path).tokenizer)
    config = Config.model_validate(values)
    with whole_folder(path) as temporary:
        folder = RunFolder(temporary)
        bundle.tokenizer.save(folder.tokenizer)
        folder.write_config(config)
        if bundle.chat_template:
            write_text(folder.chat_template, bundle.chat_template)
        folder.write_info(
            {
                "status": "imported",
                "source": bundle.source,
                "parameters": count_parameters(model),
                "data": {
                    "end_of_text": bundle.ends_documents,
                    "tokenizer": {
                        "kind": bundle.tokenizer.kind,
                        "fingerprint": bundle.tokenizer.fingerprint,
                        "vocab_size": bundle.tokenizer.vocab_size,
                    },
                },
                "result": dict(bundle.figures),
            }
        )
        store = CheckpointStore(folder.checkpoints)
        metadata = {
            "val_loss": bundle.figures.get("val/loss"),
            "imported": True,
            "end_of_text": bundle.ends_documents,
            "chat_template": bundle.chat_template,
            "config": config.model_dump(mode="json"),
            "tokenizer_fingerprint": bundle.tokenizer.fingerprint,
            "tokenizer": json.loads(bundle.tokenizer.to_json()),
        }
        store.save(0, {"params": bundle.params}, metadata)
        store.wait()


def _figures(info: dict[str, Any], step: int, metadata: dict[str, Any]) -> dict[str, Any]:
    """What is known of this checkpoint: a run's figures are those of its last step."""
    result = info.get("result") if isinstance(info.get("result"), dict) else {}
    assert isinstance(result, dict)
    if info.get("status") == "imported":
        return dict(result)
    # The loss of preferences is none of text.
    is_dpo = info.get("objective") == "dpo"
    if result.get("step") == step:
        known = {name: result[name] for name in (_DPO_FIGURES if is_dpo else _FIGURES) if result.get(name) is not None}
    elif is_dpo:
        known = {}
    else:
        loss = metadata.get("val_loss")
        known = {} if loss is None else {"val/loss": loss}
    return {"steps": step, **known} if step else known


def _sample(folder: RunFolder, step: int) -> dict[str, Any]:
    """The last text that the run wrote up to this checkpoint: (step, prompt, text), where it wrote one."""
    written = [sample for sample in read_samples(folder.samples) if sample[0] <= step and sample[2].strip()]
    latest = max((sample[0] for sample in written), default=0)
    return next(({"sample": list(sample)} for sample in written if sample[0] == latest), {})


def _ends_documents(info: dict[str, Any], metadata: dict[str, Any], config: Config) -> bool:
    """Whether the training data had end-of-text tokens: by `run.json`, the checkpoint, or what the config asked for."""
    data = info.get("data")
    if isinstance(data, dict) and isinstance(data.get("end_of_text"), bool):
        return bool(data["end_of_text"])
    if isinstance(metadata.get("end_of_text"), bool):
        return bool(metadata["end_of_text"])
    return config.data.end_of_text != "never"


def _check_config(folder: RunFolder, config: Config, checkpoint: Path, metadata: dict[str, Any]) -> None:
    """Raises JslmError where the run's config would make another model of the weights than the one it saved."""
    saved = metadata.get("config")
    if not saved:
        return
    trained = config_from_dict(saved, f"{checkpoint}: its config")
    if difference := state_difference(config, trained):
        key, found, expected = difference
        raise JslmError(
            f"{folder.config}: {key} = {found!r}, but {checkpoint} was saved with {expected!r}; put back the "
            "config.toml that training wrote"
        )


def _read_template(folder: RunFolder, metadata: dict[str, Any]) -> str:
    """The chat template of the run; none where its file was taken out. Raises JslmError where it is another one."""
    found = model_template(folder.path)
    expected = metadata.get("chat_template", "")
    if found and expected and found != expected:
        raise JslmError(
            f"{folder.chat_template}: edited or damaged: not the template that the model was trained with; put it back "
            "from a copy, or delete it, and the model continues texts"
        )
    return found
