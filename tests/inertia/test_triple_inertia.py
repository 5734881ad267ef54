"""Dtypes, memory, constraints, restarts and errors of triple inertia."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tritia


def run(solver, gradient, params, steps):
    @jax.jit
    def step(params, state):
        updates, state = solver.update(gradient(params), state, params)
        return optax.apply_updates(params, updates), state

    state = solver.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


# Constraints.


def named(coefficients):
    return dict(zip(("predict", "evaluate", "correct"), coefficients, strict=True))


@jax.jit
def projected_step(coefficients, target, params, state):
    projection = optax.projections.projection_non_negative
    solver = tritia.triple_inertia(optax.sgd(0.3), **named(coefficients), projection=projection)
    state = solver.init(params) if state is None else state
    updates, state = solver.update(params - target, state, params)
    params = optax.apply_updates(params, updates)
    return params, state, tritia.eval_params(state, params)


@hypothesis.given(
    coefficients=st.tuples(*[st.floats(-0.9, 1.5)] * 3),
    target=st.lists(st.floats(-3.0, 3.0), min_size=3, max_size=3),
)
def test_iterate_stays_feasible(coefficients, target):
    coefficients, target = jnp.array(coefficients), jnp.array(target)
    params, state = jnp.ones(3), None
    for _ in range(8):
        params, state, iterate = projected_step(coefficients, target, params, state)
        # u is recovered from e = u + p2 d, so it is feasible up to the rounding of those.
        scale = 1.0 + jnp.max(jnp.abs(params)) + jnp.max(jnp.abs(state.displacement))
        assert jnp.min(iterate) >= -1e-5 * scale


@pytest.mark.parametrize(
    "projection",
    [
        optax.projections.projection_simplex,
        optax.projections.projection_l2_ball,
        lambda tree: optax.projections.projection_box(tree, 0.1, 0.4),
    ],
)
def test_projected_descent_finds_the_constrained_minimum(projection):
    # The nearest point of the set to the target is the target's projection.
    target = jnp.array([0.9, 0.6, -0.4])
    solver = tritia.triple_inertia(
        optax.sgd(0.3), predict=0.4, evaluate=0.4, correct=0.2, projection=projection
    )
    params, state = run(solver, lambda w: w - target, jnp.array([0.2, 0.3, 0.5]), 60)
    np.testing.assert_allclose(
        tritia.eval_params(state, params), projection(target), rtol=1e-4, atol=1e-5
    )


def project_to_ball(w):
    return w * np.minimum(1.0, 0.8 / np.linalg.norm(w))


def test_projected_steps_against_a_loop_written_by_hand(x64):
    p1, p2, p3 = 0.6, 0.3, 0.5
    curvature, target = np.array([1.0, 3.0, 0.3]), np.array([2.0, -1.0, 0.5])
    projection = lambda w: optax.projections.projection_l2_ball(w, 0.8)  # noqa: E731
    solver = tritia.triple_inertia(
        optax.sgd(0.2), predict=p1, evaluate=p2, correct=p3, projection=projection
    )
    # Were the correction a rescaling, as it is without a constraint, this would be the same method.
    rescaled = tritia.triple_inertia(
        optax.sgd(0.3), predict=1.5 * p1, evaluate=p2, projection=projection
    )
    u = u_previous = np.array([0.1, 0.7, 0.0])
    params = other = jnp.array(u)
    state, other_state = solver.init(params), rescaled.init(params)
    differences = []
    for _ in range(12):
        d = u - u_previous
        e = u + p2 * d
        v = project_to_ball(u + p1 * d - 0.2 * curvature * (e - target))
        u_previous, u = u, project_to_ball(v + p3 * (v - u))
        updates, state = solver.update(curvature * (params - target), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(tritia.eval_params(state, params), u, rtol=1e-12, atol=1e-14)
        updates, other_state = rescaled.update(curvature * (other - target), other_state, other)
        other = optax.apply_updates(other, updates)
        differences.append(np.linalg.norm(tritia.eval_params(other_state, other) - u))
    assert max(differences) > 0.01


def test_between_bounds_a_correction_is_a_rescaling(x64):
    curvature, target = jnp.array([1.0, 3.0, 0.3]), jnp.array([2.0, -1.0, 0.5])
    iterates = []
    for rate, coefficients in ((0.2, (0.6, 0.3, 0.5)), (0.3, (0.9, 0.3, 0.0))):
        solver = tritia.triple_inertia(
            optax.sgd(rate),
            **named(coefficients),
            projection=lambda w: optax.projections.projection_box(w, 0.0, 0.8),
        )
        params, state = run(
            solver, lambda w: curvature * (w - target), jnp.array([0.1, 0.7, 0.0]), 12
        )
        iterates.append(tritia.eval_params(state, params))
    np.testing.assert_allclose(*iterates, rtol=1e-12, atol=1e-14)


# Restart.


def reference_with_restart(gradient, u, rate, m, steps):
    """Nesterov with the gradient restart of O'Donoghue and Candes, on complex numbers."""
    d, restarts, trajectory = np.zeros_like(u), 0, []
    for _ in range(steps):
        e = u + m * d
        g = gradient(e)
        u_next = e - rate * g
        uphill = np.real(np.sum(np.conj(g) * (u_next - u))) > 0
        d = np.zeros_like(u) if uphill else u_next - u
        restarts += uphill
        u = u_next
        trajectory.append(u)
    return trajectory, restarts


