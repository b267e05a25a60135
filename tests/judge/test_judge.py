"""Judging: what is kept, who is asked what, what is hidden until the end, and what the answers say."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jslm.config import config_from_dict
from jslm.errors import JslmError
from jslm.evaluate import wilson
from jslm.judge.__main__ import main
from jslm.judge.answers import Answers
from jslm.judge.desk import Desk, Refused
from jslm.judge.figures import krippendorff, result, said
from jslm.judge.prompts import parse_side, read_prompts
from jslm.judge.server import JudgeServer
from jslm.judge.study import Pair, Study, open_study
from jslm.runs.remote import opened
from jslm.train import train, write_report

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [Pair(f"prompt {n}", f"alpha text {n}", f"beta text {n}") for n in range(12)] + [Pair("", "same", "same")]
LABELS = {"a": "mine@2000", "b": "mine@4000"}


def asked(scales: bool = False, **other: Any) -> dict[str, Any]:
    sides = {name: {"path": f"/runs/{label}", "step": 1, "label": label} for name, label in LABELS.items()}
    return {**sides, "scales": scales, "seed": 0, **other}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return open_study(tmp_path / "study", asked(), lambda: PAIRS)


@pytest.fixture
def desk(study: Study) -> Desk:
    return Desk(study, Answers(study), 2, lambda _: None)


def judge_all(desk: Desk, person: str, prefers: Callable[[str, str], int]) -> dict[str, Any]:
    """Answers all; `prefers(left, right)` is -1 for the left text, 0, or 1. Returns the last page."""
    item = desk.item(person)
    while not item["finished"]:
        item = desk.answer(person, item["place"], {"better": prefers(item["left"], item["right"])})
    return item


def likes_beta(left: str, right: str) -> int:
    return -1 if left.startswith("beta") else 1


def test_sides_and_order_are_random_and_stay(study: Study) -> None:
    names = [f"person {n}" for n in range(50)]
    lefts = [study.left(name, number) for name in names for number in study.open]
    assert 0.4 < lefts.count("a") / len(lefts) < 0.6
    assert len({tuple(study.order(name)) for name in names}) == 50
    assert all(sorted(study.order(name)) == list(range(12)) for name in names)
    again = open_study(study.folder, asked(), lambda: pytest.fail("the texts are there already"))
    assert [again.left(name, 3) for name in names] == [study.left(name, 3) for name in names]
    # Another study puts them otherwise: nobody can learn the sides by heart.
    other = open_study(study.folder.with_name("other"), asked(), lambda: PAIRS)
    assert [other.left(name, n) for name in names for n in other.open] != lefts


def test_nothing_tells_who_wrote_what_before_the_end(study: Study, desk: Desk) -> None:
    said_so_far = json.dumps(desk.item("Ada"))
    item = desk.item("Ada")
    for _ in range(11):
        item = desk.answer("Ada", item["place"], {"better": 1})
        said_so_far += json.dumps(item)
    with pytest.raises(Refused, match=r"not done: 0 of 2 people have answered all \(Ada 11 of 12\)") as refused:
        desk.figures()
    assert refused.value.status == 403
    said_so_far += json.dumps(desk.answer("Ada", item["place"], {"better": 0}))
    assert "1 of 2 people have answered all" in said_so_far
    static = ROOT / "jslm/judge/static"
    said_so_far += "".join(path.read_text("utf-8") for path in static.iterdir())
    for secret in (*LABELS.values(), "a_over_b", study._secret.decode()):
        assert secret not in said_so_far
    # Bo has not answered, and Ada's end shows nothing: the same for who asks under another name.
    assert "result" not in desk.item("Ada")
    assert "result" not in desk.item("Cy")


def test_each_answer_is_on_disk_and_a_restart_goes_on(
    study: Study, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    item = desk.item("Ada")
    file = study.folder / "answers.jsonl"
    for n in range(1, 6):
        item = desk.answer("ada" if n % 2 else "Ada", item["place"], {"better": -1})
        lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        assert len(lines) == n
    assert all(line["a_over_b"]["better"] == (1 if line["left"] == "a" else -1) for line in lines)
    assert {line["person"] for line in lines} == {"ada"}
    with file.open("ab") as stream:
        stream.write(b'{"person": "ada", "pai')
    again = Desk(study, Answers(study), 2, lambda _: None)
    assert again.item("ADA") == item
    assert item["done"] == 5
    assert "cut off by a crash" in caplog.text
    assert file.read_text("utf-8").endswith("}\n")
    # One step back shows what was given, and another answer takes its place.
    before = again.item("ada", item["place"] - 1)
    assert before["answers"] == {"better": -1}
    again.answer("ada", before["place"], {"better": 0})
    assert again.answers.people() == {"ada": 5}
    with file.open("ab") as stream:
        stream.write(b'{"person": "ada", "pair": 99, "a_over_b": {"better": 1}}\n[1]\n')
    assert Answers(study).people() == {"ada": 5}
    assert "2 line(s) are no answers of this study" in caplog.text


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_kill_at_any_byte_loses_no_finished_answer(cut: int, study: Study, desk: Desk) -> None:
    judge_all(desk, "Ada", lambda left, right: 1)
    file = study.folder / "answers.jsonl"
    raw = file.read_bytes()
    place = random.Random(cut).randrange(len(raw))
    file.write_bytes(raw[:place])
    found = Answers(study)
    assert found.people().get("Ada", 0) == raw[:place].count(b"\n")
    later = Desk(study, found, 1, lambda _: None)
    judge_all(later, "Ada", lambda left, right: 1)
    assert Answers(study).people() == {"Ada": 12}


def test_what_cannot_be_written_is_not_taken(study: Study, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.answer("Ada", 0, {"better": 1})
    before = (study.folder / "answers.jsonl").read_bytes()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(Refused, match="No space left on device"):
            desk.answer("Ada", 1, {"better": 1})
    assert (study.folder / "answers.jsonl").read_bytes() == before
    assert desk.item("Ada")["done"] == 1


def test_two_people_who_agree(study: Study, desk: Desk) -> None:
    judge_all(desk, "Ada", likes_beta)
    desk.answer("Cy", 0, {"better": 0})
    end = judge_all(desk, "Bo", lambda left, right: likes_beta(left, right) if "1" in left else 0)
    figures = desk.figures()
    (question,) = figures["questions"]
    assert (question["a_wins"], question["b_wins"], question["ties"]) == (0, 12, 1)
    assert (question["rate"], question["low"]) == (0.0, 0.0)
    assert question["high"] == pytest.approx(0.2425, abs=1e-4)
    assert figures["not_counted"] == 1
    text = "\n".join(end["result"])
    assert "mine@2000 against mine@4000: 13 prompts (1 not asked: both wrote the same, a tie), 2 people" in text
    assert (
        "mine@2000 in 0 of 12 prompts that have a winner: 0%, 95% interval 0% to 24% (Wilson); 1 tie left out" in text
    )
    assert "So: mine@4000 is better" in text
    assert "Krippendorff's alpha" in text
    assert "Not counted, as they have not answered all: 1" in text


def test_people_who_disagree_make_ties(study: Study, desk: Desk) -> None:
    judge_all(desk, "Ada", likes_beta)
    end = judge_all(desk, "Bo", lambda left, right: -likes_beta(left, right))
    (question,) = desk.figures()["questions"]
    assert (question["ties"], question["rate"]) == (13, None)
    assert question["alpha"] < -0.9
    assert "No prompt has a winner (13 ties left out)" in "\n".join(end["result"])


def test_scales_are_asked_and_told_apart(tmp_path: Path) -> None:
    study = open_study(tmp_path, asked(scales=True), lambda: PAIRS[:4])
    desk = Desk(study, Answers(study), 1, lambda _: None)
    item = desk.item("Ada")
    assert [question["name"] for question in item["questions"]] == ["coherence", "quality"]
    with pytest.raises(Refused, match="a grade for each question"):
        desk.answer("Ada", 0, {"coherence": 1})
    while not item["finished"]:
        liked = likes_beta(item["left"], item["right"])
        item = desk.answer("Ada", item["place"], {"coherence": 2 * liked, "quality": -liked})
    coherence, quality = result(study, desk.answers)["questions"]
    assert (coherence["a_wins"], coherence["b_wins"], quality["a_wins"], quality["b_wins"]) == (0, 4, 4, 0)
    assert said(desk.figures())[-1] == "Agreement: it takes two people (--people 2)"


def test_bad_requests_are_refused(desk: Desk) -> None:
    for name in ("", " ", "x" * 41, "a\x00b"):
        with pytest.raises(Refused, match="a name has 1 to 40 characters"):
            desk.item(name)
    for place in (-1, 12):
        with pytest.raises(Refused, match="expected 0 to 11"):
            desk.answer("Ada", place, {"better": 0})
    for values in ({}, {"better": 2}, {"better": True}, {"better": 0.5}, {"better": 0, "more": 0}, None, [1]):
        with pytest.raises(Refused, match="a grade for each question"):
            desk.answer("Ada", 0, values)


def test_alpha_is_that_of_the_paper() -> None:
    """Krippendorff 2011, example D: 4 observers, 12 units, interval metric 0.849."""
    data = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[row[unit] for row in data if row[unit] is not None] for unit in range(12)]
    assert krippendorff(units) == pytest.approx(0.849, abs=5e-4)  # type: ignore[arg-type]
    assert krippendorff([[1, 1], [0, 0]]) == 1.0
    assert krippendorff([[1, 1], [1, 1]]) is None
    assert krippendorff([[1], [0]]) is None


def test_wilson_is_that_of_the_tables() -> None:
    # Newcombe 1998, table I, method 3: 0.2553 to 0.3662.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_another_question_is_another_study(study: Study, tmp_path: Path) -> None:
    with pytest.raises(JslmError, match=r"begun with seed = 0, now it is 1; give what it was begun with, or another"):
        open_study(study.folder, asked(seed=1), lambda: PAIRS)
    (study.folder / "study.json").write_text("{")
    with pytest.raises(JslmError, match="damaged"):
        open_study(study.folder, asked(), lambda: PAIRS)
    with pytest.raises(JslmError, match="wrote the same after all 1 prompts"):
        open_study(tmp_path / "empty", asked(), lambda: PAIRS[-1:])
    assert not (tmp_path / "empty").exists()


def test_prompts_and_sides(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("Once\r\n\n upon \n")
    assert read_prompts(file) == ["Once", " upon "]
    lines = tmp_path / "prompts.jsonl"
    lines.write_text('"a\\nb"\n{"prompt": "c", "more": 1}\n')
    assert read_prompts(lines) == ["a\nb", "c"]
    lines.write_text('"a"\n{"text": "c"}\n')
    with pytest.raises(JslmError, match=r"prompts.jsonl:2: expected a string, or an object"):
        read_prompts(lines)
    file.write_text("\n \n")
    with pytest.raises(JslmError, match="empty; expected a prompt a line"):
        read_prompts(file)
    (tmp_path / "a@b").mkdir()
    assert parse_side(f"{tmp_path}@0020") == (str(tmp_path), "20")
    assert parse_side(str(tmp_path / "a@b")) == (str(tmp_path / "a@b"), "best")
    assert parse_side("S3://bucket/run/@2000") == ("s3://bucket/run", "2000")
    assert parse_side("hf://datasets/me/it@main/run") == ("hf://datasets/me/it@main/run", "best")
    with pytest.raises(JslmError, match="expected a step, best or latest after @, found 'last'"):
        parse_side(f"{tmp_path}@last")
    with pytest.raises(JslmError, match="no such run folder or model file"):
        parse_side("nowhere@4")


@pytest.fixture
def address(desk: Desk) -> Iterator[str]:
    server = JudgeServer(desk, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.url.removeprefix("http://")
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_server_guards_its_door(address: str) -> None:
    def ask(method: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(address, timeout=10)
        kind = {"Content-Type": "application/json"} if body else {}
        connection.request(method, path, body or None, kind | {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.getheader("Content-Security-Policy", "").startswith("default-src 'none'")
        return answer.status, text

    good = json.dumps({"person": "Ada", "place": 0, "answers": {"better": 1}})
    assert ask("GET", "/")[0] == 200
    assert ask("GET", "/../study.json")[0] == 404
    assert ask("GET", "/api/result")[0] == 404
    assert ask("GET", "/api/item?person=Ada&place=x")[0] == 400
    assert ask("GET", "/api/item?person=Ada", Host="evil.example")[0] == 421
    assert ask("POST", "/api/answer", good, Host="evil.example:80")[0] == 421
    assert ask("POST", "/api/answer", good, Content_Type="text/plain")[0] == 415
    assert ask("POST", "/api/answer", "{")[0] == 400
    assert ask("POST", "/api/answer", '{"person": 3, "place": 0, "answers": {}}')[0] == 400
    assert ask("POST", "/api/answer", "x" * 20_000)[0] == 413
    status, text = ask("POST", "/api/answer", good)
    assert (status, json.loads(text)["done"]) == (200, 1)
    with pytest.raises(JslmError, match="cannot listen there"):
        JudgeServer(Desk.__new__(Desk), "127.0.0.1", int(address.split(":")[1]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints at steps 2 and 4, and its report."""
    folder = tmp_path_factory.mktemp("judge")
    choice = random.Random(0)
    text = "\n".join(" ".join(choice.choices(["the", "cat", "sat", "on", "a", "mat"], k=8)) for _ in range(90))
    (folder / "text.txt").write_text(text, "utf-8")
    shape = {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 16, "context_length": 16, "dtype": "float32"}
    values = {
        "run_dir": str(folder / "run"),
        "data": {"source": str(folder / "text.txt")},
        "tokenizer": {"kind": "char"},
        "model": shape,
        # Quick enough that the two checkpoints never write the same.
        "optimizer": {"learning_rate": 0.1, "warmup_steps": 0, "schedule": "constant"},
        "train": {"steps": 4, "batch_size": 8, "eval_every": 2, "tensorboard": False},
        "sample": {"max_new_tokens": 8},
    }
    train(config_from_dict(values, "test"))
    (folder / "prompts.txt").write_text("the c\nmat\n", "utf-8")
    return folder


