"""Runs a sweep: chunks that fit the memory, records, halving, and what came of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tritia._arguments import check_static_int
from tritia.sweeps import _chunks as chunks
from tritia.sweeps._lanes import Lanes, Plan, compile_lanes, iterate, lane_bytes
from tritia.sweeps._problem import Problem

_MOST_RECORDS = 20
# Params, gradients, updates and what a step computes besides: a first guess, the compiler corrects.
_FIRST_GUESS = 3


class MemoryTooSmall(ValueError):
    """`memory` does not hold one setting with one seed."""


class TooFewRecords(ValueError):
    """`records` leaves no record for a rung of `halving`."""


class Halving(NamedTuple):
    """Successive halving: the best settings go on, the others stop.

    After records / factor^rungs records one setting in `factor` goes on, after records /
    factor^(rungs - 1) again, and so on; the last ones are trained to the end. It saves time where
    the early curve foretells the late one. Each rung is compiled by itself, since fewer lanes are
    another computation, so it pays where training takes longer than compiling.

    Attributes:
      factor: one setting in this many goes on, >= 2.
      rungs: how many times, >= 1.
    """

    factor: int = 3
    rungs: int = 2


class Result(NamedTuple):
    """What came of a sweep.

    Attributes:
      best: the setting with the best score; the first of them where all diverged.
      settings: all of them, as they were passed.
      scores: (settings,), the value at a setting's last record, averaged over seeds; infinite,
        on the bad side, where one seed diverged. Settings that halving stopped have the score at
        which they were stopped, and are never the best.
      losses: (settings, seeds, records), the training loss, averaged over the steps between two
        records; NaN after halving stopped the setting.
      values: (settings, seeds, records), what the problem's `evaluate` returned; the training
        losses where there is none.
      steps: (records,), the steps taken at each record.
      diverged: (settings, seeds), whether a loss or a value was not finite.
      trained: (settings,), the records that the setting was trained for.
      params: those of the best setting, with a leading axis of seeds; where the transform has an
        iterate besides its params (`evaluation_params`), that one.
      lanes: the most settings and seeds that were trained at once.
      bytes: the memory that this took according to the compiler, data included.
    """

    best: Mapping[str, float]
    settings: Sequence[Mapping[str, float]]
    scores: np.ndarray
    losses: np.ndarray
    values: np.ndarray
    steps: np.ndarray
    diverged: np.ndarray
    trained: np.ndarray
    params: Any
    lanes: tuple[int, int]
    bytes: int


def run(
    make_transform: Callable[[Mapping[str, Any]], optax.GradientTransformation],
    settings: Sequence[Mapping[str, float]],
    problem: Problem,
    data: Any,
    **options: Any,
) -> Result:
    """Trains with every setting and every seed as one vmapped, compiled computation.

    Args:
      make_transform: from a setting, whose numbers are traced, to a transform.
      settings: what to try, such as `grid` and `draw` return; the same names in each.
      problem: what `plain_problem` or `nnx_problem` return.
      data: a pytree of arrays, handed to `batch` and to the problem's `evaluate`.
      **options: arguments of `build`.

    Returns:
      The `Result`.

    Raises:
      ValueError: settings have different names, or what `build` raises.
      TypeError: what `build` raises.

    Examples:
      >>> import jax, jax.numpy as jnp, tritia, tritia.sweeps
      >>> problem = tritia.sweeps.plain_problem(
      ...   init=lambda key: jax.random.normal(key, (2,)),
      ...   loss=lambda params, data: jnp.sum(data * params**2))
      >>> result = tritia.sweeps.run(
      ...   lambda setting: tritia.difference(setting["learning_rate"]),
      ...   tritia.sweeps.grid(learning_rate=[0.001, 0.01, 1.0]),
      ...   problem, jnp.array([1.0, 10.0]), steps=40, seeds=3)
      >>> result.best
      {'learning_rate': 0.01}
      >>> result.losses.shape, result.diverged.any(axis=1)
      ((3, 3, 20), array([False, False,  True]))
    """
    return build(make_transform, problem, data, **options)(settings)


def build(
    make_transform: Callable[[Mapping[str, Any]], optax.GradientTransformation],
    problem: Problem,
    data: Any,
    *,
    steps: int,
    batch: Callable[[Any, Any, Any], Any] | None = None,
    extra: Callable[[Any], dict[str, Any]] | None = None,
    evaluation_params: Callable[[Any, Any], Any] = iterate,
    seeds: int | Sequence[int] = 1,
    records: int | None = None,
    memory: int | None = None,
    halving: Halving | None = None,
    maximise: bool = False,
    progress: bool = True,
) -> Callable[[Sequence[Mapping[str, float]]], Result]:
    """Makes a function that runs sweeps and compiles once for all sweeps of one size.

    Every seed starts from the same params and sees the same batches under every setting. A lane
    that diverges disturbs no other: the numbers of the others are the same, bit for bit.

    Args:
      make_transform: from a setting, whose numbers are traced, to a transform.
      problem: what `plain_problem` or `nnx_problem` return.
      data: a pytree of arrays, handed to `batch` and to the problem's `evaluate`.
      steps: how many.
      batch: (key, step, data) -> the batch of a step, such as `minibatches` returns; None for all
        data at every step.
      extra: from a batch to further arguments of `update`, such as `lambda batch: {"inputs":
        batch["x"], "targets": batch["y"]}` for `tritia.tiam`. `grad_fn` is always passed.
      evaluation_params: from (state, params) to the params that are evaluated and returned, such as
        `optax.contrib.schedule_free_eval_params`; unless given, `tritia.eval_params` where the
        state holds such an iterate, and otherwise the params.
      seeds: how many, or which; each seed has its own initial params and batches.
      records: how many points the curves have, a divisor of `steps`; None takes the greatest up to
        20.
      memory: bytes that the lanes trained at once, with the data, may take by the compiler's
        count; what does not fit waits for its turn. None trains all at once. Other widths round
        otherwise, which a run at the edge of divergence amplifies.
      halving: a `Halving` stops the worse settings early; None trains all to the end. Between two
        rungs the states of all settings are kept in the host's memory, which `memory` does not
        count.
      maximise: whether a greater value is better.
      progress: whether to show a progress bar, where there is a terminal and Rich is installed.

    Returns:
      A function from settings to a `Result`.

    Raises:
      ValueError: an argument out of its range; `memory` does not hold one lane (the message says
        what one takes).
      TypeError: an argument of the wrong type.

    Examples:
      >>> import jax.numpy as jnp, optax, tritia.sweeps
      >>> problem = tritia.sweeps.plain_problem(
      ...   lambda key: jnp.ones(2), lambda params, data: jnp.sum(data * params**2))
      >>> sweep = tritia.sweeps.build(
      ...   lambda setting: optax.sgd(setting["learning_rate"]), problem, jnp.array([1.0, 10.0]),
      ...   steps=40)
      >>> [sweep(tritia.sweeps.grid(learning_rate=rates)).best for rates in ([0.01], [0.04])]
      [{'learning_rate': 0.01}, {'learning_rate': 0.04}]
    """
    steps = check_static_int("steps", steps, minimum=1)
    if records is None:
        records = max(n for n in range(1, _MOST_RECORDS + 1) if steps % n == 0)
    records = check_static_int("records", records, minimum=1, maximum=steps)
    if steps % records:
        raise ValueError(f"records is {records}; it must divide steps, {steps}.")
    if memory is not None:
        memory = check_static_int("memory", memory, minimum=1)
    if isinstance(seeds, (Sequence, np.ndarray)):
        numbers = [
            check_static_int(
                "each of seeds",
                int(seed) if isinstance(seed, np.integer) else seed,
                minimum=0,
                maximum=2**32 - 1,
            )
            for seed in seeds
        ]
    else:
        numbers = list(range(check_static_int("seeds", seeds, minimum=1)))
    if not numbers:
        raise ValueError("seeds is empty; it needs one at least.")
    ends = _rung_ends(halving, records)
    plan = Plan(
        make_transform,
        problem,
        batch or (lambda key, step, data: data),
        extra or (lambda batch: {}),
        evaluation_params,
        steps // records,
    )
    keys = jax.vmap(jax.random.key)(jnp.asarray(numbers, jnp.uint32))
    data = jax.tree.map(jnp.asarray, data)
    compiled: dict[tuple[tuple[str, ...], int, int], Lanes] = {}
    evaluated = jax.jit(
        jax.vmap(jax.vmap(lambda carry: evaluation_params(carry.state, carry.params)))
    )
    sign = -1.0 if maximise else 1.0

    def lanes_for(names: tuple[str, ...], count: int) -> tuple[tuple[int, int], Lanes]:
        """Returns how many settings and seeds to train at once, and that compiled."""

        def compile_for(size: tuple[int, int]) -> Lanes:
            key = (names, *size)
            if key not in compiled:
                shape = jax.ShapeDtypeStruct((size[0],), jnp.result_type(float))
                shapes = dict.fromkeys(names, shape)
                compiled[key] = compile_lanes(plan, shapes, keys[: size[1]], data)
            return compiled[key]

        if memory is None:
            size = (count, len(keys))
            return size, compile_for(size)
        fixed = chunks.bytes_of(data)
        each = _FIRST_GUESS * lane_bytes(plan, names, keys)
        fitting = count * len(keys)
        while True:
            fitting = max(1, min(fitting, int((memory - fixed) // max(each, 1))))
            size = chunks.evenly(fitting, count, len(keys))
            lanes = compile_for(size)
            if lanes.bytes <= memory:
                return size, lanes
            if fitting == 1:
                raise MemoryTooSmall(
                    f"memory is {memory} bytes; one setting with one seed and the data take"
                    f" {lanes.bytes}."
                )
            each = (lanes.bytes - fixed) / (size[0] * size[1])
            fitting -= 1

    def sweep(settings: Sequence[Mapping[str, float]]) -> Result:
        names, table = _table(settings)
        shape = (len(settings), len(keys), records)
        losses, values = np.full(shape, np.nan), np.full(shape, np.nan)
        trained = np.zeros(len(settings), int)
        scores = np.full(len(settings), np.inf)
        alive = np.arange(len(settings))
        kept: Any = None  # the carries of the settings alive, between rungs
        best, best_params = None, None
        used, used_bytes = (0, 0), 0

        work = sum(n * (end - begin) for n, begin, end in _rungs(len(settings), ends, halving))
        with chunks.progress_bar(progress, work) as tick:
            for _, begin, end in _rungs(len(settings), ends, halving):
                size, lanes = lanes_for(names, len(alive))
                if lanes.bytes > used_bytes:
                    used, used_bytes = size, lanes.bytes
                states = []
                for rows in chunks.split(len(alive), size[0]):
                    chosen = {name: jnp.asarray(table[name][alive[rows]]) for name in names}
                    pieces = []
                    for columns in chunks.split(len(keys), size[1]):
                        if kept is None:
                            carry = lanes.start(chosen, keys[columns])
                        else:
                            carry = chunks.take(kept, rows, columns)
                        for record in range(begin, end):
                            first = jnp.asarray(record * plan.every, jnp.int32)
                            carry, found = lanes.advance(carry, chosen, keys[columns], first, data)
                            for array, new in zip((losses, values), found, strict=True):
                                array[alive[rows][:, None], columns, record] = new
                            tick(len(set(rows)) * len(set(columns)) / len(keys))
                        if end == records:
                            carry = evaluated(carry)
                        pieces.append((columns, carry))
                    here = alive[np.unique(rows)]
                    trained[here] = end
                    scores[here] = _scores(losses[here, :, :end], sign * values[here, :, :end])
                    states.append((rows, chunks.join(pieces, axis=1)))
                    if end == records:  # nothing but the best is needed any more
                        ((rows, params),) = states
                        winner = int(here[np.argmin(scores[here])])
                        if best is None or scores[winner] < scores[best]:
                            best = winner
                            position = int(np.flatnonzero(alive[rows] == winner)[0])
                            best_params = jax.tree.map(lambda x, i=position: x[i], params)
                        states = []
                if end < records:
                    ranking = np.argsort(scores[alive], kind="stable")
                    staying = np.sort(ranking[: _fewer(len(alive), halving)])
                    kept = chunks.take(chunks.join(states, axis=0), staying, np.arange(len(keys)))
                    alive = alive[staying]
        assert best is not None
        seen = np.arange(records) < trained[:, None, None]
        finite = np.isfinite(losses) & np.isfinite(values)
        return Result(
            best=dict(settings[best]),
            settings=list(settings),
            scores=sign * scores,
            losses=losses,
            values=values,
            steps=plan.every * np.arange(1, records + 1),
            diverged=np.any(~finite & seen, axis=2),
            trained=trained,
            params=best_params,
            lanes=used,
            bytes=used_bytes,
        )

    return sweep


def _table(
    settings: Sequence[Mapping[str, float]],
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Returns the names of the settings' numbers, and the numbers of each name."""
    if len(settings) == 0:
        raise ValueError("settings is empty; it needs one at least.")
    names = tuple(settings[0])
    dtype = jnp.result_type(float)
    for setting in settings:
        if set(setting) != set(names):
            raise ValueError(
                f"settings must all have the same names; got {list(names)} and {list(setting)}."
            )
    return names, {
        name: np.asarray([_number(name, setting[name]) for setting in settings], dtype)
        for name in names
    }


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"a setting's {name} is {value!r}; allowed: numbers.") from None


