"""Runge-Kutta-Chebyshev schemes against NumPy's Chebyshev series and measured behaviour."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tritia
from tritia import ChebyshevScheme

ORDERS = pytest.mark.parametrize("order", [1, 2])
DAMPINGS = pytest.mark.parametrize("damping", [0.0, None, 1.0])


def stability_polynomial(scheme):
    """The published closed form, by NumPy's Chebyshev class, as a function of z."""
    s, w0 = scheme.stages, 1 + scheme.damping / scheme.stages**2
    t = np.polynomial.chebyshev.Chebyshev([0] * s + [1])
    dt, ddt = t.deriv(), t.deriv(2)
    if scheme.order == 1:
        return lambda z: t(w0 + t(w0) / dt(w0) * z) / t(w0)
    weight = ddt(w0) / dt(w0) ** 2
    return lambda z: 1 + weight * (t(w0 + dt(w0) / ddt(w0) * z) - t(w0))


@ORDERS
@DAMPINGS
@pytest.mark.parametrize("stages", [2, 3, 4, 5, 8, 13, 20, 35, 50])
def test_recurrence_gives_the_published_polynomial_on_its_whole_interval(stages, order, damping):
    scheme = ChebyshevScheme(stages, order, damping)
    end = scheme.stability_interval
    z = -np.linspace(0, end, 20001)
    r = scheme.stability_function(z)
    np.testing.assert_allclose(r, stability_polynomial(scheme)(z), atol=1e-11)
    assert np.max(np.abs(r)) <= 1 + 1e-11
    beyond = np.array(-end * (1 + 1e-6))
    assert abs(scheme.stability_function(beyond)) > 1 + 1e-7


@pytest.mark.parametrize("stages", [2, 10, 50])
def test_intervals_of_the_literature(stages):
    assert ChebyshevScheme(stages, 1, 0.0).stability_interval == pytest.approx(2 * stages**2)
    usual = ChebyshevScheme(stages, 1).stability_interval
    assert usual == pytest.approx((2 - 4 / 3 * 0.05) * stages**2, rel=0.02)
    # Verwer, Hundsdorfer, Sommeijer 1990: 2/3 (s^2 - 1)(1 - 2/15 epsilon), a lower estimate.
    estimate = 2 / 3 * (stages**2 - 1) * (1 - 2 / 15 * 2 / 13)
    assert estimate <= ChebyshevScheme(stages, 2).stability_interval < 1.03 * estimate


@ORDERS
@DAMPINGS
@pytest.mark.parametrize("stages", [2, 3, 4, 10])
def test_damped_interval_is_found_on_a_grid_too(stages, order, damping):
    scheme = ChebyshevScheme(stages, order, damping)
    x = np.linspace(0.1, 2.2 * stages**2, 400_001)
    first_outside = x[np.argmax(np.abs(scheme.stability_function(-x)) > 0.98)]
    assert scheme.damped_interval() == pytest.approx(first_outside, abs=x[1] - x[0])


@ORDERS
@pytest.mark.parametrize("stages", [2, 3, 7])
def test_error_constant_is_the_next_taylor_coefficient(stages, order):
    scheme = ChebyshevScheme(stages, order)
    # Cauchy's formula for the Taylor coefficients of exp(z) - R(z).
    z = 0.5 * np.exp(2j * np.pi * np.arange(64) / 64)
    coefficients = np.fft.fft(np.exp(z) - scheme.stability_function(z)) / 64 / 0.5 ** np.arange(64)
    np.testing.assert_allclose(coefficients[: order + 1], 0, atol=1e-14)
    assert scheme.error_constant == pytest.approx(coefficients[order + 1].real, rel=1e-10)


@ORDERS
@pytest.mark.parametrize("mode", ["opaque", "transparent"])
def test_steps_obey_the_stability_function(x64, order, mode):
    # A diagonal quadratic: every component is multiplied by R(-h lambda).
    scheme = ChebyshevScheme(9, order)
    h = 0.7
    curvature = jnp.linspace(0.0, scheme.stability_interval / h, 50)
    gradient = lambda w: curvature * w  # noqa: E731
    optimizer = tritia.rkc(h, 9, order, mode=mode)
    w = jnp.ones(50)
    state = optimizer.init(w)
    update = jax.jit(lambda s, w: optimizer.update(gradient(w), s, w, grad_fn=gradient))
    for _ in range(1 if mode == "opaque" else 9):
        step, state = update(state, w)
        w = optax.apply_updates(w, step)
    expected = scheme.stability_function(-h * np.asarray(curvature))
    np.testing.assert_allclose(w, expected, atol=1e-12)


def test_memory_and_compilation_do_not_grow_with_the_stages():
    calls = 0

    def gradient(w):
        nonlocal calls
        calls += 1
        return w

    w = jnp.ones(3)
    for stages in (3, 50):
        calls = 0
        optimizer = tritia.rkc(0.1, stages)
        jax.jit(lambda w: optimizer.update(w, optimizer.init(w), w, grad_fn=gradient))(w)  # noqa: B023
        assert calls == 1
    leaves = [
        len(jax.tree.leaves(tritia.rkc(0.1, stages, mode="transparent").init(w)))
        for stages in (3, 50)
    ]
    assert leaves[0] == leaves[1]


def test_a_stiff_quadratic_takes_fewer_gradients_than_descent(x64):
    # Condition 1e4: what s gradients buy. Gradient descent at its best constant step 2 / (L + mu).
    curvature = jnp.asarray([1.0, 1e4])
    gradient = lambda w: curvature * w  # noqa: E731
    stages, budget = 20, 2000
    optimizer = tritia.rkc(0.95 * 193.65 * 4 / 1e4, stages, order=1)
    w = jnp.ones(2)
    state = optimizer.init(w)
    update = jax.jit(lambda s, w: optimizer.update(gradient(w), s, w, grad_fn=gradient))
    for _ in range(budget // stages):
        step, state = update(state, w)
        w = optax.apply_updates(w, step)
    descent = (1 - 2 / 10001) ** budget
    assert float(jnp.max(jnp.abs(w))) < 1e-2 * descent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": 1}, "stages is 1; allowed: 2 <= stages"),
        ({"stages": 5, "order": 3}, "order is 3; allowed: 1, 2"),
        ({"stages": 5, "damping": -0.1}, "damping is -0.1"),
        ({"stages": 5, "damping": math.nan}, "damping is nan"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ChebyshevScheme(**arguments)


def test_traced_arguments_are_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"static_args='stages'"):
        optax.inject_hyperparams(tritia.rkc)(0.1, stages=4).init(jnp.zeros(2))
    with pytest.raises(TypeError, match=r"static_args='damping'"):
        ChebyshevScheme(4, damping=jnp.asarray(0.1))
    static = optax.inject_hyperparams(tritia.rkc, static_args=("stages", "order", "damping"))
    static(0.1, stages=4).init(jnp.zeros(2))
