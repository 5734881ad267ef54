"""The output block against scipy.optimize.minimize, row by row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from tritia.alternating._blocks.losses import LOSSES, prox, smooth_loss

HUBER = smooth_loss(lambda z, y: jnp.sum(optax.huber_loss(z, y), axis=-1), name="huber")
each_rho = pytest.mark.parametrize("rho", [1e-3, pytest.param(0.1, marks=pytest.mark.slow), 10.0])
each = pytest.mark.parametrize("loss", [*LOSSES.values(), HUBER], ids=lambda loss: loss.name)
solve = jax.jit(prox, static_argnums=0)


def problem(loss, rows=6, classes=5, scale=5.0, dtype=float):
    rng = np.random.default_rng(0)
    m = jnp.asarray(scale * rng.normal(size=(rows, classes)), dtype)
    start = jnp.asarray(scale * rng.normal(size=(rows, classes)), dtype)
    if loss.name in ("squared_error", "huber"):
        y = jnp.asarray(rng.normal(size=(rows, classes)), dtype)
    else:
        y = jax.nn.one_hot(rng.integers(0, classes, rows), classes, dtype=dtype)
    return y, m, start


@each
def test_values_and_gradients(loss, x64):
    y, z, _ = problem(loss)
    expected = {
        "softmax_cross_entropy": lambda z, y: optax.softmax_cross_entropy(z, y),
        "sigmoid_cross_entropy": lambda z, y: optax.sigmoid_binary_cross_entropy(z, y).sum(-1),
        "squared_error": lambda z, y: optax.l2_loss(z, y).sum(-1),
        "huber": lambda z, y: optax.huber_loss(z, y).sum(-1),
    }[loss.name]
    np.testing.assert_allclose(loss.value(z, y), expected(z, y), rtol=1e-12)
    gradient = jax.grad(lambda z: jnp.sum(expected(z, y)))(z)
    np.testing.assert_allclose(loss.gradient(z, y), gradient, rtol=1e-10, atol=1e-12)


@each
@each_rho
def test_prox_is_what_scipy_finds(loss, rho, x64):
    y, m, start = problem(loss)
    z = np.asarray(solve(loss, y, m, start, rho))

    @functools.partial(jax.jit, static_argnums=2)
    def objective(z, row, _=None):
        value = loss.value(z[None], y[row][None])[0] + 0.5 * rho * jnp.sum((z - m[row]) ** 2)
        return value

    slope = jax.jit(jax.value_and_grad(objective))
    for row in range(len(z)):
        best = scipy.optimize.minimize(
            lambda x, row=row: tuple(np.asarray(v) for v in slope(jnp.asarray(x), row)),
            np.asarray(m[row]),
            jac=True,
            method="BFGS",
            options={"gtol": 1e-10, "maxiter": 2000},
        )
        assert float(objective(jnp.asarray(z[row]), row)) <= best.fun + 1e-9
        np.testing.assert_allclose(z[row], best.x, rtol=1e-4, atol=1e-4)


@each
@each_rho
def test_in_float32_no_row_rises_and_gradients_vanish(loss, rho):
    y, m, start = problem(loss, rows=300, dtype=jnp.float32)
    z = solve(loss, y, m, start, rho)

    def objective(z):
        return loss.value(z, y) + 0.5 * rho * jnp.sum((z - m) ** 2, axis=-1)

    assert bool(jnp.all(objective(z) <= objective(start) * (1 + 1e-6)))
    gradient = loss.gradient(z, y) + rho * (z - m)
    terms = 1 + rho * jnp.abs(z - m)
    assert float(jnp.max(jnp.abs(gradient) / terms)) < 5e-4


@pytest.mark.parametrize(
    "loss",
    [
        LOSSES["softmax_cross_entropy"],
        LOSSES["squared_error"],
        pytest.param(LOSSES["sigmoid_cross_entropy"], marks=pytest.mark.slow),
        pytest.param(HUBER, marks=pytest.mark.slow),
    ],
    ids=lambda loss: loss.name,
)
def test_derivatives_are_those_of_the_minimiser(loss, x64):
    """By targets, centre and penalty, of z found by SciPy's Newton from its own gradient."""
    y, m, start = problem(loss, rows=3, scale=1.0)
    rng = np.random.default_rng(1)
    direction = *(jnp.asarray(rng.normal(size=x.shape)) for x in (y, m)), 1.0
    weights = jnp.asarray(rng.normal(size=m.shape))

    def moved(t):
        return [x + t * d for x, d in zip((y, m, 0.3), direction, strict=True)]

    own = jax.jit(lambda z, y: jnp.ravel(loss.gradient(z.reshape(m.shape), y)))

    def root(t):
        y, m, rho = moved(t)
        found = scipy.optimize.root(
            lambda z: np.asarray(own(z, y)) + float(rho) * (z - np.ravel(m)), np.ravel(m), tol=1e-13
        )
        return found.x.reshape(m.shape)

    def outcome(t):
        y, m, rho = moved(t)
        return jnp.sum(weights * prox(loss, y, m, start, rho))

    h = 1e-4
    expected = float(np.sum(weights * (root(h) - root(-h)))) / (2 * h)
    slope = jax.jit(jax.grad(outcome))
    assert float(jax.jit(jax.jacfwd(outcome))(0.0)) == pytest.approx(expected, rel=1e-5)
    assert float(slope(0.0)) == pytest.approx(expected, rel=1e-5)
    curvature = float(jax.jit(jax.jacfwd(jax.grad(outcome)))(0.0))
    slopes = [float(slope(t)) for t in (h, -h)]
    assert curvature == pytest.approx((slopes[0] - slopes[1]) / (2 * h), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "compiled", [pytest.param(False, marks=pytest.mark.slow), True], ids=["eager", "compiled"]
)
@pytest.mark.parametrize("derivative", [jax.jacfwd, jax.grad])
def test_a_users_loss_may_close_over_what_is_differentiated(derivative, compiled, x64):
    """c/2 |z - y|^2 + rho/2 |z - m|^2: z = (c y + rho m) / (c + rho)."""
    y, m, start = problem(HUBER)
    rho = 0.3

    def outcome(c):
        scaled = smooth_loss(lambda z, y: 0.5 * c * jnp.sum((z - y) ** 2, axis=-1))
        return jnp.sum(prox(scaled, y, m, start, rho))

    expected = jnp.sum(rho * (y - m)) / (2.0 + rho) ** 2
    slope = derivative(jax.jit(outcome) if compiled else outcome)
    np.testing.assert_allclose(slope(2.0), expected, rtol=1e-8)


def test_softmax_targets_that_do_not_add_to_one(x64):
    loss = LOSSES["softmax_cross_entropy"]
    y, m, start = problem(loss)
    y = y.at[0].set(0.0).at[1].set(jnp.array([0.5, 0.0, 1.5, 0.0, 0.0]))
    z = solve(loss, y, m, start, 0.1)
    np.testing.assert_allclose(z[0], m[0], atol=1e-10)  # nothing to fit: the prox is m
    gradient = jax.grad(lambda z: jnp.sum(loss.value(z, y)))(z) + 0.1 * (z - m)
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


def test_a_loss_without_convexity_still_descends(x64):
    wavy = smooth_loss(lambda z, y: jnp.sum(jnp.cos(3 * (z - y)), axis=-1))
    y, m, start = problem(HUBER, rows=40)
    z = solve(wavy, y, m, start, 0.05)

    def objective(z):
        return wavy.value(z, y) + 0.025 * jnp.sum((z - m) ** 2, axis=-1)

    assert bool(jnp.all(objective(z) <= jnp.minimum(objective(start), objective(m)) + 1e-9))
    with pytest.raises(TypeError, match="value and gradient must be functions"):
        smooth_loss("huber")
