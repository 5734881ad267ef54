"""Fixed Runge-Kutta steps against SciPy's and Diffrax's, and one mode against the other."""

import functools

import chex
import diffrax
import flax.linen
import flax.training.train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
from flax import nnx

import tritia
from tests.gradient_flow._runge_kutta.flows import (
    FLOWS,
    SCHEMES,
    descend,
    exact,
    flat,
    gentle,
    rosenbrock,
    start,
)

EACH_SCHEME = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
MODES = pytest.mark.parametrize("mode", ["opaque", "transparent"])


def integrate(scheme, loss, h, steps, mode="opaque", **arguments):
    """Takes `steps` whole steps; returns params and state."""
    optimizer = tritia.runge_kutta(h, scheme, mode=mode, **arguments)
    updates = steps if mode == "opaque" else steps * scheme.gradients_per_step
    return descend(optimizer, loss, start(loss), updates, give_grad_fn=mode == "opaque")


@EACH_SCHEME
def test_order_of_accuracy(x64, scheme):
    p = scheme.order
    counts = {1: (128, 256), 2: (64, 128), 3: (128, 256), 4: (32, 64), 5: (64, 128)}[p]
    errors = [
        np.max(np.abs(flat(integrate(scheme, gentle, 1 / n, n)[0]) - exact("gentle", 1.0)))
        for n in counts
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(p, abs=0.06 * p)


@pytest.mark.parametrize("name", ["quadratic", "rosenbrock", "network"])
@pytest.mark.parametrize("tableau", ["bogacki_shampine", "dormand_prince"])
def test_every_step_is_scipys(x64, tableau, name):
    # SciPy's solvers with the step size held fixed by tolerances that accept anything.
    loss, h, steps = FLOWS[name], 0.02, 25
    method = {"bogacki_shampine": "RK23", "dormand_prince": "RK45"}[tableau]
    vector, restore = jax.flatten_util.ravel_pytree(start(loss))
    slope = jax.jit(lambda w: -jax.grad(lambda v: loss(restore(v)))(w))
    expected = scipy.integrate.solve_ivp(
        lambda _, w: np.asarray(slope(w)),
        (0, h * steps),
        vector,
        method,
        first_step=h,
        max_step=h,
        rtol=1e9,
        atol=1e9,
    )
    assert len(expected.t) == steps + 1
    found, _ = integrate(tritia.TABLEAUS[tableau], loss, h, steps)
    np.testing.assert_allclose(flat(found), expected.y[:, -1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("tableau", "solver", "name"),
    [
        ("midpoint", diffrax.Midpoint(), "quadratic"),
        ("heun", diffrax.Heun(), "rosenbrock"),
        ("ralston", diffrax.Ralston(), "network"),
        ("tsitouras", diffrax.Tsit5(), "network"),
    ],
    ids=["midpoint", "heun", "ralston", "tsitouras"],
)
def test_every_step_is_diffraxs(x64, tableau, solver, name):
    loss, h, steps = FLOWS[name], 0.02, 25
    expected = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, w, _: jax.tree.map(jnp.negative, jax.grad(loss)(w))),
        solver,
        0.0,
        h * steps,
        h,
        start(loss),
        stepsize_controller=diffrax.ConstantStepSize(),
    )
    found, _ = integrate(tritia.TABLEAUS[tableau], loss, h, steps)
    np.testing.assert_allclose(
        flat(found),
        flat(jax.tree.map(lambda leaf: leaf[-1], expected.ys)),
        rtol=1e-12,
        atol=1e-13,
    )


def test_euler_is_sgd():
    params = start(rosenbrock)
    ours, _ = descend(tritia.runge_kutta(0.01, "euler"), rosenbrock, params, 20, give_grad_fn=False)
    theirs, _ = descend(optax.sgd(0.01), rosenbrock, params, 20, give_grad_fn=False)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6)


