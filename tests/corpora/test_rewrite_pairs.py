"""Passive and active pairs: grammar against tables written by hand, one answer a prompt, and nothing held out seen."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import time
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from jslm.corpora.rewrite import (
    CATEGORIES,
    DIRECTIONS,
    DOMAINS,
    STYLES,
    Pair,
    generate_pairs,
    held_out_forms,
    held_out_nouns,
    held_out_verbs,
    plain_text,
)
from jslm.corpora.rewrite.__main__ import main
from jslm.corpora.rewrite.grammar import (
    CASUAL,
    DECLARATIVE,
    FORMAL,
    NEUTRAL,
    PLURAL,
    SINGULAR,
    SOMEONE,
    TENSE,
    WH_ADVERB,
    WH_AGENT,
    WH_PATIENT,
    WHAT,
    WHO,
    YES_NO,
    I,
    NounPhrase,
    Sentence,
    realize,
)
from jslm.corpora.rewrite.lexicon import Noun, Verb, article, conjugate, lexicon, plural
from jslm.corpora.rewrite.wide import wide_words
from jslm.corpora.rewrite.words import PREPOSITIONS
from jslm.errors import JslmError
from jslm.evaluate.answers import read_items
from jslm.infer.faithful import unfaithful

ROOT = Path(__file__).resolve().parents[2]
CLERK = NounPhrase("the clerk", "the clerk", SINGULAR)
LETTERS = NounPhrase("the letters", "the letters", PLURAL)
ME = NounPhrase("I", "me", I, True)
HIM = NounPhrase("he", "him", SINGULAR, True)
NOTHING = ("", "", "")


@pytest.fixture(scope="module")
def train() -> list[Pair]:
    return list(generate_pairs(30_000, seed=11))


def sentence(
    kind: int = DECLARATIVE,
    agent: NounPhrase = CLERK,
    patient: NounPhrase = LETTERS,
    tense: str = "past",
    verb: str = "write",
    negated: bool = False,
    wh: str = "",
    marked: bool = True,
) -> Sentence:
    return Sentence(kind, agent, conjugate(verb), patient, TENSE[tense], negated, "", wh, NOTHING, NOTHING, marked)


def words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+(?:'[a-z]+)?", text)


def all_verbs(split: str) -> set[Verb]:
    return {verb for d in lexicon(split).domains for verb in (*d.verbs, *d.person_verbs)}


def all_nouns(split: str) -> set[Noun]:
    return {noun for d in lexicon(split).domains for noun in (*d.people, *d.things)}


# Written by hand, not by the grammar.
TENSE_TABLE = {
    "present": ("The clerk writes the letters.", "The letters are written by the clerk."),
    "past": ("The clerk wrote the letters.", "The letters were written by the clerk."),
    "present progressive": ("The clerk is writing the letters.", "The letters are being written by the clerk."),
    "past progressive": ("The clerk was writing the letters.", "The letters were being written by the clerk."),
    "present perfect": ("The clerk has written the letters.", "The letters have been written by the clerk."),
    "past perfect": ("The clerk had written the letters.", "The letters had been written by the clerk."),
    "future perfect": ("The clerk will have written the letters.", "The letters will have been written by the clerk."),
    "future": ("The clerk will write the letters.", "The letters will be written by the clerk."),
    "going to": ("The clerk is going to write the letters.", "The letters are going to be written by the clerk."),
    "can": ("The clerk can write the letters.", "The letters can be written by the clerk."),
    "may": ("The clerk may write the letters.", "The letters may be written by the clerk."),
    "must": ("The clerk must write the letters.", "The letters must be written by the clerk."),
    "should": ("The clerk should write the letters.", "The letters should be written by the clerk."),
    "might": ("The clerk might write the letters.", "The letters might be written by the clerk."),
    "could": ("The clerk could write the letters.", "The letters could be written by the clerk."),
    "would": ("The clerk would write the letters.", "The letters would be written by the clerk."),
    "should have": ("The clerk should have written the letters.", "The letters should have been written by the clerk."),
    "could have": ("The clerk could have written the letters.", "The letters could have been written by the clerk."),
    "might have": ("The clerk might have written the letters.", "The letters might have been written by the clerk."),
    "would have": ("The clerk would have written the letters.", "The letters would have been written by the clerk."),
    "must have": ("The clerk must have written the letters.", "The letters must have been written by the clerk."),
    "have to": ("The clerk has to write the letters.", "The letters have to be written by the clerk."),
    "had to": ("The clerk had to write the letters.", "The letters had to be written by the clerk."),
    "ought to": ("The clerk ought to write the letters.", "The letters ought to be written by the clerk."),
}


def test_every_tense_and_modal() -> None:
    assert TENSE_TABLE.keys() == TENSE.keys()
    for tense, (active, passive) in TENSE_TABLE.items():
        assert realize(sentence(tense=tense), False, NEUTRAL) == active
        assert realize(sentence(tense=tense), True, NEUTRAL) == passive


@pytest.mark.parametrize(
    ("said", "style", "active", "passive"),
    [
        (
            sentence(negated=True),
            NEUTRAL,
            "The clerk did not write the letters.",
            "The letters were not written by the clerk.",
        ),
        (
            sentence(negated=True),
            CASUAL,
            "The clerk didn't write the letters.",
            "The letters weren't written by the clerk.",
        ),
        (
            sentence(negated=True, tense="can"),
            FORMAL,
            "The clerk cannot write the letters.",
            "The letters cannot be written by the clerk.",
        ),
        (
            sentence(negated=True, tense="future"),
            CASUAL,
            "The clerk won't write the letters.",
            "The letters won't be written by the clerk.",
        ),
        (
            sentence(negated=True, tense="have to"),
            NEUTRAL,
            "The clerk does not have to write the letters.",
            "The letters do not have to be written by the clerk.",
        ),
        (sentence(agent=SOMEONE), NEUTRAL, "Someone wrote the letters.", "The letters were written."),
        (sentence(agent=SOMEONE, negated=True), NEUTRAL, "No one wrote the letters.", "The letters were not written."),
        (
            sentence(YES_NO, tense="present"),
            NEUTRAL,
            "Does the clerk write the letters?",
            "Are the letters written by the clerk?",
        ),
        (
            sentence(YES_NO, negated=True),
            FORMAL,
            "Did the clerk not write the letters?",
            "Were the letters not written by the clerk?",
        ),
        (
            sentence(YES_NO, negated=True),
            CASUAL,
            "Didn't the clerk write the letters?",
            "Weren't the letters written by the clerk?",
        ),
        (sentence(WH_AGENT, agent=WHO), NEUTRAL, "Who wrote the letters?", "Who were the letters written by?"),
        (sentence(WH_AGENT, agent=WHO), FORMAL, "Who wrote the letters?", "By whom were the letters written?"),
        (sentence(WH_PATIENT, patient=WHAT), NEUTRAL, "What did the clerk write?", "What was written by the clerk?"),
        (
            sentence(WH_PATIENT, patient=WHO, verb="hire", tense="present perfect"),
            FORMAL,
            "Whom has the clerk hired?",
            "Who has been hired by the clerk?",
        ),
        (
            sentence(WH_PATIENT, patient=WHO, verb="hire"),
            NEUTRAL,
            "Who did the clerk hire?",
            "Who was hired by the clerk?",
        ),
        (
            sentence(WH_ADVERB, wh="why"),
            NEUTRAL,
            "Why did the clerk write the letters?",
            "Why were the letters written by the clerk?",
        ),
        (sentence(agent=ME, patient=HIM, verb="see"), NEUTRAL, "I saw him.", "He was seen by me."),
        (
            sentence(agent=HIM, patient=ME, verb="see", tense="present"),
            CASUAL,
            "He sees me.",
            "I'm seen by him.",
        ),
        (
            sentence(agent=HIM, patient=ME, verb="see", tense="present perfect"),
            CASUAL,
            "He's seen me.",
            "I've been seen by him.",
        ),
        (
            sentence(agent=ME, patient=HIM, verb="hire", tense="present progressive", negated=True),
            CASUAL,
            "I'm not hiring him.",
            "He isn't being hired by me.",
        ),
        (
            sentence(YES_NO, agent=HIM, patient=ME, verb="see", tense="present", negated=True),
            CASUAL,
            "Doesn't he see me?",
            "Aren't I seen by him?",
        ),
        (
            sentence(agent=ME, patient=HIM, verb="see", tense="present perfect", marked=False),
            CASUAL,
            "I have seen him.",
            "He has been seen by me.",
        ),
    ],
)
def test_constructions(said: Sentence, style: int, active: str, passive: str) -> None:
    assert realize(said, False, style) == active
    assert realize(said, True, style) == passive


# base past participle gerund third
VERB_TABLE = """
write wrote written writing writes; see saw seen seeing sees; take took taken taking takes; eat ate eaten eating eats
bite bit bitten biting bites; sing sang sung singing sings; drink drank drunk drinking drinks; cut cut cut cutting cuts
buy bought bought buying buys; teach taught taught teaching teaches; fly flew flown flying flies; do did done doing does
lead led led leading leads; hold held held holding holds; break broke broken breaking breaks; win won won winning wins
choose chose chosen choosing chooses; freeze froze frozen freezing freezes; hide hid hidden hiding hides
steal stole stolen stealing steals; tear tore torn tearing tears; throw threw thrown throwing throws
forget forgot forgotten forgetting forgets; beat beat beaten beating beats; drive drove driven driving drives
seek sought sought seeking seeks; sweep swept swept sweeping sweeps; read read read reading reads
rewrite rewrote rewritten rewriting rewrites; redo redid redone redoing redoes
mislead misled misled misleading misleads
carry carried carried carrying carries; annoy annoyed annoyed annoying annoys; catch caught caught catching catches
visit visited visited visiting visits; fix fixed fixed fixing fixes; pass passed passed passing passes
like liked liked liking likes; bury buried buried burying buries; pay paid paid paying pays; tow towed towed towing tows
"""
DOUBLING = "stop stopped drop dropped drag dragged chop chopped hug hugged submit submitted shred shredded stir stirred"


def test_verb_forms() -> None:
    for row in filter(None, re.split(r"[;\n]", VERB_TABLE)):
        base, past, participle, gerund, third = row.split()
        assert conjugate(base) == (base, third, past, participle, gerund)
    used = {verb.base: verb for split in ("train", "verb") for verb in all_verbs(split)}
    doubling = DOUBLING.split()
    for base, past in zip(doubling[::2], doubling[1::2], strict=True):
        assert used[base].past == past
    assert len(used) >= 150
    assert len(held_out_verbs()) >= 40
    assert all(verb.gerund.endswith("ing") for verb in used.values())


def test_nouns_and_articles() -> None:
    nouns = "child children,woman women,mouse mice,goose geese,tooth teeth,knife knives,leaf leaves,box boxes,\
secretary secretaries,key keys,boss bosses,match matches,brush brushes,hypothesis hypotheses,potato potatoes,\
video videos,toy toys,dish dishes"
    for pair in nouns.split(","):
        singular, expected = pair.split()
        assert plural(singular) == expected
    for word in words("honest hour old umbrella uncle ugly unusual apple unimportant eager inventor"):
        assert article(word) == "an", word
    for word in words("unicorn useful uniform university horse big one"):
        assert article(word) == "a", word


def test_articles_in_text(train: list[Pair]) -> None:
    text = " ".join(pair.source.lower() for pair in train)
    before_a = Counter(re.findall(r"\ba (\w+)", text))
    before_an = Counter(re.findall(r"\ban (\w+)", text))
    assert len(before_a) > 100
    assert len(before_an) > 20
    assert {word for word in before_a if word[0] in "aeiou"} == {"unicorn", "useful"}
    assert {word for word in before_an if word[0] not in "aeiou"} == {"honest"}
    assert not {"unicorn", "useful"} & set(before_an)


def test_agreement_and_case(train: list[Pair]) -> None:
    allowed = {
        "i": {"am", "was", "have", "do"},
        "he": {"is", "was", "has", "does"},
        "she": {"is", "was", "has", "does"},
        "it": {"is", "was", "has", "does"},
        "we": {"are", "were", "have", "do"},
        "you": {"are", "were", "have", "do"},
        "they": {"are", "were", "have", "do"},
    }
    finite = set().union(*allowed.values())
    always_subject = allowed.keys() - {"it", "you"}
    seen: Counter[str] = Counter()
    for pair in train:
        for text in (pair.source, pair.target):
            low = words(text.lower())
            for place, (first, second) in enumerate(itertools.pairwise(low)):
                # In questions the finite verb stands elsewhere; "it" and "you" are subjects for sure at the start only.
                if text.endswith(".") and second in finite and first in (allowed if place == 0 else always_subject):
                    assert second in allowed[first], text
                    seen[first] += 1
                if first == "by":
                    assert second not in {"i", "he", "she", "we", "they", "who"}, text
                if second == "whom":
                    assert pair.style == "formal", text
            assert low[0] not in {"me", "him", "us", "them"}, text
            assert low[-1] not in {"i", "he", "she", "we", "they", "who"}, text
    assert min(seen[word] for word in allowed) > 50, seen


SINGULAR_DETERMINERS = {"a", "an", "this", "every", "each", "another"}
PLURAL_DETERMINERS = {"these", "those", "many", "several", "two", "three", "few", "both", "all"}


def test_number(train: list[Pair]) -> None:
    """A determiner that has a number, its noun, and the passive's verb agree."""
    nouns = all_nouns("train")
    singulars, plurals = {n.singular for n in nouns}, {n.plural for n in nouns}
    simple = re.compile(r"^(\w+) (?:\w+ )??(\w+) (is|are|was|were) \w+ by [^.?]*\.$")
    seen: Counter[str] = Counter()
    for pair in train:
        match = simple.match(pair.source.lower())
        if match is None:
            continue
        determiner, noun, verb = match.groups()
        if determiner in SINGULAR_DETERMINERS and noun in singulars | plurals:
            assert noun in singulars, pair.source
            assert verb in ("is", "was"), pair.source
        elif determiner in PLURAL_DETERMINERS and noun in singulars | plurals:
            assert noun in plurals, pair.source
            assert verb in ("are", "were"), pair.source
        else:
            continue
        seen[verb] += 1
    assert min(seen[verb] for verb in ("is", "are", "was", "were")) > 20, seen


