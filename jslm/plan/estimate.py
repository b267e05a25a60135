"""A plan: whether a run fits its devices, and the least time that their arithmetic, memory and links allow it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from jslm.config import Config
from jslm.model import compute_dtype, count_parameters, flops_per_token, param_shapes
from jslm.parallel import check_mesh_fits, make_mesh
from jslm.plan.assume import resolve, tokens_of
from jslm.plan.chips import Chip, chip_of
from jslm.plan.fit import largest_micro_batch
from jslm.plan.hlo import Collective
from jslm.plan.program import Memory, compile_decode, compile_train
from jslm.plan.topology import topology_devices

# Libraries and the runtime keep some of a GPU's memory; libtpu's compiler knows its own reserve and refuses by itself.
_USABLE = {"cpu": 1.0, "gpu": 0.92, "tpu": 1.0}


# The shares of peak FLOP/s and of memory bandwidth that a step's products and its other kernels reach, one after the
# other, by kind of GPU: fitted to the steps that were measured on an H200 (docs/benchmarks.md).
_REACHED = {"gpu": (0.75, 0.8)}


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The least seconds one run of a program can take, by what would limit it; the largest is the bound."""

    arithmetic: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """The bound, as if all three ran at once and at their peak."""
        return max(self.arithmetic, self.memory, self.links)

    @property
    def limit(self) -> str:
        """What the bound comes from."""
        return max(("arithmetic", "memory", "links"), key=lambda name: getattr(self, name))

    def expected(self, platform: str) -> float | None:
        """Seconds as steps were measured to take on that platform; None where none was."""
        if platform not in _REACHED:
            return None
        arithmetic, memory = _REACHED[platform]
        return self.arithmetic / arithmetic + self.memory / memory + self.links


