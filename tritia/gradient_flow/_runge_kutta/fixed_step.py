"""Runge-Kutta gradient steps: several gradients per step, no memory of earlier steps."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from tritia._arguments import (
    ScalarOrSchedule,
    check_choice,
    check_dtype,
    check_number,
    check_transform,
    value_at,
)
from tritia._in_place import computed_before, conditional
from tritia._leaves import passed_through, trained
from tritia._mesh import beside
from tritia._trees import cast_like, move, select, strong, times, zeros_like
from tritia.gradient_flow._runge_kutta.gradients import (
    GradFn,
    check_arguments,
    check_grad_fn,
    combined_zeros,
    evaluate,
)
from tritia.gradient_flow._runge_kutta.injected_schedules import schedule_counts_steps
from tritia.gradient_flow._runge_kutta.named_tableaus import (
    RungeKuttaScheme,
    TableauName,
    check_scheme,
)
from tritia.gradient_flow._runge_kutta.stages import (
    Memory,
    Stages,
    empty_memory,
    scheme_stages,
)

Mode = Literal["opaque", "transparent"]


class RungeKuttaState(NamedTuple):
    """State of `runge_kutta` in opaque mode.

    Attributes:
      count: completed steps, an int32 scalar; schedules are read here.
      preconditioner_state: the state of the preconditioner, () without one.
    """

    count: jax.Array
    preconditioner_state: optax.OptState


class TransparentRungeKuttaState(NamedTuple):
    """State of `runge_kutta` in transparent mode.

    Between steps `base` and `memory` are zero, so a state saved there depends on the count and the
    preconditioner alone.

    Attributes:
      count: completed steps, an int32 scalar; schedules are read here.
      stage: the stage that the next gradient is for, an int32 scalar; 0 where a step begins.
      step_size: the learning rate, read at stage one and kept for the whole step.
      base: the params that the step started from; () for a method with one stage.
      memory: the pytrees, shaped like the params, that later stages need.
      preconditioner_state: the preconditioner's state from before the step, () without one.
      next_preconditioner_state: the one that stage one made, used from the next step on.
    """

    count: jax.Array
    stage: jax.Array
    step_size: jax.Array
    base: optax.Params
    memory: Memory
    preconditioner_state: optax.OptState
    next_preconditioner_state: optax.OptState


@schedule_counts_steps(lambda arguments: arguments["scheme"])
def runge_kutta(
    learning_rate: ScalarOrSchedule,
    scheme: RungeKuttaScheme | TableauName,
    *,
    mode: Mode = "opaque",
    preconditioner: optax.GradientTransformation | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""A step of any explicit Runge-Kutta method along the gradient flow.

    With the preconditioned flow :math:`f(w) = -P \nabla L(w)` and a learning rate h,

    .. math::
      k_i = f\Big(w_t + h \sum_{j<i} a_{ij} k_j\Big), \qquad w_{t+1} = w_t + h \sum_i b_i k_i .

    A step costs one gradient for each stage. There are two ways to get them, called opaque and
    transparent after what the training loop sees of the stages:

    - **opaque**: `update(grads, state, params, grad_fn=f)`. `grads` serves stage one, and
      `f(params)` is called for the other stages; it must return gradients on the same minibatch::

        loss = lambda params: loss_fn(params, batch)
        grads = jax.grad(loss)(params)
        updates, state = optimizer.update(grads, state, params, grad_fn=jax.grad(loss))
        params = optax.apply_updates(params, updates)

    - **transparent**: nothing but `update(grads, state, params)`. Each call is one stage: it moves
      the params to where the next gradient is needed, and every s-th call completes the step. It
      works in any loop, with Flax's `TrainState` and `nnx.Optimizer` too. In between, params are
      *not* a point of the trajectory: validate and save where `tritia.at_step_boundary(state)`.
      With a fresh minibatch at each call the stages see different losses, and the order of
      accuracy holds for their mean only as far as the noise lets it.

    On a deterministic loss both give the same trajectory, to rounding.

    In opaque mode, transforms that stand earlier in an `optax.chain` see the gradient of stage one
    alone: put clipping, weight decay and the like into `preconditioner`, which sees every stage.
    Opaque mode can't stand inside `optax.masked` or `optax.partition`, because `grad_fn` would get
    masked params; transparent mode can. Inside `optax.MultiSteps(optimizer, k)`, stage one gets the
    mean gradient of k minibatches, so pass a `grad_fn` of the mean loss over all k of them: one of
    the last minibatch alone mixes two losses in a step. Transparent mode needs nothing there, as
    every stage gets its own mean. In transparent mode the transform must come last in a
    chain, because what follows would change the way to the next stage, and not the step alone.

    Memory: opaque mode keeps nothing between steps. Transparent mode keeps `scheme.memory` copies
    of the params (2 for `"rk4"`, 4 for `"dormand_prince"`, 4 for RKC2 whatever its stages)
    and twice the preconditioner's state.

    Args:
      learning_rate: the step size h, in units of the flow's time; a schedule counts completed
        steps, under `optax.inject_hyperparams` too. Whoever sets an injected learning rate between
        two stages changes the next step, not the one under way.
      scheme: a `ButcherTableau`, a `ChebyshevScheme`, or the name of one of `tritia.TABLEAUS`.
      mode: `"opaque"` or `"transparent"`.
      preconditioner: an Optax transform P that turns gradients into directions, such as
        `optax.scale_by_adam()`; no learning rate in it. Every stage is preconditioned with P's
        state from before the step, because a state that moved between the stages would be another
        flow at each; of the new states only stage one's is kept, so P counts steps, not stages.
        It is given the stage's params (weight decay works) and the extra arguments of `update`.
      accumulator_dtype: the dtype of what transparent mode keeps between stages; None is the
        params' own. Opaque mode keeps nothing and ignores it. The step's starting point is kept in
        no fewer digits than the params. Sums are formed in float32 at least.

    Returns:
      An `optax.GradientTransformationExtraArgs`; its `update` needs `params`, and in opaque mode
      `grad_fn`.

    Raises:
      ValueError: `scheme` or `mode` is unknown, `learning_rate` is out of range; in `update`,
        `params` or `grad_fn` is missing, params are masked, or the gradients have not the structure
        of params (None in place of an array is another structure).
      TypeError: an argument is of a wrong type.

    References:
      Hairer, Nørsett, Wanner, `Solving Ordinary Differential Equations I
      <https://doi.org/10.1007/978-3-540-78862-1>`_, chapter II, 1993

    Examples:
      >>> import jax, optax, tritia
      >>> loss = lambda w: 0.5 * w**2  # the flow is w(t) = exp(-t) w(0)
      >>> optimizer = tritia.runge_kutta(0.5, "rk4")
      >>> w = jax.numpy.asarray(1.0)
      >>> state = optimizer.init(w)
      >>> for _ in range(2):
      ...     updates, state = optimizer.update(jax.grad(loss)(w), state, w,
      ...                                       grad_fn=jax.grad(loss))
      ...     w = optax.apply_updates(w, updates)
      >>> print(f"{w:.4f} {jax.numpy.exp(-1.0):.4f}")
      0.3682 0.3679

      Transparent: the same from eight plain updates.

      >>> optimizer = tritia.runge_kutta(0.5, "rk4", mode="transparent")
      >>> w = jax.numpy.asarray(1.0)
      >>> state = optimizer.init(w)
      >>> for _ in range(8):
      ...     updates, state = optimizer.update(jax.grad(loss)(w), state, w)
      ...     w = optax.apply_updates(w, updates)
      >>> print(f"{w:.4f} {tritia.at_step_boundary(state)}")
      0.3682 True
    """
    check_number("learning_rate", learning_rate, minimum=0.0)
    stages = scheme_stages(check_scheme(scheme))
    check_choice("mode", mode, ("opaque", "transparent"))
    if preconditioner is None:
        preconditioner = optax.identity()
    field = check_transform("preconditioner", preconditioner)
    dtype = check_dtype("accumulator_dtype", accumulator_dtype)
    if mode == "opaque":
        return _opaque(learning_rate, stages, field)
    return _transparent(learning_rate, stages, field, dtype)


