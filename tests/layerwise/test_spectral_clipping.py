"""Spectral clipping against singular value decompositions by NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tritia
from tritia import MatrixAxes

STEPS = 30  # of subspace iteration, on gaps wide enough for it to end


def _step(momentum, rank, steps=STEPS, **settings):
    solver = tritia.scale_by_spectral_clipping(rank, refresh_period=1, **settings)

    @jax.jit
    def last(momentum):
        def body(state, _):
            updates, state = solver.update(momentum, state)
            return state, updates

        steps_taken = jax.lax.scan(body, solver.init(momentum), length=steps)[1]
        return jax.tree.map(lambda leaf: leaf[-1], steps_taken)

    return last(momentum)


def _reference(matrix, rank):
    """Clips singular values by a decomposition."""
    u, s, vt = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    m = len(s)
    rest = max(np.sum(s[rank:] ** 2), 1e-4 * np.sum(s**2))
    s[:rank] = np.minimum(s[:rank], np.sqrt(rest / (m - rank)))
    clipped = (u * s) @ vt
    return clipped * np.sqrt(m) / np.linalg.norm(clipped)


def _with_singular_values(values, d, k, seed=0):
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.normal(size=(d, len(values))))
    v, _ = np.linalg.qr(rng.normal(size=(k, len(values))))
    return jnp.asarray((u * np.asarray(values)) @ v.T)


@pytest.mark.parametrize(
    "shape", [(12, 8), (8, 12), pytest.param((10, 10), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("rank", [1, 3, 4])
def test_it_clips_the_leading_singular_values(shape, rank, x64):
    values = 2.0 ** -np.arange(min(shape))
    momentum = _with_singular_values(values, *shape)
    np.testing.assert_allclose(_step(momentum, rank), _reference(momentum, rank), atol=1e-6)


@pytest.mark.parametrize("shape", [(12, 8), (8, 12)])
def test_a_momentum_of_rank_r_becomes_orthogonal(shape, x64):
    """Where nothing is left over, it is Muon's step: every singular value becomes the same."""
    momentum = _with_singular_values([8.0, 4.0, 2.0, 1.0], *shape)
    u, _, vt = np.linalg.svd(np.asarray(momentum), full_matrices=False)
    polar = u[:, :4] @ vt[:4]
    np.testing.assert_allclose(_step(momentum, rank=4), polar * np.sqrt(8 / 4), atol=1e-6)


def test_singular_values_below_the_rest_are_left_alone(x64):
    momentum = _with_singular_values([1.0] * 8, 12, 8)
    np.testing.assert_allclose(_step(momentum, 3), momentum, atol=1e-12)


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1), (2, 3), (7,), (), (3, 3, 2, 5)])
def test_every_step_has_the_norm_of_an_orthogonal_matrix(shape, rank):
    momentum = jax.random.normal(jax.random.key(3), shape)
    step = _step(momentum, rank, steps=2)
    shorter = min(np.prod(shape[:-1], dtype=int), (*shape[-1:], 1)[0])
    np.testing.assert_allclose(jnp.linalg.norm(step.ravel()), np.sqrt(shorter), rtol=1e-5)
    if rank == 0 or shorter == 1:
        direction = momentum / jnp.linalg.norm(momentum.ravel())
        np.testing.assert_allclose(step, np.sqrt(shorter) * direction, rtol=1e-5)


@pytest.mark.parametrize(
    "dtype", [pytest.param("bfloat16", marks=pytest.mark.slow), "float16", "float32"]
)
@pytest.mark.parametrize("shape", [(6, 4), (5,), ()])
def test_a_zero_gradient_gives_a_zero_step(shape, dtype):
    zeros = jnp.zeros(shape, dtype)
    step = _step(zeros, rank=2, steps=3)
    assert step.dtype == zeros.dtype
    assert not jnp.any(step)
    # Nor does it spoil what follows.
    solver = tritia.scale_by_spectral_clipping(2, refresh_period=1)
    momentum, update = jax.random.normal(jax.random.key(0), shape, dtype), jax.jit(solver.update)
    _, state = update(zeros, solver.init(zeros))
    first, _ = update(momentum, state)
    np.testing.assert_array_equal(first, update(momentum, solver.init(zeros))[0])


def test_a_rank_one_momentum(x64):
    momentum = jnp.outer(jnp.arange(1.0, 7.0), jnp.array([1.0, -2.0, 0.5, 3.0]))
    step = _step(momentum, rank=2)
    np.testing.assert_allclose(step, 2 * momentum / jnp.linalg.norm(momentum), atol=1e-6)


@pytest.mark.parametrize("index", range(6))
def test_the_start_is_orthogonal_to_no_structured_direction(index, x64):
    """Leading vectors along one column, or along none of the constant, are found."""
    directions = [*np.eye(8)[:3], np.ones(8), *(np.eye(8)[:2] - np.eye(8)[5:7])]
    lead = directions[index] / np.linalg.norm(directions[index])
    noise = np.random.default_rng(0).normal(size=(12, 8)) / 10
    momentum = jnp.asarray(
        noise - (noise @ lead)[:, None] * lead + 50 * np.outer(np.ones(12), lead)
    )
    largest = np.linalg.svd(_step(momentum, 1, steps=4), compute_uv=False)[0]
    assert largest < 2


