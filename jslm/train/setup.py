"""Everything that has to stand before the first step: data, mesh, compiled steps, and the state to go on from."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jslm.config import Config, config_from_dict, start_differences
from jslm.errors import JslmError
from jslm.formats import load_model
from jslm.learn.objective import Objective
from jslm.learn.objectives import make_objective
from jslm.learn.optimizer import make_optimizer
from jslm.learn.reference import Reference, open_reference
from jslm.learn.state import TrainState, abstract_state, init_state, place_params
from jslm.learn.teachers import Teacher, Teaching, open_teaching
from jslm.model import Params, compute_dtype, param_shapes
from jslm.parallel import batch_sharding, by_first, check_mesh_fits, eval_batch_size, make_mesh
from jslm.prepare import PreparedData
from jslm.runs.checkpoint import CheckpointStore, flatten_tree
from jslm.runs.folder import RunFolder
from jslm.tokens.course import Course
from jslm.tokens.loader import TrainLoader, count_examples, packing_of
from jslm.tokens.token_file import TokenFile
from jslm.train.budget import Budget
from jslm.train.checks import check_state, process_rows
from jslm.train.corpora import (
    bytes_per_token,
    chat_template,
    corpus_weights,
    open_prepared,
    open_splits,
    pair_format,
    verify_corpora,
)

_log = logging.getLogger("jslm")


@dataclasses.dataclass
class Position:
    """What the run knows besides arrays; saved with each checkpoint.

    `tokens` are those that counted in the loss up to `step`. `elapsed`: with `train.minutes`, the seconds that all
    commands of the run have taken, from their beginnings.
    """

    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    evals_since_best: int = 0
    seconds: float = 0.0
    tokens: int = 0
    elapsed: float = 0.0


@dataclasses.dataclass
class Setup:
    """A run ready to step; its schedule follows `budget` where there is one, else `course`, else `steps`."""

    config: Config
    steps: int
    course: Course | None
    budget: Budget | None
    mesh: Mesh
    dtype: jnp.dtype
    optimizer: optax.GradientTransformation
    objective: Objective
    data: PreparedData
    val_tokens: list[TokenFile]
    reference: Reference | None
    teaching: Teaching | None
    bytes_per_token: float
    loader: TrainLoader
    store: CheckpointStore
    chat_template: str
    state: TrainState
    position: Position


def prepare_data(config: Config) -> PreparedData:
    """The prepared data, made by the first process while the others wait. Raises JslmError as `open_prepared`."""
    return by_first(lambda: open_prepared(config), "preparing data") or open_prepared(config)


def resolve_config(config: Config, data: PreparedData) -> Config:
    """The config with `model.vocab_size`, `model.conditions`, steps, warm-up and how pairs are written filled in.

    Raises JslmError where they can't be.
    """
    vocab_size = data.tokenizer.vocab_size
    if config.model.vocab_size not in (0, vocab_size):
        raise JslmError(
            f"model.vocab_size = {config.model.vocab_size:,}, but the tokenizer of {data.dir} has {vocab_size:,} "
            "entries; leave it at 0"
        )
    steps = config.train.steps
    if not steps and not config.train.minutes:
        files = open_splits(config, "train")
        examples = count_examples(files, config.model.context_length, packing_of(config), config.data.stride)
        steps = _epoch_steps(config, examples, Course(config.train.batch_size))
    values = config.model_dump()
    values["model"]["vocab_size"] = vocab_size
    if not config.model.conditions:
        values["model"]["conditions"] = _conditions(data)
    values["train"]["steps"] = steps
    if config.optimizer.warmup_share:
        values["optimizer"]["warmup_steps"] = round(config.optimizer.warmup_share * steps)
    values["data"] |= pair_format(config)
    return config_from_dict(values, "config")


def _epoch_steps(config: Config, examples: int, course: Course) -> int:
    """The step at which `train.epochs` passes over `examples` examples are done."""
    changed, seen = course.changes[-1]
    return max(1, changed + math.ceil((config.train.epochs * examples - seen) / course.batch_size))


def _conditions(data: PreparedData) -> list[dict[str, Any]]:
    found = data.meta.get("conditions") or {}
    return [{"name": name, "labels": labels} for name, labels in found.items() if labels]


def build(
    config: Config, data: PreparedData, folder: RunFolder, *, by_epochs: bool = False, started: float = math.nan
) -> Setup:
    """Mesh, loader and state: from the run's newest whole checkpoint, from `train.init_from`, or fresh.

    `by_epochs` where `train.steps` comes from `train.epochs`: a run that goes on with another batch size then has as
    many steps left as its examples need, and schedule and stages follow the examples. Else they follow `train.steps`.
    `started`: when the command began, as `time.monotonic()`, for a run with `train.minutes`.
    """
    timed = bool(config.train.minutes)
    # The schedule of a timed run is in its state.
    steps = 0 if timed else config.train.steps
    mesh = make_mesh(config.mesh)
    check_mesh_fits(config, mesh)
    dtype = compute_dtype(config.model)
    verify_corpora(config, data.tokenizer.fingerprint, check_sha=jax.process_index() == 0)
    train_tokens, val_tokens = open_splits(config, "train"), open_splits(config, "val")
    index, count = process_rows(mesh, config.train.batch_size)
    loader = TrainLoader(
        train_tokens,
        context_length=config.model.context_length,
        batch_size=config.train.batch_size,
        seed=config.seed,
        process_index=index,
        process_count=count,
        packing=packing_of(config),
        stride=config.data.stride,
        weights=corpus_weights(config),
        stages=[(stage.context, round(stage.until * steps)) for stage in config.train.curriculum],
        conditions=config.model.conditions,
    )
    optimizer = make_optimizer(config.optimizer, steps, dtype)
    objective = make_objective(config, mesh, dtype)
    store = CheckpointStore(folder.checkpoints, config.checkpoint.keep)
    position = Position()
    course = None
    reference, teaching = None, None

    def load() -> Params:
        return place_params(config, load_initial(config, data), optimizer, mesh, dtype)

    with jax.set_mesh(mesh):
        wanted = abstract_state(config, optimizer, mesh, dtype)
        found = store.restore_newest(lambda step: store.restore(wanted, step))
        known, taught = "", ""
        if found:
            step, state = found
            metadata = store.metadata(step)
            position = Position(**metadata["position"])
            # Older positions are in steps alone, of the batch size that was saved with them.
            saved_batch = {"batch_size": metadata["config"]["train"]["batch_size"], "run_step": position.step}
            loader.set_state(saved_batch | metadata["data"])
            if "tokens" not in metadata["position"]:
                position.tokens = round(loader.course.examples_before(position.step) * loader.tokens.targets)
            if by_epochs and len(loader.course.changes) > 1:
                course = loader.course
                config = _with_steps(config, _epoch_steps(config, loader.examples_per_epoch, course))
                steps = config.train.steps
                examples = course.examples_before(steps)
                loader.stages = tuple(
                    (stage.context, round(course.step_at(stage.until * examples))) for stage in config.train.curriculum
                )
                optimizer = make_optimizer(config.optimizer, steps, dtype, course)
            known, taught = metadata.get("reference", ""), metadata.get("teachers", "")
            # The folder's config.toml may have been lost.
            saved = config_from_dict(metadata["config"], f"{store.path(step)}: its config")
            check_state(config, saved, f"{store.path(step)}: was saved")
            if metadata["tokenizer_fingerprint"] != data.tokenizer.fingerprint:
                raise JslmError(
                    f"{store.path(step)}: trained with tokenizer {metadata['tokenizer_fingerprint']}, but {data.dir} "
                    f"has {data.tokenizer.fingerprint}; use the data it was trained on"
                )
        params = load() if config.train.init_from and not found else None
        if objective.needs_reference:
            reference = open_reference(
                folder.reference,
                config,
                {"train": train_tokens, "val": val_tokens},
                mesh,
                dtype,
                process_rows(mesh, eval_batch_size(config)),
                load if params is None else lambda: params,
                known,
            )
            loader.set_references(reference.log_probs["train"])
        if not found:
            state = init_state(config, optimizer, mesh, dtype, params)
    if objective.needs_teachers:
        # Outside the mesh: one device asks them.
        teaching = open_teaching(config, train_tokens, lambda: load_teachers(config, data), taught)
        loader.set_teachers(train_tokens, teaching.columns)
    ratio = bytes_per_token(train_tokens, corpus_weights(config))
    budget = None
    if timed:
        held_out = count_examples(val_tokens, config.model.context_length, packing_of(config))
        limited = config.train.eval_batches * eval_batch_size(config)
        # The last validation, and the loss of the whole split where that was not all of it.
        read = held_out if not limited or held_out <= limited else held_out + limited
        # With other minutes than before the schedule begins anew, at the full rate where there is time for it.
        keeps = found and saved.train.minutes == config.train.minutes
        budget = Budget(config, position.elapsed, started, np.asarray(state["schedule"]) if keeps else None, read)
        if found and not keeps and budget.left <= 0:
            taken = position.elapsed / 60
            raise JslmError(
                f"train.minutes = {config.train.minutes:g}: the run has taken {taken:.1f} already; give it more, as in "
                f"--minutes {math.ceil(taken) + 5}, or as many as before: {saved.train.minutes:g}"
            )
    return Setup(
        config,
        steps,
        course,
        budget,
        mesh,
        dtype,
        optimizer,
        objective,
        data,
        val_tokens,
        reference,
        teaching,
        ratio,
        loader,
        store,
        chat_template(config),
        state,
        position,
    )


def _with_steps(config: Config, steps: int) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})


def checkpoint_metadata(setup: Setup, val_loss: float | None) -> dict[str, Any]:
    """What goes with the arrays: position, data position, config and tokenizer."""
    if setup.budget is not None:
        setup.position.elapsed = setup.budget.elapsed
    return {
        "val_loss": val_loss,
        "position": dataclasses.asdict(setup.position),
        "data": setup.loader.get_state(),
        "end_of_text": bool(setup.data.meta["end_of_text"]),
        "chat_template": setup.chat_template,
        "config": setup.config.model_dump(mode="json"),
        "tokenizer_fingerprint": setup.data.tokenizer.fingerprint,
        "tokenizer": json.loads((setup.data.dir / "tokenizer.json").read_text("utf-8")),
        **({"reference": setup.reference.weights} if setup.reference else {}),
        **({"teachers": setup.teaching.fingerprint} if setup.teaching else {}),
    }


def load_initial(config: Config, data: PreparedData) -> Params:
    """The weights of the run or model file that `train.init_from` names, of a run with `train.ema_decay` the averages.

    Raises JslmError where it has another shape or tokenizer.
    """
    source = load_model(config.train.init_from, checkpoint=config.train.init_checkpoint)
    for key, found, expected in start_differences(config.model, source.config.model):
        raise JslmError(
            f"train.init_from = {source.source}: {key} is {expected!r} there and {found!r} in this config; leave it "
            "out, so that it is taken from there"
        )
    if source.tokenizer.fingerprint != data.tokenizer.fingerprint:
        saved = RunFolder(config.train.init_from).tokenizer
        raise JslmError(
            f"train.init_from = {source.source}: its tokenizer is not that of {data.dir}; prepare the data with "
            + (f"tokenizer.path = {str(saved)!r}" if saved.is_file() else "that of its run (jslm convert import)")
        )
    template = chat_template(config)
    if source.chat_template and template not in ("", source.chat_template):
        raise JslmError(
            f"train.init_from = {source.source}: it was trained with another chat template than {data.dir} was "
            "prepared with; prepare the data with data.chat_template left out, so that it is taken from there"
        )
    params = source.params
    if config.model.conditions and not source.config.model.conditions:
        # Learned from here on; zeros leave the model what it is.
        params = {**params, "embed": {**params["embed"], "conditions": _zero_conditions(config)}}
    wanted, found = flatten_tree(param_shapes(config.model)), flatten_tree(params)
    for name in sorted(wanted.keys() | found.keys()):
        shapes = [list(tree[name].shape) if name in tree else "absent" for tree in (found, wanted)]
        if shapes[0] != shapes[1]:
            raise JslmError(
                f"train.init_from = {source.source}: {name} is {shapes[0]} there and {shapes[1]} in this config; "
                "give both the same model section"
            )
    return params


def load_teachers(config: Config, data: PreparedData) -> list[Teacher]:
    """The models of `train.distill.teachers`, of runs with `train.ema_decay` the averages.

    Raises JslmError where there is none, it has another tokenizer than the data, or labels that it would have to know.
    """
    teachers = []
    for name in config.train.distill.teachers:
        source = load_model(name, checkpoint=config.train.distill.checkpoint)
        if source.tokenizer.fingerprint != data.tokenizer.fingerprint:
            saved = RunFolder(name).tokenizer
            raise JslmError(
                f"train.distill.teachers: {name} has tokenizer {source.tokenizer.fingerprint}, and {data.dir} was made "
                f"with {data.tokenizer.fingerprint}; students and teachers need one: prepare the data with "
                + (f"tokenizer.path = {str(saved)!r}" if saved.is_file() else "that of the model's run")
            )
        if source.config.model.conditions:
            raise JslmError(
                f"train.distill.teachers: {name} has conditions, whose labels the text is without; choose another"
            )
        teachers.append(Teacher(name, source.config.model, source.params))
    return teachers


def _zero_conditions(config: Config) -> Params:
    shapes = param_shapes(config.model)["embed"]["conditions"]
    return {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}


def place_batch(batch: Mapping[str, Any], mesh: Mesh, accumulation: int) -> dict[str, jax.Array]:
    """A process's `[rows, ...]` NumPy arrays as global `[accumulation, micro_batch, ...]` ones on the mesh.

    Row r goes to micro-batch r % accumulation, so that each process's block of rows is a block of every micro-batch. In
    a stage of shorter context (train.curriculum) micro-batches have more rows.
    """
    sharding = batch_sharding(mesh, accumulation=True)

    def place(rows: np.ndarray) -> jax.Array:
        micro = rows.reshape(len(rows) // accumulation, accumulation, *rows.shape[1:]).swapaxes(0, 1)
        return jax.make_array_from_process_local_data(sharding, np.ascontiguousarray(micro))

    return {name: place(rows) for name, rows in batch.items()}
