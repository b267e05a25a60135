"""`push_model`: an export and its card to the Hugging Face Hub, or a server that speaks as it does.

Requests are those of the library `huggingface_hub`: the repository is made, then all files go up in one commit.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from jslm.errors import JslmError
from jslm.extras import load_extra
from jslm.formats.api import export_model
from jslm.formats.card import CARD_NAME, Card, model_card
from jslm.formats.formats import format_named
from jslm.formats.held import held_text, own_loss
from jslm.runs.bundle import Bundle, Format

_HUB = "https://huggingface.co"
# Formats of one file: its name in the repository, and what the card says of it.
_FILES = {
    "gguf": ("model.gguf", Card("gguf", "as a GGUF file, for llama.cpp and what is built on it", "", "gguf", ["gguf"])),
    "llama2c": ("model.bin", Card("llama2c", "as a file of llama2.c, its tokenizer beside it", "", "llama2.c")),
    "safetensors": ("model.safetensors", Card("safetensors", "as a portable file of jslm", "", "jslm")),
}


def push_model(
    run: str | Path,
    repo: str,
    *,
    format: str = "hf",
    dtype: str = "",
    checkpoint: str = "best",
    ema: bool | None = None,
    private: bool = False,
    **options: Any,
) -> str:
    """Exports the model of `run` in `format` and uploads it, with a model card, as the repository `repo` (`user/name`).

    `options` as for `export_model`. Returns the repository's address. The repository is made where it is not there; one
    that is there gets a further commit. HF_ENDPOINT names another server than huggingface.co, and HF_TOKEN the token,
    which otherwise is that of `hf auth login`. Raises JslmError where there is no token, the export fails, the server
    refuses, or it cannot be reached; nothing is uploaded before the export is whole.
    """
    huggingface_hub = load_extra("huggingface_hub", "convert", "pushing")
    endpoint = (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")
    user, name = _names(repo)
    chosen = format_named(format)
    token = huggingface_hub.get_token()
    if not token:
        raise JslmError(
            f"no token for {endpoint}: set HF_TOKEN to one with write access, made at {endpoint}/settings/tokens, or "
            "run hf auth login"
        )
    api = huggingface_hub.HfApi(endpoint=endpoint, token=token, library_name="jslm")
    with tempfile.TemporaryDirectory(prefix="jslm-push-") as temporary:
        folder = Path(temporary, "model")
        target = folder / _FILES[format][0] if format in _FILES else folder
        bundle = export_model(run, target, format=format, dtype=dtype, checkpoint=checkpoint, ema=ema, **options)
        _finish_card(folder, bundle, repo, chosen, dtype or chosen.dtypes[0])
        with _refusals(endpoint, user, repo):
            huggingface_hub.utils.disable_progress_bars()
            _make_repository(api, repo, private=private)
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"{name} as {format}, by jslm")
    return f"{endpoint}/{repo}"


def _names(repo: str) -> tuple[str, str]:
    utils = load_extra("huggingface_hub.utils", "convert", "pushing")
    user, slash, name = repo.partition("/")
    try:
        utils.validate_repo_id(repo)
    except utils.HFValidationError:
        slash = ""
    if not slash or not user or not name:
        raise JslmError(
            f"{repo!r}: expected user/name, of letters, digits, '-', '_' and '.': the account or organisation that the "
            "model goes to, and its name there"
        )
    return user, name


def _finish_card(folder: Path, bundle: Bundle, repo: str, chosen: Format, dtype: str) -> None:
    """The card, with the names that the files have where they are going."""
    path = folder / CARD_NAME
    if chosen.name in _FILES:
        file, card = _FILES[chosen.name]
        cost = rounding_cost(bundle, folder / file, chosen, dtype)
        path.write_text(model_card(bundle, replace(card, weights=dtype, cost=cost)), "utf-8")
    text = path.read_text("utf-8")
    title = f"\n# {Path(bundle.source).name}\n"
    text = text.replace('"FOLDER"', f'"{repo}"').replace(title, f"\n# {repo.partition('/')[2]}\n", 1)
    path.write_text(text, "utf-8")


def rounding_cost(bundle: Bundle, file: Path, chosen: Format, dtype: str) -> str:
    """What the weights of an exported file cost beside the run's own, in words: the difference of jslm's losses in
    float32, on the run's validation tokens; "" where these are not here, or nothing was rounded."""
    held = held_text(bundle, None) if dtype != "float32" and chosen.read else None
    if held is None or chosen.read is None:
        return ""
    labels = [-1] * len(bundle.config.model.conditions)
    cost = own_loss(chosen.read(file), held, labels) - own_loss(bundle, held, labels)
    return f"{dtype} {cost:+.4f} nats a token over {held.tokens:,} tokens of {held.what}"


def _make_repository(api: Any, repo: str, *, private: bool) -> None:
    """Makes it, or finds it. Raises JslmError where it is public and should be private."""
    errors = load_extra("huggingface_hub.errors", "convert", "pushing")
    try:
        # Without a word the server's own default holds, which an organisation may have set to private.
        api.create_repo(repo, private=True if private else None)
    except errors.HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        if private and not api.model_info(repo).private:
            raise JslmError(
                f"{repo}: is there already, and public; jslm convert push --private would publish the model: choose "
                "another name, or make it private in its settings"
            ) from None


@contextmanager
def _refusals(endpoint: str, user: str, repo: str) -> Iterator[None]:
    """What the server and the network say, as one line with what to do."""
    errors = load_extra("huggingface_hub.errors", "convert", "pushing")
    utils = load_extra("huggingface_hub.utils", "convert", "pushing")
    # The library's own client of HTTP, whichever it is by now.
    kinds = type(utils.get_session()).__mro__
    network = next(kind for kind in kinds if kind is not object).__module__.partition(".")[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except JslmError:
        raise
    except errors.OfflineModeIsEnabled:
        raise JslmError(f"{endpoint}: HF_HUB_OFFLINE is set; unset it to push") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        raise JslmError(_advice(endpoint, user, repo, status, error)) from None
    except (OSError, ValueError) as error:
        raise JslmError(f"{endpoint}: {_first_line(error)}; check HF_ENDPOINT, and try again") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] != network:
            raise
        raise JslmError(
            f"{endpoint}: cannot be reached ({type(error).__name__}: {_first_line(error)}); check the network, a "
            "proxy, or HF_ENDPOINT"
        ) from None


def _advice(endpoint: str, user: str, repo: str, status: int, error: Exception) -> str:
    match status:
        case 401:
            return (
                f"{endpoint} does not take the token (401): make one with write access at {endpoint}/settings/tokens, "
                "and set HF_TOKEN or run hf auth login"
            )
        case 403:
            return (
                f"{endpoint}: the token may not write to {repo} (403): take one with write access, of an account that "
                f"may write to {user}"
            )
        case 404:
            return (
                f"{endpoint}: nothing there for {repo} (404): check the name {user!r}, and HF_ENDPOINT where it is set"
            )
        case 429:
            return f"{endpoint}: too many requests (429): wait, and try again"
        case _ if status >= 500:
            return f"{endpoint}: the server failed ({status}): try again later"
    said = getattr(error, "server_message", None) or _first_line(error)
    return f"{endpoint} refused {repo} ({status}): {' '.join(str(said).split())[:200]}"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
