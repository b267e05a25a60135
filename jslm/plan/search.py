"""Which mesh, micro-batch and remat policy: compiles the likeliest and ranks what the compiler says."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator

from jslm.config import Config, MeshConfig
from jslm.errors import JslmError
from jslm.model import compute_dtype, count_parameters
from jslm.plan.assume import resolve, with_settings
from jslm.plan.chips import Chip, chip_of
from jslm.plan.estimate import Plan, plan_on
from jslm.plan.topology import topology_devices

_log = logging.getLogger("jslm")
# Tensor parallelism talks in each layer, and pays within a host or not at all.
_MOST_TENSOR = 8
# Share of a forward and backward pass that each policy adds, for the order of trying alone.
_RECOMPUTED = {"none": 0.0, "dots": 0.1, "full": 1 / 3}
# Bytes of activations a token, layer and unit of width that each policy keeps, likewise.
_KEPT = {"none": 40.0, "dots": 20.0, "full": 4.0}


@dataclasses.dataclass(frozen=True)
class _Candidate:
    mesh: MeshConfig
    micro_batch: int
    remat: str
    guess: float

    @property
    def settings(self) -> tuple[MeshConfig, int, str]:
        return self.mesh, self.micro_batch, self.remat


def search_plans(config: Config, topology: str, *, tries: int = 12) -> list[Plan]:
    """Plans of up to `tries` settings of `[mesh]`, `train.micro_batch` and `model.remat`, the config's own among them
    (`as_given`) where it can be planned: those that fit first, fastest first, of equals the config's own.

    Fast is what takes the least time a sequence, as a batch may have to be changed to divide over the devices. A rough
    guess of time and memory says what to try first; the ranking is by what was compiled.

    Raises JslmError as `make_plan` does for the topology, and where no mesh suits the model.
    """
    devices = topology_devices(topology)
    device = devices[0]
    chip = chip_of(device, compute_dtype(config.model, platform=device.platform, kind=device.device_kind).name)
    candidates = sorted(_candidates(config, len(devices), chip), key=lambda candidate: candidate.guess)
    plans: list[Plan] = []
    refused: list[_Candidate] = []
    given: tuple[MeshConfig, int, str] | None = None
    try:
        own = dataclasses.replace(plan_on(config, topology, devices, decode_batch=0), as_given=True)
    except JslmError as error:
        _log.info("as the config is, nothing can be planned: %s", error)
    else:
        plans.append(own)
        given = (MeshConfig(**own.mesh), own.micro_batch, own.remat)
    for candidate in candidates:
        if len(plans) == tries:
            break
        if candidate.settings == given or any(_asks_more(candidate, other) for other in refused):
            continue
        chosen = with_settings(
            config,
            mesh=candidate.mesh.model_dump(),
            train={"micro_batch": candidate.micro_batch},
            model={"remat": candidate.remat},
        )
        plan = plan_on(chosen, topology, devices, decode_batch=0)
        verdict = "fits" if plan.fits else "does not fit"
        _log.info("%s, micro-batch %d, remat %s: %s", plan.mesh, plan.micro_batch, plan.remat, verdict)
        plans.append(plan)
        if not plan.fits:
            refused.append(candidate)
    if not plans:
        raise JslmError(f"--search: no mesh of {len(devices)} devices suits this model and batch; give mesh.* yourself")

    return sorted(plans, key=lambda plan: (not plan.fits, plan.seconds_per_sequence, not plan.as_given))


def _candidates(config: Config, devices: int, chip: Chip) -> Iterator[_Candidate]:
    divisors = [size for size in range(1, devices + 1) if devices % size == 0]
    for tensor in (size for size in divisors if size <= _MOST_TENSOR):
        for fsdp in (size for size in divisors if (devices // tensor) % size == 0):
            mesh = MeshConfig(data=devices // tensor // fsdp, fsdp=fsdp, tensor=tensor)
            shards = mesh.data * mesh.fsdp
            if config.train.batch_size % shards or not _divides(config, mesh):
                continue
            rows = config.train.batch_size // shards
            for pieces in (size for size in range(1, rows + 1) if rows % size == 0):
                for remat in _RECOMPUTED:
                    micro = config.train.batch_size // pieces
                    guess = _guess(config, mesh, micro, remat, chip)
                    if guess is not None:
                        yield _Candidate(mesh, micro, remat, guess)


def _divides(config: Config, mesh: MeshConfig) -> bool:
    model = config.model
    split = (model.n_heads, model.kv_heads, model.hidden_dim)
    return model.d_model % mesh.fsdp == 0 and all(width % mesh.tensor == 0 for width in split)


def _guess(config: Config, mesh: MeshConfig, micro: int, remat: str, chip: Chip) -> float | None:
    """Rough seconds a step; None where the model or the chip's memory plainly rules it out."""
    model, train = config.model, config.train
    shards = mesh.data * mesh.fsdp
    chosen, _ = resolve(with_settings(config, train={"micro_batch": micro}), shards)
    model = chosen.model
    parameters = count_parameters(model)["total"]
    held = 12 * parameters / (mesh.fsdp * mesh.tensor)
    rows = micro / shards
    kept = rows * model.context_length * model.n_layers * model.d_model * _KEPT[remat]
    if held > chip.memory_bytes or kept > 3 * chip.memory_bytes:
        return None
    tokens = train.batch_size * model.context_length / shards
    arithmetic = 6 * parameters * tokens * (1 + _RECOMPUTED[remat]) / mesh.tensor / chip.flops
    pieces = train.batch_size // micro
    traffic = (pieces * 12 * parameters / mesh.tensor + pieces * kept * 3) / chip.memory_bandwidth
    wire = pieces * 8 * parameters / mesh.tensor * (shards > 1) + pieces * 4 * parameters / mesh.tensor * (
        mesh.fsdp > 1
    )
    wire += 8 * tokens * model.n_layers * model.d_model * (mesh.tensor > 1)
    links = wire / chip.link_bandwidth if chip.link_bandwidth else 0.0
    # Over the chip's memory is possible (the guess is rough), and unlikely.
    crowded = 1 + max(0.0, (held + kept) / chip.memory_bytes - 0.8)
    return (max(arithmetic, traffic, links) + 0.1 * (arithmetic + traffic + links)) * crowded


def _asks_more(candidate: _Candidate, refused: _Candidate) -> bool:
    """Whether a candidate needs at least the memory of one that did not fit."""
    order = list(_RECOMPUTED)
    return (
        candidate.mesh == refused.mesh
        and candidate.micro_batch >= refused.micro_batch
        and order.index(candidate.remat) <= order.index(refused.remat)
    )
