"""Linear multistep optimizers: identities, order of accuracy, schedules, start-up."""

import functools
import itertools
from fractions import Fraction

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

import tritia
from tritia.gradient_flow._multistep.scheme import arranged
from tritia.gradient_flow._multistep.uneven_steps import adapt_to_step_sizes

SCHEMES = {
    **{f"ab{p}": tritia.adams_bashforth_scheme(p) for p in (1, 2, 3, 4)},
    **{f"bdf{p}": tritia.bdf_scheme(p) for p in (2, 3, 4)},
    **{f"difference{p}{k}": tritia.difference_scheme(p, k) for p, k in tritia.DIFFERENCE_SCHEMES},
    "taylor": tritia.derive_scheme(2, a=(None, None, "1/2"), b=(None,)),
    "heavy_ball": tritia.heavy_ball_scheme("1/2"),
}
# Between or beside others of their kind.
VARIANTS = "ab2", "bdf3", "difference24", "difference25", "difference35"
every_scheme = pytest.mark.parametrize(
    "scheme",
    [
        pytest.param(scheme, id=name, marks=pytest.mark.slow if name in VARIANTS else [])
        for name, scheme in SCHEMES.items()
    ],
)


def _gradient(w):
    """The gradient of w^2/2 + w^4/4, whose flow is known."""
    return w + w**3


def _exact(w0, t):
    return w0 * np.exp(-t) / np.sqrt(1 + w0**2 * (1 - np.exp(-2 * t)))


W0 = np.array([0.9, -1.3])


@functools.partial(jax.jit, static_argnums=0)
def _train(optimizer, params, state, length):
    def body(_, carry):
        params, state = carry
        updates, state = optimizer.update(_gradient(params), state, params)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, length, body, (params, state))


def _run(optimizer, steps, params=W0, state=None):
    params = jnp.asarray(params)
    return _train(optimizer, params, optimizer.init(params) if state is None else state, steps)[0]


LONGEST = 1024


@functools.cache
def _compiled_flow(scheme, dtype):
    @jax.jit
    def flow(params, state, sizes, first, length):
        optimizer = tritia.linear_multistep(lambda count: sizes[count - first], scheme)
        state = optimizer.init(params) if state is None else state

        def body(_, carry):
            params, state = carry
            updates, state = optimizer.update(_gradient(params), state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, length, body, (params, state))[0]

    return flow


def _flow(scheme, sizes, length=None, state=None, first=0):
    """Trains with the given step sizes; one compilation for each scheme and dtype."""
    params, sizes = jnp.asarray(W0), np.asarray(sizes)
    padded = jnp.asarray(np.pad(sizes, (0, LONGEST - len(sizes)), mode="edge"))
    length = len(sizes) if length is None else length
    return _compiled_flow(scheme, params.dtype)(params, state, padded, first, length)


# --- Identities with Optax ---


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (tritia.adams_bashforth(0.1, order=1), optax.sgd(0.1)),
        (tritia.bdf(0.1, order=1), optax.sgd(0.1)),
    ],
)
def test_order_1_is_sgd_exactly(ours, theirs):
    chex.assert_trees_all_equal(_run(ours, 20), _run(theirs, 20))


def test_order_1_is_sgd_under_a_schedule():
    schedule = optax.cosine_decay_schedule(0.3, 20)
    chex.assert_trees_all_equal(
        _run(tritia.adams_bashforth(schedule, order=1), 20), _run(optax.sgd(schedule), 20)
    )


def test_adams_bashforth_2_is_optimistic_gradient_descent_from_the_first_step(x64):
    ours = tritia.adams_bashforth(0.1, order=2)
    theirs = optax.optimistic_gradient_descent(0.1, alpha=1.0, beta=0.5)
    for steps in (1, 2, 3, 30):
        chex.assert_trees_all_close(_run(ours, steps), _run(theirs, steps), rtol=1e-14)


