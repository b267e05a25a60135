"""A long load on `jslm serve` that is killed and restarted meanwhile: no stuck stream, no wrong text, flat memory.

    python scripts/soak_serve.py --run runs/quickstart

Streams completions through OpenAI's client (64 at once, for 30 minutes). In the first two thirds of the time the server
gets SIGTERM and SIGKILL in turn and is started again on the same port. What SIGTERM meets must end as if nothing had
happened; what SIGKILL meets breaks off. The same request must give the same text before and after. The last third is
without a kill, for the memory. Prints a verdict, and with --json all figures; status 0 is a pass, 1 a fail, 2 a bad
argument. Everything is on 127.0.0.1, and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

_START_SECONDS = 600.0
_SAMPLE_SECONDS = 1.0
# Of the time, in which there are kills.
_KILLING_SHARE = 2 / 3
# A server's memory is looked at after this share of its life: buffers grow to what the load needs.
_WARM_SHARE = 0.3
_LEAST_SAMPLES = 12
_REQUESTS = 60


@dataclass
class Life:
    """A server process from its start to its end. `rss`: (seconds since it was ready, MB)."""

    rss: list[tuple[float, float]] = field(default_factory=list)
    ended: str = ""

    def growth(self) -> float | None:
        """MB between the medians of the first and the last third of the memory after warming up; None where there is
        too little to say."""
        warm = [mb for _, mb in self.rss[int(_WARM_SHARE * len(self.rss)) :]]
        if len(warm) < _LEAST_SAMPLES:
            return None
        third = len(warm) // 3
        return statistics.median(warm[-third:]) - statistics.median(warm[:third])


@dataclass
class Tally:
    """What the clients and the killer have seen."""

    streams: int = 0
    tokens: int = 0
    stuck: int = 0
    differing: int = 0
    # By kind; expected: what a client may see of a server that is killed or gone.
    expected: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    texts: dict[int, str] = field(default_factory=dict)
    kills: list[dict[str, Any]] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)


class Server:
    """`jslm serve` on a port that stays."""

    def __init__(self, run: str, arguments: list[str]) -> None:
        self.port = 0
        # "up"; "draining" and "down" from SIGTERM and from the end on, until it is ready again.
        self.state = "down"
        self.killed = 0
        self.process: asyncio.subprocess.Process | None = None
        self._run, self._arguments = run, arguments
        self._reader: asyncio.Task[None] | None = None
        self.said: list[str] = []

    async def start(self) -> float:
        """Starts it; returns the seconds until it was ready. Raises SystemExit where it does not get there."""
        began = time.monotonic()
        command = [sys.executable, "-m", "jslm.serve", "--run", self._run, "--port", str(self.port)]
        command += ["--request-log", os.devnull, *self._arguments]
        self.process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        self._reader = asyncio.create_task(self._read())
        while not (self.port and await self._is_ready()):
            if self.process.returncode is not None or time.monotonic() - began > _START_SECONDS:
                raise SystemExit("the server did not become ready:\n" + "".join(self.said[-20:]))
            await asyncio.sleep(0.1)
        self.state = "up"
        return time.monotonic() - began

    async def end(self, number: signal.Signals, patience: float) -> int:
        """Signals it and waits; returns its status, or that of SIGKILL where it does not end in `patience` seconds."""
        assert self.process is not None
        if number == signal.SIGKILL:
            self.killed += 1
            self.state = "down"
        else:
            self.state = "draining"
        self.process.send_signal(number)
        try:
            status = await asyncio.wait_for(self.process.wait(), patience)
        except TimeoutError:
            self.process.kill()
            status = await self.process.wait()
        self.state = "down"
        if self._reader is not None:
            await self._reader
        return status

    def resident(self) -> float | None:
        """MB; None where there is no process."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text("ascii").split()[1]) if self.process else 0
        except (OSError, IndexError):
            return None
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    async def _is_ready(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            line = await asyncio.wait_for(reader.readline(), 5)
            writer.close()
        except (OSError, TimeoutError):
            return False
        return b" 200 " in line

    async def _read(self) -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            line = raw.decode("utf-8", "replace")
            self.said = [*self.said[-200:], line]
            if "http://127.0.0.1:" in line and not self.port:
                self.port = int(line.split("http://127.0.0.1:")[1].split()[0])


def main() -> int:
    """Soaks; returns the exit status."""
    args = _parser().parse_args()
    for name, value, least, most in (
        ("--minutes", args.minutes, 0.1, 24 * 60), ("--streams", args.streams, 1, 1024),
        ("--kills", args.kills, 0, 200), ("--stuck-seconds", args.stuck_seconds, 1, 3600),
        ("--max-tokens", args.max_tokens, 2, 100_000), ("--max-growth-mb", args.max_growth_mb, 0, 1e6),
    ):  # fmt: skip
        if not least <= value <= most:
            print(f"soak_serve: error: {name} {value:g}: expected {least:g} to {most:g}", file=sys.stderr)
            return 2
    figures = asyncio.run(_soak(args))
    text = json.dumps(figures, indent=1)
    if args.json and args.json != "-":
        Path(args.json).write_text(text + "\n", "utf-8")
    print(text if args.json == "-" else _summary(figures))
    return int(figures["verdict"] != "pass")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="run folder or model file to serve")
    parser.add_argument("--minutes", type=float, default=30, help="default 30, at most 1,440")
    parser.add_argument("--streams", type=int, default=64, help="at once (default 64)")
    parser.add_argument("--kills", type=int, default=6, help="SIGTERM and SIGKILL in turn (default 6)")
    parser.add_argument("--max-tokens", type=int, default=120, help="of each stream (default 120)")
    parser.add_argument(
        "--stuck-seconds", type=float, default=60, help="without a piece of text, after which a stream is stuck (60)"
    )
    parser.add_argument(
        "--max-growth-mb", type=float, default=32, help="of a server's memory once it is warm (default 32)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there; - is stdout")
    parser.add_argument("serve_arguments", nargs="*", help="arguments for jslm serve, after --")
    return parser


