"""Adaptive steps against SciPy's and Diffrax's solutions, and where steps go wrong."""

import functools

import chex
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate

import tritia
from tests.gradient_flow._runge_kutta.flows import FLOWS, descend, flat, network, rosenbrock, start

PAIRS = ["bogacki_shampine", "dormand_prince", "tsitouras"]


def trajectory(optimizer, loss, params, steps):
    """Runs updates in a scan; returns params and state after each."""
    gradient = jax.grad(loss)

    def step(carry, _):
        w, state = carry
        updates, state = optimizer.update(gradient(w), state, w, grad_fn=gradient)
        carry = optax.apply_updates(w, updates), state
        return carry, carry

    return jax.jit(lambda w: jax.lax.scan(step, (w, optimizer.init(w)), length=steps)[1])(params)


def scipy_flow(loss, times):
    vector, restore = jax.flatten_util.ravel_pytree(start(loss))
    slope = jax.jit(lambda w: -jax.grad(lambda v: loss(restore(v)))(w))
    return scipy.integrate.solve_ivp(
        lambda _, w: np.asarray(slope(w)),
        (0, times[-1]),
        vector,
        "DOP853",
        t_eval=times,
        rtol=1e-13,
        atol=1e-14,
    ).y.T


@pytest.mark.parametrize("name", ["quadratic", "rosenbrock", "network"])
def test_the_flow_is_followed_to_the_tolerance(x64, name):
    optimizer = tritia.adaptive_runge_kutta(scheme="dormand_prince", rtol=1e-7, atol=1e-9)
    params, states = trajectory(optimizer, FLOWS[name], start(FLOWS[name]), 40)
    reached = np.stack([flat(jax.tree.map(lambda leaf, i=i: leaf[i], params)) for i in range(40)])
    expected = scipy_flow(FLOWS[name], np.asarray(states.time))
    np.testing.assert_allclose(reached, expected, rtol=1e-5, atol=1e-6)
    assert np.all(np.diff(states.time) > 0)
    assert np.all(np.asarray(states.error_norm) <= 1)
    np.testing.assert_allclose(np.cumsum(states.learning_rate), states.time, rtol=1e-12)


@pytest.mark.parametrize(
    ("pair", "method"), [("bogacki_shampine", "RK23"), ("dormand_prince", "RK45")]
)
def test_as_many_steps_as_scipy(x64, pair, method):
    # The same tableaus and error norm: the number of steps must be alike, controllers aside.
    vector, restore = jax.flatten_util.ravel_pytree(start(network))
    slope = jax.jit(lambda w: -jax.grad(lambda v: network(restore(v)))(w))
    theirs = scipy.integrate.solve_ivp(
        lambda _, w: np.asarray(slope(w)), (0, 3.0), vector, method, rtol=1e-5, atol=1e-7
    )
    optimizer = tritia.adaptive_runge_kutta(scheme=pair, rtol=1e-5, atol=1e-7)
    _, states = trajectory(optimizer, network, start(network), 3 * len(theirs.t))
    ours = int(np.searchsorted(states.time, 3.0)) + 1
    assert 0.6 * len(theirs.t) < ours < 1.5 * len(theirs.t)


def test_diffrax_agrees(x64):
    optimizer = tritia.adaptive_runge_kutta(scheme="tsitouras", rtol=1e-8, atol=1e-10)
    params, states = trajectory(optimizer, rosenbrock, start(rosenbrock), 30)
    theirs = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, w, _: jax.tree.map(jnp.negative, jax.grad(rosenbrock)(w))),
        diffrax.Tsit5(),
        0.0,
        states.time[-1],
        None,
        start(rosenbrock),
        stepsize_controller=diffrax.PIDController(rtol=1e-10, atol=1e-12),
    )
    for name in ("x", "y"):
        assert float(params[name][-1]) == pytest.approx(float(theirs.ys[name][0]), abs=1e-7)


