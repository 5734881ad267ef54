"""Factorisations of matrices that `jax.vmap` does not batch on the CPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tritia._batching import one_at_a_time


@one_at_a_time
def spd_inverse(matrix: jax.Array) -> jax.Array:
    """Returns the inverse of a symmetric positive definite matrix, (m, m), by Cholesky.

    The blocks have many more right sides (rows of a batch) than unknowns, and two triangular
    solves take several times as long as one matrix product with the inverse. NaN where the
    matrix is not positive definite to rounding.
    """
    factor = jax.scipy.linalg.cho_factor(matrix, lower=True)
    inverse = jax.scipy.linalg.cho_solve(factor, jnp.eye(matrix.shape[0], dtype=matrix.dtype))
    return 0.5 * (inverse + inverse.T)


@one_at_a_time
def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the eigenvalues, ascending (m,), and eigenvectors, (m, m), of a symmetric matrix."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


@one_at_a_time
def orthonormal(matrix: jax.Array) -> jax.Array:
    """Returns orthonormal columns, (m, r), that span those of a matrix (m, r), r <= m."""
    return jnp.linalg.qr(matrix)[0]