def test_been_and_being_take_participles(train: list[Pair]) -> None:
    participles = {verb.participle for verb in all_verbs("train")}
    seen = set()
    for pair in train:
        for text in (pair.source, pair.target):
            low = [word for word in words(text.lower()) if not word.endswith("ly")]
            seen |= {second for first, second in itertools.pairwise(low) if first in ("been", "being")}
    assert seen <= participles
    assert {"written", "seen", "eaten", "broken", "cut", "taught", "frozen"} <= seen
    assert not {"wrote", "saw", "ate", "broke", "teached", "froze", "took"} & seen


def test_form_of_text(train: list[Pair]) -> None:
    for pair in train:
        for text in (pair.source, pair.target):
            assert re.fullmatch(r"[A-Z][A-Za-z',: ]*[a-z][.?]", text), text
            assert not re.search(r"  | [.,?:']|\bi\b", text), text


@pytest.mark.parametrize("tokenized", [False, True])
def test_a_prompt_has_one_answer_and_two_turns_lead_back(tokenized: bool) -> None:
    active = list(generate_pairs(30_000, seed=2, direction="to_active", tokenized=tokenized))
    passive = list(generate_pairs(30_000, seed=2, direction="to_passive", tokenized=tokenized))
    assert [(p.source, p.target) for p in active] == [(p.target, p.source) for p in passive]
    answer: dict[str, str] = {}
    for pair in [*active, *passive]:
        assert answer.setdefault(pair.source, pair.target) == pair.target
        assert pair.source != pair.target
    assert all(answer[answer[source]] == source for source in answer)
    assert len(answer) > 59_000


