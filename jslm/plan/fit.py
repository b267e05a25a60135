"""What a train step holds, on devices that are here, and the largest micro-batch that they hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from jslm.config import Config
from jslm.errors import JslmError
from jslm.parallel import describe_devices
from jslm.plan.assume import with_settings
from jslm.plan.chips import available_memory, size
from jslm.plan.program import TrainProgram, compile_train

# What XLA may take of a device leaves no room for blocks that memory is cut into; a CPU has other programs, and its
# estimate is known to 15%. A TPU's compiler refuses by itself.
_SHARE = {"cpu": 0.85, "gpu": 0.95, "tpu": 1.0}


def compile_step(config: Config, mesh: Mesh, dtype: jnp.dtype) -> TrainProgram:
    """The train step of a config whose vocabulary is known, compiled anew for the mesh, with what it takes a device.

    A program from JAX's cache does not know how its buffers share memory.
    """
    with _without_cache():
        return compile_train(config, mesh, dtype)


def device_memory(device: jax.Device) -> float:
    """Bytes that a train step may take of a device of this process."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    limit = stats.get("bytes_limit", 0) if stats else 0
    return _SHARE.get(device.platform, 1.0) * (limit or available_memory() / len(jax.local_devices()))


def largest_micro_batch(config: Config, mesh: Mesh, dtype: jnp.dtype, limit: float) -> tuple[Config, TrainProgram]:
    """The config with the largest `train.micro_batch` whose step takes `limit` bytes a device at most, and that step.

    Tried are the divisors of `train.batch_size` that the devices divide, by halves: a handful of compilations. Raises
    JslmError where none fits.
    """
    batch, shards = config.train.batch_size, mesh.shape["data"] * mesh.shape["fsdp"]
    sizes = [size for size in range(shards, batch + 1, shards) if batch % size == 0]
    if not sizes:
        raise JslmError(
            f"mesh.data * mesh.fsdp = {shards} does not divide train.batch_size = {batch}; change one of them"
        )
    fitting: tuple[Config, TrainProgram] | None = None
    low, high = 0, len(sizes) - 1
    # Most runs fit whole: that is tried first.
    at = high
    while low <= high:
        chosen = with_settings(config, train={"micro_batch": sizes[at]})
        program = compile_step(chosen, mesh, dtype)
        if not program.refusal and program.memory.total <= limit:
            fitting, low = (chosen, program), at + 1
        elif at == 0:
            break
        else:
            high = at - 1
        at = (low + high) // 2
    if fitting is None:
        devices = describe_devices(list(mesh.devices.flat))
        raise JslmError(
            f"train.micro_batch = 'auto': a step with {sizes[0]} sequence(s) takes {size(program.memory.total)} a "
            f"device, and {devices} gives {size(limit)}; set model.remat = 'full', raise mesh.fsdp, or take a smaller "
            "model"
        )
    return fitting


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
