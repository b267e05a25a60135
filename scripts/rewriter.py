"""The sentence rewriter from nothing to figures: python scripts/rewriter.py [--out runs] [--dev FILE --test FILE].

Generates the data, pretrains, fine-tunes, exports one portable file, and measures: held-out verbs and nouns, 300
natural sentences, and with --dev and --test the public passives of `multilingual-transformations` (passive to active;
its copies have to stay as they are). Prints the time of each stage, and writes figures.json.

With --parsed, --text or both it makes the rewriter of natural sentences in their place (docs/rewriting.md):

python scripts/rewriter.py --out runs/natural --parsed train.conllu.gz --text book.txt --minutes 50
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import rewriter_natural

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "data" / "rewrite" / "recipe.toml"
NATURAL = ROOT / "data" / "rewrite" / "natural.tsv"
# What data/rewrite/README.md says of each file.
FILES = {
    "train.jsonl": "--count 60000 --seed 0",
    "wide.jsonl": "--count 160000 --seed 0 --split wide",
    "tokenized.jsonl": "--count 30000 --seed 5 --split wide --tokenized",
    "plain.jsonl": "--count 30000 --seed 6 --split verb --unpaired",
    "val.jsonl": "--count 5000 --seed 1",
    "verb.jsonl": "--count 5000 --seed 2 --split verb",
    "noun.jsonl": "--count 5000 --seed 3 --split noun",
}
MEASURED = ("val", "verb", "noun")


def main() -> int:
    """Runs every stage that has not been run yet in --out; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs", metavar="DIR", help="folder for data, runs and figures (default runs)")
    parser.add_argument("--dev", metavar="FILE", help="public pairs to fine-tune on as well")
    parser.add_argument("--test", metavar="FILE", help="public pairs to measure on")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="measure the first N pairs of each file only")
    parser.add_argument("--natural", metavar="MODEL", help="only measure this model on the natural sentences")
    rewriter_natural.add_arguments(parser)
    parser.add_argument("overrides", nargs="*", default=[], metavar="section.key=value", help="for both trainings")
    args = parser.parse_intermixed_args()
    for path in filter(None, (args.dev, args.test)):
        if not Path(path).is_file():
            parser.error(f"{path}: no such file; expected lines of `sentence . passiv`, tab, passive sentence")
    rewriter_natural.check(args, parser)
    if args.natural:
        from jslm.errors import JslmError

        try:
            print(json.dumps(natural_quality(args.natural), indent=2))
        except JslmError as error:
            parser.error(str(error))
        return 0
    work = Path(args.out)
    work.mkdir(parents=True, exist_ok=True)
    asked = {"dev": args.dev, "test": args.test, "overrides": args.overrides}
    natural = bool(args.parsed or args.text)
    if natural:
        kept = ("parsed", "text", "pipeline", "large", "minutes", "precision", "left_alone")
        asked |= {name: getattr(args, name) for name in (*kept, "licence", "measure", "limit")}
    stages = Stages(work / "stages.json")
    # Where no stage is done nothing was made with the arguments before.
    before = work / "asked.json"
    if stages.done and not before.exists():
        parser.error(
            f"{before}: is missing, and says what this folder was made with; choose another --out, or delete it"
        )
    if stages.done and (other := _differing(json.loads(before.read_text("utf-8")), asked)):
        parser.error(f"--out {work}: made with another {other}; choose another folder, or delete it")
    before.write_text(json.dumps(asked) + "\n", "utf-8")
    if natural:
        rewriter_natural.run(args, stages, jslm, public_pairs)
        print((work / "report.md").read_text("utf-8"))
        print(json.dumps(stages.done, indent=2))
        return 0
    stages.run("data", lambda: make_data(work, args.dev, args.test))
    stages.run("pretrain", lambda: pretrain(work, args.overrides))
    stages.run("fine-tune", lambda: fine_tune(work, args.overrides))
    model = work / "rewriter.safetensors"
    stages.run("export", lambda: jslm("convert", "export", work / "sft", model, "--format", "safetensors"))
    stages.run(f"evaluate {args.limit or 'all'}", lambda: evaluate(work, model, args.limit))
    figures = {"stages": stages.done, "total_seconds": sum(stage["wall_s"] for stage in stages.done.values())}
    figures |= json.loads(quality_file(work, args.limit).read_text("utf-8")) | {"file_mb": model.stat().st_size / 1e6}
    (work / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    print(json.dumps({key: value for key, value in figures.items() if key != "mistakes"}, indent=2))
    return 0


def _differing(before: dict[str, Any], asked: dict[str, Any]) -> str:
    """The options that are not as they were, as they are typed."""
    names = [name for name in {**before, **asked} if before.get(name) != asked.get(name)]
    return ", ".join("section.key=value" if name == "overrides" else f"--{name.replace('_', '-')}" for name in names)


class Stages:
    """Stages that are done, with their times, in a file: a run that was cut off goes on with the next one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, dict[str, float]] = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def run(self, name: str, work: Any) -> None:
        """Does `work` unless it is done; counts its wall time, and the CPU time of the processes that it starts."""
        if name in self.done:
            return
        print(f"== {name}", file=sys.stderr, flush=True)
        wall, cpu = time.perf_counter(), _children_seconds()
        work()
        self.done[name] = {
            "wall_s": round(time.perf_counter() - wall, 1),
            "cpu_s": round(_children_seconds() - cpu, 1),
        }
        self.path.write_text(json.dumps(self.done, indent=2) + "\n", "utf-8")


def jslm(verb: str, *arguments: Any, output: Path | None = None) -> None:
    """Runs a verb of jslm's as its own process; its output goes to a file, or where this script's goes.

    Where it fails or is stopped it has said so: the script ends with its status, and goes on from there next time.
    """
    command = [sys.executable, "-m", f"jslm.{verb}", *map(str, arguments)]
    with output.open("w", encoding="utf-8") if output else contextlib.nullcontext() as file:
        if status := subprocess.run(command, check=False, stdout=file).returncode:
            sys.exit(status)


def make_data(work: Path, dev: str | None, test: str | None) -> None:
    """Generates text and pairs, and prepares the text; pairs wait for the tokenizer of the text."""
    jslm("corpora.rewrite", "--text", 6, "--out", work / "text.jsonl")
    for name, arguments in FILES.items():
        jslm("corpora.rewrite", *arguments.split(), "--direction", "to_active", "--out", work / name)
    for path, name in ((dev, "public_dev"), (test, "public_test")):
        if path:
            pairs = public_pairs(Path(path))
            lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
            (work / f"{name}.jsonl").write_text(lines, "utf-8")
    text = [f"data.source={work / 'text.jsonl'}", f"data.dir={work / 'char'}"]
    jslm("prepare", "--config", ROOT / "configs" / "rewriter_char.toml", *text)
    tokenizer = f"tokenizer.path={work / 'char' / 'tokenizer.json'}"
    sources = {"pairs": ["train.jsonl", "wide.jsonl"], "tokenized": ["tokenized.jsonl"], "plain": ["plain.jsonl"]}
    if dev:
        sources["public"] = ["public_dev.jsonl"]
    for name, files in sources.items():
        source = "data.source=" + json.dumps([str(work / file) for file in files])
        conditions = ["data.conditions=[]"] if name == "public" else []
        jslm("prepare", "--config", RECIPE, source, f"data.dir={work / name}", tokenizer, *conditions)


def public_pairs(path: Path) -> list[dict[str, str]]:
    """Lines `active . passiv<TAB>passive .` turned round; `sentence . decl<TAB>sentence .` stay as they are."""
    pairs = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        source, tab, target = line.partition("\t")
        if not tab or "\t" in target:
            raise SystemExit(
                f"{path}: line {number}: {line[:60]!r}; expected `sentence . passiv`, a tab, passive sentence"
            )
        active, _, kind = source.rpartition(" ")
        pairs.append({"prompt": target, "completion": active, "category": kind})
    return pairs


def pretrain(work: Path, overrides: list[str]) -> None:
    """Plain English."""
    places = [f"data.source={work / 'text.jsonl'}", f"data.dir={work / 'char'}", f"run_dir={work / 'pretrained'}"]
    jslm("train", "--config", ROOT / "configs" / "rewriter_char.toml", *places, *overrides)


def fine_tune(work: Path, overrides: list[str]) -> None:
    """Pairs as they are written, tokenised ones, public ones where there are any, and plain sentences."""
    weights = {"pairs": 15, "tokenized": 1, "public": 1, "plain": 3}
    parts = [f"{{dir = {json.dumps(str(work / n))}, weight = {w}}}" for n, w in weights.items() if (work / n).is_dir()]
    places = [f"data.mixture=[{', '.join(parts)}]", f"train.init_from={work / 'pretrained'}", f"run_dir={work / 'sft'}"]
    jslm("train", "--config", ROOT / "configs" / "rewriter_char_sft.toml", *places, *overrides)


def evaluate(work: Path, model: Path, limit: int) -> None:
    """Figures of each held-out file and of the natural sentences, all written greedily and without labels."""
    files = [work / f"{name}.jsonl" for name in MEASURED]
    if (work / "public_test.jsonl").exists():
        files.append(work / "public_test.jsonl")
    tasks = ",".join(f"rewrite={file}" for file in files)
    jslm("evaluate", "--run", model, "--tasks", tasks, "--limit", limit, "--json", output=work / "evaluation.json")
    command = [sys.executable, __file__, "--natural", str(model)]
    natural = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    report = json.loads((work / "evaluation.json").read_text("utf-8"))
    quality = {"natural": json.loads(natural), "rewriting": report["runs"][0]}
    quality_file(work, limit).write_text(json.dumps(quality, indent=2) + "\n", "utf-8")


def quality_file(work: Path, limit: int) -> Path:
    """Where the figures of the first `limit` pairs of each file are, or of all (0)."""
    return work / f"quality-{limit or 'all'}.json"


def natural_quality(model: str) -> dict[str, Any]:
    """Figures of the natural sentences (`jslm evaluate --tasks rewriting`)."""
    from jslm.evaluate.answers import answer_quality, read_items
    from jslm.infer import load

    return answer_quality(load(model), read_items(NATURAL))


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