async def _soak(args: argparse.Namespace) -> dict[str, Any]:
    server, tally = Server(args.run, args.serve_arguments), Tally()
    try:
        await server.start()
        tally.lives.append(Life())
        seconds = 60 * args.minutes
        watcher = asyncio.create_task(_watch(server, tally))
        # Past this nothing may run on: the last kill's start, and streams that are stuck.
        async with asyncio.timeout(seconds + 2 * _START_SECONDS + args.stuck_seconds):
            async with openai.AsyncOpenAI(
                base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0,
                timeout=args.stuck_seconds,
            ) as client:  # fmt: skip
                # What the client's library does at its first request takes seconds on a busy machine.
                await _stream(client, server, tally, args, 0)
                end = time.monotonic() + seconds
                await asyncio.gather(
                    _kill(server, tally, args, time.monotonic() + _KILLING_SHARE * seconds),
                    *(_client(client, server, tally, args, number, end) for number in range(args.streams)),
                )
            watcher.cancel()
            last = await server.end(signal.SIGTERM, args.stuck_seconds)
            tally.lives[-1].ended = f"SIGTERM, status {last}"
    finally:
        if server.process is not None and server.process.returncode is None:
            server.process.kill()
            await server.process.wait()
    return _figures(args, tally, last)


async def _client(
    client: openai.AsyncOpenAI, server: Server, tally: Tally, args: argparse.Namespace, number: int, end: float
) -> None:
    choice = random.Random(number)
    while time.monotonic() < end:
        if server.state == "down":
            await asyncio.sleep(0.1)
            continue
        await _stream(client, server, tally, args, choice.randrange(_REQUESTS))


async def _stream(
    client: openai.AsyncOpenAI, server: Server, tally: Tally, args: argparse.Namespace, index: int
) -> None:
    state, killed, begun = server.state, server.killed, False
    text, reason, written = "", None, 0
    try:
        # The time without a piece of text: the client's own timeout is for bytes, which are not all text.
        stream = await asyncio.wait_for(client.completions.create(**_request(args, index)), args.stuck_seconds)
        begun = True
        async with stream:
            pieces = aiter(stream)
            while True:
                try:
                    event = await asyncio.wait_for(anext(pieces), args.stuck_seconds)
                except StopAsyncIteration:
                    break
                for part in event.choices:
                    text, reason = text + part.text, part.finish_reason or reason
                if event.usage:
                    written = event.usage.completion_tokens
    except (TimeoutError, openai.APITimeoutError):
        tally.stuck += 1
        tally.unexpected[f"stuck {'after' if text else 'before'} its first text"] += 1
        return
    except Exception as error:
        # Whatever it is, it is counted; httpx's own errors come through where a stream breaks off.
        kind = _kind(error)
        gone = server.killed > killed or (not begun and (state != "up" or server.state != "up"))
        (tally.expected if gone else tally.unexpected)[kind] += 1
        # A refused connection is back at once.
        await asyncio.sleep(0.1)
        return
    if reason is None:
        # No error and no end: cut off, which only SIGKILL may do.
        (tally.expected if server.killed > killed else tally.unexpected)["cut off"] += 1
        return
    tally.streams += 1
    tally.tokens += written
    if tally.texts.setdefault(index, text) != text:
        tally.differing += 1


