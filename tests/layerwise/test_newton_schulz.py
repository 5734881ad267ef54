"""Newton-Schulz steps against singular value decompositions and linear programming."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import tritia
from tritia import MatrixAxes
from tritia.layerwise._minimax import minimax, newton_schulz_polynomials


def _step(matrix, *settings, **named):
    solver = tritia.scale_by_newton_schulz(*settings, **named)
    return jax.jit(solver.update)(matrix, solver.init(matrix))[0]


def _polar(matrix):
    u, _, vt = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    return u @ vt


@pytest.mark.parametrize(("lower", "upper"), [(0.001, 1), (0.01, 1), (0.3, 1), (0.6, 1.4)])
def test_polynomials_are_the_nearest_to_one(lower, upper):
    """The same as the best on a fine grid, which a linear program finds."""
    polynomial, error = minimax(lower, upper)
    x = np.linspace(lower, upper, 2001)
    powers = x[:, None] ** np.array([1, 3, 5])
    bound = np.ones((len(x), 1))
    best = scipy.optimize.linprog(
        [0, 0, 0, 1],
        A_ub=np.block([[powers, -bound], [-powers, -bound]]),
        b_ub=np.concatenate([bound, -bound]).ravel(),
        bounds=[(None, None)] * 3 + [(0, None)],
    )
    assert best.fun <= error * (1 + 1e-9)
    np.testing.assert_allclose(error, best.fun, rtol=1e-3)
    np.testing.assert_allclose(np.max(np.abs(powers @ polynomial - 1)), error, rtol=1e-3)


@pytest.mark.parametrize("smallest", [1e-6, 0.01, 0.5, 0.99999])
def test_errors_fall_at_third_order(smallest):
    """Each step cubes the error once it is small, as Newton-Schulz of degree five does."""
    x = np.geomspace(smallest, 1, 1000)
    errors = []
    for a, b, c in newton_schulz_polynomials(14, smallest):
        x = a * x + b * x**3 + c * x**5
        errors.append(np.max(np.abs(1 - x)))
    assert errors[-1] < 1e-14
    for before, after in itertools.pairwise(errors):
        assert after <= max(before**3, 1e-14) or before > 0.3


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (10, 10), (1, 7), (7, 1), (1, 1)])
def test_many_steps_give_the_orthogonal_factor(shape, x64):
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    np.testing.assert_allclose(_step(matrix, 12, smallest=1e-4), _polar(matrix), atol=1e-10)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_singular_values_follow_the_polynomials(steps, x64):
    matrix = np.random.default_rng(0).normal(size=(9, 6))
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    values = s / np.sum(s**4) ** 0.25
    for a, b, c in newton_schulz_polynomials(steps, 0.01):
        values = a * values + b * values**3 + c * values**5
    expected = (u * (values * np.sqrt(6) / np.linalg.norm(values))) @ vt
    np.testing.assert_allclose(_step(jnp.asarray(matrix), steps), expected, atol=1e-12)


def test_after_clipping_two_steps_do_what_five_do_without():
    """Of a momentum with a few large singular values, as those of deep networks."""
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(64, 64)))
    v, _ = np.linalg.qr(rng.normal(size=(64, 64)))
    momentum = jnp.asarray((u * (3.0 ** -np.minimum(np.arange(64), 8))) @ v.T, jnp.float32)
    chain = optax.chain(
        tritia.scale_by_spectral_clipping(8, refresh_period=1), tritia.scale_by_newton_schulz(2)
    )
    state, update = chain.init(momentum), jax.jit(chain.update)
    for _ in range(5):
        step, state = update(momentum, state)
    # Muon's five steps with one polynomial.
    x = momentum / jnp.linalg.norm(momentum)
    for _ in range(5):
        gram = x.T @ x
        x = x @ (3.4445 * jnp.eye(64) - 4.7750 * gram + 2.0315 * gram @ gram)
    spread = [np.ptp(np.linalg.svd(y / np.linalg.norm(y), compute_uv=False)) for y in (step, x)]
    assert spread[0] < spread[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("shape", [(6, 4), (5,), (), (0, 3)])
def test_a_zero_gradient_gives_a_zero_step(shape, dtype):
    zeros = jnp.zeros(shape, dtype)
    step = _step(zeros)
    assert step.dtype == zeros.dtype
    assert not jnp.any(step)


def test_a_rank_one_gradient_keeps_its_direction(x64):
    matrix = jnp.outer(jnp.arange(1.0, 7.0), jnp.array([1.0, -2.0, 0.5, 3.0]))
    np.testing.assert_allclose(_step(matrix), 2 * matrix / jnp.linalg.norm(matrix), atol=1e-12)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_the_scale_of_the_loss_does_not_matter(factor):
    matrix = jax.random.normal(jax.random.key(1), (20, 10))
    np.testing.assert_allclose(_step(matrix * factor), _step(matrix), atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2e-2), ("float16", 3e-3)])
def test_half_precision_is_computed_in_float32(dtype, tolerance):
    matrix = jax.random.normal(jax.random.key(1), (20, 10)).astype(dtype)
    step = _step(matrix)
    assert step.dtype == matrix.dtype
    expected = _step(matrix.astype(jnp.float32))
    np.testing.assert_allclose(step.astype(jnp.float32), expected, atol=tolerance)


def test_axes_say_what_the_matrices_are():
    stacked = jax.random.normal(jax.random.key(0), (3, 6, 2, 4))  # layers, inputs, heads, width
    step = _step({"w": stacked}, axes={"w": MatrixAxes(inputs=(1,), outputs=(2, 3))})["w"]
    for one, matrix in zip(step, stacked, strict=True):
        np.testing.assert_allclose(one.reshape(6, 8), _step(matrix.reshape(6, 8)), atol=1e-5)


def test_axes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="axes"):
        tritia.scale_by_newton_schulz(axes={"w": MatrixAxes((0,), (2,))}).init(
            {"w": jnp.ones((3, 2))}
        )


def test_what_it_costs():
    """The operations that its docstring counts."""
    d, m, steps = 96, 32, 3
    compiled = jax.jit(lambda x: _step(x, steps)).lower(jnp.ones((d, m))).compile()
    counted = compiled.cost_analysis()["flops"]
    assert counted == pytest.approx(steps * (4 * d * m * m + 2 * m**3), rel=0.1)
