"""The computation of a sweep: many runs as one compiled function.

A *run* is the training with one setting and one seed: `jax.vmap` over the seeds, and once more over
the settings, makes one computation of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import tritia
from tritia._arguments import with_extra_args
from tritia._trees import find_states
from tritia.inertia._evaluation import EVALUATED_STATES
from tritia.sweeps._chunks import bytes_of
from tritia.sweeps._lanes import Axes, Lanes
from tritia.sweeps._problem import Problem


class Carry(NamedTuple):
    """What a run takes from step to step.

    Attributes:
      params: the trained params.
      rest: what the model holds besides.
      state: the transform's.
      best: where the best is kept: the lowest value of a record so far (of the opposite sign where
        a greater value is better) and the evaluated params at it; otherwise None.
    """

    params: Any
    rest: Any
    state: Any
    best: tuple[jax.Array, Any] | None = None


class Plan(NamedTuple):
    """What is to be run, whatever the settings.

    Attributes:
      make_transform: from a setting (numbers that are traced) to the transform.
      problem: what is trained.
      batch: (key, step, data) -> batch.
      extra: from a batch to further arguments of `update`.
      evaluation_params: from (state, params) to the params to evaluate.
      every: steps between two records.
      keep_best: 1 to keep the params at the lowest value of a record, -1 at the highest; 0 to keep
        none but the last.
    """

    make_transform: Callable[[Any], optax.GradientTransformation]
    problem: Problem
    batch: Callable[[Any, Any, Any], Any]
    extra: Callable[[Any], Mapping[str, Any]]
    evaluation_params: Callable[[Any, Any], Any]
    every: int
    keep_best: int = 0


class VmappedRuns(NamedTuple):
    """A compiled group of runs, on one device or spread over several.

    Attributes:
      start: (settings, keys) -> carry.
      advance: (carry, settings, keys, step, data) -> carry, (training losses, values), which are
        arrays (settings, seeds). It takes the carry's buffers for its own.
      lanes: how they are spread.
      bytes: what the compiler says that `advance` needs on each device, data included.
    """

    start: Callable[..., Carry]
    advance: Callable[..., tuple[Carry, tuple[jax.Array, jax.Array]]]
    lanes: Lanes
    bytes: int


def _transform(plan: Plan, setting: Any) -> optax.GradientTransformation:
    """Builds the transform of one setting, whose numbers are traced."""
    try:
        return plan.make_transform(setting)
    except (jax.errors.TracerBoolConversionError, jax.errors.ConcretizationTypeError) as error:
        raise TypeError(
            "make_transform needs the value of a swept number while it builds the transform, and"
            f" settings are trained as one program in which {sorted(setting)} are traced. Some"
            " schedules of Optax do, such as warmup_cosine_decay_schedule of its peak: scale one of"
            " a fixed height instead, lambda count: setting['peak'] * base(count)."
        ) from error


def start(plan: Plan, setting: Any, key: jax.Array) -> Carry:
    """Returns what one run starts from."""
    params, rest = plan.problem.init(key)
    state = _transform(plan, setting).init(params)
    if not plan.keep_best:
        return Carry(params, rest, state)
    nothing = jax.tree.map(jnp.zeros_like, plan.evaluation_params(state, params))
    return Carry(params, rest, state, (jnp.full((), jnp.inf, jnp.result_type(float)), nothing))


def compile_runs(plan: Plan, settings: Any, keys: Any, data: Any, lanes: Lanes) -> VmappedRuns:
    """Compiles a group.

    Args:
      plan: what is to be run.
      settings: arrays of shape (settings,), by name; only their shapes matter.
      keys: (seeds,); only their shape matters.
      data: the data of the run; only their shapes matter.
      lanes: how the runs are spread over devices, which divide them.

    Returns:
      The `VmappedRuns`.
    """

    def over_runs(function: Callable[..., Any], *axes: Axes) -> Callable[..., Any]:
        inner = tuple(0 if axis in ("seeds", "both") else None for axis in axes)
        outer = tuple(0 if axis in ("settings", "both") else None for axis in axes)
        return jax.vmap(jax.vmap(function, in_axes=inner), in_axes=outer)

    def advance(carry: Carry, setting: Any, key: jax.Array, first: jax.Array, data: Any) -> Any:
        solver = with_extra_args(_transform(plan, setting))
        # Settings of one seed start alike and see the same batches.
        key = jax.random.fold_in(key, 1)

        def step(carry: Carry, number: jax.Array) -> tuple[Carry, jax.Array]:
            batch = plan.batch(key, number, data)

            def loss(params: Any) -> tuple[jax.Array, Any]:
                return plan.problem.loss(params, carry.rest, batch)

            (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(carry.params)
            extra = {
                "grad_fn": lambda params: jax.grad(loss, has_aux=True)(params)[0],
                # As the line searches of Optax take the loss.
                "value": value,
                "grad": gradients,
                # They hand it the other arguments, and refuse those that it does not take.
                "value_fn": lambda params, grad_fn=None: loss(params)[0],
            } | dict(plan.extra(batch))
            updates, state = solver.update(gradients, carry.state, carry.params, **extra)
            params = optax.apply_updates(carry.params, updates)
            return carry._replace(params=params, rest=rest, state=state), value

        carry, losses = jax.lax.scan(step, carry, first + jnp.arange(plan.every))
        loss = jnp.mean(losses)
        params = plan.evaluation_params(carry.state, carry.params)
        evaluate = plan.problem.evaluate
        value = loss if evaluate is None else evaluate(params, carry.rest, data)
        if carry.best is not None:
            best, kept = carry.best
            lower = plan.keep_best * value < best  # False for NaN
            kept = jax.tree.map(lambda old, new: jnp.where(lower, new, old), kept, params)
            best = jnp.where(lower, plan.keep_best * value, best).astype(best.dtype)
            carry = carry._replace(best=(best, kept))
        return carry, (loss, value)

    start_all = lanes.spread(
        over_runs(functools.partial(start, plan), "settings", "seeds"),
        ("settings", "seeds"),
        "both",
    )
    advance_all = lanes.spread(
        over_runs(advance, "both", "settings", "seeds", "none", "none"),
        ("both", "settings", "seeds", "none", "none"),
        ("both", "both"),
        donate_argnums=0,
    )
    shape = jax.eval_shape(start_all, settings, keys)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    compiled = advance_all.lower(shape, settings, keys, step, data).compile()
    used: Any = compiled.memory_analysis()
    size = (
        used.argument_size_in_bytes
        + used.output_size_in_bytes
        + used.temp_size_in_bytes
        - used.alias_size_in_bytes
    )
    return VmappedRuns(start_all, compiled, lanes, size)


def iterate(state: Any, params: Any) -> Any:
    """Returns the params to evaluate: those of `tritia.eval_params`, where the state has them."""
    if find_states(state, EVALUATED_STATES):
        return tritia.eval_params(state, params)
    return params


def bytes_of_a_run(plan: Plan, names: Iterable[str], keys: jax.Array) -> int:
    """Returns how many bytes one run takes between two steps."""
    setting = dict.fromkeys(names, jax.ShapeDtypeStruct((), jnp.result_type(float)))
    return bytes_of(jax.eval_shape(functools.partial(start, plan), setting, keys[0]))