def test_a_direction_that_appears_later_is_found(x64):
    rng = np.random.default_rng(0)
    solver = tritia.scale_by_spectral_clipping(2, refresh_period=1)
    early, late = np.zeros((2, 12, 8))
    early[:, :4] = rng.normal(size=(12, 4))
    late[:] = rng.normal(size=(12, 8))
    late[:, 6] *= 50
    state, update = solver.init(jnp.asarray(early)), jax.jit(solver.update)
    for momentum in [early] * 5 + [late] * 5:
        step, state = update(jnp.asarray(momentum), state)
    reference = _reference(late, 2)
    assert np.linalg.svd(step, compute_uv=False)[0] < 1.2 * np.linalg.norm(reference, 2)


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1e5, 1e30])
def test_the_scale_of_the_loss_does_not_matter(factor):
    momentum = jax.random.normal(jax.random.key(1), (20, 10))
    expected = _step(momentum, 3, steps=5)
    np.testing.assert_allclose(_step(momentum * factor, 3, steps=5), expected, atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2e-2), ("float16", 3e-3)])
def test_half_precision_is_computed_in_float32(dtype, tolerance):
    momentum = jax.random.normal(jax.random.key(1), (20, 10)).astype(dtype)
    step = _step(momentum, 3, steps=5)
    assert step.dtype == momentum.dtype
    expected = _step(momentum.astype(jnp.float32), 3, steps=5)
    np.testing.assert_allclose(step.astype(jnp.float32), expected, atol=tolerance)


def test_vectors_that_are_not_finite_are_refused():
    solver = tritia.scale_by_spectral_clipping(2, refresh_period=1)
    momentum, update = jax.random.normal(jax.random.key(1), (6, 5)), jax.jit(solver.update)
    _, state = update(momentum * jnp.nan, solver.init(momentum))
    step, _ = update(momentum, state)
    np.testing.assert_array_equal(step, update(momentum, solver.init(momentum))[0])


def test_axes_say_what_the_matrices_are():
    stacked = jax.random.normal(jax.random.key(0), (3, 6, 2, 4))  # layers, inputs, heads, width
    axes = {"w": MatrixAxes(inputs=(1,), outputs=(-2, -1)), "conv": None}
    momentum = {"w": stacked, "conv": jax.random.normal(jax.random.key(1), (3, 3, 2, 5))}
    expected = {
        "w": jnp.stack([_step(one.reshape(6, 8), 2) for one in stacked]).reshape(stacked.shape),
        "conv": _step(momentum["conv"].reshape(18, 5), 2).reshape(3, 3, 2, 5),
    }
    step = _step(momentum, 2, axes=axes)
    for name in momentum:
        np.testing.assert_allclose(step[name], expected[name], atol=1e-5)
    # In a nested tree, and outputs first, as Equinox has them.
    equinox = {"net": {"weight": stacked[0].reshape(6, 8).T}}
    turned = _step(equinox, 2, axes={"net/weight": MatrixAxes((1,), (0,))})["net"]["weight"]
    np.testing.assert_allclose(turned.T, expected["w"][0].reshape(6, 8), atol=1e-5)


@pytest.mark.parametrize(
    ("axes", "error"),
    [
        ({"w": MatrixAxes((0,), (0,))}, ValueError),
        ({"w": MatrixAxes((0,), (2,))}, ValueError),
        ({"w": (0, 1)}, TypeError),
        (MatrixAxes((0,), (1,)), TypeError),
        (3, TypeError),
    ],
)
def test_axes_that_do_not_fit_are_refused(axes, error):
    with pytest.raises(error, match="axes"):
        tritia.scale_by_spectral_clipping(axes=axes).init({"w": jnp.ones((3, 2))})


def test_refreshes_follow_their_period():
    solver = tritia.scale_by_spectral_clipping(2, refresh_period=3)
    keys = jax.random.split(jax.random.key(0), 7)
    momenta = [jax.random.normal(key, (6, 5)) for key in keys]
    state, changed, update = solver.init(momenta[0]), [], jax.jit(solver.update)
    for momentum in momenta:
        _, new = update(momentum, state)
        changed.append(bool(jnp.any(new.vectors != state.vectors)))
        state = new
    assert changed == [True, False, False, True, False, False, True]


def _compiled(refresh, d, k, rank):
    momentum = jnp.ones((d, k))
    solver = tritia.scale_by_spectral_clipping(rank)
    state = solver.init(momentum)
    if not refresh:  # what is not due is not counted: no branch, hence no iteration
        state = state._replace(next_refresh=jnp.asarray(9, jnp.int32))
    update = functools.partial(solver.update, state=state) if not refresh else solver.update
    lowered = jax.jit(update).lower(momentum, *([state] if refresh else []))
    return lowered.compile().cost_analysis()


def test_it_costs_two_thin_products():
    """Between refreshes: 4 d k r operations and a few by element, a thirtieth of Muon's."""
    d, k, rank = 192, 128, 8
    step = _compiled(False, d, k, rank)
    by_element = 16
    assert 4 * d * k * rank <= step["flops"] <= (4 * rank + by_element) * d * k
    assert step["bytes accessed"] <= 14 * 4 * d * k
    muon = optax.contrib.scale_by_muon()
    momentum = jnp.ones((d, k))
    theirs = jax.jit(muon.update).lower(momentum, muon.init(momentum)).compile().cost_analysis()
    assert step["flops"] < theirs["flops"] / 30


def test_the_state_is_the_vectors_of_the_shorter_side():
    for shape in ((100, 30), (30, 100)):
        state = tritia.scale_by_spectral_clipping(8).init(jnp.ones(shape))
        assert state.vectors.shape == (1, 30, 8)
    assert tritia.scale_by_spectral_clipping(0).init(jnp.ones((9, 9))).vectors is None
