"""A whole decoder for jslm's portable file in numpy alone; docs/portable-format.md explains each step.

python portable.py model.safetensors "Once upon a time" [--temperature 0.8] [--condition style=plain]
python portable.py rewriter.safetensors --rewrite "The letter was written by the clerk."
"""

import argparse
import codecs
import collections
import itertools
import json
import math
import re
import sys
import unicodedata

import numpy as np

TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1"}
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
CLITICS = ("n't", "'s", "'re", "'ve", "'ll", "'d", "'m")
SENTENCE_END = re.compile(r"(?<![.!?…])([.!?…]+)[\"'”’)\]]*(?=\s)\s*")
WORD = re.compile(r"[0-9][0-9.,:/–-]*[0-9]|[0-9]|[^\W0-9_]+(?:'[^\W0-9_]+)*|[^\w\s]")
# A full stop behind these is no end, nor behind the others where a small letter or a digit follows.
TITLE = re.compile(r"mr|mrs|ms|messrs|dr|prof|rev|hon|gen|col|lt|sgt|capt|cpl|gov|sen|st|mt|vs|viz|cf|fig|ph\.d")
SHORT = re.compile(
    "al|etc|no|nos|vol|pp|ca|approx|inc|ltd|co|corp|jr|sr|ft|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
)
UNSEEN = re.compile("[\\0-\x20\\x7f-\\xa0\\xad\\u1680\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u206f\\u3000\\ufeff]")


