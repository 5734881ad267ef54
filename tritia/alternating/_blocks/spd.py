"""Factorisations of symmetric matrices, safe under `jax.vmap` on the CPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tritia._batching import one_at_a_time


@one_at_a_time
def spd_inverse(matrix: jax.Array) -> jax.Array:
    """Returns the inverse of a symmetric positive definite matrix, (m, m), by Cholesky.

    The blocks have far more right sides (rows of a batch) than unknowns, and a product with the
    inverse runs at the speed of a matrix product, where two triangular solves take several times
    as long. NaN where the matrix is not positive definite to rounding.
    """
    factor = jax.scipy.linalg.cho_factor(matrix, lower=True)
    inverse = jax.scipy.linalg.cho_solve(factor, jnp.eye(matrix.shape[0], dtype=matrix.dtype))
    return 0.5 * (inverse + inverse.T)


@one_at_a_time
def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the eigenvalues, ascending (m,), and eigenvectors, (m, m), of a symmetric matrix."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors
