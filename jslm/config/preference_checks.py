"""What does not go together with learning preferences."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jslm.config.data_schema import DataConfig
    from jslm.config.schema import Config


def check_preferences(config: Config) -> None:
    """Raises ValueError where `data.rejected` or `train.objective = "dpo"` lacks something or meets what spoils it."""
    if config.data.rejected:
        _check_records(config.data)
    if config.train.objective == "dpo":
        _check_dpo(config)


def _check_records(data: DataConfig) -> None:
    if not data.prompt_end:
        raise ValueError(
            f"data.rejected = {data.rejected!r} is the other answer to a prompt, and data.prompt_end is empty; set it "
            "to the text that ends the prompt in data.template, as in template = '{prompt}\\t{chosen}' and "
            "prompt_end = '\\t'"
        )
    changes = {"data.cleaners": bool(data.cleaners), "data.dedup's removal of lines": data.dedup.removes_lines}
    for key in (key for key, is_on in changes.items() if is_on):
        raise ValueError(f"{key} would change preferred answers alone, not those of data.rejected; leave it off")


def _check_dpo(config: Config) -> None:
    train = config.train
    if not train.init_from:
        raise ValueError(
            "train.objective = 'dpo' compares with the model that training starts from, and train.init_from is empty; "
            "name the run or the file to start from"
        )
    if config.data.sources and not config.data.rejected:
        raise ValueError(
            "train.objective = 'dpo' learns from pairs of answers, and data.rejected is empty; name the key of the "
            "answer that was not preferred, as in data.rejected = 'rejected'"
        )
    blurs = {
        "model.dropout": config.model.dropout,
        "model.attention_dropout": config.model.attention_dropout_rate,
        "train.z_loss": train.z_loss,
    }
    for key, value in blurs.items():
        if value:
            raise ValueError(f"{key} = {value} would blur what train.objective = 'dpo' compares; set it to 0")
    if train.curriculum:
        raise ValueError("train.curriculum would cut the pairs of train.objective = 'dpo' apart; leave it empty")
