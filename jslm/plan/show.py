"""Plans for people."""

from __future__ import annotations

from collections.abc import Sequence

from jslm.plan.chips import size
from jslm.plan.estimate import DecodePlan, Plan, Roofline

_SHOWN = 5
_WORDS = {
    False: "A bound knows no overheads: a real step takes longer.",
    True: "Times are by the shares of these peaks that steps on an H200 were measured to reach (docs/accelerators.md).",
}


def describe_plan(plan: Plan) -> str:
    """The whole plan, some thirty lines."""
    chip, memory = plan.chip, plan.memory
    axes = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    pieces = plan.batch_size // plan.micro_batch
    lines = [
        f"{plan.topology}: {plan.devices} x {chip.name}, mesh {axes}; {plan.dtype}, remat {plan.remat}",
        f"{count(plan.parameters)} parameters; {plan.batch_size:,} sequences of {plan.context_length:,} tokens a step"
        + (f", in {pieces} micro-batches of {plan.micro_batch:,}" if pieces > 1 else ""),
        *(f"  {note}" for note in plan.notes),
        "",
        f"{'fits' if plan.fits else 'DOES NOT FIT'}: {size(memory.total)} of {size(chip.memory_bytes)} a device",
    ]
    if plan.refusal:
        lines.append(f"  the compiler: {plan.refusal}")
    lines += [
        f"  {name:<44}{size(value):>10}"
        for name, value in (
            ("parameters", memory.parameters),
            ("optimizer", memory.optimizer),
            ("counters, averages, padding of layouts", memory.other_state),
            ("batch", memory.batch),
            ("activations, gradients, other temporaries", memory.temporaries),
            ("program", memory.program),
        )
    ]
    if plan.roofline is None or plan.bytes is None:
        lines += ["", "lower train.micro_batch, raise mesh.fsdp, or set model.remat = 'full'; --search tries these"]
    else:
        lines += ["", *_step_lines(plan, plan.roofline, plan.bytes), "", *_run_lines(plan, plan.roofline)]
    if plan.decode:
        lines += ["", *_decode_lines(plan.decode, plan)]
    lines += ["", f"Peaks: {chip.source}. {_WORDS[plan.expected_seconds is not None]}"]
    if chip.cache_bytes > memory.total:
        lines.append(f"All of it fits the caches ({size(chip.cache_bytes)}), so memory's line is left at 0.")
    return "\n".join(lines)


def describe_plans(plans: Sequence[Plan]) -> str:
    """A line for each of several devices."""
    lines = [f"{'devices':<18}{'memory':>22}{'step':>11}{'tokens/s':>10}{'MFU':>6}{'whole run':>12}{'cost':>10}"]
    for plan in plans:
        step = plan.expected_seconds or (plan.roofline.seconds if plan.roofline else 0)
        room = f"{size(plan.memory.total)} of {size(plan.chip.memory_bytes)}"
        if not plan.fits:
            lines.append(f"{plan.topology:<18}{room:>22}  does not fit")
            continue
        run = duration(plan.run_seconds) if plan.run_seconds else "-"
        cost = f"{plan.cost:,.2f}" if plan.cost is not None else "-"
        lines.append(
            f"{plan.topology:<18}{room:>22}{duration(step):>11}{count(plan.tokens_per_second or 0):>10}"
            f"{plan.mfu or 0:>6.0%}{run:>12}{cost:>10}"
        )
    return "\n".join(lines)


def describe_search(plans: Sequence[Plan]) -> str:
    """The best few of several plans, as a table, and the best one's settings to paste."""
    fitting = [plan for plan in plans if plan.fits]
    if not fitting:
        return f"nothing fits: {len(plans)} tried; take more chips, or lower model.context_length"
    lines = [
        f"{'data':>5}{'fsdp':>6}{'tensor':>8}{'micro-batch':>13}{'remat':>7}{'memory':>11}{'step':>11}{'MFU':>7}  limit"
    ]
    for plan in fitting[:_SHOWN]:
        assert plan.roofline is not None
        assert plan.mfu is not None
        data, fsdp, tensor = (plan.mesh[axis] for axis in ("data", "fsdp", "tensor"))
        lines.append(
            f"{data:>5}{fsdp:>6}{tensor:>8}{plan.micro_batch:>13,}{plan.remat:>7}{size(plan.memory.total):>11}"
            f"{duration(plan.expected_seconds or plan.roofline.seconds):>11}{plan.mfu:>7.0%}  {plan.roofline.limit}"
        )
    best = fitting[0]
    own = next((plan for plan in plans if plan.as_given), None)
    settings = " ".join(f"mesh.{axis}={n}" for axis, n in best.mesh.items())
    lines += [
        "",
        f"{len(plans)} tried, {len(fitting)} fit. The first: {settings} train.batch_size={best.batch_size} "
        f"train.micro_batch={best.micro_batch} model.remat={best.remat}",
        *_beside_own(best, own),
        *best.notes,
    ]
    return "\n".join(lines)


