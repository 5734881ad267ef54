"""Adaptive Runge-Kutta steps: an embedded error estimate chooses the learning rate."""

from __future__ import annotations

import functools
import math
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tritia._arguments import (
    ScalarOrSchedule,
    check_number,
    check_static_int,
    check_transform,
    value_at,
)
from tritia._trees import Tree, linear_combination, move, select, strong, times
from tritia.gradient_flow._runge_kutta.fixed_step import check_tableau
from tritia.gradient_flow._runge_kutta.gradients import (
    GradFn,
    check_grad_fn,
    check_params,
    check_updates,
    evaluate,
)
from tritia.gradient_flow._runge_kutta.tableau import ButcherTableau

SAFETY = 0.9
"""The next step aims at this fraction of the size that would just be accepted."""

SHRINK, GROW = 0.2, 10.0
"""By which factors a step size may change from one try to the next."""

LEAST_ERROR = 1e-4
"""An error norm below it is remembered as it: one lucky step must not throttle the next."""


LONGEST = float(jnp.finfo(jnp.float32).max) ** 0.5
"""Step sizes stay below it: on a plateau they would overflow."""


class AdaptiveRungeKuttaState(NamedTuple):
    """State of `adaptive_runge_kutta`.

    Attributes:
      count: updates so far, an int32 scalar; schedules are read here.
      time: the flow's time reached: the sum of the accepted step sizes.
      learning_rate: the size of the step just taken; 0 before the first and after a failure.
      next_learning_rate: the size that the next update tries first; 0 where none is known yet.
      error_norm: the error estimate of the last try, in units of the tolerance; a step is accepted
        up to 1. Infinite where a stage was not finite.
      accepted: accepted steps so far, an int32 scalar.
      rejected: rejected tries so far, an int32 scalar.
      failed: whether the last update found no acceptable step and left the params where they were.
      previous_error: the error norm of the last accepted step, for the controller.
      preconditioner_state: the state of the preconditioner, () without one.
    """

    count: jax.Array
    time: jax.Array
    learning_rate: jax.Array
    next_learning_rate: jax.Array
    error_norm: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    failed: jax.Array
    previous_error: jax.Array
    preconditioner_state: optax.OptState


class _Try(NamedTuple):
    """The loop over tries within one update."""

    learning_rate: jax.Array
    tries: jax.Array
    accepted: jax.Array
    error_norm: jax.Array
    offset: Tree


