"""How to run a model in each program that can take it, and why it can't go to the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import NamedTuple

from jslm.errors import JslmError
from jslm.formats.formats import known_formats
from jslm.formats.gguf.vocabulary import vocabulary_of
from jslm.formats.gguf.weights import choose_architecture
from jslm.formats.huggingface.config import config_fields, family_of, target_model
from jslm.formats.huggingface.tokenizer import tokenizer_json
from jslm.formats.llama2c.model import check_expressible
from jslm.formats.web.vocabulary import tokenizer_fields
from jslm.runs.bundle import Bundle


class Runtime(NamedTuple):
    """A program, the format it takes, what says that a model is none for it (or None), and how to run one there."""

    name: str
    format: str
    problem: Callable[[Bundle], str | None]
    how: Callable[[Bundle], str]


def runtimes() -> list[Runtime]:
    """Those of the formats that this jslm writes."""
    known = known_formats()
    return [runtime for runtime in _RUNTIMES if runtime.format in known]


def ways_to_run(bundle: Bundle, format: str) -> Iterator[str]:
    """A paragraph of Markdown for each program; the one of `format` first, as its files are these."""
    refused = []
    # What jslm writes and does not read holds no weights for another format.
    known = known_formats().get(format)
    where, source = (" or from this folder", "FOLDER") if known is None or known.read else ("", "RUN_DIR")
    for runtime in sorted(runtimes(), key=lambda runtime: runtime.format != format):
        if (problem := runtime.problem(bundle)) is None:
            here = runtime.format == format
            first = f"jslm convert export {source} {_TARGETS[runtime.format]} --format {runtime.format}"
            lead = f"**{runtime.name}**" + (":" if here else f", from the run{where} (`{first}`):")
            yield f"{lead}\n\n{runtime.how(bundle)}"
        else:
            refused.append(f"{runtime.name} ({problem})")
    if refused:
        yield f"Not for this model: {'; '.join(refused)}."
    if bundle.ends_documents and bundle.tokenizer.adds_bos:
        yield "The tokenizer puts the token that begins a document before each prompt, as in training."


_TARGETS = {
    "hf": "hf-folder",
    "gguf": "model.gguf",
    "llama2c": "model.bin",
    "onnx": "onnx-folder",
    "safetensors": "model.safetensors",
    "web": "page",
}


def _asks(check: Callable[[Bundle], object]) -> Callable[[Bundle], str | None]:
    """What an export would say, in its first words."""

    def problem(bundle: Bundle) -> str | None:
        try:
            check(bundle)
        except JslmError as error:
            return str(error).split("; the nearest format")[0].split("; export with")[0]
        return None

    return problem


def _hf(bundle: Bundle) -> object:
    family = family_of(bundle.config.model)
    config_fields(target_model(bundle.config.model, family), family)
    return tokenizer_json(bundle.tokenizer)


def _gguf(bundle: Bundle) -> object:
    choose_architecture(bundle.config.model)
    return vocabulary_of(bundle.tokenizer)


def _web(bundle: Bundle) -> object:
    return tokenizer_fields(bundle.tokenizer)


def _llama2c(bundle: Bundle) -> None:
    check_expressible(bundle)


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _prompt(bundle: Bundle) -> str:
    found = bundle.figures.get("sample")
    asked = [prompt for prompt in bundle.config.sample.prompts if prompt]
    wrote = str(found[1]) if isinstance(found, list | tuple) and len(found) == 3 else ""
    prompt = wrote or (asked[0] if asked else "")
    if not prompt and not (bundle.ends_documents and bundle.tokenizer.adds_bos):
        # There has to be a token.
        prompt = "The"
    return prompt.splitlines()[0][:80] if prompt.strip() else prompt.strip()


def _in_transformers(bundle: Bundle) -> str:
    prompt = json.dumps(_prompt(bundle), ensure_ascii=False)
    return _code(
        "python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")\n'
        f'prompt = tokenizer({prompt}, return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**prompt)[0], skip_special_tokens=True))",
    )


def _in_llama_cpp(bundle: Bundle) -> str:
    # A shell expands nothing between these quotes, and the prompt has none of them left.
    return _code("sh", f"llama-completion -m model.gguf -p '{_prompt(bundle).replace(chr(39), '’')}'")


def _in_llama2c(bundle: Bundle) -> str:
    prompt, sample = _prompt(bundle).replace("'", "’"), bundle.config.sample
    return _code("sh", f"run model.bin -z tokenizer.bin -t {sample.temperature:g} -p {sample.top_p:g} -i '{prompt}'")


def _in_onnxruntime(bundle: Bundle) -> str:
    prompt = json.dumps(_prompt(bundle), ensure_ascii=False)
    return (
        _code(
            "js",
            'import { pipeline } from "@huggingface/transformers";\n\n'
            'const generate = await pipeline("text-generation", "FOLDER", { dtype: "q8" });\n'
            f"console.log(await generate({prompt}, {{ max_new_tokens: 50 }}));",
        )
        + "\n\nIn Python (`dtype` is one of its files, as listed there; jslm opens the first):\n\n"
        + _code("python", f'import jslm\n\nprint(jslm.load("FOLDER").generate({prompt}))')
    )


def _in_browsers(bundle: Bundle) -> str:
    return _code("sh", "python -m http.server --directory FOLDER  # then open http://localhost:8000") + (
        "\n\nOr put the folder on any static host, under any path."
    )


def _in_jslm(bundle: Bundle) -> str:
    prompt = json.dumps(_prompt(bundle), ensure_ascii=False)
    return _code("python", f'import jslm\n\nprint(jslm.load("model.safetensors").generate({prompt}))')


_RUNTIMES = (
    Runtime("transformers", "hf", _asks(_hf), _in_transformers),
    Runtime("llama.cpp", "gguf", _asks(_gguf), _in_llama_cpp),
    Runtime("llama2.c", "llama2c", _asks(_llama2c), _in_llama2c),
    Runtime("onnxruntime", "onnx", lambda bundle: None, _in_onnxruntime),
    Runtime("a browser", "web", _asks(_web), _in_browsers),
    Runtime("jslm", "safetensors", lambda bundle: None, _in_jslm),
)