CASUAL_OPENERS = ("So,", "Hey,", "Okay,", "Oh,", "Wait,", "Well,", "Anyway,", "Yeah,", "Honestly,", "Guess what:")
FORMAL_OPENERS = ("In that case,", "Under these circumstances,", "For the sake of clarity,", "With due respect,")


def test_what_the_prompt_hides_is_not_drawn() -> None:
    """The rare collisions that the test above may miss: tense of "they cut", contractions, "whom"."""
    same = re.compile(
        r"^(?:[A-Z][a-z ]+[,:] )?(?:I|you|we|they|You|We|They) (cut|hit|set|read|hurt|shut|split|spread) "
    )
    counts: Counter[str] = Counter()
    for pair in generate_pairs(100_000, seed=5):
        active, passive = (pair.target, pair.source) if pair.direction == "to_active" else (pair.source, pair.target)
        if same.match(active):
            assert re.search(r"\b(was|were)\b", passive), pair
            counts["past"] += 1
        if "'" in pair.target and "'" not in pair.source:
            assert pair.source.startswith(CASUAL_OPENERS), pair
            counts["contracted"] += 1
        if re.search(r"\bby (whom|which)\b", pair.target):
            assert pair.source.startswith(FORMAL_OPENERS), pair
            counts["whom"] += 1
    assert counts["past"] > 15, counts
    assert min(counts["contracted"], counts["whom"]) > 200, counts


