"""What the endpoints share: the models, the engine, the limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from jslm.infer.job import Sample
from jslm.serve.engine import Engine
from jslm.serve.errors import ApiError
from jslm.serve.generation import Generation
from jslm.serve.limits import Limits
from jslm.serve.metrics import Metrics
from jslm.serve.models import ServedModel

# Arguments of jslm.sample that a request has under the same name.
_SHARED = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
    "conditions",
)  # fmt: skip
_SMALLEST_TOP_P = 1e-9


class Service:
    """One application's state, at `request.app.state.service`."""

    def __init__(self, models: Mapping[str, ServedModel], engine: Engine, metrics: Metrics, limits: Limits) -> None:
        self.models = dict(models)
        self.engine = engine
        self.metrics = metrics
        self.limits = limits

    def model(self, name: str) -> ServedModel:
        """The model of that id. Raises ApiError where there is none."""
        if name not in self.models:
            known = ", ".join(self.models)
            raise ApiError(404, f"no model {name!r} here; there are: {known}", code="model_not_found", param="model")
        return self.models[name]

    def generate(self, served: ServedModel, samples: Sequence[Sample]) -> Generation:
        """Hands the samples to the engine. Raises ApiError where they are not taken."""
        return Generation(self.engine, self.metrics, served, samples)


def sampling_values(body: BaseModel) -> dict[str, Any]:
    """What a request says of sampling, as arguments of jslm.sample; what it leaves open is not there."""
    found = {name: value for name in _SHARED if (value := getattr(body, name)) is not None}
    if found.get("top_p") == 0:
        # The likeliest token reaches any probability, however small.
        found["top_p"] = _SMALLEST_TOP_P
    if "seed" in found:
        found["seed"] %= 2**63
    stop = getattr(body, "stop", None)
    if stop:
        found["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return found
