"""Test vectors for readers of the portable file in other languages: python scripts/make_vectors.py [--models].

tests/vectors/NAME.safetensors are six tiny models, and NAME.json what jslm makes of each: ids of texts, logits at three
positions, tokens and text of greedy decoding, and rewritten sentences. Without --models the models are those that are
there, and only what jslm makes of them is computed anew. docs/portable-format.md says what the fields mean.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jslm.errors import JslmError
from jslm.infer import rewrite_prompt
from jslm.infer.faithful import unfaithful
from jslm.infer.request import make_request
from jslm.infer.sentences import Unreadable, read_sentence, split_sentences

_TEMPLATE = "{prompt}\t{completion}"
FOLDER = Path(__file__).resolve().parents[1] / "tests" / "vectors"
TEXT = "The old king found a song by the river. A girl took 17 books home, and we'll read them.\nWho was it?\n"
# What tokenizers trip over: several blanks, line breaks, digits, contractions, accents, marks, other scripts, emoji.
TEXTS = (
    TEXT,
    "",
    " ",
    "a  b   c\n\n d \t e",
    "I'LL say it's 3.14 or 1,000!?",
    "caf\xe9 e\u0301 na\xefve \xbd \u2167 \u00aa",
    "\u4f60\u597d \u0645\u0631\u062d\u0628\u0627 \u0915\u093f \U0001f600\u200d\u2764",
    "\ufeffa\r\nb\rc",
    "<|endoftext|>",
    "_x\u00a0y\u2003z\x1c",
)
# Letters that a model has never seen, in sentences.
STRANGE = (
    "The Ж found \u00e9.",
    "ж \u65e5 the king.",
    "A \u65e5 \u8a9e by the river.",
    "The \U0001f642 king\u200b.",
)
# What a rewrite says otherwise than its sentence, and what it does not: each rule, and what trips over it.
DIFFERENCES = (
    ("The letter was rewritten by the clerk.", "The clerk rewrote the letter."),
    ("The letter was written by the clerk.", "The clark wrote the letter."),
    ("The letters were written by a clerk.", "A clerk wrote the letter."),
    ("He can't be helped by doctors.", "Doctors cannot help him."),
    ("He cannot be helped by doctors.", "Doctors could not help him."),
    ("They were carried off by 24 men.", "24 men carried them off."),
    ("It was eaten by 24 boys at 3:30.", "25 boys ate it at 3:30."),
    ("1,000.5 were sold by us.", "We sold 1,000.5."),
    ("1,000.5 were sold by us.", "We sold 1,000."),
    ("The roof needs to be fixed by us.", "We need to fix the roof."),
    ("It wasn't seen by anyone.", "No one saw it."),
    ("It was seen by no one.", "Nobody saw it."),
    ("It was sold.", "Someone sold it."),
    ("He was not seen by her.", "She saw him."),
    ("He was seen by her.", "She never saw him."),
    ("He fell and was helped by Ann.", "He fell and Ann helped him."),
    (
        "\u201cI\u2019m being followed,\u201d she said, \u201cby a dog.\u201d",
        "\u201cA dog is following me,\u201d she said, \u201c.\u201d",
    ),
    ('"No," was said by Bob.', 'Bob said "no.'),
    ("Who was it stopped by?", "Who stopped it?"),
    ("They say Ann was seen by Bob.", "They say bob saw ann."),
    ("They say Ann was seen by Bob.", "Bob, they say, saw Ann."),
    ("The iPhone was dropped by him.", "He dropped the iphone."),
    ("It was praised by the BBC.", "The Bbc praised it."),
    ("# It was sold by us", "We sold it"),
    ("\U0001f600 50% was sold by us \u2013 well\u2026", "We sold 50, well \U0001f600"),
    ("snake_case was sold by us.", "We sold snake case."),
    ("The cake was made by Ann and Tom.", "Ann made the cake."),
    ("The cake was made by Ann.", "Ann made the nice cake."),
    ("The cake was made by Ann.", "The cake made Ann."),
    ("The path is panicked over by hikers.", "Hikers panic over the path."),
    ("The boxes were carried by boys.", "The boy carries the boxes."),
    ("The boxes were carried by boys.", "Boys carry the boxes."),
    ("The fox was shot by him.", "He shoots the fox."),
    ("Its wheel was spun by her.", "She spins its wheel."),
    ("He was overtaken by the bus.", "The bus overtook him."),
    ("He was outrun by the bus.", "The bus outran him."),
    ("The \u0391\u03a3 was led by \u00c9milie.", "\u00c9milie led the \u0391\u03a3."),
    ("caf\u00e9_noir was bought by her.", "She bought cafe_noir."),
    ("Re-elected, he was thanked by us.", "Re-elected, we thanked him."),
    ("O\u2019Brien was met by us.", "We met O'Brien."),
    ("It was sent by mistake by him (twice).", "He sent it by mistake twice."),
    ("\u00bd a cake was eaten by \u0663 boys.", "\u0663 boys ate \u00bd a cake."),
    ("", "Someone"),
)
# Greedy decoding is written down only where the likeliest token leads by this much: rounding can't change it.
LEAD = 0.01
# Nor a rewrite that is as sure as the threshold, but for this.
NEAR = 0.002
NEW_TOKENS = 32
FIGURE = 5

SHAPES: dict[str, dict[str, Any]] = {
    "char_llama": {"n_heads": 4, "n_kv_heads": 2, "head_dim": 4, "d_ff": 16},
    "byte_gpt2": {
        "n_heads": 2, "norm": "layernorm", "position": "learned", "activation": "gelu", "qkv_bias": True,
        "out_bias": True, "mlp_bias": True,
    },
    "bpe_yarn": {
        "n_heads": 2, "n_kv_heads": 1, "head_dim": 6, "d_ff": 12, "activation": "geglu", "rope_theta": 500.0,
        "rope_scaling": {"kind": "yarn", "factor": 4.0, "original_context_length": 16, "beta_fast": 4.0},
    },
    "char_softcap": {
        "n_heads": 1, "norm": "layernorm", "norm_bias": False, "norm_eps": 1e-3, "activation": "gelu_exact",
        "mlp_bias": True, "qkv_bias": True, "tie_embeddings": False, "logit_softcap": 4.0, "rope_theta": 100.0,
        "rope_scaling": {"kind": "llama3", "factor": 8.0, "original_context_length": 8},
    },
}  # fmt: skip
REWRITER = {
    "n_layers": 2, "d_model": 24, "n_heads": 3, "d_ff": 48, "context_length": 80, "activation": "relu2",
    "qk_norm": True, "conditions": [{"name": "style", "labels": ["plain", "casual"]}],
}  # fmt: skip


def main() -> int:
    """Makes the vectors, and with --models the models before; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", action="store_true", help="make the models anew too: all vectors change")
    args = parser.parse_args()
    if args.models:
        make_models(FOLDER)
    for path in sorted(FOLDER.glob("*.safetensors")):
        vectors = make_vectors(path)
        path.with_suffix(".json").write_text(_as_lines(vectors), "utf-8")
        print(f"{path.stem}: {path.stat().st_size:,} bytes", file=sys.stderr)
    return 0


