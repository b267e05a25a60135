"""What a rewriter learns from parsed sentences: pairs of passive and active, and sentences to leave alone."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from jslm.corpora.rewrite.alphabet import wide_alphabet
from jslm.corpora.rewrite.parsed.adjuncts import added, takes_one
from jslm.corpora.rewrite.parsed.clauses import short_clauses
from jslm.corpora.rewrite.parsed.group import read_group
from jslm.corpora.rewrite.parsed.noise import vary
from jslm.corpora.rewrite.parsed.parts import cut, is_cut
from jslm.corpora.rewrite.parsed.phrases import LOOSE, Phrases, with_other
from jslm.corpora.rewrite.parsed.to_active import NO_AGENTS, passive_with_agent, to_active, with_someone
from jslm.corpora.rewrite.parsed.to_passive import candidates, to_passive
from jslm.corpora.rewrite.parsed.trees import Tree, Unsure, Word

# A condition of the model: passives without an agent get "someone"; without the label they stay.
SOMEONE: Final = "someone"
_ALPHABET: Final = frozenset(wide_alphabet())
_SHORTEST: Final = 12
# A sentence so long makes `Options.frames` of them, and others in proportion, between these shares.
_FRAME_CHARACTERS: Final = 60
_LEAST_FRAMES: Final = 2 / 3
_MOST_FRAMES: Final = 8 / 3
_START: Final = re.compile(r"[\"“'‘(]?[A-Z0-9]")
_END: Final = re.compile(r"[.!?…][\"”'’)]*$")
_ODD: Final = re.compile(r"https?:|www\.|@|[_*|<>{}\[\]\\~^=]|\.\.\.\.|--+>|\t| i | [,.;:?!]|\b(\w+) \1\b")


class Pair(NamedTuple):
    """A sentence and what it is to become; `category` says where it comes from, `agentless` is a condition or empty."""

    prompt: str
    completion: str
    category: str
    agentless: str = ""

    def record(self) -> dict[str, str]:
        """The pair as a line of JSON Lines."""
        return self._asdict()


@dataclass
class Options:
    """What is made. `frames`: sentences with another agent for each natural one of 60 characters, more for longer ones;
    `rule_copies`: of a natural passive, the later ones with other typing; `unchanged`: share of all that is left alone;
    `noise`: share that is typed otherwise; `pronouns`: share kept of the sentences whose agent is a pronoun; `someone`:
    share of the passives without an agent that are also turned, with the condition; `by`: share of the passives without
    an agent, of one clause, that come once more with "by Friday" or the like, beyond the share `unchanged`; a twentieth
    of it is the share of pairs that get such a phrase; `clauses`: whether clauses of longer sentences are sentences
    too; `parts`: share of the pairs of long sentences (over 120 characters; less of those over 60) that are cut to a
    run of their clauses."""

    seed: int = 0
    frames: int = 3
    rule_copies: int = 4
    unchanged: float = 0.15
    noise: float = 0.5
    pronouns: float = 0.35
    someone: float = 0.5
    by: float = 1.0
    clauses: int = 1
    parts: float = 0.8
    max_characters: int = 310


@dataclass
class Counts:
    """What was made, by category, and what was dropped, by reason."""

    sentences: int = 0
    clauses: int = 0
    made: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """For people: a line a count, the largest first."""
        total = sum(self.made.values())
        made = [f"{count:>9,}  {name}" for name, count in self.made.most_common()]
        dropped = [f"{count:>9,}  {reason}" for reason, count in self.dropped.most_common()]
        read = f"{self.sentences:,} sentences, {self.clauses:,} clauses of them"
        return [f"{read}, {total:,} pairs:", *made, "not made, and why:", *dropped]


def is_clean(tree: Tree, options: Options) -> bool:
    """Whether a sentence is whole, of one line, and typed with some care."""
    text = tree.text
    capitals = sum(char.isupper() for char in text)
    if not _SHORTEST <= len(text) <= options.max_characters or not (_START.match(text) and _END.search(text)):
        return False
    if not _ALPHABET.issuperset(text):
        return False
    if _ODD.search(text) or capitals * 4 > len(text) or text.count('"') % 2 or "\n" in text:
        return False
    if text.count("“") != text.count("”") or text.count("(") != text.count(")"):
        return False
    bad = {"goeswith", "reparandum", "list", "dep"}
    return not any(word.deprel in bad or word.feats.get("Typo") == "Yes" for word in tree.words)


def make_pairs(trees: Iterable[Tree], options: Options, counts: Counts) -> Iterator[Pair]:
    """The pairs of some sentences, in the order they were made: natural ones, then frames, then what is left alone.

    Memory: all sentences that are used. The same for the same trees, options and Python. `counts` fills up on the way.
    """
    rng = random.Random(options.seed)
    phrases = Phrases()
    frames: list[tuple[Tree, Word]] = []
    calm: list[Tree] = []
    agentless: list[Tree] = []
    made = 0
    seen: set[str] = set()
    # Of its own: cutting changes nothing of what else is drawn.
    cutting = random.Random(options.seed)

    def typed(pair: Pair) -> Pair:
        if rng.random() < options.noise:
            prompt, completion = vary(pair.prompt, pair.completion, rng)
            pair = pair._replace(prompt=prompt, completion=completion)
        name = pair.category + (f" ({pair.agentless})" if pair.agentless else "")
        if is_cut(pair.prompt, options.parts, cutting) and (part := cut(pair.prompt, pair.completion, cutting)):
            stays = part[0] == part[1] and pair.prompt != pair.completion
            name += ", a part of it" + (" that stays" if stays else "")
            pair = pair._replace(prompt=part[0], completion=part[1], agentless="" if stays else pair.agentless)
        counts.made[name] += 1
        return pair

    for tree in _with_clauses(trees, options, counts):
        if not is_clean(tree, options):
            counts.dropped["a sentence that is not whole, or oddly typed"] += 1
            continue
        if tree.text in seen:
            counts.dropped["a sentence that was there before"] += 1
            continue
        seen.add(tree.text)
        if passive_with_agent(tree) is not None:
            for pair in _by_rule(tree, options, counts):
                made += 1
                yield typed(pair)
            continue
        if _other_by(tree):
            counts.dropped["left alone: an agent that is not certain"] += 1
        elif _has_passive(tree):
            agentless.append(tree)
        else:
            calm.append(tree)
        phrases.add(tree)
        for verb, natural in _natural(tree, options, counts, rng):
            frames.append((tree, verb))
            if natural is not None:
                made += 1
                yield typed(natural)
    for pair in _frames(frames, phrases, options, counts, rng):
        made += 1
        yield typed(pair)
    for pair in _left_alone(calm, agentless, made, options, counts, rng):
        yield typed(pair)


def _with_clauses(trees: Iterable[Tree], options: Options, counts: Counts) -> Iterator[Tree]:
    for tree in trees:
        counts.sentences += 1
        yield tree
        for clause in short_clauses(tree) if options.clauses else ():
            counts.clauses += 1
            yield clause


def _by_rule(tree: Tree, options: Options, counts: Counts) -> list[Pair]:
    try:
        if not tree.name and _loose_agent(tree):
            raise Unsure("an agent with a phrase that a parser may have put in the wrong place")
        active = to_active(tree).text
    except Unsure as reason:
        counts.dropped[f"natural passive: {reason}"] += 1
        return []
    return [Pair(tree.text, active, "by rule")] * options.rule_copies


def _loose_agent(tree: Tree) -> bool:
    """Whether "by floods in the north" may as well be "by floods, in the north"; a treebank's authors knew."""
    return any(
        case.lower in LOOSE
        for agent in tree.words
        if agent.deprel == "obl:agent"
        for part in tree.children(agent, "nmod")
        for case in tree.children(part, "case")
    )


