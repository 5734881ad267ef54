"""Adaptive Runge-Kutta steps: an embedded error estimate chooses the learning rate."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Sequence
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
from tritia._derivatives import differentiated_as, hoisted
from tritia._leaves import passed_through, trained
from tritia._mesh import beside, vary, varying_axes
from tritia._trees import Tree, constant_like, linear_combination, move, select, strong, times
from tritia.gradient_flow._runge_kutta.gradients import (
    GradFn,
    check_arguments,
    check_grad_fn,
    combined_zeros,
    evaluate,
)
from tritia.gradient_flow._runge_kutta.named_tableaus import TableauName, check_scheme
from tritia.gradient_flow._runge_kutta.step_size_control import (
    LEAST_ERROR,
    LONGEST,
    initial_step_size,
    next_factor,
    retry_factor,
    scaled_norm,
)
from tritia.gradient_flow._runge_kutta.tableau import ButcherTableau


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

    learning_rate: jax.Array  # of the next try; after an accepted one, of the step taken
    tries: jax.Array
    accepted: jax.Array
    error_norm: jax.Array
    offset: Tree  # the step over the learning rate


class _Step(NamedTuple):
    """What the tries of one update have in common."""

    params: optax.Params
    slope: Tree
    tolerances: tuple[jax.Array, jax.Array]
    constants: Sequence[Any]  # of the function that returns the slopes


class _Pair(NamedTuple):
    """An embedded pair in floats."""

    a: list[list[float]]
    b: list[float]
    error: list[float]  # b minus the embedded weights
    order: int  # of the error estimate: one more than the lower of the two


def adaptive_runge_kutta(
    initial_learning_rate: float | jax.Array | None = None,
    scheme: ButcherTableau | TableauName = "dormand_prince",
    *,
    rtol: ScalarOrSchedule = 1e-3,
    atol: ScalarOrSchedule = 1e-6,
    max_learning_rate: ScalarOrSchedule = math.inf,
    max_rejections: int = 20,
    preconditioner: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Follows the gradient flow to a tolerance, choosing its own learning rate.

    One update takes one accepted step. Beside the step, the scheme's embedded weights give a second
    one of lower order, and their difference estimates the error:

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

    Near a minimum the step size is limited by stability rather than accuracy and settles at about
    the scheme's `stability_interval` over the sharpness, as in any explicit method with error
    control; a tighter tolerance hardly costs more there.

    Call it as `optimizer.update(grads, state, params, grad_fn=f)`, where `f(params)` returns
    gradients on the same minibatch and `grads` is `f(params)`. Every try costs `scheme.stages - 1`
    more gradients (6 for `"dormand_prince"`, whose last stage serves the estimate alone), the first
    update one more to choose its size. With `vmap` each member of the batch takes its own steps,
    and all wait for the one that tries most often. It can't stand inside `optax.masked` or
    `optax.partition`; transforms earlier in a chain see stage one alone. Inside
    `optax.MultiSteps(optimizer, k)` the gradient passed becomes the mean of k minibatches, so pass
    a `grad_fn` of the mean loss over all k of them: one of the last minibatch alone mixes two
    losses in a step, and the error estimate measures their difference.

    Updates can be differentiated in forward and in reverse mode, through the choice of step sizes
    too. Both compute each try twice or more often and go through all `max_rejections` tries, most
    of them skipped; under `jax.vmap` none is. Within `jax.shard_map`, where params vary over an
    axis, reverse mode needs a `grad_fn` that closes over nothing else than arrays which vary too.

    Tolerances refer to the params' own dtype: where rtol is near its rounding (1e-6 for float32,
    1e-2 for bfloat16) the estimate is noise and steps stop growing. The global error is
    proportional to the tolerance, with a factor that depends on the problem.

    Args:
      initial_learning_rate: the first step's size, or None for the usual heuristic: from the sizes
        of the params, the gradient, and the gradient's change along a short Euler step.
      scheme: a `ButcherTableau` with embedded weights or the name of one of `tritia.TABLEAUS`:
        `"bogacki_shampine"`, `"dormand_prince"`, `"tsitouras"`, `"heun"`, `"midpoint"`,
        `"ralston"`.
      rtol: relative tolerance >= 0; with 0 the error is measured by `atol` alone.
      atol: absolute tolerance > 0, in units of the params.
      max_learning_rate: no step is longer. `state.time` tells the flow's time reached.
      max_rejections: after so many rejected tries the update is zero and `state.failed` says so;
        the next update goes on from the smallest size tried.
      preconditioner: as for `tritia.runge_kutta`: every stage uses its state from before the step,
        and stage one's new state is kept when the step is accepted.

    Returns:
      An `optax.GradientTransformationExtraArgs`; its `update` needs `params` and `grad_fn`.

    Raises:
      ValueError: the scheme has no embedded weights, a number is out of range; in `update`,
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
      >>> optimizer = tritia.adaptive_runge_kutta(scheme="bogacki_shampine", rtol=1e-3, atol=1e-5)
      >>> w = jax.numpy.asarray([1.0, 1.0])
      >>> state = optimizer.init(w)
      >>> for _ in range(20):
      ...     updates, state = optimizer.update(jax.grad(loss)(w), state, w,
      ...                                       grad_fn=jax.grad(loss))
      ...     w = optax.apply_updates(w, updates)
      >>> bool(abs(w[1] - jax.numpy.exp(-state.time)) < 1e-3)
      True
    """
    pair = _embedded_pair(scheme)
    if initial_learning_rate is not None:
        check_number(
            "initial_learning_rate",
            initial_learning_rate,
            minimum=0.0,
            exclusive_minimum=True,
            schedule=False,
        )
    check_number("rtol", rtol, minimum=0.0)
    check_number("atol", atol, minimum=0.0, exclusive_minimum=True)
    longest_allowed: Any = max_learning_rate
    if not (isinstance(longest_allowed, numbers.Real) and longest_allowed == math.inf):
        check_number("max_learning_rate", max_learning_rate, minimum=0.0, exclusive_minimum=True)
    max_rejections = check_static_int("max_rejections", max_rejections, minimum=1)
    if preconditioner is None:
        preconditioner = optax.identity()
    field = check_transform("preconditioner", preconditioner)

    def init_fn(params):
        params = strong(trained(params))
        dtype = jnp.result_type(float)
        first = 0.0 if initial_learning_rate is None else initial_learning_rate
        # All but the count depend on the params, and vary over the mesh axes that these do.
        unordered = [jnp.any(leaf != leaf) for leaf in jax.tree.leaves(params)]
        any_leaf = functools.reduce(jnp.logical_or, unordered, jnp.zeros([], bool))
        zero = lambda: constant_like(0, any_leaf, dtype)  # noqa: E731 (no two leaves share a buffer)
        return beside(
            params,
            AdaptiveRungeKuttaState(
                count=jnp.zeros([], jnp.int32),
                time=zero(),
                learning_rate=zero(),
                next_learning_rate=zero() + jnp.asarray(first, dtype),
                error_norm=zero(),
                accepted=constant_like(0, any_leaf, jnp.int32),
                rejected=constant_like(0, any_leaf, jnp.int32),
                failed=constant_like(False, any_leaf, bool),
                previous_error=constant_like(1, any_leaf, dtype),
                preconditioner_state=field.init(params),
            ),
        )

    def update_fn(updates, state, params=None, *, grad_fn: GradFn | None = None, **extra):
        given = updates
        updates, params, whole = check_arguments(updates, params)
        grad_fn = check_grad_fn(
            grad_fn,
            whole,
            len(pair.b) - 1,
            if_missing=".",
            if_masked="Freeze leaves inside the preconditioner, with"
            " optax.masked(optax.set_to_zero(), frozen).",
        )
        dtype = state.time.dtype
        relative, absolute, longest = (
            jnp.asarray(value_at(x, state.count), dtype) for x in (rtol, atol, max_learning_rate)
        )
        tolerances = (relative, absolute)
        norm = functools.partial(scaled_norm, rtol=relative, atol=absolute)
        slope, field_state = field.update(updates, state.preconditioner_state, params, **extra)

        def slope_at(point):
            gradients = evaluate(grad_fn, point, whole)
            return field.update(gradients, state.preconditioner_state, point, **extra)[0]

        # What grad_fn closes over must be an argument to be differentiated.
        field_at, constants = hoisted(slope_at, params)
        speed = norm(slope, params)
        finite = jnp.isfinite(speed)
        h = jax.lax.cond(
            (state.next_learning_rate > 0) | ~finite,
            lambda: state.next_learning_rate + constant_like(0, speed),
            lambda: initial_step_size(
                params, slope, lambda point: field_at(point, constants), norm, pair.order
            ),
        )
        begin = _Try(
            learning_rate=jnp.minimum(h, longest),
            # A gradient that is not finite spoils every try.
            tries=jnp.where(finite, 0, max_rejections),
            accepted=constant_like(False, speed, bool),
            error_norm=constant_like(jnp.inf, speed),
            offset=combined_zeros(params, slope),
        )
        try_once = functools.partial(_one_try, pair, field_at)
        # Sums over devices, which differ in their tries, are taken outside of the loop.
        axes = varying_axes(begin)
        varied = vary((params, slope, tolerances), axes)
        step = _Step(varied[0], varied[1], varied[2], constants)
        reversible = all(
            varying_axes(leaf) >= axes
            for leaf in constants
            if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        )
        end = _until_accepted(try_once, max_rejections, reversible)(begin, step)
        step = jax.tree.map(
            lambda p, o: jnp.where(end.accepted, -times(end.learning_rate, o), 0).astype(p.dtype),
            params,
            end.offset,
        )
        state = _after(pair, state, end, finite, moving=speed > 0, longest=longest)
        return passed_through(step, given), state._replace(
            preconditioner_state=select(end.accepted, field_state, state.preconditioner_state)
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _embedded_pair(scheme: Any) -> _Pair:
    """Returns the pair that the user named or built, or says that it estimates no error."""
    scheme = check_scheme(scheme)
    if (
        not isinstance(scheme, ButcherTableau)
        or scheme.b_embedded is None
        or scheme.embedded_order is None
    ):
        raise ValueError(
            f"scheme {scheme.name!r} has no embedded weights, so its error can't be estimated;"
            " allowed: a ButcherTableau with b_embedded, such as 'bogacki_shampine',"
            " 'dormand_prince' or 'tsitouras'."
        )
    return _Pair(
        a=[[float(x) for x in row] for row in scheme.a],
        b=[float(x) for x in scheme.b],
        error=[float(x - y) for x, y in zip(scheme.b, scheme.b_embedded, strict=True)],
        order=min(scheme.order, scheme.embedded_order) + 1,
    )


def _until_accepted(
    try_once: Callable[[_Try, _Step], _Try], max_rejections: int, reversible: bool
) -> Callable[[_Try, _Step], _Try]:
    """Returns the loop over tries, with derivatives in forward and, if wanted, in reverse mode."""

    def open_loop(begin: _Try, step: _Step) -> _Try:
        return jax.lax.while_loop(
            lambda carry: ~carry.accepted & (carry.tries < max_rejections),
            lambda carry: try_once(carry, step),
            begin,
        )

    def bounded_loop(begin: _Try, step: _Step) -> _Try:
        """The same, reversible. Keeps step sizes alone, and takes the accepted step once more."""
        fixed = jax.lax.stop_gradient(step)

        def again(carry: _Try) -> _Try:
            tried = try_once(jax.lax.stop_gradient(carry), fixed)
            # No derivative goes through an error that is infinite or 0: it would be NaN.
            smooth = jnp.isfinite(tried.error_norm) & (tried.error_norm > 0)
            factor = tried.learning_rate / jax.lax.stop_gradient(carry.learning_rate)
            return jax.lax.cond(
                smooth,
                lambda carry: try_once(carry, step)._replace(offset=carry.offset),
                lambda carry: tried._replace(
                    learning_rate=factor * carry.learning_rate, offset=carry.offset
                ),
                carry,
            )

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def advance(carry: _Try, _: None) -> tuple[_Try, None]:
            going = ~carry.accepted & (carry.tries < max_rejections)
            return jax.lax.cond(going, again, lambda carry: carry, carry), None

        bare = begin._replace(offset=())
        end, _ = jax.lax.scan(advance, bare, length=max_rejections)
        offset = jax.lax.cond(
            end.accepted,
            lambda end: try_once(end, step).offset,
            lambda _: begin.offset,
            end,
        )
        return end._replace(offset=offset)

    return differentiated_as(bounded_loop, open_loop) if reversible else open_loop


def _one_try(
    pair: _Pair,
    slope_at: Callable[[optax.Params, Sequence[Any]], Tree],
    carry: _Try,
    step: _Step,
) -> _Try:
    """Takes the step and estimates its error; a rejected one is to be tried again, shorter."""
    h = carry.learning_rate
    params, slopes = step.params, [step.slope]
    relative, absolute = step.tolerances

    def combine(weights: list[float]) -> Tree:
        return linear_combination(params, list(zip(weights, slopes, strict=True)))

    for row in pair.a[1:]:
        slopes.append(slope_at(move(params, h, combine(row)), step.constants))
    offset = combine(pair.b)
    error = jax.tree.map(lambda e: times(h, e), combine(pair.error))
    error_norm = scaled_norm(error, params, move(params, h, offset), rtol=relative, atol=absolute)
    accepted = error_norm <= 1
    return _Try(
        learning_rate=jnp.where(accepted, h, h * retry_factor(error_norm, pair.order)),
        tries=carry.tries + 1,
        accepted=accepted,
        error_norm=error_norm,
        offset=offset,
    )


def _after(
    pair: _Pair,
    state: AdaptiveRungeKuttaState,
    end: _Try,
    finite: jax.Array,
    *,
    moving: jax.Array,
    longest: jax.Array,
) -> AdaptiveRungeKuttaState:
    """The state after the tries of one update, the preconditioner's left as it was.

    Args:
      pair: the embedded pair.
      state: the state before.
      end: the last try.
      finite: whether the gradient passed is finite.
      moving: whether it is not zero. A step of length zero has no error, whatever its size, and
        says nothing about the next one.
      longest: the largest step size allowed.
    """
    accepted = end.accepted
    rejected = jnp.where(finite, end.tries - accepted.astype(jnp.int32), 1).astype(jnp.int32)
    error = jnp.maximum(end.error_norm, LEAST_ERROR)
    factor = next_factor(error, state.previous_error, rejected > 0, pair.order)
    after_failure = jnp.where(finite, end.learning_rate, 0.5 * end.learning_rate)
    following = jnp.where(accepted, end.learning_rate * factor, after_failure)
    following = jnp.where(accepted & ~moving, state.next_learning_rate, following)
    following = jnp.where(jnp.isfinite(following), jnp.clip(following, 0.0, LONGEST), 0.0)
    taken = jnp.where(accepted, end.learning_rate, 0.0)
    return state._replace(
        count=jnp.asarray(optax.safe_increment(state.count)),
        time=state.time + taken,
        learning_rate=taken,
        next_learning_rate=jnp.minimum(following, longest),
        error_norm=end.error_norm,
        accepted=state.accepted + accepted.astype(jnp.int32),
        rejected=state.rejected + rejected,
        failed=~accepted,
        previous_error=jnp.where(accepted, error, state.previous_error),
    )
