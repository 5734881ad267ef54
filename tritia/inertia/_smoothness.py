"""An estimate of the largest curvature of a loss."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from tritia._arguments import check_number, check_static_int
from tritia._leaves import trained
from tritia._trees import compute_dtype, is_none


def estimate_smoothness(
    loss: Callable[[optax.Params], jax.typing.ArrayLike],
    params: optax.Params,
    key: jax.Array,
    *,
    iterations: int = 100,
    tolerance: float | jax.Array = 1e-4,
) -> jax.Array:
    r"""Estimates the largest curvature of `loss` at `params` by power iteration.

    With the Hessian H at `params` and a random unit vector :math:`v_0`:

    .. math::

      L_k = |H v_k|, \qquad v_{k+1} = H v_k / L_k

    :math:`L_k` rises towards the largest absolute eigenvalue of H, so it is a **lower** bound, and
    it is **local**: curvature may be larger elsewhere. For a quadratic loss it is the smoothness
    itself; otherwise add a margin (say a tenth), or take the largest of several points of the
    run. For a minibatch it is the curvature of that minibatch's loss.

    Args:
      loss: function from params to a real scalar, twice differentiable. Close over the data.
      params: pytree of floating or complex arrays; half precision gives half-precision products.
        Curvature is by these: leaves of other types (counters, keys, None) stay as they are.
      key: PRNG key for the first vector.
      iterations: the most Hessian-vector products to take, each the cost of about two gradients;
        static.
      tolerance: stop when :math:`L_k` changed by less than this fraction.

    Returns:
      The estimate, a real scalar of the params' precision, float32 at least. 0 where the Hessian is
      zero; NaN where the curvature is not finite.

    Raises:
      TypeError: `iterations` is not a Python int, or `loss` is not a real scalar.
      ValueError: `iterations` < 1 or `tolerance` < 0.

    Examples:
      >>> import jax, jax.numpy as jnp, tritia
      >>> loss = lambda w: 0.5 * (100.0 * w[0] ** 2 + w[1] ** 2)
      >>> L = tritia.estimate_smoothness(loss, jnp.zeros(2), jax.random.key(0))
      >>> print(f"{L:.1f}")
      100.0
    """
    iterations = check_static_int("iterations", iterations, minimum=1)
    check_number("tolerance", tolerance, minimum=0.0, schedule=False)

    def hessian_times(vector):
        product = jax.jvp(jax.grad(of_trained), (start,), (vector,))[1]
        # jax.grad returns the conjugate of the direction of ascent; without this, H would not be
        # symmetric for complex params.
        return jax.tree.map(jnp.conj, product)

    def norm(vector):
        wide = [x.astype(compute_dtype(x)) for x in jax.tree.leaves(vector)]
        return optax.tree.norm(wide)

    def normalised(vector):
        length = norm(vector)
        # A zero vector stays zero: the estimate of a flat loss is 0, not NaN.
        scale = 1.0 / jnp.where(length == 0, 1.0, length)
        return jax.tree.map(lambda x: (scale * x).astype(x.dtype), vector)

    def keep_going(carry):
        step, _, previous, current = carry
        return (step < iterations) & ~(jnp.abs(current - previous) <= tolerance * current)

    def iterate(carry):
        step, vector, _, current = carry
        product = hessian_times(vector)
        return step + 1, normalised(product), current, norm(product)

    def of_trained(some):
        return loss(
            jax.tree.map(lambda w, all_: all_ if w is None else w, some, params, is_leaf=is_none)
        )

    start = jax.tree.map(jnp.asarray, trained(params))
    if not jax.tree.leaves(start):
        return jnp.zeros(())
    vector = normalised(optax.tree.random_like(key, start, sampler=jax.random.normal))
    dtype = jax.eval_shape(norm, vector).dtype
    carry = (jnp.zeros((), jnp.int32), vector, jnp.full((), -jnp.inf, dtype), jnp.zeros((), dtype))
    return jax.lax.while_loop(keep_going, iterate, carry)[3]
