"""Load on a server of jslm.serve on this machine: python scripts/bench_serve.py --run runs/quickstart --streams 1 64.

Starts the server, lets N clients stream at once for T seconds, and checks that each text is the one that the same
request gets alone. Prints a table, and with --json the figures as one object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_START_SECONDS = 300


@dataclass
class Tally:
    """What one level of load has seen."""

    streams: int
    seconds: float = 0.0
    tokens: int = 0
    cpu_seconds: float = 0.0
    requests: int = 0
    first: list[float] = field(default_factory=list)
    pieces: list[float] = field(default_factory=list)
    each: list[float] = field(default_factory=list)
    texts: list[tuple[int, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """As the table shows them; times in milliseconds."""

        def percentile(values: list[float], share: float) -> float:
            ordered = sorted(values)
            return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else 0.0

        return {
            "streams": self.streams,
            "seconds": round(self.seconds, 1),
            "requests": self.requests,
            "tokens_per_second": round(self.tokens / self.seconds),
            "server_cpu_ms_per_token": round(1000 * self.cpu_seconds / max(1, self.tokens), 3),
            "first_token_p50_ms": percentile(self.first, 0.5),
            "first_token_p99_ms": percentile(self.first, 0.99),
            "token_p50_ms": percentile(self.each, 0.5),
            "token_p99_ms": percentile(self.each, 0.99),
            "between_pieces_p50_ms": percentile(self.pieces, 0.5),
            "between_pieces_p99_ms": percentile(self.pieces, 0.99),
            "errors": len(self.errors),
        }


def main() -> int:
    """Runs the load; 1 where anything failed or differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="run folder or model file to serve")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64], help="levels of load (default 1 16 64)")
    parser.add_argument("--seconds", type=float, default=20, help="of each level (default 20)")
    parser.add_argument("--max-tokens", type=int, default=120, help="of each request (default 120)")
    parser.add_argument("--requests", type=int, default=200, help="different requests (default 200)")
    parser.add_argument("--prompts", help="file with a prompt a line (default: the start of a document)")
    parser.add_argument("--url", help="an OpenAI-compatible server that runs already, in place of starting one")
    parser.add_argument("--model", help="its model id (default: the name of --run)")
    parser.add_argument("--no-check", action="store_true", help="do not compare with the same requests alone")
    parser.add_argument("--json", metavar="FILE", help="write the figures there; - is stdout")
    parser.add_argument("serve_arguments", nargs="*", help="arguments for jslm.serve, after --")
    args = parser.parse_args()

    requests = _requests(args)
    with contextlib.ExitStack() as stack:
        pid = None
        if args.url is None:
            args.url, pid = stack.enter_context(_server(args.run, args.serve_arguments))
        asyncio.run(_load(args.url, requests, 1, 2.0))
        tallies, memory = [], [_resident(pid)]
        for streams in args.streams:
            before = _cpu_seconds(pid)
            tallies.append(asyncio.run(_load(args.url, requests, streams, args.seconds)))
            tallies[-1].cpu_seconds = _cpu_seconds(pid) - before
            memory.append(_resident(pid))
            print(_row(tallies[-1].figures(), memory[-1]), flush=True)
        differing = 0 if args.no_check else asyncio.run(_differing(args.url, requests, tallies))
    single = next((t for t in tallies if t.streams == 1), None)
    best = max(t.tokens / t.seconds for t in tallies)
    figures: dict[str, Any] = {
        "levels": [tally.figures() for tally in tallies],
        "ratio_to_one_stream": round(best / (single.tokens / single.seconds), 1) if single else None,
        "checked": 0 if args.no_check else sum(len(tally.texts) for tally in tallies),
        "differing": differing,
        "resident_mb": memory,
    }
    print(f"ratio to one stream: {figures['ratio_to_one_stream']}; texts checked: {figures['checked']}, ", end="")
    print(f"differing: {differing}; resident memory in MB before and after each level: {memory}")
    for error in {error for tally in tallies for error in tally.errors}:
        print(f"error: {error}", file=sys.stderr)
    if args.json == "-":
        print(json.dumps(figures))
    elif args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    return int(differing > 0 or any(tally.errors for tally in tallies))