def test_heavy_ball_is_sgd_with_momentum_from_the_first_step(x64):
    momentum = Fraction(9, 10)
    ours = tritia.linear_multistep(0.01 / (1 - 0.9), tritia.heavy_ball_scheme(momentum))
    theirs = optax.sgd(0.01, momentum=0.9)
    for steps in (1, 2, 3, 40):
        chex.assert_trees_all_close(_run(ours, steps), _run(theirs, steps), rtol=1e-13)


@every_scheme
def test_the_chain_form_is_the_same_at_a_constant_learning_rate(scheme, x64):
    chained = optax.chain(
        tritia.scale_by_linear_multistep(scheme), optax.scale_by_learning_rate(0.02)
    )
    chex.assert_trees_all_close(
        _run(chained, 25), _run(tritia.linear_multistep(0.02, scheme), 25), rtol=1e-12
    )


# --- Against the textbook formula ---


@every_scheme
@pytest.mark.parametrize("schedule", [False, True], ids=["constant", "schedule"])
def test_it_is_the_textbook_recurrence(scheme, schedule, x64):
    """w_{t+1} = sum a_j w_{t-j} + h sum b_j f_{t-j} with lists of past points, in NumPy."""
    rate = 0.05
    points, slopes = [np.array(W0)], []
    for t in range(15):
        slopes.insert(0, -_gradient(points[0]))
        member = scheme
        while not scheme.from_rest and member.steps - 1 > t:
            member = member.starter or tritia.adams_bashforth_scheme(1)
        past = [points[min(j, t)] for j in range(len(member.a))]
        new = sum(float(a) * w for a, w in zip(member.a, past, strict=True))
        new = new + rate * sum(float(b) * f for b, f in zip(member.b, slopes, strict=False))
        points.insert(0, new)
    learning_rate = optax.constant_schedule(rate) if schedule else rate
    actual = _run(tritia.linear_multistep(learning_rate, scheme), 15)
    np.testing.assert_allclose(actual, points[0], rtol=1e-11)


def test_the_three_step_scheme_starts_with_two_euler_steps():
    ours, euler = tritia.difference(0.1), optax.sgd(0.1)
    chex.assert_trees_all_close(_run(ours, 2), _run(euler, 2), rtol=1e-7)
    assert float(jnp.max(jnp.abs(_run(ours, 3) - _run(euler, 3)))) > 1e-3


# --- Stability ---


@every_scheme
def test_a_quadratic_converges_inside_the_interval_and_diverges_outside(scheme, x64):
    curvature = 3.0
    interval = scheme.stability_interval

    @jax.jit
    @jax.vmap
    def final(fraction):
        optimizer = tritia.linear_multistep(fraction * interval / curvature, scheme)

        def body(_, carry):
            w, state = carry
            updates, state = optimizer.update(curvature * w, state, w)
            return w + updates, state

        w = jnp.ones(())
        return jnp.abs(jax.lax.fori_loop(0, 6000, body, (w, optimizer.init(w)))[0])

    inside, outside = final(jnp.array([0.97, 1.02]))
    assert inside < 1e-3
    assert not outside < 1e3  # infinite and NaN are outside too


# --- Order of accuracy ---


def _step_sizes(steps, unevenness):
    """Steps that jump between long and short ones and add to 1."""
    sizes = 1 + unevenness * (-1.0) ** np.arange(steps)
    return jnp.asarray(sizes / sizes.sum())


def _state_from_the_exact_solution(optimizer, scheme, step_size):
    """A state in the middle of a run whose history lies on the exact solution, at even steps."""
    state = optimizer.init(jnp.asarray(W0))
    times = -step_size * np.arange(scheme.steps)
    points = [_exact(W0, t) for t in times]

    def filled(ring, newest_first):
        # With position 0, what is lag steps old lies in slot -lag.
        return tuple(jnp.asarray(newest_first[-slot - 1]) for slot in range(len(ring)))

    return state._replace(
        count=jnp.asarray(scheme.steps - 1, jnp.int32),
        step_sizes=jnp.asarray(np.full(scheme.steps - 1, step_size)),
        displacements=filled(state.displacements, [a - b for a, b in itertools.pairwise(points)]),
        directions=filled(state.directions, [_gradient(w) for w in points[1:]]),
    )


