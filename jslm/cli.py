"""What every verb's command line shares: `--config`, overrides, one-line errors. Imports nothing heavy."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from jslm.config import Config, load_config, said_to_toml
from jslm.console import set_up_logging
from jslm.errors import JslmError

_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_0-9]+)+=")
USER_ERROR = 2
INTERRUPTED = 130
# What each verb can do with less of.
_LESS_MEMORY = {
    "train": "lower train.micro_batch or model.context_length, or set model.remat = 'full'",
    "evaluate": "lower --batch-tokens",
    "judge": "give fewer prompts at once, or a shorter --max-new-tokens",
    "sample": "give fewer prompts or --num-samples at once, or a shorter --max-new-tokens",
    "serve": "lower --max-slots, or serve fewer models at once",
}


def split_overrides(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """(files, overrides) of what an option that takes several files has taken: what is there is a file."""
    files: list[str] = []
    overrides: list[str] = []
    for word in words:
        (overrides if _OVERRIDE.match(word) and not os.path.exists(word) else files).append(word)
    return files, overrides


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds `--config FILE`, positional `section.key=value` overrides, `--print-config` and `--debug`."""
    parser.add_argument(
        "--config",
        required=required,
        metavar="FILE",
        help="TOML file of the run, or the name of a preset that comes with jslm, such as quickstart (jslm configs "
        "lists them)",
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="section.key=value", help="settings that override the file's"
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved config as TOML and stop")
    add_debug_argument(parser)


def add_debug_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--debug`."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def check_least(args: argparse.Namespace, **least: int) -> None:
    """Raises JslmError for an option that was given and is under the least that it can be."""
    for name, bound in least.items():
        if (found := getattr(args, name)) is not None and found < bound:
            raise JslmError(f"--{name.replace('_', '-')} {found}: expected {bound} or more")


def conditions_from(items: Iterable[str]) -> dict[str, str]:
    """Name to label of `NAME=LABEL`, as `--condition` gives them. Raises JslmError for another, and a name twice."""
    found: dict[str, str] = {}
    for item in items:
        name, separator, label = item.partition("=")
        if not separator or name in found:
            reason = "comes twice" if name in found else "is no NAME=LABEL, such as style=formal"
            raise JslmError(f"--condition {item}: {reason}")
        found[name] = label
    return found


def config_from_args(args: argparse.Namespace) -> Config | None:
    """The config that the arguments name; None after printing it for `--print-config`. Raises JslmError."""
    config = load_config(args.config, args.overrides)
    if args.print_config:
        print(said_to_toml(config), end="")
        return None
    return config


def run_verb(
    verb: str, parser: argparse.ArgumentParser, argv: list[str] | None, body: Callable[[argparse.Namespace], int]
) -> int:
    """Parses, runs, and turns errors into one line on stderr and an exit status.

    0 is success, 1 an error inside jslm, 2 something the user can mend, 130 an interrupt.
    """
    args = parser.parse_intermixed_args(argv)
    if argv is None:
        _use_huge_pages()
    set_up_logging()
    # Orbax and Grain report routine work through absl's logger, and with a traceback what they then raise.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        return body(args)
    except BrokenPipeError:
        # The reader (head, less) has gone: silence the flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"\njslm {verb}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if args.debug:
            raise
        status, message = describe_error(error, verb)
        print(f"jslm {verb}: error: {message}", file=sys.stderr)
        return status


def _use_huge_pages() -> None:
    """Starts this command again with malloc asking for huge pages, where the kernel gives them on demand only.

    XLA's CPU runtime allocates and frees its buffers each step; with 4 kB pages the kernel spends a third of the time
    handing them out. glibc reads the setting at the start of a process alone. `JSLM_HUGE_PAGES=off` leaves all as it
    is.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" in tunables or os.environ.get("JSLM_HUGE_PAGES") == "off":
        return
    try:
        on_demand = "[madvise]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text("ascii")
    except OSError:
        return
    if on_demand and sys.orig_argv[1:] and sys.executable:
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, "glibc.malloc.hugetlb=1"]))
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, or XLA on a device, had too little memory. A full disk has the same name in XLA's statuses."""
    text = str(error)
    if "No space left on device" in text or "ENOSPC" in text:
        return False
    # A program that was waited for later fails with INTERNAL, and the words alone say why.
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text


def describe_error(error: Exception, verb: str = "") -> tuple[int, str]:
    """Exit status and one line for an exception of a verb."""
    if isinstance(error, JslmError):
        return USER_ERROR, " ".join(str(error).split("\n"))
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        remedy = {
            errno.ENOSPC: "; free some space or choose another folder, then run the same command again",
            errno.EACCES: "; check the permissions, or choose another folder",
            errno.EROFS: "; choose a folder on a writable file system",
        }.get(error.errno, "")
        return USER_ERROR, f"{where}{os.strerror(error.errno)}{remedy}"
    text = str(error)
    # ENOSPC from tensorstore reaches us as a status text, which calls it RESOURCE_EXHAUSTED too.
    if "No space left on device" in text or "ENOSPC" in text:
        return USER_ERROR, "no space left on device; free some space, then run the same command again"
    if is_out_of_memory(error):
        first = text.split("\n")[0][:200] or "no more memory for Python"
        return USER_ERROR, f"out of memory ({first}); {_LESS_MEMORY.get(verb, 'give it more, or less to do at once')}"
    if "Gloo" in text or "NCCL" in text:
        return USER_ERROR, (
            f"another process of this run has ended or can't be reached ({text.split(chr(10))[0][:200]}); its own "
            "output says why; start all of them again, and the run goes on from its last checkpoint"
        )
    first = text.split("\n")[0][:300]
    return 1, f"{type(error).__name__}: {first} (this is a fault in jslm; --debug shows where)"
