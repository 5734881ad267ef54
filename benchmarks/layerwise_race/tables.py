"""The race's Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.layerwise_race.results import REFERENCE, Entry, Race, text
from benchmarks.layerwise_race.training import Curve
from benchmarks.timing import table


def tuning(race: Race, methods: Sequence[str]) -> None:
    """What each setting gave on validation rows."""
    print(f"{race.task.title}: {race.task.objective.name} on validation rows, best setting first\n")
    rows = [
        [method, *(f"{text(setting)}: {run.averaged_score[-1]:.4g}" for setting, run in found)]
        for method in methods
        if (found := race.tuning(method))
    ]
    widest = max(len(row) for row in rows)
    table(
        ["method", *(str(place) for place in range(1, widest))],
        [row + ["-"] * (widest - len(row)) for row in rows],
    )


def race_table(race: Race, entries: Sequence[Entry], seeds: int) -> None:
    """Medians over the seeds, least and greatest in brackets, at the averaged and last iterate."""
    task, name = race.task, race.task.objective.name
    print(f"{task.title}: {task.steps} steps of {task.batch} rows, {seeds} seeds\n")
    reference = next((entry for entry in entries if entry.method == REFERENCE), None)
    heads = ["method", "setting", "CPU ms a step", f"over {REFERENCE}'s"]
    for goal in task.goals:
        heads += [f"steps to {goal:g}", "CPU s"]
    if not task.goals:
        heads += ["after a third", "after two thirds"]
    heads += [f"{name} at last", "last iterate's"]
    if task.objective.score is not None:
        heads.append("loss")
    if reference is not None:
        heads.append(f"{name} in {REFERENCE}'s CPU s (steps)")
    heads += ["compile s"]
    rows = []
    for entry in entries:
        runs = race.curves(entry, seeds)
        spent = race.step_seconds(entry, seeds)
        row = [entry.method, text(entry.setting), f"{1e3 * spent:.3g}", "-"]
        if reference is not None:
            row[-1] = f"{spent / race.step_seconds(reference, seeds):.2f}"
        for goal in task.goals:
            row += reached(runs, goal)
        if not task.goals:
            for part in (1, 2):
                row.append(
                    spread([run.averaged_score[len(run.steps) * part // 3 - 1] for run in runs])
                )
        row.append(spread([run.averaged_score[-1] for run in runs]))
        row.append(spread([run.score[-1] for run in runs]))
        if task.objective.score is not None:
            row.append(spread([run.averaged_loss[-1] for run in runs]))
        if reference is not None:
            row.append(at_equal_seconds(race, entry, reference, seeds))
        row.append(f"{max(run.compile_seconds for run in runs):.1f}")
        rows.append(row)
    table(heads, rows)


def spread(values: Sequence[float]) -> str:
    """Median [least, greatest]; "-" for NaN."""
    if not np.isfinite(values).all():
        return "-"
    return f"{np.median(values):.4g} [{min(values):.4g}, {max(values):.4g}]"


def reached(runs: Sequence[Curve], goal: float) -> list[str]:
    """Steps and CPU seconds to a goal at the averaged iterate, and at the last one in brackets.

    "-" where most seeds miss it.
    """
    steps, seconds = [], []
    for scores in ("averaged_score", "score"):
        when = [_first(run, getattr(run, scores), goal) for run in runs]
        middle = statistics.median_high([one[0] for one in when])
        clock = statistics.median_high([one[1] for one in when])
        missed = sum(np.isinf(one[0]) for one in when)
        note = f", {missed} never" if missed and np.isfinite(middle) else ""
        steps.append(f"{middle:g}{note}" if np.isfinite(middle) else "-")
        seconds.append(f"{clock:.3g}" if np.isfinite(middle) else "-")
    return [f"{steps[0]} ({steps[1]})", f"{seconds[0]} ({seconds[1]})"]


def _first(run: Curve, scores: Sequence[float], goal: float) -> tuple[float, float]:
    """Steps and CPU seconds until a score is there; infinite where it never is."""
    for place, score in enumerate(scores):
        if score >= goal:
            return run.steps[place], sum(run.cpu_seconds[: place + 1])
    return np.inf, np.inf


def at_equal_seconds(race: Race, entry: Entry, reference: Entry, seeds: int) -> str:
    """The final score of runs that take as many CPU seconds as the reference's; the steps."""
    steps = race.equal_steps(entry, reference, seeds)
    runs = race.curves(entry, seeds, steps)
    if not runs:
        return f"- ({steps})"
    return f"{spread([run.averaged_score[-1] for run in runs])} ({steps})"
