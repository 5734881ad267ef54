"""What a Runge-Kutta step keeps between its stages, in as few copies of the params as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tritia.gradient_flow._coefficient import Coefficient


class Kept(NamedTuple):
    """What is in memory after a stage: slot number -> slope j, or -> the sum of a target's row."""

    slopes: dict[int, int]
    sums: dict[int, int]


class StageMemory(NamedTuple):
    """The targets of the stages and what is kept on the way to them.

    Attributes:
      rows: row j is the target that stage j leads to, as weights of the slopes 0 .. j: the point of
        stage j + 1, or the end of the step. Stages that do not influence it are left out.
      kept: what is in memory after each stage.
      slots: how many copies of the params that takes.
    """

    rows: list[list[Coefficient]]
    kept: list[Kept]
    slots: int


def stage_memory(a: Sequence[Sequence[Coefficient]], b: Sequence[Coefficient]) -> StageMemory:
    """Decides what to keep after each stage: slopes, or sums for the targets still to come.

    After stage j the next target is on its way out. What later targets need of the slopes so far
    is either those slopes, or one partial sum for each target. Slopes grow in number and targets
    run out, so keep slopes first and change to sums, for good, as soon as there are fewer of them:
    one slot serves the classical RK4, three serve Dormand and Prince.

    Args:
      a: the rows of a Butcher tableau for the stages taken, of length 0, 1, ....
      b: its weights for them.
    """
    rows = [list(row) for row in a[1:]] + [list(b)]
    kept: list[Kept] = []
    slots: dict[int, int] = {}  # slope -> slot
    for j in range(len(rows)):
        targets = [i for i in range(j + 1, len(rows)) if any(rows[i][: j + 1])]
        slopes = [c for c in range(j + 1) if any(rows[i][c] for i in targets)]
        if len(targets) < len(slopes) or (kept and kept[-1].sums):
            kept.append(Kept({}, {i: slot for slot, i in enumerate(targets)}))
            continue
        slots = {c: slot for c, slot in slots.items() if c in slopes}
        for c in slopes:
            if c not in slots:
                # The first free slot, so that what stays in memory stays in place.
                slots[c] = next(n for n in range(len(rows)) if n not in slots.values())
        kept.append(Kept(dict(slots), {}))
    used = [slot for after in kept for slot in (*after.slopes.values(), *after.sums.values())]
    return StageMemory(rows, kept, 1 + max(used, default=-1))