class Model:
    """A portable file, opened. `tell` sets conditions, `read` takes ids and gives logits; `generate`, `rewrite`."""

    def __init__(self, path):
        with open(path, "rb") as file:
            data = file.read()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        fields = json.loads(header.pop("__metadata__")["jslm"])
        if fields["version"] not in (1, 2) or fields.get("quantisation", "int8_rows") != "int8_rows":
            raise ValueError(f"{path}: version {fields['version']} of the portable file; this reads 1 and 2")
        stored = {}
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            array = np.frombuffer(data[8 + size + start : 8 + size + end], TYPES[entry["dtype"]]).reshape(
                entry["shape"]
            )
            if entry["dtype"] == "BF16":
                array = (array.astype(np.uint32) << 16).view(np.float32)
            stored[name] = array.astype(np.float32)
        self.weights = {name: array for name, array in stored.items() if not name.endswith(("/rows", "/scales"))}
        for name in [name.removesuffix("/rows") for name in stored if name.endswith("/rows")]:
            array = stored[f"{name}/rows"] * stored[f"{name}/scales"][..., None]
            self.weights[name] = array.swapaxes(-1, -2) if name.endswith("/kernel") else array
        self.config, self.data = fields["config"]["model"], fields["config"]["data"]
        c = self.config
        self.ends_documents = fields["ends_documents"]
        # Older files have no such section, and none is every setting's default.
        self.settings = {"threshold": 0.0, "calibration": [], "sentences": False, "faithful": False}
        self.settings |= fields["config"].get("rewrite", {})
        self.words = Words(fields["rewrite_words"]) if self.settings["faithful"] else None
        self.tokenizer = Tokenizer(fields["tokenizer"])
        self.kv_heads = c["n_kv_heads"] or c["n_heads"]
        self.head_dim = c["head_dim"] or c["d_model"] // c["n_heads"]
        if c["position"] == "rope":
            self.frequencies, self.amplitude = rope_frequencies(c, self.head_dim)
        self.tell({})

    def tell(self, conditions):
        """Starts a text of these conditions, such as {"style": "formal"}: the cache is empty again."""
        self.added = np.zeros(self.config["d_model"], np.float32)
        labels = {each["name"]: each["labels"] for each in self.config["conditions"]}
        for name, label in conditions.items():
            self.added = self.added + self.weights[f"embed/conditions/{name}"][labels[name].index(label)]
        self.length, self.keys, self.values = 0, {}, {}

    def read(self, ids):
        """Logits [len(ids), vocab] of what comes after each of `ids`, which follow those read before."""
        c, w = self.config, self.weights
        places = np.arange(self.length, self.length + len(ids))
        x = w["embed/tokens"][ids]
        if c["position"] == "learned":
            x = x + w["embed/positions"][places]
        x = x + self.added
        for layer in range(c["n_layers"]):
            x = x + self._attention(self._norm(x, "layers/attention_norm", layer), layer, places)
            x = x + self._mlp(self._norm(x, "layers/mlp_norm", layer), layer)
        self.length += len(ids)
        logits = self._norm(x, "final_norm") @ w.get("head/tokens", w["embed/tokens"]).T
        cap = np.float32(c["logit_softcap"])
        return cap * np.tanh(logits / cap) if cap else logits

    def _get(self, name, layer):
        array = self.weights.get(name)
        return array if array is None or layer is None else array[layer]

    def _norm(self, x, name, layer=None, kind=None):
        if (kind or self.config["norm"]) == "layernorm":
            x = x - x.mean(-1, keepdims=True)
        y = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.config["norm_eps"]))
        y = y * self._get(f"{name}/scale", layer)
        bias = self._get(f"{name}/bias", layer)
        return y if bias is None else y + bias

    def _project(self, x, name, layer):
        y = x @ self._get(f"{name}/kernel", layer)
        bias = self._get(f"{name}/bias", layer)
        return y if bias is None else y + bias

    def _attention(self, x, layer, places):
        q, k, v = (self._project(x, f"layers/attention/{n}", layer).reshape(len(x), -1, self.head_dim) for n in "qkv")
        if self.config["qk_norm"]:
            q = self._norm(q, "layers/attention/q_norm", layer, "rmsnorm")
            k = self._norm(k, "layers/attention/k_norm", layer, "rmsnorm")
        if self.config["position"] == "rope":
            angles = places[:, None].astype(np.float32) * self.frequencies
            cos, sin = np.cos(angles)[:, None] * self.amplitude, np.sin(angles)[:, None] * self.amplitude
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if layer in self.keys:
            k, v = np.concatenate([self.keys[layer], k]), np.concatenate([self.values[layer], v])
        self.keys[layer], self.values[layer] = k, v
        group = q.shape[1] // self.kv_heads
        k, v = k.repeat(group, axis=1), v.repeat(group, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) * np.float32(self.head_dim**-0.5)
        scores = np.where(np.arange(len(k)) <= places[:, None], scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares = shares / shares.sum(-1, keepdims=True)
        y = np.einsum("hqk,khd->qhd", shares, v).reshape(len(x), -1)
        return self._project(y, "layers/attention/out", layer)

    def _mlp(self, x, layer):
        up = self._project(x, "layers/mlp/up", layer)
        activation = ACTIVATIONS[self.config["activation"]]
        gated = self.config["activation"] in ("swiglu", "geglu")
        hidden = activation(self._project(x, "layers/mlp/gate", layer)) * up if gated else activation(up)
        return self._project(hidden.astype(np.float32), "layers/mlp/down", layer)

    def prompt_ids(self, text):
        """Ids of a prompt, with what begins a document before them. Raises ValueError for one that is too long."""
        ids, context = self.tokenizer.encode(as_read(text, self.data["cleaners"])), self.config["context_length"]
        if len(ids) > context - 1:
            raise ValueError(f"the prompt is {len(ids)} tokens, the context of this model is {context}")
        if self.ends_documents and len(ids) + 1 < context:
            return [self.tokenizer.end, *ids]
        neutral = self.tokenizer.encode("\n")
        known = len(neutral) == 1 and neutral[0] != self.tokenizer.unknown
        return ids or (neutral if known else [self.tokenizer.end])

    def generate(self, prompt, most, temperature=0.0, seed=0, conditions=None, stop=b""):
        """(ids, text, "stop" or "length", log-probabilities): up to `most` tokens; a byte `stop` ends and leaves it."""
        self.tell(conditions or {})
        ids = self.prompt_ids(prompt)
        most, random = min(most, self.config["context_length"] - len(ids)), np.random.default_rng(seed)
        found, logprobs, raw = [], [], b""
        logits = self.read(ids)[-1]
        while True:
            shares = np.exp(logits - logits.max())
            token = int(logits.argmax())
            if temperature > 0:
                hot = np.exp((logits - logits.max()).astype(np.float64) / temperature)
                token = int(random.choice(len(hot), p=hot / hot.sum()))
            logprobs.append(float(np.log(shares[token] / shares.sum())))
            if token == self.tokenizer.end:
                return found, text_of(raw), "stop", logprobs
            piece = self.tokenizer.pieces[token]
            raw += piece
            if stop and stop in raw:
                # A token counts where some of it is before the stop.
                kept = len(found) + (not piece.startswith(stop))
                return [*found, token][:kept], text_of(raw.partition(stop)[0]), "stop", logprobs[:kept]
            found.append(token)
            if len(found) == most:
                return found, text_of(raw), "length", logprobs
            logits = self.read([token])[-1]

    def rewrite(self, sentence, conditions=None, threshold=None):
        """{output, changed, confidence, reason, logprob} of a sentence; where it stays, `reason` says why.

        The confidence is a probability; without a `threshold` the file's own holds.
        """
        parts = split_sentences(sentence) if self.settings["sentences"] else []
        if len(parts) < 2:
            return self._rewrite_one(sentence, conditions or {}, threshold)
        found = [self._rewrite_one(part, conditions or {}, threshold) for part in parts]
        changed = [part for part in found if part["changed"]]
        if not changed:
            # One with nothing to change counts after the others, a blank one last.
            told = min(
                found, key=lambda part: (part["reason"] == "nothing to change") + 2 * (part["reason"] == "blank")
            )
            return kept(sentence, told["reason"], told["confidence"], told["logprob"])
        least = {name: min(part[name] for part in changed) for name in ("confidence", "logprob")}
        return {"output": "".join(part["output"] for part in found), "changed": True, "reason": "", **least}

    def _rewrite_one(self, sentence, conditions, threshold):
        core, cleaners = sentence.strip(), self.data["cleaners"]
        end, context = self.data["prompt_end"] or "\n", self.config["context_length"]
        source = unicodedata.normalize("NFC", core)
        tokens = len(self.tokenizer.encode(as_read(rewrite_prompt(self.data, source), cleaners)))
        known_as, unknown = self.tokenizer.stand_ins(as_read(source, cleaners))
        if not core:
            return kept(sentence, "blank")
        if tokens + 2 > context:
            return kept(sentence, f"{tokens} tokens, the context of this model is {context}")
        if known_as is None:
            more = ", ..." if len(unknown) > 10 else ""
            return kept(sentence, f"the tokenizer has never seen {', '.join(map(shown, unknown[:10]))}{more}")
        if end in source:
            spelled = end.replace("\n", "\\n").replace("\t", "\\t")
            return kept(sentence, f"'{spelled}' in it, which for this model ends a prompt")
        prompt = rewrite_prompt(self.data, source.translate(known_as))
        _, text, finish, logprobs = self.generate(prompt, 2 * tokens + 32, conditions=conditions, stop=b"\n")
        text = text.translate({ord(known): chr(char) for char, known in known_as.items()}).strip()
        sure, logprob, reason = self._confidence(logprobs), None, ""
        if logprobs:
            logprob = sum(logprobs) / len(logprobs)
        least = self.settings["threshold"] if threshold is None else threshold
        if finish == "length":
            reason = "the rewrite has not ended in the room there is"
        elif not text or sure is None:
            reason = "nothing was written"
        elif text == source:
            reason = "nothing to change"
        elif "\ufffd" in text:
            reason = "the rewrite has a character that is none"
        elif difference := self.words and self.words.difference(source, text, conditions.get("agentless") == "someone"):
            reason = f"the rewrite says something else: {difference}"
        elif sure < least:
            beams = self.settings.get("agreement", {}).get("beams", 0)
            without = f" (without the {beams} beams that the model is surer with)" if beams else ""
            reason = f"not sure enough: {sure:.2f}, and {least:.2f} is asked for{without}"
        if reason:
            return kept(sentence, reason, sure, logprob)
        output = sentence.replace(core, text, 1)
        return {"output": output, "changed": True, "confidence": sure, "reason": "", "logprob": logprob}

    def _confidence(self, logprobs):
        """The probability that a rewrite is right; without a calibration, the mean probability of a token."""
        if not logprobs:
            return None
        if not (weights := self.settings["calibration"]):
            return math.exp(sum(logprobs) / len(logprobs))
        values = [max(value, -69.0) for value in logprobs]
        features = (1.0, sum(values), min(values), math.log(len(values)))
        score = sum(weight * value for weight, value in zip(weights, features, strict=True))
        return 1 / (1 + math.exp(-max(min(score, 500.0), -500.0)))


def kept(sentence, reason, confidence=None, logprob=None):
    """A sentence that stays, and why."""
    return {"output": sentence, "changed": False, "confidence": confidence, "reason": reason, "logprob": logprob}


def shown(char):
    """A character in a reason: in quotes, and by its number where there would be nothing to see."""
    return f"U+{ord(char):04X}" if UNSEEN.match(char) else f"'{char}'"


class Words:
    """The check of rewrites, by the words of the file: every word of the one is a word of the other, by lemma."""

    def __init__(self, fields):
        self.fields, self.same, self.verbs, self.participles = fields, fields["same"], {}, set()
        # Older files have none: their threshold was chosen without.
        self.doubled = fields.get("doubled")
        self.silent = {*fields["auxiliaries"], *fields["negative"], *fields["light"]}
        for base, past, participle in (verb.split(" ") for verb in fields["verbs"]):
            for form in {base, *past.split("/"), *participle.split("/")}:
                self.verbs.setdefault(form, set()).add(base)
            self.participles.update(participle.split("/"))

    def difference(self, source, output, may_add=False):
        """What `output` says otherwise than `source`, both in NFC; empty where it says the same."""
        for mark in self.fields["marks"]:
            if source.count(mark) != output.count(mark):
                return f"{mark} is there {output.count(mark)} times, and was {source.count(mark)}"
        before, after = split_clitics(source), split_clitics(output)
        lost = sum(word in self.fields["negative"] for word in before)
        lost -= sum(word in self.fields["negative"] for word in after)
        if lost:
            return "a negation is lost" if lost > 0 else "a negation is not in the sentence"
        old, new = self._content(before), self._content(after)
        if may_add:
            new -= collections.Counter(word for word in self.fields["added"] if not old[word])
        missing, added = old - new, new - old
        for word in [*missing, *added]:
            if word in self.fields["repeated"] and old[word] and new[word]:
                del missing[word], added[word]
        for word, other in itertools.product(list(missing), list(added)):
            both = min(missing[word], added[other])
            if both and self._are_forms(word, other):
                missing -= collections.Counter({word: both})
                added -= collections.Counter({other: both})
        if missing:
            return f"'{next(iter(missing))}' is lost"
        if added:
            return f"'{next(iter(added))}' is not in the sentence"
        return self._names(source, output)

    def _content(self, words):
        found = []
        for place, word in enumerate(words):
            if word == "one" and place and words[place - 1] == "no":
                found.append("one")
            elif word in self.fields["indefinite"]:
                found.append(self.fields["indefinite"][word])
            elif word not in self.silent and (word in self.same or self._counts(word)):
                found.append(self.same.get(word, word))
        return collections.Counter(found)

    def _counts(self, word):
        """Whether it is a word, a number, or a sign that is no punctuation; older files have no list of that."""
        return word[0].isalnum() or word not in self.fields.get("free", [word])

    def _names(self, source, output):
        letters = re.compile(r"[^\W0-9_]+")
        for text, other in ((source, output), (output, source)):
            spelled = set(letters.findall(other))
            for match in letters.finditer(text):
                name, before = match[0], text[max(match.start() - 2, 0) : match.start()]
                inside = before[1:] == " " and not (before[0].isspace() or before[0] in ".?!:“\"'(")
                if not (inside and name[0].isupper()) and not any(char.isupper() for char in name[1:]):
                    continue
                forms = {name, name[:1].upper() + name[1:].lower()}
                if not spelled & forms and name.lower() not in {*self.same, *self.same.values()}:
                    return f"'{name}' is spelled otherwise"
        return ""

    def _are_forms(self, word, other):
        common = self._bases(word) & self._bases(other)
        participle = any(each.endswith(("ed", "'d")) or self._bare(each) in self.participles for each in (word, other))
        return bool(common) and (participle or bool(common & set(self.fields["raising"])))

    def _bare(self, word):
        if word in self.verbs:
            return word
        behind = (word[len(prefix) :] for prefix in self.fields["prefixes"] if word.startswith(prefix))
        return next((rest for rest in behind if rest in self.verbs), word)

    def _bases(self, word):
        bare = self._bare(word)
        found = {word, *(word.removesuffix(bare) + base for base in self.verbs.get(bare, ()))}
        for ending in ("s", "es", "ed", "d", "ing"):
            if word.endswith(ending) and len(word) - len(ending) >= 2:
                stem = word.removesuffix(ending)
                if self.doubled is not None and bare in self.verbs and ending in ("ed", "d"):
                    continue
                if self.doubled is not None and self._is_doubled(stem.removesuffix("e")):
                    if ending in ("ed", "ing") and not stem.endswith("e"):
                        found.add(stem[:-1])
                    continue
                found |= {stem, stem + "e"}
                if stem.endswith("i"):
                    found.add(stem[:-1] + "y")
                if stem.endswith("ck") or (len(stem) > 2 and stem[-1] == stem[-2]):
                    found.add(stem[:-1])
        return found

    def _is_doubled(self, stem):
        return len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] in "bdgkmnprtv" and stem not in self.doubled


