"""`jslm convert` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import jslm
from jslm import JslmError
from jslm.config import config_from_dict
from jslm.convert.__main__ import main
from jslm.formats import export_model, import_model, load_model
from jslm.formats.formats import known_formats
from jslm.runs.checkpoint import CheckpointStore
from jslm.train import train


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps, with averaged parameters and three checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text("the cat sat on a mat and the dog ran.\n" * 200, "utf-8")
    values = {
        "run_dir": str(folder / "run"),
        "data": {"source": str(folder / "text.txt"), "split": "position", "end_of_text": "always"},
        "tokenizer": {"kind": "char"},
        "model": {"n_layers": 1, "d_model": 16, "n_heads": 2, "context_length": 32, "dtype": "float32"},
        "train": {
            "steps": 6, "batch_size": 4, "eval_every": 2, "eval_batches": 1, "ema_decay": 0.5, "tensorboard": False,
            "report": False,
        },
        "checkpoint": {"keep": 3},
    }  # fmt: skip
    train(config_from_dict(values, "test"))
    return folder / "run"


def test_every_format_is_known_and_one_reads_each_other() -> None:
    names = ["safetensors", "onnx", "web", "hf", "gguf", "llama2c", "llama2c-checkpoint", "nanogpt", "lillm", "slms"]
    assert list(known_formats()) == names
    assert all(entry.read or entry.write for entry in known_formats().values())


@pytest.mark.parametrize("name", ["hf", "safetensors"])
def test_out_and_in_again(run_dir: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run_dir), str(tmp_path / "out"), "--format", name]) == 0
    told = capsys.readouterr().out
    assert "parameters" in told
    assert f"{tmp_path / 'out'}: 0.0" in told
    assert main(["import", str(tmp_path / "out"), str(tmp_path / "back")]) == 0
    assert "imported in" in capsys.readouterr().out
    before, after = jslm.load(run_dir), jslm.load(tmp_path / "back")
    for prompt in ("", "the "):
        wanted = before.generate(prompt, greedy=True, max_new_tokens=20)
        assert after.generate(prompt, greedy=True, max_new_tokens=20) == wanted
    # A training run can start from it, and one in its place is refused.
    values = load_model(run_dir).config.model_dump()
    values["train"] |= {"init_from": str(tmp_path / "back"), "steps": 2, "ema_decay": 0.0}
    values["run_dir"] = str(tmp_path / "next")
    if name == "safetensors":
        train(config_from_dict(values, "test"))
        assert CheckpointStore(tmp_path / "next" / "checkpoints").steps()[-1] == 2
    values["run_dir"] = str(tmp_path / "back")
    with pytest.raises(JslmError, match="an imported model, which training would overwrite"):
        train(config_from_dict(values, "test"))


def test_the_choice_of_weights(run_dir: Path, tmp_path: Path) -> None:
    def head(**choice: object) -> bytes:
        export_model(run_dir, tmp_path / "m.safetensors", format="safetensors", **choice)  # type: ignore[arg-type]
        return (tmp_path / "m.safetensors").read_bytes()

    averaged, last = head(checkpoint="6"), head(checkpoint="6", ema=False)
    assert averaged == head(checkpoint="latest") == head(checkpoint="latest", ema=True)
    assert averaged != last
    assert head(checkpoint="2") != averaged
    with pytest.raises(JslmError, match="no checkpoint '7'"):
        head(checkpoint="7")


def test_inspect(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run_dir)]) == 0
    assert "run folder of jslm" in capsys.readouterr().out
    export_model(run_dir, tmp_path / "hf", format="hf", dtype="bfloat16")
    assert main(["inspect", str(tmp_path / "hf"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["architecture"], found["weights"]) == ("llama", "BF16 in 11 tensors of model.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["export", "RUN", "OUT", "--format", "ctm"],
            "--format ctm: no such format; there are safetensors, onnx, web, hf",
        ),
        (["export", "RUN", "OUT", "--format", "nanogpt"], "--format nanogpt: jslm reads it and does not write it"),
        (["export", "RUN", "OUT", "--format", "hf", "--dtype", "q8_0"], "--dtype q8_0: hf holds float32, float16"),
        (["export", "ABSENT", "OUT", "--format", "hf"], "no such run folder or model file"),
        (["export", "RUN", "OUT", "--format", "hf", "--checkpoint", "9"], "no checkpoint '9'; there are best, latest"),
        (["import", "ABSENT", "OUT"], "no such run folder or model file"),
        (["import", "TEXT", "OUT"], "nothing that jslm knows by its names and first bytes"),
        (["import", "TEXT", "RUN"], "is there already, and nothing is overwritten"),
        (["inspect", "TEXT"], "nothing that jslm knows"),
        (["inspect", "ABSENT"], "no such file or folder"),
    ],
)
def test_mistakes_are_one_line(
    run_dir: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("just text", "utf-8")
    places = {"RUN": run_dir, "OUT": tmp_path / "out", "ABSENT": tmp_path / "absent", "TEXT": tmp_path / "notes.txt"}
    capsys.readouterr()
    assert main([str(places.get(argument, argument)) for argument in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("jslm convert: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jslm.convert", "import", str(tmp_path / "absent"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such run folder or model file" in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_action_and_unknown_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "jslm convert export" in capsys.readouterr().out
    assert main(["publish"]) == 2
    assert "expected import, export, push or inspect" in capsys.readouterr().err


def test_llama2c_there_and_back_through_a_run(tmp_path: Path, assets: Path) -> None:
    source = assets / "checkpoints" / "stories260K"
    import_model(source / "stories260K.bin", tmp_path / "run")
    text = jslm.load(tmp_path / "run").generate("", greedy=True, max_new_tokens=100)
    assert isinstance(text, str)
    assert text.startswith("Once upon a time, there was a little girl named Lily.")
    export_model(tmp_path / "run", tmp_path / "model.bin", format="llama2c")
    assert (tmp_path / "model.bin").read_bytes() == (source / "stories260K.bin").read_bytes()
    assert (tmp_path / "tokenizer.bin").read_bytes() == (source / "tok512.bin").read_bytes()
    # The same model by way of the portable file and of Hugging Face's names.
    export_model(tmp_path / "run", tmp_path / "m.safetensors", format="safetensors")
    assert jslm.load(tmp_path / "m.safetensors").generate("", greedy=True, max_new_tokens=100) == text
    export_model(tmp_path / "run", tmp_path / "hf", format="hf")
    assert jslm.load(tmp_path / "hf").generate("", greedy=True, max_new_tokens=100) == text