def test_restyled_prompts_have_one_answer_a_label() -> None:
    answer: dict[tuple[str, str], str] = {}
    for pair in generate_pairs(40_000, seed=4, restyle=True, direction="to_active"):
        assert answer.setdefault((pair.source, pair.style), pair.target) == pair.target
    crossed = [s for s in generate_pairs(5_000, seed=4, restyle=True) if "n't" in s.source and s.style == "formal"]
    assert len(crossed) > 20
    assert not [pair for pair in crossed if "'" in pair.target]


def test_styles_differ(train: list[Pair]) -> None:
    by_style = {style: [p for p in train if p.style == style] for style in STYLES}
    assert min(map(len, by_style.values())) > 9_000
    for style in ("formal", "neutral"):
        assert not [p for p in by_style[style] if "'" in p.source + p.target]
    assert sum("'" in p.source + p.target for p in by_style["casual"]) > 1_000
    shouldnt = [p for p in by_style["casual"] if re.search(r"\b(is|are|do|does|did|will|has) not\b", p.source)]
    assert shouldnt == []
    assert sum("whom" in (p.source + p.target).lower() for p in by_style["formal"]) > 200
    openers = {style: {p.source.split(",")[0] for p in by_style[style] if "," in p.source} for style in STYLES}
    assert not openers["formal"] & openers["casual"]


