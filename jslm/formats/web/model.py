"""A folder of static files: the page, the model as an ONNX graph, and the runtime for it."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jslm.errors import JslmError
from jslm.files import whole_folder
from jslm.formats.card import CARD_NAME, Card, model_card
from jslm.formats.onnx.folder import FILES, read_folder
from jslm.formats.onnx.model import write as write_onnx
from jslm.formats.shapes import describe_model
from jslm.formats.tokenizers import read_json
from jslm.formats.web.graph import OPSET, shrink_outputs
from jslm.formats.web.runtime import BINARY, VERSION, write_runtime
from jslm.formats.web.vocabulary import tokenizer_fields
from jslm.model import count_parameters
from jslm.prompts.pairs import learns_rewrites, shown_prompt
from jslm.prompts.rewrite_words import REWRITE_WORDS
from jslm.runs.bundle import Bundle, Format

NAME, GRAPH, RUNTIME = "model.json", "model.onnx", "onnxruntime"
_FORMAT, _VERSION = "jslm-web", 1
_STATIC = Path(__file__).parent / "static"
# The same in both pages: `jslm serve` has them.
_SHARED = ("page.css", "differences.js", "tokens.js")
_SHARED_FROM = Path(__file__).parents[2] / "serve" / "static"
# Stands for a sentence in a template, which is text that people write.
_SENTENCE = "\x00sentence\x00"
_FIGURES = {"val/loss": "Validation loss, nats a token", "val/bits_per_byte": "Validation bits per byte"}


def detect(path: Path) -> bool:
    """Whether `path` is a folder that jslm wrote for browsers."""
    return (path / NAME).is_file() and (path / GRAPH).is_file() and (path / "sw.js").is_file()


def describe(path: Path) -> dict[str, Any]:
    """What the folder holds, without its weights. Raises JslmError for a bad one."""
    fields = read_json(path / NAME)
    files = fields.get("files")
    if fields.get("format") != _FORMAT or not isinstance(files, list):
        raise JslmError(f"{path / NAME}: not as jslm writes it; export the run again")
    if fields.get("version") != _VERSION:
        raise JslmError(f"{path / NAME}: version {fields.get('version')!r}; this jslm reads {_VERSION}: update jslm")
    about = fields.get("about")
    rows = about if isinstance(about, list) else []
    return {
        "format": "page for browsers by jslm",
        "name": fields.get("name"),
        **{str(row[0]).lower(): row[1] for row in rows if isinstance(row, list) and len(row) == 2},
        "rewrites": "yes" if fields.get("rewrite") else "no",
        "runtime": f"onnxruntime-web {fields.get('runtime')}",
        "open it": f"python -m http.server --directory {path}",
    }


def write(
    bundle: Bundle,
    path: Path,
    dtype: str,
    *,
    condition: Mapping[str, str] | None = None,
    text: str | Path | None = None,
    onnxruntime_web: str | Path | None = None,
) -> None:
    """Writes the folder `path`: whole, or not at all.

    `dtype` is how matrices are held (as for `onnx`; by default int8, since it is sent over networks). `condition`
    builds labels of conditions in; the others are chosen on the page. What rounding costs is measured as for `onnx`,
    on the file `text` where there is one. `onnxruntime_web` is npm's package as a file; by default npm gets it. Raises
    JslmError where the page cannot encode the tokenizer's texts, the package cannot be had, and as `onnx` does.
    """
    vocabulary = tokenizer_fields(bundle.tokenizer)
    with whole_folder(path) as folder:
        (folder / RUNTIME).mkdir()
        size = write_runtime(folder / RUNTIME, onnxruntime_web)
        facts, folded = _write_graph(bundle, folder, dtype, condition=condition, text=text)
        for file in sorted(_STATIC.iterdir()):
            shutil.copyfile(file, folder / file.name)
        for name in _SHARED:
            shutil.copyfile(_SHARED_FROM / name, folder / name)
        # What the page loads by itself, so that it can say how far it is; in this order.
        files = [
            {"name": GRAPH, "stored": (folder / GRAPH).stat().st_size, "bytes": (folder / GRAPH).stat().st_size},
            {
                "name": f"{RUNTIME}/{BINARY}.gz",
                "stored": (folder / RUNTIME / f"{BINARY}.gz").stat().st_size,
                "bytes": size,
            },
        ]
        fields = {**_page_fields(bundle, folded, dtype, facts), "files": files, "tokenizer": vocabulary}
        (folder / NAME).write_text(json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")
        (folder / CARD_NAME).write_text(model_card(bundle, _card(bundle, dtype, facts)), "utf-8")
        _write_service_worker(folder)


def _write_graph(bundle: Bundle, folder: Path, dtype: str, **options: Any) -> tuple[dict[str, Any], Mapping[str, str]]:
    """`model.onnx`; what is known of it, and the labels that are built in."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        whole = Path(name, "onnx")
        write_onnx(bundle, whole, dtype, opset=OPSET, **options)
        found = read_folder(whole)
        facts = dict(found.graphs[FILES[dtype]])
        shrink_outputs(whole / FILES[dtype], folder / GRAPH)
    return facts, found.folded


