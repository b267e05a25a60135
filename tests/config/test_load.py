"""TOML files and overrides to a Config, and back."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jslm.config import (
    Config,
    apply_overrides,
    config_from_dict,
    config_to_toml,
    describe,
    load_config,
    parse_overrides,
    preset_files,
)
from jslm.config.load import sections
from jslm.errors import JslmError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "run.toml"


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8"))
    return path


def error_of(path: str | Path, *overrides: str) -> str:
    with pytest.raises(JslmError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Reading


def test_empty_file_is_the_defaults(toml: Path) -> None:
    assert load_config(write(toml, "")) == Config()


def test_file_holds_only_what_differs(toml: Path) -> None:
    config = load_config(write(toml, '[model]\nd_model = 64\nn_heads = 4\n[model.rope_scaling]\nkind = "yarn"\n'))
    assert (config.model.d_model, config.model.n_heads, config.model.rope_scaling.kind) == (64, 4, "yarn")
    assert config.model.n_layers == Config().model.n_layers
    assert config.train == Config().train


@pytest.mark.parametrize("text", ["\ufeffseed = 7\n", "seed = 7\r\n", "# ünïcödé\nseed = 7"])
def test_editors_habits_are_harmless(toml: Path, text: str) -> None:
    assert load_config(write(toml, text)).seed == 7


def test_integer_serves_as_a_number(toml: Path) -> None:
    value = load_config(write(toml, "[optimizer]\nlearning_rate = 1\n")).optimizer.learning_rate
    assert (value, type(value)) == (1.0, float)


# Errors


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("[model]\nn_layer = 3", "model.n_layer", "model.n_layers"),
        ("[model.rope_scaling]\nfacter = 2.0", "model.rope_scaling.facter", "model.rope_scaling.factor"),
        ("n_layers = 3", "n_layers", "model.n_layers"),
        ("[train]\nlearning_rate = 1e-3", "train.learning_rate", "optimizer.learning_rate"),
        ("[train]\ndropout = 0.1", "train.dropout", "model.dropout"),
        ("[[data.mixture]]\nwieght = 1.0\ndir = 'a'", "data.mixture[0].wieght", "data.mixture.weight"),
        ("[trian]\nsteps = 3", "trian", "train"),
        ("[model]\nstr = 3", "model.str", "model.norm"),
        ('"a\\nb" = 3', '"a\\nb"', "data.about"),
    ],
)
def test_unknown_key_names_the_nearest(toml: Path, text: str, key: str, nearest: str) -> None:
    assert error_of(write(toml, text)) == f"{toml}: {key} is not a known key; did you mean {nearest}?"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[train]\nsteps = 1.5", "train.steps = 1.5; expected a valid integer"),
        ("[train]\nsteps = '1'", 'train.steps = "1"; expected a valid integer'),
        ("[train]\nsteps = -1", "train.steps = -1; expected greater than or equal to 0"),
        ("seed = true", "seed = true; expected a valid integer"),
        ("run_dir = 5", "run_dir = 5; expected a valid string"),
        ("[model]\ntie_embeddings = 1", "model.tie_embeddings = 1; expected a valid boolean"),
        ("[model]\nnorm = 'x'", "model.norm = \"x\"; expected 'rmsnorm' or 'layernorm'"),
        ("[optimizer]\nlearning_rate = nan", "optimizer.learning_rate = NaN; expected a finite number"),
        ("[data]\nsource = 1", "data.source = 1; expected a string or a list of strings"),
        ("[data]\nsource = ['a', 1]", 'data.source = ["a", 1]; expected a string or a list of strings'),
        ("[data]\ndir = 2024-01-01", 'data.dir = "2024-01-01"; expected a valid string'),
        ("[sample]\nprompts = ['a', 1]", "sample.prompts[1] = 1; expected a valid string"),
        (
            "[[data.mixture]]\ndir = 'a'\n[[data.mixture]]\ndir = 'b'\nweight = 0.0",
            "data.mixture[1].weight = 0.0; expected greater than 0",
        ),
        ("[data]\nmixture = ['a']", 'data.mixture[0] = "a"; expected a table of keys, such as data.mixture[0].dir'),
        ("[[train.curriculum]]\nuntil = 0.5", "train.curriculum[0].context is missing; give it a value"),
        ("train = 3", "train = 3; expected a table of keys, such as train.objective"),
        (
            "[model]\nrope_scaling = 3",
            "model.rope_scaling = 3; expected a table of keys, such as model.rope_scaling.kind",
        ),
    ],
)
def test_wrong_value_says_what_was_found_and_expected(toml: Path, text: str, problem: str) -> None:
    assert error_of(write(toml, text)) == f"{toml}: {problem}"


def test_long_value_is_cut(toml: Path) -> None:
    message = error_of(write(toml, f"seed = '{'x' * 5000}'"))
    assert len(message) < len(str(toml)) + 150


def test_impossible_combination_names_the_file(toml: Path) -> None:
    message = error_of(write(toml, "[model]\nn_heads = 8\nd_model = 64\nn_kv_heads = 3"))
    assert message == f"{toml}: model.n_kv_heads = 3 does not divide model.n_heads = 8; use one of 1, 2, 4, 8"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[data]\nstride = 8\npacking = 'documents'", "data.stride = 8 is for data.packing = 'windows'"),
        ("[data]\nstride = 300", "data.stride = 300 is over model.context_length = 256"),
        ('[data]\nseparator = "\\r\\n"', r"data.separator = '\r\n' has a carriage return, and text is read"),
        ("[data]\nmixture = [{dir = 'a'}]\ndir = 'b'", "data.mixture is in place of data.source and data.dir"),
        ("[data]\nmixture = [{dir = 'a'}]\nsource = 'b'", "data.mixture is in place of data.source and data.dir"),
        ("[data]\nmixture = [{dir = 'a'}, {dir = 'a/'}]", "data.mixture: 'a' is there twice"),
        (
            "[train]\ncurriculum = [{context = 100, until = 0.5}]",
            "train.curriculum[0].context = 100 does not divide model.context_length = 256",
        ),
        (
            "[train]\ncurriculum = [{context = 64, until = 0.5}, {context = 32, until = 0.7}]",
            "train.curriculum[1] = {context = 32, until = 0.7} follows {context = 64, until = 0.5}",
        ),
        (
            "[train]\ncurriculum = [{context = 64, until = 0.5}, {context = 128, until = 0.5}]",
            "train.curriculum[1] = {context = 128, until = 0.5} follows {context = 64, until = 0.5}",
        ),
        ("[data.augment]\ncopies = 1", "data.augment.copies = 1, but nothing is to be altered"),
        ("[data.augment]\nnoise = 0.1", "data.augment has transforms but copies = 0"),
    ],
)
def test_batches_that_make_no_sense_are_one_line(toml: Path, text: str, problem: str) -> None:
    message = error_of(write(toml, text))
    assert message.startswith(f"{toml}: {problem}")
    assert "\n" not in message


def test_lists_of_tables_are_written_as_toml(toml: Path) -> None:
    text = """
        [[data.mixture]]
        dir = "a \\"b\\" \\u007f"
        weight = 2
        [[data.mixture]]
        dir = "c"
        [train]
        curriculum = [{context = 64, until = 0.25}, {context = 128, until = 0.5}]
    """
    config = load_config(write(toml, text))
    assert [(corpus.dir, corpus.weight) for corpus in config.data.mixture] == [('a "b" \x7f', 2.0), ("c", 1.0)]
    assert config.data_dir == 'a "b" \x7f'
    again = load_config(write(toml, config_to_toml(config)))
    assert again == config
    override = "train.curriculum=[{context = 32, until = 1.0}]"
    assert apply_overrides(config, [override]).train.curriculum[0].context == 32


@pytest.mark.parametrize("text", ["seed = ", "seed = 1\nseed = 2", "[train", "x = \x00"])
def test_bad_toml_names_the_file(toml: Path, text: str) -> None:
    assert error_of(write(toml, text)).startswith(f"{toml}: not valid TOML: ")


def test_file_that_is_not_text_is_named(toml: Path) -> None:
    toml.write_bytes(b"\xff\xfe\x00")
    assert error_of(toml).startswith(f"{toml}: cannot be read as a config file: ")
    assert error_of(toml.parent).startswith(f"{toml.parent}: cannot be read as a config file: ")


def test_missing_file_suggests_a_neighbour(toml: Path) -> None:
    write(toml, "")
    assert error_of(toml.with_name("rum.toml")) == (
        f"{toml.with_name('rum.toml')}: no such config file; did you mean {toml}?"
    )
    assert error_of(toml.with_name("zzzzzzzzz.toml")).endswith(": no such config file")
    assert error_of(toml.parent / "absent" / "run.toml").endswith(": no such config file")


def test_a_preset_goes_by_its_name_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart") == load_config(ROOT / "configs" / "quickstart.toml")
    assert load_config("data/books", ["seed=3"]).data.dir == "data/books/gpt2"
    assert error_of("configs/quickstart.toml") == (
        "configs/quickstart.toml: no such config file; that of jslm goes by the name quickstart"
    )
    assert error_of("data/books/recipe.toml").endswith("; that of jslm goes by the name data/books")
    assert error_of("quikstart") == "quikstart: no such config file, nor a preset of jslm; did you mean quickstart?"
    assert error_of("zzzzzz") == "zzzzzz: no such config file, nor a preset of jslm; jslm configs lists them"
    # A file of one's own is meant where there is one; a folder is not.
    (tmp_path / "quickstart").mkdir()
    assert load_config("quickstart").data.source == "stories:16MB"
    (tmp_path / "quickstart").rmdir()
    write(tmp_path / "quickstart", "seed = 9")
    assert load_config("quickstart") == Config(seed=9)


def test_every_preset_says_what_it_is_for() -> None:
    said = {name: describe(file) for name, file in preset_files().items()}
    assert {name: text for name, text in said.items() if not 10 < len(text) < 140} == {}


# Overrides


def test_overrides_win_over_the_file(toml: Path) -> None:
    write(toml, "seed = 1\n[train]\nsteps = 10\nbatch_size = 4\n")
    config = load_config(toml, iter(["train.steps=20", "model.rope_scaling.factor=2.0", " seed =3"]))
    assert (config.seed, config.train.steps, config.train.batch_size) == (3, 20, 4)
    assert config.model.rope_scaling.factor == 2.0


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.report=false", {"train": {"report": False}}),
        ("optimizer.learning_rate=3e-4", {"optimizer": {"learning_rate": 3e-4}}),
        ('sample.prompts=["a", "b"]', {"sample": {"prompts": ["a", "b"]}}),
        ("data.source=my text.txt", {"data": {"source": "my text.txt"}}),
        ('data.source=["a", "b"]', {"data": {"source": ["a", "b"]}}),
        ("data.source=2024", {"data": {"source": "2024"}}),
        ("data.separator=a=b", {"data": {"separator": "a=b"}}),
        ("data.separator=", {"data": {"separator": ""}}),
        (r'data.separator="\n\n"', {"data": {"separator": "\n\n"}}),
        ("run_dir=2024", {"run_dir": "2024"}),
        ("run_dir=true", {"run_dir": "true"}),
        ("run_dir='runs/a'", {"run_dir": "runs/a"}),
        ("run_dir=1\nseed=2", {"run_dir": "1\nseed=2"}),
        ("train.init_checkpoint=500", {"train": {"init_checkpoint": "500"}}),
        ("tokenizer.kind=char", {"tokenizer": {"kind": "char"}}),
        ("model={n_layers = 2}", {"model": {"n_layers": 2}}),
    ],
)
def test_override_values(override: str, expected: dict[str, object]) -> None:
    assert parse_overrides([override]) == expected


def test_last_override_wins_and_sections_merge() -> None:
    overrides = ["model.d_model=8", "model={n_layers = 2}", "model.d_model=16"]
    assert parse_overrides(overrides) == {"model": {"d_model": 16, "n_layers": 2}}


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("seed", "'seed' is not an override; write section.key=value"),
        ("=1", "'=1' is not an override; write section.key=value"),
        ("model.n_layer=2", "model.n_layer is not a known key; did you mean model.n_layers?"),
        ("train.steps=many", 'train.steps = "many"; expected a valid integer'),
        ("train.steps=1\nseed=2", 'train.steps = "1\\nseed=2"; expected a valid integer'),
        ("train=5", "train = 5; expected a table of keys, such as train.objective"),
        ("seed.deep=1", 'seed = {"deep": 1}; expected a valid integer'),
        ("run_dir=\udcff", "'run_dir=\\udcff' is not UTF-8 text; check the terminal's encoding"),
    ],
)
def test_bad_override_names_the_command_line(toml: Path, override: str, problem: str) -> None:
    write(toml, "")
    assert error_of(toml, override) == f"command line: {problem}"
    with pytest.raises(JslmError) as caught:
        apply_overrides(Config(), [override])
    assert str(caught.value) == f"command line: {problem}"


def test_the_file_is_blamed_for_its_own_fault(toml: Path) -> None:
    assert error_of(write(toml, "[train]\nsteps = 'x'"), "train.steps=5").startswith(f"{toml}: train.steps")


def test_override_may_mend_what_the_file_leaves_impossible(toml: Path) -> None:
    write(toml, "[model]\nd_model = 64\nn_heads = 5\n")
    assert load_config(toml, ["model.n_heads=4"]).model.n_heads == 4
    assert error_of(toml, "seed=1").startswith(f"{toml} with overrides: model.n_heads = 5 does not divide")


def test_apply_overrides_leaves_the_rest() -> None:
    config = apply_overrides(Config(), ["model.d_model=64", "model.n_heads=4"])
    assert config == Config(model=Config().model.model_copy(update={"d_model": 64, "n_heads": 4}))
    assert apply_overrides(config, []) is config


# Writing

TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("\"'\\\n\r\t\0\b\f\x1b\x7f\x85\u2028\ufeff#=[]{}, \U0001f600"),
    ),
    max_size=30,
)


@given(
    text=TEXT, texts=st.lists(TEXT, max_size=3), rate=st.floats(min_value=5e-324, allow_infinity=False, allow_nan=False)
)
def test_toml_round_trip(tmp_path_factory: pytest.TempPathFactory, text: str, texts: list[str], rate: float) -> None:
    values = {
        "run_dir": text,
        # A carriage return is refused there: text is read with line feeds alone.
        "data": {"separator": text.replace("\r", ""), "source": texts},
        "sample": {"prompts": texts},
        "optimizer": {"learning_rate": rate},
    }
    config = config_from_dict(values, "test")
    assert (config.run_dir, config.sample.prompts, config.optimizer.learning_rate) == (text, texts, rate)
    path = tmp_path_factory.getbasetemp() / "round_trip.toml"
    path.write_text(config_to_toml(config), "utf-8")
    assert load_config(path) == config


@given(text=TEXT)
def test_quoted_override_is_any_text(text: str) -> None:
    written = config_to_toml(Config(run_dir=text)).split("\n")[0].removeprefix("run_dir = ")
    assert apply_overrides(Config(), [f"run_dir={written}"]).run_dir == text


def test_toml_holds_every_key() -> None:
    values = tomllib.loads(config_to_toml(Config()))
    for path, section in sections():
        table = values
        for part in filter(None, path.split(".")):
            table = table[part]
        assert set(table) == set(section.model_fields)
