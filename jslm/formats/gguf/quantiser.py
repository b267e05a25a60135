"""K types by llama.cpp's own quantiser, where one is installed: `llama-quantize`, or the one in llama-cpp-python.

Which tensors of a mixed type such as Q4_K_M get more bits is decided in llama.cpp's `src/llama-quant.cpp`, and changes
there; a file of another program's making would be Q4_K_M by name alone.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from jslm.errors import JslmError
from jslm.formats.gguf.header import read_header
from jslm.installation import install_command

# jslm's name and llama.cpp's number (`llama_ftype` in `include/llama.h`).
TYPES = {"q4_k_m": 15, "q6_k": 18}
_PROGRAM = "llama-quantize"
_SECONDS = 3600
# In a process of its own: llama.cpp writes to stdout and stderr, and ends the process where something is amiss.
_SCRIPT = """
import ctypes, sys
import llama_cpp
options = llama_cpp.llama_model_quantize_default_params()
options.ftype = int(sys.argv[3])
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(options)) != 0)
"""


def check_quantiser(dtype: str) -> None:
    """Raises JslmError, before anything is written, where `dtype` is a K type and no quantiser is here."""
    if dtype in TYPES:
        _command(dtype)


def quantise(source: Path, target: Path, dtype: str) -> str:
    """Writes the float GGUF file `source` as `target` in `dtype`, one of `TYPES`.

    Returns a line on what stayed wider, empty where nothing did: K types take rows of a multiple of 256. Raises
    JslmError where no quantiser is here, or it fails.
    """
    command = [*_command(dtype), str(source), str(target)]
    command.append(dtype.upper() if command[0] != sys.executable else str(TYPES[dtype]))
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JslmError(f"--dtype {dtype}: llama.cpp's quantiser did not finish ({type(error).__name__})") from None
    if done.returncode or not target.is_file():
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        reason = said[-1].strip()[:200] if said else f"exit status {done.returncode}"
        raise JslmError(f"--dtype {dtype}: llama.cpp's quantiser failed: {reason}; export with --dtype q8_0")
    header, before = read_header(target), read_header(source)
    if header.tensors.keys() != before.tensors.keys():
        raise JslmError(f"--dtype {dtype}: llama.cpp's quantiser left tensors out; export with --dtype q8_0")
    widths: Counter[tuple[int, str]] = Counter()
    for tensor in header.tensors.values():
        if len(tensor.shape) > 1 and tensor.shape[-1] % 256 and tensor.kind != "f32":
            widths[tensor.shape[-1], tensor.kind] += 1
    if not widths:
        return ""
    told = ", ".join(f"{count} with rows of {width} are {kind}" for (width, kind), count in sorted(widths.items()))
    return f"K types take rows of a multiple of 256: of the matrices {told}"


def _command(dtype: str) -> list[str]:
    """What quantises, without its arguments. Raises JslmError where there is nothing."""
    if program := shutil.which(_PROGRAM):
        return [program]
    if importlib.util.find_spec("llama_cpp") is not None:
        return [sys.executable, "-c", _SCRIPT]
    raise JslmError(
        f"--dtype {dtype} is made by llama.cpp's own quantiser, and there is none here: put {_PROGRAM} of llama.cpp on "
        f"PATH, or {install_command('llamacpp')} (built in about five minutes); or export with --dtype q8_0"
    )