def _beside_own(best: Plan, own: Plan | None) -> list[str]:
    """How the best of a search stands to the config as it is, where that was among the plans."""
    if own is None:
        return []
    if best is own:
        return ["These are the config's own settings: nothing that was tried is faster."]
    if not own.fits:
        return ["As it is, the config does not fit."]
    ratio = own.seconds_per_sequence / best.seconds_per_sequence
    return [f"{ratio:.2f} times as fast as the config as it is."]


def count(number: float) -> str:
    """A number, as 124.4M."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.1f}{unit}"
    return f"{number:.0f}"


def flop(number: float) -> str:
    """Floating-point operations, as 52.5 TFLOP."""
    for unit, scale in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
        if number >= scale:
            return f"{number / scale:,.1f} {unit}"
    return f"{number / 1e6:.1f} MFLOP"


def duration(seconds: float) -> str:
    """A time, in the unit that fits it."""
    for unit, scale in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:,.1f} {unit}"
    return f"{seconds * 1e6:.1f} us" if seconds else "0"


def _step_lines(plan: Plan, roofline: Roofline, moved: float) -> list[str]:
    wire = sum(collective.wire_bytes for collective in plan.collectives)
    rows = [
        ("arithmetic", flop(plan.flops), roofline.arithmetic),
        ("memory", size(moved), roofline.memory),
        ("links", size(wire), roofline.links),
    ]
    lines = ["a step on each device, and the least time for it"]
    for name, amount, seconds in rows:
        mark = "  <- the limit" if name == roofline.limit else ""
        lines.append(f"  {name:<14}{amount:>14}{duration(seconds):>12}{mark}")
    for collective in plan.collectives:
        lines.append(
            f"    {collective.kind} over {collective.group} devices, {collective.count:,} times: "
            f"{size(collective.payload_bytes)}"
        )
    return lines


def _run_lines(plan: Plan, roofline: Roofline) -> list[str]:
    how = "at best" if plan.expected_seconds is None else "about"
    lines = [
        f"{how} {duration(plan.expected_seconds or roofline.seconds)} a step, {count(plan.tokens_per_second or 0)} "
        f"tokens/s, {plan.mfu or 0:.0%} MFU"
    ]
    if plan.run_seconds is not None and plan.accelerator_hours is not None:
        cost = f", costing {plan.cost:,.2f}" if plan.cost is not None else ""
        lines.append(
            f"whole run of {plan.steps:,} steps ({count(plan.steps * plan.tokens_per_step)} tokens): {how} "
            f"{duration(plan.run_seconds)}, {plan.accelerator_hours:,.2f} accelerator-hours{cost}"
        )
    return lines


def _decode_lines(decode: DecodePlan, plan: Plan) -> list[str]:
    rows = "1 row" if decode.batch == 1 else f"{decode.batch} rows"
    head = f"decoding {rows} of {plan.context_length:,} tokens on one {plan.chip.name}"
    if not decode.fits or decode.roofline is None:
        return [f"{head}: does not fit"]
    lines = [
        f"{head}: {size(decode.memory_bytes)}; a token takes {flop(decode.flops)}, {size(decode.bytes)} of memory "
        f"traffic and {decode.operations:,} operations"
    ]
    if decode.tokens_per_second is None:
        return [*lines, "  weights stay in the chip's own memory: the overhead of each operation is the limit"]
    return [*lines, f"  at best {count(decode.tokens_per_second)} tokens/s ({decode.roofline.limit})"]
