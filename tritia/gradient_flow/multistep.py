"""Linear multistep optimizers: one gradient per step, and a memory of earlier steps."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tritia._arguments import ScalarOrSchedule, check_dtype, check_number, value_at
from tritia.gradient_flow import history, promises
from tritia.gradient_flow.coefficients import (
    LinearMultistep,
    adams_bashforth_scheme,
    bdf_scheme,
    check_scheme,
    difference_scheme,
)
from tritia.gradient_flow.variable_step import (
    adapt_to_step_sizes,
    arranged,
    growth_limit,
    shrink_limit,
)

MAX_SHRINK = 1000.0
"""Past steps longer than this many times the next one are not read: float32 cannot resolve both."""


class LinearMultistepState(NamedTuple):
    """State of the linear multistep optimizers.

    Attributes:
      count: steps taken, int32 of shape (); stays at its maximum once there.
      position: steps taken modulo the length of the histories, int32 of shape ().
      step_sizes: the last step sizes, newest first, 0 where there is none yet: float32 (float64 for
        float64 params) of shape (steps - 1,). None for gradient descent and in the `scale_by_`
        form, which need none (and checkpoints take no empty arrays).
      steps: the last displacements, a ring buffer: a tuple of trees shaped like the params.
      directions: the last incoming updates, a ring buffer: a tuple of trees shaped like the params.
    """

    count: jax.Array
    position: jax.Array
    step_sizes: jax.Array | None
    steps: history.History
    directions: history.History


class _Coefficients(NamedTuple):
    """What one step of size h is made of: update = h gains . directions - weights . steps."""

    weights: jax.Array  # of the past displacements, newest first
    gains: jax.Array  # of the direction that comes in, then of the past ones, newest first


def scale_by_linear_multistep(
    scheme: LinearMultistep, accumulator_dtype: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Replaces Euler's step by a linear multistep scheme, for use inside a chain.

    With :math:`u_t` the incoming update and :math:`s_t` the outgoing one,

    .. math:: s_t = -\sum_{i \ge 1} A_i s_{t-i} + \sum_j b_j u_{t-j}, \quad A_i = \sum_{j \ge i} a_j

    followed by `optax.scale_by_learning_rate`. The coefficients are those for equal steps: under a
    schedule that changes smoothly no more than order 2 is left of the scheme's order, under one
    that jumps no more than order 1. `linear_multistep` knows the step sizes and keeps its order.

    Until there is history, the schemes with fewer steps of the same family take its place, gradient
    descent first.

    Args:
      scheme: the coefficients; see `adams_bashforth_scheme`, `bdf_scheme`, `difference_scheme`,
        `heavy_ball_scheme` and `derive_scheme`. Static.
      accumulator_dtype: dtype of the memory; None keeps that of the params.

    Returns:
      The transform. Its state is a `LinearMultistepState`.

    Raises:
      TypeError: `scheme` is not a `LinearMultistep`, or `accumulator_dtype` not a floating dtype.

    References:
      Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, 1993, chapter III.

    Examples:
      Adam's preconditioner, stepped by a second-order scheme instead of Euler's:

      >>> import jax, jax.numpy as jnp, optax, tritia
      >>> optimizer = optax.chain(
      ...     optax.scale_by_adam(),
      ...     tritia.scale_by_linear_multistep(tritia.adams_bashforth_scheme(2)),
      ...     optax.scale_by_learning_rate(0.1),
      ... )
      >>> params = jnp.array([1.0, -2.0])
      >>> state = optimizer.init(params)
      >>> for _ in range(50):
      ...     grads = jax.grad(lambda w: jnp.sum(w**2))(params)
      ...     updates, state = optimizer.update(grads, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(jnp.all(jnp.abs(params) < 0.2))
      True
    """
    check_scheme(scheme)
    accumulator_dtype = check_dtype("accumulator_dtype", accumulator_dtype)

    return _multistep(
        scheme,
        lambda count: 1.0,
        functools.partial(_by_history, scheme),
        accumulator_dtype,
        stored_sizes=0,
        sign=1,
    )


