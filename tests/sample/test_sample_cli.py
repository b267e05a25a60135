from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from jslm.config import Config, config_from_dict, config_to_toml
from jslm.errors import JslmError
from jslm.infer import LanguageModel, load
from jslm.infer.loading import changed_config
from jslm.model import Params
from jslm.runs.checkpoint import CheckpointStore
from jslm.sample.__main__ import main
from jslm.tokenizer import ByteTokenizer


def write_run(
    folder: Path, config: Config, checkpoints: dict[int, tuple[dict[str, Any], float]], info: dict[str, Any]
) -> None:
    """A run folder as training leaves it: `{step: (state, validation loss)}`."""
    tokenizer = ByteTokenizer()
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(config_to_toml(config), "utf-8")
    (folder / "run.json").write_text(json.dumps(info), "utf-8")
    tokenizer.save(folder / "tokenizer.json")
    store = CheckpointStore(folder / "checkpoints")
    for step, (state, loss) in checkpoints.items():
        store.save(step, state, {"val_loss": loss, "tokenizer_fingerprint": tokenizer.fingerprint})
    store.wait()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, letters_config: Config, letters_params: Params) -> Path:
    """Step 10 is the best and holds the letters model; step 20 is the latest, and its negative."""
    folder = tmp_path_factory.mktemp("runs") / "letters"
    worse = jax.tree.map(lambda leaf: -leaf, letters_params)
    states = {10: ({"params": letters_params}, 2.0), 20: ({"params": worse}, 3.0)}
    write_run(folder, letters_config, states, {"data": {"end_of_text": True}})
    return folder


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No compilation cache in the home folder, and stdin as in a script."""
    monkeypatch.setenv("JSLM_COMPILATION_CACHE", "off")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    yield
    logging.getLogger("jslm").setLevel(logging.NOTSET)


def test_load_opens_the_best_checkpoint(run: Path, letters: LanguageModel) -> None:
    model = load(run)
    assert model.config.model == letters.config.model
    assert model.generate("abc") == letters.generate("abc")
    assert load(str(run), checkpoint="10").generate("abc") == letters.generate("abc")
    assert load(run, checkpoint="latest").generate("abc") != letters.generate("abc")


def test_average_is_used_where_the_run_has_one(tmp_path: Path, letters_params: Params, letters: LanguageModel) -> None:
    values = letters.config.model_dump()
    values["train"]["ema_decay"] = 0.9
    worse = jax.tree.map(lambda leaf: -leaf, letters_params)
    state = {"params": worse, "ema": letters_params}
    write_run(tmp_path / "run", config_from_dict(values, "test"), {5: (state, 1.0)}, {})
    assert load(tmp_path / "run").generate("abc") == letters.generate("abc")


@pytest.mark.parametrize(
    ("end_of_text", "info", "expected"),
    [
        ("auto", {"data": {"end_of_text": False}}, False),
        ("auto", {"data": {"end_of_text": True}}, True),
        ("never", {}, False),
        ("auto", {"data": None}, True),
    ],
)
def test_run_says_whether_documents_end(
    run: Path, tmp_path: Path, end_of_text: str, info: dict[str, Any], expected: bool
) -> None:
    folder = copy_run(run, tmp_path)
    (folder / "run.json").write_text(json.dumps(info), "utf-8")
    text = (folder / "config.toml").read_text("utf-8")
    (folder / "config.toml").write_text(text.replace('end_of_text = "auto"', f'end_of_text = "{end_of_text}"'), "utf-8")
    assert load(folder).ends_documents is expected


def test_longer_context_with_rope_scaling(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "jslm"):
        model = load(
            run,
            overrides=[
                "model.context_length=128", "model.rope_scaling.kind=yarn", "model.rope_scaling.factor=2",
            ],
        )  # fmt: skip
        assert caplog.records == []
        assert len(str(model.generate("abc", max_new_tokens=110))) == 110
        load(run, overrides=["model.context_length=128"])
        load(
            run, overrides=["model.context_length=256", "model.rope_scaling.kind=linear", "model.rope_scaling.factor=2"]
        )
    assert model.config.model.rope_scaling.original_context_length == 64
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == (
        "model.context_length = 128, but training saw 64 tokens at once: expect poor text past them; "
        "try model.rope_scaling.kind=yarn model.rope_scaling.factor=2"
    )
    assert "factor=4" in messages[1]
    assert len(messages) == 2


def copy_run(run: Path, tmp_path: Path) -> Path:
    """A run folder whose files can be changed; its checkpoints are those of `run`."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in run.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "checkpoints").symlink_to(run / "checkpoints")
    return folder


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.n_heads=4", "model.n_heads is fixed once a model is trained; sampling can change model.context_length"),
        ("train.steps=5", "train.steps is fixed"),
        ("model.context=5", "model.context is not a known key"),
        ("model.rope_scaling.kind=stretch", "model.rope_scaling.kind"),
        ("nonsense", "not an override"),
    ],
)
def test_overrides_that_cannot_be(run: Path, override: str, message: str) -> None:
    with pytest.raises(JslmError, match=message):
        load(run, overrides=[override])