def split_sentences(text):
    """The sentences, each with the white space behind it; a blank line ends one."""
    parts, start = [], 0
    for white in re.finditer(r"(?<=\S)\s+", text):
        if white[0].count("\n") > 1:
            parts += split_paragraph(text[start : white.end()])
            start = white.end()
    return parts + split_paragraph(text[start:])


def split_paragraph(text):
    """The same without blank lines; a mark alone is none yet."""
    parts, start = [], 0
    for end in SENTENCE_END.finditer(text):
        if end.end(1) - start > 1 and not is_abbreviation(text, end.start(), text[end.end() : end.end() + 1]):
            parts.append(text[start : end.end()])
            start = end.end()
    return [*parts, text[start:]] if start < len(text) else parts


def is_abbreviation(text, at, follows):
    """Whether a full stop before white space is that of "Mr.", of initials, or of "etc." inside a sentence."""
    if text[at] != "." or not text[at + 1].isspace():
        return False
    raw = re.split(r"[\s\"'“‘(\[]", text[max(0, at - 10) : at])[-1]
    word, parts = raw.lower(), raw.lower().split(".")
    initials = all(len(part) == 1 and part not in "0123456789" for part in parts)
    if initials and (len(parts) > 1 or (raw.isupper() and raw != "I")):
        return True
    goes_on = follows.islower() or (follows.isascii() and follows.isdigit())
    return bool(TITLE.fullmatch(word)) or (bool(SHORT.fullmatch(word)) and goes_on)