@EACH_SCHEME
@pytest.mark.parametrize("name", ["rosenbrock", pytest.param("network", marks=pytest.mark.slow)])
def test_both_modes_give_the_same_trajectory(x64, scheme, name):
    opaque, _ = integrate(scheme, FLOWS[name], 0.03, 40)
    transparent, state = integrate(scheme, FLOWS[name], 0.03, 40, "transparent")
    np.testing.assert_allclose(flat(transparent), flat(opaque), rtol=1e-12)
    assert int(state.count) == 40
    assert bool(tritia.at_step_boundary(state))


@EACH_SCHEME
def test_both_modes_agree_with_a_schedule_and_adam(x64, scheme):
    arguments = {"preconditioner": optax.scale_by_adam(eps=1e-3)}
    h = optax.cosine_decay_schedule(0.05, 12)
    opaque, before = integrate(scheme, rosenbrock, h, 12, **arguments)
    transparent, after = integrate(scheme, rosenbrock, h, 12, "transparent", **arguments)
    np.testing.assert_allclose(flat(transparent), flat(opaque), rtol=1e-12)
    chex.assert_trees_all_close(before.preconditioner_state, after.preconditioner_state, rtol=1e-10)
    assert int(after.preconditioner_state.count) == 12


@EACH_SCHEME
def test_transparent_memory_is_the_least_possible(scheme):
    """What later stages need of the slopes so far is so many linear combinations of them."""
    params = {"w": jnp.ones(3)}
    state = tritia.runge_kutta(0.1, scheme, mode="transparent").init(params)
    copies = sum(leaf.shape == (3,) for leaf in jax.tree.leaves(state))
    assert scheme.memory == copies
    if isinstance(scheme, tritia.ChebyshevScheme):
        # The step's start, two offsets, and the first slope where its coefficients are not zero.
        assert copies == {1: 3, 2: 4}[scheme.order]
        return
    count = scheme.gradients_per_step
    targets = np.zeros((count, count))  # the point of each next stage, and the end of the step
    for j, row in enumerate([*scheme.a[1:count], scheme.b[:count]]):
        targets[j, : len(row)] = [float(x) for x in row]
    ranks = [np.linalg.matrix_rank(targets[j + 1 :, : j + 1]) for j in range(count - 1)]
    assert copies == (1 + max(ranks) if ranks else 0)


@EACH_SCHEME
def test_noise_gain_is_the_response_to_impulses_at_the_stages(x64, scheme):
    """A unit gradient in a direction of its own at each stage, whatever the params."""
    count = scheme.gradients_per_step
    optimizer = tritia.runge_kutta(1.0, scheme, mode="transparent")
    w = jnp.zeros(count)
    state = optimizer.init(w)
    for impulse in np.eye(count):
        updates, state = optimizer.update(jnp.asarray(impulse), state, w)
        w = w + updates
    assert float(-jnp.sum(w)) == pytest.approx(1.0)  # consistent: the weights add to 1
    assert scheme.noise_gain == pytest.approx(float(jnp.sum(w**2)), rel=1e-12)


@pytest.mark.parametrize("name", ["midpoint", "heun", "rk4", "rkc"])
@MODES
def test_the_named_optimizers_are_runge_kutta_with_their_scheme(name, mode):
    extra = {"stages": 4, "damping": 0.1} if name == "rkc" else {}
    scheme = tritia.ChebyshevScheme(4, damping=0.1) if name == "rkc" else name
    named = getattr(tritia, name)(0.1, mode=mode, **extra)
    general = tritia.runge_kutta(0.1, scheme, mode=mode)
    programs = []
    for optimizer in (named, general):
        step = lambda w, s, o=optimizer: o.update(w, s, w, grad_fn=jnp.sin)  # noqa: E731
        w = jnp.ones(3)
        programs.append(str(jax.make_jaxpr(step)(w, optimizer.init(w))))
    assert programs[0] == programs[1]


def test_between_steps_the_transparent_state_forgets_the_step():
    optimizer = tritia.runge_kutta(0.1, "rk38", mode="transparent")
    _, state = descend(optimizer, rosenbrock, start(rosenbrock), 8, give_grad_fn=False)
    chex.assert_trees_all_equal(
        (state.base, state.memory), jax.tree.map(jnp.zeros_like, (state.base, state.memory))
    )