@pytest.mark.parametrize("is_complex", [False, True])
def test_gradient_restart_against_a_loop_written_by_hand(x64, is_complex):
    curvature = np.array([1.0, 0.02])
    start = np.array([1.0 + 2.0j, -1.0 + 0.5j]) if is_complex else np.array([1.0, -1.0])
    expected, restarts = reference_with_restart(lambda w: curvature * w, start, 1.0, 0.98, 80)
    assert restarts >= 2
    solver = tritia.triple_inertia(optax.sgd(1.0), predict=0.98, evaluate=0.98, restart="gradient")

    def loss(w):
        return 0.5 * jnp.sum(curvature * jnp.abs(w) ** 2)

    params = jnp.array(start)
    state = solver.init(params)
    update = jax.jit(lambda w, s: solver.update(jnp.conj(jax.grad(loss)(w)), s, w))
    for u in expected:
        updates, state = update(params, state)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(tritia.eval_params(state, params), u, rtol=1e-9, atol=1e-12)


def test_restart_saves_a_run_with_too_much_momentum():
    curvature = jnp.array([1.0, 0.02])

    def loss(w):
        return 0.5 * jnp.sum(curvature * w**2)

    final = {}
    for restart in (None, "gradient"):
        solver = tritia.triple_inertia(
            optax.sgd(1.0), predict=0.999, evaluate=0.999, restart=restart
        )
        params, state = run(solver, jax.grad(loss), jnp.array([1.0, 1.0]), 100)
        final[restart] = float(loss(tritia.eval_params(state, params)))
    assert final["gradient"] < 1e-4 * final[None]


def test_restart_needs_gradients():
    anything = optax.stateless(lambda updates, params: jax.tree.map(jnp.zeros_like, params))
    params = {"w": jnp.ones(2)}
    free = tritia.triple_inertia(anything, predict=0.5, evaluate=0.5)
    free.update(None, free.init(params), params)
    solver = tritia.triple_inertia(anything, predict=0.5, evaluate=0.5, restart="gradient")
    with pytest.raises(ValueError, match="restart='gradient' needs gradients"):
        solver.update(None, solver.init(params), params)


# Dtypes and memory.