def split_clitics(text):
    """Words in small letters, numbers and marks; "don't" is "do" and "n't"."""
    found = []
    for token in WORD.findall(text.replace("’", "'").lower()):
        clitic = next((each for each in CLITICS if token.endswith(each)), "")
        if token in ("cannot", "can't"):
            found += ["can", "not"]
        elif clitic and token != clitic:
            found += [token.removesuffix(clitic), clitic]
        else:
            found.append(token)
    return found


class Tokenizer:
    """Characters, bytes, or byte-level BPE: `encode` a text, and `pieces` of bytes to join."""

    def __init__(self, fields):
        self.kind, special = fields["kind"], fields["special_tokens"]
        if self.kind not in ("char", "byte", "bpe"):
            raise ValueError(f"tokenizer kind {self.kind}; this reads char, byte and bpe")
        self.end, self.unknown = special["<|endoftext|>"], special.get("<|unk|>") if self.kind == "char" else None
        self.pieces = [b""] * fields["vocab_size"]
        if self.kind == "char":
            self.ids = {char: len(special) + at for at, char in enumerate(fields["characters"])}
            tokens = {char.encode(): token for char, token in self.ids.items()}
        elif self.kind == "byte":
            tokens = {bytes([byte]): byte for byte in range(256)}
        else:
            model, spelled = fields["tokenizers"]["model"], byte_spelling()
            bytes_of = {char: byte for byte, char in enumerate(spelled)}
            tokens = {bytes(map(bytes_of.get, t)): at for t, at in model["vocab"].items() if t not in special}
            self.spelled, self.ids = spelled, model["vocab"]
            self.ranks = {tuple(merge): rank for rank, merge in enumerate(model["merges"])}
        tokens |= {name.encode(): token for name, token in special.items()}
        for piece, token in tokens.items():
            self.pieces[token] = piece
        if self.unknown is not None:
            self.pieces[self.unknown] = "\ufffd".encode()

    def encode(self, text):
        """Ids of a text, in which no spelling is a special token."""
        if self.kind == "char":
            return [self.ids.get(char, self.unknown) for char in text]
        if self.kind == "byte":
            return list(text.encode())
        return [token for word in split_words(text) for token in self._encode_word(word)]

    def stand_ins(self, text):
        """(table of `str.translate` from unknown to known characters, unknown ones); no table where some have none."""
        if self.unknown is None:
            return {}, []
        unknown = sorted(set(text) - set(self.ids))
        free = [char for char in self.ids if char > "\x7f" and char != "\ufffd" and not UNSEEN.match(char)]
        free = [char for char in free if char not in text]
        table = {}
        for char in unknown:
            spare = [each for each in free if kind_of(each) == kind_of(char)]
            if not spare:
                return None, unknown
            free.remove(spare[-1])
            table[ord(char)] = spare[-1]
        return table, unknown

    def _encode_word(self, word):
        parts = [self.spelled[byte] for byte in word.encode()]
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(range(len(pairs)), key=lambda at: self.ranks.get(pairs[at], math.inf))
            if pairs[best] not in self.ranks:
                break
            parts[best : best + 2] = ["".join(pairs[best])]
        return [self.ids[part] for part in parts]