@dataclasses.dataclass(frozen=True)
class DecodePlan:
    """Writing tokens on one chip: `batch` rows at a time, each with a full context.

    FLOPs, bytes and operations are one token's of each row. `tokens_per_second` is None where it does not fit, and
    where the weights stay in on-chip memory: then the overhead of each operation counts, which no roofline knows.
    """

    batch: int
    fits: bool
    memory_bytes: int
    flops: float
    bytes: float
    operations: int
    roofline: Roofline | None
    tokens_per_second: float | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run would take. FLOPs, bytes and operations are one step's on one device; None where it does not fit.

    Tokens are those that count; `padding` is the share of a batch that holds no text. `expected_seconds` are a step's,
    by what was measured on such devices, None where nothing was; tokens a second, MFU and the whole run are as expected
    then, and at best otherwise. `cost` is of all devices, in the money of the price that was given.
    """

    topology: str
    chip: Chip
    devices: int
    mesh: dict[str, int]
    dtype: str
    remat: str
    parameters: int
    batch_size: int
    micro_batch: int
    context_length: int
    steps: int
    notes: list[str]
    fits: bool
    refusal: str
    memory: Memory
    flops: float
    bytes: float | None
    operations: int | None
    collectives: tuple[Collective, ...]
    roofline: Roofline | None
    expected_seconds: float | None
    tokens_per_step: int
    padding: float
    tokens_per_second: float | None
    mfu: float | None
    run_seconds: float | None
    accelerator_hours: float | None
    cost: float | None
    decode: DecodePlan | None
    # Of a search: the settings are those of the config.
    as_given: bool = False

    @property
    def seconds_per_sequence(self) -> float:
        """Of a step, as expected or at best: what plans of other batches are compared by; 0 where unknown."""
        step = self.expected_seconds or (self.roofline.seconds if self.roofline else 0.0)
        return step / self.batch_size

    def as_dict(self) -> dict[str, Any]:
        """For JSON: plain values, with the totals and bounds that are computed from them."""
        plain = dataclasses.asdict(self)
        plain["memory"]["total"] = self.memory.total
        parts = [(plain, self.roofline)] + ([(plain["decode"], self.decode.roofline)] if self.decode else [])
        for part, roofline in parts:
            if roofline:
                part["roofline"] |= {"seconds": roofline.seconds, "limit": roofline.limit}
        return plain


def make_plan(config: Config, topology: str, *, decode_batch: int = 1, price: float = 0.0) -> Plan:
    """Plans a run on a topology: "v5e:2x4" and its like (needs libtpu, no TPU), "h100" or "a100:2" (needs JAX's plugin
    for CUDA, no GPU), "cpu" or "gpu" (this machine).

    `decode_batch` rows are planned for decoding; 0 leaves that out. `price` is of one device's hour, 0 for none.
    Raises JslmError for a topology that can't be had, and for a mesh that the model does not divide over.
    """
    return plan_on(config, topology, topology_devices(topology), decode_batch=decode_batch, price=price)


def plan_on(
    config: Config, topology: str, devices: list[jax.Device], *, decode_batch: int = 1, price: float = 0.0
) -> Plan:
    """`make_plan` for devices that are already known; `topology` is their name in the plan."""
    mesh = make_mesh(config.mesh, devices)
    undecided = config.train.micro_batch == "auto"
    config, notes = resolve(config, mesh.shape["data"] * mesh.shape["fsdp"])
    check_mesh_fits(config, mesh)
    platform = devices[0].platform
    dtype = compute_dtype(config.model, platform=platform, kind=devices[0].device_kind)
    chip = chip_of(devices[0], dtype.name)
    if undecided:
        config, _ = largest_micro_batch(config, mesh, dtype, _USABLE[platform] * chip.memory_bytes)
        notes.append(f"train.micro_batch=auto is {config.train.micro_rows} here")
    program = compile_train(config, mesh, dtype)
    memory, traffic = program.memory, program.traffic
    fits = not program.refusal and memory.total <= _USABLE[platform] * chip.memory_bytes
    if not fits and not program.refusal:
        notes.append("does not fit: the step compiled, but takes more memory than the device has")
    example, note = tokens_of(config)
    notes.append(note)
    tokens = round(example.targets * config.train.batch_size)
    roofline = hours = mfu = seconds = expected = step = None
    if traffic is not None:
        wire = sum(collective.wire_bytes for collective in traffic.collectives)
        roofline = _roofline(chip, memory.total, program.flops, traffic.bytes, wire)
        expected = roofline.expected(platform)
        step = expected or roofline.seconds
        places = example.places * config.train.batch_size
        mfu = flops_per_token(config.model) * places / (step * chip.flops * len(devices))
        if config.train.steps:
            seconds = config.train.steps * step
            hours = seconds * len(devices) / 3600
    return Plan(
        topology=topology,
        chip=chip,
        devices=len(devices),
        mesh=dict(mesh.shape),
        dtype=dtype.name,
        remat=config.model.remat,
        parameters=count_parameters(config.model)["total"],
        batch_size=config.train.batch_size,
        micro_batch=config.train.micro_rows,
        context_length=config.model.context_length,
        steps=config.train.steps,
        notes=notes,
        fits=fits,
        refusal=program.refusal,
        memory=memory,
        flops=program.flops,
        bytes=traffic.bytes if traffic else None,
        operations=traffic.operations if traffic else None,
        collectives=traffic.collectives if traffic else (),
        roofline=roofline,
        expected_seconds=expected,
        tokens_per_step=tokens,
        padding=example.padding,
        tokens_per_second=tokens / step if step else None,
        mfu=mfu,
        run_seconds=seconds,
        accelerator_hours=hours,
        cost=hours * price if hours and price else None,
        decode=_plan_decode(config, devices[0], chip, decode_batch) if decode_batch else None,
    )


def _plan_decode(config: Config, device: jax.Device, chip: Chip, batch: int) -> DecodePlan:
    dtype = compute_dtype(config.model, "writing", platform=device.platform, kind=device.device_kind)
    try:
        traffic, memory = compile_decode(config, device, dtype, batch)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return DecodePlan(batch, False, 0, 0.0, 0.0, 0, None, None)
    roofline = _roofline(chip, memory, traffic.flops, traffic.bytes, 0.0)
    fits = memory <= _USABLE[device.platform] * chip.memory_bytes
    weights = sum(leaf.size for leaf in jax.tree.leaves(param_shapes(config.model)["layers"])) * dtype.itemsize
    rate = batch / roofline.seconds if fits and traffic.bytes > weights / 2 else None
    return DecodePlan(batch, fits, memory, traffic.flops, traffic.bytes, traffic.operations, roofline, rate)


def _roofline(chip: Chip, held: float, flops: float, moved: float, wire: float) -> Roofline:
    # What a cache holds whole may never pass through memory: a bound must not count it.
    through = 0.0 if held < chip.cache_bytes else moved / chip.memory_bandwidth
    links = wire / chip.link_bandwidth if chip.link_bandwidth else 0.0
    return Roofline(flops / chip.flops, through, links)