def test_a_gradient_without_end_is_forgotten_after_its_step():
    optimizer = tritia.rk4(0.1, mode="transparent")
    w = jnp.ones(2)
    state = optimizer.init(w)
    for gradient in (1.0, 1.0, 1.0, jnp.inf):
        _, state = optimizer.update(jnp.full(2, gradient), state, w)
    np.testing.assert_array_equal(state.memory[0], 0.0)  # 0 times infinity would be NaN
    updates, _ = optimizer.update(jnp.ones(2), state, w)
    assert np.all(np.isfinite(updates))


def test_the_learning_rate_is_fixed_at_stage_one():
    seen = []
    optimizer = tritia.rk4(lambda count: 0.1 / (1 + count), mode="transparent")
    w = jnp.asarray(1.0)
    state = optimizer.init(w)
    for _ in range(8):
        updates, state = optimizer.update(w, state, w)
        w = w + updates
        seen.append(float(state.step_size))
    np.testing.assert_allclose(seen, [0.1] * 4 + [0.05] * 4, rtol=1e-6)
    # The same when the rate is injected and changed in the middle of a step.
    injected = optax.inject_hyperparams(tritia.rk4)(learning_rate=0.1, mode="transparent")
    state = injected.init(w)
    for rate in (0.1, 0.2, 0.3, 0.4):
        state.hyperparams["learning_rate"] = jnp.asarray(rate)
        _, state = injected.update(w, state, w)
        assert float(state.inner_state.step_size) == pytest.approx(0.1)


# Preconditioners.


@MODES
def test_identity_as_preconditioner_changes_nothing(mode):
    plain, _ = integrate(tritia.TABLEAUS["rk4"], rosenbrock, 0.02, 5, mode)
    same, _ = integrate(
        tritia.TABLEAUS["rk4"], rosenbrock, 0.02, 5, mode, preconditioner=optax.identity()
    )
    chex.assert_trees_all_equal(plain, same)


@MODES
def test_a_linear_preconditioner_is_another_flow(x64, mode):
    # P = 3 makes time run three times as fast, at every stage.
    fast, _ = integrate(
        tritia.TABLEAUS["rk4"], rosenbrock, 0.01, 10, mode, preconditioner=optax.scale(3.0)
    )
    plain, _ = integrate(tritia.TABLEAUS["rk4"], rosenbrock, 0.03, 10, mode)
    np.testing.assert_allclose(flat(fast), flat(plain), rtol=1e-12)


@MODES
def test_weight_decay_sees_the_stage_point(x64, mode):
    decay = 0.3
    decayed = lambda w: rosenbrock(w) + 0.5 * decay * sum(x**2 for x in w.values())  # noqa: E731
    inside, _ = integrate(
        tritia.TABLEAUS["kutta3"],
        rosenbrock,
        0.02,
        10,
        mode,
        preconditioner=optax.add_decayed_weights(decay),
    )
    expected, _ = integrate(tritia.TABLEAUS["kutta3"], decayed, 0.02, 10, mode)
    np.testing.assert_allclose(flat(inside), flat(expected), rtol=1e-12)


@MODES
def test_every_stage_uses_the_state_from_before_the_step(x64, mode):
    # A gain that doubles with every update it makes: the state counts.
    gain = optax.scale_by_schedule(lambda count: 2.0**count)
    h, w = 0.1, 1.0
    found, state = descend(
        tritia.rk4(h, mode=mode, preconditioner=gain),
        lambda w: 0.5 * w**2,
        jnp.asarray(w),
        3 if mode == "opaque" else 12,
        give_grad_fn=mode == "opaque",
    )
    for count in range(3):
        z = -h * 2.0**count
        w *= 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24
    assert float(found) == pytest.approx(w, rel=1e-13)
    assert int(state.preconditioner_state.count) == 3