def kind_of(char):
    """Characters of one kind may stand for each other."""
    return "upper" if char.isupper() else "lower" if char.isalpha() else "other"


def split_words(text):
    """GPT-2's words: a contraction, letters, digits or other marks with a blank before them, or white space."""
    kinds = [" " if char.isspace() and not "\x1c" <= char <= "\x1f" else unicodedata.category(char)[0] for char in text]
    kinds = [kind if kind in " LN" else "?" for kind in kinds]
    at = 0
    while at < len(text):
        found = next((each for each in CONTRACTIONS if text.startswith(each, at)), "")
        start = at + (text[at] == " " and at + 1 < len(text) and kinds[at + 1] != " ")
        end = start
        while end < len(text) and kinds[end] == kinds[start]:
            end += 1
        if kinds[start] == " " and end < len(text) and end - at > 1:
            end -= 1  # the last blank belongs to the word after it
        end = at + len(found) if found else end
        yield text[at:end]
        at = end


def byte_spelling():
    """The character that stands for each byte in a BPE vocabulary."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def as_read(text, cleaners):
    """A prompt as the model's texts were read: no byte order mark, LF, and with `normalize` plain characters in NFC."""
    text = text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if "normalize" in cleaners:
        text = re.sub("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u2060\ufeff\ufffe\uffff]", "", text)
        text = re.sub("[\x0b\x0c\x85\u2028\u2029]", "\n", text)
        text = unicodedata.normalize("NFC", re.sub("[\xa0\u2000-\u200a\u202f\u205f\u3000]", " ", text))
    return text