@pytest.mark.parametrize("pair", PAIRS)
def test_global_error_follows_rtol_over_six_decades(x64, pair):
    tolerances = 10.0 ** -np.arange(3.0, 9.1, 2.0)
    gradient = jax.grad(network)

    @jax.jit
    def run(w, rtol):
        optimizer = tritia.adaptive_runge_kutta(scheme=pair, rtol=rtol, atol=rtol)

        def body(carry):
            w, state = carry
            updates, state = optimizer.update(gradient(w), state, w, grad_fn=gradient)
            return optax.apply_updates(w, updates), state

        begin = (w, optimizer.init(w))
        return jax.lax.while_loop(lambda carry: carry[1].time < 1.0, body, begin)

    errors, sizes = [], []
    for rtol in tolerances:
        w, state = run(start(network), rtol)
        expected = scipy_flow(network, np.asarray([float(state.time)]))[-1]
        errors.append(np.max(np.abs(flat(w) - expected)))
        sizes.append(float(state.time) / int(state.accepted))
    # A straight line in the logarithms, of a slope near 1, and never far above the tolerance.
    slope = np.polyfit(np.log10(tolerances), np.log10(errors), 1)[0]
    assert slope == pytest.approx(1, abs=0.2)
    assert np.all(np.asarray(errors) < 20 * tolerances)
    assert np.all(np.diff(errors) < 0)
    assert np.all(np.diff(sizes) < 0)


def test_a_given_first_step_is_tried_first():
    optimizer = tritia.adaptive_runge_kutta(
        scheme="heun", rtol=1e-3, atol=1e-3, initial_learning_rate=1e-4
    )
    _, state = descend(optimizer, rosenbrock, start(rosenbrock), 1)
    assert float(state.learning_rate) == pytest.approx(1e-4)
    assert float(state.next_learning_rate) > 1e-4


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(
    ("pair", "solver"),
    [("bogacki_shampine", scipy.integrate.RK23), ("dormand_prince", scipy.integrate.RK45)],
)
def test_the_first_step_is_the_one_that_scipy_chooses(x64, pair, solver, scale):
    slope = lambda w: -scale * (w + 0.1 * w**3)  # noqa: E731
    w = np.asarray([1.0, -2.0])
    theirs = solver(lambda _, w: slope(w), 0.0, w, np.inf, rtol=1e-6, atol=1e-9).h_abs
    field = lambda w: -slope(w)  # noqa: E731
    optimizer = tritia.adaptive_runge_kutta(scheme=pair, rtol=1e-6, atol=1e-9)
    update = jax.jit(functools.partial(optimizer.update, grad_fn=field))
    _, state = update(field(w), optimizer.init(w), jnp.asarray(w))
    if int(state.rejected) == 0:
        assert float(state.learning_rate) == pytest.approx(theirs, rel=1e-6)
    else:  # the heuristic knows no time scale: where it is too bold, the controller repairs it
        assert scale > 1
        assert float(state.learning_rate) < theirs


def test_zero_params_and_zero_gradients_start_too():
    optimizer = tritia.adaptive_runge_kutta(scheme="bogacki_shampine")
    for loss, w in (
        (lambda w: jnp.sum((w - 1) ** 2), jnp.zeros(2)),
        (lambda w: 0.0 * jnp.sum(w), jnp.ones(2)),
        (lambda w: 0.0 * jnp.sum(w), jnp.zeros(2)),
    ):
        after, state = descend(optimizer, loss, w, 3)
        chex.assert_tree_all_finite((after, state))
        assert int(state.accepted) == 3
        assert float(state.time) > 0


def test_a_step_that_is_too_long_is_rejected_and_retried():
    curvature = 1e4
    loss = lambda w: 0.5 * curvature * w**2  # noqa: E731
    optimizer = tritia.adaptive_runge_kutta(
        scheme="heun", rtol=1e-3, atol=1e-3, initial_learning_rate=1.0
    )
    w, state = descend(optimizer, loss, jnp.asarray(1.0), 1)
    assert int(state.accepted) == 1
    assert int(state.rejected) >= 4
    assert float(state.learning_rate) * curvature < 1
    assert float(w) == pytest.approx(np.exp(-curvature * float(state.time)), abs=5e-3)


def test_a_stage_that_is_not_finite_halves_the_step():
    optimizer = tritia.adaptive_runge_kutta(
        scheme="midpoint", rtol=1.0, atol=1.0, initial_learning_rate=64.0
    )
    gradient = lambda w: -jnp.ones(1) / (w < 2)  # noqa: E731  (1 per unit of time, inf beyond)
    w = jnp.zeros(1)
    updates, state = optimizer.update(gradient(w), optimizer.init(w), w, grad_fn=gradient)
    # The midpoint stands at w + h / 2: 64 -> 32, 16, 8, 4, 2 puts it at 1.
    assert int(state.rejected) == 5
    assert float(state.learning_rate) == 2.0
    np.testing.assert_allclose(updates, 2.0)