def _natural(tree: Tree, options: Options, counts: Counts, rng: random.Random) -> Iterator[tuple[Word, Pair | None]]:
    """(verb, pair) of each clause that a rule turns; no pair where a pronoun did it, which makes a frame still."""
    for verb in candidates(tree):
        # Drawn whether they are used or not: one verb more does not change what follows.
        late, formal, pronoun = rng.random() < 0.35, rng.random() < 0.4, rng.random() < options.pronouns
        try:
            passive = _checked(tree, verb, late, formal, options)
        except Unsure as reason:
            counts.dropped[f"natural active: {reason}"] += 1
            continue
        agent = tree.child(read_group(tree, verb).subject_of, "nsubj")
        common = agent is not None and agent.upos == "PRON" and agent.lower not in ("who", "whom", "which")
        if common and not pronoun:
            counts.dropped["natural active: a pronoun as agent (a share is kept, all are frames)"] += 1
            yield verb, None
        else:
            yield verb, _with_by(Pair(passive, tree.text, "natural"), tree, verb, options, rng)


def _checked(tree: Tree, verb: Word, late: bool, formal: bool, options: Options) -> str:
    passive = to_passive(tree, verb, late=late, formal=formal)
    if len(passive.text) > options.max_characters:
        raise Unsure("too long")
    if to_active(passive).text != tree.text:
        raise Unsure("turned back it is another sentence")
    return passive.text