SHOWS = {
    "progressive": r"ing\b",
    "perfect": r"\b(has|have|had|'s|'ve)\b",
    "future": r"will|'ll|going to",
    "modal": r"can|could|may|might|must|should|would|have to|has to|had to|ought",
    "negation": r"\bnot\b|n't|cannot",
    "yes_no": r"\?$",
    "wh_agent": r"\b(who|whom|which)\b.*\?$",
    "wh_patient": r"\b(who|whom|which|what)\b.*\?$",
    "wh_adverb": r"\b(when|where|why|how)\b.*\?$",
    "agentless": r"someone|no one",
    "pronoun": r"\b(i|me|you|he|him|she|her|it|we|us|they|them)\b",
    "preposition": "|".join(rf"\b{p}\b" for p in PREPOSITIONS),
    "relative": r"\b(that|who|whom|which)\b",
    "coordination": r"\band\b",
    "simple": r"\.$",
}


def test_categories_show_what_they_say(train: list[Pair]) -> None:
    assert SHOWS.keys() == set(CATEGORIES)
    counts = Counter(pair.category for pair in train)
    assert min(counts[category] for category in CATEGORIES) > 1_500
    assert {pair.domain for pair in train} == set(DOMAINS)
    assert {pair.direction for pair in train} == set(DIRECTIONS)
    for pair in train:
        active = pair.target if pair.direction == "to_active" else pair.source
        assert re.search(SHOWS[pair.category], active.lower()), pair
        assert (" by " in active) <= (" by " in pair.source and " by " in pair.target), pair


# Auxiliaries of questions and negations, and "on the following day".
SMALL_WORDS = {"do", "does", "did", "following"}


def _held_out_forms() -> tuple[set[str], set[str]]:
    verbs = {form for verb in all_verbs("verb") for form in verb}
    nouns = {form for noun in all_nouns("noun") for form in noun}
    return verbs, nouns


def test_nothing_held_out_is_seen_in_training(train: list[Pair]) -> None:
    verbs, nouns = _held_out_forms()
    assert held_out_verbs() <= verbs
    assert held_out_nouns() <= nouns
    vocabulary = {word for pair in train for word in words((pair.source + " " + pair.target).lower())}
    assert len(vocabulary) > 900
    assert not vocabulary & (verbs | nouns)


def test_held_out_irregular_verbs_can_be_derived() -> None:
    """Each is a prefix and an irregular verb of training, with the same prefix in all forms."""
    known = {verb for verb in all_verbs("train") if not verb.past.endswith("ed")}
    irregular = [verb for verb in all_verbs("verb") if not verb.past.endswith("ed")]
    assert len(irregular) >= 10
    for verb in irregular:
        stems = [stem for stem in known if verb.base.endswith(stem.base)]
        assert any(all(f.endswith(s) for f, s in zip(verb, stem, strict=True)) for stem in stems), verb


