"""The report's last words: what holds the model back, by the dial's law, and the commands that come next."""

from __future__ import annotations

import shlex
import tomllib
from html import escape

from jslm.dial.rules import predict, worth
from jslm.train.report_sections import Run, section
from jslm.train.report_summary import dig

# Differences under this many bits per byte are chance.
_LEAST = 0.005


def limits(run: Run) -> str:
    """What twice the text, twice the time and twice the parameters would give, likeliest gain first; empty where the
    run has no bits per byte of held-out text, or began from a trained model."""
    found = gains(run)
    if not found:
        return ""
    items = "".join(
        f"<li>{escape(what)}: about {gain:.2f} bits per byte {'fewer' if gain > 0 else 'more'}</li>"
        if abs(gain) >= _LEAST
        else f"<li>{escape(what)}: about the same</li>"
        for what, gain in found
    )
    best, gain = found[0]
    head = f"What would help most is {escape(best)}." if gain >= _LEAST else "Nothing of these would help much."
    return section(
        "What holds it back",
        f'<p>{head}</p><ul>{items}</ul><p class="note">By a law fitted to small runs (docs/dial.md), moved to this '
        "run's own loss: good for which of them, less for how much.</p>",
    )


def gains(run: Run) -> list[tuple[str, float]]:
    """(what, bits per byte fewer), the largest gain first."""
    bits, seen = dig(run.info, "result", "val/bits_per_byte"), dig(run.info, "result", "tokens_seen")
    parameters, train = run.info.get("parameters") or {}, dig(run.info, "data", "train") or {}
    if not (bits and seen and parameters.get("total") and train.get("tokens") and train.get("bytes")):
        return []
    if dig(run.info, "init_from"):
        return []
    text = float(train["bytes"])
    read = seen * text / train["tokens"]
    size = worth(parameters)
    now = predict(size, read, text)
    scale = bits / now
    options = {
        "twice the text": predict(size, read, 2 * text),
        "twice the time": predict(size, 2 * read, text),
        "twice the parameters, in the same time": predict(2 * size, read / 2, text),
        "half the parameters, in the same time": predict(size / 2, 2 * read, text),
    }
    train_config = tomllib.loads(run.config).get("train", {}) if run.config else {}
    if train_config.get("minutes") and 0 < train_config.get("steps", 0) <= (dig(run.info, "result", "step") or 0):
        # The dial ended it before its time, as more readings would have made it no better.
        options = {what: then for what, then in options.items() if "time" not in what}
    found = [(what, scale * (now - then)) for what, then in options.items()]
    return sorted(found, key=lambda pair: -pair[1])


def next_commands(run: Run) -> str:
    """How to write with the model, to serve it, and to take it elsewhere."""
    prompt = next((prompt for _, prompt, _ in reversed(run.samples) if prompt.isprintable() and prompt), "")
    folder = shlex.quote(str(run.folder))
    sample = f"jslm sample --run {folder}" + (f" --prompt {shlex.quote(prompt)}" if prompt else "")
    page = shlex.quote(f"{run.folder}-page")
    commands = {
        "Write with this model": sample,
        "Talk to it in a browser, or from OpenAI's client": f"jslm serve --run {folder}",
        "Put it on a page that needs no server": f"jslm convert export {folder} {page} --format web",
    }
    items = "".join(f"<p>{escape(what)}:</p><pre>{escape(command)}</pre>" for what, command in commands.items())
    return section("What next", items)