def _requests(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Requests that differ in prompt, seed, length and sampling."""
    prompts = Path(args.prompts).read_text("utf-8").splitlines() if args.prompts else [""]
    model = args.model or Path(args.run).resolve().name
    choice = random.Random(0)
    return [
        {
            "model": model,
            "prompt": choice.choice(prompts),
            "seed": seed,
            "temperature": choice.choice([0.0, 0.7, 1.0]),
            "max_tokens": choice.randint(args.max_tokens // 2, args.max_tokens),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for seed in range(args.requests)
    ]


async def _load(url: str, requests: list[dict[str, Any]], streams: int, seconds: float) -> Tally:
    tally = Tally(streams)
    started = time.perf_counter()
    end = started + seconds

    async def client(number: int) -> None:
        index = number
        while time.perf_counter() < end:
            await _one(url, requests, index % len(requests), tally)
            index += streams

    await asyncio.gather(*(client(number) for number in range(streams)))
    tally.seconds = time.perf_counter() - started
    return tally


async def _one(url: str, requests: list[dict[str, Any]], index: int, tally: Tally) -> None:
    started = last = time.perf_counter()
    text, gaps = "", []
    events, written = 0, None
    try:
        async for event in _events(url, requests[index]):
            if "error" in event:
                tally.errors.append(event["error"]["message"])
                return
            events += bool(event["choices"])
            if event["choices"] and event["choices"][0]["text"]:
                now = time.perf_counter()
                if text:
                    gaps.append(now - last)
                else:
                    tally.first.append(now - started)
                text, last = text + event["choices"][0]["text"], now
            if event.get("usage"):
                written = event["usage"]["completion_tokens"]
    except (OSError, ValueError) as error:
        tally.errors.append(f"{type(error).__name__}: {error}")
        return
    if written is None:
        # A server that does not count sends a token an event (llama.cpp's does).
        written = events
    # A piece of text may be several tokens: what a reader waits for, and what each token takes on average.
    tally.pieces += gaps
    tally.each += [sum(gaps) / max(1, written - 1)] if gaps else []
    tally.tokens += written
    tally.requests += 1
    tally.texts.append((index, text))


async def _events(url: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        raw = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(raw)}\r\nConnection: close\r\n\r\n".encode() + raw)
        status = await reader.readline()
        if b" 200 " not in status:
            raise ValueError(status.decode().strip())
        async for line in reader:
            if line.startswith(b"data: ") and b"[DONE]" not in line:
                yield json.loads(line[6:])
    finally:
        writer.close()


async def _differing(url: str, requests: list[dict[str, Any]], tallies: list[Tally]) -> int:
    """Texts under load that are not what the same request gets when nothing else runs."""
    wanted: dict[int, str] = {}
    for index in sorted({index for tally in tallies for index, _ in tally.texts}):
        alone = Tally(1)
        await _one(url, requests, index, alone)
        wanted[index] = alone.texts[0][1] if alone.texts else ""
    return sum(text != wanted[index] for tally in tallies for index, text in tally.texts)


@contextlib.contextmanager
def _server(run: str, arguments: list[str]) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "jslm.serve", "--run", run, "--port", "0", "--request-log", os.devnull, *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = next((line for line in process.stderr if "http://" in line), "")
        if not line:
            raise SystemExit("the server did not start")
        url = line.split("jslm serve: ")[1].split()[0]
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{url}/ready", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the server did not become ready") from None
                time.sleep(0.2)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(60)


def _resident(pid: int | None) -> int | None:
    """Megabytes."""
    if pid is None:
        return None
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def _cpu_seconds(pid: int | None) -> float:
    """What the server has used; on a busy machine it says more than the time that has passed."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _row(figures: dict[str, Any], memory: int | None) -> str:
    return (
        f"{figures['streams']:>4} streams  {figures['tokens_per_second']:>7,} tokens/s  "
        f"CPU {figures['server_cpu_ms_per_token']:.3f} ms/token  "
        f"first token p50 {figures['first_token_p50_ms']:>7} p99 {figures['first_token_p99_ms']:>7} ms  "
        f"a token p50 {figures['token_p50_ms']:>6} p99 {figures['token_p99_ms']:>6} ms  "
        f"between pieces p99 {figures['between_pieces_p99_ms']:>6} ms  "
        f"requests {figures['requests']:>5}  errors {figures['errors']}  memory {memory} MB"
    )


if __name__ == "__main__":
    sys.exit(main())
