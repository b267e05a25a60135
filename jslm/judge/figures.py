"""What answers say: who wins how often, how sure that is, and whether people agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jslm.evaluate import wilson
from jslm.judge.answers import Answers
from jslm.judge.study import Study


def result(study: Study, answers: Answers) -> dict[str, Any]:
    """The figures of those who have answered all, question by question.

    People who see the same pair are no independent answers, so a prompt counts once: for the model that more of them
    prefer, or as a tie. `rate` is A's share of the prompts that have a winner, with Wilson's 95% interval; `alpha` is
    Krippendorff's, of the grades, None for one person or where all gave one and the same answer.
    """
    people = answers.finished()
    questions = []
    for question in study.questions:
        grades = [[answers.given(person)[number][question.name] for person in people] for number in study.open]
        verdicts = [sum((grade > 0) - (grade < 0) for grade in row) for row in grades]
        wins, losses = sum(verdict > 0 for verdict in verdicts), sum(verdict < 0 for verdict in verdicts)
        low, high = wilson(wins, wins + losses) if wins + losses else (0.0, 1.0)
        lefts = [
            (answers.given(person)[number][question.name] > 0) == (study.left(person, number) == "a")
            for person in people
            for number in study.open
            if answers.given(person)[number][question.name]
        ]
        questions.append(
            {
                "name": question.name,
                "text": question.text,
                "a_wins": wins,
                "b_wins": losses,
                "ties": len(study.pairs) - wins - losses,
                "rate": wins / (wins + losses) if wins + losses else None,
                "low": low,
                "high": high,
                "alpha": krippendorff(grades) if len(people) > 1 else None,
                "left": sum(lefts) / len(lefts) if lefts else None,
            }
        )
    partly = {person: count for person, count in answers.people().items() if person not in people}
    return {
        "a": study.labels["a"],
        "b": study.labels["b"],
        "prompts": len(study.pairs),
        "same": study.same,
        "people": len(people),
        "not_counted": len(partly),
        "questions": questions,
    }


def krippendorff(units: Sequence[Sequence[float]]) -> float | None:
    """Krippendorff's alpha with squared distances ("interval"), for units with the values that each was given.

    1: all agree; 0: as by chance. Units with one value say nothing. None where nothing differs or nothing can be
    compared. Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability".
    """
    paired = [unit for unit in units if len(unit) > 1]
    values = [value for unit in paired for value in unit]
    if not values:
        return None
    observed = sum(_distances(unit) / (len(unit) - 1) for unit in paired) / len(values)
    expected = _distances(values) / (len(values) * (len(values) - 1))
    return 1 - observed / expected if expected else None


def _distances(values: Sequence[float]) -> float:
    """The sum of squared differences over all ordered pairs."""
    return 2 * (len(values) * sum(value * value for value in values) - sum(values) ** 2)


def said(figures: dict[str, Any]) -> list[str]:
    """The result in plain lines."""
    people = figures["people"]
    same = f" ({figures['same']} not asked: both wrote the same, a tie)" if figures["same"] else ""
    lines = [
        f"{figures['a']} against {figures['b']}: {figures['prompts']} prompts{same}, "
        f"{people} {'person' if people == 1 else 'people'}"
    ]
    for question in figures["questions"]:
        decided = question["a_wins"] + question["b_wins"]
        ties = f"{question['ties']} {'tie' if question['ties'] == 1 else 'ties'} left out"
        if not decided:
            lines.append(f"{question['text']} No prompt has a winner ({ties})")
            continue
        line = (
            f"{question['text']} {figures['a']} in {question['a_wins']} of {decided} prompts that have a winner: "
            f"{question['rate']:.0%}, 95% interval {question['low']:.0%} to {question['high']:.0%} (Wilson); {ties}"
        )
        verdict = "no difference shown" if question["low"] <= 0.5 <= question["high"] else ""
        verdict = verdict or f"{figures['a' if question['low'] > 0.5 else 'b']} is better"
        lines.append(f"{line}. So: {verdict}")
        if question["alpha"] is not None:
            lines.append(f"Agreement: Krippendorff's alpha {question['alpha']:.2f} (1: always, 0: as by chance)")
        elif people > 1:
            lines.append("Agreement: all gave the same answer everywhere, so alpha says nothing")
        lines.append(f"The first text was preferred in {question['left']:.0%} of the answers with a preference")
    if people == 1:
        lines.append("Agreement: it takes two people (--people 2)")
    if figures["not_counted"]:
        lines.append(f"Not counted, as they have not answered all: {figures['not_counted']}")
    return lines
