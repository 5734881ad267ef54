"""Linear multistep optimizers: one gradient per step, and a memory of earlier steps."""

from __future__ import annotations

import functools
import numbers

import jax
import optax

from tritia._arguments import (
    ScalarOrSchedule,
    check_dtype,
    check_number,
    check_static,
    value_at,
)
from tritia.gradient_flow._multistep.named_schemes import (
    MultistepName,
    adams_bashforth_scheme,
    bdf_scheme,
    check_scheme,
    difference_scheme,
)
from tritia.gradient_flow._multistep.scheme import LinearMultistep
from tritia.gradient_flow._multistep.step_coefficients import by_history, by_step_sizes
from tritia.gradient_flow._multistep.transform import multistep_transform


def scale_by_linear_multistep(
    scheme: LinearMultistep | MultistepName,
    *,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
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
      scheme: a `LinearMultistep` or the name of one of `MULTISTEP_SCHEMES`, such as `"ab2"`; see
        `adams_bashforth_scheme`, `bdf_scheme`, `difference_scheme`, `heavy_ball_scheme` and
        `derive_scheme` for others. Static.
      accumulator_dtype: dtype of the memory; None keeps that of the params.

    Returns:
      The transform. Its state is a `LinearMultistepState`.

    Raises:
      TypeError: `scheme` is neither a `LinearMultistep` nor a name, or `accumulator_dtype` is not a
        floating dtype.
      ValueError: there is no scheme of that name.

    References:
      Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, 1993, chapter III.

    Examples:
      Adam's preconditioner, stepped by a second-order scheme instead of Euler's:

      >>> import jax, jax.numpy as jnp, optax, tritia
      >>> optimizer = optax.chain(
      ...     optax.scale_by_adam(),
      ...     tritia.scale_by_linear_multistep("ab2"),
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
    scheme = check_scheme(scheme)
    accumulator_dtype = check_dtype("accumulator_dtype", accumulator_dtype)

    return multistep_transform(
        scheme,
        lambda count: 1.0,
        by_history,
        accumulator_dtype,
        stored_sizes=0,
        sign=1,
    )


def linear_multistep(
    learning_rate: ScalarOrSchedule,
    scheme: LinearMultistep | MultistepName,
    *,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
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

    **Schedules.** Where the learning rate changes, the coefficients follow (the Taylor conditions
    are met on the actual steps) and the order is kept. Where it grows faster than the scheme stays
    stable (`Scheme.growth_limit`), passes through 0, or falls more than a thousandfold within the
    scheme's memory, fewer steps are used until the history is even again.

    **Learning rate.** Stable while learning rate times sharpness is at most
    `Scheme.stability_interval`; 2 for gradient descent. That holds once the history is full: the
    first steps are gradient descent and schemes with fewer steps, with intervals of their own. A
    scheme with a longer interval than theirs is best warmed up from gradient descent's learning
    rate, as the second example of `difference` does.

    Args:
      learning_rate: the step size, in units of the flow's time: a float >= 0, a scalar array or a
        schedule. A traced or injected value does not recompile when it changes.
      scheme: a `LinearMultistep` or the name of one of `MULTISTEP_SCHEMES`, such as `"ab2"`.
        Static.
      accumulator_dtype: dtype of the memory; None keeps that of the params. Arithmetic is done in
        float32 at least.

    Returns:
      The optimizer. Its state is a `LinearMultistepState`, whose memory is `scheme.memory` copies
      of the params.

    Raises:
      TypeError: `scheme` is neither a `LinearMultistep` nor a name, `learning_rate` not a number,
        array or schedule, or `accumulator_dtype` not a floating dtype.
      ValueError: `learning_rate` is negative or not finite, or there is no scheme of that name.

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
    scheme = check_scheme(scheme)
    check_number("learning_rate", learning_rate, minimum=0)
    accumulator_dtype = check_dtype("accumulator_dtype", accumulator_dtype)
    constant = isinstance(learning_rate, numbers.Real)

    return multistep_transform(
        scheme,
        functools.partial(value_at, learning_rate),
        by_history if constant or scheme.steps == 1 else by_step_sizes,
        accumulator_dtype,
        stored_sizes=scheme.steps - 1,
        sign=-1,
    )


def adams_bashforth(
    learning_rate: ScalarOrSchedule,
    order: int = 2,
    *,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
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
      Bashforth, Adams 1883; Hairer, Nørsett, Wanner 1993, section III.1 (variable steps: III.5).

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
    return linear_multistep(
        learning_rate, adams_bashforth_scheme(order), accumulator_dtype=accumulator_dtype
    )


def bdf(
    learning_rate: ScalarOrSchedule,
    order: int = 2,
    *,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent by the extrapolated backward differentiation formula (BDF).

    .. math:: w_{t+1} = \tfrac43 w_t - \tfrac13 w_{t-1}
              - h (\tfrac43 \nabla L(w_t) - \tfrac23 \nabla L(w_{t-1})), \quad p = 2

    Compared with Adams-Bashforth of the same order it has a longer stability interval (4/3 against
    1 at order 2, 0.952 against 6/11 at order 3) and a smaller noise gain (`Scheme.noise_gain`), at
    twice the memory. See `linear_multistep` for the start-up and schedules.

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
    return linear_multistep(learning_rate, bdf_scheme(order), accumulator_dtype=accumulator_dtype)


def difference(
    learning_rate: ScalarOrSchedule,
    order: int = 2,
    steps: int = 3,
    *,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent with Euler's difference quotient replaced by a higher-order one.

    .. math:: w_{t+1} = w_t - \tfrac13 w_{t-1} + \tfrac13 w_{t-2} - \tfrac43 h \nabla L(w_t),
              \quad p = 2, k = 3

    One gradient, no past gradients: the order comes from past points. With 3 steps it is stable at
    the same learning rates as SGD and an order closer to the gradient flow; more steps allow larger
    learning rates (`difference_scheme(order, steps).describe()` prints them), but only once the
    history is full: above SGD's largest learning rate the first steps would overshoot, so warm up
    from there, by a factor of at most `Scheme.growth_limit` per step. See `linear_multistep` for
    the start-up and schedules.

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
    check_static(order=order, steps=steps)
    return linear_multistep(
        learning_rate, difference_scheme(order, steps), accumulator_dtype=accumulator_dtype
    )
