"""The recipes under data/: configurations that load, commands that run, presets that read the same text."""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import http.server
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jslm.cli import add_config_arguments
from jslm.config import Config, load_config
from jslm.corpora.chat_examples.__main__ import main as generate_chat
from jslm.corpora.rewrite.__main__ import main as generate
from jslm.prepare import PreparedData, prepare
from jslm.prepare.check import settings_of
from jslm.text.readers.remote import is_remote
from jslm.tokens import open_tokens
from tests.quiet_server import QuietServer

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["books", "chat", "movie_scripts", "openwebtext", "rewrite", "shakespeare", "tinystories"]
# Each preset and the recipe whose files it trains on.
PRESETS = {
    "books_40m": "books",
    "books_124m": "books",
    "lillm_39m": "openwebtext",
    "movie_scripts": "movie_scripts",
    "tinystories_1m": "tinystories",
}
SCRIPTS = [f"INT. ROOM {number} - DAY\r\n\r\n          ANNA\r\n     I said {number}.\r\n" for number in range(30)]
PAGES = [f"Page {number} says something of its own." for number in range(400)]
STORIES = [f"Once upon a time there were {number} cats.\n\nThey slept.\n" for number in range(300)]


def recipe(name: str, *overrides: str) -> Config:
    return load_config(ROOT / "data" / name / "recipe.toml", overrides)


def readme(name: str) -> str:
    return (ROOT / "data" / name / "README.md").read_text("utf-8")


def silent(message: str) -> None:
    pass


def text_of(prepared: PreparedData, split: Any) -> str:
    return prepared.tokenizer.decode(open_tokens(prepared.dir, split).tokens.tolist())


