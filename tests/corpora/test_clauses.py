"""Short sentences out of long ones, from trees written down here and from a treebank where it is given."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from jslm.corpora.rewrite.parsed.clauses import short_clauses
from jslm.corpora.rewrite.parsed.pairs import Counts, Options, is_clean, make_pairs
from jslm.corpora.rewrite.parsed.trees import Tree, read_conllu

pytest.importorskip("lemminflect")

VOICES = Path(__file__).parent / "data" / "voices.conllu"


def tree(tmp_path: Path, text: str, rows: str) -> Tree:
    """A tree from lines of form, lemma, class, tag, head and relation."""
    lines = [f"# text = {text}"]
    for number, row in enumerate(rows.strip().split("\n"), 1):
        form, lemma, upos, xpos, head, deprel, *glued = row.split()
        lines.append("\t".join([str(number), form, lemma, upos, xpos, "_", head, deprel, "_", *(glued or ["_"])]))
    path = tmp_path / "one.conllu"
    path.write_text("\n".join(lines) + "\n\n", "utf-8")
    return next(iter(read_conllu(path)))


LONG = """
When when ADV WRB 4 advmod
the the DET DT 3 det
rain rain NOUN NN 4 nsubj
stopped stop VERB VBD 7 advcl SpaceAfter=No
, , PUNCT , 7 punct
she she PRON PRP 7 nsubj
took take VERB VBD 0 root
the the DET DT 9 det
key key NOUN NN 7 obj
and and CCONJ CC 12 cc
slowly slowly ADV RB 12 advmod
opened open VERB VBD 7 conj
the the DET DT 15 det
old old ADJ JJ 15 amod
door door NOUN NN 12 obj
in in ADP IN 18 case
the the DET DT 18 det
hall hall NOUN NN 12 obl SpaceAfter=No
. . PUNCT . 7 punct
"""

QUESTION = """
Who who PRON WP 2 nsubj
took take VERB VBD 0 root
the the DET DT 4 det
key key NOUN NN 2 obj
when when ADV WRB 7 advmod
she she PRON PRP 7 nsubj
saw see VERB VBD 2 advcl
him he PRON PRP 7 obj SpaceAfter=No
? ? PUNCT . 2 punct
"""

NEEDED = """
He he PRON PRP 2 nsubj
told tell VERB VBD 0 root
the the DET DT 4 det
boy boy NOUN NN 2 iobj
that that SCONJ IN 8 mark
it it PRON PRP 8 nsubj
was be AUX VBD 8 cop
late late ADJ JJ 2 ccomp SpaceAfter=No
. . PUNCT . 2 punct
"""


def test_a_coordination_gives_both_clauses_with_the_subject_of_both(tmp_path: Path) -> None:
    text = "When the rain stopped, she took the key and slowly opened the old door in the hall."
    found = [clause.text for clause in short_clauses(tree(tmp_path, text, LONG))]
    assert found == ["She took the key.", "She slowly opened the old door in the hall."]


def test_questions_and_clauses_that_need_another_give_none(tmp_path: Path) -> None:
    assert not list(short_clauses(tree(tmp_path, "Who took the key when she saw him?", QUESTION)))
    assert not list(short_clauses(tree(tmp_path, "He told the boy that it was late.", NEEDED)))


def test_given_trees_stay_as_they_are() -> None:
    for given in read_conllu(VOICES):
        before = given.text
        for clause in short_clauses(given):
            assert clause.text != before
            assert clause.text[0].isupper()
            assert clause.text.endswith(".")
            assert sum(word.head is None for word in clause.words) == 1
        assert given.text == before


def test_a_treebank_gives_more_and_shorter_pairs(assets: Path) -> None:
    path = assets / "treebank" / "en_ewt_dev.conllu.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    trees = list(itertools.islice(read_conllu(path), 600))
    with_clauses, without = Counts(), Counts()
    more = list(make_pairs(trees, Options(frames=0), with_clauses))
    fewer = list(make_pairs(trees, Options(frames=0, clauses=0), without))
    assert without.clauses == 0
    assert with_clauses.clauses > 50
    assert with_clauses.made["natural"] > 1.3 * without.made["natural"]
    natural = [[len(p.prompt) for p in pairs if p.category == "natural"] for pairs in (more, fewer)]
    assert sum(natural[0]) / len(natural[0]) < sum(natural[1]) / len(natural[1])
    clean = [clause for given in trees for clause in short_clauses(given) if is_clean(clause, Options())]
    assert not any("  " in clause.text or " ." in clause.text for clause in clean)