def _request(args: argparse.Namespace, index: int) -> dict[str, Any]:
    choice = random.Random(index)
    return {
        "model": Path(args.run).resolve().name,
        "prompt": "",
        "seed": index,
        "temperature": choice.choice([0.0, 0.7, 1.0]),
        "max_tokens": choice.randint(max(1, args.max_tokens // 2), args.max_tokens),
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _kind(error: Exception) -> str:
    status = getattr(error, "status_code", None)
    code = getattr(error, "code", None)
    return " ".join(str(part) for part in (type(error).__name__, status, code) if part is not None)


async def _kill(server: Server, tally: Tally, args: argparse.Namespace, until: float) -> None:
    """SIGTERM and SIGKILL in turn, evenly until `until`; a kill that comes late, as starts take long, is left out."""
    began = time.monotonic()
    choice = random.Random(0)
    for number in range(args.kills):
        place = (number + 0.5 + 0.4 * (choice.random() - 0.5)) / args.kills
        await asyncio.sleep(max(0.0, began + place * (until - began) - time.monotonic()))
        if time.monotonic() > until:
            return
        kind = signal.SIGKILL if number % 2 else signal.SIGTERM
        at = time.monotonic()
        status = await server.end(kind, args.stuck_seconds)
        seconds = time.monotonic() - at
        tally.lives[-1].ended = f"{kind.name}, status {status}"
        start = await server.start()
        tally.lives.append(Life())
        tally.kills.append(
            {
                "signal": kind.name,
                "status": status,
                "end_seconds": round(seconds, 2),
                "start_seconds": round(start, 2),
            }
        )


async def _watch(server: Server, tally: Tally) -> None:
    began, life = time.monotonic(), tally.lives[-1]
    while True:
        if tally.lives[-1] is not life:
            began, life = time.monotonic(), tally.lives[-1]
        resident = server.resident()
        if server.state == "up" and resident:
            life.rss.append((round(time.monotonic() - began, 1), round(resident, 1)))
        await asyncio.sleep(_SAMPLE_SECONDS)


def _figures(args: argparse.Namespace, tally: Tally, last: int) -> dict[str, Any]:
    lives = [
        {
            "ended": life.ended,
            "seconds": life.rss[-1][0] if life.rss else 0.0,
            "rss_mb_first": life.rss[0][1] if life.rss else None,
            "rss_mb_most": max((mb for _, mb in life.rss), default=None),
            "rss_mb_last": life.rss[-1][1] if life.rss else None,
            "growth_mb": None if (growth := life.growth()) is None else round(growth, 1),
            # Some forty points, to draw.
            "rss_mb": life.rss[:: max(1, len(life.rss) // 40)],
        }
        for life in tally.lives
    ]
    growths = [growth for life in tally.lives if (growth := life.growth()) is not None]
    orderly = [kill["status"] for kill in tally.kills if kill["signal"] == "SIGTERM"]
    problems = {
        f"{tally.stuck} streams were stuck": tally.stuck,
        f"{tally.differing} texts differ from those of the same request": tally.differing,
        f"errors that no kill explains: {dict(tally.unexpected)}": tally.unexpected.total(),
        f"statuses after SIGTERM: {[*orderly, last]}": any([*orderly, last]),
        f"memory grew by {max(growths, default=0.0):.1f} MB": max(growths, default=0.0) > args.max_growth_mb,
        "no server lived long enough to see its memory": not growths,
        f"{len(tally.kills)} of {args.kills} kills were made": len(tally.kills) < args.kills,
        "no stream came to its end": not tally.streams,
    }
    reasons = [reason for reason, bad in problems.items() if bad]
    return {
        "verdict": "fail" if reasons else "pass",
        "reasons": reasons,
        "minutes": args.minutes,
        "streams_at_once": args.streams,
        "streams": tally.streams,
        "tokens": tally.tokens,
        "tokens_per_second": round(tally.tokens / (60 * args.minutes)),
        "stuck": tally.stuck,
        "different_requests": len(tally.texts),
        "differing": tally.differing,
        "expected_errors": dict(tally.expected),
        "unexpected_errors": dict(tally.unexpected),
        "kills": tally.kills,
        "lives": lives,
    }


def _summary(figures: dict[str, Any]) -> str:
    kills = ", ".join(f"{kill['signal']} {kill['end_seconds']:g} s" for kill in figures["kills"]) or "none"
    memory = ", ".join(f"{life['rss_mb_first']}-{life['rss_mb_last']} MB" for life in figures["lives"])
    lines = [
        f"{figures['verdict']}: {figures['streams']:,} streams, {figures['tokens']:,} tokens in {figures['minutes']:g} "
        f"min, {figures['streams_at_once']} at once",
        *(f"  {reason}" for reason in figures["reasons"]),
        f"kills: {kills}",
        f"errors of killed servers: {figures['expected_errors'] or 'none'}",
        f"memory of each server, first and last: {memory}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
