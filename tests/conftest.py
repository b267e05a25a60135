"""What holds for all tests: strict array checks, and fixtures that several folders share."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jaxtyping
import pytest

# Set before anything imports jax, and inherited by the processes that tests start.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# The same number type on every machine: where nothing is known of the CPU, `auto` is float32.
os.environ["JSLM_CPUINFO"] = os.devnull
# Tests compile the same small programs again and again, in this process and in others; nothing stays behind.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jslm-test-xla-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
# Compiling is most of what these tests do, and they run each program a few times only. What ends with the
# same bytes after a kill (tests/train/test_resume.py, tests/multidevice/test_processes.py) compiles as users' runs do.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
# Every shape in a signature of the model is checked at each call.
jaxtyping.install_import_hook("jslm.model", "beartype.beartype")

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("jslm", deadline=None)
hypothesis.settings.load_profile("jslm")
_WORKER_MEMORY_BYTES = 5 * 2**30

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: a worker for each core that has memory for one, the processes that its tests start included."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(os.cpu_count() or 1, memory // _WORKER_MEMORY_BYTES))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of long tests first: no worker, which takes a file at a time, is left with one of them at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real corpora beside the checkout; tests that need it skip where it is absent."""
    if not ASSETS.is_dir():
        pytest.skip(f"no folder {ASSETS.parent.name}/{ASSETS.name} beside the checkout: real corpora are not here")
    return ASSETS


@pytest.fixture(scope="session")
def google_bucket() -> Iterator[Any]:
    """As `bucket`, with Google's API."""
    pytest.importorskip("moto", reason="moto is not installed: make dev")
    pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is not installed: make dev")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from scripts.bucket import GoogleBucket

        with GoogleBucket() as served:
            yield served


@pytest.fixture(scope="session")
def bucket() -> Iterator[Any]:
    """An S3 server of this process, `scripts/bucket.py`; tests share its bucket, each under a name of its own."""
    pytest.importorskip("moto", reason="moto is not installed: make dev")
    with warnings.catch_warnings():
        # Of the server's own libraries.
        warnings.simplefilter("ignore")
        from scripts.bucket import Bucket

        with Bucket() as served:
            yield served
