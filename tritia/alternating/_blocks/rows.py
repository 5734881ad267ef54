r"""Rows of a batch: their sample weights, their mean, and their Gram matrix.

A layer's kernel solves a least squares problem over the rows. Eliminating the bias centres the
rows, and sample weights scale them. Both together are the linear map

.. math:: S x = D^{1/2} (x - 1 \bar{x}), \qquad \bar{x} = \frac{w^T x}{w^T 1}, \quad D = diag(w)

so that :math:`\tilde a = S a` and :math:`\tilde z = S z` give the plain problem
:math:`\frac\rho2 |\tilde a W - \tilde z|^2 + \frac\mu2 |W|^2` without bias and weights. The map is
applied to the narrow factor of every product; a wide `a` itself is never copied.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tritia._factorisations import eigh


class Rows(NamedTuple):
    """The sample weights of a batch.

    Attributes:
      weights: (n, 1), >= 0, or None where all are 1.
    """

    weights: jax.Array | None = None

    def mean(self, x: jax.Array) -> jax.Array:
        """Returns the weighted mean of the rows: (n, k) to (k,)."""
        if self.weights is None:
            return jnp.mean(x, axis=0)
        total = jnp.sum(self.weights)
        return jnp.sum(self.weights * x, axis=0) / jnp.where(total > 0, total, 1)

    def scale(self, x: jax.Array, centred: bool) -> jax.Array:
        """Returns S x (without the centring where `centred` is False)."""
        if centred:
            x = x - self.mean(x)[None]
        return x if self.weights is None else jnp.sqrt(self.weights) * x

    def adjoint(self, x: jax.Array, centred: bool) -> jax.Array:
        """Returns S^T x, so that (S a)^T x = a^T (S^T x)."""
        if self.weights is not None:
            x = jnp.sqrt(self.weights) * x
        if not centred:
            return x
        if self.weights is None:
            return x - jnp.mean(x, axis=0, keepdims=True)
        total = jnp.sum(self.weights)
        mean = jnp.sum(x, axis=0, keepdims=True) / jnp.where(total > 0, total, 1)
        return x - self.weights * mean

    def unscale(self, x: jax.Array) -> jax.Array:
        """Returns D^{-1/2} x, 0 in rows of weight 0."""
        if self.weights is None:
            return x
        root = jnp.sqrt(self.weights)
        return jnp.where(root > 0, x / jnp.where(root > 0, root, 1), 0)

    def sum(self, x: jax.Array) -> jax.Array:
        """Returns the weighted sum over rows, and plain sum over columns, of (n, k)."""
        if self.weights is None:
            return jnp.sum(x)
        # A row of weight 0 may hold anything, NaN too.
        return jnp.sum(jnp.where(self.weights == 0, 0, self.weights * x))


class Spectrum(NamedTuple):
    r"""The eigendecomposition of a layer's Gram matrix, which serves every rho, mu and tau.

    Attributes:
      values: (m,), >= 0, ascending, m = min(n, d).
      vectors: (m, m), orthonormal columns: of :math:`\tilde a \tilde a^T` where n < d ("rows"), of
        :math:`\tilde a^T \tilde a` elsewhere ("columns").
      mean: (d,), the weighted mean row of `a`.
    """

    values: jax.Array
    vectors: jax.Array
    mean: jax.Array


def gram(a: jax.Array, rows: Rows, centred: bool, by_rows: bool) -> jax.Array:
    r"""Returns :math:`\tilde a \tilde a^T`, (n, n), or :math:`\tilde a^T \tilde a`, (d, d)."""
    scaled = rows.scale(a, centred)
    return scaled @ scaled.T if by_rows else scaled.T @ scaled


def spectrum(a: jax.Array, rows: Rows, centred: bool, by_rows: bool) -> Spectrum:
    """Returns the eigendecomposition of `gram(a, rows, centred, by_rows)`."""
    values, vectors = eigh(gram(a, rows, centred, by_rows))
    return Spectrum(jnp.maximum(values, 0), vectors, rows.mean(a))
