"""Matrices replaced by their orthogonal factors, by Newton-Schulz iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tritia._arguments import check_number, check_static, check_static_int
from tritia._leaves import check_gradients, passed_through
from tritia._mesh import vary, varying_axes, with_auto_axes
from tritia.layerwise._matrices import (
    Axes,
    axes_of,
    check_axes,
    from_tall,
    largest_entry,
    sum_of_squares,
    to_tall,
    with_orthogonal_norm,
)
from tritia.layerwise._minimax import newton_schulz_polynomials


def scale_by_newton_schulz(
    steps: int = 2, *, smallest: float = 0.01, axes: Axes = None
) -> optax.GradientTransformation:
    r"""Makes the singular values of each matrix alike, at a fixed norm.

    A matrix :math:`M = U S V^T` (d, k) with m = min(d, k) is replaced by about its orthogonal
    factor :math:`U V^T`, the nearest matrix with orthonormal rows or columns. From
    :math:`X = M / \sigma` with :math:`\sigma^4 = |M^T M|^2`, a bound of the singular values, each
    step applies a polynomial to all of them,

    .. math::

      X \leftarrow X (a_j I + b_j X^T X + c_j (X^T X)^2)

    and at the end X gets the norm :math:`\sqrt m`. The polynomial of a step is the one that is
    nearest to 1, in its largest error, on the interval that holds the singular values from
    `smallest` to 1 after the steps before. Those below `smallest` grow as fast as it allows, too,
    and zeros stay zeros.

    **Relations.** It is Muon's step, whose five steps share one polynomial. Bounded by
    :math:`\sigma` instead of the norm :math:`|M|`, and with
    `tritia.scale_by_spectral_clipping` before it, which brings the few leading singular values down
    to the others', two steps take it about as far:
    ``optax.chain(optax.trace(0.9, nesterov=True), tritia.scale_by_spectral_clipping(),
    tritia.scale_by_newton_schulz(), optax.scale_by_learning_rate(0.02))``.

    **Cost.** :math:`4\, d k m + 2\, m^3` operations for each step; no state. That is little where
    a gradient is the sum over many more positions than m, as in a transformer, and several times
    the gradient's own for a small dense layer on minibatches of about m rows.

    Args:
      steps: how often a polynomial is applied, >= 1; static.
      smallest: the singular value relative to :math:`\sigma` from which on all become alike, in
        (0, 1); static.
      axes: which axes of an array are its rows and its columns, as for
        `tritia.scale_by_spectral_clipping`.

    Returns:
      An `optax.GradientTransformation` with an `optax.EmptyState`.

    Raises:
      ValueError: a number outside its range; from `init` and `update`, `axes` that do not fit.
      TypeError: an argument of the wrong type, or a static one that is traced.

    References:
      Higham, Functions of Matrices, 2008, section 8.3 (Newton-Schulz iteration)

      Jordan et al., `Muon: An optimizer for hidden layers in neural networks
      <https://kellerjordan.github.io/posts/muon/>`_, 2024

      Amsel et al., `The Polar Express: Optimal Matrix Sign Methods and Their Application to the
      Muon Algorithm <https://arxiv.org/abs/2505.16932>`_, 2025 (the choice of polynomials)

    Examples:
      >>> import jax.numpy as jnp, tritia
      >>> matrix = jnp.diag(jnp.array([1.0, 0.5, 0.1]))
      >>> orthogonal = tritia.scale_by_newton_schulz(steps=4)
      >>> step, _ = orthogonal.update(matrix, orthogonal.init(matrix))
      >>> print([f"{value:.1f}" for value in jnp.diagonal(step)])
      ['1.0', '1.0', '1.0']
    """
    steps = check_static_int("steps", steps, minimum=1)
    check_static(smallest=smallest)
    check_number(
        "smallest",
        smallest,
        minimum=0,
        exclusive_minimum=True,
        maximum=1,
        exclusive_maximum=True,
        schedule=False,
    )
    check_axes(axes)
    polynomials = newton_schulz_polynomials(steps, float(smallest))

    def init_fn(params: optax.Params) -> optax.EmptyState:
        axes_of(axes, params)  # they fit, or an error says so now
        return optax.EmptyState()

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        given = updates
        updates, _ = check_gradients(updates, params)
        varying = varying_axes(updates)
        steps = vary(with_auto_axes(step, updates, vary(updates, varying)), varying)
        return passed_through(steps, given), state

    def step(updates: optax.Updates) -> optax.Updates:
        leaves, structure = jax.tree.flatten(updates)
        return jax.tree.unflatten(
            structure,
            [
                from_tall(one, _orthogonal(to_tall(one, leaf), polynomials), leaf)
                for one, leaf in zip(axes_of(axes, updates), leaves, strict=True)
            ],
        )

    return optax.GradientTransformation(init_fn, update_fn)


def _orthogonal(matrices: jax.Array, polynomials: Sequence[np.ndarray]) -> jax.Array:
    """Returns about the orthogonal factors of matrices (count, d, m) with d >= m."""
    x = matrices / largest_entry(matrices)
    for i, polynomial in enumerate(polynomials):
        a, b, c = polynomial.tolist()
        gram = jnp.conj(x.mT) @ x
        if not i:
            fourth = sum_of_squares(gram, axis=(-2, -1))  # of the bound, to the fourth
            square = jnp.sqrt(jnp.where(fourth > 0, fourth, 1))
            x, gram = x / jnp.sqrt(square), gram / square
        x = a * x + x @ (b * gram + c * gram @ gram)
    return with_orthogonal_norm(x)