@pytest.mark.parametrize("accumulator", [None, "float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("extra", [{}, {"restart": "gradient"}, {"projection": lambda w: w}])
def test_state_and_updates_keep_their_types(dtype, accumulator, extra):
    solver = tritia.triple_inertia(
        optax.sgd(0.1),
        predict=0.9,
        evaluate=jnp.array(0.9),
        correct=lambda t: 0.1,
        accumulator_dtype=accumulator,
        **extra,
    )
    params = {"w": jnp.ones((2, 3), dtype), "none": None, "scalar": jnp.ones((), dtype), "e": {}}
    state = solver.init(params)
    updates, new_state = solver.update(params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    assert not any(x.weak_type for x in jax.tree.leaves((state, new_state, updates)))
    memory = {"complex64": "complex64"}.get(dtype, accumulator or dtype)
    assert all(x.dtype == memory for x in jax.tree.leaves(state.displacement))


def test_float32_memory_keeps_the_velocity_of_bfloat16_params():
    # A constant gradient of -1: the velocity is the geometric sum of the momentum, 1 / (1 - m) in
    # the end. In bfloat16 it stops growing once 1 is below its resolution.
    velocity = {}
    for accumulator in (None, "float32"):
        solver = tritia.triple_inertia(
            optax.scale(-1.0), predict=0.999, accumulator_dtype=accumulator
        )
        params = jnp.zeros((), jnp.bfloat16)

        def step(state, _, solver=solver, params=params):
            return solver.update(-jnp.ones_like(params), state, params)[1], None

        state = jax.lax.scan(step, solver.init(params), length=1000)[0]
        velocity[accumulator] = float(state.displacement)
    exact = (1.0 - 0.999**1000) / 0.001
    np.testing.assert_allclose(velocity["float32"], exact, rtol=1e-4)
    assert velocity[None] < 0.7 * exact


def test_injected_coefficients_take_effect_without_recompiling():
    factory = optax.inject_hyperparams(tritia.triple_inertia, hyperparam_dtype=jnp.float32)
    solver = factory(optax.sgd(0.1), predict=0.0, evaluate=0.0, correct=0.0)
    params = jnp.ones(3, jnp.bfloat16)
    state = solver.init(params)
    traces = []

    @jax.jit
    def update(state, params):
        traces.append(1)
        return solver.update(params, state, params)

    updates, state = update(state, params)
    assert updates.dtype == jnp.bfloat16
    state.hyperparams["correct"] = jnp.float32(1.0)
    state.hyperparams["evaluate"] = jnp.float32(0.999)
    doubled, state = update(state, params)
    # (1 + p3) s, extrapolated by p2 = 0.999 (which bfloat16 would round to 1), is -0.3998.
    np.testing.assert_allclose(doubled.astype(jnp.float32), -0.3998, rtol=4e-3)
    np.testing.assert_allclose(state.inner_state.evaluate, 0.999, rtol=1e-6)
    assert len(traces) == 1


def test_projection_under_inject_hyperparams():
    projection = optax.projections.projection_non_negative
    static = optax.inject_hyperparams(tritia.triple_inertia, static_args="projection")
    solver = static(optax.sgd(1.0), predict=0.5, evaluate=0.5, projection=projection)
    params, state = run(solver, lambda w: jnp.ones_like(w), jnp.array([0.5]), 3)
    np.testing.assert_array_equal(tritia.eval_params(state, params), 0.0)
    with pytest.raises(TypeError, match=r"projection is static.*static_args"):
        tritia.triple_inertia(optax.sgd(1.0), predict=0.5, evaluate=0.5, projection=jnp.array(1.0))


def test_no_buffer_is_shared_and_all_can_be_donated():
    momentum = jnp.array(0.5)
    solver = tritia.triple_inertia(
        optax.sgd(0.1), predict=momentum, evaluate=momentum, correct=momentum, output=momentum
    )
    params = {"a": jnp.ones(4), "b": jnp.ones(())}
    state = solver.init(params)

    def assert_distinct(*trees):
        buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(trees)]
        assert len(set(buffers)) == len(buffers)

    assert_distinct(params, state, momentum)
    _, eager = solver.update(params, state, params)
    assert_distinct(params, eager, momentum)

    @jax.jit
    def step(params, state):
        updates, state = solver.update(params, state, params)
        return optax.apply_updates(params, updates), state

    expected = params
    expected_state = solver.init(params)
    for _ in range(3):
        expected, expected_state = step(expected, expected_state)
    donating = jax.jit(step, donate_argnums=(0, 1))
    for _ in range(3):
        params, state = donating(params, state)
        assert_distinct(params, state, momentum)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_vmap_over_coefficients_is_a_loop_over_them():
    def final(coefficients):
        solver = tritia.triple_inertia(optax.sgd(0.1), **named(coefficients), restart="gradient")

        def step(carry, _):
            params, state = carry
            updates, state = solver.update(jnp.sinh(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        params = jnp.array([1.0, -0.5])
        return jax.lax.scan(step, (params, solver.init(params)), length=20)[0]

    settings = jnp.array([[0.9, 0.9, 0.0], [0.5, 0.0, 0.3], [0.0, 0.0, 0.0]])
    params, states = jax.vmap(final)(settings)
    outputs = jax.vmap(tritia.eval_params)(states, params)
    for i, coefficients in enumerate(settings):
        one, state = final(coefficients)
        np.testing.assert_allclose(params[i], one, rtol=1e-5)
        np.testing.assert_allclose(outputs[i], tritia.eval_params(state, one), rtol=1e-5)


def test_extra_arguments_reach_inner():
    solver = tritia.triple_inertia(
        optax.chain(optax.scale(-1.0), optax.scale_by_backtracking_linesearch(20))
    )

    def loss(w):
        return jnp.sum(w**4)

    params = jnp.array([2.0, -1.0])
    state = solver.init(params)
    for _ in range(10):
        value, grad = jax.value_and_grad(loss)(params)
        updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        params = optax.apply_updates(params, updates)
    assert loss(params) < 0.1


def test_inner_sees_the_evaluation_point():
    seen = []

    def spy(updates, params):
        seen.append(float(params))
        return updates

    solver = tritia.triple_inertia(optax.stateless(spy), evaluate=0.5)
    params = jnp.array(0.0)
    state = solver.init(params)
    for _ in range(2):
        updates, state = solver.update(jnp.ones_like(params), state, params)
        params = optax.apply_updates(params, updates)
    # u goes 0, 1, 2; e = u + (u - u_prev) / 2.
    assert seen == [0.0, 1.5]
    assert float(params) == 2.5


def test_params_are_optional_without_a_projection():
    solver = tritia.triple_inertia(optax.sgd(0.1), predict=0.9, evaluate=0.9, correct=0.1)
    grads = jnp.ones(2, jnp.bfloat16)
    with_params, _ = solver.update(grads, solver.init(grads), grads)
    without, _ = solver.update(grads, solver.init(grads))
    np.testing.assert_array_equal(with_params, without)
    ignored, _ = solver.update(grads, solver.init(grads), grads, unknown=0)
    np.testing.assert_array_equal(ignored, without)
    projected = tritia.triple_inertia(
        optax.sgd(0.1), predict=0.9, evaluate=0.9, correct=0.1, projection=lambda w: w
    )
    with pytest.raises(ValueError, match=r"solver\.update\(grads, state, params\)"):
        projected.update(grads, projected.init(grads))


def test_map_params_touches_the_displacement_alone():
    solver = tritia.triple_inertia(optax.trace(0.9), predict=0.9, evaluate=0.9, correct=0.1)
    params = {"w": jnp.ones(2)}
    mapped = optax.tree.map_params(
        solver,
        lambda x: "param",
        solver.init(params),
        transform_non_params=lambda x: "other",
    )
    assert mapped.displacement == {"w": "param"}
    assert mapped.inner_state.trace == {"w": "param"}
    assert mapped.count == mapped.predict == mapped.evaluate == mapped.output == "other"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inner": 0.1}, TypeError, "inner must be an optax.GradientTransformation.*0.1"),
        ({"predict": "0.9"}, TypeError, "predict must be a number.*'0.9'"),
        ({"evaluate": float("nan")}, ValueError, "evaluate is nan"),
        ({"correct": jnp.ones(2)}, ValueError, r"correct must be .*shape \(2,\)"),
        ({"output": True}, TypeError, "output must be a number"),
        ({"restart": "gradients"}, ValueError, "restart is 'gradients'.*Did you mean 'gradient'"),
        ({"projection": 1.0}, TypeError, "projection must be a function.*1.0"),
        ({"accumulator_dtype": "int32"}, TypeError, "accumulator_dtype must be a floating"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    good = {"inner": optax.sgd(0.1), "predict": 0.5, "evaluate": 0.5, "correct": 0.0}
    with pytest.raises(error, match=message):
        tritia.triple_inertia(**(good | arguments))


@pytest.mark.parametrize("restart", [None, "gradient"])
def test_a_missing_gradient_of_one_leaf_is_named(restart):
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    solver = tritia.triple_inertia(optax.sgd(0.1), predict=0.5, evaluate=0.5, restart=restart)
    with pytest.raises(ValueError, match="updates must have the structure of params"):
        solver.update({"a": jnp.ones(2), "b": None}, solver.init(params), params)


def test_a_schedule_that_starts_at_zero_can_be_differentiated(x64):
    def loss(momentum):
        schedule = lambda count: momentum * count / (count + 3.0)  # noqa: E731
        solver = tritia.triple_inertia(optax.sgd(0.1), predict=schedule, evaluate=schedule)
        w = jnp.ones(())
        state = solver.init(w)
        for _ in range(5):
            updates, state = solver.update(w, state, w)
            w = w + updates
        return w

    change = (loss(0.5 + 1e-5) - loss(0.5 - 1e-5)) / 2e-5
    assert float(jax.grad(loss)(0.5)) == pytest.approx(float(change), rel=1e-6)


def test_a_correction_of_few_digits_is_no_sum_of_few_digits():
    solver = tritia.triple_inertia(optax.sgd(1.0), correct=np.float16(0.001))
    updates, _ = solver.update(jnp.ones(()), solver.init(jnp.ones(())))
    assert float(updates) == pytest.approx(-1 - float(np.float16(0.001)), rel=1e-6)
