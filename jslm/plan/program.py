"""The real train step and decode loop, compiled for devices that need not be here."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jslm.config import Config
from jslm.infer import trace_decode
from jslm.learn import abstract_state, make_objective, make_optimizer, make_train_step
from jslm.parallel import batch_sharding, compiler_overlap_options
from jslm.plan.flops import count_flops
from jslm.plan.hlo import Traffic, count_traffic
from jslm.plan.hlo_text import parse_hlo

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Steps only shape the learning-rate schedule: no plan depends on how many there are.
_ANY_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes a device. `temporaries`: activations, gradients and workspace. `program`: the compiled code."""

    parameters: int
    optimizer: int
    other_state: int
    batch: int
    temporaries: int
    program: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class TrainProgram:
    """A compiled train step. `traffic` is None where the compiler found too little memory, and says so in `refusal`."""

    memory: Memory
    flops: float
    traffic: Traffic | None
    refusal: str


def compile_train(config: Config, mesh: Mesh, dtype: jnp.dtype) -> TrainProgram:
    """Compiles the step that `jslm.train` would run on this mesh, with abstract arrays, and counts what it takes.

    `config` has its vocabulary size set (`jslm.plan.assume`). FLOPs are those of one device.
    """
    platform = mesh.devices.flat[0].platform
    with jax.set_mesh(mesh):
        traced, state, batch = _trace(config, mesh, dtype)
        asked = count_flops(traced, platform) / mesh.size
        known = {
            "parameters": _device_bytes(state["params"]),
            "optimizer": _device_bytes(state["opt_state"]),
            "batch": _device_bytes(batch),
        }
        rest = _device_bytes(state) - known["parameters"] - known["optimizer"]
        try:
            compiled = _compile(traced, mesh.devices.flat[0], mesh.size)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            refusal = str(error).split("\n")[0]
            return TrainProgram(
                Memory(**known, other_state=rest, temporaries=_asked_for(refusal), program=0), asked, None, refusal
            )
    sizes = compiled.memory_analysis()
    # The new state takes the place of the old one; what has no place to take is metrics.
    new = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    padding = max(0, sizes.argument_size_in_bytes - sum(known.values()) - rest)
    traffic = count_traffic(parse_hlo(compiled.as_text()))
    memory = Memory(
        **known,
        other_state=rest + padding,
        temporaries=sizes.temp_size_in_bytes + max(0, new),
        program=sizes.generated_code_size_in_bytes,
    )
    # A program for TPUs shows all of its products. Elsewhere some are hidden in libraries (cuBLAS), and work that every
    # device repeats, such as Muon's on replicated weights, shows only in the program.
    flops = traffic.flops if platform == "tpu" else max(asked, traffic.flops)
    return TrainProgram(memory, flops, traffic, "")


def compiled_train(config: Config, mesh: Mesh, dtype: jnp.dtype) -> Any:
    """The step of `compile_train` as a `jax.stages.Compiled`, for those who read its text."""
    with jax.set_mesh(mesh):
        return _compile(_trace(config, mesh, dtype)[0], mesh.devices.flat[0], mesh.size)


def compile_decode(config: Config, device: jax.Device, dtype: jnp.dtype, batch: int) -> tuple[Traffic, int]:
    """One token of each of `batch` rows with a full context on one device: its traffic, and bytes of memory.

    Raises jax.errors.JaxRuntimeError (RESOURCE_EXHAUSTED) where the device has too little memory.
    """
    traced = trace_decode(config.model, dtype, device, batch)
    compiled = _compile(traced, device, 1)
    traffic = count_traffic(parse_hlo(compiled.as_text()), only_loop_of_unknown_length=True)
    sizes = compiled.memory_analysis()
    kept = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    memory = kept + sizes.temp_size_in_bytes + sizes.generated_code_size_in_bytes
    return dataclasses.replace(traffic, flops=max(traffic.flops, count_flops(traced, device.platform))), memory


def _trace(config: Config, mesh: Mesh, dtype: jnp.dtype) -> tuple[jax.stages.Traced, Any, Any]:
    """The traced step, and the abstract state and batch that it takes."""
    optimizer = make_optimizer(config.optimizer, _ANY_STEPS, dtype)
    state = abstract_state(config, optimizer, mesh, dtype)
    batch = _abstract_batch(config, mesh, dtype)
    step: Any = make_train_step(config, optimizer, _ANY_STEPS, mesh, dtype)
    return step.trace(state, batch), state, batch


def _compile(traced: jax.stages.Traced, device: jax.Device, devices: int) -> Any:
    # JAX calls both makers' devices "gpu".
    if not (device.platform == "gpu" and device.device_kind.startswith(("NVIDIA", "Tesla"))):
        return traced.lower().compile()
    # As training has them in XLA_FLAGS, which here would be those of all that is compiled.
    options = compiler_overlap_options() if devices > 1 else {}
    return traced.lower(lowering_platforms=("cuda",)).compile(compiler_options=options or None)


def _abstract_batch(config: Config, mesh: Mesh, dtype: jnp.dtype) -> dict[str, jax.ShapeDtypeStruct]:
    train = config.train
    micro = train.micro_rows
    shapes = make_objective(config, mesh, dtype).batch_shapes(train.batch_size // micro, micro)
    place = batch_sharding(mesh, accumulation=True)
    return {name: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place) for name, shape in shapes.items()}


def _device_bytes(tree: Any) -> int:
    """Bytes of a tree of `ShapeDtypeStruct` on one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _asked_for(refusal: str) -> int:
    """The bytes of temporaries that the compiler's refusal names; 0 where it names none."""
    found = re.search(r"temporaries \(([\d.]+)([KMGT])\)", refusal) or re.search(r"Used ([\d.]+)([KMGT])", refusal)
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0