@every_scheme
@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
def test_order_of_accuracy(scheme, uneven, x64):
    """Halving the steps divides the error by 2^p, also on steps that jump in every step."""
    order = scheme.order
    ratio = min(scheme.growth_limit, 1.5)
    unevenness = 0.9 * (ratio - 1) / (ratio + 1) if uneven else 0.0
    errors = []
    for steps in (64, 128, 256) if order > 2 else (256, 512, 1024):
        sizes = _step_sizes(steps, unevenness)
        optimizer = tritia.linear_multistep(optax.constant_schedule(0.1), scheme)
        state = _state_from_the_exact_solution(optimizer, scheme, float(sizes[1]))
        final = _flow(scheme, sizes, state=state, first=scheme.steps - 1)
        errors.append(float(np.linalg.norm(final - _exact(W0, 1.0))))
    measured = np.log2(errors[-2] / errors[-1])
    assert measured == pytest.approx(order, abs=0.06 * order)


@pytest.mark.parametrize("name", ["ab2", "bdf2", "difference23", "difference24", "taylor"])
def test_order_2_survives_the_euler_start(name, x64):
    errors = [
        float(np.linalg.norm(_flow(SCHEMES[name], np.full(n, 1 / n)) - _exact(W0, 1)))
        for n in (500, 1000)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)


def test_fixed_coefficients_lose_their_order_on_uneven_steps(x64):
    """Which is what the variable-step coefficients are for."""
    scheme = tritia.difference_scheme(2, 3)
    errors = {True: [], False: []}
    for steps in (256, 512):
        sizes = _step_sizes(steps, 0.15)
        fixed = optax.chain(
            tritia.scale_by_linear_multistep(scheme),
            optax.scale_by_learning_rate(sizes.__getitem__),
        )
        for variable, final in ((False, _run(fixed, steps)), (True, _flow(scheme, sizes))):
            errors[variable].append(float(np.linalg.norm(final - _exact(W0, 1.0))))
    assert np.log2(errors[True][0] / errors[True][1]) == pytest.approx(2, abs=0.1)
    assert np.log2(errors[False][0] / errors[False][1]) < 1.3
    assert errors[True][1] < errors[False][1] / 20


@pytest.mark.parametrize("name", ["ab3", "bdf3"])
def test_a_geometric_ramp_recovers_order_3(name, x64):
    scheme, errors = SCHEMES[name], {True: [], False: []}
    for steps in (128, 256, 512):
        h = 1 / steps
        for ramped in (True, False):
            # From h (h/T)^(p/2 - 1) to h by a factor of 1.2 a step; T = 1.
            start = h * h**0.5 if ramped else h
            growth = np.log(h / start) / np.log(1.2)
            ramp = start * 1.2 ** np.arange(int(np.ceil(growth)))
            rest = (1.0 - ramp.sum()) / h
            sizes = np.concatenate([ramp, np.full(int(np.floor(rest)), h)])
            error = _flow(scheme, sizes) - _exact(W0, sizes.sum())
            errors[ramped].append(float(np.linalg.norm(error)))
    slope = {r: np.log2(e[0] / e[-1]) / 2 for r, e in errors.items()}
    assert slope[True] > 2.8
    assert slope[False] < 2.4


# --- Schedules ---


