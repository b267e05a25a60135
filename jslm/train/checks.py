"""What can be known to be wrong before data is prepared, and whether a folder holds another run than this one."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jslm.config import Config, state_difference
from jslm.errors import JslmError
from jslm.model import compute_dtype
from jslm.parallel import batch_sharding, check_mesh_fits, make_mesh
from jslm.runs.checkpoint import CheckpointStore
from jslm.runs.folder import RunFolder
from jslm.storage import is_address
from jslm.tokenizer import load_tokenizer

_log = logging.getLogger("jslm")


def check_before_data(config: Config, folder: RunFolder) -> None:
    """Raises JslmError for what needs no data to be seen: it would be a pity to prepare it for minutes, and then stop.

    Devices, mesh and batches; the adapters of `train.lora`; absent teachers; another run in `run_dir`. `config` has
    been through `with_start`, which checks the model to start from.
    """
    mesh = make_mesh(config.mesh)
    check_mesh_fits(config, mesh)
    process_rows(mesh, config.train.batch_size)
    compute_dtype(config.model)
    _check_adapters(config)
    for teacher in config.train.distill.teachers:
        if not is_address(teacher) and not Path(teacher).exists():
            raise JslmError(f"train.distill.teachers: {teacher}: no such run folder or model file")
    check_same_model(config, folder)


def check_shared(folder: RunFolder) -> None:
    """Waits for the first process to have fetched a run at an address; raises JslmError where another process does not
    see its folder: all of them write their parts of a checkpoint there."""
    if jax.process_count() == 1:
        return
    mark = folder.path / ".shared"
    if jax.process_index() == 0:
        mark.write_text(str(time.time_ns()), "ascii")
    token = int(
        multihost_utils.broadcast_one_to_all(
            np.int32(int(mark.read_text("ascii")[-9:]) if jax.process_index() == 0 else 0)
        )
    )
    sees = mark.is_file() and int(mark.read_text("ascii")[-9:]) == token
    if not multihost_utils.process_allgather(np.bool_(sees)).all():
        raise JslmError(
            f"run_dir = {folder.address}: {folder.path} is not one folder for all {jax.process_count()} processes; set "
            "JSLM_CACHE to a folder on a disk that all hosts see, as checkpoints are written there before they go up"
        )


def check_not_imported(folder: RunFolder) -> None:
    """Raises JslmError where the folder of the run holds a model from elsewhere."""
    if CheckpointStore(folder.checkpoints).steps() and _is_imported(folder):
        raise JslmError(
            f"run_dir = {folder.name}: an imported model, which training would overwrite; choose a run_dir of its own, "
            f"and start from these weights with train.init_from = {str(folder.path)!r}"
        )


def check_same_model(config: Config, folder: RunFolder, fingerprint: str = "", *, by_epochs: bool = False) -> None:
    """Raises JslmError where an existing run folder holds another model or tokenizer; warns of other changes.

    Without the tokenizer's `fingerprint`, before the data is there, as far as that can be told.
    `by_epochs`: `train.steps` comes from `train.epochs`, and is known when the position is.
    """
    # A run that has saved nothing loses nothing by another start.
    if not CheckpointStore(folder.checkpoints).steps():
        return
    if not folder.config.is_file():
        # Lost: what is restored is compared with what its checkpoint knows.
        return
    started = folder.read_config()
    if not fingerprint:
        # Labels and vocabulary come with the data, and are compared with it.
        known = {"vocab_size": 0, "conditions": config.model.conditions or started.model.conditions}
        config = config.model_copy(update={"model": config.model.model_copy(update=known)})
    check_state(config, started, f"run_dir = {folder.name}: holds a run")
    before, now = (c.model_dump() for c in (started, config))
    optimizers = [c["optimizer"]["name"] for c in (before, now)]
    if optimizers[0] != optimizers[1]:
        raise JslmError(
            f"run_dir = {folder.name}: holds a run with optimizer.name = {optimizers[0]!r}, and this config has "
            f"{optimizers[1]!r}; use another run_dir with train.init_from, or the optimizer it was started with"
        )
    if not fingerprint:
        return
    if folder.tokenizer.is_file() and load_tokenizer(folder.tokenizer).fingerprint != fingerprint:
        raise JslmError(
            f"{folder.tokenizer}: another tokenizer than that of {config.data_dir}; use another run_dir, "
            "or the data it was started with"
        )
    changed = [
        f"{section}.{key}"
        for section in ("optimizer", "train", "data", "mesh", "model")
        for key, value in before[section].items()
        if value != now[section][key] and not (by_epochs and (section, key) == ("train", "steps"))
    ]
    if changed:
        _log.warning("%s: going on with other settings than before: %s", folder.path, ", ".join(changed))


def check_state(config: Config, started: Config, what: str) -> None:
    """Raises JslmError where `config` would read the saved arrays of `started` as another model's; `what` begins it."""
    if difference := state_difference(config, started):
        raise JslmError(
            f"{what} with {difference.key} = {difference.expected!r}, and this config has {difference.found!r}; use "
            "another run_dir, or the config it was started with"
        )


def _is_imported(folder: RunFolder) -> bool:
    """Whether the folder holds a model from elsewhere; where run.json is lost, by its checkpoint."""
    if info := folder.read_info():
        return bool(info.get("status") == "imported")
    store = CheckpointStore(folder.checkpoints)
    try:
        return bool(store.metadata(store.steps()[-1]).get("imported"))
    except JslmError:
        # It will be set aside, or be an error where it is the only one, as that of an imported model is.
        return False


def _check_adapters(config: Config) -> None:
    lora, model = config.train.lora, config.model
    if lora.rank and not model.is_gated and set(lora.targets) == {"gate"}:
        raise JslmError(
            f"train.lora.targets = ['gate'], but a model with model.activation = {model.activation!r} has no gate, so "
            "nothing would be learned; name other projections, as in ['q', 'v', 'up', 'down']"
        )


def process_rows(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """(index, count): this process loads the index-th of `count` equal blocks of each batch's rows.

    Processes that share rows (a tensor axis over hosts) get the same index. Raises JslmError where its devices' rows
    are no such block.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    placement = batch_sharding(mesh).addressable_devices_indices_map((shards, 1))
    blocks = {block[0].indices(shards) for block in placement.values() if block is not None}
    rows = sorted({row for block in blocks for row in range(*block)})
    count, index = shards // len(rows), rows[0] // len(rows)
    if shards % len(rows) or rows != list(range(index * len(rows), (index + 1) * len(rows))):
        raise JslmError(
            f"mesh: process {jax.process_index()} would hold batch rows {rows} of {shards}, which is not one block; "
            "let mesh.tensor divide the devices of a host"
        )
    return index, count
