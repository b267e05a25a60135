"""Passive and active by rule: sentences of `data/voices.conllu` with the answer, and a treebank's where it is given."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
from pathlib import Path

import pytest

from jslm.corpora.rewrite.__main__ import main
from jslm.corpora.rewrite.parsed.adjuncts import added, no_agent, takes_one
from jslm.corpora.rewrite.parsed.noise import vary
from jslm.corpora.rewrite.parsed.pairs import Counts, Options, Pair, make_pairs
from jslm.corpora.rewrite.parsed.phrases import Phrases, with_other
from jslm.corpora.rewrite.parsed.spacy_trees import convert, read_texts
from jslm.corpora.rewrite.parsed.to_active import passive_with_agent, to_active, with_someone
from jslm.corpora.rewrite.parsed.to_passive import candidates, to_passive
from jslm.corpora.rewrite.parsed.trees import Tree, Unsure, Word, read_conllu
from jslm.errors import JslmError

pytest.importorskip("lemminflect")

VOICES = Path(__file__).parent / "data" / "voices.conllu"
# Turned back they say the same in other words: "the secret was known by nobody".
OTHER_WORDS = {
    "The secret wasn't known by anybody.",
    "By whom was the song written?",
    "He fell and was helped by a stranger.",
    "You'll be met by a driver.",
    "He's been bitten by a dog.",
    "He was asked to leave by the manager.",
    "They were made to wait by the nurse.",
    "The poem was read aloud by its author.",
}
# Their active has no passive that is certain.
ONE_WAY = {
    "The cup was won not by the favourites but by a small club.",
    "The book, which was written by a nun, sold well.",
    "She hates being watched by strangers.",
    "He wants to be seen by a specialist.",
    "It is important for children to be loved by their parents.",
}


@pytest.fixture(scope="module")
def voices() -> dict[str, tuple[Tree, str]]:
    answers = [line.removeprefix("# active = ") for line in VOICES.read_text("utf-8").split("\n") if "# active" in line]
    return {tree.text: (tree, answer) for tree, answer in zip(read_conllu(VOICES), answers, strict=True)}


@pytest.fixture(scope="module")
def treebank(assets: Path) -> list[Tree]:
    path = assets / "treebank" / "en_ewt_dev.conllu.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return list(itertools.islice(read_conllu(path), 1200))


def test_passives_become_active(voices: dict[str, tuple[Tree, str]]) -> None:
    found = {}
    for text, (tree, _) in voices.items():
        try:
            found[text] = to_active(tree).text
        except Unsure as reason:
            found[text] = f"! {reason}"
        assert tree.text == text, "the given tree stays as it is"
    assert found == {text: answer for text, (_, answer) in voices.items()}


def test_passive_of_active_of_passive_comes_back(voices: dict[str, tuple[Tree, str]]) -> None:
    missing = set()
    for text, (tree, answer) in voices.items():
        if answer.startswith("! ") or text in OTHER_WORDS:
            continue
        active = to_active(tree)
        back = set()
        for verb in candidates(active):
            try:
                back.add(to_passive(active, verb).text)
            except Unsure:
                continue
        if text not in back:
            missing.add(text)
    assert missing == ONE_WAY


def test_active_of_passive_of_active_comes_back_in_a_treebank(treebank: list[Tree]) -> None:
    turned = same = 0
    for tree in treebank:
        for verb in candidates(tree):
            try:
                passive = to_passive(tree, verb)
                back = to_active(passive)
            except Unsure:
                continue
            turned += 1
            same += back.text == tree.text
    assert turned > 120
    assert same > 0.85 * turned


def test_each_form_is_one_of_its_lemma(voices: dict[str, tuple[Tree, str]]) -> None:
    tree, _ = voices["The letter was written by the clerk."]
    broken = tree.copy()
    next(word for word in broken.words if word.form == "written").lemma = "wring"
    with pytest.raises(Unsure, match="lemma"):
        to_active(broken)


def test_passives_without_an_agent_get_someone(voices: dict[str, tuple[Tree, str]]) -> None:
    tree, _ = voices["The play was written in 1601."]
    assert passive_with_agent(tree) is None
    assert to_active(with_someone(tree)).text == "Someone wrote the play in 1601."


def test_other_agents_agree(voices: dict[str, tuple[Tree, str]]) -> None:
    active = to_active(voices["The letters are written by a clerk."][0])
    phrases = Phrases()
    plural = Word("twins", "twin", "NOUN", "NNS", {"Number": "Plur"})
    phrases.agents = {1: [[plural]]}
    seen = set()
    for seed in range(30):
        other, verb = with_other(active, candidates(active)[0], phrases, random.Random(seed), other_object=False)
        seen.add(other.text)
        assert to_active(to_passive(other, verb)).text == other.text
    assert "Twins write the letters." in seen
    assert "He writes the letters." in seen


def _noun(form: str, *, plural: bool = False) -> list[Word]:
    number, tag = ("Plur", "NNS") if plural else ("Sing", "NN")
    head = Word(form, form.removesuffix("s"), "NOUN", tag, {"Number": number})
    return [Word("the", "the", "DET", "DT", {}, "det", head), head]


def test_agents_are_as_long_as_people_write_them(voices: dict[str, tuple[Tree, str]]) -> None:
    phrases = Phrases()
    for tree, _ in voices.values():
        phrases.add(tree)
    texts = {" ".join(word.form for word in phrase) for kept in phrases.agents.values() for phrase in kept}
    # "Which songs" asks, and a phrase with "by" has an agent of its own.
    assert {"the letter", "children", "a medal"} <= texts
    assert not {text for text in texts if "by" in text.split() or "which" in text.split()}
    rng = random.Random(0)
    # As many as there may be of two words and of five, whatever the share of each in a text.
    phrases.agents = {2: [_noun("cook")] * 3, 5: [[*_noun("x"), *_noun("y"), *_noun("z")[1:]]] * 300}
    for phrase in phrases.agents[5]:
        phrase[3].head = phrase[4].head = phrase[1]
    drawn = [len(phrases._draw(True, rng, 12)) for _ in range(400)]
    assert 0.15 < drawn.count(5) / 400 < 0.35


def test_listed_agents_have_their_verb_in_the_plural(voices: dict[str, tuple[Tree, str]]) -> None:
    active = to_active(voices["The letters are written by a clerk."][0])
    phrases = Phrases()
    phrases.agents = {2: [_noun("cook"), _noun("priest"), _noun("twins", plural=True)]}
    seen = set()
    for seed in range(300):
        # "It" may be nobody; "the cook or the twins" has no number.
        with contextlib.suppress(Unsure):
            other, verb = with_other(active, candidates(active)[0], phrases, random.Random(seed), other_object=False)
            assert to_active(to_passive(other, verb)).text == other.text
            seen.add(other.text)
    listed = [text for text in seen if " and " in text]
    assert any(re.fullmatch(r"The \w+ and the \w+ write the letters\.", text) for text in listed)
    assert any(re.fullmatch(r"The \w+, the \w+ and the \w+ write the letters\.", text) for text in listed)
    assert all(" write the letters." in text for text in listed)


def test_pairs_of_a_file(voices: dict[str, tuple[Tree, str]]) -> None:
    options = Options(frames=2, rule_copies=2, noise=0.0, unchanged=0.3, someone=1.0)

    def make() -> tuple[list[Pair], Counts]:
        counts = Counts()
        trees = [tree for tree, _ in voices.values()]
        actives = [to_active(tree) for tree, answer in voices.values() if not answer.startswith("! ")]
        return list(make_pairs([*trees, *actives], options, counts)), counts

    pairs, counts = make()
    assert [pair.record() for pair in pairs] == [pair.record() for pair in make()[0]]
    assert {pair.category for pair in pairs} == {"by rule", "natural", "frame", "unchanged", "agentless"}
    for pair in pairs:
        assert (pair.prompt == pair.completion) == (pair.category == "unchanged")
        assert (pair.agentless == "someone") == (pair.category == "agentless")
    by_rule = {pair.prompt: pair.completion for pair in pairs if pair.category == "by rule"}
    assert by_rule["He was given a medal by the king."] == "The king gave him a medal."
    # Time and manner are no agents, and who is not certain is not left alone either.
    alone = {pair.prompt for pair in pairs if pair.category == "unchanged"}
    assert "The play was written in 1601." in alone
    assert "The flight was delayed by fog and the train by snow." not in alone
    assert sum(counts.made.values()) == len(pairs)
    assert counts.lines()[0].startswith(f"{counts.sentences:,} sentences")


def test_phrases_that_name_no_agent(voices: dict[str, tuple[Tree, str]]) -> None:
    tree, _ = voices["The play was written in 1601."]
    assert takes_one(tree, next(word for word in tree.words if word.form == "written"))
    assert not takes_one(tree, tree.words[0])
    clerk, _ = voices["The letters are written by a clerk."]
    assert not takes_one(clerk, next(word for word in clerk.words if word.form == "written"))
    rng = random.Random(0)
    phrases = {no_agent(rng) for _ in range(2000)}
    assert {"by Friday", "by post", "by the window", "by mistake", "by pressing the button", "one by one"} <= phrases
    assert all(re.search(r"\bby \S", phrase) and len(phrase) < 32 for phrase in phrases)
    assert not {"by post", "by a fifth"} & {no_agent(rng, front=True) for _ in range(2000)}
    passive, active = "The wall was painted by Ann.", "Ann painted the wall."
    for text, other in (added((passive, active), rng) for _ in range(200)):
        # A name begins one of the two: the phrase stays at the end of both.
        assert text.removeprefix(passive[:-1]) == other.removeprefix(active[:-1])
    fronts = [added(("The wall was painted.",), rng)[0] for _ in range(200)]
    assert any(re.fullmatch(r"By \w+, the wall was painted\.", text) for text in fronts)


def test_passives_with_such_a_phrase_stay(voices: dict[str, tuple[Tree, str]]) -> None:
    trees = [tree for tree, _ in voices.values()]

    def made(by: float) -> list[Pair]:
        return list(make_pairs(trees, Options(noise=0.0, unchanged=0.5, someone=1.0, frames=0, by=by), Counts()))

    def plays(pairs: list[Pair], category: str) -> list[Pair]:
        return [p for p in pairs if p.category == category and "play was written" in p.prompt]

    assert [pair.prompt for pair in plays(made(0.0), "unchanged")] == ["The play was written in 1601."]
    without, having = plays(made(1.0), "unchanged")
    assert "he play was written in 1601" in having.prompt
    assert without.prompt == "The play was written in 1601."
    assert re.search(r"\bby\b", having.prompt, re.IGNORECASE)
    assert having.completion == having.prompt
    (turned,) = plays(made(1.0), "agentless")
    assert re.search(r"\bby\b", turned.completion, re.IGNORECASE)
    assert "omeone wrote the play" in turned.completion


def test_typing_changes_both_sentences_alike() -> None:
    prompt = 'In room 12 "The Mole\'s Song" was sung by 24 boys from Dorset -- loudly...'
    completion = 'In room 12 24 boys from Dorset sang "The Mole\'s Song" -- loudly...'
    seen = set()
    for seed in range(200):
        found, answer = vary(prompt, completion, random.Random(seed))
        marks = [sorted(char for char in text if char in "\"'“”‘’–—-…!0123456789") for text in (found, answer)]
        assert marks[0] == marks[1]
        assert [text.count("Dorset") for text in (found, answer)] in ([1, 1], [0, 0])
        seen |= set(found)
    assert {"“", "’", "—", "…"} <= seen
    assert any(ord(char) > 0xC0 and char.isalpha() for char in seen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parsed", "nowhere.conllu"], "nowhere.conllu: cannot be read"),
        (["--parser", "spacy"], "give --text FILE"),
        (["--parsed", "x.conllu", "--unchanged", "1.5"], "--unchanged 1.5: expected 0.0 to 0.9"),
        (["--parsed", "x.conllu", "--out", "pairs.tsv"], "ends in .jsonl"),
        (["--text", "6", "7", "--out", "x.jsonl"], "expected a number above 0"),
    ],
)
def test_bad_arguments_are_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\tA\tb\n", "line 1: 3 columns"),
        ("1\ta\ta\tDET\tDT\t_\t9\tdet\t_\t_\n", "line 1: head 9"),
        ("x\ta\ta\tDET\tDT\t_\t0\tdet\t_\t_\n", "line 1: id 'x'"),
    ],
)
def test_bad_conllu_is_told(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.conllu"
    path.write_text(text, "utf-8")
    with pytest.raises(JslmError, match=message):
        list(read_conllu(path))


def test_command_line_writes_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pairs.jsonl"
    assert main(["--parsed", str(VOICES), "--out", str(out), "--noise", "0"]) == 0
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert {"prompt", "completion", "category", "agentless"} == set(lines[0])
    assert "by rule" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parsed", str(VOICES), "--direction", "to_passive"], "--direction is of generated pairs"),
        (["--parsed", str(VOICES), "--unpaired"], "--unpaired is of generated pairs"),
        (["--parsed", str(VOICES), "--count", "5", "--out", "x.jsonl"], "--sentences N reads fewer"),
        (["--held-out", "x.jsonl"], "--held-out is of parsed sentences; give --parsed FILE"),
        (["--noise", "0.1"], "--noise is of parsed sentences"),
    ],
)
def test_options_of_the_other_kind_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("x.jsonl").exists()


def test_more_passives_are_held_out_than_other_sentences(
    tmp_path: Path, voices: dict[str, tuple[Tree, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("out", "held")}
    options = ["--noise", "0", "--clauses", "0", "--unchanged", "0.9"]
    assert main(["--parsed", str(VOICES), "--out", str(paths["out"]), "--held-out", str(paths["held"]), *options]) == 0
    capsys.readouterr()
    pairs = {name: [json.loads(line) for line in path.read_text("utf-8").splitlines()] for name, path in paths.items()}
    found = {name: {pair["prompt"] for pair in pairs[name] if pair["category"] == "by rule"} for name in pairs}
    assert not found["out"] & found["held"]
    share = len(found["held"]) / sum(map(len, found.values()))
    assert 0.15 < share < 0.5
    trained = {pair["completion"] for pair in pairs["out"]} | {pair["prompt"] for pair in pairs["out"]}
    assert not trained & found["held"]


def test_units_at_numbers_are_the_same_in_both_sentences() -> None:
    seen = set()
    for seed in range(400):
        both = vary("The 30 men were seen by 12 dogs.", "12 dogs saw the 30 men.", random.Random(seed))
        words = [sorted(re.findall(r"\S*\d\S*", text.rstrip(".!"))) for text in both]
        assert words[0] == words[1]
        seen |= set("".join(words[0]))
    assert set("%$£€#§+~/±") <= seen


def test_texts_are_paragraphs_of_whole_lines(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    end = "*** END OF THE PROJECT GUTENBERG EBOOK X ***\n\nLicence.\n"
    start = "*** START OF THE PROJECT GUTENBERG EBOOK X ***"
    book.write_text(f"Header.\n{start}\n\nOne\nline.\n\nTwo.<|endoftext|>\nTwo more.\n{end}", "utf-8")
    lines = tmp_path / "more.jsonl"
    lines.write_text('{"text": "Three."}\n', "utf-8")
    assert list(read_texts([book, lines])) == ["One line.", "Two.", "Two more.", "Three."]
    lines.write_text('{"text": "Three."}\n{"texts": 3}\n', "utf-8")
    with pytest.raises(JslmError, match=r"more\.jsonl: line 2: expected an object"):
        list(read_texts([lines]))


def test_spacy_trees_speak_universal_dependencies() -> None:
    spacy = pytest.importorskip("spacy")
    words = ["The", "boat", "was", "built", "by", "Ann", "and", "Tom", "."]
    document = spacy.tokens.Doc(
        spacy.vocab.Vocab(),
        words=words,
        spaces=[True] * 7 + [False, False],
        heads=[1, 3, 3, 3, 3, 4, 5, 5, 3],
        deps=["det", "nsubjpass", "auxpass", "ROOT", "agent", "pobj", "cc", "conj", "punct"],
        tags=["DT", "NN", "VBD", "VBN", "IN", "NNP", "CC", "NNP", "."],
        pos=["DET", "NOUN", "AUX", "VERB", "ADP", "PROPN", "CCONJ", "PROPN", "PUNCT"],
        lemmas=["the", "boat", "be", "build", "by", "Ann", "and", "Tom", "."],
    )
    tree = Tree(convert(document[:]))
    assert [word.deprel for word in tree.words[4:8]] == ["case", "obl:agent", "cc", "conj"]
    assert to_active(tree).text == "Ann and Tom built the boat."
