"""Memory of the devices: the micro-batch that fits it, and one line for a user when it runs out."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from jslm.cli import is_out_of_memory
from jslm.config import Config
from jslm.errors import JslmError
from jslm.model import compute_dtype
from jslm.parallel import check_mesh_fits, describe_devices, known_kind, make_mesh
from jslm.plan import compile_step, device_memory, largest_micro_batch, size, with_settings
from jslm.runs.checkpoint import CheckpointStore
from jslm.runs.folder import RunFolder

_log = logging.getLogger("jslm")


def resolve_micro_batch(config: Config, folder: RunFolder) -> Config:
    """The config with `train.micro_batch` = "auto" replaced by the largest that fits, or by what the run began with.

    Sums of gradients are rounded, so a run that goes on must add them up as before. Raises JslmError where none fits.
    `config` has its vocabulary size.
    """
    if config.train.micro_batch != "auto":
        return config
    if folder.config.is_file() and CheckpointStore(folder.checkpoints).steps():
        before = folder.read_config().train
        if before.batch_size == config.train.batch_size:
            return with_settings(config, train={"micro_batch": before.micro_rows})
    mesh = make_mesh(config.mesh)
    check_mesh_fits(config, mesh)
    limit = min(device_memory(device) for device in mesh.local_devices)
    if jax.process_count() > 1:
        # All must come to the same choice, of which the least memory decides.
        limit = float(np.min(multihost_utils.process_allgather(np.float32(limit))))
    chosen, program = largest_micro_batch(config, mesh, compute_dtype(config.model), limit)
    _log.info(
        "train.micro_batch = %d of %d sequences: %s a device of the %s that may be used",
        chosen.train.micro_rows,
        chosen.train.batch_size,
        size(program.memory.total),
        size(limit),
    )
    return chosen


@contextlib.contextmanager
def explained_out_of_memory(config: Config) -> Iterator[None]:
    """Turns running out of a device's memory into a JslmError that says what to lower, and what `plan` estimates."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise JslmError(_explanation(config, error)) from error


def _slice_of(device: jax.Device) -> str:
    """A small slice of such chips, as `jslm.plan` names it."""
    kinds = {"TPU v5": "v5p:2x2x1", "TPU v5p": "v5p:2x2x1", "TPU v6 lite": "v6e:2x4", "TPU v6e": "v6e:2x4"}
    return kinds.get(known_kind(device.device_kind, kinds) or "", "v5e:2x4")


def _explanation(config: Config, error: Exception) -> str:
    wanted = re.search(r"(?:allocat\w*|Used) ([\d.,]+ ?[KMGT]?i?B?\w*)", str(error))
    asked = f" (asked for {wanted[1].strip()})" if wanted else ""
    rows = config.train.micro_rows
    lower = [f"train.micro_batch (now {rows}, or 'auto' for what fits)"] if rows > 1 else ["model.context_length"]
    lower += ["set model.remat = 'full'"] if config.model.remat != "full" else ["raise mesh.fsdp"]
    topology = jax.default_backend() if jax.default_backend() in ("cpu", "gpu") else _slice_of(jax.devices()[0])
    search = f"jslm plan --config {RunFolder(config.run_dir).config} --topology {topology} --search"
    return (
        f"out of memory on {describe_devices()}{asked}{_estimate(config)}; lower {', or '.join(lower)}; "
        f"{search} finds what fits"
    )


def _estimate(config: Config) -> str:
    """What `jslm plan` says of the step, where there is memory enough left to compile it."""
    try:
        mesh = make_mesh(config.mesh)
        memory = compile_step(config, mesh, compute_dtype(config.model)).memory
        held = memory.parameters + memory.optimizer + memory.other_state
        room = device_memory(mesh.local_devices[0])
    except (JslmError, MemoryError, OSError, RuntimeError) as error:
        _log.debug("no estimate: %s", error)
        return ""
    return (
        f"; a step takes an estimated {size(memory.total)} a device ({size(held)} of them weights and optimizer), and "
        f"{size(room)} may be used"
    )
