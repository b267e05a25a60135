"""What the endpoints share: the models, the engine, the limits, the keys and the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from jslm.infer.job import Sample
from jslm.serve.call import Call
from jslm.serve.engine import Engine
from jslm.serve.errors import ApiError
from jslm.serve.generation import Generation
from jslm.serve.keyring import Keyring
from jslm.serve.limits import Limits
from jslm.serve.metrics import Metrics
from jslm.serve.models import ServedModel
from jslm.serve.request_log import RequestLog

# Arguments of jslm.sample that a request has under the same name.
_SHARED = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
    "conditions",
)  # fmt: skip
_SMALLEST_TOP_P = 1e-9


class Service:
    """One application's state, at `request.app.state.service`."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        engine: Engine,
        metrics: Metrics,
        limits: Limits,
        *,
        keys: Keyring | None = None,
        log: RequestLog | None = None,
    ) -> None:
        """`keys`: None where anybody may call; `log`: None for no lines."""
        self.models = dict(models)
        self.engine = engine
        self.metrics = metrics
        self.limits = limits
        self.keys = keys
        self.log = log
        # Requests of which the answer is not yet sent, of any kind.
        self.open_requests = 0

    def visible(self, call: Call) -> list[ServedModel]:
        """The models that the call's key is for."""
        return [served for name, served in self.models.items() if call.may_use(name)]

    def model(self, call: Call, name: str) -> ServedModel:
        """The model of that id. Raises ApiError where there is none, and where the key is not for it."""
        if name not in self.models:
            known = ", ".join(served.name for served in self.visible(call)) or "none for this key"
            raise ApiError(404, f"no model {name!r} here; there are: {known}", code="model_not_found", param="model")
        call.model = name
        if not call.may_use(name):
            raise ApiError(403, f"this key is not for the model {name!r}", code="model_not_allowed", param="model")
        return self.models[name]

    def generate(self, call: Call, served: ServedModel, samples: Sequence[Sample]) -> Generation:
        """Hands the samples to the engine. Raises ApiError where they are not taken, and where the key has no tokens
        left for them."""
        return Generation(self.engine, self.metrics, call, served, samples)


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
