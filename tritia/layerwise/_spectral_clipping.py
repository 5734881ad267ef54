"""Steps whose leading singular values are clipped, at the price of two thin products."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from tritia._arguments import ScalarOrSchedule, check_number, check_static_int, value_at
from tritia._batching import lockstep_cond
from tritia._factorisations import orthonormal
from tritia._leaves import check_gradients, is_placeholder, passed_through, trained
from tritia._mesh import beside, vary, varying_axes, with_auto_axes
from tritia._schedules import growing_period
from tritia._trees import compute_dtype
from tritia.layerwise._matrices import (
    Axes,
    axes_of,
    check_axes,
    from_tall,
    largest_entry,
    shape_of,
    sum_of_squares,
    to_tall,
    with_orthogonal_norm,
)

SMALLEST_REST = 1e-4
"""The least share of |M|^2 that the singular values left alone are taken to have."""


class SpectralClippingState(NamedTuple):
    """State of `tritia.scale_by_spectral_clipping`.

    Attributes:
      count: number of updates so far, (), int32.
      next_refresh: the count at which the singular vectors are refreshed next, (), int32.
      vectors: a tree like params that holds estimates of each matrix's leading singular vectors on
        its shorter side of length m, (count, m, r); None for a leaf of which nothing is clipped.
    """

    count: jax.Array
    next_refresh: jax.Array
    vectors: Any


def scale_by_spectral_clipping(
    rank: int = 8,
    *,
    refresh_period: ScalarOrSchedule = growing_period(1, 5),  # noqa: B008
    axes: Axes = None,
) -> optax.GradientTransformation:
    r"""Clips the leading singular values of each matrix and gives it a fixed norm.

    For a momentum M (d, k) with m = min(d, k), let V hold estimates of its r leading right singular
    vectors, with orthonormal columns. Then

    .. math::

      y_i = M v_i, \qquad
      \tau^2 = \frac{|M|^2 - \sum_i |y_i|^2}{m - r}, \qquad
      f_i = \min(1, \tau / |y_i|)

      U = M + \sum_i (f_i - 1)\, y_i v_i^T, \qquad \text{step} = \sqrt m \; U / |U|

    :math:`\tau` is the root mean square of the singular values that are left alone. V follows M by
    one step of subspace iteration, :math:`V \leftarrow \operatorname{qr}(M^T M V)`, at each
    refresh. Where d < k the left singular vectors are used instead: the shorter side is the
    cheaper. The step has the norm of an orthogonal matrix, whatever the scale of the loss and the
    size of the batch, so that one learning rate suits layers of every width. A gradient of zeros
    gives a step of zeros.

    Put it after a momentum, and a negative learning rate after it:
    ``optax.chain(optax.trace(0.9), tritia.scale_by_spectral_clipping(),
    optax.scale_by_learning_rate(0.01))``.

    **Relations.** Spectral descent steps along :math:`M (M^T M)^{-1/2}`, all of whose singular
    values are 1; it is steepest descent in the spectral norm. Muon does so for a momentum, by five
    Newton-Schulz iterations, each of three products as wide as M. Shampoo without its running
    averages is the same step, and SOAP runs Adam in Shampoo's eigenbasis. The momentum of a deep
    network is close to a matrix of low rank, and clipping its few leading singular values at the
    size of the rest removes most of what Muon removes, without raising the smallest ones, which are
    mostly noise. With r = 0 it is normalised momentum.

    **Cost.** 4 d k r operations a step for the two products with V, where Muon's take
    :math:`20\, d k m + 10\, m^3`; at a refresh 4 d k r more and a QR of (m, r), about 4 m r^2. It
    reads and writes about a dozen arrays of M's size. The state has m r numbers.

    Args:
      rank: r, how many singular values are clipped, >= 0, at most half of the shorter side of each
        matrix; static.
      refresh_period: steps between two refreshes of V, >= 1; a number or a schedule. The first step
        refreshes. By default it grows from 1 to 5, because V starts from nothing.
      axes: which axes of an array are its rows and its columns: a dict from names of leaves, such
        as "layers/0/kernel", to `tritia.MatrixAxes`, as `tritia.layer_axes` finds it. For leaves
        that it lacks the columns are the last axis and the rows are all others: a convolution
        kernel is a matrix with one column for each filter, a vector a matrix of one row.

    Returns:
      An `optax.GradientTransformation` with a `SpectralClippingState`. On a mesh the vectors lie
      where the compiler puts them, and on every device under explicit axes.

    Raises:
      ValueError: a number outside its range; from `init` and `update`, `axes` that do not fit.
      TypeError: an argument of the wrong type, or a static one that is traced.

    References:
      Carlson et al., `Stochastic Spectral Descent for Restricted Boltzmann Machines
      <https://proceedings.mlr.press/v38/carlson15.html>`_, 2015

      Gupta, Koren and Singer, `Shampoo: Preconditioned Stochastic Tensor Optimization
      <https://arxiv.org/abs/1802.09568>`_, 2018

      Jordan et al., `Muon: An optimizer for hidden layers in neural networks
      <https://kellerjordan.github.io/posts/muon/>`_, 2024

      Vyas et al., `SOAP: Improving and Stabilizing Shampoo using Adam
      <https://arxiv.org/abs/2409.11321>`_, 2024

      Golub and Van Loan, Matrix Computations, 4th edition, section 8.2 (orthogonal iteration)

    Examples:
      >>> import jax.numpy as jnp, tritia
      >>> momentum = jnp.diag(jnp.array([100.0, 2.0, 1.0, 1.0]))
      >>> clipped = tritia.scale_by_spectral_clipping(rank=1)
      >>> state = clipped.init(momentum)
      >>> for _ in range(4):
      ...   step, state = clipped.update(momentum, state)
      >>> print(jnp.linalg.svd(step, compute_uv=False).round(1))
      [1.4 1.  0.7 0.7]
    """
    rank = check_static_int("rank", rank, minimum=0)
    check_number("refresh_period", refresh_period, minimum=1)
    check_axes(axes)

    def init_fn(params: optax.Params) -> SpectralClippingState:
        zero = jnp.zeros((), jnp.int32)
        if is_placeholder(params):  # a leaf for the whole tree: it has no copies of params
            return SpectralClippingState(zero, zero.copy(), jnp.zeros(()))
        params = trained(params)
        leaves, structure = jax.tree.flatten(params)
        vectors = [
            _start(shape_of(one, jnp.shape(leaf)), rank, compute_dtype(leaf))
            for one, leaf in zip(axes_of(axes, params), leaves, strict=True)
        ]
        state = SpectralClippingState(zero, zero.copy(), jax.tree.unflatten(structure, vectors))
        return beside(params, vary(state, varying_axes(params)))

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, SpectralClippingState]:
        given = updates
        updates, _ = check_gradients(updates, params)
        varying = varying_axes((updates, state))
        operands = vary((updates, state), varying)
        steps, state = vary(with_auto_axes(step, operands, *operands), varying)
        return passed_through(steps, given), state

    def step(
        updates: optax.Updates, state: SpectralClippingState
    ) -> tuple[optax.Updates, SpectralClippingState]:
        leaves, structure = jax.tree.flatten(updates)
        each = axes_of(axes, updates)
        matrices = list(map(to_tall, each, leaves))
        vectors = structure.flatten_up_to(state.vectors)
        due = state.count >= state.next_refresh
        known = [i for i, v in enumerate(vectors) if v is not None]
        if known:
            refreshed = lockstep_cond(
                due,
                lambda matrices, vectors: tuple(map(_iterate, matrices, vectors)),
                lambda matrices, vectors: vectors,
                tuple(matrices[i] for i in known),
                tuple(vectors[i] for i in known),
            )
            for i, new in zip(known, refreshed, strict=True):
                vectors[i] = new
        steps = [
            from_tall(one, _clipped(tall, v), leaf)
            for one, leaf, tall, v in zip(each, leaves, matrices, vectors, strict=True)
        ]
        period = jnp.round(jnp.asarray(value_at(refresh_period, state.count)))
        following = state.count + jnp.maximum(period.astype(jnp.int32), 1)
        return jax.tree.unflatten(structure, steps), SpectralClippingState(
            count=cast(jax.Array, optax.safe_increment(state.count)),
            next_refresh=jnp.where(due, following, state.next_refresh),
            vectors=jax.tree.unflatten(structure, vectors),
        )

    return optax.GradientTransformation(init_fn, update_fn)


def _start(shape: tuple[int, int, int], rank: int, dtype: Any) -> jax.Array | None:
    """Returns what the first subspace iteration starts from; None where nothing is clipped.

    A direction that a start is orthogonal to is never found, in exact arithmetic. Columns of the
    identity or of a cosine transform are orthogonal to directions that do occur: those of a
    gradient with columns of zeros, or of one whose rows sum to zero, as below a softmax. A draw
    from the normal distribution is orthogonal to no given direction, with probability one, and a
    fixed key draws the same for every run.
    """
    count, rows, columns = shape
    shorter = min(rows, columns)
    rank = min(rank, shorter // 2)
    if not count or not rank:
        return None
    draw = jax.random.normal(jax.random.key(0), (shorter, rank), jnp.float32)
    return jnp.tile(orthonormal(draw.astype(dtype)), (count, 1, 1))


def _iterate(matrices: jax.Array, vectors: jax.Array) -> jax.Array:
    """One step of subspace iteration; a matrix that is zero or not finite changes nothing."""
    scale = largest_entry(matrices)
    images = matrices @ vectors / scale
    new = jax.vmap(orthonormal)(jnp.conj(matrices.mT) @ images / scale)
    usable = jnp.isfinite(scale) & jnp.any(images != 0, axis=(-2, -1), keepdims=True)
    return jnp.where(usable & jnp.all(jnp.isfinite(new), (-2, -1), keepdims=True), new, vectors)


def _clipped(matrices: jax.Array, vectors: jax.Array | None) -> jax.Array:
    """Returns the step of matrices (count, d, m) with d >= m."""
    shorter = matrices.shape[-1]
    scale = largest_entry(matrices)
    steps = matrices / scale
    if vectors is not None:
        images = matrices @ vectors / scale
        energies = sum_of_squares(images, axis=-2)
        total = sum_of_squares(steps, axis=(-2, -1))
        rest = total - jnp.sum(energies, axis=-1, keepdims=True)
        # A matrix of rank r leaves no rest, but for rounding: what is clipped must not vanish.
        rest = jnp.maximum(rest, SMALLEST_REST * total)
        ratio = rest / (shorter - vectors.shape[-1])
        factors = jnp.sqrt(jnp.minimum(1, ratio / jnp.where(energies > 0, energies, 1)))
        factors = jnp.where(energies > 0, factors, 1)
        steps = steps + (images * (factors - 1)) @ jnp.conj(vectors.mT)
    return with_orthogonal_norm(steps)