def rewrite_prompt(data, sentence):
    """What a rewriter reads before it writes: the template up to `prompt_end`, or to the completion."""
    template, end = data["template"], data["prompt_end"]
    parts = re.findall(r"((?:[^{}]|\{\{|\}\})*)(?:\{(\w+)\}|$)", template)
    prompt = ""
    for literal, name in parts:
        literal = literal.replace("{{", "{").replace("}}", "}")
        if end and end in literal:
            return prompt + literal[: literal.index(end) + len(end)]
        prompt += literal
        if name == "completion" and (not end or end not in template):
            return prompt
        if name == "prompt":
            prompt += sentence
        elif name:
            raise ValueError(f"the template wants {{{name}}} besides the sentence")
    return sentence + (end or "\n")


def text_of(raw):
    """Text of bytes, wrong ones as U+FFFD, without a character that ends in the middle."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(raw)


def rotate(x, cos, sin):
    """Each pair (x[i], x[i + half]) of [tokens, heads, width] turned by its angle."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def rope_frequencies(c, dim):
    """Radians a position of each pair, and the factor on cosines and sines."""
    s, theta = c["rope_scaling"], c["rope_theta"]
    kind, factor = s["kind"], s["factor"]
    exponents = np.arange(0, dim, 2) / dim
    plain = theta**-exponents
    original = s["original_context_length"] or c["context_length"] / factor
    amplitude = 1.0
    if kind == "linear":
        plain = plain / factor
    elif kind == "ntk":
        plain = (theta * factor ** (dim / max(dim - 2, 1))) ** -exponents
    elif kind == "yarn":
        low, high = (
            dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))
            for turns in (s["beta_fast"], s["beta_slow"])
        )
        low, high = max(math.floor(low), 0), min(math.ceil(high), dim - 1)
        ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
        plain = plain * (1 - ramp) + plain / factor * ramp
        amplitude = s["attention_factor"] or 0.1 * math.log(factor) + 1.0
    elif kind == "llama3":
        low, high = s["low_freq_factor"], s["high_freq_factor"]
        kept = np.clip((original * plain / (2 * math.pi) - low) / (high - low), 0.0, 1.0)
        plain = plain * (kept + (1 - kept) / factor)
    return plain.astype(np.float32), np.float32(amplitude)