def make_models(folder: Path) -> None:
    """Four models of random weights, each in another type, and a trained rewriter in bfloat16 and int8."""
    from jslm.formats.portable import write
    from jslm.runs.bundle import Bundle
    from jslm.tokenizer import BpeTokenizer, ByteTokenizer, CharTokenizer

    tokenizers = {
        "char_llama": CharTokenizer(TEXT + "\xe9\u4f60"),
        "byte_gpt2": ByteTokenizer(["<|user|>"]),
        "bpe_yarn": BpeTokenizer.train([TEXT * 2], 290, ["<|user|>", "<|bot|>"]),
        "char_softcap": CharTokenizer(TEXT, ["<|x|>"]),
    }
    dtypes = {"char_llama": "float32", "byte_gpt2": "float16", "bpe_yarn": "bfloat16", "char_softcap": "float32"}
    for name, shape in SHAPES.items():
        tokenizer = tokenizers[name]
        config = _config({"n_layers": 2, "d_model": 8, "context_length": 64, **shape}, tokenizer.vocab_size)
        ends = name != "byte_gpt2"
        for seed in itertools.count():
            bundle = Bundle(config, _random(config, tokenizer.vocab_size, seed), tokenizer, ends_documents=ends)
            write(bundle, folder / f"{name}.safetensors", dtypes[name])
            try:
                make_vectors(folder / f"{name}.safetensors")
            except JslmError as error:
                print(f"seed {seed}: {error}", file=sys.stderr)
            else:
                break
    trained = _train_rewriter()
    write(trained, folder / "rewriter.safetensors", "bfloat16")
    write(calibrated(trained), folder / "rewriter_int8.safetensors", "int8")


