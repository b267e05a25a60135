"""The rewriter of sentences that people write, from treebanks and text to a calibrated file: `scripts/rewriter.py`.

Pairs by rule from parsed sentences, beside those of the generator's own grammar; pretraining on the text itself; steps
from a time; a threshold for a stated precision, from sentences that no training pair is of (as text they were read).
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.evaluate.answers import Item

ROOT = Path(__file__).resolve().parents[1]
NATURAL = ROOT / "data" / "rewrite" / "natural.tsv"
TEXT_CONFIG, PAIRS_CONFIG = (ROOT / "configs" / f"rewriter_natural{name}.toml" for name in ("", "_sft"))
# At most 4M parameters; without it the configs' own 10M. Heads of 64: half the attention's time of five heads of 32.
SMALL = ["model.n_layers=6", "model.d_model=192", "model.n_heads=3", "train.batch_size=6"]
# What data/rewrite/README.md says of each file.
GENERATED = {
    "pairs": "--count 120000 --seed 0 --split wide",
    "tokenized": "--count 20000 --seed 5 --split wide --tokenized",
    "plain": "--count 30000 --seed 6 --split verb --unpaired",
}
MEASURED = {"val": "--count 2000 --seed 1", "verb": "--count 2000 --seed 2 --split verb"}
# Sequences of the mixture: natural pairs, generated ones, tokenised ones, public ones, plain sentences.
WEIGHTS = {"natural": 8, "pairs": 12, "tokenized": 0.5, "public": 0.5, "plain": 1.5}
# Pretraining is on text and, as text, on the pairs: there prompts teach too, and copying is learned before answers.
PRETRAINING_SHARE = 0.47
TEXTS = ("plain_text.jsonl", "text.jsonl", "pair_text.jsonl")
# Passives as people wrote them that a confidence can be fitted on alone; about half of them come out faithful.
LEAST_PASSIVES = 100
_AGENTLESS = re.compile(r"\b(someone|somebody|no one|nobody)\b", re.IGNORECASE)
# Of the generated passives without an agent, so many are also there as what stays without the label.
_STAYS = 0.5
# Shares of generated pairs with a "by" that names nobody: of those that change, and of those that stay.
_OTHER_BY = (0.08, 0.5)
_BY = re.compile(r"\bby\b")
_TREEBANK = "The treebanks' own licences hold for their sentences"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the recipe for natural sentences asks for."""
    group = parser.add_argument_group("natural sentences: with --parsed, --text or both")
    group.add_argument("--parsed", nargs="+", default=[], metavar="FILE", help="treebanks to learn from (CoNLL-U, .gz)")
    group.add_argument("--text", nargs="+", default=[], metavar="FILE", help="text to learn from: .txt or .jsonl")
    group.add_argument("--pipeline", default="en_core_web_sm", metavar="NAME", help="spaCy pipeline that parses --text")
    group.add_argument("--large", action="store_true", help="10M parameters (for a GPU) in place of 2.8M")
    group.add_argument("--minutes", type=float, default=50, metavar="N", help="training, both parts (default 50)")
    group.add_argument("--precision", type=float, default=0.8, metavar="P", help="for the threshold (default 0.8)")
    group.add_argument("--left-alone", type=float, default=0.95, metavar="P", help="for it too (default 0.95)")
    group.add_argument("--licence", default="", metavar="TEXT", help="licence of the model, such as cc-by-sa-4.0")
    group.add_argument("--measure", nargs="+", default=[], metavar="FILE", help="treebanks or tables to measure on too")


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends the program with a line for a file that is not there and a number out of range."""
    from jslm.cli import split_overrides

    for name in ("parsed", "text", "measure"):
        files, behind = split_overrides(getattr(args, name))
        args.overrides += behind
        setattr(args, name, files)
    for path in [*args.parsed, *args.text, *args.measure]:
        if not Path(path).is_file():
            parser.error(f"{path}: no such file; expected a treebank (CoNLL-U) or text")
    if not args.minutes > 0 or not 0 < args.precision < 1 or not 0 <= args.left_alone < 1:
        given = f"--minutes {args.minutes:g} --precision {args.precision:g} --left-alone {args.left_alone:g}"
        parser.error(f"{given}: expected over 0, between 0 and 1, and from 0 to under 1")


def run(args: argparse.Namespace, stages: Any, jslm: Callable[..., None], public: Callable[[Path], Any]) -> None:
    """Every stage that is not done yet; `jslm` runs a verb, `stages` remembers."""
    work = Path(args.out)
    size = [*(large_size() if args.large else SMALL), *args.overrides]
    model = work / "rewriter.safetensors"
    stages.run("pairs", lambda: make_pairs(work, args, jslm))
    stages.run("data", lambda: make_data(work, args, jslm, public))
    stages.run("pretrain", lambda: train(work, size, jslm, args, pretraining=True))
    stages.run("fine-tune", lambda: train(work, size, jslm, args, pretraining=False))
    raw = work / "uncalibrated.safetensors"
    stages.run("export", lambda: jslm("convert", "export", work / "sft", raw, "--format", "safetensors"))
    stages.run("calibrate", lambda: calibrate_file(raw, model, work / "held_out.jsonl", args))
    stages.run("evaluate", lambda: evaluate(work, model, args, jslm))


def large_size() -> list[str]:
    """The configs' own size; on a CPU with the small one's batch, as what fits into the minutes is steps."""
    import jax

    return [SMALL[-1]] if jax.default_backend() == "cpu" else []


def make_pairs(work: Path, args: argparse.Namespace, jslm: Callable[..., None]) -> None:
    """Pairs by rule from parsed sentences."""
    sources = ["--parsed", *args.parsed] if args.parsed else []
    if args.text:
        sources += ["--text", *args.text, "--parser", "spacy", "--pipeline", args.pipeline]
    held_out = work / "held_out.jsonl"
    jslm("corpora.rewrite", *sources, "--out", work / "natural.jsonl", "--held-out", held_out)


def make_data(work: Path, args: argparse.Namespace, jslm: Callable[..., None], public: Callable[[Path], Any]) -> None:
    """Text, generated pairs, and the token files of everything."""
    jslm("corpora.rewrite", "--text", 6, "--out", work / "text.jsonl")
    _write(work / "plain_text.jsonl", ({"text": text} for text in plain_texts(args)))
    for name, arguments in {**GENERATED, **MEASURED}.items():
        jslm("corpora.rewrite", *arguments.split(), "--direction", "to_active", "--out", work / f"{name}.jsonl")
    for name in GENERATED:
        labelled = label_agentless(_lines(work / f"{name}.jsonl"), keep=name != "plain")
        _write(work / f"{name}.jsonl", with_other_by(labelled) if name == "pairs" else labelled)
    for name in MEASURED:
        _write(work / f"{name}.jsonl", unasked(_lines(work / f"{name}.jsonl")))
    if args.dev:
        _write(work / "public.jsonl", public(Path(args.dev)))
    if args.test:
        _write(work / "public_test.jsonl", public(Path(args.test)))
    natural = _lines(work / "natural.jsonl")
    pairs = [*natural, *_lines(work / "pairs.jsonl")[: len(natural) // 2]]
    random.Random(0).shuffle(pairs)
    as_text = (pair for pair in pairs if not pair.get("agentless"))
    _write(work / "pair_text.jsonl", ({"text": f"{pair['prompt']}\t{pair['completion']}"} for pair in as_text))
    jslm("prepare", "--config", TEXT_CONFIG, texts(work), f"data.dir={work / 'char'}")
    tokenizer = f"tokenizer.path={work / 'char' / 'tokenizer.json'}"
    for name in WEIGHTS:
        if (work / f"{name}.jsonl").exists():
            conditions = 'data.conditions=["agentless"]' if name != "public" else "data.conditions=[]"
            place = [f"data.source={work / f'{name}.jsonl'}", f"data.dir={work / name}"]
            recipe = ROOT / "data" / "rewrite" / "recipe.toml"
            licence = _terms(args) if name == "natural" else "MIT, as jslm"
            about = f"data.about=Pairs for the rewriter: {name}"
            # Two sentences of 310 characters and what stands around them fit into the context.
            terms = ["data.filters.max_characters=636", about, f"data.licence={licence}"]
            jslm("prepare", "--config", recipe, *place, tokenizer, conditions, *terms)


def _terms(args: argparse.Namespace) -> str:
    given = [Path(path).name for path in [*args.parsed, *args.text]]
    return f"{args.licence or 'of the sources'}: made of sentences of {', '.join(given)}"


def texts(work: Path) -> str:
    """What pretraining reads."""
    return "data.source=" + json.dumps([str(work / name) for name in TEXTS])


def plain_texts(args: argparse.Namespace) -> Iterator[str]:
    """The alphabet, then paragraphs of the text and, some at a time, sentences of the treebanks."""
    from jslm.corpora.rewrite.alphabet import wide_alphabet
    from jslm.corpora.rewrite.parsed.spacy_trees import read_texts
    from jslm.corpora.rewrite.parsed.trees import read_conllu

    yield wide_alphabet()
    for paragraph in read_texts(args.text):
        yield from (paragraph[start : start + 600] for start in range(0, len(paragraph), 600))
    for path in args.parsed:
        sentences = (tree.text for tree in read_conllu(path))
        while batch := list(itertools.islice(sentences, 4)):
            yield "\n".join(batch)


def label_agentless(pairs: list[dict[str, Any]], *, keep: bool) -> Iterator[dict[str, Any]]:
    """The pairs, those whose answer has a "someone" of its own with the label; some of them also as they are."""
    rng = random.Random(0)
    for pair in pairs:
        if not _gets_an_agent(pair) or not keep:
            yield {**pair, "agentless": ""}
            continue
        yield {**pair, "agentless": "someone"}
        if rng.random() < _STAYS:
            yield {**pair, "completion": pair["prompt"], "agentless": ""}


def with_other_by(pairs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The pairs, some of them with a "by" on both sides that names nobody: "The letter was written by Friday." stays,
    "The letter was written by Ann by Friday." becomes "Ann wrote the letter by Friday."."""
    from jslm.corpora.rewrite.parsed.adjuncts import added

    rng = random.Random(0)
    for pair in pairs:
        texts = pair["prompt"], pair["completion"]
        stays = texts[0] == texts[1]
        fits = all(text.endswith(".") and not text.endswith("..") for text in texts) and not pair["agentless"]
        if fits and rng.random() < _OTHER_BY[stays] and not (stays and _BY.search(texts[0])):
            texts = added(texts[:1], rng) * 2 if stays else added(texts, rng)
        yield {**pair, "prompt": texts[0], "completion": texts[1]}


