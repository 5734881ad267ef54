"""Each block against linear algebra that shares no code with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from tritia.alternating._blocks import dense
from tritia.alternating._blocks.dense import Layer
from tritia.alternating._blocks.rows import Rows, spectrum

RHO, MU = 0.7, 0.3
shapes = pytest.mark.parametrize(("n", "d"), [(30, 6), (6, 30)], ids=["tall", "wide"])


def problem(n, d, k=3, seed=0, dtype=float):
    rng = np.random.default_rng(seed)
    a, z, kernel, bias = (
        jnp.asarray(rng.normal(size=shape) + 0.5, dtype) for shape in ((n, d), (n, k), (d, k), (k,))
    )
    return a, z, Layer(kernel, bias, dense.fit(a, kernel, bias))


def ridge(a, z, mu, tau, centre, weights=None, intercept=True):
    """The minimiser over (W, b), through numpy.linalg.lstsq of the stacked system."""
    n, d = a.shape
    k = z.shape[1]
    root = np.ones((n, 1)) if weights is None else np.sqrt(np.asarray(weights))[:, None]
    ones = np.ones((n, 1)) if intercept else np.zeros((n, 0))
    design = np.sqrt(RHO) * root * np.concatenate([a, ones], axis=1)
    extra = ones.shape[1]
    eye = np.eye(d, d + extra)
    stacked = np.concatenate([design, np.sqrt(mu) * eye, np.sqrt(tau) * eye])
    right = np.concatenate(
        [np.sqrt(RHO) * root * z, np.zeros((d, k)), np.sqrt(tau) * np.asarray(centre)]
    )
    solution = np.linalg.lstsq(stacked, right, rcond=None)[0]
    return solution[:d], solution[d:].reshape(-1) if intercept else None


@shapes
@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_exact_weights_are_ridge_regression(n, d, by_rows, cached, tau, x64):
    a, z, start = problem(n, d)
    cache = spectrum(a, Rows(), True, by_rows) if cached else None
    new = dense.kernel_exact(
        a, z, start, rho=RHO, mu=MU, tau=tau, rows=Rows(), by_rows=by_rows, spectrum=cache
    ).layer
    kernel, bias = ridge(np.asarray(a), np.asarray(z), MU, tau, start.kernel)
    np.testing.assert_allclose(new.kernel, kernel, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(new.bias, bias, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(new.fit, a @ kernel + bias, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(Rows().mean(z - a @ new.kernel), bias, rtol=1e-8, atol=1e-10)


@shapes
@pytest.mark.parametrize("cached", [False, True])
def test_exact_weights_with_row_weights_and_without_bias(n, d, cached, x64):
    a, z, start = problem(n, d)
    weights = np.random.default_rng(1).uniform(size=n) * (np.arange(n) % 4 > 0)
    rows = Rows(jnp.asarray(weights)[:, None])
    by_rows = n < d
    for intercept in (True, False):
        begin = start if intercept else Layer(start.kernel, None, a @ start.kernel)
        cache = spectrum(a, rows, intercept, by_rows) if cached else None
        new = dense.kernel_exact(
            a, z, begin, rho=RHO, mu=MU, tau=0.2, rows=rows, by_rows=by_rows, spectrum=cache
        ).layer
        kernel, bias = ridge(
            np.asarray(a), np.asarray(z), MU, 0.2, start.kernel, weights, intercept
        )
        np.testing.assert_allclose(new.kernel, kernel, rtol=1e-7, atol=1e-9)
        if intercept:
            np.testing.assert_allclose(new.bias, bias, rtol=1e-7, atol=1e-9)
        else:
            assert new.bias is None
        counted = weights > 0
        fit = np.asarray(a @ kernel + (bias if intercept else 0))
        np.testing.assert_allclose(new.fit[counted], fit[counted], rtol=1e-7, atol=1e-8)


def test_exact_weights_without_decay_are_least_squares(x64):
    a, z, start = problem(30, 6)
    new = dense.kernel_exact(
        a, z, start, rho=RHO, mu=0.0, tau=0.0, rows=Rows(), by_rows=False
    ).layer
    design = np.concatenate([a, np.ones((30, 1))], axis=1)
    expected = np.linalg.lstsq(design, np.asarray(z), rcond=None)[0]
    np.testing.assert_allclose(new.kernel, expected[:-1], rtol=1e-8, atol=1e-10)


def phi(a, z, kernel):
    """The objective of the weights, with the best bias."""
    residual = z - a @ kernel
    residual = residual - residual.mean(axis=0)
    return 0.5 * RHO * jnp.sum(residual**2) + 0.5 * MU * jnp.sum(kernel**2)


@shapes
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("same", [True, False], ids=["c = e", "c != e"])
def test_gradient_steps(n, d, cached, same, x64):
    """Gradient by autodiff, best step by scalar minimisation, the backtracking test as defined."""
    a, z, start = problem(n, d)
    other = start.kernel + 0.1 * problem(n, d, seed=2)[2].kernel
    point = start if same else Layer(other, start.bias, dense.fit(a, other, start.bias))
    cache = spectrum(a, Rows(), True, n < d) if cached else None
    step = dense.kernel_gradient(a, z, start, point, rho=RHO, mu=MU, rows=Rows(), spectrum=cache)
    gradient = jax.grad(functools.partial(phi, a, z))(point.kernel)
    np.testing.assert_allclose(step.gradient, gradient, rtol=1e-9, atol=1e-10)

    new = dense.kernel_line_search(a, z, start, step, rows=Rows(), spectrum=cache).layer
    best = scipy.optimize.minimize_scalar(lambda t: float(phi(a, z, start.kernel - t * gradient)))
    np.testing.assert_allclose(phi(a, z, new.kernel), best.fun, rtol=1e-10)
    np.testing.assert_allclose(new.fit, dense.fit(a, new.kernel, new.bias), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(new.bias, (z - a @ new.kernel).mean(0), rtol=1e-9, atol=1e-9)

    first = jnp.asarray(1e-3)
    back, tau = dense.kernel_backtracking(
        a, z, start, point, step, first, rho=RHO, mu=MU, rows=Rows(), spectrum=cache
    )
    new = back.layer
    np.testing.assert_allclose(back.moved, new.kernel - start.kernel, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(new.kernel, start.kernel - gradient / tau, rtol=1e-9, atol=1e-10)

    def holds(tau):
        v = start.kernel - gradient / tau
        gap = v - point.kernel
        bound = phi(a, z, point.kernel) + jnp.sum(gradient * gap) + 0.5 * tau * jnp.sum(gap**2)
        return bool(phi(a, z, v) <= bound + 1e-12)

    assert holds(tau)
    assert not holds(tau / 2)
    assert float(jnp.log2(tau / first)) % 1 == 0


def test_a_zero_gradient_is_no_step():
    a = jnp.zeros((5, 3))
    z = jnp.ones((5, 2))
    start = Layer(jnp.zeros((3, 2)), jnp.ones(2), z)

    @jax.jit
    def steps(a, z, start):
        step = dense.kernel_gradient(a, z, start, start, rho=RHO, mu=0.0, rows=Rows())
        new = dense.kernel_line_search(a, z, start, step, rows=Rows()).layer
        back, tau = dense.kernel_backtracking(
            a, z, start, start, step, jnp.asarray(1.0), rho=RHO, mu=0.0, rows=Rows()
        )
        exact = dense.kernel_exact(
            a, z, start, rho=RHO, mu=0.0, tau=0.0, rows=Rows(), by_rows=False
        ).layer
        return (new, back.layer, exact), tau

    layers, tau = steps(a, z, start)
    for layer in layers:
        np.testing.assert_array_equal(layer.kernel, 0)
        np.testing.assert_array_equal(layer.bias, 1)
    assert tau == 1.0


@pytest.mark.parametrize("k", [2, 9], ids=["narrows", "widens"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_penalty_activation_solves_its_normal_equations(k, with_bias, x64):
    h, z, layer = problem(20, 5, k)
    bias = layer.bias if with_bias else None
    a = dense.activation_penalty(h, layer.kernel, bias, z, gamma=0.4, rho=RHO)
    w = np.asarray(layer.kernel)
    right = 0.4 * np.asarray(h) + RHO * np.asarray(z - (layer.bias if with_bias else 0)) @ w.T
    expected = np.linalg.solve(0.4 * np.eye(5) + RHO * w @ w.T, right.T).T
    np.testing.assert_allclose(a, expected, rtol=1e-9, atol=1e-10)


def test_box_activation_goes_to_what_scipy_finds(x64):
    h, z, layer = problem(4, 5, 3)
    eps = 0.3

    def project(a):
        return jnp.clip(a, h - eps, h + eps)

    a = dense.activation_box(h, h, project, layer.kernel, layer.bias, z, steps=3000)
    assert float(jnp.max(jnp.abs(a - h))) <= eps + 1e-12
    w = np.asarray(layer.kernel)
    for row in range(4):
        expected = scipy.optimize.lsq_linear(
            w.T,
            np.asarray(z[row] - layer.bias),
            (np.asarray(h[row]) - eps, np.asarray(h[row]) + eps),
            tol=1e-12,
        )
        gap = 0.5 * np.sum(np.asarray(z[row] - a[row] @ w - layer.bias) ** 2)
        assert gap <= expected.cost + 1e-7
    one = dense.activation_box(h, h, project, layer.kernel, layer.bias, z, steps=1)
    before, after = (jnp.sum((z - dense.fit(x, layer.kernel, layer.bias)) ** 2) for x in (h, one))
    assert after <= before


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (1, 1), (40, 40)])
def test_the_largest_eigenvalue_is_bounded_from_above(shape):
    for seed in range(5):
        w = np.random.default_rng(seed).normal(size=shape)
        bound = float(dense.largest_eigenvalue(jnp.asarray(w, jnp.float32)))
        true = np.linalg.norm(w, 2) ** 2
        assert true <= bound <= true * min(shape) ** (1 / 32) * 1.001
    assert float(dense.largest_eigenvalue(jnp.zeros(shape))) == 0


@pytest.mark.parametrize("case", ["one row", "duplicates", "constant columns", "all zero"])
@pytest.mark.parametrize(("n", "d"), [(20, 8), (6, 8)], ids=["tall", "wide"])
def test_ill_conditioned_systems_stay_finite_and_descend(case, n, d):
    """Without weight decay the Gram matrix itself is singular in every case."""
    a, z, start = problem(1 if case == "one row" else n, d, dtype=jnp.float32)
    if case == "duplicates":
        a = jnp.concatenate([a[:, :4]] * 2, axis=1) * 1e3
        a = a.at[1].set(a[0])
    if case == "constant columns":
        a = a.at[:, 2:].set(1.0)
    if case == "all zero":
        a = jnp.zeros_like(a)
    start = start._replace(fit=dense.fit(a, start.kernel, start.bias))
    by_rows = a.shape[0] < d
    before = float(jnp.sum((start.fit - z) ** 2))

    @jax.jit
    def solve(a, z, start, cache):
        return dense.kernel_exact(
            a, z, start, rho=1.0, mu=0.0, tau=0.0, rows=Rows(), by_rows=by_rows, spectrum=cache
        ).layer

    for cache in (None, spectrum(a, Rows(), True, by_rows)):
        new = solve(a, z, start, cache)
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in new)
        fit = dense.fit(a, new.kernel, new.bias)
        scale = float(jnp.max(jnp.abs(start.fit)))
        # What the dual leaves of a null space is rounding over a tiny shift, not rounding alone.
        np.testing.assert_allclose(new.fit, fit, atol=1e-2 * scale)
        assert float(jnp.sum((fit - z) ** 2)) <= before
