"""A jslm model in lm-evaluation-harness, for any of its tasks. Needs the extra `harness`.

    python -m jslm.evaluate.harness run --model jslm --model_args run=runs/mine --tasks arc_easy

is the harness's own command line with one model more; from Python:

    lm_eval.simple_evaluate(model=HarnessModel("runs/mine"), tasks=["arc_easy"])
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from lm_eval.api.model import LM
from lm_eval.api.registry import model_registry

from jslm.errors import JslmError
from jslm.evaluate.choices import likelihoods
from jslm.evaluate.scoring import BATCH_TOKENS
from jslm.evaluate.text_loss import text_loss
from jslm.infer import LanguageModel, load

_MAX_NEW_TOKENS = 256
# What a prompt cut between tokens may grow by when it is encoded again.
_CUT_MARGIN = 8
_KNOWN = ("until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p", "min_p")


class HarnessModel(LM):
    """A run folder, or a model in any format of jslm.formats, as lm-evaluation-harness wants one."""

    def __init__(
        self,
        run: str | Path | LanguageModel,
        checkpoint: str | int = "best",
        batch_tokens: int = BATCH_TOKENS,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
        stream: TextIO | None = None,
    ) -> None:
        """`batch_tokens` is how much is computed at once; the harness's own three settings are taken and not used.
        `stream` is where progress is shown, stderr by default.

        Raises JslmError as `jslm.load`.
        """
        super().__init__()
        del batch_size, max_batch_size, device
        self.model = run if isinstance(run, LanguageModel) else load(run, checkpoint=str(checkpoint))
        self.batch_tokens, self._stream = batch_tokens, stream
        # Tokens of continuations so far, by the harness's name of the task that asked.
        self.scored: Counter[str] = Counter()

    @property
    def tokenizer_name(self) -> str:
        """What the harness's cache of requests is named after."""
        return f"jslm-{self.model.tokenizer.fingerprint}"

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(log-probability, whether greedy) of each (context, continuation); see `likelihoods`."""
        pairs = [request.args for request in requests]
        with contextlib.redirect_stderr(self._stream or sys.stderr):
            found = likelihoods(self.model, pairs, batch_tokens=self.batch_tokens)
        answers = [(likelihood.logprob, likelihood.greedy) for likelihood in found]
        for request, answer, likelihood in zip(requests, answers, found, strict=True):
            self.scored[request.task_name or ""] += likelihood.tokens
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log-probability of each whole text, in disjoint windows of the context, as the harness defines it."""
        stride = self.model.config.model.context_length
        answers = []
        for request in requests:
            (text,) = request.args
            result = text_loss(self.model, text, stride=stride, batch_tokens=self.batch_tokens)
            answers.append(-result.nats)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answers[-1])
        return answers

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The continuation of each context up to one of its stop strings; greedy unless `do_sample`.

        Raises JslmError for a setting of the task that has no counterpart here.
        """
        groups: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[repr(sorted(request.args[1].items()))].append(index)
        answers = [""] * len(requests)
        for chosen in groups.values():
            arguments = _arguments(requests[chosen[0]].args[1])
            # Some tasks ask for more than these models' whole context.
            context = self.model.config.model.context_length
            arguments["max_new_tokens"] = min(arguments["max_new_tokens"], max(1, context // 2))
            prompts = [self._shortened(requests[i].args[0], arguments["max_new_tokens"]) for i in chosen]
            for index, text in zip(chosen, self.model.generate(prompts, **arguments), strict=True):
                assert isinstance(text, str)
                answers[index] = text
                self.cache_hook.add_partial("generate_until", requests[index].args, text)
        return answers

    def _shortened(self, prompt: str, room: int) -> str:
        """The end of a prompt that leaves room to write in, as the harness cuts prompts that are too long."""
        ids = self.model.tokenizer.encode(prompt)
        keep = self.model.config.model.context_length - room - _CUT_MARGIN
        return prompt if len(ids) <= keep else self.model.tokenizer.decode(ids[-max(1, keep) :])


def _arguments(asked: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(asked) - set(_KNOWN)):
        raise JslmError(f"generation_kwargs: {', '.join(unknown)} can't be set here; there are {', '.join(_KNOWN)}")
    until = asked.get("until") or []
    stop = [until] if isinstance(until, str) else list(until)
    arguments: dict[str, Any] = {
        "stop": [text for text in stop if text],
        "max_new_tokens": int(asked.get("max_gen_toks") or _MAX_NEW_TOKENS),
    }
    temperature = float(asked.get("temperature") or 0.0)
    if not asked.get("do_sample", temperature > 0) or not math.isfinite(temperature):
        return arguments | {"greedy": True}
    chosen = {key: asked[key] for key in ("top_k", "top_p", "min_p") if asked.get(key) is not None}
    return arguments | {"temperature": temperature or 1.0} | chosen


def main() -> None:
    """The harness's own command line, with `--model jslm`."""
    from lm_eval.__main__ import cli_evaluate

    # By name: run as a program, this module is not the one that the harness would import.
    model_registry.register("jslm", target="jslm.evaluate.harness:HarnessModel")
    cli_evaluate()


if __name__ == "__main__":
    main()
