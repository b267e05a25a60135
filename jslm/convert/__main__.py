"""`jslm convert import SRC RUN_DIR`, `export RUN_DIR DST --format ...`, `inspect FILE`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from jslm import formats
from jslm.cli import add_debug_argument, conditions_from, run_verb
from jslm.console import format_seconds

_USAGE = """usage: jslm convert import SRC RUN_DIR [--format NAME]
       jslm convert export RUN_DIR DST --format NAME [--dtype TYPE] [--checkpoint WHICH] [--ema | --no-ema]
                            [--condition NAME=LABEL] [--opset N] [--text FILE] [--onnxruntime-web FILE]
       jslm convert push RUN_DIR USER/NAME [--format NAME] [--private] [--dtype TYPE] [...as export]
       jslm convert inspect PATH [--json]

Models in from where people have them, and out to where people run them.

  import    a model of another program becomes a run folder: sample from it, train on, export it
  export    a run (or a portable file) becomes a file or folder of another program, whole or not at all
  push      an export and its model card go to the Hugging Face Hub (HF_TOKEN; HF_ENDPOINT for another server)
  inspect   what a file or folder is, without reading its weights

jslm convert import --help (export, push, inspect) tells the arguments and the formats."""


def main(argv: list[str] | None = None) -> int:
    """Converts or describes a model; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    actions = {"import": (_import_parser, _import), "export": (_export_parser, _export)}
    actions["push"] = (_push_parser, _push)
    actions["inspect"] = (_inspect_parser, _inspect)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    action, *rest = arguments
    if action not in actions:
        print(f"jslm convert: error: {action}: expected import, export, push or inspect", file=sys.stderr)
        return 2
    parser, body = actions[action]
    return run_verb("convert", parser(), rest, body)


def _import_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jslm convert import",
        description="Makes a run folder of a model from elsewhere. Nothing inside a .pt or .bin file is ever executed.",
    )
    parser.add_argument("source", metavar="SRC", help="file or folder of the model, its tokenizer beside it")
    parser.add_argument("run_dir", metavar="RUN_DIR", help="run folder to make")
    parser.add_argument(
        "--format",
        default="auto",
        metavar="NAME",
        help="auto (default), hf, gguf, llama2c, llama2c-checkpoint, nanogpt, lillm, slms, safetensors",
    )
    add_debug_argument(parser)
    return parser


def _export_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jslm convert export",
        description="Writes a run's model for another program. An option of the model that the format lacks is an "
        "error that lists all such options; nothing is dropped in silence.",
    )
    parser.add_argument("run", metavar="RUN_DIR", help="run folder, or a portable file")
    parser.add_argument("target", metavar="DST", help="file to write (hf, onnx, web: folder)")
    parser.add_argument(
        "--format",
        required=True,
        metavar="NAME",
        help="hf (Hugging Face), gguf (llama.cpp), llama2c (llama2.c), onnx (onnxruntime, browsers), safetensors (one "
        "portable file), web (a page that opens the model in a browser)",
    )
    _add_choices(parser)
    return parser


def _push_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jslm convert push",
        description="Exports a run's model and uploads it with its model card, in one commit. What the card says "
        "besides figures is the config's [card]. HF_TOKEN is the token, else that of hf auth login; HF_ENDPOINT is "
        "another server.",
    )
    parser.add_argument("run", metavar="RUN_DIR", help="run folder, or a portable file")
    parser.add_argument("repo", metavar="USER/NAME", help="repository; made where it is not there")
    parser.add_argument(
        "--format", default="hf", metavar="NAME", help="hf (default), gguf, llama2c, onnx, safetensors, web"
    )
    parser.add_argument("--private", action="store_true", help="a new repository is seen by its owner alone")
    _add_choices(parser)
    return parser


def _add_choices(parser: argparse.ArgumentParser) -> None:
    """Which weights, and how they are written."""
    parser.add_argument(
        "--dtype",
        default="",
        metavar="TYPE",
        help="of the matrices: float32 (default), float16, bfloat16; gguf also q8_0, and by llama.cpp's quantiser "
        "q4_k_m and q6_k; safetensors also int8; onnx: float32, float16, int8, int7; web the same, by default "
        "int8",
    )
    parser.add_argument("--checkpoint", default="best", metavar="WHICH", help="best (default), latest, or a step")
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="averaged parameters or not; by default where the run has them",
    )
    parser.add_argument(
        "--condition",
        action="append",
        metavar="NAME=LABEL",
        help="onnx, web: a condition to build in, such as style=formal (style= for none); repeatable",
    )
    parser.add_argument("--opset", type=int, metavar="N", help="onnx: the operator set, 20 (default) or 23")
    parser.add_argument("--text", metavar="FILE", help="onnx, web: held text, to measure what rounding costs")
    parser.add_argument(
        "--onnxruntime-web",
        metavar="FILE",
        help="web: npm's package onnxruntime-web as a .tgz file, where npm is not there to get it",
    )
    add_debug_argument(parser)


def _inspect_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jslm convert inspect", description="Says what a model file or folder is.")
    parser.add_argument("path", metavar="PATH", help="run folder, or a model file or folder of a known format")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_debug_argument(parser)
    return parser


def _import(args: argparse.Namespace) -> int:
    _stay_on_cpu()
    started = time.perf_counter()
    formats.import_model(args.source, args.run_dir, format=args.format)
    _print_fields(formats.inspect_model(args.run_dir))
    seconds = format_seconds(time.perf_counter() - started)
    print(f"{args.run_dir}: imported in {seconds}; try: jslm sample --run {args.run_dir}")
    return 0


def _export(args: argparse.Namespace) -> int:
    _stay_on_cpu()
    formats.export_model(args.run, args.target, format=args.format, **_choices(args))
    _print_fields(formats.inspect_model(args.target))
    print(f"{args.target}: {_size(Path(args.target)) / 1e6:,.2f} MB")
    return 0


def _push(args: argparse.Namespace) -> int:
    _stay_on_cpu()
    print(formats.push_model(args.run, args.repo, format=args.format, private=args.private, **_choices(args)))
    return 0


def _choices(args: argparse.Namespace) -> dict[str, Any]:
    """Those of `_add_choices` that were made."""
    asked = {
        "condition": None if args.condition is None else conditions_from(args.condition),
        "opset": args.opset,
        "text": args.text,
        "onnxruntime_web": args.onnxruntime_web,
    }
    found = {name: value for name, value in asked.items() if value is not None}
    return {"dtype": args.dtype, "checkpoint": args.checkpoint, "ema": args.ema, **found}


def _inspect(args: argparse.Namespace) -> int:
    _stay_on_cpu()
    fields = formats.inspect_model(args.path)
    if args.json:
        print(json.dumps(fields, ensure_ascii=False))
    else:
        _print_fields(fields)
    return 0


def _print_fields(fields: dict[str, object]) -> None:
    width = max(map(len, fields))
    for name, value in fields.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        print(f"{name:<{width}}  {f'{value:.4g}' if isinstance(value, float) else shown}")


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _stay_on_cpu() -> None:
    """Copying weights needs no accelerator, and would keep one from whoever uses it."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


if __name__ == "__main__":
    sys.exit(main())
