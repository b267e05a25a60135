"""`train.objective = "distill"`: its section, and what does not go together with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from jslm.config.section import Positive, Section, from_list

if TYPE_CHECKING:
    from jslm.config.schema import Config


class DistillConfig(Section):
    """`objective = "distill"`: what a student learns from its teachers (Hinton et al. 2015)."""

    teachers: Annotated[tuple[str, ...], from_list] = Field(
        (),
        description="Run folders or model files with the data's tokenizer. Of several the mean of their probabilities "
        "is learned, which is better than each of them.",
    )
    checkpoint: str = Field("best", description="Which of the runs' checkpoints: `best`, `latest`, or a step.")
    weight: float = Field(
        0.9, gt=0.0, le=1.0, description="Share of the teachers in what is minimised; the rest is the text's own."
    )
    temperature: float = Field(
        1.0, gt=0.0, description="Divides the logits of teachers and student: above 1, unlikely tokens count for more."
    )
    top_k: Positive = Field(
        32,
        description="The teachers' likeliest tokens that are kept for each token of the text, 4 bytes each (6 from a "
        "vocabulary over 65,536); what is left of their probability is one more outcome.",
    )


def check_distillation(config: Config) -> None:
    """Raises ValueError where `train.objective = "distill"` lacks its teachers or meets what it can't be had with."""
    train = config.train
    if train.objective != "distill":
        if train.distill.teachers:
            raise ValueError(
                f"train.distill.teachers are asked by train.objective = 'distill', found {train.objective!r}; set it, "
                "or leave them out"
            )
        return
    if not train.distill.teachers:
        raise ValueError(
            "train.objective = 'distill' learns from other models, and train.distill.teachers is empty; name their run "
            "folders, as in teachers = ['runs/a', 'runs/b']"
        )
    if config.data.conditions or config.model.conditions:
        raise ValueError(
            "train.objective = 'distill' asks its teachers without labels, and the data has conditions; leave "
            "data.conditions and model.conditions empty"
        )
    if train.z_loss:
        raise ValueError(
            f"train.z_loss = {train.z_loss:g} is not in the loss of train.objective = 'distill'; set it to 0"
        )