@given(
    st.lists(st.floats(0.3, 3.0), min_size=4, max_size=4),
    st.sampled_from([name for name in SCHEMES if name not in ("heavy_ball", "ab1")]),
)
def test_uneven_coefficients_are_the_least_change(ratios, name):
    """Against NumPy's least-norm solution of the Taylor conditions on the actual step sizes."""
    scheme = SCHEMES[name]
    sizes = np.cumprod([1.0, *ratios])[: scheme.steps - 1]
    times = np.concatenate([[0.0], -np.cumsum(sizes)])
    ta, tb = times[: len(scheme.a)], times[: len(scheme.b)]
    x = np.array([float(v) for v in scheme.a + scheme.b])
    order = scheme.order
    rows = [np.concatenate([ta**q, q * tb ** (q - 1) if q else 0 * tb]) for q in range(order + 1)]
    conditions = np.array(rows)
    expected = x + np.linalg.lstsq(conditions, 1 - conditions @ x, rcond=None)[0]
    padded, free = arranged(scheme, scheme.steps)
    actual = adapt_to_step_sizes(padded, times, free, order)[free]
    np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(conditions @ actual, 1, rtol=1e-9)


@given(st.lists(st.floats(0.2, 5.0), min_size=2, max_size=2))
def test_uneven_adams_bashforth_integrates_the_interpolating_polynomial(ratios):
    times = np.array([0.0, -ratios[0], -ratios[0] - ratios[1]])
    x, free = arranged(tritia.adams_bashforth_scheme(3), 3)
    b = adapt_to_step_sizes(x, times, free, 3)[3:]
    for j in range(3):
        others = np.delete(times, j)
        lagrange = np.poly1d(np.poly(others)) / np.prod(times[j] - others)
        assert b[j] == pytest.approx(lagrange.integ()(1.0), rel=1e-6, abs=1e-9)


@every_scheme
@pytest.mark.parametrize(
    "rates",
    [
        [0.05, 0.05, 0.0, 0.0, 0.05, 0.05, 0.05],
        [0.0, 0.0, 0.0, 0.05, 0.05, 0.05, 0.05],
        [1e-5, 1e-5, 1e-2, 1e-2, 1e-2, 1e-5, 1e-5],
        [1e-38, 1e-38, 0.05, 0.05, 1e-38, 0.05, 0.05],
        [0.05, 0.0, 0.05, 0.0, 0.05, 0.0, 0.05],
    ],
    ids=["through_zero", "from_zero", "jump_of_1000", "tiny", "every_other_zero"],
)
def test_a_wild_schedule_neither_explodes_nor_is_nan(scheme, rates):
    for steps in (4, 7, 42):
        after = _flow(scheme, np.float32(rates * 6), steps)
        chex.assert_tree_all_finite(after)
        assert float(jnp.max(jnp.abs(after))) <= 1.3 * float(np.max(np.abs(W0)))


@every_scheme
def test_a_step_of_size_zero_does_not_move(scheme):
    rates = np.float32([0.05] * 8 + [0.0, 0.05])
    chex.assert_trees_all_equal(_flow(scheme, rates, 9), _flow(scheme, rates, 8))
    assert bool(jnp.all(_flow(scheme, rates, 10) != _flow(scheme, rates, 9)))


def test_faster_growth_than_the_limit_is_gradient_descent():
    schedule = optax.exponential_decay(1e-4, transition_steps=1, decay_rate=3.0)
    for scheme in (SCHEMES["ab3"], SCHEMES["difference23"], SCHEMES["bdf2"]):
        chex.assert_trees_all_close(
            _run(tritia.linear_multistep(schedule, scheme), 5), _run(optax.sgd(schedule), 5)
        )


