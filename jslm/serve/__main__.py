"""`jslm serve --run DIR|FILE [--run ...]`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import sys
from pathlib import Path

from jslm.cli import add_debug_argument, run_verb
from jslm.errors import JslmError
from jslm.files import read_utf8
from jslm.installation import install_command
from jslm.serve.keys import new_key, warn_if_open
from jslm.serve.limits import KEY_VARIABLE, Limits

_NEEDED = ("starlette", "uvicorn", "prometheus_client", "jinja2")


def main(argv: list[str] | None = None) -> int:
    """Serves models over HTTP until SIGTERM or SIGINT; returns the exit status."""
    return run_verb("serve", _parser(), argv, _run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jslm serve",
        description="Serves models over HTTP in the shapes of OpenAI's API. A model's id is the name of its folder or "
        "file. API keys, where callers shall need one, are in the file of --keys; a single one without limits may be "
        f"in the file of --api-key-file or in ${KEY_VARIABLE}. SIGTERM lets what runs end; SIGHUP reads keys and "
        "certificate again, and opens the request log anew.",
    )
    parser.add_argument(
        "--run", action="append", default=[], metavar="DIR", help="folder of a run, or a model file; repeatable"
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="section.key=value", help="such as sample.temperature=0.7"
    )
    parser.add_argument("--checkpoint", default="best", metavar="WHICH", help="best (default), latest, or a step")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1: this machine only")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default 8000; 0: any free one")
    parser.add_argument("--api-key-file", metavar="FILE", help="its first line is what callers must send")
    parser.add_argument("--keys", metavar="FILE", help="TOML of [[key]] tables: name, sha256, and what each may use")
    parser.add_argument(
        "--new-key", metavar="NAME", help="make a key: it goes to stderr, its lines for --keys to stdout; then stop"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="PEM of the certificate and its chain: HTTPS")
    parser.add_argument("--tls-key", metavar="FILE", help="PEM of the certificate's private key")
    parser.add_argument("--request-log", metavar="FILE", help="a line of JSON a request goes there; default stderr")
    parser.add_argument("--log-texts", action="store_true", help="prompts and answers in these lines too")
    parser.add_argument(
        "--cors-origin", action="append", default=[], metavar="ORIGIN", help="web pages that may call; repeatable"
    )
    limits = Limits()
    for option, kind, about in (
        ("slots", int, "samples written at once, of each model (0: up to 64, as 1 GiB of cache allows)"),
        ("queue", int, "samples that wait, past which requests get 429"),
        ("samples", int, "samples of one request"),
        ("prompt-tokens", int, "tokens of a prompt (0: the context)"),
        ("new-tokens", int, "tokens of a sample (0: the context)"),
        ("seconds", float, "from a request's arrival to its end"),
        ("body-bytes", int, "bytes of a request"),
    ):
        default = getattr(limits, option.replace("-", "_"))
        parser.add_argument(
            f"--max-{option}", type=kind, default=default, metavar="N", help=f"{about}; default {default}"
        )
    parser.add_argument(
        "--drain-seconds", type=float, default=30.0, metavar="S", help="what is running at SIGTERM has (default 30)"
    )
    add_debug_argument(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    if args.new_key is not None:
        key, lines = new_key(args.new_key)
        print(f"{args.new_key}'s key, which is stored nowhere: {key}", file=sys.stderr)
        print(lines)
        return 0
    if not args.run:
        raise JslmError("--run is missing; give the folder of a run or a model file, such as --run runs/quickstart")
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise JslmError(f"serving needs {', '.join(missing)}: {install_command('serve')}")
    if not 0 <= args.port < 2**16:
        raise JslmError(f"--port {args.port}: expected 0 to 65535")
    # Written so that a NaN fails too.
    if not args.drain_seconds >= 0:
        raise JslmError(f"--drain-seconds {args.drain_seconds}: expected 0 or more")
    limits = Limits(**{field.name: getattr(args, f"max_{field.name}") for field in dataclasses.fields(Limits)})
    token = _token(args.api_key_file)
    from jslm.serve.command import run

    return run(args, limits, token)


def _token(file: str | None) -> str | None:
    """The API key; None where none is wanted. Raises JslmError for an empty one, which would let everybody in."""
    if file is not None:
        where = f"--api-key-file {file}"
        token = read_utf8(Path(file), where).partition("\n")[0].strip()
    elif KEY_VARIABLE in os.environ:
        token, where = os.environ[KEY_VARIABLE].strip(), f"${KEY_VARIABLE}"
    else:
        return None
    if not token:
        raise JslmError(f"{where}: empty; expected the API key")
    if file is not None:
        warn_if_open(Path(file), "--api-key-file")
    return token


if __name__ == "__main__":
    sys.exit(main())
