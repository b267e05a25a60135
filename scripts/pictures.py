"""The pictures of README and docs, made anew: python scripts/pictures.py [report] [dial].

`report` opens runs/quickstart/report.html (of `make quickstart`) in Chromium and takes its first screen. `dial` draws
the runs of docs/dial-study.jsonl beside what the law says of them, by matplotlib (`pip install matplotlib`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 1000, 900
PICTURES = ("report", "dial")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> int:
    """Makes the pictures that are asked for; all without arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", choices=PICTURES, default=PICTURES, help="which ones (default: both)")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "quickstart", help="folder of the report's run")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the pictures (default docs)")
    args = parser.parse_args()
    if "report" in args.which:
        screenshot(args.run / "report.html", args.out / "quickstart-report.png")
    if "dial" in args.which:
        rows = [json.loads(line) for line in (ROOT / "docs" / "dial-study.jsonl").read_text("utf-8").splitlines()]
        draw(rows, args.out / "dial-study.svg")
    return 0


def screenshot(page: Path, target: Path) -> None:
    """The first screen of a page, 1,000 pixels wide. Ends the program where there is no page, or no Chromium."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is on the PATH; install one")
    if not page.is_file():
        sys.exit(f"{page} is not there; make quickstart writes it")
    with tempfile.TemporaryDirectory() as folder:
        quiet = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={folder}"]
        size = f"--window-size={WIDTH},{HEIGHT}"
        command = [browser, *quiet, size, f"--screenshot={target.resolve()}", page.resolve().as_uri()]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    print(target)


def points(rows: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """(corpus, bits per byte as the law has it, as it was found) of each run."""
    from jslm.dial.rules import predict, worth

    found = []
    for row in rows:
        per_token = row["train_bytes"] / row["train_tokens"]
        law = predict(worth(row["parameters"]), row["tokens"] * per_token, row["train_bytes"])
        found.append((row["run"]["corpus"], law, row["bits_per_byte"]))
    return found


def draw(rows: list[dict[str, Any]], target: Path) -> None:
    """The law against the runs, and loss against parameters for each time."""
    try:
        import matplotlib as mpl
    except ImportError:
        sys.exit("the dial's picture needs matplotlib: pip install matplotlib")
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "jslm"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained")
    found_by_law = points(rows)
    ends = [value for _, law, found in found_by_law for value in (law, found)]
    left.plot([min(ends), max(ends)], [min(ends), max(ends)], "--", color="#63635e", linewidth=1)
    for corpus in dict.fromkeys(name for name, _, _ in found_by_law):
        mine = [(law, found) for name, law, found in found_by_law if name == corpus]
        left.plot([law for law, _ in mine], [found for _, found in mine], "o", label=corpus)
        some = [row for row in rows if row["run"]["corpus"] == corpus]
        right.plot([row["tokens"] for row in some], [row["bits_per_byte"] for row in some], "o", label=corpus)
    left.set(xlabel="bits per byte by the law", ylabel="bits per byte found")
    right.set(xlabel="tokens seen", ylabel="bits per byte found", xscale="log")
    left.legend()
    figure.savefig(target, metadata={"Date": None})
    print(target)


if __name__ == "__main__":
    sys.exit(main())
