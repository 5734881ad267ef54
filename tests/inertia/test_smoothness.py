import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tritia

KEY = jax.random.key(0)


def symmetric(eigenvalues, seed=0):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(len(eigenvalues),) * 2))
    return jnp.asarray(q @ np.diag(eigenvalues) @ q.T, jnp.float32)


@pytest.mark.parametrize(
    ("eigenvalues", "largest"),
    [
        ([0.1, 1.0, 5.0], 5.0),
        ([3.0, -7.0, 1.0], 7.0),
        ([4.0, -4.0, 1.0], 4.0),  # two of the same size: the vector never settles, the norm does
        ([0.0, 0.0, 0.0], 0.0),
    ],
)
def test_largest_absolute_eigenvalue(eigenvalues, largest):
    matrix = symmetric(eigenvalues)
    estimate = tritia.estimate_smoothness(lambda w: 0.5 * w @ matrix @ w, jnp.ones(3), KEY)
    assert estimate.shape == ()
    np.testing.assert_allclose(estimate, largest, rtol=1e-3, atol=1e-6)


def test_hessian_of_a_pytree_against_numpy(x64):
    x = jax.random.normal(jax.random.key(1), (20, 3))

    def loss(params):
        return jnp.mean(jnp.tanh(x @ params["w"] + params["b"]) ** 2) + jnp.sum(params["b"] ** 2)

    params = {"w": jnp.array([0.1, -0.2, 0.3]), "b": jnp.array(0.2), "none": None}
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    eigenvalues = np.linalg.eigvalsh(jax.jit(jax.hessian(lambda v: loss(unravel(v))))(flat))
    estimate = jax.jit(
        lambda p: tritia.estimate_smoothness(loss, p, KEY, iterations=1000, tolerance=1e-10)
    )(params)
    assert estimate.dtype == jnp.float64
    np.testing.assert_allclose(estimate, np.abs(eigenvalues).max(), rtol=1e-6)


def test_complex_params():
    # |A w|^2 / 2 with a complex A: as a function of real and imaginary parts its largest curvature
    # is the largest singular value squared.
    a = jnp.array([[1.0 + 2.0j, 0.5], [0.3j, -1.0 + 0.2j]])
    estimate = tritia.estimate_smoothness(
        lambda w: 0.5 * jnp.sum(jnp.abs(a @ w) ** 2), jnp.array([1.0 + 0.0j, 1.0j]), KEY
    )
    np.testing.assert_allclose(estimate, np.linalg.norm(a, 2) ** 2, rtol=1e-3)


def test_estimate_never_exceeds_and_rises_with_iterations():
    matrix = symmetric(np.geomspace(1e-2, 3.0, 12))
    estimate = jax.jit(
        lambda n: tritia.estimate_smoothness(
            lambda w: 0.5 * w @ matrix @ w, jnp.ones(12), KEY, iterations=n, tolerance=0.0
        ),
        static_argnums=0,
    )
    estimates = [float(estimate(n)) for n in (1, 3, 30)]
    assert estimates == sorted(estimates)
    assert estimates[0] < 0.9 * 3.0
    np.testing.assert_allclose(estimates[-1], 3.0, rtol=1e-3)


def test_it_is_local_and_jits_and_vmaps():
    loss = jax.jit(lambda w: jnp.sum(w**4) / 12.0)  # curvature w^2
    at = jax.jit(lambda w: tritia.estimate_smoothness(loss, w, KEY))
    points = jnp.array([[0.5, 2.0], [1.0, -3.0]])
    np.testing.assert_allclose(jax.vmap(at)(points), [4.0, 9.0], rtol=1e-3)


def test_gives_a_step_size_that_converges():
    matrix = symmetric([0.1, 1.0, 5.0])
    loss = lambda w: 0.5 * w @ matrix @ w  # noqa: E731
    smoothness = 1.01 * tritia.estimate_smoothness(loss, jnp.ones(3), KEY)
    solver = tritia.triple_momentum(smoothness, strong_convexity=0.1)

    @jax.jit
    def step(params, state):
        updates, state = solver.update(jax.grad(loss)(params), state, params)
        return params + updates, state

    params = jnp.ones(3)
    state = solver.init(params)
    for _ in range(100):
        params, state = step(params, state)
    assert loss(tritia.eval_params(state, params)) < 1e-8


def test_half_precision_scalars_empty_and_nan():
    half = tritia.estimate_smoothness(lambda w: jnp.sum(w**2), jnp.ones(3, jnp.bfloat16), KEY)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, 2.0, rtol=1e-2)
    np.testing.assert_allclose(tritia.estimate_smoothness(lambda w: 3.0 * w**2, 1.0, KEY), 6.0)
    assert tritia.estimate_smoothness(lambda w: jnp.zeros(()), {}, KEY) == 0.0
    nan = tritia.estimate_smoothness(lambda w: jnp.sum(w**4), jnp.array([jnp.nan]), KEY)
    assert jnp.isnan(nan)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"iterations": 0}, ValueError, "iterations is 0; allowed: 1 <= iterations"),
        ({"iterations": jnp.array(3)}, TypeError, "iterations is static"),
        ({"tolerance": -1.0}, ValueError, "tolerance is -1.0"),
        ({"loss": lambda w: w}, TypeError, "scalar"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    good = {"loss": lambda w: jnp.sum(w**2), "params": jnp.ones(2), "key": KEY}
    with pytest.raises(error, match=message):
        tritia.estimate_smoothness(**(good | arguments))


def test_leaves_that_are_no_floats_stay_as_they_are():
    params = {"w": jnp.ones(2), "count": jnp.int32(3), "key": jax.random.key(1), "none": None}
    estimate = tritia.estimate_smoothness(
        lambda p: p["count"] * jnp.sum(p["w"] ** 2) + (p["none"] is not None), params, KEY
    )
    np.testing.assert_allclose(estimate, 6.0, rtol=1e-6)