def _opaque(
    learning_rate: ScalarOrSchedule, stages: Stages, field: optax.GradientTransformationExtraArgs
) -> optax.GradientTransformationExtraArgs:
    def init_fn(params):
        return beside(
            params, RungeKuttaState(jnp.zeros([], jnp.int32), field.init(strong(trained(params))))
        )

    def update_fn(updates, state, params=None, *, grad_fn: GradFn | None = None, **extra):
        given = updates
        updates, params, whole = check_arguments(updates, params)
        if stages.count > 1:
            grad_fn = check_grad_fn(
                grad_fn,
                whole,
                stages.count - 1,
                if_missing='; or build the optimizer with mode="transparent".',
                if_masked='Use mode="transparent" there, or mask inside the preconditioner.',
            )
        h = jnp.asarray(value_at(learning_rate, state.count))
        slope, field_state = field.update(updates, state.preconditioner_state, params, **extra)

        def stage(j, offset, memory):
            point = move(params, h, offset)
            direction = evaluate(grad_fn, point, whole)
            slope, _ = field.update(direction, state.preconditioner_state, point, **extra)
            return stages.advance(j, slope, memory)

        memory = tuple(combined_zeros(params, slope) for _ in range(stages.slots))
        offset, memory = stages.advance(0, slope, memory)
        if stages.rolled:
            (offset, _), _ = jax.lax.scan(
                lambda carry, j: (stage(j, *carry), None),
                (offset, memory),
                jnp.arange(1, stages.count),
            )
        else:
            for j in range(1, stages.count):
                offset, memory = stage(j, offset, memory)
        step = jax.tree.map(lambda p, o: (-times(h, o)).astype(p.dtype), params, offset)
        count = jnp.asarray(optax.safe_increment(state.count))
        return passed_through(step, given), RungeKuttaState(count, field_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _transparent(
    learning_rate: ScalarOrSchedule,
    stages: Stages,
    field: optax.GradientTransformationExtraArgs,
    accumulator_dtype: Any,
) -> optax.GradientTransformationExtraArgs:
    def wider(leaf):
        # A base in fewer digits than the params would round them.
        dtype = leaf.dtype if accumulator_dtype is None else accumulator_dtype
        return leaf.astype(jnp.promote_types(leaf.dtype, dtype))

    def init_fn(params):
        params = trained(params)
        return beside(
            params,
            TransparentRungeKuttaState(
                count=jnp.zeros([], jnp.int32),
                stage=jnp.zeros([], jnp.int32),
                step_size=jnp.zeros([], jnp.result_type(float)),
                base=jax.tree.map(wider, zeros_like(params)) if stages.count > 1 else (),
                memory=empty_memory(stages, params, accumulator_dtype),
                preconditioner_state=field.init(strong(params)),
                # A second call, so that no two leaves of the state share a buffer.
                next_preconditioner_state=field.init(strong(params)),
            ),
        )

    def update_fn(updates, state, params=None, **extra):
        extra.pop("grad_fn", None)
        given = updates
        updates, params, _ = check_arguments(updates, params)
        first, last = state.stage == 0, state.stage == stages.count - 1
        h = value_at(learning_rate, state.count)
        h = jnp.where(first, h, state.step_size).astype(state.step_size.dtype)
        slope, new = field.update(updates, state.preconditioner_state, params, **extra)
        new = select(first, new, state.next_preconditioner_state)

        traced = isinstance(state.stage, Tracer)
        stage = state.stage if traced else int(state.stage)  # then it needs no look-up
        several = stages.count > 1  # a single stage starts and ends the step

        # XLA overwrites base and memory in place where it knows that nothing reads them any more:
        # each write is a conditional, and needs a result of what has to come before it.
        base = params
        if several:
            base = conditional(first, lambda: cast_like(params, state.base), lambda: state.base)

        def to_target(offset):
            # The way to the target from where the params are. The target itself is one rounding
            # away from the base, so that the stages between leave no trace in the params.
            target = cast_like(move(base, h, offset), params)
            return jax.tree.map(lambda x, p: x - p, target, params)

        def advance():
            return stages.advance(stage, slope, state.memory)

        read: Any = True
        if traced and several and not stages.rolled:
            # Of either `advance` XLA drops the half that is not needed.
            placeholder = cast_like(updates, params)
            step, read = computed_before(state.stage, lambda: to_target(advance()[0]), placeholder)
            memory = conditional(read, lambda: advance()[1], lambda: state.memory)
        else:
            offset, memory = advance()
            step = to_target(offset)
        if several:
            base = conditional(last & read, lambda: zeros_like(base), lambda: base)
        return passed_through(step, given), TransparentRungeKuttaState(
            count=jnp.where(last, optax.safe_increment(state.count), state.count),
            stage=jnp.where(last, 0, state.stage + 1),
            step_size=h,
            base=base if several else (),
            memory=memory,
            preconditioner_state=select(last, new, state.preconditioner_state),
            next_preconditioner_state=new,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
