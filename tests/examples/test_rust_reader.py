"""examples/rust on every test vector, natively and as WebAssembly in node; skipped where a compiler is not here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jslm.infer.faithful import unfaithful
from tests.rewrite_pairs import pairs

ROOT = Path(__file__).resolve().parents[2]
CRATE = ROOT / "examples" / "rust"
VECTORS = ROOT / "tests" / "vectors"
REWRITER = VECTORS / "rewriter.safetensors"
LARGEST_WASM = 240_000


def run(*command: str | Path, status: int = 0, text: str = "", **environment: str) -> str:
    """Standard output and error of a command that ends with `status`."""
    found = subprocess.run(
        [str(part) for part in command],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env={**os.environ, "JSLM_VECTORS": str(VECTORS), **environment},
    )
    assert found.returncode == status, found.stdout[-4000:]
    return found.stdout


def compilers() -> Iterator[str]:
    """Those on this machine: a distribution's may have the target that another has not."""
    for folder in dict.fromkeys([*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin"]):
        path = shutil.which("rustc", path=folder)
        if path:
            yield path


def wasm_command() -> list[str]:
    """The one that the README gives, which ends with `-o FILE`."""
    readme = (CRATE / "README.md").read_text("utf-8")
    found = re.search(r"^    (rustc .*--target wasm32(?:.*\\\n)+.*-o \S+)$", readme, re.MULTILINE)
    assert found is not None
    return found[1].replace("\\\n", " ").split()


@pytest.fixture(scope="module")
def rustc() -> str:
    for path in compilers():
        if subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    pytest.skip("no rustc here: the reader in Rust is not built")


@pytest.fixture(scope="module")
def built(rustc: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `portable` and the crate's tests, `vectors`, `hostile` and `unit`; integers are checked in them."""
    folder = tmp_path_factory.mktemp("rust")
    common = [rustc, "--edition", "2021", "-C", "opt-level=2"]
    checked = ["-C", "debug-assertions=on", "-C", "overflow-checks=on"]
    library = folder / "libjslm_portable.rlib"
    name = ["--crate-name", "jslm_portable"]
    run(*common, *checked, *name, "--crate-type", "rlib", CRATE / "src" / "lib.rs", "-o", library)
    extern = ["--extern", f"jslm_portable={library}"]
    run(*common, *extern, CRATE / "src" / "bin" / "portable.rs", "-o", folder / "portable")
    for test in ("vectors", "hostile"):
        run(*common, *checked, "--test", *extern, CRATE / "tests" / f"{test}.rs", "-o", folder / test)
    run(*common, *checked, "--test", *name, CRATE / "src" / "lib.rs", "-o", folder / "unit")
    return folder


@pytest.fixture(scope="module")
def wasm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wasm") / "jslm_portable.wasm"
    for path in compilers():
        folder = subprocess.run([path, "--print", "sysroot"], capture_output=True, text=True).stdout.strip()
        if Path(folder, "lib", "rustlib", "wasm32-unknown-unknown").is_dir():
            command = wasm_command()
            # From the crate's folder, as its README has it.
            command = [path, *command[1:-2], "-o", str(target)]
            found = subprocess.run(command, cwd=CRATE, capture_output=True, text=True)
            assert found.returncode == 0, found.stderr
            return target
    pytest.skip("no rustc with the target wasm32-unknown-unknown here: Debian has it in libstd-rust-dev-wasm32")


@pytest.fixture(scope="module")
def node() -> str:
    path = shutil.which("node")
    if not path:
        pytest.skip("no node here: the reader in WebAssembly is not run")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("test", ["vectors", "hostile", "unit"])
def test_the_crates_own_tests_pass(built: Path, test: str) -> None:
    shown = run(built / test)
    assert "test result: ok" in shown
    assert "0 passed" not in shown


@pytest.mark.slow
def test_the_command_rewrites_and_writes_as_jslm(built: Path) -> None:
    vectors: dict[str, Any] = json.loads((VECTORS / "rewriter.json").read_text("utf-8"))
    plain = [entry for entry in vectors["rewrites"] if not entry["conditions"] and "\n" not in entry["source"]]
    assert len(plain) > 100
    lines = "".join(entry["source"] + "\n" for entry in plain)
    assert run(built / "portable", REWRITER, "rewrite", text=lines).split("\n")[:-1] == [e["output"] for e in plain]
    casual = "The letter was written by the clerk.\n"
    assert run(built / "portable", REWRITER, "rewrite", "style=casual", text=casual) == "the clerk wrote the letter\n"
    case = json.loads((VECTORS / "byte_gpt2.json").read_text("utf-8"))["cases"][1]
    model = VECTORS / "byte_gpt2.safetensors"
    shown = run(built / "portable", model, "write", case["prompt"], str(len(case["greedy_ids"])))
    assert shown == case["prompt"] + case["greedy_text"] + "\n"


@pytest.mark.slow
def test_the_command_says_why_sentences_stay(built: Path) -> None:
    vectors: dict[str, Any] = json.loads((VECTORS / "rewriter_int8.json").read_text("utf-8"))
    plain = [entry for entry in vectors["rewrites"] if not entry["conditions"] and "\n" not in entry["source"]]
    checked = VECTORS / "rewriter_int8.safetensors"
    shown = run(built / "portable", checked, "rewrite", "--json", text="".join(f"{e['source']}\n" for e in plain))
    found = [json.loads(line) for line in shown.splitlines()]
    assert [each["output"] for each in found] == [each["output"] for each in plain]
    assert [bool(each["reason"]) for each in found] == [not each["changed"] for each in found]
    given = pairs()
    shown = run(built / "portable", checked, "compare", text="".join(f"{a}\t{b}\n" for a, b in given))
    wrong = [(pair, line) for pair, line in zip(given, shown.split("\n"), strict=False) if unfaithful(*pair) != line]
    assert wrong == []
    assert "without the check" in run(built / "portable", REWRITER, "compare", status=2, text="a\tb\n")


@pytest.mark.slow
def test_bad_files_are_one_line(built: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(REWRITER.read_bytes()[:-1])
    for path in (bad, tmp_path / "missing.safetensors"):
        shown = run(built / "portable", path, "rewrite", status=2)
        assert shown.startswith(f"portable: {path}: ")
        assert shown.count("\n") == 1
    shown = run(built / "portable", REWRITER, "rewrite", "style=blue", status=2, text="The cat.\n")
    assert shown == "portable: this model has no condition style=blue\n"


@pytest.mark.slow
def test_webassembly_gives_the_same_and_is_small(wasm: Path, node: str) -> None:
    assert wasm.stat().st_size < LARGEST_WASM
    shown = run(node, CRATE / "node.mjs", "check", VECTORS, JSLM_WASM=str(wasm))
    assert len(shown.splitlines()) == 6
    assert all(line.endswith(" alike") for line in shown.splitlines())
    sentence = "The letter was written by the clerk."
    assert (
        run(node, CRATE / "node.mjs", REWRITER, "rewrite", sentence, JSLM_WASM=str(wasm))
        == "The clerk wrote the letter.\n"
    )


@pytest.mark.slow
def test_webassembly_refuses_bad_files_in_one_line(wasm: Path, node: str, tmp_path: Path) -> None:
    script = tmp_path / "bad.mjs"
    script.write_text(
        f"""
import {{ open }} from "{(CRATE / "node.mjs").as_uri()}";
import {{ readFileSync }} from "node:fs";
const module = await WebAssembly.compile(readFileSync("{wasm}"));
const file = readFileSync("{REWRITER}");
let refused = 0, seed = 7;
const below = (limit) => (seed = (seed * 48271) % 2147483647) % limit;
for (let round = 0; round < 300; round++) {{
  const bytes = Uint8Array.from(round % 2 ? file : file.subarray(0, below(file.length)));
  if (round % 2) bytes[below(5000)] = below(256);
  try {{
    const model = await open(module, bytes);
    model.rewrite("The letter was written by the clerk.");
    model.close();
  }} catch (error) {{
    // A trap would be a RuntimeError.
    if (error.constructor !== Error || !error.message || error.message.includes("\\n")) throw error;
    refused++;
  }}
}}
console.log(refused);
""",
        "utf-8",
    )
    assert int(run(node, script)) > 150
