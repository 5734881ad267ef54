"""Work once in a while, and LAPACK, under vmap: the same numbers, and no more work than without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tritia._batching import lockstep_cond, one_at_a_time
from tritia._factorisations import eigh, spd_inverse


def branch(predicate, x, scale):
    return lockstep_cond(
        predicate,
        lambda x, scale: (x * scale, {"kept": scale + 1}),
        lambda x, scale: (x, {"kept": scale}),
        x,
        scale,
    )


@pytest.mark.parametrize("batched", [(True, True), (True, False), (False, True)])
def test_lockstep_cond_is_cond(batched):
    rng = np.random.default_rng(0)
    predicate = jnp.asarray(rng.uniform(size=(4, 3)) < 0.5) if batched[0] else jnp.asarray(True)
    x = jnp.asarray(rng.normal(size=(4, 3, 2)) if batched[1] else rng.normal(size=2))
    axes = (0 if batched[0] else None, 0 if batched[1] else None, None)
    got = jax.jit(jax.vmap(jax.vmap(branch, axes), axes))(predicate, x, 3.0)
    wanted = jnp.broadcast_to(predicate[..., None] if batched[0] else predicate, (4, 3, 2))
    np.testing.assert_array_equal(got[0], jnp.where(wanted, 3 * x, x))
    np.testing.assert_array_equal(got[1]["kept"], jnp.where(wanted[..., 0], 4.0, 3.0))


@pytest.mark.parametrize("wanted", [[False, False], [False, True]])
def test_lockstep_cond_skips_what_no_member_wants(wanted):
    calls = []

    def expensive(x):
        jax.debug.callback(lambda: calls.append(1))
        return 2 * x

    run = jax.jit(jax.vmap(lambda p, x: lockstep_cond(p, expensive, lambda x: x, x)))
    run(jnp.asarray(wanted), jnp.ones(2)).block_until_ready()
    jax.effects_barrier()
    assert bool(calls) == any(wanted)


def test_factorisations_one_at_a_time_are_the_batched_ones(x64):
    rng = np.random.default_rng(0)
    half = rng.normal(size=(2, 3, 5, 5))
    matrices = jnp.asarray(half @ half.swapaxes(-1, -2) + np.eye(5))
    inverses = jax.jit(jax.vmap(jax.vmap(spd_inverse)))(matrices)
    np.testing.assert_allclose(inverses, np.linalg.inv(matrices), rtol=1e-9, atol=1e-12)
    values, vectors = jax.jit(jax.vmap(jax.vmap(eigh)))(matrices)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrices), rtol=1e-9)
    np.testing.assert_allclose(
        (vectors * values[..., None, :]) @ vectors.swapaxes(-1, -2), matrices, atol=1e-9
    )


def test_one_at_a_time_makes_no_batched_call_on_the_cpu():
    # Two batched LAPACK calls at once never come back on a machine with two cores.
    matrices = jnp.broadcast_to(jnp.eye(4), (3, 4, 4))
    inverse = one_at_a_time(lambda matrix: jnp.linalg.cholesky(matrix))
    text = jax.jit(jax.vmap(inverse)).lower(matrices).compile().as_text()
    calls = [line for line in text.splitlines() if "potrf" in line and "custom-call" in line]
    assert calls
    assert not any("f32[3,4,4]" in line for line in calls)