def _page_fields(bundle: Bundle, folded: Mapping[str, str], dtype: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    model, sample, tokenizer = bundle.config.model, bundle.config.sample, bundle.tokenizer
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "runtime": VERSION,
        "name": _title(bundle),
        "context": model.context_length,
        "layers": model.n_layers,
        "kv_heads": model.kv_heads,
        "head_dim": model.dim_per_head,
        "position": model.position,
        "conditions": [
            {"name": condition.name, "labels": list(condition.labels)}
            for condition in model.conditions
            if condition.name not in folded
        ],
        "ends_documents": bundle.ends_documents and tokenizer.adds_bos,
        "normalize": "normalize" in bundle.config.data.cleaners,
        # Characters of the longest token, so that what is too long for certain is not encoded.
        "longest": max(16, int(tokenizer.token_bytes().max())),
        "defaults": {
            "temperature": sample.temperature,
            "top_k": sample.top_k,
            "top_p": sample.top_p,
            "min_p": sample.min_p,
            "repetition_penalty": sample.repetition_penalty,
            "max_tokens": min(sample.max_new_tokens, model.context_length),
        },
        "rewrite": _rewriting(bundle, folded),
        "about": _about(bundle, folded, dtype, facts),
    }


def _rewriting(bundle: Bundle, folded: Mapping[str, str]) -> dict[str, Any] | None:
    """What goes around a sentence, what ends a prompt, and when a sentence stays.

    None for a model that has not learned pairs of one text.
    """
    data = bundle.config.data
    if not learns_rewrites(data):
        return None
    settings = bundle.config.rewrite
    return {
        "parts": shown_prompt(data, {"prompt": _SENTENCE}).split(_SENTENCE),
        "end": data.prompt_end or "\n",
        "settings": {
            "threshold": settings.threshold,
            "calibration": settings.calibration,
            "sentences": settings.sentences,
            # The page writes greedily, and says so where the model was made for more.
            "beams": settings.agreement.beams,
        },
        **({"words": REWRITE_WORDS} if settings.faithful else {}),
        **({"may_add": True} if folded.get("agentless") == "someone" else {}),
    }


def _about(bundle: Bundle, folded: Mapping[str, str], dtype: str, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    model, said = bundle.config.model, bundle.config.card
    shape = describe_model(model)
    rows = [
        ("What it is", said.description),
        ("What it is for", said.use),
        ("Learned from", said.data),
        ("Licence", said.license),
        ("Made by", ", ".join(said.authors)),
        ("Parameters", f"{count_parameters(model)['total']:,}"),
        ("Layers, width, heads", f"{shape['n_layers']}, {shape['d_model']}, {shape['n_heads']}"),
        ("Context", f"{model.context_length:,} tokens"),
        ("Vocabulary", f"{model.vocab_size:,} ({bundle.tokenizer.kind})"),
        ("Weights", f"{dtype}, {facts['bytes'] / 1e6:.2f} MB"),
        ("Cost of rounding them", f"{facts['cost']:+.4f} nats a token" if "cost" in facts else ""),
        ("Built in", ", ".join(f"{name} = {label or 'none'}" for name, label in folded.items())),
        ("Chat", "not on this page; jslm serve has it" if bundle.chat_template else ""),
    ]
    for key, words in _FIGURES.items():
        if isinstance(value := bundle.figures.get(key), int | float):
            rows.append((words, f"{value:.4g}"))
    return [row for row in rows if row[1]]


def _card(bundle: Bundle, dtype: str, facts: Mapping[str, Any]) -> Card:
    host = "Any static host serves this folder as it is, under any path. No request leaves for another host."
    cost = f"{facts['cost']:+.4f} nats a token over {facts['tokens']:,} tokens" if "cost" in facts else ""
    licence = f"`{RUNTIME}/` has files of onnxruntime-web {VERSION} under their own licence (MIT)."
    return Card(
        "web", "on a page for browsers", dtype, library="jslm", sections=[("The page", f"{host} {licence}")], cost=cost
    )


def _title(bundle: Bundle) -> str:
    return Path(bundle.source).name or "model"


def _write_service_worker(folder: Path) -> None:
    """Names every file that the page needs, and a version that any change to one of them changes."""
    skipped = {"sw.js", CARD_NAME}
    names = sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file() and file.name not in skipped
    )
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\n".encode() + hashlib.sha256((folder / name).read_bytes()).digest())
    # The folder itself is asked for as well as index.html.
    head = f"const VERSION = {json.dumps(digest.hexdigest()[:16])};\nconst FILES = {json.dumps(['./', *names])};\n"
    file = folder / "sw.js"
    file.write_text(head + file.read_text("utf-8"), "utf-8")


FORMAT = Format(
    name="web",
    summary="folder that opens the model in a browser's tab",
    detect=detect,
    describe=describe,
    write=write,
    dtypes=("int8", "float32", "float16", "int7"),
    options=("condition", "text", "onnxruntime_web"),
)