def serve(command: list[str], folder: Path, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """`jslm judge`, begun in a folder, and the address of its page."""
    inherited = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "JSLM_HUGE_PAGES": "off"}
    process = subprocess.Popen(
        [sys.executable, "-m", "jslm.judge", *command],
        env=inherited | environment, cwd=folder, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = []
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"http://\S+", line):
            return process, found[0]
    raise AssertionError(process.wait(), said)


def answer(url: str, place: int) -> dict[str, Any]:
    body = json.dumps({"person": "Ada", "place": place, "answers": {"better": 1}}).encode()
    request = urllib.request.Request(f"{url}/api/answer", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        found: dict[str, Any] = json.load(response)
    return found


def test_the_command_serves_goes_on_and_fills_the_report(trained: Path) -> None:
    run = trained / "run"
    command = [f"{run}@2", f"{run}@4", "--prompts", str(trained / "prompts.txt"), "--port", "0"]
    process, url = serve(command, trained)
    try:
        assert answer(url, 0)["done"] == 1
        assert main([*command, "--result"]) == 2
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process, url = serve(command, trained)
        with urllib.request.urlopen(f"{url}/api/item?person=Ada") as response:
            item = json.load(response)
        assert (item["done"], item["place"]) == (1, 1)
        end = answer(url, 1)
        assert end["finished"]
        assert "run@2 against run@4: 2 prompts, 1 person" in end["result"][0]
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    finally:
        process.kill()
        process.communicate()
    assert "stopped; Ada 2 of 2. The same command goes on from here." in err
    report = (run / "report.html").read_text("utf-8")
    assert "Judged by people" in report
    assert "run@2 over run@4, better (1 person, 2 prompts" in report
    (run / "judgements" / "bad.json").write_text('{"questions": 3}')
    assert "Judged by people" in write_report(run).read_text("utf-8")


def test_two_checkpoints_of_a_run_in_a_bucket(
    bucket: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained / "run"
    for file in run.rglob("*"):
        name = file.relative_to(run)
        if file.is_file() and not name.name.startswith(".") and name.parts[0] not in ("judge", "judgements"):
            bucket.write(f"judged/{name.as_posix()}", file.read_bytes())
    before = bucket.read("judged/report.html").decode()
    environment = bucket.environment | {"JSLM_CACHE": str(tmp_path / "cache")}
    command = ["s3://bucket/judged@2", "s3://bucket/judged/@4", "--prompts", str(trained / "prompts.txt")]
    process, url = serve([*command, "--port", "0"], tmp_path, **environment)
    try:
        answer(url, 0)
        assert answer(url, 1)["finished"]
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    finally:
        process.kill()
        process.communicate()
    # The answers are of the people here; what came out is told where the run is.
    folder = Path("judge", "judged@2-against-judged@4")
    assert len((tmp_path / folder / "answers.jsonl").read_text("utf-8").splitlines()) == 2
    assert bucket.names("judged/judge/") == []
    assert json.loads(bucket.read(f"judged/judgements/{folder.name}.json"))["a"] == "judged@2"
    row = "judged@2 over judged@4, better (1 person, 2 prompts"
    assert row not in before
    assert row in bucket.read("judged/report.html").decode()

    for variable, value in (bucket.environment | {"JSLM_CACHE": str(tmp_path / "elsewhere")}).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    # Another machine makes the report anew.
    assert row in write_report(Path(opened("s3://bucket/judged", "latest")[0])).read_text("utf-8")
    # The result is here: the bucket need not be reached, nor have the checkpoints still.
    bucket.down, bucket.refused = True, 0
    try:
        assert main([*command, "--result"]) == 0
    finally:
        bucket.down = False
    assert "judged@2 against judged@4: 2 prompts, 1 person" in capsys.readouterr().out
    assert bucket.refused == 0
    bucket.write("model.bin", b"x")
    prompts = ["--prompts", str(trained / "prompts.txt")]
    for asked_for, message in {
        "s3://bucket/nothing": "s3://bucket/nothing: nothing is there; expected a run",
        "s3://bucket/judged@3": "s3://bucket/judged: no checkpoint '3'; there are best, latest, 2, 4",
        "s3://bucket/model.bin@4": "s3://bucket/model.bin@4: not a run folder, and has no checkpoints; leave out the @",
    }.items():
        assert main([asked_for, f"{run}@4", *prompts]) == 2
        assert message in capsys.readouterr().err


def test_the_result_and_mistakes_on_the_command_line(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["--prompts", str(trained / "prompts.txt")]
    run = str(trained / "run")

    def refused(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        return line.removeprefix("jslm judge: error: ")

    assert refused(f"{run}@4", f"{run}@4", *prompts).endswith(
        "run@4: found the same model twice; expected two models, or two checkpoints of a run"
    )
    assert "no checkpoint '3'; there are best, latest, 2, 4" in refused(f"{run}@3", f"{run}@4", *prompts)
    assert refused(run, run, "--people", "0", *prompts) == "--people 0: expected 1 or more"
    assert "no study yet" in refused(f"{run}@2", f"{run}@4", "--out", str(trained / "x"), "--result", *prompts)
    text = str(trained / "prompts.txt")
    assert "not a run folder, and has no checkpoints" in refused(f"{text}@4", f"{run}@4", *prompts)
