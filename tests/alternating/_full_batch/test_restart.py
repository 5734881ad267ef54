"""Restarting z and a from the network: the promise of the safeguard, and what is reported."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import make_moons

import tritia

N, SIZES = 40, (6, 12, 8, 3)


def make_params(seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    return [
        {"kernel": jax.random.normal(key, (i, o)) * (2 / i) ** 0.5, "bias": jnp.zeros(o)}
        for key, i, o in zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    ]


def make_data(seed=0):
    x = jax.random.normal(jax.random.key(100 + seed), (N, 6))
    return x, jnp.argmax(x[:, :3] * x[:, 3:], axis=1)


def outputs(params, x):
    """In NumPy's float64."""
    x = np.asarray(x, float)
    for index, layer in enumerate(params):
        x = x @ np.asarray(layer["kernel"], float) + np.asarray(layer["bias"], float)
        x = np.maximum(x, 0) if index < len(params) - 1 else x
    return x


def log_loss(z, y):
    z = z - z.max(axis=1, keepdims=True)
    return np.sum(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), np.asarray(y)])


@functools.partial(jax.jit, static_argnames=("steps", "restart", "loss"))
def train(params, x, y, rho=1e-3, gamma=1e-3, mu=0.1, *, steps, restart="guarded", loss=None):
    solver = tritia.tiam(
        N,
        rho=rho,
        gamma=gamma,
        mu=mu,
        restart=restart,
        loss=loss or "softmax_cross_entropy",
    )

    def body(carry, _):
        params, state = carry
        updates, state = solver.update(None, state, params, inputs=x, targets=y)
        params = optax.apply_updates(params, updates)
        return (params, state), (tritia.tiam_diagnostics(state), params)

    return jax.lax.scan(body, (params, solver.init(params)), length=steps)


@pytest.mark.parametrize(
    "loss", ["softmax_cross_entropy", pytest.param("squared_error", marks=pytest.mark.slow)]
)
@hypothesis.given(
    seed=st.integers(0, 100),
    rho=st.floats(1e-3, 1.0),
    gamma=st.floats(1e-3, 1.0),
    mu=st.floats(0.0, 1.0),
)
def test_the_objective_never_rises(x64, seed, rho, gamma, mu, loss):
    x, y = make_data(seed)
    x, targets = x.astype(float), jax.nn.one_hot(y, 3, dtype=float)
    params = jax.tree.map(lambda leaf: leaf.astype(float), make_params(seed))
    _, (report, _) = train(params, x, targets, rho, gamma, mu, steps=12, loss=loss)
    objective = np.asarray(report.objective)
    assert np.all(np.diff(objective) <= 1e-9 * objective[:-1])


test_the_objective_never_rises = hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)(test_the_objective_never_rises)


def test_some_rows_are_restarted_and_some_are_not():
    _, (report, _) = train(make_params(), *make_data(), steps=12)
    share = np.asarray(report.restarted)
    assert np.any(share > 0)
    assert np.any(share < 1)
    assert np.all((share >= 0) & (share <= 1))


def test_always_restarts_every_row():
    _, (report, _) = train(make_params(), *make_data(), steps=3, restart="always")
    np.testing.assert_array_equal(report.restarted, 1)


@pytest.mark.parametrize("seed", range(3))
def test_an_update_ends_below_the_network_that_it_started_from(x64, seed):
    x, y = make_data(seed)
    params = jax.tree.map(lambda leaf: leaf.astype(float), make_params(seed))
    solver = tritia.tiam(N, restart="always", scale_mu=False, mu=0.01, standardize=False)
    state, update = solver.init(params), jax.jit(solver.update)
    for _ in range(8):
        decay = 0.005 * sum(float(jnp.sum(layer["kernel"] ** 2)) for layer in params)
        network = log_loss(outputs(params, x), y)
        updates, state = update(None, state, params, inputs=x.astype(float), targets=y)
        params = optax.apply_updates(params, updates)
        assert float(tritia.tiam_diagnostics(state).objective) <= (network + decay) * (1 + 1e-9)