def test_after_max_rejections_the_update_is_zero_and_the_state_says_so():
    optimizer = tritia.adaptive_runge_kutta(
        scheme="heun", rtol=1e-3, atol=1e-3, initial_learning_rate=0.08, max_rejections=3
    )
    bad = lambda w: w * jnp.nan  # noqa: E731
    good = lambda w: w  # noqa: E731
    w = jnp.ones(2)
    updates, state = optimizer.update(good(w), optimizer.init(w), w, grad_fn=bad)
    np.testing.assert_array_equal(updates, 0)
    assert bool(state.failed)
    assert (int(state.rejected), int(state.accepted), int(state.count)) == (3, 0, 1)
    assert float(state.learning_rate) == 0 == float(state.time)
    assert float(state.next_learning_rate) == pytest.approx(0.01)
    assert np.isinf(state.error_norm)
    # A good gradient afterwards: it goes on from there.
    updates, state = optimizer.update(good(w), state, w, grad_fn=good)
    assert not bool(state.failed)
    assert float(state.learning_rate) == pytest.approx(0.01)


def test_a_gradient_that_is_not_finite_is_one_rejection():
    optimizer = tritia.adaptive_runge_kutta(
        scheme="heun", rtol=1e-3, atol=1e-3, initial_learning_rate=1.0
    )
    w = jnp.ones(2)
    updates, state = optimizer.update(w * jnp.inf, optimizer.init(w), w, grad_fn=lambda w: w)
    np.testing.assert_array_equal(updates, 0)
    assert bool(state.failed)
    assert int(state.rejected) == 1
    assert float(state.next_learning_rate) == 0.5
    # Without a first step given there is none to halve: the heuristic waits for a good gradient.
    optimizer = tritia.adaptive_runge_kutta(scheme="heun", rtol=1e-3, atol=1e-3)
    _, state = optimizer.update(w * jnp.nan, optimizer.init(w), w, grad_fn=lambda w: w)
    assert float(state.next_learning_rate) == 0
    _, state = optimizer.update(w, state, w, grad_fn=lambda w: w)
    assert float(state.learning_rate) > 0


def test_an_end_point_that_overflows_is_not_accepted():
    # The error estimate over an infinite size is 0: it must not pass for a good step.
    optimizer = tritia.adaptive_runge_kutta(
        scheme="heun", rtol=1.0, atol=1.0, initial_learning_rate=1.0
    )
    field = lambda w: jnp.full_like(w, -2.5e38)  # noqa: E731
    w = jnp.full(2, 2e38)
    updates, _ = optimizer.update(field(w), optimizer.init(w), w, grad_fn=field)
    assert np.all(np.isfinite(w + updates))


def test_steps_near_a_minimum_settle_at_the_stability_limit(x64):
    curvature = 40.0
    loss = lambda w: 0.5 * (curvature * w[0] ** 2 + w[1] ** 2)  # noqa: E731
    optimizer = tritia.adaptive_runge_kutta(scheme="dormand_prince", rtol=1e-3, atol=1e-3)
    _, states = trajectory(optimizer, loss, jnp.ones(2), 120)
    settled = np.mean(states.learning_rate[60:]) * curvature
    limit = tritia.TABLEAUS["dormand_prince"].stability_interval
    assert settled == pytest.approx(limit, rel=0.1)


def test_no_step_is_longer_than_allowed():
    optimizer = tritia.adaptive_runge_kutta(
        scheme="bogacki_shampine",
        rtol=1e-2,
        atol=1e-2,
        max_learning_rate=optax.linear_schedule(0.01, 0.02, 10),
    )
    _, states = trajectory(optimizer, rosenbrock, start(rosenbrock), 10)
    allowed = np.linspace(0.01, 0.02, 11)[:10]
    np.testing.assert_array_less(states.learning_rate, allowed + 1e-7)
    assert np.max(states.learning_rate / allowed) == pytest.approx(1, rel=1e-5)


def test_under_vmap_every_member_takes_its_own_steps(x64):
    curvatures = jnp.asarray([1.0, 30.0, 1000.0])
    optimizer = tritia.adaptive_runge_kutta(scheme="bogacki_shampine", rtol=1e-5, atol=1e-8)

    def run(curvature):
        return trajectory(
            optimizer, lambda w: 0.5 * curvature * w**2 + 0.1 * w**4, jnp.asarray(1.0), 12
        )

    together = jax.vmap(run)(curvatures)
    assert len(set(np.asarray(together[1].time[:, -1]).tolist())) == 3
    for i, curvature in enumerate(curvatures):
        alone = run(curvature)
        member = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        chex.assert_trees_all_close(member, alone, rtol=1e-9)


