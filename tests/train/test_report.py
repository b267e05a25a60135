"""The report page: sound markup, honest numbers, every piece of a run absent in turn; and `samples.md`."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jslm.errors import JslmError
from jslm.train.metrics import MetricsLog
from jslm.train.report import (
    append_samples,
    drop_samples_after,
    main,
    read_samples,
    summary_lines,
    write_report,
)
from jslm.train.report_charts import Chart, Line, figure, log_ticks, nice_ticks, thin, tick_label
from jslm.train.report_summary import format_bytes, format_moment, verdict

INFO: dict[str, Any] = {
    "started": 1767225600.0,
    "finished": "2026-01-01T00:03:12+00:00",
    "status": "finished",
    "versions": {"jax": "0.10.0", "flax": "0.12.0"},
    "devices": "2 CPU cores",
    "python": "3.13.1",
    "mesh": {"data": 2, "fsdp": 1, "tensor": 1},
    "parameters": {"total": 1_100_000, "embedding": 524_288, "layers": 575_712},
    "data": {
        "train": {"tokens": 12_300_000, "documents": 45_000, "bytes": 50_100_000},
        "val": {"tokens": 1_200_000, "documents": 1, "bytes": 4_900_000},
        "sources": ["stories:20MB", "my <notes>.txt"],
    },
    "entropy_bits_per_byte": 0.565,
    "result": {
        "step": 400,
        "val/loss": 1.301,
        "val/bits_per_byte": 0.61,
        "val/perplexity": 3.67,
        "best_step": 300,
        "best_val/loss": 1.25,
        "train_seconds": 192.3,
        "tokens_seen": 3_276_800,
        "tokens_per_s": 41_200.0,
        "mfu": 0.21,
    },
    "story_check": {"passed": 93, "of": 100, "problems": {"hero's name changes": 3, "no <end>": 4}},
    "steps": 400,
    "tokens_per_step": 8192,
    "passes": 0.25,
    "padding": 0.125,
    "prompts": 0.0,
    "expected_seconds": 200.0,
}

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Checks that tags nest and collects what the tests ask about."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.stack):
            self.text += data


def make_run(folder: Path, steps: int, info: dict[str, Any] | None = None) -> Path:
    noise = random.Random(0)
    with MetricsLog(folder, resume_step=None) as log:
        for step in range(1, steps + 1):
            loss = 1.2 + 5 * math.exp(-step / 20) + noise.gauss(0, 0.02)
            values = {"train/loss": loss, "train/bits_per_byte": loss * 0.43, "lr": 1e-3 / step, "grad_norm": 9 / step}
            log.write(step, values | {"tokens": step * 8192, "tokens_per_s": 4e4, "mfu": 0.2, "param_norm": 3.0})
            if step % 100 == 0:
                val = 1.25 + 0.002 * abs(step - 300) + 0.1 * (step < 300)
                log.write(step, {"val/loss": val, "val/bits_per_byte": 0.43 * val, "val/perplexity": math.exp(val)})
    if info is not None:
        (folder / "run.json").write_text(json.dumps(info))
    return folder


def page_of(folder: Path) -> tuple[str, Page]:
    html = write_report(folder).read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>")
    page = Page(html)
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        root = ElementTree.fromstring(svg)
        assert root.find("title") is not None
        assert root.find("desc") is not None
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "nan" not in re.sub(r"<style>.*</style>|<script>.*</script>", "", html, flags=re.DOTALL).lower()
    return html, page


def test_a_whole_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "tiny & <stories>", 400, INFO)
    (folder / "config.toml").write_text('run_dir = "runs/<x>"\n')
    append_samples(folder / "samples.md", 300, [("Once upon a time", " old text")])
    append_samples(folder / "samples.md", 400, [("Once upon a time", " Lily </main><script>alert(1)</script> & Max.")])
    html, page = page_of(folder)
    assert "tiny & <stories>" in page.text
    assert (
        "A 1.1M-parameter model, trained for 3 min 12 s on 2 CPU cores, predicts held-out text at 0.61 bits per byte: "
        "8% above the text's own entropy of 0.565."
    ) in page.text
    assert "<script>alert" not in html
    assert "Once upon a time Lily </main><script>alert(1)</script> & Max." in page.text
    assert page.text.index("Lily") < page.text.index("old text")
    for said in ("93 of 100", "no <end>", "my <notes>.txt", 'run_dir = "runs/<x>"', "3.13.1", "0.12.0", "524,288"):
        assert said in page.text
    assert "--prompt 'Once upon a time'" in page.text
    assert "entropy of the text 0.565" in page.text
    assert "best 1.25, step 300" in page.text
    assert "began to memorise" in page.text


def test_the_baseline_stands_beside_the_model(tmp_path: Path) -> None:
    info = INFO | {"entropy_bits_per_byte": None, "baseline": {"bits_per_byte": 1.654}}
    _, page = page_of(make_run(tmp_path, 400, info))
    assert page.text.count("byte 5-gram, Kneser-Ney 1.654") >= 2
    assert "A byte 5-gram with Kneser-Ney smoothing, which only counts, makes 1.65 of it." in page.text
    assert "byte 5-gram 1.654" in page.text
    result = {"val/bits_per_byte": 1.7}
    assert "no more than counting" in verdict({"baseline": {"bits_per_byte": 1.654}, "result": result})


def test_nothing_is_asked_of_the_network(tmp_path: Path) -> None:
    html, page = page_of(make_run(tmp_path, 400, INFO))
    assert not [attributes for _, attributes in page.tags if {"src", "href", "srcset", "data"} & attributes.keys()]
    assert "://" not in html
    assert "@import" not in html
    assert {target[0] for target in re.findall(r"url\(([^)]*)\)", html)} == {"#"}


@pytest.mark.parametrize("key", [None, *INFO])
@pytest.mark.parametrize("null", [False, True])
def test_any_key_may_be_absent_or_null(tmp_path: Path, key: str | None, null: bool) -> None:
    info = {name: value for name, value in INFO.items() if key is not None and name != key}
    if key is not None and null:
        info[key] = None
    page_of(make_run(tmp_path, 100, info))
    summary_lines(info)


@pytest.mark.parametrize("key", list(INFO["result"]))
def test_any_result_may_be_absent(tmp_path: Path, key: str) -> None:
    result = {name: value for name, value in INFO["result"].items() if name != key}
    page_of(make_run(tmp_path, 3, INFO | {"result": result}))


def test_a_folder_with_a_config_only(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("seed = 1\n")
    html, page = page_of(tmp_path)
    assert "The model has not measured anything yet." in page.text
    assert "<svg" not in html


def test_one_point(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, resume_step=None) as log:
        log.write(1, {"train/loss": 2.0, "lr": 0.0, "grad_norm": 0.0, "mfu": None})
    html, page = page_of(tmp_path)
    assert "reached a training loss of 2.000 nats per token; it was not tried on held-out text." in page.text
    assert html.count('<circle class="train"') == 4
    assert "best" not in page.text
    assert "MFU" not in page.text


def test_a_killed_run_reports_its_last_measurements(tmp_path: Path) -> None:
    make_run(tmp_path, 400)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 401, "train/l')
    _, page = page_of(tmp_path)
    assert "Not finished at step 400" in page.text
    assert "predicts held-out text at 0.623 bits per byte." in page.text


def test_a_later_value_of_a_step_stands(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, resume_step=None) as log:
        log.write(5, {"val/loss": 3.0})
        log.write(5, {"val/loss": 2.0})
    _, page = page_of(tmp_path)
    assert "a loss of 2.000" in page.text
    assert "3" not in page.text.split("Numbers")[1].split("Write")[0]


def test_errors_name_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(JslmError, match="expected the folder of a run"):
        write_report(tmp_path / "none")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(JslmError, match=r"run\.json: found no valid JSON"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    assert main([str(tmp_path)]) == 2
    assert "run.json: found list" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, 2)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    with pytest.raises(SystemExit, match="2"):
        main([])


@pytest.mark.parametrize(
    ("bits", "said"),
    [
        (0.61, "0.61 bits per byte: 8% above"),
        (0.5, "0.5 bits per byte: 12% below"),
        (0.566, "0.566 bits per byte, the"),
    ],
)
def test_the_verdict_weighs_against_the_entropy(bits: float, said: str) -> None:
    assert said in verdict({"entropy_bits_per_byte": 0.565, "result": {"val/bits_per_byte": bits}})


def test_the_summary_is_aligned_ascii() -> None:
    assert summary_lines(INFO) == [
        "devices     2 CPU cores",
        "mesh        data 2, fsdp 1, tensor 1",
        "parameters  1.1M (embedding 524k, layers 576k)",
        "training    12,300,000 tokens, 45,000 documents, 50.1 MB",
        "validation  1,200,000 tokens, 1 document, 4.9 MB",
        "steps       400 of 8,192 tokens, 0.25 passes over the text (12.5% padding)",
        "time        about 3 min 20 s",
    ]
    lines = summary_lines({"overlap": "latency_hiding_scheduler", "dtype": "bfloat16"})
    assert lines == ["overlap     latency_hiding_scheduler", "compute     bfloat16"]
    assert summary_lines({}) == []


def test_sizes_and_moments() -> None:
    assert [format_bytes(size) for size in (812, 50_100, 2e9)] == ["812 bytes", "50.1 kB", "2 GB"]
    assert format_moment(0) == "1970-01-01 00:00 UTC"
    assert format_moment("2026-01-01T00:03:12") == "2026-01-01 00:03"
    assert format_moment("yesterday") == "yesterday"


@given(low=st.floats(-1e3, 1e3), span=st.floats(1e-2, 1e6), most=st.integers(3, 10))
def test_ticks_are_round_few_and_inside(low: float, span: float, most: int) -> None:
    high = low + span
    ticks = nice_ticks(low, high, most)
    assert 1 <= len(ticks) <= most
    assert all(low - 1e-6 * span <= tick <= high + 1e-6 * span for tick in ticks)
    if len(ticks) > 1:
        gap = ticks[1] - ticks[0]
        assert all(b - a == pytest.approx(gap, rel=1e-4) for a, b in itertools.pairwise(ticks))
        mantissa = gap / 10 ** math.floor(math.log10(gap) + 1e-6)
        assert min(abs(mantissa - nice) for nice in (1, 2, 2.5, 5)) < 1e-2


def test_ticks_of_known_axes() -> None:
    assert nice_ticks(0, 20_000, 9) == [0, 2500, 5000, 7500, 10_000, 12_500, 15_000, 17_500, 20_000]
    assert nice_ticks(0.0, 0.3, 5) == [0.0, 0.1, 0.2, 0.3]
    assert log_ticks(0.15, 25, 7) == [0.2, 0.5, 1, 2, 5, 10, 20]
    assert log_ticks(1e-9, 1e9, 5) == [1e-9, 1e-5, 0.1, 1e3, 1e7]
    assert log_ticks(1.1, 1.9, 7) == nice_ticks(1.1, 1.9, 7)


@pytest.mark.parametrize(
    ("value", "largest", "text"),
    [(2.5, 10, "2.5"), (0, 1, "0"), (2.5e-4, 1e-3, "2.5e-4"), (32_500, 40_000, "32.5k"), (2000, 4000, "2,000"),
     (1.5e6, 2e6, "1.5M"), (30_250, 30_300, "30.25k")],
)  # fmt: skip
def test_tick_labels(value: float, largest: float, text: str) -> None:
    assert tick_label(value, largest) == text


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=300), st.integers(10, 60))
def test_thinning_keeps_the_ends_and_the_spikes(values: list[float], limit: int) -> None:
    points = [(float(step), value) for step, value in enumerate(values)]
    kept = thin(points, limit)
    assert len(kept) <= limit
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert list(kept) == sorted(set(kept))
    assert set(kept) <= set(points)
    assert min(value for _, value in kept) == min(values)
    assert max(value for _, value in kept) == max(values)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
    st.booleans(),
    st.one_of(st.none(), st.floats(-10, 10)),
)
def test_dots_stay_inside_their_drawing(values: list[float], from_zero: bool, floor: float | None) -> None:
    points = list(enumerate(values, start=1))
    step, best = min(points, key=lambda point: point[1])
    lines, mark = [Line("a", points, dots=True)], None if floor is None else (floor, "floor")
    chart = Chart("x", "X", lines, from_zero=from_zero, floor=mark, best=(step, best, "best"))
    drawing = re.findall(r"<svg.*?</svg>", figure(chart))[0]
    dots = re.findall(r'<circle class="train" cx="([\d.-]+)" cy="([\d.-]+)"', drawing)
    assert len(dots) == len(points)
    assert all(52 <= float(x) <= 406 and 14 <= float(y) <= 182 for x, y in dots)
    marks = re.findall(r'<text class="mark" x="([\d.-]+)" y="([\d.-]+)"', drawing)
    assert all(52 <= float(x) <= 406 and 6 <= float(y) <= 182 for x, y in marks)
    labels = [float(y) for y in re.findall(r'<text class="tick" x="44" y="([\d.-]+)"', drawing)]
    assert all(above - below > 12 for above, below in itertools.pairwise(labels))


SAMPLES = st.lists(st.tuples(st.text(), st.text()), max_size=4)
MARKUP = st.text("*_\\`<>&#;- \n\r\t1.[]\u2028\x85\x00a")


@given(first=SAMPLES, second=st.lists(st.tuples(MARKUP, MARKUP), max_size=4))
def test_samples_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, first: list[tuple[str, str]], second: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("run") / "samples.md"
    append_samples(path, 0, first)
    append_samples(path, 250, second)
    assert read_samples(path) == [(0, *sample) for sample in first] + [(250, *sample) for sample in second]
    drop_samples_after(path, 249)
    assert read_samples(path) == [(0, *sample) for sample in first]
    append_samples(path, 250, second)
    assert read_samples(path) == [(0, *sample) for sample in first] + [(250, *sample) for sample in second]


def test_what_samples_look_like(tmp_path: Path) -> None:
    path = tmp_path / "samples.md"
    append_samples(path, 250, [("Once upon", " a time\n\n# there *was*"), ("", "The end.")])
    append_samples(path, 500, [("lone \ud800", "\r")])
    assert path.read_text(encoding="utf-8") == (
        "## Step 250\n\n> **Once upon** a time  \n>   \n> \\# there \\*was\\*\n\n> The end.\n\n"
        "## Step 500\n\n> **lone &#55296;**&#13;\n"
    )
    assert read_samples(path)[-1] == (500, "lone \ud800", "\r")


@pytest.mark.parametrize("cut", range(0, 60, 3))
def test_a_torn_samples_file_takes_more(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "samples.md"
    append_samples(path, 1, [("Ünd", "so weiter")])
    append_samples(path, 2, [("a", "b")])
    path.write_bytes(path.read_bytes()[:cut])
    drop_samples_after(path, 1)
    append_samples(path, 2, [("c", "d")])
    assert read_samples(path)[-1] == (2, "c", "d")
    assert [step for step, _, _ in read_samples(path)].count(2) == 1


def test_absent_samples(tmp_path: Path) -> None:
    path = tmp_path / "samples.md"
    assert read_samples(path) == []
    drop_samples_after(path, 3)
    assert not path.exists()
    append_samples(path, 4, [("a", "b")])
    drop_samples_after(path, -1)
    assert path.read_text() == ""


def test_what_holds_it_back_and_what_comes_next(tmp_path: Path) -> None:
    _, page = page_of(make_run(tmp_path / "a run", 3, INFO))
    assert "What holds it back" in page.text
    assert len(re.findall(r"bits per byte (?:fewer|more)|about the same", page.text)) == 4
    folder = shlex.quote(str(tmp_path / "a run"))
    for command in (f"jslm sample --run {folder}", f"jslm serve --run {folder}", f"jslm convert export {folder}"):
        assert command in page.text
    # One that the dial ended before its time gains nothing by more of it.
    capped = make_run(tmp_path / "capped", 3, INFO)
    step = INFO["result"]["step"]
    (capped / "config.toml").write_text(f"[train]\nminutes = 20.0\nsteps = {step}\n", "utf-8")
    _, page = page_of(capped)
    assert "twice the text" in page.text
    assert "time" not in page.text.partition("What holds it back")[2].partition("By a law")[0]
    # Adapted models know more than their text.
    _, adapted = page_of(make_run(tmp_path / "b", 3, INFO | {"init_from": "runs/a"}))
    assert "What holds it back" not in adapted.text


@pytest.mark.parametrize(
    ("bytes_of_text", "seen", "best"),
    [(100_000, 20_000_000, "twice the text"), (10**9, 500_000, "twice the time")],
    ids=["read many times", "hardly read"],
)
def test_what_is_short_is_named_first(tmp_path: Path, bytes_of_text: int, seen: int, best: str) -> None:
    text = {"train": {"bytes": bytes_of_text, "tokens": bytes_of_text // 3, "documents": 1}}
    info = INFO | {"data": text, "result": INFO["result"] | {"tokens_seen": seen}}
    assert f"What would help most is {best}" in page_of(make_run(tmp_path, 3, info))[1].text
