"""A server that listens on its machine alone is called by that machine's names alone (DNS rebinding)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jslm.infer import LanguageModel
from jslm.serve.server import local_names, open_socket


@pytest.fixture(scope="module")
def named_site(make_module_site: Callable[..., Any], letters: LanguageModel) -> Any:
    """Listens on this machine alone, as `my.name` too."""
    with open_socket("127.0.0.1", 0) as listener:
        return make_module_site({"letters": letters}, hosts=local_names(listener, "my.name"))


@pytest.mark.parametrize("path", ["/", "/v1/models", "/nowhere"])
def test_a_page_whose_name_leads_here_is_not_let_in(named_site: Any, path: str) -> None:
    port = named_site.port
    for host in ("localhost", "LocalHost", "127.0.0.1", "[::1]", f"localhost:{port}", f"[::1]:{port}", "my.name:1"):
        assert named_site.request("GET", path, Host=host).status == (404 if path == "/nowhere" else 200)
    strange = ["127.0.0.1@evil.example", "localhost:a", "", "::1", "localhost, evil.example"]
    for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", *strange):
        refused = named_site.request("GET", path, Host=host)
        assert (refused.status, refused.error["code"]) == (421, "wrong_host")


def test_streams_go_through_where_hosts_are_asked_for(named_site: Any, letters: LanguageModel) -> None:
    body = {"model": "letters", "prompt": "", "seed": 1, "max_tokens": 60, "stream": True}
    events = named_site.post("/v1/completions", body, Host="localhost").events
    assert len(events) > 2
    assert "".join(event["choices"][0]["text"] for event in events) == letters.generate("", seed=1, max_new_tokens=60)


def test_names_are_asked_for_where_others_cannot_listen() -> None:
    with open_socket("localhost", 0) as listener:
        assert local_names(listener, "LOCALHOST") == {"localhost", "127.0.0.1", "::1"}
    with open_socket("127.0.0.2", 0) as listener:
        assert "127.0.0.2" in local_names(listener, "127.0.0.2")
    with open_socket("0.0.0.0", 0) as listener:
        assert local_names(listener, "0.0.0.0") == set()