def test_each_recipe_is_listed_here() -> None:
    assert sorted(path.parent.name for path in ROOT.glob("data/*/recipe.toml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_recipe_says_what_it_is(name: str) -> None:
    """That the cleaners and the format exist is what loading checks."""
    config = recipe(name)
    assert config.data.about
    assert config.data.licence
    assert config.data_dir.startswith(f"data/{name}/")
    assert all(is_remote(source) or source.startswith(f"data/{name}/") for source in config.data.sources)
    written = tomllib.loads((ROOT / "data" / name / "recipe.toml").read_text("utf-8"))
    assert set(written) <= {"data", "tokenizer", "prepare"}, "what a model is belongs into configs/"
    for word in ("- Source", "- Licence", "- Size", "xpected"):
        assert word in readme(name), word


@pytest.mark.parametrize("name", NAMES)
def test_commands_of_the_readme_are_right(name: str) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", readme(name), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("jslm ")]
    assert ["jslm", "prepare", "--config", f"data/{name}/recipe.toml"] in commands
    for command in commands:
        verb, arguments = command[1], command[2:]
        assert (ROOT / "jslm" / verb / "__main__.py").exists(), verb
        if "--config" in arguments:
            parser = make_parser()
            parsed = parser.parse_intermixed_args(arguments)
            load_config(ROOT / parsed.config, parsed.overrides)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    parser.add_argument("--preview", type=int)
    return parser


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_take_the_files_of_their_recipe(preset: str) -> None:
    """`train` refuses token files that were made with other settings."""
    config, made = load_config(ROOT / "configs" / f"{preset}.toml"), recipe(PRESETS[preset])
    assert settings_of(config) == settings_of(made)
    assert config.data_dir == made.data_dir
    assert config.data.licence == made.data.licence


def test_prepared_files_and_texts_are_not_for_git() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    kept = ["recipe.toml", "README.md", "SHA256SUMS", "gutenberg.csv"]
    texts = ["train.jsonl", "pairs.tsv", "input.txt", "text/pg84.txt", "gpt2/train.bin", "gpt2/meta.json"]
    paths = [f"data/books/{name}" for name in kept + texts]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *paths], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == paths[len(kept) :]


def test_shakespeare(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(assets / "tiktoken_cache"))
    text = assets / "tinyshakespeare" / "input.txt"
    config = recipe("shakespeare", f"data.source={text}", f"data.dir={tmp_path}")
    meta = prepare(config, log=silent).meta
    assert (meta["train"]["tokens"], meta["val"]["tokens"]) == (301_966, 36_059)
    assert (meta["licence"], meta["about"]) == ("public domain", config.data.about)
    assert "301,966 training and 36,059 validation tokens" in readme("shakespeare")
    digest, name = (ROOT / "data" / "shakespeare" / "SHA256SUMS").read_text("utf-8").split()
    assert name == text.name
    assert hashlib.sha256(text.read_bytes()).hexdigest() == digest


def test_tinystories_of_both_versions(assets: Path, tmp_path: Path) -> None:
    stories = assets / "tinystories"
    sources = [str(stories / "v1_train_head_2MiB.txt"), str(stories / "v2_train_head_1.4MB.txt")]
    overrides = [f"data.source={json.dumps(sources)}", f"data.dir={tmp_path}", "data.dedup.near=0.8"]
    prepared = prepare(recipe("tinystories", *overrides, "data.dedup.exact=false"), log=silent)
    # The beginnings of the two versions have one story in common.
    gone = prepared.meta["dropped"]["dedup"]["reasons"]["near"]
    assert gone["items"] == 1
    assert gone["examples"][0]["source"] == sources[1]
    assert sources[0] in gone["examples"][0]["detail"]
    assert gone["examples"][0]["excerpt"].startswith("Once there was a mom and a boy. The boy asked his mom to listen")
    assert prepared.tokenizer.vocab_size == 2048
    texts = text_of(prepared, "train") + text_of(prepared, "val")
    assert "One day, a little girl named Lily found a needle" in texts
    assert "â€" not in texts
    assert 3.5 < prepared.meta["train"]["bytes"] / prepared.meta["train"]["tokens"] < 3.8


def test_books(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(assets / "tiktoken_cache"))
    sources = [str(assets / "gutenberg" / name) for name in ("pg11.txt", "pg46.txt", "pg2542.txt")]
    prepared = prepare(recipe("books", f"data.source={json.dumps(sources)}", f"data.dir={tmp_path}"), log=silent)
    assert prepared.meta["input_files"] == 3
    texts = text_of(prepared, "train") + text_of(prepared, "val")
    for sentence in ("Alice was beginning to get very tired", "MARLEY was dead: to begin with.", "Helmer"):
        assert sentence in texts
    assert "Gutenberg" not in texts


def test_list_of_books() -> None:
    with (ROOT / "data" / "books" / "gutenberg.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = [int(row["number"]) for row in rows]
    assert f"`gutenberg.csv` lists {len(rows)}" in " ".join(readme("books").split())
    assert numbers == sorted(set(numbers))
    assert all(row["title"] and row["author"] for row in rows)


def test_books_are_fetched_once(tmp_path: Path) -> None:
    """The loop of the README, with a mirror on this machine, and without its pauses."""
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("no curl or no bash here")
    site, home = tmp_path / "site", tmp_path / "home"
    (home / "data" / "books").mkdir(parents=True)
    listed = (ROOT / "data" / "books" / "gutenberg.csv").read_text("utf-8").splitlines(keepends=True)[:4]
    (home / "data" / "books" / "gutenberg.csv").write_text("".join(listed), "utf-8")
    for number in (11, 12, 16):
        (site / str(number)).mkdir(parents=True)
        (site / str(number) / f"pg{number}.txt").write_text(f"Book {number}.")
    script = re.search(r"^mkdir -p data/books/text\n.*?^done\n", readme("books"), re.MULTILINE | re.DOTALL)
    assert script is not None
    asked: list[str] = []

    class Mirror(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *arguments: Any) -> None:
            asked.append(self.path)

    with serve(functools.partial(Mirror, directory=str(site))) as address:
        local = re.sub(r"(?m)^mirror=.*$", f"mirror={address}", script[0])
        for _ in range(2):
            subprocess.run(["bash", "-ec", "sleep() { :; }\n" + local], cwd=home, check=True, timeout=60)
    assert asked == ["/11/pg11.txt", "/12/pg12.txt", "/16/pg16.txt"]
    found = sorted(path.read_text() for path in (home / "data" / "books" / "text").iterdir())
    assert found == ["Book 11.", "Book 12.", "Book 16."]


def test_rewrite(tmp_path: Path) -> None:
    pairs = tmp_path / "train.jsonl"
    assert generate(["--count", "400", "--seed", "0", "--out", str(pairs)]) == 0
    prepared = prepare(recipe("rewrite", f"data.source={pairs}", f"data.dir={tmp_path / 'out'}"), log=silent)
    records = [json.loads(line) for line in pairs.read_text("utf-8").splitlines()]
    assert prepared.meta["train"]["documents"] + prepared.meta["val"]["documents"] == len(records)
    texts = text_of(prepared, "train") + text_of(prepared, "val")
    assert all(f"{record['prompt']}\t{record['completion']}<|endoftext|>" in texts for record in records)
    prompts = sum(len(record["prompt"]) + 1 for record in records)
    assert prepared.meta["train"]["prompt_tokens"] + prepared.meta["val"]["prompt_tokens"] == prompts


def test_chat(tmp_path: Path) -> None:
    made = tmp_path / "train.jsonl"
    assert generate_chat(["--count", "20000", "--out", str(made)]) == 0
    digest, name = (ROOT / "data" / "chat" / "SHA256SUMS").read_text("utf-8").split()
    assert (hashlib.sha256(made.read_bytes()).hexdigest(), made.name) == (digest, name)
    assert f"{made.stat().st_size:,} bytes" in readme("chat")
    lines = made.read_text("utf-8").splitlines()[:200]
    made.write_text("\n".join(lines), "utf-8")
    prepared = prepare(recipe("chat", f"data.source={made}", f"data.dir={tmp_path / 'out'}"), log=silent)
    texts = text_of(prepared, "train") + text_of(prepared, "val")
    for messages in (json.loads(line)["messages"] for line in lines):
        turns = itertools.pairwise(messages)
        for question, answer in ((q["content"], a["content"]) for q, a in turns if a["role"] == "assistant"):
            assert f"User:\n{question}\n\nAssistant:\n{answer}<|endoftext|>" in texts


def test_rewrite_of_others_pairs(assets: Path, tmp_path: Path) -> None:
    """With the settings that the README names for lines of two columns."""
    pairs = assets / "rewrite" / "passiv_en_nps.dev"
    (command,) = re.findall(r"data\.source=pairs\.tsv (?:.*\\\n)?.*", readme("rewrite"))
    overrides = [
        item for item in shlex.split(command.replace("\\\n", " ")) if "pairs" not in item and "dir" not in item
    ]
    assert len(overrides) == 4
    config = recipe("rewrite", *overrides, f"data.source={pairs}", f"data.dir={tmp_path}")
    prepared = prepare(config, log=silent)
    lines = pairs.read_text("utf-8").splitlines()
    assert prepared.meta["train"]["documents"] + prepared.meta["val"]["documents"] == len(lines)
    texts = text_of(prepared, "train") + text_of(prepared, "val")
    assert all(f"{line}<|endoftext|>" in texts for line in lines)
    assert prepared.meta["train"]["prompt_tokens"] > 0


def parquet(**columns: list[str]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


# Repository and branch -> the files that a recipe reads there, and one that it must not.
HUB = {
    ("IsmaelMousa/movies", "refs/convert/parquet"): {
        "default/train/0000.parquet": parquet(Name=[f"Film {n}" for n in range(len(SCRIPTS))], Script=SCRIPTS),
    },
    ("Skylion007/openwebtext", "main"): {
        "plain_text/train-00000-of-00080.parquet": parquet(text=PAGES[:150]),
        "plain_text/train-00007-of-00080.parquet": parquet(text=PAGES[150:]),
        "plain_text/train-00008-of-00080.parquet": parquet(text=["The ninth file is not of the sample."]),
    },
    ("roneneldan/TinyStories", "main"): {
        "TinyStoriesV2-GPT4-train.txt": "<|endoftext|>\n".join([*STORIES, STORIES[0]]).encode(),
        "TinyStoriesV2-GPT4-valid.txt": b"This file is for others.",
    },
}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hugging Face Hub as huggingface_hub asks for to list and read the files of `HUB`."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        for (repository, branch), files in HUB.items():
            quoted = branch.replace("/", "%2F")
            api, resolve = f"/api/datasets/{repository}", f"/datasets/{repository}/resolve/{quoted}/"
            if path in (api, f"{api}/revision/{quoted}"):
                self.reply({"id": repository, "sha": "0" * 40, "private": False, "siblings": []})
            elif path.startswith(f"{api}/tree/{quoted}"):
                folder = unquote(path.removeprefix(f"{api}/tree/{quoted}")).strip("/")
                recursive = parse_qs(query).get("recursive", ["false"])[0].lower() == "true"
                self.reply(list_files(files, folder, recursive))
            elif path == f"{api}/paths-info/{quoted}":
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                wanted = json.loads(form)["paths"] if form.startswith("{") else parse_qs(form)["paths"]
                self.reply([entry for entry in list_files(files, "", True) if entry["path"] in wanted])
            elif path.startswith(resolve):
                self.send_part(files[unquote(path.removeprefix(resolve))])
            else:
                continue
            return
        self.send_error(404)

    do_HEAD = do_POST = do_GET

    def reply(self, value: Any) -> None:
        self.send_part(json.dumps(value).encode())

    def send_part(self, data: bytes) -> None:
        part, wanted = data, self.headers.get("Range")
        if wanted:
            start, stop = wanted.removeprefix("bytes=").split("-")
            part = data[int(start) : int(stop) + 1 if stop else None]
        self.send_response(206 if wanted else 200)
        for name, value in {"Content-Length": len(part), "X-Repo-Commit": "0" * 40, "ETag": '"0"'}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(part)

    def log_message(self, *arguments: Any) -> None:
        pass


def list_files(files: dict[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """The Hub's listing of a folder: its files and folders, those inside of them too where it is recursive."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for name, data in files.items():
        if not name.startswith(prefix):
            continue
        parts = name.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) + 1 if recursive else 2):
            path = prefix + "/".join(parts[:depth])
            kind, size = ("file", len(data)) if path == name else ("directory", 0)
            entries[path] = {"type": kind, "oid": "0" * 40, "size": size, "path": path}
    return list(entries.values())


@contextmanager
def serve(handler: Any) -> Iterator[str]:
    with QuietServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# In one process, but another one than this: huggingface_hub reads the Hub's address when it is imported.
PREPARE = """
import json, sys
from jslm.prepare.__main__ import main
for arguments in json.load(sys.stdin):
    if main(arguments):
        sys.exit(1)
"""


def test_recipes_of_the_hub(tmp_path: Path) -> None:
    """The real readers against a Hub on this machine that has small files of the same names and columns."""
    runs = {
        "movie_scripts": ["tokenizer.kind=byte"],
        "openwebtext": ["tokenizer.vocab_size=300"],
        "tinystories": ["tokenizer.vocab_size=300"],
    }
    commands = [
        ["--config", str(ROOT / "data" / name / "recipe.toml"), f"data.dir={tmp_path / name}", *overrides]
        for name, overrides in runs.items()
    ]
    with serve(Hub) as address:
        environment = {"HF_ENDPOINT": address, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PREPARE],
            input=json.dumps(commands),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT), "TIKTOKEN_CACHE_DIR": str(tmp_path)},
        )
    assert done.returncode == 0, done.stderr
    movies, pages, stories = (opened(tmp_path / name, recipe(name, *runs[name])) for name in runs)
    assert sum(movies.meta[split]["documents"] for split in ("train", "val")) == len(SCRIPTS)
    script = text_of(movies, "train").split("<|endoftext|>")[0]
    assert re.fullmatch(r"INT\. ROOM \d+ - DAY\n\n\s*ANNA\n\s*I said \d+\.\s*", script), script
    assert "          " not in script
    assert sum(pages.meta[split]["documents"] for split in ("train", "val")) == len(PAGES)
    assert stories.meta["dropped"]["dedup"]["reasons"]["exact"]["items"] == 1
    assert sum(stories.meta[split]["documents"] for split in ("train", "val")) == len(STORIES)
    assert stories.meta["licence"] == "CDLA-Sharing-1.0"


def opened(folder: Path, config: Config) -> PreparedData:
    """Without the source, which is on a Hub that has gone."""
    there = config.model_copy(update={"data": config.data.model_copy(update={"dir": str(folder), "source": ""})})
    return prepare(there, log=silent)


def test_shakespeare_from_the_web(tmp_path: Path) -> None:
    text = "".join(f"Line {number}\n" for number in range(1000))
    served = tmp_path / "karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    served.parent.mkdir(parents=True)
    served.write_text(text)
    (source,) = recipe("shakespeare").data.sources

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    with serve(functools.partial(Quiet, directory=str(tmp_path))) as address:
        local = source.replace("https://raw.githubusercontent.com", address)
        config = str(ROOT / "data" / "shakespeare" / "recipe.toml")
        overrides = [f"data.source={local}", f"data.dir={tmp_path / 'out'}", "tokenizer.kind=char"]
        done = subprocess.run(
            [sys.executable, "-m", "jslm.prepare", "--config", config, *overrides],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert done.returncode == 0, done.stderr
    made = opened(tmp_path / "out", recipe("shakespeare", "tokenizer.kind=char"))
    assert text_of(made, "train") + text_of(made, "val") == text