def _frames(
    frames: list[tuple[Tree, Word]], phrases: Phrases, options: Options, counts: Counts, rng: random.Random
) -> Iterator[Pair]:
    if not phrases:
        return
    for tree, verb in frames:
        # Short clauses are five sixths of all, and what is written of long sentences is wrong most often.
        share = min(max(len(tree.text) / _FRAME_CHARACTERS, _LEAST_FRAMES), _MOST_FRAMES)
        for number in range(round(options.frames * share)):
            late, formal = rng.random() < 0.35, rng.random() < 0.4
            try:
                other, place = with_other(tree, verb, phrases, rng, other_object=number % 2 == 1)
                if not is_clean(other, options):
                    raise Unsure("too long, or oddly typed")
                passive = _checked(other, place, late, formal, options)
            except Unsure as reason:
                counts.dropped[f"frame: {reason}"] += 1
                continue
            yield _with_by(Pair(passive, other.text, "frame"), other, place, options, rng)


def _with_by(pair: Pair, tree: Tree, verb: Word, options: Options, rng: random.Random) -> Pair:
    """The pair of a sentence and a verb of it, some of them with a "by" that is no agent's on both sides."""
    if rng.random() >= options.by / 20 or not takes_one(tree, verb) or not pair.prompt.endswith("."):
        return pair
    return _with_phrase(pair, rng)


def _with_phrase(pair: Pair, rng: random.Random) -> Pair:
    prompt, completion = added((pair.prompt, pair.completion), rng)
    return pair._replace(prompt=prompt, completion=completion)


def _left_alone(
    calm: list[Tree], agentless: list[Tree], made: int, options: Options, counts: Counts, rng: random.Random
) -> Iterator[Pair]:
    """A third of them passives without an agent, as far as there are any."""
    wanted = round(made * options.unchanged / (1 - options.unchanged))
    rng.shuffle(calm)
    rng.shuffle(agentless)
    first = agentless[: round(wanted * 0.45)]
    for tree in itertools.chain(first, calm[: wanted - len(first)]):
        yield Pair(tree.text, tree.text, "unchanged")
    for tree in first:
        someone = rng.random() < options.someone
        verb = _passive_verb(tree)
        by = rng.random() < options.by and verb is not None and takes_one(tree, verb)
        if by:
            yield _with_phrase(Pair(tree.text, tree.text, "unchanged"), rng)
        if not someone:
            continue
        try:
            active = to_active(with_someone(tree)).text
        except Unsure as reason:
            counts.dropped[f"with someone: {reason}"] += 1
            continue
        pair = Pair(tree.text, active, "agentless", SOMEONE)
        yield _with_phrase(pair, rng) if by and active.endswith(".") else pair


def _passive_verb(tree: Tree) -> Word | None:
    return next((word.head for word in tree.words if word.deprel == "aux:pass"), None)


def _has_passive(tree: Tree) -> bool:
    return _passive_verb(tree) is not None


def _other_by(tree: Tree) -> bool:
    """Whether a sentence with a passive has a phrase with "by" that may be its agent, whatever the parser says."""
    if not _has_passive(tree) and not any(word.xpos == "VBN" and word.lower != "been" for word in tree.words):
        return False
    return any(
        word.lower == "by" and not (word.head is not None and word.head.lemma.lower() in NO_AGENTS)
        for word in tree.words
    )