def test_the_schedule_is_read_once_per_step_and_never_for_the_past():
    seen = []

    def schedule(count):
        jax.debug.callback(lambda c: seen.append(int(c)), count)
        return jnp.float32(0.1)

    _run(tritia.adams_bashforth(schedule, order=4), 6)
    jax.effects_barrier()
    assert sorted(set(seen)) == list(range(6))
    assert len(seen) == 6


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("ab2", marks=pytest.mark.slow),
        pytest.param("bdf2", marks=pytest.mark.slow),
        "difference23",
    ],
)
def test_the_learning_rate_can_be_differentiated(name, x64):
    @jax.jit
    def after(rate):
        optimizer = tritia.linear_multistep(rate, SCHEMES[name])

        def body(carry, _):
            params, state = carry
            updates, state = optimizer.update(_gradient(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        params = jnp.asarray(W0, jnp.float64)
        (params, _), _ = jax.lax.scan(body, (params, optimizer.init(params)), length=5)
        return jnp.sum(params)

    rate, small = jnp.asarray(0.05), 1e-5
    numerical = (after(rate + small) - after(rate - small)) / (2 * small)
    np.testing.assert_allclose(jax.jit(jax.grad(after))(rate), numerical, rtol=1e-6)


# --- Precision and memory ---


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_combined_in_float32(dtype, x64):
    """One step from a given half-precision history is the exact step, rounded once."""
    optimizer = tritia.difference(0.1, order=2, steps=5)
    keys = jax.random.split(jax.random.key(0), 6)
    draw = [jax.random.normal(key, (64,), jnp.float32).astype(dtype) for key in keys]
    state = optimizer.init(draw[0])._replace(count=jnp.int32(9), displacements=tuple(draw[1:5]))
    state = state._replace(step_sizes=jnp.full_like(state.step_sizes, 0.1))
    compiled = jax.jit(optimizer.update)
    update, _ = compiled(draw[5], state, draw[0])
    wide = [leaf.astype(jnp.float64) for leaf in draw]
    exact, _ = compiled(wide[5], state._replace(displacements=tuple(wide[1:5])), wide[0])
    np.testing.assert_allclose(
        update.astype(jnp.float64), exact.astype(dtype).astype(jnp.float64), rtol=1e-2, atol=1e-3
    )
    mismatch = np.mean(np.asarray(update != exact.astype(dtype)))
    assert mismatch < 0.05  # float32 and float64 round alike but for ties


def test_a_ring_buffer_is_written_in_place():
    """With donated buffers the state costs nothing beyond itself and one update."""
    optimizer = tritia.difference(0.1, order=2, steps=6)
    params = jnp.ones(100_000)

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = (
        jax.jit(step, donate_argnums=(0, 1)).lower(params, optimizer.init(params), params).compile()
    )
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= 6 * params.nbytes
    assert memory.temp_size_in_bytes <= 1.1 * params.nbytes


# --- Properties ---

names = st.sampled_from(["ab3", "bdf3", "difference25", "heavy_ball"])


@functools.cache
def _feed(name):
    """The updates that a transform makes of a sequence of gradients, as a compiled scan."""
    optimizer = tritia.linear_multistep(optax.cosine_decay_schedule(0.1, 12), SCHEMES[name])

    def body(state, gradient):
        updates, state = optimizer.update(gradient, state, gradient)
        return state, updates

    @jax.jit
    def feed(gradients):
        first = jax.tree.map(lambda g: g[0], gradients)
        return jax.lax.scan(body, optimizer.init(first), gradients)[1]

    return feed


def _gradients(seed):
    return jax.random.normal(jax.random.key(seed), (9, 6))


@given(names, st.integers(0, 99), st.floats(-3, 3))
def test_linear_in_the_gradients(name, seed, factor):
    feed, one, two = _feed(name), _gradients(seed), _gradients(seed + 100)
    together = feed(one + factor * two)
    np.testing.assert_allclose(together, feed(one) + factor * feed(two), rtol=1e-4, atol=1e-4)


@settings(max_examples=6)
@given(names, st.integers(0, 99), st.integers(1, 5))
def test_however_the_params_are_split_into_leaves(name, seed, cut):
    feed, whole = _feed(name), _gradients(seed)
    split = feed({"a": whole[:, :cut], "b": (whole[:, cut:],)})
    joined = jnp.concatenate([split["a"], split["b"][0]], axis=1)
    np.testing.assert_allclose(joined, feed(whole), rtol=1e-6, atol=1e-7)


@settings(max_examples=4)
@given(names, st.integers(0, 99))
def test_a_scan_is_a_python_loop(name, seed):
    optimizer = tritia.linear_multistep(optax.cosine_decay_schedule(0.1, 12), SCHEMES[name])
    gradients = _gradients(seed)
    state, looped = optimizer.init(gradients[0]), []
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, gradient)
        looped.append(updates)
    np.testing.assert_allclose(_feed(name)(gradients), jnp.stack(looped), rtol=1e-6, atol=1e-7)


def test_a_wide_accumulator_keeps_what_bfloat16_would_lose():
    """Heavy ball with m = 0.99 under a steady gradient: against optax.sgd with the same memory."""
    params, gradient = jnp.zeros((), jnp.bfloat16), jnp.asarray(0.01, jnp.bfloat16)

    def displacement(optimizer):
        def body(state, _):
            updates, state = optimizer.update(gradient, state, params)
            return state, updates

        return float(jax.lax.scan(body, optimizer.init(params), length=300)[1][-1])

    ours = tritia.linear_multistep(
        1e-3 / (1 - 0.99), tritia.heavy_ball_scheme("99/100"), accumulator_dtype="float32"
    )
    theirs = optax.sgd(1e-3, momentum=0.99, accumulator_dtype="float32")
    assert displacement(ours) == pytest.approx(displacement(theirs), rel=0.01)


def test_a_real_accumulator_keeps_imaginary_parts():
    optimizer = tritia.adams_bashforth(0.1, order=2, accumulator_dtype="float32")
    params = jnp.asarray(1 + 2j, jnp.complex64)
    state = optimizer.init(params)
    for _ in range(4):
        updates, state = optimizer.update(params, state, params)
        params = params + updates
    assert complex(params) == pytest.approx(complex(params.real * (1 + 2j)), rel=1e-5)


def test_warming_up_a_wide_scheme_overshoots_nothing():
    """Straight at 2.5 times SGD's largest learning rate the first steps overshoot."""

    def largest(learning_rate):
        optimizer = tritia.difference(learning_rate, order=2, steps=5)

        def body(carry, _):
            w, state = carry
            updates, state = optimizer.update(w, state, w)
            return (w + updates, state), jnp.abs(w)

        w = jnp.ones(())
        return float(jnp.max(jax.lax.scan(body, (w, optimizer.init(w)), length=100)[1]))

    assert largest(optax.linear_schedule(1.8, 5.0, 12)) < 3
    assert largest(5.0) > 100


def test_python_numbers_are_params_too():
    optimizer = tritia.adams_bashforth(0.1, order=2)
    state = optimizer.init({"w": 1.0})
    updates, _ = optimizer.update({"w": 1.0}, state, {"w": 1.0})
    assert float(updates["w"]) == pytest.approx(-0.1)


@pytest.mark.parametrize("wrong", [jnp.float32, Fraction(1, 10), 10**400, np.array("x"), 1j])
def test_what_is_not_a_learning_rate_is_refused(wrong):
    with pytest.raises((TypeError, ValueError), match="learning_rate"):
        tritia.difference(wrong)


@pytest.mark.parametrize(
    "optimizer", [tritia.adams_bashforth(0.1, 3), tritia.bdf(0.1, 3), tritia.difference(0.1, 3, 6)]
)
def test_python_floats_are_leaves(optimizer):
    params = {"w": 1.0}
    updates, state = optimizer.update({"w": 1.0}, optimizer.init(params), params)
    assert float(updates["w"]) == pytest.approx(-0.1)  # the first step is Euler's
    optimizer.update({"w": 1.0}, state, params)
