"""The pictures of README and docs, made anew: python scripts/pictures.py [report] [dial].

`report` opens runs/quickstart/report.html (of `make quickstart`) in Chromium and takes its first screen. `dial` draws
the runs of docs/dial-sizes.jsonl beside what the law says of them, and those of docs/dial-widths.jsonl, by matplotlib
(`pip install matplotlib`).
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
        sizes, widths = (read(ROOT / "docs" / f"dial-{name}.jsonl") for name in ("sizes", "widths"))
        draw(sizes, widths, args.out / "dial-study.svg")
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


def read(path: Path) -> list[dict[str, Any]]:
    """Lines of `scripts/dial_study.py`."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def points(rows: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """(corpus, bits per byte as the law has it, as it was found) of each run."""
    from jslm.dial.rules import predict, worth

    found = []
    for row in rows:
        per_token = row["train_bytes"] / row["train_tokens"]
        law = predict(worth(row["parameters"]), row["tokens"] * per_token, row["train_bytes"])
        found.append((row["run"]["corpus"], law, row["bits_per_byte"]))
    return found


def by_size(rows: list[dict[str, Any]]) -> dict[tuple[str, float], list[tuple[int, float]]]:
    """Of each corpus and number of operations, parameters and bits per byte of its runs."""
    from jslm.dial.rules import model_of, operations

    found: dict[tuple[str, float], list[tuple[int, float]]] = {}
    for row in rows:
        settings = row["run"]["set"]
        layers, width = settings["model.n_layers"], settings["model.d_model"]
        work = row["tokens"] * operations(model_of(layers, width, settings.get("tokenizer.vocab_size", 2048)))
        key = row["run"]["corpus"], float(f"{work:.1g}")
        found.setdefault(key, []).append((row["parameters"]["total"], row["bits_per_byte"]))
    return {key: sorted(found[key]) for key in sorted(found)}


def by_width(rows: list[dict[str, Any]]) -> dict[int, list[tuple[float, float]]]:
    """Of each width, learning rates and bits per byte."""
    found: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        settings = row["run"]["set"]
        point = settings["optimizer.learning_rate"], row["bits_per_byte"]
        found.setdefault(settings["model.d_model"], []).append(point)
    return {width: sorted(found[width]) for width in sorted(found)}


def draw(sizes: list[dict[str, Any]], widths: list[dict[str, Any]], target: Path) -> None:
    """Loss against parameters for each text and time, the law against the runs, loss against rate for each width."""
    try:
        import matplotlib as mpl
    except ImportError:
        sys.exit("the dial's picture needs matplotlib: pip install matplotlib")
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "jslm"
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(12.6, 4.2), layout="constrained")
    colors = {name: f"C{index}" for index, name in enumerate(dict.fromkeys(row["run"]["corpus"] for row in sizes))}
    markers = ("o", "s", "^", "d")
    works = sorted({work for _, work in by_size(sizes)})
    for (corpus, work), mine in by_size(sizes).items():
        look = {"color": colors[corpus], "marker": markers[works.index(work)], "label": f"{corpus}, {work:.0e}"}
        left.plot([size for size, _ in mine], [loss for _, loss in mine], **look)
    found_by_law = points(sizes)
    ends = [value for _, law, found in found_by_law for value in (law, found)]
    middle.plot([min(ends), max(ends)], [min(ends), max(ends)], "--", color="#63635e", linewidth=1)
    for corpus, color in colors.items():
        pairs = [(law, found) for name, law, found in found_by_law if name == corpus]
        middle.plot([law for law, _ in pairs], [found for _, found in pairs], "o", color=color, label=corpus)
    for width, tried in by_width(widths).items():
        right.plot([rate for rate, _ in tried], [loss for _, loss in tried], "o-", label=f"width {width}")
    left.set(xlabel="parameters", ylabel="bits per byte", xscale="log", title="text, operations")
    middle.set(xlabel="bits per byte by the law", ylabel="bits per byte found", title="the law")
    right.set(xlabel="Muon's learning rate", ylabel="bits per byte", xscale="log", title="0.5M tokens of the books")
    left.set_xticks([3e5, 1e6, 3e6], ["0.3M", "1M", "3M"])
    right.set_xticks([0.003, 0.01, 0.03], ["0.003", "0.01", "0.03"])
    # Room for its six names under the lines.
    left.set_ylim(bottom=left.get_ylim()[0] - 0.2)
    for axes in (left, right):
        axes.xaxis.set_minor_formatter("")
    left.legend(fontsize="small", loc="lower left", ncols=2)
    middle.legend(fontsize="small", loc="center")
    right.legend(fontsize="small")
    figure.savefig(target, metadata={"Date": None})
    print(target)


if __name__ == "__main__":
    sys.exit(main())
