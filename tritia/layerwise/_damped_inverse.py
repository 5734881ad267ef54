r"""The inverse of a damped Gram matrix, in one of three forms.

For a Gram matrix G (d, d) and :math:`\lambda = damping \cdot \operatorname{tr} G / d`, the inverse
of :math:`G + \lambda I` is kept

* whole, (d, d): a product with it runs at the speed of a matrix product, where the two triangular
  solves of a Cholesky factor take several times as long;
* as that of G's diagonal, (d,);
* or by leading eigenvectors (`LowRank`). Eigenvalues fall fast, and those well below
  :math:`\lambda` hardly differ to the damped inverse: a few of them do where d is large, and make a
  product cheaper by d / (2 rank).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tritia._factorisations import eigh, orthonormal, spd_inverse


class LowRank(NamedTuple):
    r"""The matrix :math:`\sigma (I - U \operatorname{diag}(c) U^T)`.

    Attributes:
      vectors: U, (d, r), orthonormal columns.
      shrink: c, (r,).
      scale: sigma, ().
    """

    vectors: jax.Array
    shrink: jax.Array
    scale: jax.Array


Inverse = jax.Array | LowRank
"""An array (d, d) or (d,), or a `LowRank`."""


def zero_inverse(size: int, dtype: jnp.dtype, *, diagonal: bool, rank: int | None) -> Inverse:
    """Returns an inverse of the right form, for the state before there is a Gram matrix.

    Args:
      size: d.
      dtype: of its arrays.
      diagonal: whether only the diagonal of the Gram matrix is kept.
      rank: of the low-rank form, used where it is cheaper than the whole inverse; None never uses
        it.
    """
    if diagonal:
        return jnp.zeros((size,), dtype)
    if rank is None or 2 * rank >= size:
        return jnp.zeros((size, size), dtype)
    # The start of the first subspace iteration: not zeros, and the same for every run and dtype.
    vectors = jax.random.normal(jax.random.key(0), (size, rank), jnp.float32).astype(dtype)
    return LowRank(vectors, jnp.zeros((rank,), dtype), jnp.zeros((), dtype))


def damped_inverse(gram: jax.Array, damping: jax.Array, last: Inverse) -> Inverse:
    r"""Returns the inverse of :math:`G + \lambda I`, or that of its diagonal.

    A damping as small as rounding keeps the inverse finite for any rank of G. A Gram matrix of
    zeros has the inverse 0.

    Args:
      gram: G, (d, d), or its diagonal, (d,).
      damping: lambda over the mean diagonal entry of G, ().
      last: the last inverse; decides the form, and a low-rank one starts from its vectors.
    """
    diagonal = gram if gram.ndim == 1 else jnp.diagonal(gram)
    mean = jnp.mean(diagonal)
    shift = (damping + diagonal.size * jnp.finfo(gram.dtype).eps) * mean
    positive = mean > 0
    if gram.ndim == 1:
        return jnp.where(positive, 1 / jnp.where(positive, gram + shift, 1), 0)
    if isinstance(last, LowRank):
        return _low_rank(gram, shift, positive, last)
    identity = jnp.eye(diagonal.size, dtype=gram.dtype)
    inverse = spd_inverse(jnp.where(positive, gram + shift * identity, identity))
    return jnp.where(positive, inverse, 0)


def _low_rank(gram: jax.Array, shift: jax.Array, positive: jax.Array, last: LowRank) -> LowRank:
    """Subspace iterations from the last vectors, then Rayleigh-Ritz.

    The eigenvalues left out count as their mean. A large one left out would let a step along its
    vector diverge; hence a second iteration, because G changes fastest at the start.
    """
    rank = last.shrink.size
    vectors = orthonormal(gram @ orthonormal(gram @ last.vectors))
    values, rotation = eigh(vectors.T @ (gram @ vectors))
    tail = jnp.maximum(jnp.trace(gram) - jnp.sum(values), 0) / (gram.shape[0] - rank)
    rest = jnp.where(positive, shift + tail, 1)
    return LowRank(
        jnp.where(positive, vectors @ rotation, last.vectors),
        1 - rest / (rest + jnp.maximum(values, 0) - tail),
        jnp.where(positive, 1 / rest, 0),
    )


def times_columns(inverse: Inverse, columns: jax.Array) -> jax.Array:
    """Returns the inverse times a matrix (d, k)."""
    if isinstance(inverse, LowRank):
        inner = inverse.shrink[:, None] * (inverse.vectors.T @ columns)
        return inverse.scale * (columns - inverse.vectors @ inner)
    return inverse[:, None] * columns if inverse.ndim == 1 else inverse @ columns


def times_rows(inverse: Inverse, rows: jax.Array) -> jax.Array:
    """Returns a matrix (n, d) times the inverse, which is symmetric."""
    if isinstance(inverse, LowRank):
        inner = (rows @ inverse.vectors) * inverse.shrink
        return inverse.scale * (rows - inner @ inverse.vectors.T)
    return rows * inverse if inverse.ndim == 1 else rows @ inverse
