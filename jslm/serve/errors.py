"""Errors as OpenAI's API words them, so that its clients raise what their users expect."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse


class ApiError(Exception):
    """A request that is not served: HTTP status, message, and the fields that clients look at."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers or {}

    @property
    def kind(self) -> str:
        """`type` of OpenAI's error."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        return kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The error as a response."""
        return JSONResponse(self.body(), self.status, self.headers)


def overloaded(message: str, code: str, status: int = 503) -> ApiError:
    """A refusal that may pass if it is tried again soon."""
    return ApiError(status, message, code=code, headers={"Retry-After": "1"})


def failed(failure: str, seconds: float) -> ApiError:
    """What a sample's failure inside the engine is to a client."""
    match failure:
        case "timeout":
            return overloaded(f"the request took longer than {seconds:g} s; ask for fewer tokens", "timeout")
        case "not_finite":
            return ApiError(
                500, "the model's logits are not finite: its training has diverged; serve another checkpoint"
            )
        case _:
            return overloaded("the server has stopped before the request was done", "stopped")