def calibrated(trained: Any) -> Any:
    """The rewriter that checks its words, and is silent where it is not sure; by sentences of its two styles."""
    from jslm.evaluate.answers import Item
    from jslm.evaluate.calibration import calibrate
    from jslm.infer import LanguageModel

    items = [Item("", passive, (active,), False) for passive, active, _ in _sentences()]
    # Agents and patients exchanged, which it has not learned: some are wrong. Without the check, which would see most.
    for patient, agent in itertools.product(("letter", "cake", "horse"), ("clerk", "boy", "king", "queen")):
        for participle, past in (("seen", "saw"), ("taken", "took"), ("broken", "broke")):
            answer = f"The {patient} {past} the {agent}."
            items.append(Item("", f"The {agent} was {participle} by the {patient}.", (answer,), False))
    fitted = calibrate(LanguageModel(trained.config, trained.params, trained.tokenizer), items, 0.99)
    settings = fitted.model_copy(update={"faithful": True, "sentences": True})
    return dataclasses.replace(trained, config=trained.config.model_copy(update={"rewrite": settings}))


def make_vectors(path: Path) -> dict[str, Any]:
    """What jslm makes of a model, as JSON."""
    import jslm

    model = jslm.load(path)
    tokenizer = model.tokenizer
    ways: list[dict[str, str]] = [{}]
    for condition in model.config.model.conditions:
        ways += [{condition.name: label} for label in condition.labels]
    is_rewriter = bool(model.config.model.conditions)
    prompts = ["", "The old king", "A girl took 17"]
    if is_rewriter:
        prompts = [_sentences()[index][0] + "\t" for index in (0, -1)]
    cases = []
    for conditions, prompt in itertools.product(ways, prompts):
        told = model.with_conditions(conditions)
        row = model.row(prompt, 0, make_request(model.config.sample, max_new_tokens=1, greedy=True))
        (result,) = told.generate_results(prompt, greedy=True, max_new_tokens=NEW_TOKENS)
        ids = row.ids + result.tokens
        logits = np.asarray(told.logits(ids[: model.config.model.context_length])[0])
        if (lead := _lead(told, row.ids, result)) < LEAD:
            raise JslmError(f"{path.name}: {prompt!r}: two tokens lie within {lead:.4f}; take another seed or prompt")
        at = sorted({0, len(row.ids) - 1, len(ids) - 1})
        at = at if len(at) == 3 else sorted({0, 1, len(ids) // 2, len(ids) - 1})[:3]
        cases.append(
            {
                "prompt": prompt,
                "conditions": conditions,
                "prompt_ids": row.ids,
                "greedy_ids": result.tokens,
                "greedy_text": result.text,
                "finish": result.finish_reason,
                "positions": at,
                "logits": [[round(float(x), FIGURE) for x in logits[position]] for position in at],
            }
        )
    texts = [{"text": text, "ids": tokenizer.encode(model.as_read(text))} for text in TEXTS]
    found: dict[str, Any] = {
        "model": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "max_new_tokens": NEW_TOKENS,
        "texts": texts,
        "cases": cases,
    }
    if is_rewriter:
        found["rewrites"] = [
            entry
            for conditions in ways
            for entry in _rewrites(model, rewriter_sentences()[: None if not conditions else 30], conditions)
        ]
    elif path.stem == "char_llama":
        # It has letters to stand for others, and learned nothing.
        found["rewrites"] = list(_rewrites(model, list(STRANGE), {}))
    if model.config.rewrite.faithful:
        found["differences"] = [
            {
                "source": source,
                "output": output,
                "may_add": may_add,
                "difference": unfaithful(source, output, may_add=may_add),
            }
            for source, output in DIFFERENCES
            for may_add in ((False, True) if "one" in output else (False,))
        ]
    return found


def _rewrites(model: Any, sentences: list[str], conditions: dict[str, str]) -> Iterator[dict[str, Any]]:
    """What becomes of each sentence; not of one where two tokens lie near each other."""
    told = model.with_conditions(conditions)
    for rewrite in told.rewrite(sentences, lookup=False):
        lead = min(map(float, _leads(told, rewrite.source)), default=np.inf)
        if lead < LEAD:
            print(f"left out: {rewrite.source!r}: two tokens lie within {lead:.4f}", file=sys.stderr)
            continue
        threshold = told.config.rewrite.threshold
        if threshold and rewrite.confidence is not None and abs(rewrite.confidence - threshold) < NEAR:
            print(f"left out: {rewrite.source!r}: at the threshold, within {NEAR}", file=sys.stderr)
            continue
        yield {
            "source": rewrite.source,
            "conditions": conditions,
            "output": rewrite.output,
            "reason": rewrite.reason,
            "confidence": None if rewrite.confidence is None else round(rewrite.confidence, 4),
            "logprob": None if rewrite.logprob is None else round(rewrite.logprob, 4),
        }


def _leads(told: Any, source: str) -> Iterator[float]:
    """For each sentence of a text that is written for, the least distance between a token and the next best."""
    for part in split_sentences(source) if told.config.rewrite.sentences else [source]:
        try:
            shown, _ = read_sentence(told, unicodedata.normalize("NFC", part.strip()))
        except Unreadable:
            continue
        prompt = rewrite_prompt(told.config.data, shown)
        most = 2 * len(told.tokenizer.encode(prompt)) + 32
        (result,) = told.generate_results(prompt, greedy=True, stop="\n", max_new_tokens=most)
        yield _lead(told, told.row(prompt, 0, make_request(told.config.sample)).ids, result)


def _lead(model: Any, prompt_ids: list[int], result: Any) -> float:
    """The least distance in logits between the first and the second token, over all that were written."""
    ids = [*prompt_ids, *result.tokens]
    logits = np.sort(model.logits(ids[: model.config.model.context_length])[0], axis=-1)
    written = logits[len(prompt_ids) - 1 : len(ids) - (result.finish_reason == "length")]
    return float((written[:, -1] - written[:, -2]).min())


def _as_lines(vectors: dict[str, Any]) -> str:
    """JSON, a line an entry of each list."""
    parts = []
    for key, value in vectors.items():
        if isinstance(value, list):
            rows = ",\n".join(json.dumps(entry) for entry in value)
            parts.append(f"{json.dumps(key)}: [\n{rows}\n]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def rewriter_sentences() -> list[str]:
    """Over a hundred: some that the rewriter has learned, more that it has not, and what stays as it is."""
    known = [passive for passive, _, _ in _sentences()]
    kept = [
        "",
        "   ",
        "The king saw \xfc.",
        "A tab\tin it.",
        "The letter was found by the boy. " * 3,
        "The letter was found by the boy. The cake was sold by the king!  ",
        "A tab\there. The cake was sold by the king. The king. \n",
        "\x1c  the boy \n",
        "The king. The cake was sold by the king!\n\nThe king. ",
    ]
    odd = ["The boy was seen.", "the cake was sold by the king", "  The door was found by the boy.  ", "king " * 8]
    return [*kept, *odd, *known[::2][:110]]


def _sentences() -> list[tuple[str, str, str]]:
    """(passive, active in plain style, in casual style)."""
    agents = ("clerk", "cook", "boy", "girl", "king", "queen")
    patients = ("letter", "cake", "song", "house", "door", "book", "horse")
    verbs = {"written": "wrote", "taken": "took", "seen": "saw", "sold": "sold", "found": "found", "broken": "broke"}
    found = []
    for patient, agent, (verb, past) in itertools.product(patients, agents, verbs.items()):
        active = f"he {agent} {past} the {patient}"
        found.append((f"The {patient} was {verb} by the {agent}.", f"T{active}.", f"t{active}"))
    return found


def _config(model: dict[str, Any], vocab_size: int, **data: Any) -> Any:
    from jslm.config import config_from_dict

    return config_from_dict({"model": {"dtype": "float32", "vocab_size": vocab_size, **model}, "data": data}, "vectors")


def _random(config: Any, vocab_size: int, seed: int) -> Any:
    """Weights large enough that every part of the model shows in the logits."""
    from jslm.model import param_shapes

    noise = np.random.default_rng(seed)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        array = noise.standard_normal(leaf.shape, np.float32)
        if "scale" in name:
            return 1 + np.float32(0.2) * array
        if "tokens" in name:
            array[vocab_size:] = 0
        return array * np.float32(0.3 if "bias" in name else 0.8)

    return jax.tree_util.tree_map_with_path(fill, param_shapes(config.model))


def _train_rewriter() -> Any:
    """Five in seven of the sentences, learned until it writes most of the others too."""
    import optax

    from jslm.model import init_params, loss_sums
    from jslm.runs.bundle import Bundle
    from jslm.tokenizer import CharTokenizer

    sentences = _sentences()
    tokenizer = CharTokenizer("\t\n" + "".join("".join(triple) for triple in sentences))
    data = {"packing": "documents", "template": _TEMPLATE, "prompt_end": "\t", "conditions": ["style"]}
    config = _config(REWRITER, tokenizer.vocab_size, **data)
    context = config.model.context_length
    rows, targets, labels = [], [], []
    for number, (passive, *actives) in enumerate(sentences):
        if number % 7 < 2:
            continue
        for label, active in ((-1, actives[0]), (0, actives[0]), (1, actives[1])):
            prompt = [tokenizer.eot_id, *tokenizer.encode(passive + "\t")]
            ids = [*prompt, *tokenizer.encode(active), tokenizer.eot_id]
            row, target = np.zeros(context, np.int32), np.full(context, -1, np.int32)
            row[: len(ids) - 1], target[len(prompt) - 1 : len(ids) - 1] = ids[:-1], ids[len(prompt) :]
            rows.append(row), targets.append(target), labels.append(np.full((context, 1), label, np.int32))
    batches = [np.stack(part) for part in (rows, targets, labels)]
    steps = 500
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-2, steps, 0.01)))

    @jax.jit
    def learn(params: Any, state: Any, inputs: jax.Array, wanted: jax.Array, conditions: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            return loss_sums(params, inputs, wanted, config.model, conditions=conditions)[0] / (wanted >= 0).sum()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    params = init_params(config.model, jax.random.key(0))
    state = optimizer.init(params)
    order = np.random.default_rng(0)
    for step in range(steps):
        chosen = order.integers(0, len(rows), 32)
        params, state, value = learn(params, state, *(jnp.asarray(part[chosen]) for part in batches))
        if step % 100 == 99:
            print(f"rewriter: step {step + 1}: {float(value):.3f} nats", file=sys.stderr)
    found = jax.tree.map(np.array, params)
    found["embed"]["tokens"][tokenizer.vocab_size :] = 0
    return Bundle(config, found, tokenizer, figures={"steps": steps})


if __name__ == "__main__":
    sys.exit(main())