@MODES
def test_the_preconditioned_order_holds_within_a_step(x64, mode):
    # One step of the flow with Adam's frozen moments, against the same flow tightly integrated.
    adam = optax.scale_by_adam(eps=0.1)
    params = start(gentle)
    _, frozen = adam.update(jax.grad(gentle)(params), adam.init(params), params)
    field = lambda w: adam.update(jax.grad(gentle)(w), frozen, w)[0]  # noqa: E731
    vector, restore = jax.flatten_util.ravel_pytree(params)
    errors = []
    for h in (0.02, 0.01):
        reached = scipy.integrate.solve_ivp(
            lambda _, w: -flat(field(restore(w))), (0, h), vector, "DOP853", rtol=1e-13, atol=1e-13
        ).y[:, -1]
        optimizer = tritia.heun(h, mode=mode, preconditioner=adam)
        state = optimizer.init(params)
        if mode == "opaque":
            state = state._replace(preconditioner_state=frozen)
        else:
            state = state._replace(preconditioner_state=frozen, next_preconditioner_state=frozen)
        w = params
        for _ in range(1 if mode == "opaque" else 2):
            updates, state = optimizer.update(
                jax.grad(gentle)(w), state, w, grad_fn=jax.grad(gentle)
            )
            w = optax.apply_updates(w, updates)
        errors.append(np.max(np.abs(flat(w) - reached)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(3, abs=0.3)  # local error: order + 1


# Games: the field need not be a gradient.


def bilinear_game(scheme, h, steps, mode="opaque"):
    """min over x, max over y of x y: the flow goes round in circles."""
    field = lambda w: (w[1], -w[0])  # noqa: E731
    optimizer = tritia.runge_kutta(h, scheme, mode=mode)
    w = (jnp.asarray(1.0), jnp.asarray(0.0))
    state = optimizer.init(w)
    update = jax.jit(lambda s, w: optimizer.update(field(w), s, w, grad_fn=field))
    for _ in range(steps if mode == "opaque" else steps * scheme.gradients_per_step):
        updates, state = update(state, w)
        w = optax.apply_updates(w, updates)
    return float(np.hypot(*w))


@MODES
def test_a_bilinear_game_spirals_out_under_euler_and_not_under_rk4(x64, mode):
    h, steps = 0.5, 100
    euler = bilinear_game(tritia.TABLEAUS["euler"], h, steps, mode)
    rk4 = bilinear_game(tritia.TABLEAUS["rk4"], h, steps, mode)
    # |R(ih)| per step: sqrt(1 + h^2), and sqrt(1 - h^6/72 + h^8/576).
    assert euler == pytest.approx((1 + h**2) ** (steps / 2), rel=1e-9)
    assert rk4 == pytest.approx((1 - h**6 / 72 + h**8 / 576) ** (steps / 2), rel=1e-9)
    assert rk4 < 1 < 1e4 < euler


# Where the transform stands.


def linear_model():
    x = jnp.linspace(-1, 1, 12).reshape(4, 3)
    return x, x @ jnp.asarray([[1.0, -1.0], [0.5, 2.0], [0.0, 1.0]])


def test_in_a_flax_train_state():
    x, y = linear_model()
    model = flax.linen.Dense(2)
    params = model.init(jax.random.key(0), x)
    loss = lambda p: jnp.mean((model.apply(p, x) - y) ** 2)  # noqa: E731
    state = flax.training.train_state.TrainState.create(
        apply_fn=model.apply, params=params, tx=tritia.rk4(0.3, mode="transparent")
    )
    step = jax.jit(lambda s: s.apply_gradients(grads=jax.grad(loss)(s.params)))
    boundaries = []
    for _ in range(8):
        boundaries.append(bool(tritia.at_step_boundary(state)))
        state = step(state)
    assert boundaries == [True, False, False, False] * 2
    expected, _ = descend(tritia.rk4(0.3), loss, params, 2)
    chex.assert_trees_all_close(state.params, expected, rtol=1e-5)


@pytest.mark.parametrize("mode", ["opaque", "transparent"])
def test_in_an_nnx_optimizer(mode):
    x, y = linear_model()
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)
    loss = lambda p: jnp.mean((nnx.merge(graph, p)(x) - y) ** 2)  # noqa: E731
    expected, _ = descend(tritia.rk4(0.3), loss, nnx.as_pure(params), 2)
    optimizer = nnx.Optimizer(model, tritia.rk4(0.3, mode=mode), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda m: jnp.mean((m(x) - y) ** 2))(model)
        extra = {"grad_fn": jax.grad(loss)} if mode == "opaque" else {}
        optimizer.update(model, grads, **extra)

    for i in range(2 if mode == "opaque" else 8):
        at_boundary = bool(tritia.at_step_boundary(optimizer.opt_state))
        assert at_boundary == (mode == "opaque" or i % 4 == 0)
        step(model, optimizer)
    chex.assert_trees_all_close(nnx.as_pure(nnx.state(model)), expected, rtol=1e-5)


@MODES
def test_multi_steps_accumulates_for_each_stage(mode):
    params = start(rosenbrock)
    inner = tritia.heun(0.02, mode=mode)
    plain, _ = descend(inner, rosenbrock, params, 4)
    accumulated, state = descend(optax.MultiSteps(inner, 3), rosenbrock, params, 12)
    chex.assert_trees_all_close(plain, accumulated, rtol=1e-5)
    assert bool(tritia.at_step_boundary(state))


@MODES
def test_multi_steps_over_different_minibatches_is_the_step_of_their_mean(mode):
    targets = jnp.asarray([[0.3, -1.0], [1.1, 2.0]])
    loss = lambda w, target: jnp.sum(jnp.cosh(w - target))  # noqa: E731
    mean_loss = lambda w: 0.5 * (loss(w, targets[0]) + loss(w, targets[1]))  # noqa: E731
    w = start = jnp.asarray([0.5, 0.2])
    plain = tritia.heun(0.1)
    updates, _ = plain.update(jax.grad(mean_loss)(w), plain.init(w), w, grad_fn=jax.grad(mean_loss))
    expected = w + updates

    optimizer = optax.MultiSteps(tritia.heun(0.1, mode=mode), 2)
    extra = {"grad_fn": jax.grad(mean_loss)} if mode == "opaque" else {}
    state = optimizer.init(w)
    for k in range(2 if mode == "opaque" else 4):
        updates, state = optimizer.update(jax.grad(loss)(w, targets[k % 2]), state, w, **extra)
        w = optax.apply_updates(w, updates)
    assert bool(tritia.at_step_boundary(state))
    assert np.max(np.abs(w - start)) > 0.01
    np.testing.assert_allclose(w, expected, rtol=1e-6)


def test_the_boundary_is_found_wherever_the_state_sits():
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    heun = functools.partial(tritia.heun, mode="transparent")
    wrapped = {
        "bare": heun(0.1),
        "chain": optax.chain(optax.clip(1.0), heun(0.1)),
        "masked": optax.masked(heun(0.1), {"a": True, "b": False}),
        "partition": optax.partition({"x": heun(0.1), "y": heun(0.2)}, {"a": "x", "b": "y"}),
        "injected": optax.inject_hyperparams(tritia.heun)(0.1, mode="transparent"),
        "finite": optax.apply_if_finite(heun(0.1), 3),
    }
    for name, optimizer in wrapped.items():
        state = optimizer.init(params)
        assert bool(tritia.at_step_boundary(state)), name
        _, state = optimizer.update(params, state, params)
        assert not bool(jax.jit(tritia.at_step_boundary)(state)), name
    # Two states at different stages: not at a boundary.
    states = [heun(0.1).init(params), state]
    assert not bool(tritia.at_step_boundary(states))
    assert bool(tritia.at_step_boundary(tritia.heun(0.1).init(params)))
    with pytest.raises(ValueError, match="holds no Runge-Kutta state"):
        tritia.at_step_boundary(optax.adam(0.1).init(params))


def test_half_precision_returns_to_the_base_without_loss():
    # Stages far from the base: the step must be one rounding from it, as in opaque mode.
    params = {"w": jnp.asarray([100.0, 0.01, -3.0], jnp.bfloat16)}
    gradient = lambda w: jax.tree.map(lambda x: x * 0.3, w)  # noqa: E731
    opaque, transparent = tritia.midpoint(1.0), tritia.midpoint(1.0, mode="transparent")
    updates, _ = opaque.update(gradient(params), opaque.init(params), params, grad_fn=gradient)
    expected = optax.apply_updates(params, updates)
    state, w = transparent.init(params), params
    for _ in range(2):
        updates, state = transparent.update(gradient(w), state, w)
        w = optax.apply_updates(w, updates)
    chex.assert_trees_all_close(w, expected, rtol=2**-8)


# Errors.


def test_a_missing_grad_fn_shows_the_call():
    optimizer, w = tritia.rk4(0.1), jnp.ones(2)
    with pytest.raises(ValueError, match=r"3 more gradients .* optimizer\.update\(grads, state"):
        optimizer.update(w, optimizer.init(w), w)
    with pytest.raises(TypeError, match="grad_fn must be a function"):
        optimizer.update(w, optimizer.init(w), w, grad_fn=w)
    with pytest.raises(ValueError, match=r"need the params"):
        optimizer.update(w, optimizer.init(w), grad_fn=lambda p: p)


def test_a_grad_fn_that_returns_something_else_is_named():
    optimizer, w = tritia.heun(0.1), {"w": jnp.ones(2)}
    loss = lambda p: jnp.sum(p["w"] ** 2)  # noqa: E731
    with pytest.raises(ValueError, match="value_and_grad"):
        optimizer.update(w, optimizer.init(w), w, grad_fn=jax.value_and_grad(loss))
    with pytest.raises(ValueError, match=r"shapes of params\. Got \[\(3,\)\], expected \[\(2,\)\]"):
        optimizer.update(w, optimizer.init(w), w, grad_fn=lambda p: {"w": jnp.ones(3)})


@pytest.mark.parametrize("wrapper", ["masked", "partition"])
def test_opaque_mode_says_that_it_cannot_be_masked(wrapper):
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    if wrapper == "masked":
        optimizer = optax.masked(tritia.heun(0.1), {"a": True, "b": False})
    else:
        parts = {"x": tritia.heun(0.1), "y": optax.sgd(0.1)}
        optimizer = optax.partition(parts, {"a": "x", "b": "y"})
    with pytest.raises(ValueError, match=r"inside optax\.masked or optax\.partition"):
        optimizer.update(params, optimizer.init(params), params, grad_fn=lambda p: p)


@MODES
def test_python_floats_are_leaves(mode):
    optimizer = tritia.heun(0.5, mode=mode)
    params = {"w": 1.0}
    state = optimizer.init(params)
    for _ in range(1 if mode == "opaque" else 2):
        updates, state = optimizer.update(params, state, params, grad_fn=lambda p: {"w": p["w"]})
        params = {"w": float(params["w"] + updates["w"])}
    assert params["w"] == pytest.approx(1 - 0.5 + 0.5**2 / 2)
    # Nor need grad_fn return arrays.
    optimizer = tritia.heun(0.5)
    updates, _ = optimizer.update(
        {"w": 1.0}, optimizer.init({"w": 1.0}), {"w": 1.0}, grad_fn=lambda p: {"w": 3.0}
    )
    assert float(updates["w"]) == pytest.approx(-1.0)


@MODES
def test_a_missing_gradient_of_one_leaf_is_named(mode):
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    optimizer = tritia.heun(0.1, mode=mode)
    with pytest.raises(ValueError, match="updates must be gradients with the structure of params"):
        optimizer.update(
            {"a": jnp.ones(2), "b": None}, optimizer.init(params), params, grad_fn=lambda p: p
        )


def test_wrong_arguments():
    for preconditioner in (0, False):
        with pytest.raises(TypeError, match="preconditioner must be an optax"):
            tritia.rk4(0.1, preconditioner=preconditioner)
    with pytest.raises(ValueError, match=r"scheme is 'rk5'.*Did you mean"):
        tritia.runge_kutta(0.1, "rk5")
    with pytest.raises(TypeError, match=r"scheme must be a tritia\.ButcherTableau"):
        tritia.runge_kutta(0.1, 4)
    with pytest.raises(ValueError, match=r"mode is 'see-through'"):
        tritia.rk4(0.1, mode="see-through")
    with pytest.raises(TypeError, match=r"preconditioner must be an optax"):
        tritia.rk4(0.1, preconditioner=optax.scale_by_adam)


@pytest.mark.parametrize("name", ["heun", "rk4", "kutta3", "rkc"])
def test_an_injected_schedule_counts_steps(name):
    """Optax counts updates, of which s are one step: optax issue 415."""
    schedule = optax.linear_schedule(0.8, 0.1, 3)
    factory, static, scheme = {
        "kutta3": (functools.partial(tritia.runge_kutta, scheme="kutta3"), (), "kutta3"),
        "rkc": (
            functools.partial(tritia.rkc, stages=5, order=1),
            ("stages", "order"),
            tritia.ChebyshevScheme(5, 1),
        ),
    }.get(name) or (getattr(tritia, name), (), name)
    injected = optax.inject_hyperparams(factory, static_args=static)(schedule, mode="transparent")
    given = tritia.runge_kutta(schedule, scheme, mode="transparent")
    count = 4 * (scheme if name == "rkc" else tritia.TABLEAUS[name]).gradients_per_step
    expected, _ = descend(given, gentle, start(gentle), count, give_grad_fn=False)
    found, _ = descend(injected, gentle, start(gentle), count, give_grad_fn=False)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


def test_an_injected_learning_rate_is_found_once_and_set_for_the_next_step():
    optimizer = optax.inject_hyperparams(tritia.heun)(0.5, mode="transparent")
    w = jnp.asarray(1.0)
    state = optimizer.init(w)
    assert float(optax.tree.get(state, "learning_rate")) == 0.5
    for k, h in enumerate((0.5, 0.5, 0.25, 0.25)):
        if k == 1:
            state = optax.tree.set(state, learning_rate=jnp.asarray(0.25))
        updates, state = optimizer.update(w, state, w)
        assert float(state.inner_state.step_size) == h
        w = w + updates
    expected = (1 - 0.5 + 0.5**2 / 2) * (1 - 0.25 + 0.25**2 / 2)
    assert float(w) == pytest.approx(expected, rel=1e-6)


def test_wrappers_that_opaque_mode_cannot_stand_in_are_named():
    w = {"w": jnp.ones(2)}
    grad_fn = lambda p: {"w": p["w"]}  # noqa: E731
    sam = optax.contrib.sam(tritia.heun(0.1), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"optax\.contrib\.sam"):
        sam.update(w, sam.init(w), w, grad_fn=grad_fn)
    split = optax.contrib.split_real_and_imaginary(tritia.heun(0.1))
    z = jnp.ones(2) + 1j
    with pytest.raises(ValueError, match=r"inside optax\.contrib\.split_real_and_imaginary"):
        split.update(z, split.init(z), z)
    flat = optax.with_extra_args_support(optax.flatten(tritia.heun(0.1)))
    with pytest.raises(TypeError) as error:
        flat.update(w, flat.init(w), w, grad_fn=grad_fn)
    assert any("optax.flatten" in note for note in error.value.__notes__)


def test_all_static_arguments_are_named_at_once():
    with pytest.raises(TypeError, match=r"static_args=\('stages', 'order'\)"):
        optax.inject_hyperparams(tritia.rkc)(0.1, stages=4).init(jnp.zeros(2))
    with pytest.raises(TypeError, match=r"static_args=\('order', 'steps'\)"):
        optax.inject_hyperparams(tritia.difference)(0.1).init(jnp.zeros(2))
