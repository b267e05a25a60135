"""onnxruntime-web: one version of npm's package, known by its hash, of which a page needs two files."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from jslm.errors import JslmError
from jslm.files import whole_file

VERSION = "1.30.0"
# As npm says it (`npm view onnxruntime-web@1.30.0 dist.integrity`), and as its lock files have it.
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# The build without WebGPU and WebGL is the smallest; its JavaScript has the glue code in it.
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_SECONDS = 600.0
_PACKAGE = f"onnxruntime-web@{VERSION}"
_BY_FILE = f"npm pack {_PACKAGE} gets it on a machine that has npm, and --onnxruntime-web FILE.tgz takes it from there"


def write_runtime(folder: Path, archive: str | Path | None = None) -> int:
    """Writes the two files and the licence to `folder`, the binary gzipped; returns the binary's true size in bytes.

    They come from `archive`, npm's package as a file; by default from the user's cache, and where it is not there from
    npm, with whatever registry npm is set to. Raises JslmError where there is neither, or a file that is another one.
    """
    path = _cached() if archive is None else Path(archive)
    if archive is not None and not path.is_file():
        raise JslmError(f"jslm convert export --onnxruntime-web {path}: no such file; {_BY_FILE}")
    if not _is_it(path):
        raise JslmError(f"{path}: not the package {_PACKAGE} (its SHA-512 is another); {_BY_FILE}")
    script, packed, size = _files_of(path)
    (folder / SCRIPT).write_bytes(script)
    (folder / f"{BINARY}.gz").write_bytes(packed)
    shutil.copy(Path(__file__).parent / "onnxruntime-license.txt", folder / "LICENSE.txt")
    return size


@functools.lru_cache(1)
def _files_of(path: Path) -> tuple[bytes, bytes, int]:
    """Of a package that is known to be the one: the script, the binary gzipped, and its size before."""
    found = []
    with tarfile.open(path) as package:
        for name in (SCRIPT, BINARY):
            stream = package.extractfile(f"package/dist/{name}")
            assert stream is not None
            found.append(stream.read())
    script, binary = found
    # Many servers send it as it lies there, which is 14 MB; and no time in it, so that the same makes the same.
    return script, gzip.compress(binary, 9, mtime=0), len(binary)


def _cached() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(home, "jslm", "npm", f"onnxruntime-web-{VERSION}.tgz")
    if not path.is_file() or not _is_it(path):
        with tempfile.TemporaryDirectory() as folder, whole_file(path) as temporary:
            shutil.copy(_download(Path(folder)), temporary)
    return path


def _download(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise JslmError(f"--format web needs {_PACKAGE}, and npm is not installed; {_BY_FILE}")
    command = [npm, "pack", _PACKAGE, "--pack-destination", str(folder), "--silent", "--ignore-scripts"]
    try:
        # In the folder the user works in, whose .npmrc counts.
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JslmError(f"--format web needs {_PACKAGE}, and npm did not get it ({error}); {_BY_FILE}") from None
    files = list(folder.glob("*.tgz"))
    if done.returncode or len(files) != 1:
        said = " ".join((done.stderr or done.stdout).split())[:200]
        raise JslmError(f"--format web needs {_PACKAGE}, and npm did not get it ({said}); {_BY_FILE}")
    if not _is_it(files[0]):
        raise JslmError(
            f"{_PACKAGE}: what npm got is another file (its SHA-512 is not the one that npm published); ask whoever "
            "keeps the registry that npm is set to"
        )
    return files[0]


def _is_it(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha512").digest()
    except OSError as error:
        raise JslmError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    return f"sha512-{base64.b64encode(digest).decode()}" == INTEGRITY