def test_learned_positions_cannot_be_stretched() -> None:
    trained = config_from_dict({"model": {"position": "learned", "context_length": 64}}, "test")
    with pytest.raises(JslmError, match="this model has learned positions for 64 tokens and no more"):
        changed_config(trained, ["model.context_length=128"])


def test_an_edited_config_is_refused(run: Path, tmp_path: Path) -> None:
    folder = copy_run(run, tmp_path)
    text = (folder / "config.toml").read_text("utf-8")
    (folder / "config.toml").write_text(text.replace('position = "rope"', 'position = "learned"'), "utf-8")
    with pytest.raises(JslmError, match=r"embed/positions is absent, and \[64, 16\] by"):
        load(folder)


def test_another_tokenizer_is_refused(run: Path, tmp_path: Path) -> None:
    folder = copy_run(run, tmp_path)
    other = ByteTokenizer(["<|user|>"])
    other.save(folder / "tokenizer.json")
    with pytest.raises(JslmError, match=f"tokenizer {other.fingerprint}, but .* was trained with"):
        load(folder)


def test_prompt_is_echoed_and_continued(run: Path, letters: LanguageModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run", str(run), "--prompt", "abc", "--seed", "4", "--max-new-tokens", "30"]) == 0
    out, err = capsys.readouterr()
    assert out == "abc" + str(letters.generate("abc", seed=4, max_new_tokens=30)) + "\n"
    assert err.startswith("30 tokens in ")
    assert err.endswith(" tokens/s)\n")


def test_a_full_context_is_told_with_the_flag_of_the_mode(
    run: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--run", str(run), "--prompt", "abc", "--max-new-tokens", "1000"]) == 0
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.endswith("before max_new_tokens = 1000; --sliding-window writes on")
    # The advice is followed.
    caplog.clear()
    assert main(["--run", str(run), "--prompt", "abc", "--max-new-tokens", "100", "--sliding-window"]) == 0
    assert [record for record in caplog.records if record.levelno == logging.WARNING] == []
    assert main(["--run", str(run), "--prompt", "a" * 70]) == 2
    assert "shorten it or use --sliding-window" in capsys.readouterr().err


def test_several_samples_stand_under_rules(
    run: Path, letters: LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--run", str(run), "--num-samples", "3", "--max-new-tokens", "10", "--top-k", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1::2] == letters.generate("", num_samples=3, max_new_tokens=10, top_k=5)
    assert [line.rstrip("-") for line in lines[::2]] == [f"--- sample {n} of 3 " for n in (1, 2, 3)]


def test_json_lines(run: Path, letters: LanguageModel, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--run", str(run), "--prompt", "abc", "--prompt", "é", "--json", "--greedy", "--max-new-tokens", "8"]
    assert main([*arguments, "--stop", "never", "sample.top_k=3", "--seed", "9"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = letters.generate_results(["abc", "é"], greedy=True, max_new_tokens=8)
    for line, result in zip(found, expected, strict=True):
        assert line.pop("logprobs") == pytest.approx(result.logprobs, abs=1e-4)
        assert line == {
            "prompt": result.prompt, "text": result.text, "tokens": result.tokens, "finish_reason": "length", "seed": 9
        }  # fmt: skip


def test_prompt_from_file_and_from_stdin(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("abc\ndef\n", "utf-8")
    options = ["--run", str(run), "--max-new-tokens", "5"]
    assert main([*options, "--prompt", "abc\ndef"]) == 0
    expected = capsys.readouterr().out
    assert main([*options, "--prompt-file", str(file)]) == 0
    assert capsys.readouterr().out == expected
    for extra in ([], ["--prompt-file", "-"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("abc\ndef\n"))
        assert main([*options, *extra]) == 0
        assert capsys.readouterr().out == expected


def test_nothing_on_stdin_starts_a_document(
    run: Path, letters: LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--run", str(run), "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out == str(letters.generate("", max_new_tokens=5)) + "\n"


def test_conversation_at_a_terminal(
    run: Path, letters: LanguageModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("abc\n" + "x" * 99 + "\nabc\n"))
    assert main(["--run", str(run), "--max-new-tokens", "12"]) == 0
    out, err = capsys.readouterr()
    first, second = (str(letters.generate("abc", max_new_tokens=12, seed=seed)) for seed in (0, 2))
    assert out == f"> abc{first}\n> > abc{second}\n> "
    assert "jslm sample: prompt is 99 tokens" in err


def test_interrupt_ends_a_sample_cleanly(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: LanguageModel, prompt: str, **options: Any) -> Iterator[str]:
        yield "some"
        raise KeyboardInterrupt

    monkeypatch.setattr(LanguageModel, "stream", interrupted)
    assert main(["--run", str(run), "--prompt", "abc"]) == 0
    assert capsys.readouterr().out == "abcsome\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "-1"], "temperature = -1.0; expected 0 (greedy) or more"),
        (["--top-p", "0"], "top_p = 0.0; expected above 0"),
        (["--min-p", "2"], "min_p = 2.0; expected from 0 to 1"),
        (["--num-samples", "0"], "num_samples = 0; expected 1 or more"),
        (["--max-new-tokens", "0"], "max_new_tokens = 0; expected 1 or more"),
        (["--repetition-penalty", "0"], "repetition_penalty = 0.0; expected above 0"),
        (["--checkpoint", "11"], "no checkpoint '11'; there are best, latest, 10, 20"),
        (["--prompt", "x" * 64], "prompt is 64 tokens, the context of this model is 64; shorten it"),
        (["--prompt", "\udce9"], "is not UTF-8 text"),
        (["--prompt-file", "nowhere.txt"], "nowhere.txt: No such file"),
        (["model.n_heads=1"], "model.n_heads is fixed"),
    ],
)
def test_errors_are_one_line(run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run", str(run), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jslm sample: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_folders_that_are_no_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n", "utf-8")
    untrained = copy_run(run, tmp_path)
    (untrained / "checkpoints").unlink()
    for arguments, message in (
        (["--run", str(tmp_path / "nothing")], "no such run folder"),
        (["--run", str(tmp_path)], "not a run folder: it has no config.toml"),
        (["--run", str(untrained), "--prompt", ""], "no checkpoint yet"),
        (["--run", str(run), "--prompt-file", str(empty)], "empty; for a sample without a prompt use --prompt ''"),
    ):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert message in err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom jslm.sample.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'jax', 'numpy', 'orbax', 'flax', 'tokenizers', 'tiktoken'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--sliding-window" in done.stdout


def test_a_model_trained_in_16_bits_computes_in_float32_on_cpus() -> None:
    trained = config_from_dict({"model": {"dtype": "bfloat16"}}, "test")
    assert changed_config(trained, []).model.dtype == "auto"
    assert changed_config(trained, ["model.dtype=bfloat16"]).model.dtype == "bfloat16"