def test_held_out_splits_use_held_out_words_only() -> None:
    verbs, nouns = _held_out_forms()
    known_verbs = {form for verb in all_verbs("train") for form in verb}
    known_nouns = {form for noun in all_nouns("train") for form in noun}
    # A word that is both ("painting", "cook") says nothing about where it came from.
    for pair in generate_pairs(4_000, seed=1, split="verb"):
        found = set(words(pair.source.lower()))
        assert found & verbs, pair
        assert not found & nouns, pair
        assert not found & (known_verbs - known_nouns - SMALL_WORDS), pair
    with_noun = 0
    for pair in generate_pairs(4_000, seed=1, split="noun"):
        found = set(words(pair.source.lower()))
        assert not found & verbs, pair
        assert not found & (known_nouns - known_verbs), pair
        with_noun += bool(found & nouns)
    # The others have pronouns and question words only.
    assert with_noun > 3_600
    assert {pair.domain for pair in generate_pairs(2_000, split="noun")} == set(DOMAINS)


@pytest.fixture(scope="module")
def wide() -> list[Pair]:
    return list(generate_pairs(20_000, seed=12, split="wide", direction="to_active"))


def test_nothing_held_out_is_in_what_else_is_trained_on(wide: list[Pair]) -> None:
    assert {"rewrote", "scrubbed", "misunderstood", "eagles"} <= held_out_forms()
    vocabulary = {word for pair in wide for word in words((pair.source + " " + pair.target).lower())}
    assert len(vocabulary) > 15_000
    assert not vocabulary & held_out_forms()
    documents = list(plain_text(0.5))
    text = " ".join(documents)
    assert set(map(chr, range(32, 127))) | set("\n\t") <= set(documents[0])
    assert 0.45e6 < len(text) < 0.55e6
    vocabulary = set(re.findall("[a-z]+", text.lower()))
    verbs = {form for verb in all_verbs("verb") for form in verb}
    assert not vocabulary & (held_out_forms() - verbs)
    # Held-out verbs are there in active sentences, and nowhere as a passive.
    assert len(vocabulary & verbs) > 0.8 * len(verbs)
    participles = "|".join(verb.participle for verb in all_verbs("verb"))
    passive = re.compile(rf"\b(am|is|are|was|were|be|been|being) (not |\w+ly )?({participles})\b")
    assert not passive.findall(text.lower())
    assert passive.search(" ".join(pair.source for pair in generate_pairs(50, split="verb", direction="to_active")))


def test_unpaired_sentences_have_no_prompt(tmp_path: Path) -> None:
    for options in ([], ["--unpaired"]):
        out = tmp_path / f"{len(options)}.jsonl"
        assert main(["--count", "50", "--split", "verb", "--direction", "to_active", *options, "--out", str(out)]) == 0
    pairs, alone = ([json.loads(line) for line in (tmp_path / f"{n}.jsonl").read_text().splitlines()] for n in (0, 1))
    assert alone == [pair | {"prompt": ""} for pair in pairs]
    assert all(pair["prompt"] for pair in pairs)


def test_wide_pairs_have_one_answer(wide: list[Pair]) -> None:
    answer: dict[str, str] = {}
    for pair in wide:
        assert answer.setdefault(pair.source, pair.target) == pair.target
    assert len(answer) > 19_900
    known = wide_words()
    bases: dict[str, set[str]] = {}
    for verb in (*known.verbs, *known.invented_verbs, *known.compounds, *known.particle_verbs, *known.commands):
        bases.setdefault(verb.participle, set()).add(verb.base)
    assert [found for found in bases.values() if len(found) > 1] == []
    assert len(bases) > 3_000


