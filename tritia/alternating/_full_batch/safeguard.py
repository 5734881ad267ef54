"""The blocks of a pass with their inertia and their safeguard.

Each block takes its step with the extrapolations of `tritia.inertia`. Where the accelerated block
raises the terms of the objective that contain it, the plain block replaces it, or the old one where
the plain block raises them too.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tritia.alternating._blocks import activations as act, dense, losses
from tritia.alternating._blocks.dense import Layer, Number
from tritia.alternating._blocks.rows import Rows, Spectrum
from tritia.alternating._full_batch.coefficients import Inertias, is_zero, same
from tritia.alternating._full_batch.problem import Method, Numbers
from tritia.inertia import Inertia, extrapolate, over_relax


def kernel(
    method: Method,
    layer: int,
    a: jax.Array,
    z: jax.Array,
    current: Layer,
    displacement: jax.Array | None,
    inertias: Inertias,
    *,
    rho: Number,
    mu: Number,
    tau: Any,
    rows: Rows,
    spectrum: Spectrum | None,
) -> tuple[Layer, jax.Array, jax.Array, jax.Array]:
    """Returns the layer, how far its kernel moved, the accepted tau, and if it was refused."""
    kind = method.kernel_steps[layer]
    inertia = inertias.kernels

    def step(start: Layer, point: Layer, tau):
        if kind == "exact":
            new = dense.kernel_exact(
                a,
                z,
                start,
                rho=rho,
                mu=mu,
                tau=tau,
                rows=rows,
                by_rows=method.by_rows[layer],
                spectrum=spectrum,
            )
            return new, tau
        gradient = dense.kernel_gradient(
            a, z, start, point, rho=rho, mu=mu, rows=rows, spectrum=spectrum
        )
        if kind == "line_search":
            new = dense.kernel_line_search(a, z, start, gradient, rows=rows, spectrum=spectrum)
            return new, tau
        return dense.kernel_backtracking(
            a, z, start, point, gradient, tau / 2, rho=rho, mu=mu, rows=rows, spectrum=spectrum
        )

    def extrapolated(coefficient):
        if displacement is None or is_zero(coefficient):
            return current
        ahead = extrapolate(current.kernel, displacement, coefficient)
        return Layer(ahead, current.bias, dense.fit(a, ahead, current.bias))

    def settled(new: dense.KernelStep, start: Layer, correct: bool) -> tuple[Move, jax.Array]:
        """How far to go along v - u, and whether that refused anything."""
        ahead = new.moved if start is current else new.moved + (start.kernel - current.kernel)
        far = plain = _move(new.layer, current, ahead, 0.0, 0.0)
        if correct and not (is_zero(inertia.correct) and is_zero(inertias.biases.correct)):
            far = _move(new.layer, current, ahead, inertia.correct, inertias.biases.correct)
        stay = jax.tree.map(jnp.zeros_like, plain)._replace(kernel=ahead)
        # Along one direction the norm's change is a quadratic of two numbers.
        slope, square = jnp.sum(current.kernel * ahead), jnp.sum(ahead * ahead)
        residual = current.fit - z

        def rise(move: Move) -> jax.Array:
            t = move.factor
            # XLA makes a factor of 2 inside of the sum an array.
            fits = rows.sum(move.fit * ((move.fit + residual) + residual))
            return 0.5 * (rho * fits + mu * t * (2 * slope + t * square))

        # At most as far beyond the joint minimiser of W and b as the start is before it: no rise.
        exact = kind == "exact" and start is current
        joint = exact and same(inertias.biases.correct, inertia.correct)
        is_plain = far is plain or (joint and _never_rises(inertia.correct))
        return _accept(method.safeguard, rise, stay, far, None if is_plain else plain)

    start = extrapolated(inertia.predict)
    one_point = same(inertia.evaluate, inertia.predict) or kind == "exact"
    point = start if one_point else extrapolated(inertia.evaluate)
    stepped, accepted_tau = step(start, point, tau)
    move, refused = settled(stepped, start, correct=True)

    def plain() -> tuple[Move, Any]:
        stepped, accepted_tau = step(current, current, tau)
        return settled(stepped, current, correct=False)[0], accepted_tau

    if method.safeguard and not (start is current and point is current):
        # The plain step costs as much as the accelerated one: only where that is refused.
        move, accepted_tau = jax.lax.cond(refused > 0, plain, lambda: (move, accepted_tau))
    moved = jnp.where(move.factor == 0, 0, move.factor * move.kernel)
    bias = current.bias
    if bias is not None and move.bias is not None:
        bias = bias + move.bias
    updated = Layer(current.kernel + moved, bias, current.fit + move.fit)
    return updated, moved, accepted_tau, refused


class Move(NamedTuple):
    """A way to go from the current layer: `factor` times `kernel`, and what follows from it."""

    factor: jax.Array
    kernel: Any
    bias: jax.Array | None
    fit: jax.Array


def _move(stepped: Layer, current: Layer, ahead, kernels: Any, biases: Any) -> Move:
    """Returns the move to v + p3 (v - u), where the bias has a p3 of its own; fits are linear."""
    factor = jnp.asarray(1 + kernels, ahead.dtype)
    if stepped.bias is None or current.bias is None:
        return Move(factor, ahead, None, factor * (stepped.fit - current.fit))
    bias = stepped.bias - current.bias
    product = (stepped.fit - current.fit) - bias
    longer = jnp.asarray(1 + biases, bias.dtype) * bias
    return Move(factor, ahead, longer, factor * product + longer)


def output(method: Method, z, fit, targets, inertia: Inertia, rho):
    """Returns the output pre-activation after its prox, and the share of rows refused."""
    loss = method.loss
    stepped = losses.prox(loss, targets, fit, z, rho)

    def change(candidate):
        square = jnp.sum((candidate - z) * ((candidate - fit) + (z - fit)), axis=-1)
        difference = loss.value(candidate, targets) - loss.value(z, targets)
        return (difference + 0.5 * rho * square)[:, None]

    return _accept(method.safeguard, change, z, _corrected(stepped, z, inertia.correct), stepped)


def pre_activation_penalty(
    method: Method, layer: int, z, fit, a, inertia: Inertia, numbers: Numbers
):
    """Returns a hidden pre-activation after its prox, and the share of elements refused."""
    activation = method.activations[layer]
    gamma, rho = numbers.gamma[layer], numbers.rho[layer]
    stepped = act.prox(activation, a, fit, z, gamma, rho)
    height = activation.value(z)

    def change(candidate):
        new_height = activation.value(candidate)
        return 0.5 * (
            rho * (candidate - z) * ((candidate - fit) + (z - fit))
            + gamma * (new_height - height) * ((new_height - a) + (height - a))
        )

    return _accept(method.safeguard, change, z, _corrected(stepped, z, inertia.correct), stepped)


def pre_activation_box(method: Method, layer: int, z, fit, a, inertia: Inertia, numbers: Numbers):
    """Returns a hidden pre-activation clipped to its interval, and the share refused.

    The interval is the constraint, so the old z is not a fallback where a smaller eps or a new a
    has left it outside.
    """
    left, right = act.preimage(method.activations[layer], a, numbers.eps)

    def project(z):
        return jnp.clip(z, left, right)

    stepped = project(fit)
    accelerated = _corrected(stepped, z, inertia.correct, project)

    def change(candidate):
        return (candidate - z) * ((candidate - fit) + (z - fit))

    return _accept(method.safeguard, change, stepped, accelerated, stepped)


def activation_penalty(
    method: Method,
    layer: int,
    a,
    displacement,
    z,
    following: Layer,
    z_following,
    inertia: Inertia,
    numbers: Numbers,
):
    """Returns a hidden activation, the next layer's fit, and the share of rows refused."""
    del displacement  # an exact solve has neither a prox centre nor an evaluation point
    gamma, rho = numbers.gamma[layer], numbers.rho[layer + 1]
    height = method.activations[layer].value(z)
    stepped = dense.activation_penalty(
        height, following.kernel, following.bias, z_following, gamma=gamma, rho=rho
    )
    stepped = (stepped, dense.fit(stepped, following.kernel, following.bias))
    return _choose_activation(
        method,
        a,
        following,
        z_following,
        stepped,
        inertia.correct,
        gamma,
        rho,
        height,
        None,
        stepped,
    )