def linear_multistep(
    learning_rate: ScalarOrSchedule, scheme: LinearMultistep, accumulator_dtype: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent with Euler's step replaced by a linear multistep scheme.

    With :math:`\Delta w_t = w_{t+1} - w_t`, the learning rate :math:`h_t` and
    :math:`f_t = -\nabla L(w_t)`,

    .. math:: \Delta w_t = -\sum_{i \ge 1} A_i \Delta w_{t-i} + h_t \sum_j b_j f_{t-j},
              \quad A_i = \sum_{j \ge i} a_j

    **Order.** The iterates stay within :math:`O(h^p)` of the gradient flow
    :math:`w' = -\nabla L(w)` on a fixed stretch of time, p the scheme's order. Until there is
    history, the schemes with fewer steps of the same family take its place, gradient descent first.
    The first Euler step leaves an error of :math:`O(h^2)` whatever follows: orders 1 and 2 survive
    that, orders of 3 and more do not. A learning rate that starts at about :math:`h (h/T)^{p/2-1}`,
    T the problem's time scale, and grows geometrically to h recovers them.

    **Schedules.** Where the learning rate changes, the coefficients follow
    (:func:`tritia.gradient_flow.variable_step.adapt_to_step_sizes`) and the order is kept. Where it
    grows faster than the scheme bears (`growth_limit`), passes through 0, or falls more than a
    thousandfold within the scheme's memory, fewer steps are used until the history is even again.

    **Learning rate.** Stable while learning rate times sharpness is at most `stability_interval`; 2
    for gradient descent. That holds once the history is full: the first steps are gradient descent
    and schemes with fewer steps, with intervals of their own. A scheme that bears more than they do
    is best warmed up from gradient descent's learning rate, as `difference` shows.

    Args:
      learning_rate: the step size, in units of the flow's time: a float >= 0, a scalar array or a
        schedule. A traced or injected value does not recompile when it changes.
      scheme: the coefficients. Static.
      accumulator_dtype: dtype of the memory; None keeps that of the params. Arithmetic is done in
        float32 at least.

    Returns:
      The optimizer. Its state is a `LinearMultistepState`, whose memory is `tritia.memory(scheme)`
      copies of the params.

    Raises:
      TypeError: `scheme` is not a `LinearMultistep`, `learning_rate` not a number, array or
        schedule, or `accumulator_dtype` not a floating dtype.
      ValueError: `learning_rate` is negative or not finite.

    References:
      Scieur et al., Integration Methods and Accelerated Optimization Algorithms, 2017.

      Ma et al., Enhancing Deep Learning with Optimized Gradient Descent, arXiv:2409.04707, 2024.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, tritia
      >>> loss = lambda w: jnp.sum(jnp.array([1.0, 10.0]) * w**2) / 2
      >>> scheme = tritia.derive_scheme(2, a=(None, None, "1/4"), b=(None,))
      >>> optimizer = tritia.linear_multistep(0.15, scheme)
      >>> params = jnp.array([1.0, 1.0])
      >>> state = optimizer.init(params)
      >>> for _ in range(60):
      ...     updates, state = optimizer.update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(loss(params) < 1e-6)
      True
    """
    check_scheme(scheme)
    check_number("learning_rate", learning_rate, minimum=0)
    accumulator_dtype = check_dtype("accumulator_dtype", accumulator_dtype)
    constant = isinstance(learning_rate, numbers.Real)

    choose = _by_history if constant or scheme.steps == 1 else _by_step_sizes
    return _multistep(
        scheme,
        functools.partial(value_at, learning_rate),
        functools.partial(choose, scheme),
        accumulator_dtype,
        stored_sizes=scheme.steps - 1,
        sign=-1,
    )


def adams_bashforth(
    learning_rate: ScalarOrSchedule, order: int = 2, accumulator_dtype: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent by the Adams-Bashforth scheme: extrapolates from the last gradients.

    .. math:: w_{t+1} = w_t - h (\tfrac32 \nabla L(w_t) - \tfrac12 \nabla L(w_{t-1})), \quad p = 2

    Order 1 is `optax.sgd`. Order 2 is
    ``optax.optimistic_gradient_descent(learning_rate, alpha=1.0, beta=0.5)`` that keeps its order
    under a schedule. Stable while learning rate times sharpness is at most 2, 1, 6/11, 3/10 for
    orders 1 to 4, so choose a smaller learning rate than for SGD. See `linear_multistep` for the
    start-up and schedules.

    Args:
      learning_rate: the step size: a float >= 0, a scalar array or a schedule.
      order: p, 1 to 5; the state keeps p - 1 gradients. Static.
      accumulator_dtype: dtype of the memory; None keeps that of the params.

    Returns:
      The optimizer; its state is a `LinearMultistepState`.

    Raises:
      TypeError: `order` is not a Python int, or see `linear_multistep`.
      ValueError: `order` is not allowed, or see `linear_multistep`.

    References:
      Bashforth, Adams 1883; Hairer, Norsett, Wanner 1993, section III.1 (variable steps: III.5).

    Examples:
      >>> import jax, jax.numpy as jnp, optax, tritia
      >>> optimizer = tritia.adams_bashforth(learning_rate=0.1, order=2)
      >>> params = {"w": jnp.ones(3)}
      >>> state = optimizer.init(params)
      >>> grads = jax.tree.map(lambda w: w, params)  # of |w|^2 / 2
      >>> updates, state = optimizer.update(grads, state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> print(params["w"])
      [0.9 0.9 0.9]
    """
    return linear_multistep(learning_rate, adams_bashforth_scheme(order), accumulator_dtype)


def bdf(
    learning_rate: ScalarOrSchedule, order: int = 2, accumulator_dtype: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent by the extrapolated backward differentiation formula (BDF).

    .. math:: w_{t+1} = \tfrac43 w_t - \tfrac13 w_{t-1}
              - h (\tfrac43 \nabla L(w_t) - \tfrac23 \nabla L(w_{t-1})), \quad p = 2

    Calmer than Adams-Bashforth of the same order: a longer stability interval (4/3 against 1 at
    order 2, 0.952 against 6/11 at order 3) and less gradient noise let through, for twice the
    memory. See `linear_multistep` for the start-up and schedules.

    Args:
      learning_rate: the step size: a float >= 0, a scalar array or a schedule.
      order: p, 1 to 5; the state keeps p - 1 steps and p - 1 gradients. Static.
      accumulator_dtype: dtype of the memory; None keeps that of the params.

    Returns:
      The optimizer; its state is a `LinearMultistepState`.

    Raises:
      TypeError: `order` is not a Python int, or see `linear_multistep`.
      ValueError: `order` is not allowed, or see `linear_multistep`.

    References:
      Curtiss, Hirschfelder 1952; Crouzeix 1980 and Varah 1980 for the extrapolation.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, tritia
      >>> optimizer = tritia.bdf(optax.cosine_decay_schedule(0.5, 40), order=2)
      >>> params = jnp.ones(2)
      >>> state = optimizer.init(params)
      >>> for _ in range(40):
      ...     updates, state = optimizer.update(params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(jnp.max(jnp.abs(params)) < 1e-3)
      True
    """
    return linear_multistep(learning_rate, bdf_scheme(order), accumulator_dtype)


def difference(
    learning_rate: ScalarOrSchedule,
    order: int = 2,
    steps: int = 3,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent with Euler's difference quotient replaced by a higher-order one.

    .. math:: w_{t+1} = w_t - \tfrac13 w_{t-1} + \tfrac13 w_{t-2} - \tfrac43 h \nabla L(w_t),
              \quad p = 2, k = 3

    One gradient, no past gradients: the order comes from past points. With 3 steps it is stable at
    the same learning rates as SGD and an order closer to the gradient flow; more steps bear larger
    learning rates (`tritia.describe` prints them), but only once there is history: above SGD's
    largest learning rate the first steps would overshoot, so warm it up from there, by at most
    `tritia.growth_limit` per step. See `linear_multistep` for the start-up and schedules.

    Args:
      learning_rate: the step size: a float >= 0, a scalar array or a schedule.
      order: p, 2 or 3. Static.
      steps: k; the state keeps k - 1 steps. `DIFFERENCE_SCHEMES` lists the pairs (order, steps).
        Static.
      accumulator_dtype: dtype of the memory; None keeps that of the params.

    Returns:
      The optimizer; its state is a `LinearMultistepState`.

    Raises:
      TypeError: `order` or `steps` is not a Python int, or see `linear_multistep`.
      ValueError: there is no such scheme, or see `linear_multistep`.

    References:
      Ma et al., Enhancing Deep Learning with Optimized Gradient Descent, arXiv:2409.04707, 2024,
      for the idea; notebooks/stable_difference_schemes.ipynb derives the weights.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, tritia
      >>> optimizer = tritia.difference(learning_rate=0.5)
      >>> params = jnp.ones(2)
      >>> state = optimizer.init(params)
      >>> for _ in range(30):
      ...     updates, state = optimizer.update(params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(jnp.max(jnp.abs(params)) < 1e-3)
      True

      Two and a half times the largest learning rate of SGD (sharpness 1), warmed up:

      >>> schedule = optax.linear_schedule(1.8, 5.0, transition_steps=12)
      >>> optimizer = tritia.difference(schedule, order=2, steps=5)
      >>> params = jnp.ones(2)
      >>> state = optimizer.init(params)
      >>> for _ in range(200):
      ...     updates, state = optimizer.update(params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(jnp.max(jnp.abs(params)) < 1e-3)
      True
    """
    return linear_multistep(learning_rate, difference_scheme(order, steps), accumulator_dtype)


def _multistep(
    scheme: LinearMultistep,
    read_step_size: Callable[[jax.Array], jax.typing.ArrayLike],
    coefficients: Callable[[LinearMultistepState, jax.Array], _Coefficients],
    accumulator_dtype: Any,
    *,
    stored_sizes: int,
    sign: int,
) -> optax.GradientTransformationExtraArgs:
    """The transform behind all names; `sign` is -1 where the incoming updates are gradients.

    `coefficients` are those of a step of a given size, 1 in the `scale_by_` form.
    """
    past_steps, past_directions = scheme.history_lengths
    period = math.lcm(max(past_steps, 1), max(past_directions, 1))

    def init_fn(params: optax.Params) -> Any:
        return LinearMultistepState(
            count=jnp.zeros((), jnp.int32),
            position=jnp.zeros((), jnp.int32),
            step_sizes=jnp.zeros(stored_sizes, _scalar_dtype(params)) if stored_sizes else None,
            steps=history.empty(params, past_steps, accumulator_dtype),
            directions=history.empty(params, past_directions, accumulator_dtype),
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del extra_args
        like = updates if params is None else params
        dtype = _scalar_dtype(like)
        step_size = jnp.asarray(read_step_size(state.count)).astype(dtype)

        def by_slot() -> tuple[jax.Array, ...]:
            weights, gains = coefficients(state, step_size)
            gains = sign * step_size * gains
            past = history.by_slot(gains[1:], state.position)
            return gains[0], *-history.by_slot(weights, state.position), *past

        # Scalars that stand in the open are computed again for every leaf of the params, and
        # compiled again; within a conditional they are not. This one's condition always holds,
        # which XLA does not know.
        terms = 1 + past_steps + past_directions
        nothing = (jnp.zeros((), dtype),) * terms
        factors = history.conditional(state.count >= 0, by_slot, lambda: nothing)

        def displacement(steps: history.History) -> Any:
            def leaf(direction: Any, target: Any, *past: Any) -> Any:
                if direction is None:
                    return None
                # Half-precision leaves are combined in float32: the memory traffic is the same.
                wide = jnp.promote_types(jnp.result_type(direction), jnp.float32)
                real = jnp.finfo(wide).dtype
                total = factors[0].astype(real) * direction
                for factor, term in zip(factors[1:], past, strict=True):
                    total = total + factor.astype(real) * term
                return total.astype(target)

            past = (*steps, *state.directions)
            return jax.tree.map(leaf, updates, dtypes, *past, is_leaf=_is_none)

        dtypes = jax.tree.map(_step_dtype, updates, like, *state.steps[:1], is_leaf=_is_none)
        in_place = past_steps == 2 or (past_steps == 1 and past_directions > 0)
        if in_place and dtypes == jax.tree.map(jnp.result_type, state.steps[0]):
            steps, read = history.write_computed(state.steps, state.position, displacement)
            step = history.newest(steps, state.position)
        else:
            compute, read = functools.partial(displacement, state.steps), True
            if past_directions > 1:
                step, read = history.computed_before(state.position, compute, updates)
            else:
                step = compute()
            steps = history.write(state.steps, state.position, step)
        new = jax.tree.map(
            lambda direction, step, leaf: (
                None if direction is None else step.astype(jnp.result_type(leaf))
            ),
            updates,
            step,
            like,
            is_leaf=_is_none,
        )
        step_sizes = state.step_sizes
        if step_sizes is not None:
            newest = step_size.astype(step_sizes.dtype)[None]
            step_sizes = jnp.concatenate([newest, step_sizes])[:stored_sizes]
        return new, LinearMultistepState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            position=(state.position + 1) % period,
            step_sizes=step_sizes,
            steps=steps,
            directions=history.write(state.directions, state.position, updates, read),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _step_dtype(direction: Any, param: Any, kept: Any = None) -> Any:
    """The dtype that a leaf's displacement is rounded to before it is stored and returned.

    That of what is returned; where the memory has more digits, that of the memory.
    """
    if direction is None:
        return None
    returned = jnp.result_type(param)
    if kept is None or kept.dtype == returned:
        return returned
    wide = jnp.promote_types(jnp.result_type(direction, jnp.float32), returned)
    return kept.dtype if jnp.promote_types(kept.dtype, wide) == kept.dtype else wide


def _scalar_dtype(params: optax.Params) -> Any:
    """The dtype for step sizes and coefficients: float32, or float64 where a leaf has it."""
    dtype = jnp.dtype(jnp.float32)
    for leaf in jax.tree.leaves(params):
        leaf_dtype = jnp.result_type(leaf)
        if jnp.issubdtype(leaf_dtype, jnp.inexact):
            dtype = jnp.promote_types(dtype, jnp.finfo(leaf_dtype).dtype)
    return dtype


def _split(scheme: LinearMultistep, x: jax.Array) -> _Coefficients:
    """Turns coefficients (a, b), each of length k, into weights A_i and gains b_j."""
    past_steps, past_directions = scheme.history_lengths
    a, b = x[: scheme.steps], x[scheme.steps :]
    weights = jnp.flip(jnp.cumsum(jnp.flip(a)))[1:]
    return _Coefficients(weights[:past_steps], b[: past_directions + 1])


def _by_history(
    scheme: LinearMultistep, state: LinearMultistepState, step_size: jax.Array
) -> _Coefficients:
    """The coefficients for equal steps, by how much history there is."""
    rows = [
        next(
            arranged(rung, scheme.steps)[0]
            for rung in scheme.ladder
            if scheme.from_rest or rung.steps - 1 <= available
        )
        for available in range(scheme.steps)
    ]
    row = jnp.minimum(state.count, scheme.steps - 1)
    x = jnp.asarray(np.stack(rows), step_size.dtype)[row]
    return _split(scheme, x)


class _Rungs(NamedTuple):
    """The ladder as arrays; the first axis runs over its rungs, k is the scheme's steps."""

    x: np.ndarray  # coefficients (a, b) for equal steps, (rungs, 2 k)
    free: np.ndarray  # which of them the rung has, (rungs, 2 k)
    order: np.ndarray  # (rungs,)
    unread: np.ndarray  # which past steps the rung does not read, (rungs, k - 1)
    highest: np.ndarray  # the largest h_t / h_{t-j} it bears, (rungs, k - 1)
    lowest: np.ndarray  # the smallest


@functools.lru_cache(maxsize=256)
def _rungs(scheme: LinearMultistep) -> _Rungs:
    ladder, lag = scheme.ladder, np.arange(1, scheme.steps)
    rows = [arranged(rung, scheme.steps) for rung in ladder]
    slack = 1e-6  # a ratio that is exactly at a limit is computed with rounding
    return _Rungs(
        x=np.stack([x for x, _ in rows]),
        free=np.stack([free for _, free in rows]),
        order=np.array([promises.order(rung) for rung in ladder]),
        unread=np.stack([lag >= rung.steps for rung in ladder]),
        highest=np.stack([growth_limit(rung) ** lag * (1 + slack) for rung in ladder]),
        lowest=np.stack([shrink_limit(rung) ** lag * (1 - slack) for rung in ladder]),
    )


def _by_step_sizes(
    scheme: LinearMultistep, state: LinearMultistepState, step_size: jax.Array
) -> _Coefficients:
    """The coefficients for the actual step sizes, from the longest rung that these allow.

    All rungs are adapted together, so that the work does not grow with their number.
    """
    rungs, dtype = _rungs(scheme), step_size.dtype
    past, lag = cast(jax.Array, state.step_sizes), np.arange(1, scheme.steps)
    if scheme.from_rest:
        # A point at rest has been there for as long as anybody asks.
        past = jnp.where(lag <= state.count, past, step_size)
    reach = jnp.cumsum(past) / jnp.where(step_size > 0, step_size, 1)
    borne = (
        (past > 0)
        & (step_size > 0)
        & (step_size <= rungs.highest.astype(dtype) * past)
        & (step_size >= rungs.lowest.astype(dtype) * past)
        & (reach <= lag * MAX_SHRINK)
    )
    allowed = jnp.all(borne | rungs.unread, axis=-1)  # gradient descent always is
    # Rungs that are not allowed are worked out for equal steps, so that nothing becomes NaN.
    times = jnp.where(allowed[:, None] & (reach <= lag * MAX_SHRINK), -reach, -lag.astype(dtype))
    times = jnp.pad(times, ((0, 0), (1, 0)))
    x = adapt_to_step_sizes(jnp.asarray(rungs.x, dtype), times, rungs.free, rungs.order)
    return _split(scheme, x[jnp.argmax(allowed)])
