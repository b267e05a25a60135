"""Requests made from the server's own OpenAPI document, valid and not: no crash, and only documented answers."""

from __future__ import annotations

from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is in the extra dev")


@pytest.mark.slow
def test_requests_from_the_schema(site: Any) -> None:
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import openapi

    document = site.request("GET", "/openapi.json").json
    schema = openapi.from_dict(document)
    seen: set[int] = set()
    for operation in schema.get_all_operations():
        call: Any = operation.ok()  # type: ignore[union-attr]
        documented = set(call.definition.raw["responses"])

        @given(case=call.as_strategy())
        @settings(
            max_examples=40,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            # Most generated models do not exist: half of the cases name one that does.
            if isinstance(case.body, dict) and "model" in case.body and len(case.body) % 2:
                case.body["model"] = "bytes"
            response = case.call(base_url=f"http://127.0.0.1:{site.port}", timeout=60)
            seen.add(response.status_code)
            assert response.status_code < 500
            assert str(response.status_code) in documented, response.text[:200]  # noqa: B023
            if response.status_code >= 400:
                assert set(response.json()["error"]) == {"message", "type", "param", "code"}

        check()
    site.wait_until_free()
    assert {200, 400, 404} <= seen