def _scores(losses: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns each setting's last value averaged over seeds, infinite where one diverged."""
    well = np.isfinite(losses).all(axis=(1, 2)) & np.isfinite(values).all(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        return np.where(well, values[:, :, -1].mean(axis=1), np.inf)


def _rung_ends(halving: Halving | None, records: int) -> list[int]:
    """Returns the records at which settings are stopped, and the last one."""
    if halving is None:
        return [records]
    if not isinstance(halving, Halving):
        raise TypeError(f"halving must be a tritia.sweeps.Halving or None; got {halving!r}.")
    factor = check_static_int("factor of halving", halving.factor, minimum=2)
    rungs = check_static_int("rungs of halving", halving.rungs, minimum=1)
    ends = [round(records / factor**power) for power in range(rungs, -1, -1)]
    if ends[0] < 1 or len(set(ends)) < len(ends):
        raise TooFewRecords(
            f"records is {records}; {rungs} rungs of factor {factor} need {factor**rungs} at least."
        )
    return ends


def _fewer(count: int, halving: Halving | None) -> int:
    return count if halving is None else math.ceil(count / halving.factor)


def _rungs(count: int, ends: list[int], halving: Halving | None) -> Iterator[tuple[int, int, int]]:
    """Yields, for each rung, how many settings are in it, its first record and its end."""
    for begin, end in itertools.pairwise([0, *ends]):
        yield count, begin, end
        count = _fewer(count, halving)