def test_wide_pairs_are_sentences_of_the_other_voice(wide: list[Pair]) -> None:
    unchanged = [pair for pair in wide if pair.category == "unchanged"]
    assert 0.08 < len(unchanged) / len(wide) < 0.12
    assert all(pair.source == pair.target for pair in unchanged)
    shown: Counter[str] = Counter()
    for pair in wide:
        for text in (pair.source, pair.target):
            assert re.fullmatch(r"[A-Z0-9][A-Za-z0-9',:. -]*[.?]", text), text
            assert not re.search(r"  | [.,?:']|\bi\b", text), text
        # Nothing but the voice changes: what is not verb, auxiliary, pronoun, "by" or an agent that is unknown stays.
        long = {word for word in words(pair.source.lower()) if word[0].isdigit() or word in ADJUNCTS}
        assert long <= set(words(pair.target.lower())), pair
        shown.update(long)
    assert min(shown[word] for word in ADJUNCTS) > 10, shown


ADJUNCTS = {"midnight", "yesterday", "upstairs", "monday", "often", "everyone", "during", "london", "thousands"}

# Verb and what goes with it, in both voices, with a noun and with a pronoun.
WITH_EXTRAS = {
    ("rip+", " off", "", ""): ("The letters were ripped off by me.", "I ripped off the letters."),
    ("paint", "", " yellow", ""): ("The letters were painted yellow by me.", "I painted the letters yellow."),
    ("see", "", "", "often "): ("The letters were often seen by me.", "I often saw the letters."),
    ("carry", " up", " to us", "never "): (
        "The letters were never carried up to us by me.",
        "I never carried up the letters to us.",
    ),
}


@pytest.mark.parametrize("extras", WITH_EXTRAS)
def test_particles_complements_and_adverbs(extras: tuple[str, str, str, str]) -> None:
    base, *rest = extras
    sentence = Sentence(
        DECLARATIVE, ME, conjugate(base), LETTERS, TENSE["past"], False, "", "", NOTHING, NOTHING, True, *rest
    )
    assert (realize(sentence, True, NEUTRAL), realize(sentence, False, NEUTRAL)) == WITH_EXTRAS[extras]
    question = sentence._replace(kind=YES_NO, tense=TENSE["present perfect"], patient=HIM)
    particle, after, adverb = rest
    participle = conjugate(base).participle
    assert realize(question, True, NEUTRAL) == f"Has he {adverb}been {participle}{particle}{after} by me?"
    assert realize(question, False, NEUTRAL) == f"Have I {adverb}{participle} him{particle}{after}?"
    asked = sentence._replace(kind=WH_AGENT, agent=WHO)
    assert realize(asked, True, NEUTRAL) == f"Who were the letters {adverb}{participle}{particle}{after} by?"
    short = sentence._replace(tense=TENSE["future"])
    assert realize(short, False, CASUAL).startswith(f"I'll {adverb}{base.rstrip('+')}")


def test_natural_sentences_are_well_formed(wide: list[Pair]) -> None:
    """They are for measuring alone, so most have a word that no generated pair has."""
    items = read_items(ROOT / "data" / "rewrite" / "natural.tsv")
    assert len(items) == len({item.sentence for item in items}) == 300
    assert sum(item.alone for item in items) == 100
    registers = Counter(item.register for item in items)
    assert len(registers) >= 10
    assert min(registers.values()) >= 20
    known = {word for pair in wide for word in words((pair.source + " " + pair.target).lower())}
    assert sum(not set(words(item.sentence.lower())) <= known for item in items) >= UNSEEN_WORDS
    for item in items:
        assert len(set(item.answers)) == len(item.answers)
        for text in (item.sentence, *item.answers):
            assert text == unicodedata.normalize("NFC", text).strip()
            assert "  " not in text
        if not item.alone:
            assert re.search(
                r"\b(am|is|are|was|were|be|been|being|got)(n[’']t)?\b|[’'](re|m|s|ve)\b", item.sentence.lower()
            )
            # Each answer passes the check of faithfulness, which is not allowed to keep a right one.
            assert [unfaithful(item.sentence, answer) for answer in item.answers] == [""] * len(item.answers)


UNSEEN_WORDS = 200


def test_same_pairs_on_every_python() -> None:
    """If the generator was changed on purpose, put the new pairs and the new digest here."""
    pairs = list(generate_pairs(2_000, seed=7))
    for number, (source, target) in GOLDEN.items():
        assert (pairs[number].source, pairs[number].target) == (source, target)
    digest = hashlib.sha256("\n".join("\t".join(pair) for pair in pairs).encode()).hexdigest()
    assert digest[:16] == GOLDEN_DIGEST
    assert pairs == list(itertools.islice(generate_pairs(seed=7), 2_000))
    assert pairs != list(generate_pairs(2_000, seed=8))