def activation_box(
    method: Method,
    layer: int,
    a,
    displacement,
    z,
    following: Layer,
    z_following,
    inertia: Inertia,
    numbers: Numbers,
):
    """Returns a hidden activation in its box, the next layer's fit, and the share refused."""
    height = method.activations[layer].value(z)

    def project(a):
        return jnp.clip(a, height - numbers.eps, height + numbers.eps)

    def step(start, point):
        stepped = dense.activation_box(
            start,
            point,
            project,
            following.kernel,
            following.bias,
            z_following,
            steps=method.activation_steps,
        )
        return stepped, dense.fit(stepped, following.kernel, following.bias)

    def extrapolated(coefficient):
        if displacement is None or is_zero(coefficient):
            return a
        return extrapolate(a, displacement, coefficient)

    start = extrapolated(inertia.predict)
    one_point = same(inertia.evaluate, inertia.predict)
    point = start if one_point else extrapolated(inertia.evaluate)
    stepped = step(start, point)
    is_plain = start is a and point is a
    # The fallback must be feasible, and the old block need not be: project it.
    old = project(a)
    following = following._replace(fit=dense.fit(old, following.kernel, following.bias))
    plain = stepped if is_plain or not method.safeguard else step(old, old)
    return _choose_activation(
        method,
        old,
        following,
        z_following,
        stepped,
        inertia.correct,
        0.0,
        numbers.rho[layer + 1],
        height,
        project,
        plain,
    )