def test_the_reported_loss_is_that_of_the_network():
    x, y = make_data()
    params = make_params()
    _, (report, after) = train(params, x, y, steps=12)
    before = jax.tree.map(lambda leaf: leaf[1], after)  # the third update
    expected = [log_loss(outputs(params, x), y), log_loss(outputs(before, x), y)]
    np.testing.assert_allclose(report.network_loss[jnp.array([0, 2])], expected, rtol=1e-4)


def test_the_loss_of_the_network_on_demand():
    """Against NumPy, with weights, padding and labels; it ignores z and a."""
    x, y = make_data()
    (params, _), _ = train(make_params(), x, y, steps=2, restart=None)
    weights = jnp.where(jnp.arange(N) < 30, 1.0, 0.0)
    padded = jnp.where(weights[:, None] > 0, x, jnp.nan)
    found = tritia.tiam_network_loss(params, inputs=padded, targets=y, weights=weights)
    np.testing.assert_allclose(found, log_loss(outputs(params, x[:30]), y[:30]), rtol=1e-4)
    with pytest.raises(ValueError, match="first layer takes 6 inputs"):
        tritia.tiam_network_loss(params, inputs=x[:, :5], targets=y)
    with pytest.raises(ValueError, match="activation is 'step'"):
        tritia.tiam_network_loss(params, inputs=x, targets=y, activation="step")


def test_nothing_is_reported_where_nothing_restarts():
    (_, state), (report, _) = train(make_params(), *make_data(), steps=2, restart=None)
    assert report.network_loss == report.restarted == ()
    assert tritia.tiam_diagnostics(state).network_loss == ()


def test_a_restart_forgets_z_and_a():
    """An update after a restart depends on the params alone: a fresh state goes on alike."""
    x, y = make_data()
    solver = tritia.tiam(N, restart="always", loss="squared_error")
    targets = jax.nn.one_hot(y, 3)
    update = jax.jit(
        lambda state, params: solver.update(None, state, params, inputs=x, targets=targets)
    )
    params = make_params()
    updates, state = update(solver.init(params), params)
    params = optax.apply_updates(params, updates)
    going_on, fresh = update(state, params)[0], update(solver.init(params), params)[0]
    for one, other in zip(jax.tree.leaves(going_on), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_the_network_learns_a_curved_function():
    """Two moons, where z and a leave the network for good without a restart."""
    x, y = make_moons(300, noise=0.15, random_state=0)
    x = jnp.asarray(x, jnp.float32)

    def loss_of_the_network(restart):
        keys = jax.random.split(jax.random.key(0), 3)
        sizes = (2, 50, 50, 2)
        params = [
            {"kernel": jax.random.normal(key, (i, o)) * (2 / i) ** 0.5, "bias": jnp.zeros(o)}
            for key, i, o in zip(keys, sizes[:-1], sizes[1:], strict=True)
        ]
        solver = tritia.tiam(300, restart=restart)
        state, update = solver.init(params), jax.jit(solver.update)
        for _ in range(30):
            updates, state = update(None, state, params, inputs=x, targets=y)
            params = optax.apply_updates(params, updates)
        return log_loss(outputs(params, x), y)

    assert loss_of_the_network("always") < 0.5 * loss_of_the_network(None)


def test_rows_of_weight_zero_may_hold_anything():
    x, y = make_data()
    solver = tritia.tiam(N, restart="guarded")
    weights = (jnp.arange(N) < 30).astype(float)
    padded = jnp.where(weights[:, None] > 0, x, jnp.nan)
    params, state = make_params(), solver.init(make_params())
    step = jax.jit(solver.update)
    for _ in range(3):
        updates, state = step(None, state, params, inputs=padded, targets=y, weights=weights)
        params = optax.apply_updates(params, updates)
    report = tritia.tiam_diagnostics(state)
    assert bool(report.finite)
    assert np.isfinite(report.network_loss)
    assert 0 <= float(report.restarted) <= 1


def test_a_wrong_rule_is_named():
    with pytest.raises(ValueError, match="restart is 'gradient'; allowed: 'guarded', 'always'"):
        tritia.tiam(N, restart="gradient")