def unasked(pairs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The pairs as a model is to answer them that is not given a label: a passive without an agent stays."""
    for pair in pairs:
        yield {**pair, "completion": pair["prompt"]} if _gets_an_agent(pair) else pair


def _gets_an_agent(pair: dict[str, Any]) -> bool:
    """Whether the answer has a "someone" that the sentence has not."""
    asked, given = (set(map(str.lower, _AGENTLESS.findall(pair[name]))) for name in ("prompt", "completion"))
    return bool(given - asked)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _write(path: Path, records: Any) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def pretraining_size(size: list[str]) -> list[str]:
    """Half the context, as short texts fill it and attention costs what its square costs; so half the tokens a step,
    with the dial's rate for the width. Pairs want larger steps and a lower rate (docs/LOG.md, 2026-11-28)."""
    from jslm.config import load_config
    from jslm.dial.rules import rate_for

    model = load_config(TEXT_CONFIG, size).model
    rate = f"optimizer.muon_learning_rate={rate_for(model.d_model):.2g}"
    return [rate, *size, f"model.context_length={model.context_length // 2}"]


def train(
    work: Path, size: list[str], jslm: Callable[..., None], args: argparse.Namespace, *, pretraining: bool
) -> None:
    """Pretraining on text, or fine-tuning on pairs, for its share of the minutes."""
    share = PRETRAINING_SHARE if pretraining else 1 - PRETRAINING_SHARE
    ends = [f"train.minutes={args.minutes * share:g}", "train.steps=0", "train.eval_every=2000", "sample.every=2000"]
    if pretraining:
        places = [texts(work), f"data.dir={work / 'char'}", f"run_dir={work / 'pretrained'}"]
        jslm("train", "--config", TEXT_CONFIG, *places, *ends, *pretraining_size(size))
        return
    parts = [f"{{dir = {json.dumps(str(work / n))}, weight = {w}}}" for n, w in WEIGHTS.items() if (work / n).is_dir()]
    places = [f"data.mixture=[{', '.join(parts)}]", f"train.init_from={work / 'pretrained'}", f"run_dir={work / 'sft'}"]
    card = [f"card.data=Licence {_terms(args)}. {_TREEBANK if args.parsed else ''}; generated pairs (MIT)"]
    card += [f"card.license={args.licence}"] if args.licence else []
    jslm("train", "--config", PAIRS_CONFIG, *places, *ends, *card, *size)


def calibrate_file(raw: Path, target: Path, held_out: Path, args: argparse.Namespace) -> None:
    """`target` (and the same in int8) is `raw` with a calibration and a threshold from the held-out pairs."""
    from jslm.errors import JslmError
    from jslm.evaluate.answers import read_items
    from jslm.evaluate.calibration import calibrate
    from jslm.formats.portable import write_calibrated
    from jslm.infer import load

    model = load(raw)
    try:
        # Little text may have no sentence to hold out.
        items = asked_of(read_items(held_out))
        settings = calibrate(model, items, args.precision, left_alone=args.left_alone)
    except JslmError as error:
        # A model that gets nothing right is still worth looking at.
        print(f"{error}; the file stays without a threshold", file=sys.stderr)
        settings = model.config.rewrite
    write_calibrated(raw, target, settings)
    write_calibrated(raw, target.with_name("rewriter_int8.safetensors"), settings, "int8")


def asked_of(items: list[Item]) -> list[Item]:
    """What a confidence is fitted on: the passives that people wrote, beside sentences to leave alone. Rule-made ones
    are easier (92% of the changed right, where of people's passives 72% were), so only where there are too few."""
    random.Random(0).shuffle(items)
    of = {kind: [item for item in items if item.register == kind] for kind in ("by rule", "unchanged")}
    if len(of["by rule"]) >= LEAST_PASSIVES:
        return [*of["by rule"][:750], *of["unchanged"][:750]]
    print(f"{len(of['by rule'])} held-out passives, under {LEAST_PASSIVES}: the confidence is of rule-made ones too")
    return items[:1500]


def evaluate(work: Path, model: Path, args: argparse.Namespace, jslm: Callable[..., None]) -> None:
    """The report: natural sentences, those of --measure, generated and public pairs."""
    tasks = [f"rewriting={NATURAL}", *(f"rewriting={path}" for path in args.measure)]
    tasks += [f"rewrite={work / f'{name}.jsonl'}" for name in MEASURED]
    if args.test:
        tasks.append(f"rewrite={work / 'public_test.jsonl'}")
    limit = ["--limit", args.limit] if args.limit else []
    jslm(
        "evaluate",
        "--run",
        model,
        "--tasks",
        ",".join(tasks),
        *limit,
        "--out",
        work / "evaluation",
        output=work / "report.md",
    )
