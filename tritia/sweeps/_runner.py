"""Runs a sweep: groups that fit the memory, records, halving, and the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Required, TypedDict, Unpack, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tritia._arguments import check_choice, check_static_int
from tritia.sweeps import _chunks as chunks
from tritia.sweeps._halving import Halving, fewer, rung_ends, spans
from tritia.sweeps._lanes import Lanes, checked_mesh, everywhere, fetched, lanes_for
from tritia.sweeps._problem import Problem
from tritia.sweeps._result import Curves, Result
from tritia.sweeps._vmapped import Carry, Plan, VmappedRuns, bytes_of_a_run, compile_runs, iterate

MakeTransform = Callable[[Mapping[str, Any]], optax.GradientTransformation]
Progress = Callable[[float], None]
Keep = Literal["last", "best"]

_MOST_RECORDS = 20
# Params, gradients, updates and what a step computes besides: a first guess, the compiler corrects.
_FIRST_GUESS = 3


class MemoryTooSmall(ValueError):
    """`memory` does not hold one setting with one seed."""


class Options(TypedDict, total=False):
    """The keyword arguments of `build`, for `run`."""

    steps: Required[int]
    batch: Callable[[Any, Any, Any], Any] | None
    extra: Callable[[Any], Mapping[str, Any]] | None
    evaluation_params: Callable[[Any, Any], Any]
    seeds: int | Sequence[int]
    records: int | None
    memory: int | None
    mesh: jax.sharding.Mesh | None
    halving: Halving | None
    maximise: bool
    keep: Keep
    progress: Progress | None


def run(
    make_transform: MakeTransform,
    settings: Sequence[Mapping[str, float]],
    problem: Problem,
    data: Any,
    **options: Unpack[Options],
) -> Result:
    """Trains with every setting and every seed as one vmapped, compiled computation.

    Args:
      make_transform: from a setting, whose numbers are traced, to a transform.
      settings: what to try, such as `grid` and `draw` return; the same names in each.
      problem: what `plain_problem` or `nnx_problem` return.
      data: a pytree of arrays, handed to `batch` and to the problem's `evaluate`.
      **options: the keyword arguments of `build`; `steps` is required.

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
    make_transform: MakeTransform,
    problem: Problem,
    data: Any,
    *,
    steps: int,
    batch: Callable[[Any, Any, Any], Any] | None = None,
    extra: Callable[[Any], Mapping[str, Any]] | None = None,
    evaluation_params: Callable[[Any, Any], Any] = iterate,
    seeds: int | Sequence[int] = 1,
    records: int | None = None,
    memory: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    halving: Halving | None = None,
    maximise: bool = False,
    keep: Keep = "last",
    progress: Progress | None = None,
) -> Callable[[Sequence[Mapping[str, float]]], Result]:
    """Makes a function that runs sweeps and compiles once for all sweeps of one size.

    Every seed starts from the same params and sees the same batches under every setting. A setting
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
      memory: bytes that what is trained at once, with the data, may take on each device by the
        compiler's count; the rest is trained afterwards. None trains all at once. A computation
        over another number of settings rounds differently, which a run at the edge of divergence
        amplifies.
      mesh: a `jax.sharding.Mesh`, over all of whose devices the settings (or the seeds, where that
        divides better) are spread: each trains its own, with a copy of the data, and nothing
        travels between them. None takes `jax.local_devices()`, or the first of them where a mesh
        is set by `jax.set_mesh`. On another number of devices results differ by rounding alone.
        With devices of several processes (`jax.distributed`), such as
        `jax.make_mesh((jax.device_count(),), ("lanes",))`, all of these processes call it with the
        same arguments: each trains its part, they tell each other the records, and all return the
        same result. Between two rungs of `halving`, and where `memory` divides the seeds, each of
        them gathers the states of all runs, array by array.
      halving: a `Halving` stops the worse settings early; None trains all to the end. Between two
        rungs the states of all settings are kept in the host's memory, which `memory` does not
        count.
      maximise: whether a greater value is better.
      keep: "last" judges and returns what a setting ends with. "best" takes, for each seed, the
        record at which its value was best, as early stopping does: with a problem that evaluates
        validation rows, the number of steps is chosen together with the setting. All are trained to
        the end, and hold one more copy of the params.
      progress: called after each record with the fraction of the work that is done, in (0, 1].

    Returns:
      A function from settings to a `Result`.

    Raises:
      ValueError: an argument out of its range; `memory` does not hold one setting with one seed
        (the message says what that takes).
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
    check_choice("keep", keep, get_args(Keep))
    records = _checked_records(records, steps)
    if memory is not None:
        memory = check_static_int("memory", memory, minimum=1)
    numbers = _checked_seeds(seeds)
    plan = Plan(
        make_transform,
        problem,
        batch or (lambda key, step, data: data),
        extra or (lambda batch: {}),
        evaluation_params,
        steps // records,
        (-1 if maximise else 1) if keep == "best" else 0,
    )
    devices = checked_mesh(mesh)
    data = jax.tree.map(jnp.asarray, data)
    return _Sweep(
        plan,
        everywhere(data, devices),
        jax.vmap(jax.random.key)(jnp.asarray(numbers, jnp.uint32)),
        rung_ends(halving, records),
        halving,
        memory,
        devices,
        maximise,
        progress or (lambda done: None),
    )


def _checked_records(records: int | None, steps: int) -> int:
    if records is None:
        return max(n for n in range(1, _MOST_RECORDS + 1) if steps % n == 0)
    records = check_static_int("records", records, minimum=1, maximum=steps)
    if steps % records:
        raise ValueError(f"records is {records}; it must divide steps, {steps}.")
    return records


def _checked_seeds(seeds: int | Sequence[int]) -> list[int]:
    if not isinstance(seeds, (Sequence, np.ndarray)):
        return list(range(check_static_int("seeds", seeds, minimum=1)))
    if len(seeds) == 0:
        raise ValueError("seeds is empty; it needs one at least.")
    plain = (int(seed) if isinstance(seed, np.integer) else seed for seed in seeds)
    return [check_static_int("each of seeds", seed, minimum=0, maximum=2**32 - 1) for seed in plain]


class _Sweep:
    """The function that `build` returns, with what it has compiled so far."""

    def __init__(
        self,
        plan: Plan,
        data: Any,
        keys: jax.Array,
        ends: list[int],
        halving: Halving | None,
        memory: int | None,
        mesh: jax.sharding.Mesh,
        maximise: bool,
        progress: Progress,
    ):
        self._plan, self._data, self._keys = plan, data, keys
        self._ends, self._halving = ends, halving
        self._memory, self._mesh = memory, mesh
        self._maximise, self._progress = maximise, progress
        self._compiled: dict[tuple[tuple[str, ...], tuple[int, int], Lanes], VmappedRuns] = {}

        def evaluated(carry: Carry) -> Any:
            if carry.best is not None:
                return carry.best[1]
            return plan.evaluation_params(carry.state, carry.params)

        self._evaluated = jax.jit(jax.vmap(jax.vmap(evaluated)))

    def __call__(self, settings: Sequence[Mapping[str, float]]) -> Result:
        names, table = _table(settings)
        records = self._ends[-1]
        curves = Curves(
            len(settings), len(self._keys), records, self._maximise, self._plan.keep_best != 0
        )
        tick = self._ticker(len(settings))
        alive = np.arange(len(settings))
        kept: Any = None  # the carries of the settings alive, between two rungs
        best, best_params = -1, None
        at_once, most_bytes = (0, 0), 0
        for _, begin, end in spans(len(settings), self._ends, self._halving):
            size, runs = self._that_fit(names, len(alive))
            if runs.bytes > most_bytes:
                at_once = min(size[0], len(alive)), min(size[1], len(self._keys))
                most_bytes = runs.bytes
            states = []
            for rows in chunks.split(len(alive), size[0]):
                chosen = {name: jnp.asarray(table[name][alive[rows]]) for name in names}
                carry_in = None if kept is None else (kept, rows)
                found = self._train(
                    runs, chosen, alive[rows], size[1], carry_in, range(begin, end), curves, tick
                )
                here = alive[np.unique(rows)]
                curves.finish(here, end)
                if end < records:
                    states.append((rows, fetched(found, self._mesh)))
                    continue
                # Nothing but the best is needed any more.
                winner = int(here[np.argmin(curves.scores[here])])
                if best < 0 or curves.scores[winner] < curves.scores[best]:
                    best = winner
                    position = int(np.flatnonzero(alive[rows] == winner)[0])
                    best_params = jax.tree.map(lambda x, i=position: x[i], found)
                    if self._mesh.size > 1:
                        best_params = jax.device_put(
                            fetched(best_params, self._mesh), self._mesh.local_devices[0]
                        )
            if end < records:
                ranking = np.argsort(curves.scores[alive], kind="stable")
                staying = np.sort(ranking[: fewer(len(alive), self._halving)])
                all_seeds = np.arange(len(self._keys))
                kept = chunks.take(chunks.join(states, axis=0), staying, all_seeds)
                alive = alive[staying]
        return Result(
            best=dict(settings[best]),
            settings=list(settings),
            scores=curves.sign * curves.scores,
            losses=curves.losses,
            values=curves.values,
            steps=self._plan.every * np.arange(1, records + 1),
            diverged=curves.diverged(),
            trained=curves.trained,
            params=best_params,
            at_once=at_once,
            bytes=most_bytes,
            kept=self._plan.every * (1 + curves.kept(best)),
        )

    def _train(
        self,
        runs: VmappedRuns,
        chosen: Mapping[str, jax.Array],
        settings: np.ndarray,
        seeds_at_once: int,
        carry_in: tuple[Carry, np.ndarray] | None,
        records: range,
        curves: Curves,
        tick: Callable[[float], None],
    ) -> Any:
        """Trains some settings with all seeds over some records.

        Args:
          runs: compiled for so many settings and seeds.
          chosen: the numbers of the settings, by name.
          settings: which ones they are.
          seeds_at_once: of them.
          carry_in: the carries of all settings alive and the positions of these; None to start.
          records: which.
          curves: where they go.
          tick: called with how many records of how many settings have been added.

        Returns:
          The carries, or after the last record the params to evaluate.
        """
        pieces, place = [], runs.lanes.place
        chosen = place(chosen, "settings")
        for columns in chunks.split(len(self._keys), seeds_at_once):
            keys = place(self._keys[columns], "seeds")
            if carry_in is None:
                carry = runs.start(chosen, keys)
            else:
                carry = place(chunks.take(*carry_in, columns), "both")
            for number in records:
                first = place(jnp.asarray(number * self._plan.every, jnp.int32), "none")
                carry, found = runs.advance(carry, chosen, keys, first, self._data)
                curves.record(settings, columns, number, fetched(found, self._mesh))
                tick(len(set(settings)) * len(set(columns)) / len(self._keys))
            kept = self._evaluated(carry) if records.stop == self._ends[-1] else carry
            if seeds_at_once < len(self._keys):
                kept = fetched(kept, self._mesh)
            pieces.append((columns, kept))
        return chunks.join(pieces, axis=1)

    def _that_fit(self, names: tuple[str, ...], count: int) -> tuple[tuple[int, int], VmappedRuns]:
        """Returns how many settings and seeds to train at once, and that compiled."""
        lanes = lanes_for(self._mesh, count, len(self._keys))
        most = lanes.divided(count, len(self._keys))  # on each device, as all that follows
        if self._memory is None:
            size = lanes.together(*most)
            return size, self._compile(names, size, lanes)
        fixed = chunks.bytes_of(self._data)
        each = _FIRST_GUESS * bytes_of_a_run(self._plan, names, self._keys)
        fitting = math.prod(most)
        while True:
            fitting = max(1, min(fitting, int((self._memory - fixed) // max(each, 1))))
            own = chunks.evenly(fitting, *most)
            size = lanes.together(*own)
            runs = self._compile(names, size, lanes)
            if runs.bytes <= self._memory:
                return size, runs
            if fitting == 1:
                raise MemoryTooSmall(
                    f"memory is {self._memory} bytes; one setting with one seed and the data take"
                    f" {runs.bytes}."
                )
            each = (runs.bytes - fixed) / math.prod(own)
            fitting -= 1

    def _compile(self, names: tuple[str, ...], size: tuple[int, int], lanes: Lanes) -> VmappedRuns:
        key = (names, size, lanes)
        if key not in self._compiled:
            shape = jax.ShapeDtypeStruct((size[0],), jnp.result_type(float))
            shapes = dict.fromkeys(names, shape)
            keys = jax.ShapeDtypeStruct((size[1],), self._keys.dtype)
            self._compiled[key] = compile_runs(self._plan, shapes, keys, self._data, lanes)
        return self._compiled[key]

    def _ticker(self, settings: int) -> Callable[[float], None]:
        """Returns a function that adds to the work done and reports the fraction."""
        work = sum(
            n * (end - begin) for n, begin, end in spans(settings, self._ends, self._halving)
        )
        done = 0.0

        def tick(more: float) -> None:
            nonlocal done
            done += more
            self._progress(min(1.0, done / work))

        return tick


def _table(
    settings: Sequence[Mapping[str, float]],
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Returns the names of the settings' numbers, and the numbers of each name."""
    if isinstance(settings, Mapping):
        raise TypeError(f"settings must be a sequence of dicts; got the one dict {settings!r}.")
    if len(settings) == 0:
        raise ValueError("settings is empty; it needs one at least.")
    names = tuple(settings[0])
    if not names:
        raise ValueError("settings have no numbers; each needs one at least.")
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
