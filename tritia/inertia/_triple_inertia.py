"""Triple inertia around any Optax optimizer."""

from __future__ import annotations

import numbers
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tritia._arguments import (
    ScalarOrSchedule,
    check_choice,
    check_dtype,
    check_number,
    check_transform,
    static_message,
    value_at,
)
from tritia._leaves import check_gradients, passed_through, trained
from tritia._mesh import beside
from tritia._trees import cast_like, compute_dtype, linear_combination, zeros_like
from tritia.inertia._extrapolation import Projection, extrapolate, over_relax


class TripleInertiaState(NamedTuple):
    """State of `triple_inertia`.

    Attributes:
      count: number of updates so far, int32 of shape ().
      displacement: d = u - u_prev, the iterate's last move; a pytree like params.
      predict: the p1 that the next step starts from, shape ().
      evaluate: the p2 that made the loop's params e = u + p2 d, shape ().
      output: the coefficient of d in the point that `eval_params` returns, shape ().
      inner_state: state of the wrapped transform.
    """

    count: jax.Array
    displacement: optax.Params
    predict: jax.Array
    evaluate: jax.Array
    output: jax.Array
    inner_state: optax.OptState


def triple_inertia(
    inner: optax.GradientTransformation,
    *,
    predict: ScalarOrSchedule = 0.0,
    evaluate: ScalarOrSchedule = 0.0,
    correct: ScalarOrSchedule = 0.0,
    restart: Literal["gradient"] | None = None,
    projection: Projection | None = None,
    output: ScalarOrSchedule = 0.0,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds three inertial extrapolations to any optimizer.

    With the iterate :math:`u`, its last displacement :math:`d = u - u_{prev}` and the step
    :math:`s` that `inner` makes of the gradient at :math:`e`:

    .. math::

      \begin{aligned}
        c &= u + p_1 d && \text{predict: where the step starts} \\
        e &= u + p_2 d && \text{evaluate: where the gradient is taken} \\
        v &= \operatorname{project}(c + s(\nabla f(e))) && \text{step} \\
        u_{next} &= \operatorname{project}(v + p_3 (v - u)) && \text{correct}
      \end{aligned}

    **The training loop's params are e**, because that is where the loop takes its gradients.
    For validation, and for saving the result, get the iterate by `tritia.eval_params(state,
    params)`. `inner` too is called with e as its params: a weight decay within it acts at e, like
    the gradient of the penalty would.

    Special cases, for `inner = optax.sgd(learning_rate)` and without a projection:

    * no coefficient: `inner` itself, whatever `inner` is;
    * `predict=m`: heavy ball, `optax.sgd(learning_rate, momentum=m)`;
    * `predict=m, evaluate=m`: Nesterov's method. `optax.sgd(learning_rate, momentum=m,
      nesterov=True)` goes through the same points: its params are e as well. With
      `tritia.nesterov_schedule()` for both it is the method for convex functions;
    * `correct=p3`: the step times 1 + p3;
    * `tritia.triple_momentum` has the values that are optimal for a strongly convex function.

    What the correction adds: for an unconstrained gradient step it is over-relaxation, which
    rescales the step *and* the prediction by 1 + p3, as the other two coefficients and the learning
    rate can; with a projection onto bounds, a correction >= 0 still does. With other projections,
    and above all around a prox or the minimiser of a block, whose step no learning rate scales, it
    is a third degree of freedom.

    Coefficients read at update t (t = 0 for the first) form c and e for the step of update t + 1;
    the correction read at update t acts in update t. So a scheduled Nesterov with k/(k+3)
    evaluates at :math:`x_{k+1} + \frac{k}{k+3} (x_{k+1} - x_k)`, as in the literature.

    The wrapper must come last in a chain: it recovers u from the params, so the loop must apply its
    update unchanged (or, as `optax.MultiSteps` and `optax.apply_if_finite` do, not call it at all).

    Args:
      inner: transform that makes the step and owns the learning rate, such as
        `optax.sgd(0.1)` or `optax.adam(1e-3)`. Extra arguments are passed on to it.
      predict: p1, a number, scalar array or schedule; mostly in [0, 1). Without a constraint
        p1 (1 + p3) must stay below 1, or the displacement grows without a gradient.
      evaluate: p2, likewise.
      correct: p3, likewise; in (-1, 1), where -1 would stop all motion.
      restart: `None`, or `"gradient"` to forget the displacement whenever
        :math:`\operatorname{Re} \langle g(e), u_{next} - u \rangle > 0`: the step that this
        gradient made goes uphill. The new iterate is kept, and e = u_next. Here g is what arrives
        as `updates`, and for complex params the conjugate of what `jax.grad` returns, which is what
        Optax's own optimizers need in order to descend. Schedules are not rewound.
      projection: function from a pytree like params to the nearest feasible one, such as
        `optax.projections.projection_non_negative`, or None. The iterate is feasible; e may be not.
      output: the coefficient q of the point u + q d that `eval_params` returns; 0 returns u.
        It is reported and never fed back.
      accumulator_dtype: dtype of the displacement, such as `"float32"` for bfloat16 params; by
        default the dtype of the params. Arithmetic is in float32 at least.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `TripleInertiaState`. Its updates have the
      params' dtype. It works without params if `inner` does and there is no projection. Under
      `optax.inject_hyperparams`, name `projection` (and a dtype that is not a string) in
      `static_args`, and with half-precision params pass `hyperparam_dtype=jnp.float32`, or it
      rounds the coefficients to the params' dtype.

    Raises:
      TypeError: `inner` is not a transform, a coefficient is not a number or schedule,
        `projection` is not a function, or `accumulator_dtype` is not a floating dtype.
      ValueError: a coefficient is not finite, `restart` is unknown, or `update` was called without
        what it needs.

    References:
      Yan et al., `A Triple-Inertial Accelerated Alternating Optimization Method for Deep Learning
      Training <https://arxiv.org/abs/2503.08489>`_, 2025

      O'Donoghue and Candes, `Adaptive Restart for Accelerated Gradient Schemes
      <https://arxiv.org/abs/1204.3982>`_, 2015

    Examples:
      >>> import jax, optax, tritia
      >>> loss = lambda w: 0.5 * w**2
      >>> solver = tritia.triple_inertia(optax.sgd(0.1), predict=0.6, evaluate=0.6, correct=0.1)
      >>> params = jax.numpy.array(1.0)
      >>> state = solver.init(params)
      >>> for _ in range(20):
      ...   updates, state = solver.update(jax.grad(loss)(params), state, params)
      ...   params = optax.apply_updates(params, updates)
      >>> print(f"{tritia.eval_params(state, params):.4f}")
      0.0010
    """
    inner = check_transform("inner", inner)
    for name, coefficient in (
        ("predict", predict),
        ("evaluate", evaluate),
        ("correct", correct),
        ("output", output),
    ):
        check_number(name, coefficient)
    check_choice("restart", restart, (None, "gradient"))
    _check_projection(projection)
    accumulator_dtype = check_dtype("accumulator_dtype", accumulator_dtype)
    in_place = restart is projection is None and _recoverable(predict, evaluate, correct)

    def init_fn(params: Any) -> TripleInertiaState:
        params = trained(params)
        # Coefficients keep the default float dtype, not the params': in bfloat16 0.999 is 1.
        return beside(
            params,
            TripleInertiaState(
                count=jnp.zeros((), jnp.int32),
                displacement=zeros_like(params, accumulator_dtype),
                predict=jnp.zeros((), float),
                evaluate=jnp.zeros((), float),
                output=jnp.zeros((), float),
                inner_state=inner.init(params),
            ),
        )

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, TripleInertiaState]:
        given = updates
        updates, params = check_gradients(updates, params)
        step, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        _check_structure(step, state.displacement)
        correction: Any = value_at(correct, state.count)
        constant = isinstance(correction, numbers.Real)
        factor = 1 + (float(correction) if constant else jnp.asarray(correction, float))
        wide = _widen(step, state.displacement)
        if projection is None:
            # Extrapolations commute with translations: measured from u, nothing is lost to the
            # rounding of u, and u itself is not needed. v = s + p1 d, and u_next = (1 + p3) v.
            anew, carried = (factor, wide), factor * state.predict
            moved = linear_combination(wide, [anew, (carried, state.displacement)])
        else:
            moved = _projected_move(wide, state, params, correction)
            anew, carried = (1, moved), 0.0

        memory = cast_like(moved, state.displacement)
        if restart == "gradient":
            uphill = _inner_product(updates, moved) > 0
            memory = jax.tree.map(lambda d: jnp.where(uphill, jnp.zeros_like(d), d), memory)

        # jnp.array copies: two coefficients may be one and the same array of the user's, and state
        # whose leaves share a buffer could not be donated.
        new_state = TripleInertiaState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            displacement=memory,
            predict=jnp.array(value_at(predict, state.count), state.predict.dtype),
            evaluate=jnp.array(value_at(evaluate, state.count), state.evaluate.dtype),
            output=jnp.array(value_at(output, state.count), state.output.dtype),
            inner_state=inner_state,
        )
        # From e = u + p2_old d to u_next + p2 d_next, where u_next - u = anew + carried d.
        if in_place and _dtypes(memory) == _dtypes(moved):
            # d is overwritten by d_next = (1 + p3) (s + p1_old d). Taking p2_old d from there, XLA
            # need not keep d: that would be one more copy of the params, written and read. Where
            # p1_old is 0, so is p2_old or d, unless the state is another optimizer's.
            still = state.predict == 0  # divided by 1, so that its derivative is a number too
            ratio = jnp.where(still, 0.0, state.evaluate / jnp.where(still, 1.0, state.predict))
            ahead = 1 + new_state.evaluate - ratio / factor
            update = linear_combination(moved, [(ahead, moved), (ratio, wide)])
        else:
            terms = [anew, (carried - state.evaluate, state.displacement)]
            update = linear_combination(moved, [*terms, (new_state.evaluate, memory)])
        update = cast_like(update, step if params is None else params)
        return passed_through(update, given), new_state

    def _projected_move(step: Any, state: TripleInertiaState, params: Any, correction: Any) -> Any:
        """Returns u_next - u, where the projection needs u."""
        assert projection is not None
        if params is None:
            raise ValueError(
                "triple_inertia with a projection needs the params: call"
                " solver.update(grads, state, params)."
            )
        wide = _widen(params, state.displacement)
        iterate = extrapolate(wide, state.displacement, -state.evaluate)
        centre = extrapolate(iterate, state.displacement, state.predict)
        stepped = projection(jax.tree.map(jnp.add, centre, step))
        return optax.tree.sub(over_relax(stepped, iterate, correction, projection), iterate)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def nesterov_schedule() -> optax.Schedule:
    r"""Returns Nesterov's schedule for convex functions, k / (k + 3).

    As `predict` and `evaluate` of `triple_inertia`, with a learning rate of at most 1/L for an
    L-smooth convex function, it gives :math:`f(u_k) - f^* = O(L / k^2)`.

    Returns:
      A schedule: 0 at count 0, 1/4 at count 1, and towards 1.

    References:
      Su, Boyd and Candes, `A Differential Equation for Modeling Nesterov's Accelerated Gradient
      Method <https://arxiv.org/abs/1503.01243>`_, 2014

    Examples:
      >>> import optax, tritia
      >>> momentum = tritia.nesterov_schedule()
      >>> [momentum(k) for k in (0, 1, 3)]
      [0.0, 0.25, 0.5]
      >>> solver = tritia.triple_inertia(optax.sgd(0.1), predict=momentum, evaluate=momentum)
    """

    def momentum(count: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        # In floats: a saturated int32 count must not wrap around.
        k = count.astype(float) if isinstance(count, jax.Array) else count
        return k / (k + 3.0)

    return momentum


def _check_projection(projection: Projection | None) -> None:
    if isinstance(projection, jax.Array):
        # inject_hyperparams takes a function for a schedule and hands over its value.
        raise TypeError(static_message("projection", projection))
    if projection is not None and not callable(projection):
        raise TypeError(
            "projection must be a function from a pytree to the nearest feasible one, such as"
            " optax.projections.projection_non_negative, or None; got"
            f" {projection!r} of type {type(projection).__name__}."
        )


def _check_structure(step: Any, displacement: Any) -> None:
    given, wanted = jax.tree.structure(step), jax.tree.structure(displacement)
    if given != wanted:
        raise ValueError(
            "updates must have the structure of params, and inner must keep it. A leaf without a"
            f" gradient needs zeros, not None. Got {given}, expected {wanted}."
        )


def _recoverable(predict: Any, evaluate: Any, correct: Any) -> bool:
    """Whether p2 d can be computed from p1 d and (1 + p3) v without losing digits."""
    if not isinstance(correct, numbers.Real) or correct < -0.5:
        return False
    if isinstance(predict, numbers.Real) and isinstance(evaluate, numbers.Real):
        return abs(float(evaluate)) <= 2 * abs(float(predict))
    return callable(predict) and predict is evaluate


def _dtypes(tree: Any) -> list[Any]:
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]


def _widen(tree: Any, displacement: Any) -> Any:
    """Casts to the dtype of the arithmetic: the displacement's or wider, float32 at least."""
    return jax.tree.map(lambda x, d: jnp.asarray(x, compute_dtype(x, d)), tree, displacement)


def _inner_product(updates: Any, moved: Any) -> jax.Array:
    """Returns Re <updates, moved> over all leaves."""
    if jax.tree.structure(updates) != jax.tree.structure(moved):
        raise ValueError(
            "restart='gradient' needs gradients with the structure of params as updates: got"
            f" {jax.tree.structure(updates)}, expected {jax.tree.structure(moved)}."
        )

    # Sums of products, and not dot products, which have no rule for params split over a mesh.
    def leaf(g: Any, d: Any) -> jax.Array:
        dtype = compute_dtype(g, d)
        return jnp.sum(jnp.real(jnp.conj(jnp.asarray(g, dtype)) * jnp.asarray(d, dtype)))

    products = jax.tree.leaves(jax.tree.map(leaf, updates, moved))
    dtype = jnp.result_type(*products) if products else jnp.float32
    return sum((product.astype(dtype) for product in products), jnp.zeros((), dtype))