def test_a_preconditioner_moves_on_with_accepted_steps_alone():
    optimizer = tritia.adaptive_runge_kutta(
        scheme="heun",
        rtol=1e-3,
        atol=1e-3,
        initial_learning_rate=1e-2,
        preconditioner=optax.scale_by_adam(),
    )
    _, state = descend(optimizer, rosenbrock, start(rosenbrock), 5)
    assert int(state.accepted) == 5 == int(state.preconditioner_state.count)
    w = start(rosenbrock)
    bad = lambda w: jax.tree.map(lambda x: x * jnp.nan, w)  # noqa: E731
    _, after = optimizer.update(jax.grad(rosenbrock)(w), state, w, grad_fn=bad)
    assert bool(after.failed)
    chex.assert_trees_all_equal(after.preconditioner_state, state.preconditioner_state)


def test_python_floats_are_leaves():
    optimizer = tritia.adaptive_runge_kutta(scheme="heun", initial_learning_rate=0.01)
    w = {"w": 1.0}
    updates, _ = optimizer.update(w, optimizer.init(w), w, grad_fn=lambda p: {"w": p["w"]})
    assert float(updates["w"]) == pytest.approx(-0.01 + 0.01**2 / 2)


def test_an_infinite_bound_of_any_type_is_none():
    w = jnp.ones(2)
    for infinity in (np.float32("inf"), np.float64("inf"), jnp.asarray(jnp.inf)):
        optimizer = tritia.adaptive_runge_kutta(scheme="heun", max_learning_rate=infinity)
        _, state = optimizer.update(w, optimizer.init(w), w, grad_fn=lambda w: w)
        assert 0 < float(state.learning_rate) < np.inf
    for wrong in (-np.inf, np.nan):
        with pytest.raises(ValueError, match="max_learning_rate is"):
            tritia.adaptive_runge_kutta(scheme="heun", max_learning_rate=wrong)


def test_masked_params_get_a_hint_that_holds_here():
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    optimizer = optax.masked(tritia.adaptive_runge_kutta(scheme="heun"), {"a": True, "b": False})
    with pytest.raises(ValueError, match=r"optax\.masked\(optax\.set_to_zero\(\)") as error:
        optimizer.update(params, optimizer.init(params), params, grad_fn=lambda p: p)
    assert "mode=" not in str(error.value)
    # The hint works.
    frozen = optax.masked(optax.set_to_zero(), {"a": False, "b": True})
    optimizer = tritia.adaptive_runge_kutta(scheme="heun", preconditioner=frozen)
    updates, _ = optimizer.update(params, optimizer.init(params), params, grad_fn=lambda p: p)
    np.testing.assert_array_equal(updates["b"], 0)
    assert np.all(updates["a"] < 0)


def test_wrong_arguments():
    with pytest.raises(TypeError, match="preconditioner must be an optax"):
        tritia.adaptive_runge_kutta(preconditioner=False)
    w = {"a": jnp.ones(2), "b": jnp.ones(3)}
    optimizer = tritia.adaptive_runge_kutta()
    with pytest.raises(ValueError, match="updates must be gradients with the structure of params"):
        optimizer.update({"a": jnp.ones(2), "b": None}, optimizer.init(w), w, grad_fn=lambda p: p)
    with pytest.raises(ValueError, match=r"'rk4' has no embedded weights"):
        tritia.adaptive_runge_kutta(scheme="rk4")
    with pytest.raises(ValueError, match=r"'rkc2\(4\)' has no embedded weights"):
        tritia.adaptive_runge_kutta(scheme=tritia.ChebyshevScheme(4))
    with pytest.raises(ValueError, match=r"atol is 0.0; allowed: 0.0 < atol"):
        tritia.adaptive_runge_kutta(atol=0.0)
    optimizer, w = tritia.adaptive_runge_kutta(), jnp.ones(2)
    with pytest.raises(ValueError, match=r"6 more gradients .*grad_fn="):
        optimizer.update(w, optimizer.init(w), w)


@pytest.mark.parametrize("initial", [None, 0.1])
def test_a_rest_at_the_minimum_does_not_end_the_descent(initial):
    optimizer = tritia.adaptive_runge_kutta(
        scheme="bogacki_shampine", initial_learning_rate=initial
    )
    gradient = jax.grad(lambda w: 0.5 * (w - 1.0) ** 2)

    def step(carry, kick):
        w, state = carry
        w = w + kick
        updates, state = optimizer.update(gradient(w), state, w, grad_fn=gradient)
        return (optax.apply_updates(w, updates), state), state

    kicks = jnp.zeros(500).at[400].set(1.0)  # 400 updates at rest, then a push
    w = jnp.asarray(1.0)
    (w, _), states = jax.lax.scan(step, (w, optimizer.init(w)), kicks)
    np.testing.assert_allclose(w, 1.0, atol=2e-3)  # rtol is 1e-3
    assert not np.any(states.failed)
    assert np.all(np.isfinite(states.next_learning_rate))


