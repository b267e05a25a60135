"""The devices that a plan is for: a TPU slice that is not here, or this machine's own."""

from __future__ import annotations

import importlib.util
import os
import re

import jax
from jax.experimental import topologies

from jslm.errors import JslmError
from jslm.installation import install_command
from jslm.plan.gpus import GPUS, gpu_devices, is_gpu_topology

_CHIPS = ("v5e", "v5p", "v6e")
_MOST_CHIPS = 512
_EXAMPLES = "v5e:2x4, v5p:2x2x1, v6e:16x16, h100, a100:2, cpu or gpu"
# Compiling opens no TPU: libtpu needn't ask a metadata server, keep others out, or write logs.
_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def check_topology(text: str) -> None:
    """Raises JslmError where `text` is neither cpu, gpu, one of `GPUS` nor a TPU slice of up to 512 chips (v5e:2x4)."""
    if text in ("cpu", "gpu") or is_gpu_topology(text):
        return
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", text)
    if found is None or found[1] not in _CHIPS:
        raise JslmError(
            f"--topology {text}: expected CHIP:SHAPE with a chip of {', '.join(_CHIPS)}, a GPU of {', '.join(GPUS)}, "
            f"or cpu or gpu (what is here); as {_EXAMPLES}"
        )
    sides = [int(side) for side in found[2].split("x")]
    wanted = 3 if found[1] == "v5p" else 2
    if len(sides) != wanted:
        raise JslmError(f"--topology {text}: a {found[1]} slice has {wanted} sides, found {len(sides)}; as {_EXAMPLES}")
    chips = 1
    for side in sides:
        chips *= side
    if not 1 <= chips <= _MOST_CHIPS:
        raise JslmError(f"--topology {text}: {chips:,} chips; one slice of 1 to {_MOST_CHIPS} can be planned")


def topology_devices(text: str) -> list[jax.Device]:
    """Devices to compile for. Raises JslmError where libtpu, a GPU, or a slice of that shape is missing."""
    check_topology(text)
    if text in ("cpu", "gpu"):
        try:
            return list(jax.devices(text))
        except RuntimeError:
            raise JslmError(
                f"--topology {text}: JAX finds no such device here; plan for another topology, or, on a machine with "
                f"a GPU, {install_command('cuda13')}"
            ) from None
    if is_gpu_topology(text):
        return gpu_devices(text)
    if importlib.util.find_spec("libtpu") is None:
        raise JslmError(f"--topology {text}: needs the TPU compiler (libtpu); install it: {install_command('plan')}")
    for name, value in _LIBTPU.items():
        os.environ.setdefault(name, value)
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=text).devices)
    except Exception as error:
        said = str(error).split("\n")[0]
        if "lockfile" in said:
            raise JslmError(
                f"--topology {text}: libtpu's lock file is held by another process, or not ours to open ({said}); wait "
                "for the other, or remove the file where there is none"
            ) from None
        raise JslmError(f"--topology {text}: libtpu gives no such slice ({said}); as {_EXAMPLES}") from None
