"""Keys from a file: what is read, who is let in, what each may use."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from jslm.errors import JslmError
from jslm.infer import LanguageModel
from jslm.serve import Limits
from jslm.serve.__main__ import main
from jslm.serve.errors import ApiError
from jslm.serve.keyring import Keyring, open_keyring
from jslm.serve.keys import Key, digest, read_keys
from jslm.serve.quota import Account, Bucket


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def entry(name: str, key: str, *more: str) -> str:
    return "\n".join(["[[key]]", f'name = "{name}"', f'sha256 = "{digest(key.encode())}"', *more, ""])


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_made_key_is_let_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--new-key", "ana"]) == 0
    said = capsys.readouterr()
    key = said.err.split()[-1]
    (tmp_path / "keys.toml").write_text(said.out, "utf-8")
    assert key not in said.out
    keyring = open_keyring(str(tmp_path / "keys.toml"), None, ["m"])
    assert keyring is not None
    found = keyring.find(key.encode())
    assert found is not None
    assert found.key.name == "ana"
    assert keyring.find(key[:-1].encode()) is None
    assert main(["--new-key", "ana"]) == 0
    assert capsys.readouterr().err.split()[-1] != key


@pytest.mark.parametrize("name", ["", "a b", "ä", 'a"\n', "-a", "a" * 65])
def test_a_key_has_a_plain_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--new-key={name}"]) == 2
    assert "expected letters, digits" in capsys.readouterr().err


HASH = digest(b"x")
BAD = [
    ("[[key]\n", "not valid TOML"),
    ("a = 1\n", "found a; expected tables [[key]] and nothing else"),
    ('key = "secret"\n', "expected tables [[key]] and nothing else"),
    ("key = [1]\n", "key 1: expected a table [[key]]"),
    ('[[key]]\nname = "a"\nkey = "s3cret"\n', "key 1: key: the file has no keys but their sha256"),
    ('[[key]]\nname = "a"\n', "key 1: sha256: Field required"),
    ('[[key]]\nname = "a"\nsha256 = "s3cret"\n', "key 1: sha256: String should match"),
    (f'[[key]]\nname = "a b"\nsha256 = "{HASH}"\n', "key 1: name = 'a b': String should match"),
    (entry("a", "x", "parallel = 0"), "key 1: parallel = 0: Input should be greater than or equal to 1"),
    (entry("a", "x", 'requests_per_minute = "9"'), "requests_per_minute = '9': Input should be a valid integer"),
    (entry("a", "x", "tokens = 9"), "tokens = 9: expected one of name, sha256, models"),
    (entry("a", "x") + entry("a", "y"), "key 2 (a): a key before it has the same name"),
    (entry("a", "x") + entry("b", "x"), "key 2 (b): has the sha256 of a"),
    (entry("a", "x", 'models = ["n"]'), "key 1 (a): models: no 'n' here; there are: m, o"),
    ("", "has no [[key]]; jslm serve --new-key NAME >> "),
    ("\udcff", "not UTF-8 text"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(JslmError) as error:
        open_keyring(str(path), None, ["m", "o"])
    assert message in str(error.value)
    assert str(error.value).startswith(f"--keys {path}: ")
    assert "\n" not in str(error.value)
    # Somebody may have put the key where its hash belongs.
    assert "s3cret" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JslmError, match=r"cannot be read: No such file or directory"):
        read_keys(tmp_path / "nowhere", [])
    (tmp_path / "keys.toml").write_text(entry("api-key", "x"), "utf-8")
    with pytest.raises(JslmError, match=r"the name api-key is that of --api-key-file's key"):
        open_keyring(str(tmp_path / "keys.toml"), "single", ["m"])


def test_every_key_is_compared_whichever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [Key(name=f"k{n}", sha256=digest(f"key {n}".encode())) for n in range(5)]
    keyring = Keyring(keys)
    compared: list[int] = []
    real = hmac.compare_digest

    def counted(one: str, other: str) -> bool:
        compared.append(1)
        return real(one, other)

    monkeypatch.setattr("jslm.serve.keyring.hmac.compare_digest", counted)
    for key, name in (("key 0", "k0"), ("key 4", "k4"), ("nothing", None), ("", None)):
        compared.clear()
        found = keyring.find(key.encode())
        assert (found.key.name if found else None) == name
        assert len(compared) == 5


def test_a_changed_file_is_read_again_and_a_broken_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, clock = tmp_path / "keys.toml", Clock()
    path.write_text(entry("a", "x", "requests_per_minute = 2") + entry("b", "y"), "utf-8")
    path.chmod(0o600)
    keyring = open_keyring(str(path), "one", ["m"], clock=clock)
    assert keyring is not None
    account = keyring.find(b"x")
    assert account is not None
    account.enter()
    path.write_text(entry("a", "x2", "requests_per_minute = 2") + entry("c", "z"), "utf-8")
    # Not yet looked at.
    assert keyring.find(b"x") is account
    clock.now += 2
    with caplog.at_level(logging.INFO, "jslm"):
        assert [keyring.find(key) is not None for key in (b"x", b"x2", b"y", b"z", b"one")] == [
            False, True, False, True, True,
        ]  # fmt: skip
    assert "keys read again: api-key, a, c" in caplog.messages
    # What was used stays used, and runs on, whatever the key is now.
    assert keyring.find(b"x2") is account
    assert account.parallel == 1
    account.enter()
    with pytest.raises(ApiError, match="2 requests a minute"):
        account.enter()
    path.write_text("[[key", "utf-8")
    clock.now += 2
    assert keyring.find(b"z") is not None
    path.unlink()
    clock.now += 2
    assert keyring.find(b"z") is not None
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert ["not valid TOML" in line or "cannot be read" in line for line in said] == [True, True]
    assert all("the keys of before stay in use" in line for line in said)


@pytest.mark.parametrize(("mode", "warns"), [(0o600, 0), (0o640, 0), (0o644, 1), (0o604, 1)])
def test_what_everybody_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warns: int
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(entry("a", "x"), "utf-8")
    path.chmod(mode)
    open_keyring(str(path), None, ["m"])
    assert sum("everybody on this machine can read it" in line for line in caplog.messages) == warns


def test_a_bucket_is_a_rate() -> None:
    clock = Clock()
    bucket = Bucket(60, clock)
    for _ in range(60):
        assert bucket.seconds_until(1) == 0
        bucket.take(1)
    assert bucket.seconds_until(1) == pytest.approx(1)
    clock.now += 10
    assert bucket.level == pytest.approx(10)
    assert bucket.seconds_until(60) == pytest.approx(50)
    clock.now += 1000
    assert bucket.level == 60
    assert bucket.resized(6).level == 6
    bucket.take(58)
    assert bucket.resized(600).level == pytest.approx(2)


def test_no_more_than_a_minute_has_in_any_minute_but_the_first() -> None:
    clock = Clock()
    account = Account(Key(name="a", sha256=HASH, requests_per_minute=30), clock)
    taken: list[float] = []
    refusals: list[ApiError] = []
    for _ in range(3000):
        clock.now += 0.1
        try:
            account.enter()
        except ApiError as error:
            refusals.append(error)
        else:
            account.leave()
            taken.append(clock.now)
    assert {(error.status, error.headers["Retry-After"]) for error in refusals} == {(429, "1"), (429, "2")}
    late = [at for at in taken if at > taken[0] + 60]
    assert all(sum(start <= at < start + 60 for at in late) <= 31 for start in late)
    # Nor fewer: 300 seconds and a full bucket.
    assert len(taken) == pytest.approx(30 + 150, abs=2)


def test_tokens_are_reserved_and_given_back() -> None:
    clock = Clock()
    account = Account(Key(name="a", sha256=HASH, tokens_per_minute=120), clock)
    account.reserve(100)
    with pytest.raises(ApiError) as busy:
        account.reserve(40)
    assert (busy.value.status, busy.value.headers["Retry-After"], busy.value.code) == (429, "10", "rate_limit_exceeded")
    assert account.headers() == {
        "x-ratelimit-limit-tokens": "120",
        "x-ratelimit-remaining-tokens": "20",
        "x-ratelimit-reset-tokens": "50.000s",
    }
    account.give_back(30)
    account.reserve(40)
    with pytest.raises(ApiError) as never:
        account.reserve(121)
    assert (never.value.status, never.value.code) == (400, "too_many_tokens")


@pytest.fixture(scope="module")
def keyed(make_module_site: Callable[..., Any], bytes_model: LanguageModel, letters: LanguageModel) -> Any:
    """Two models, and keys that differ in what they may."""

    def key(name: str, **more: Any) -> Key:
        return Key(name=name, sha256=digest(name.encode()), **more)

    keys: Sequence[Key] = [
        key("all", metrics=True),
        key("one", models=["bytes"]),
        key("none", models=[]),
        key("slow", requests_per_minute=2),
        key("few", tokens_per_minute=60, models=["bytes"]),
        key("narrow", parallel=1),
    ]
    models = {"bytes": bytes_model, "letters": letters}
    return make_module_site(models, Limits(slots=4, queue=8), keys=Keyring(keys))


def test_who_is_let_in_where(keyed: Any) -> None:
    body = {"prompt": "a", "max_tokens": 2}

    def status(key: str, model: str) -> tuple[int, str | None]:
        answer = keyed.post("/v1/completions", {"model": model, **body}, **bearer(key))
        return answer.status, None if answer.status == 200 else answer.error["code"]

    assert status("all", "bytes") == status("all", "letters") == status("one", "bytes") == (200, None)
    assert status("one", "letters") == status("none", "bytes") == (403, "model_not_allowed")
    assert status("all ", "bytes") == (200, None)
    for wrong in ("al", "all2", "", digest(b"all")):
        assert status(wrong, "bytes") == (401, "invalid_api_key")
    refused = keyed.post("/v1/completions", {"model": "letters", **body}, **bearer("one"))
    assert refused.error["type"] == "permission_error"
    # What a key is not for is not named either.
    unknown = keyed.post("/v1/completions", {"model": "x", **body}, **bearer("one")).error["message"]
    assert unknown == "no model 'x' here; there are: bytes"
    for path in ("/v1/models/letters", "/v1/runs/letters"):
        assert keyed.request("GET", path, **bearer("one")).status == 403
    assert [m["id"] for m in keyed.request("GET", "/v1/models", **bearer("one")).json["data"]] == ["bytes"]
    assert [keyed.request("GET", "/metrics", **bearer(key)).status for key in ("all", "one")] == [200, 403]
    for path in ("/healthz", "/readyz", "/health", "/ready"):
        assert keyed.request("GET", path).status == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/rewrite"])
def test_other_routes_ask_too(keyed: Any, path: str) -> None:
    body = {"model": "letters", "messages": [{"role": "user", "content": "a"}], "sentences": ["a"]}
    body.pop("sentences" if "chat" in path else "messages")
    assert keyed.post(path, body).status == 401
    assert keyed.post(path, body, **bearer("one")).status == 403


def test_requests_a_minute(keyed: Any) -> None:
    body = {"model": "bytes", "prompt": "a", "max_tokens": 1}
    answers = [keyed.post("/v1/completions", body, **bearer("slow")) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "2"
    assert 0 < float(answers[2].headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
    assert 0 < int(answers[2].headers["retry-after"]) <= 30
    assert (answers[2].error["type"], answers[2].error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    # Looking at the models is free, and others have their own minute.
    assert keyed.request("GET", "/v1/models", **bearer("slow")).status == 200
    assert keyed.post("/v1/completions", body, **bearer("all")).status == 200


def test_tokens_a_minute(keyed: Any) -> None:
    def ask(**body: Any) -> Any:
        return keyed.post("/v1/completions", {"model": "bytes", **body}, **bearer("few"))

    never = ask(prompt="a", max_tokens=50, n=2)
    assert (never.status, never.error["code"]) == (400, "too_many_tokens")
    # Two of the prompt (one begins the document), and what was written of 20; the rest is given back.
    before = ask(prompt="a", max_tokens=20, seed=1)
    used = before.json["usage"]["total_tokens"]
    assert int(before.headers["x-ratelimit-remaining-tokens"]) == 60 - 2 - 20
    after = ask(prompt="a", max_tokens=1, seed=1)
    assert 60 - used - 3 <= int(after.headers["x-ratelimit-remaining-tokens"]) <= 60
    # All that the context has room for: more than is left.
    statuses = [ask(prompt="a", max_tokens=50).status for _ in range(8)]
    assert 429 in statuses
    refused = ask(prompt="a", max_tokens=58)
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
    assert "60 tokens a minute" in refused.error["message"]
    assert int(refused.headers["retry-after"]) >= 1


def test_so_many_at_once(keyed: Any) -> None:
    import http.client
    import json

    body = {"model": "letters", "prompt": "", "max_tokens": 900, "n": 2, "stream": True, "seed": 1}
    headers = {"Content-Type": "application/json", **bearer("narrow")}
    connection = http.client.HTTPConnection("127.0.0.1", keyed.port, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    stream = connection.getresponse()
    assert stream.read(10)
    short = {"model": "bytes", "prompt": "a", "max_tokens": 1}
    refused = keyed.post("/v1/completions", short, **bearer("narrow"))
    assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (429, "too_many_parallel", "1")
    connection.close()
    stream.close()
    # The place is free again once the client has gone, and after an answer that ended as it should.
    keyed.wait_until_free()
    for _ in range(2):
        assert keyed.post("/v1/completions", short, **bearer("narrow")).status == 200