def test_step_sizes_stay_finite_on_a_slope_without_curvature():
    optimizer = tritia.adaptive_runge_kutta(scheme="bogacki_shampine")
    _, states = trajectory(optimizer, lambda w: 1e-30 * w, jnp.asarray(1.0), 200)
    assert np.all(np.isfinite(states.next_learning_rate))
    assert not np.any(states.failed)


@pytest.mark.parametrize(
    ("initial", "settings"),
    [
        pytest.param(None, {"scheme": "bogacki_shampine"}, id="accepted", marks=pytest.mark.slow),
        # Rejected by its error, and where the logarithm is NaN.
        pytest.param(1e3, {"scheme": "heun"}, id="rejected"),
        pytest.param(
            1e6, {"scheme": "heun", "max_rejections": 3}, id="failed", marks=pytest.mark.slow
        ),
    ],
)
def test_derivatives_in_both_modes_are_finite_differences(initial, settings, x64):
    """Through rejected tries and over a scan; by the loss, the tolerance and the start."""

    def outcome(v):
        optimizer = tritia.adaptive_runge_kutta(initial, rtol=v[1], atol=1e-6, **settings)

        def step(carry, label):
            w, state = carry

            def loss(w):
                return v[0] * jnp.sum(w**4) / label + 9.0 * w[0] ** 2 - jnp.log(w[1])

            gradient = jax.grad(loss)
            updates, state = optimizer.update(gradient(w), state, w, grad_fn=gradient)
            return (optax.apply_updates(w, updates), state), None

        w = v[2] * jnp.array([1.0, 2.0])
        (w, state), _ = jax.lax.scan(step, (w, optimizer.init(w)), jnp.arange(1, 4))
        return jnp.sum(w**2) + state.time, (state.failed, state.rejected)

    v = jnp.array([2.0, 1e-3, 1.0])
    run = jax.jit(outcome)
    failed, rejected = run(v)[1]
    assert bool(failed) == ("max_rejections" in settings)
    assert (initial is None) or int(rejected) > 3
    h = jnp.array([1e-6, 1e-9, 1e-6])
    expected = [(run(v + e)[0] - run(v - e)[0]) / (2 * jnp.sum(e)) for e in jnp.diag(h)]
    forward, reverse = (
        jax.jit(mode(outcome, has_aux=True))(v)[0] for mode in (jax.jacfwd, jax.grad)
    )
    np.testing.assert_allclose(forward, expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(reverse, forward, rtol=1e-10, atol=1e-12)


def test_reverse_mode_under_vmap(x64):
    """Members that try differently often: the same as one by one."""
    optimizer = tritia.adaptive_runge_kutta(1.0, "heun", rtol=1e-3)

    def outcome(c):
        w = jnp.asarray(1.0)
        gradient = lambda w: c * w**3  # noqa: E731
        updates, _ = optimizer.update(gradient(w), optimizer.init(w), w, grad_fn=gradient)
        return updates

    values = jnp.array([1e-3, 1.0, 1e3])
    alone = jax.jit(jax.grad(outcome))
    together = jax.jit(jax.vmap(jax.grad(outcome)))(values)
    np.testing.assert_allclose(together, [alone(c) for c in values], rtol=1e-10)
    assert np.all(np.asarray(together) < 0)


def test_derivatives_where_devices_try_differently_often(x64):
    """A sum over devices inside of the loop would wait for ever: there is none, or no reverse."""
    optimizer = tritia.adaptive_runge_kutta(1.0, "heun", rtol=1e-3)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def outcome(w, c=1.0):
        gradient = lambda w: c * w**3  # noqa: E731
        return jnp.sum(optimizer.update(gradient(w), optimizer.init(w), w, grad_fn=gradient)[0])

    def spread(function):
        axis = jax.sharding.PartitionSpec("data")
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=axis, out_specs=axis))

    w = jnp.array([[1.0], [30.0]])
    expected = [jax.jit(jax.jacfwd(outcome))(each) for each in w]
    np.testing.assert_allclose(spread(lambda w: jax.grad(outcome)(w[0])[None])(w), expected)
    by_constant = lambda w, mode: mode(lambda c: outcome(w[0], c))(1.0)[None]  # noqa: E731
    assert spread(lambda w: by_constant(w, jax.jacfwd)).eval_shape(w).shape == (2,)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        spread(lambda w: by_constant(w, jax.grad)).eval_shape(w)