def adaptive_runge_kutta(
    tableau: ButcherTableau | str = "dormand_prince",
    rtol: ScalarOrSchedule = 1e-3,
    atol: ScalarOrSchedule = 1e-6,
    initial_learning_rate: float | jax.Array | None = None,
    max_learning_rate: ScalarOrSchedule = math.inf,
    max_rejections: int = 20,
    preconditioner: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Follows the gradient flow to a tolerance, choosing its own learning rate.

    One update takes one accepted step. Beside the step, the tableau's embedded weights give a
    second one of lower order, and their difference estimates the error:

    .. math::
      e = h \sum_i (b_i - \hat b_i) k_i, \qquad
      E = \sqrt{\frac1n \sum_m \Big(\frac{|e_m|}{\text{atol}
          + \text{rtol} \max(|w_m|, |w_m^{\text{new}}|)}\Big)^2} .

    The step is accepted when :math:`E \le 1`. The next size comes from a proportional-integral
    controller, :math:`h\, 0.9\, E^{-0.7/q} E_{\text{prev}}^{0.4/q}` with q the estimate's order
    (one more than the lower of the two), limited to a factor between 0.2 and 10, and to 1 after a
    rejection. Where the gradient is zero the size stays as it is. A rejected step is tried again
    inside the update with :math:`h \max(0.2, 0.9 E^{-1/q})`, and with h / 2 where a stage was not
    finite. If the gradient passed is itself not finite there is nothing to try: one rejection.

    Near a minimum the step size settles where stability allows it, at about
    `tritia.stability_interval(tableau)` over the sharpness: that is what error control does to an
    explicit method, and why tightening the tolerance there hardly costs more.

    Call it as `optimizer.update(grads, state, params, grad_fn=f)`, where `f(params)` returns
    gradients on the same minibatch and `grads` is `f(params)`. Every try costs
    `tableau.stages - 1` more gradients (6 for `"dormand_prince"`, whose last stage serves the
    estimate alone), the first update one more to choose its size. With `vmap` each lane takes its
    own steps, and all wait for the one that tries most often. It can't stand inside `optax.masked`
    or `optax.partition`; transforms earlier in a chain see stage one alone. Inside
    `optax.MultiSteps(optimizer, k)` the gradient passed becomes the mean of k minibatches, so pass
    a `grad_fn` of the mean loss over all k of them: one of the last minibatch alone mixes two
    losses in a step, and the error estimate measures their difference.

    Tolerances refer to the params' own dtype: where rtol is near its rounding (1e-6 for float32,
    1e-2 for bfloat16) the estimate is noise and steps stop growing. The global error is
    proportional to the tolerance, with a factor that depends on the problem.

    Args:
      tableau: a `ButcherTableau` with embedded weights or the name of one of `tritia.TABLEAUS`:
        `"bogacki_shampine"`, `"dormand_prince"`, `"tsitouras"`, `"heun"`, `"midpoint"`,
        `"ralston"`.
      rtol: relative tolerance >= 0; with 0 the error is measured by `atol` alone.
      atol: absolute tolerance > 0, in units of the params.
      initial_learning_rate: the first step's size, or None for the usual heuristic: from the sizes
        of the params, the gradient, and the gradient's change along a short Euler step.
      max_learning_rate: no step is longer. `state.time` tells the flow's time reached.
      max_rejections: after so many rejected tries the update is zero and `state.failed` says so;
        the next update goes on from the smallest size tried.
      preconditioner: as for `tritia.runge_kutta`: every stage uses its state from before the step,
        and stage one's new state is kept when the step is accepted.

    Returns:
      An `optax.GradientTransformationExtraArgs`; its `update` needs `params` and `grad_fn`.

    Raises:
      ValueError: the tableau has no embedded weights, a number is out of range; in `update`,
        `params` or `grad_fn` is missing, params are masked, or the gradients have not the structure
        of params (None in place of an array is another structure).
      TypeError: an argument is of a wrong type.

    References:
      Hairer, Nørsett, Wanner, `Solving Ordinary Differential Equations I
      <https://doi.org/10.1007/978-3-540-78862-1>`_, section II.4, 1993
      Gustafsson, `Control theoretic techniques for stepsize selection in explicit Runge-Kutta
      methods <https://doi.org/10.1145/210232.210242>`_, 1991

    Examples:
      >>> import jax, optax, tritia
      >>> loss = lambda w: 50.0 * w[0]**2 + 0.5 * w[1]**2
      >>> optimizer = tritia.adaptive_runge_kutta("bogacki_shampine", rtol=1e-3, atol=1e-5)
      >>> w = jax.numpy.asarray([1.0, 1.0])
      >>> state = optimizer.init(w)
      >>> for _ in range(20):
      ...     updates, state = optimizer.update(jax.grad(loss)(w), state, w,
      ...                                       grad_fn=jax.grad(loss))
      ...     w = optax.apply_updates(w, updates)
      >>> bool(abs(w[1] - jax.numpy.exp(-state.time)) < 1e-3)
      True
    """
    scheme = check_tableau(tableau)
    if not isinstance(scheme, ButcherTableau) or scheme.b_embedded is None:
        raise ValueError(
            f"tableau {scheme.name!r} has no embedded weights, so its error can't be estimated;"
            " allowed: a ButcherTableau with b_embedded, such as 'bogacki_shampine',"
            " 'dormand_prince' or 'tsitouras'."
        )
    check_number("rtol", rtol, minimum=0.0)
    check_number("atol", atol, minimum=0.0, exclusive_minimum=True)
    if initial_learning_rate is not None:
        check_number(
            "initial_learning_rate",
            initial_learning_rate,
            minimum=0.0,
            exclusive_minimum=True,
            schedule=False,
        )
    longest_allowed: Any = max_learning_rate
    if not (isinstance(longest_allowed, numbers.Real) and longest_allowed == math.inf):
        check_number("max_learning_rate", max_learning_rate, minimum=0.0, exclusive_minimum=True)
    max_rejections = check_static_int("max_rejections", max_rejections, minimum=1)
    if preconditioner is None:
        preconditioner = optax.identity()
    field = check_transform("preconditioner", preconditioner)

    assert scheme.embedded_order is not None
    estimate_order = min(scheme.order, scheme.embedded_order) + 1
    a = [[float(x) for x in row] for row in scheme.a]
    b = [float(x) for x in scheme.b]
    error_weights = [float(x - y) for x, y in zip(scheme.b, scheme.b_embedded, strict=True)]

    def init_fn(params):
        dtype = jnp.result_type(float)
        first = 0.0 if initial_learning_rate is None else initial_learning_rate
        zero = lambda: jnp.zeros([], dtype)  # noqa: E731 (no two leaves may share a buffer)
        return AdaptiveRungeKuttaState(
            count=jnp.zeros([], jnp.int32),
            time=zero(),
            learning_rate=zero(),
            next_learning_rate=zero() + jnp.asarray(first, dtype),
            error_norm=zero(),
            accepted=jnp.zeros([], jnp.int32),
            rejected=jnp.zeros([], jnp.int32),
            failed=jnp.zeros([], bool),
            previous_error=jnp.ones([], dtype),
            preconditioner_state=field.init(strong(params)),
        )

    def update_fn(updates, state, params=None, *, grad_fn: GradFn | None = None, **extra):
        params = check_params(params)
        grad_fn = check_grad_fn(
            grad_fn,
            params,
            scheme.stages - 1,
            if_missing=".",
            if_masked="Freeze leaves inside the preconditioner, with"
            " optax.masked(optax.set_to_zero(), frozen).",
        )
        updates = check_updates(updates, params)
        dtype = state.time.dtype
        relative, absolute, longest = (
            jnp.asarray(value_at(x, state.count), dtype) for x in (rtol, atol, max_learning_rate)
        )
        first, field_state = field.update(updates, state.preconditioner_state, params, **extra)

        def slope_at(point):
            gradients = evaluate(grad_fn, point)
            return field.update(gradients, state.preconditioner_state, point, **extra)[0]

        def norm(tree, *points):
            """The root mean square of a tree in units of the tolerance, infinite if not finite."""

            def in_tolerances(x, *around):
                sizes = [jnp.abs(w).astype(dtype) for w in around]
                size = functools.reduce(jnp.maximum, sizes)
                size = jnp.where(jnp.isfinite(size), size, jnp.nan)
                return jnp.abs(x).astype(dtype) / (absolute + relative * size)

            ratios = jax.tree.leaves(jax.tree.map(in_tolerances, tree, *points))
            # Squares of ratios overflow in float32 where the ratios do not.
            peaks = [jnp.max(x, initial=0.0) for x in ratios]
            peak = functools.reduce(jnp.maximum, peaks, jnp.zeros([], dtype))
            unit = jnp.where(peak > 0, peak, 1.0)
            total = sum((jnp.sum((x / unit) ** 2) for x in ratios), jnp.zeros([], dtype))
            value = unit * jnp.sqrt(total / max(1, sum(x.size for x in ratios)))
            return jnp.where(jnp.isfinite(value), value, jnp.inf)

        def start():
            # Hairer, Nørsett, Wanner, II.4: a step on which an Euler step changes little, then one
            # on which the error, of order q, is about 1% of the tolerance.
            size = norm(params, params)
            tiny = (size < 1e-5) | (speed < 1e-5)
            h0 = jnp.where(tiny, 1e-6, 0.01 * size / jnp.where(tiny, 1.0, speed))
            other = slope_at(move(params, h0, first))
            change = jax.tree.map(lambda x, y: x - y, other, first)
            curvature = norm(change, params) / h0
            steepest = jnp.maximum(speed, curvature)
            h1 = jnp.where(
                steepest <= 1e-15,
                jnp.maximum(1e-6, 1e-3 * h0),
                (0.01 / jnp.maximum(steepest, 1e-15)) ** (1 / estimate_order),
            )
            return jnp.minimum(100 * h0, h1).astype(dtype)

        speed = norm(first, params)
        finite = jnp.isfinite(speed)
        known = state.next_learning_rate > 0
        h = jax.lax.cond(known | ~finite, lambda: state.next_learning_rate, start)
        h = jnp.minimum(h, longest)

        def one_try(carry: _Try) -> _Try:
            h = carry.learning_rate
            slopes = [first]
            for row in a[1:]:
                offset = linear_combination(params, list(zip(row, slopes, strict=True)))
                slopes.append(slope_at(move(params, h, offset)))
            offset = linear_combination(params, list(zip(b, slopes, strict=True)))
            error = linear_combination(params, list(zip(error_weights, slopes, strict=True)))
            error = jax.tree.map(lambda e: times(h, e), error)
            reached = norm(error, params, move(params, h, offset))
            accepted = reached <= 1
            shrink = jnp.maximum(SHRINK, SAFETY * reached ** (-1 / estimate_order))
            shrink = jnp.where(jnp.isfinite(reached), shrink, 0.5)
            return _Try(
                learning_rate=jnp.where(accepted, h, h * shrink),
                tries=carry.tries + 1,
                accepted=accepted,
                error_norm=reached,
                offset=offset,
            )

        begin = _Try(
            learning_rate=h,
            # A gradient that is not finite spoils every try.
            tries=jnp.where(finite, 0, max_rejections),
            accepted=jnp.zeros([], bool),
            error_norm=jnp.full([], jnp.inf, dtype),
            offset=linear_combination(params, []),
        )
        end = jax.lax.while_loop(
            lambda carry: ~carry.accepted & (carry.tries < max_rejections), one_try, begin
        )

        accepted = end.accepted
        rejected = jnp.where(finite, end.tries - accepted, 1).astype(jnp.int32)
        error = jnp.maximum(end.error_norm, LEAST_ERROR)
        growth = SAFETY * error ** (-0.7 / estimate_order)
        growth *= state.previous_error ** (0.4 / estimate_order)
        growth = jnp.clip(growth, SHRINK, jnp.where(rejected > 0, 1.0, GROW))
        after_failure = jnp.where(finite, end.learning_rate, 0.5 * end.learning_rate)
        next_rate = jnp.where(accepted, end.learning_rate * growth, after_failure)
        # A step of length zero has no error, whatever its size: it says nothing about the next one.
        next_rate = jnp.where(accepted & (speed == 0), state.next_learning_rate, next_rate)
        next_rate = jnp.where(jnp.isfinite(next_rate), jnp.clip(next_rate, 0.0, LONGEST), 0.0)
        taken = jnp.where(accepted, end.learning_rate, 0.0)
        step = jax.tree.map(
            lambda p, o: jnp.where(accepted, -times(end.learning_rate, o), 0).astype(p.dtype),
            params,
            end.offset,
        )
        return step, AdaptiveRungeKuttaState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            time=state.time + taken,
            learning_rate=taken,
            next_learning_rate=jnp.minimum(next_rate, longest),
            error_norm=end.error_norm,
            accepted=state.accepted + accepted,
            rejected=state.rejected + rejected,
            failed=~accepted,
            previous_error=jnp.where(accepted, error, state.previous_error),
            preconditioner_state=select(accepted, field_state, state.preconditioner_state),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