def gelu(x):
    """By tanh, as GPT-2's."""
    return 0.5 * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)))


ACTIVATIONS = {
    "swiglu": lambda x: x / (1 + np.exp(-x)),
    "geglu": gelu,
    "gelu": gelu,
    "gelu_exact": lambda x: 0.5 * x * (1 + np.frompyfunc(math.erf, 1, 1)(x / math.sqrt(2)).astype(np.float32)),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}


def main():
    """Writes on from a prompt, or rewrites a sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", help="a prompt, or a sentence to rewrite")
    parser.add_argument("--rewrite", action="store_true")
    parser.add_argument(
        "--threshold", type=float, help="leave a sentence of less confidence, 0 to 1 (default: the file's)"
    )
    parser.add_argument("--condition", action="append", default=[], metavar="NAME=LABEL")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        parser.error(f"--threshold {args.threshold:g}: expected a probability from 0 to 1")
    try:
        model, conditions = Model(args.model), dict(each.split("=", 1) for each in args.condition)
        if args.rewrite:
            found = model.rewrite(args.text, conditions, args.threshold)
            print(found["output"])
            if found["reason"]:
                print(f"left as it is: {found['reason']}", file=sys.stderr)
        else:
            print(args.text + model.generate(args.text, args.tokens, args.temperature, args.seed, conditions)[1])
    except OSError as error:
        parser.error(f"{args.model}: {error.strerror}")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        parser.error(f"{args.model}: {error!r}; a damaged file, or a label that it has not")


if __name__ == "__main__":
    main()