def _choose_activation(
    method: Method,
    a,
    following: Layer,
    z_following,
    stepped,
    correct: Any,
    gamma,
    rho,
    height,
    project,
    plain,
):
    """Over-relaxes an activation, and safeguards it together with the next layer's fit."""
    old = (a, following.fit)
    if is_zero(correct):
        accelerated = stepped
    else:
        corrected = over_relax(stepped[0], a, correct, project)
        if project is None:  # the fit is linear in a
            fit = over_relax(stepped[1], following.fit, correct)
        else:
            fit = dense.fit(corrected, following.kernel, following.bias)
        accelerated = (corrected, fit)

    def change(candidate):
        new_a, new_fit = candidate
        residuals = (new_fit - z_following) + (old[1] - z_following)
        fits = jnp.sum((new_fit - old[1]) * residuals, axis=-1)
        gaps = jnp.sum((new_a - a) * ((new_a - height) + (a - height)), axis=-1)
        return 0.5 * (rho * fits + gamma * gaps)[:, None]

    needs_check = method.safeguard and not (project is None and _never_rises(correct))
    (new, fit), refused = _accept(needs_check, change, old, accelerated, plain)
    return new, fit, refused


def _corrected(stepped, current, correct: Any, projection=None):
    """Returns the corrected block, or the stepped one itself where there is no correction."""
    if is_zero(correct):
        return stepped
    return over_relax(stepped, current, correct, projection)


def _never_rises(correct: Any) -> bool:
    """Whether v + p3 (v - u) is never above u, where v minimises a convex quadratic."""
    return isinstance(correct, Real) and -1 <= float(correct) <= 1


def _accept(
    safeguard: bool, change: Callable[[Any], jax.Array], old: Any, accelerated: Any, plain: Any
) -> tuple[Any, jax.Array]:
    """Returns the accelerated block, or the plain or the old one in cells where it is worse.

    Args:
      safeguard: False accepts the accelerated block as it is.
      change: maps a block to how much it changes the terms that contain it, per cell: an array that
        broadcasts against the block's arrays.
      old: the block before its step, a pytree.
      accelerated: the block after the step with inertia.
      plain: the block after the step without inertia, or None where that is `accelerated` itself.

    Returns:
      The block and the share of its cells where `accelerated` was refused.
    """
    dtype = jax.tree.leaves(old)[0].dtype
    if not safeguard:
        return accelerated, jnp.zeros((), dtype)

    def choose(accepted, block, otherwise):
        return jax.tree.map(lambda x, y: jnp.where(accepted, x, y), block, otherwise)

    fallback = old if plain is None else choose(change(plain) <= 0, plain, old)
    accepted = change(accelerated) <= 0  # False for NaN
    return choose(accepted, accelerated, fallback), jnp.mean(~accepted, dtype=dtype)