GOLDEN: dict[int, tuple[str, str]] = {
    2: ("The woman cut our door.", "Our door was cut by the woman."),
    7: ("Every nephew wasn't heard by his innkeeper.", "His innkeeper didn't hear every nephew."),
    22: ("His pictures were hung.", "Someone hung his pictures."),
    41: ("Why are they shaken by her rabbits?", "Why do her rabbits shake them?"),
    60: (
        "Moreover, each chef must be accepted by your chef who fought the waiter.",
        "Moreover, your chef who fought the waiter must accept each chef.",
    ),
    83: ("Another map will be studied by a pupil soon.", "A pupil will study another map soon."),
    101: ("All travelers would have amused each pilot.", "Each pilot would have been amused by all travelers."),
    140: ("Someone found both large telescopes a while ago.", "Both large telescopes were found a while ago."),
    199: ("It was kept by him.", "He kept it."),
}
GOLDEN_DIGEST = "0bb8874b9bbb3d8a"


def test_speed() -> None:
    """The bound is the promise; here it is several times faster."""
    best = 0.0
    for _ in range(3):
        start = time.process_time()
        for _pair in generate_pairs(10_000):
            pass
        best = max(best, 10_000 / (time.process_time() - start))
    assert best >= 20_000


def test_public_passives_are_within_reach(assets: Path) -> None:
    """Every passive of the public file has the shape and the small words of `tokenized` pairs."""
    seen = {word for p in generate_pairs(5_000, tokenized=True) for word in p.source.split()}
    lines = (assets / "rewrite" / "passiv_en_nps.dev").read_text("utf-8").splitlines()
    targets = [line.split("\t")[1] for line in lines if line.split("\t")[0].endswith("passiv")]
    assert len(targets) > 300
    phrase = r"(\w+) \w+(?: (\w+) (\w+) \w+)?"
    for target in targets:
        match = re.fullmatch(rf"{phrase} (was|were) \w+ (by) {phrase} \.", target)
        assert match, target
        assert {word for word in match.groups() if word} <= seen, target


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.tsv"])
def test_command_line_writes_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert main(["--count", "50", "--seed", "3", "--split", "noun", "--out", str(path)]) == 0
    expected = list(generate_pairs(50, 3, split="noun"))
    lines = path.read_text("utf-8").splitlines()
    if name.endswith(".tsv"):
        assert lines == [f"{pair.source}\t{pair.target}" for pair in expected]
    else:
        assert [json.loads(line) for line in lines] == [pair.record() for pair in expected]
        assert list(json.loads(lines[0])) == ["prompt", "completion", "category", "style", "domain"]


def test_command_line_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "2", "--direction", "to_active"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_recipe_gives_the_files_it_promises(tmp_path: Path) -> None:
    """After a change of the generator on purpose: put the new counts into data/rewrite/README.md, and SHA256SUMS."""
    folder = ROOT / "data" / "rewrite"
    readme = (folder / "README.md").read_text("utf-8")
    digests = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text("utf-8").splitlines())
    names = ("text", "train", "wide", "tokenized", "plain", "val", "verb", "noun")
    assert list(digests) == [f"{name}.jsonl" for name in names]
    for name, digest in digests.items():
        (command,) = re.findall(rf"^jslm corpora rewrite (.*) --out data/rewrite/{name}$", readme, re.MULTILINE)
        assert main([*command.split(), "--out", str(tmp_path / name)]) == 0
        data = (tmp_path / name).read_bytes()
        lines = data.count(b"\n")
        assert f"| {name} | {lines:,} | {len(data):,} |" in readme
        assert hashlib.sha256(data).hexdigest() == digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "-1"], "count = -1; expected 0 or more"),
        (["--seed", "-1"], "seed = -1; expected 0 or more"),
        (["--out", "pairs.csv"], "pairs.csv: expected a name that ends in .jsonl or .tsv"),
        (["--out", f"{__file__}/pairs.tsv"], "pairs.tsv: cannot be written"),
    ],
)
def test_bad_arguments_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_bad_choices() -> None:
    with pytest.raises(JslmError, match="split = 'test'; expected one of train, verb, noun"):
        generate_pairs(1, split="test")
    with pytest.raises(JslmError, match="direction = 'back'; expected one of to_active, to_passive"):
        generate_pairs(1, direction="back")
