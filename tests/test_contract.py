"""Every public transform against every promise that the library makes, one test each."""

import collections
import contextlib
import functools
import inspect
import itertools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import tritia
from tests.contract import (
    CASES,
    RUN,
    TREE,
    TREE_WITH_GRAD_FN,
    Case,
    each as _each,
    step as _step,
    types as _types,
)

STEPS = 4


# Where something is run, aliases are left out: `test_an_alias_is_its_general_form` stands for them.
# What compiles nothing is quick for all.
_each_quickly = functools.partial(pytest.mark.parametrize, "case", ids=lambda case: case.name)
every_factory = _each_quickly(CASES)
every_case = _each(RUN)
every_tree_case = _each([case for case in RUN if case.problem.any_tree])
every_tuned_case = _each([case for case in RUN if case.numbers])


def _is_solver(case: Case) -> bool:
    return not case.problem.any_tree


# The layer-wise solvers take seconds to compile for another dtype or sharding, or inside of
# something; test_tiam.py and test_stochastic.py have scans and vmaps of theirs.
every_case_slow_for_solvers = _each(RUN, slow=_is_solver)
# Without jit each operation is a program: what has loops or linear algebra takes seconds.
every_case_slow_for_many_operations = _each(
    RUN,
    slow=lambda case: (
        _is_solver(case) or case.name.startswith(("scale_by", "spectral", "adaptive", "heun"))
    ),
)


# Compiling is what costs time here, so the transform with its usual numbers is compiled once for
# all tests of a case, and what can be read off a trace is not compiled at all.


_TRACES = collections.Counter()  # of `_usual`'s step, by case and whether in float64


def _cached(function):
    """Caches by the arguments and by whether float64 is on, in which some tests are."""
    cached = functools.cache(lambda x64, *args, **settings: function(*args, **settings))
    return lambda *args, **settings: cached(jax.config.jax_enable_x64, *args, **settings)


@_cached
def _usual(case: Case) -> tuple[Any, Any]:
    optimizer = case.make()

    @jax.jit
    def step(params, state):
        _TRACES[case, jax.config.jax_enable_x64] += 1
        return _step(case, optimizer, params, state)

    return optimizer, step


@_cached
def _trained(case: Case, steps: int = STEPS) -> tuple[Any, Any]:
    optimizer, step = _usual(case)
    params = case.problem.params()
    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@functools.cache
def _compiled(case: Case, optimizer: Any) -> Any:
    return jax.jit(functools.partial(_step, case, optimizer))


def _run(case: Case, optimizer: Any, params: Any, steps: int = STEPS) -> Any:
    state, step = optimizer.init(params), _compiled(case, optimizer)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@functools.cache
def _with_numbers(case: Case) -> Any:
    """A step with any numbers, which is compiled once."""

    @jax.jit
    def step(numbers, params, state):
        return _step(case, case.make(**numbers), params, state)

    return step


def _close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    chex.assert_trees_all_close(actual, expected, rtol=tolerance, atol=tolerance)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _copies(params: Any, state: Any) -> list[list[Any]]:
    """The leaves of the trees in a state that look like params, by their structure and shapes.

    Where a part of a transform does not see a leaf, `optax.MaskedNode` stands in its place.
    """
    structure, shapes = jax.tree.structure(params), list(map(jnp.shape, jax.tree.leaves(params)))

    def is_copy(node):
        leaves, found = jax.tree.flatten(node, is_leaf=_is_masked)
        return found == structure and all(
            _is_masked(leaf) or jnp.shape(leaf) == shape
            for leaf, shape in zip(leaves, shapes, strict=True)
        )

    copies = filter(is_copy, jax.tree.leaves(state, is_leaf=is_copy))
    return [jax.tree.leaves(copy, is_leaf=_is_masked) for copy in copies]


def _alias(name: str, form: Any, general: Any) -> Any:
    return pytest.param(form, general, id=name)


@pytest.mark.parametrize(
    ("form", "general"),
    [
        *(
            _alias(
                f"{family.__name__}{order}",
                functools.partial(family, order=order),
                functools.partial(tritia.linear_multistep, scheme=scheme(order)),
            )
            for family, scheme, orders in (
                (tritia.adams_bashforth, tritia.adams_bashforth_scheme, (1, 2, 3, 4, 5)),
                (tritia.bdf, tritia.bdf_scheme, (1, 2, 3)),
            )
            for order in orders
        ),
        *(
            _alias(
                f"difference{order}{steps}",
                functools.partial(tritia.difference, order=order, steps=steps),
                functools.partial(
                    tritia.linear_multistep, scheme=tritia.difference_scheme(order, steps)
                ),
            )
            for order, steps in tritia.DIFFERENCE_SCHEMES
        ),
        *(
            _alias(
                f"{method.__name__}_{mode}",
                functools.partial(method, mode=mode, **stages),
                lambda rate, scheme=scheme, mode=mode: tritia.runge_kutta(rate, scheme, mode=mode),
            )
            for method, stages, scheme in (
                (tritia.midpoint, {}, "midpoint"),
                (tritia.heun, {}, "heun"),
                (tritia.rk4, {}, "rk4"),
                (tritia.rkc, {"stages": 4, "order": 2}, tritia.ChebyshevScheme(4, 2)),
            )
            for mode in ("opaque", "transparent")
        ),
    ],
)
@pytest.mark.parametrize("schedule", [False, True], ids=["constant", "schedule"])
def test_an_alias_is_its_general_form(form, general, schedule):
    """The same program, letter for letter: what holds for the one holds for the other."""
    rate = optax.cosine_decay_schedule(0.1, 9) if schedule else 0.1
    params = TREE.params()

    def program(optimizer):
        extra = TREE_WITH_GRAD_FN.extra(params)
        return str(
            jax.make_jaxpr(lambda p, s: optimizer.update(p, s, p, **extra))(
                params, jax.eval_shape(optimizer.init, params)
            )
        )

    ours, theirs = (
        optax.with_extra_args_support(transform) for transform in (form(rate), general(rate))
    )
    assert program(ours) == program(theirs)


@every_case
def test_init_and_update_are_pure(case):
    """Two traces are the same computation, and neither touches what it was given."""
    optimizer, params = case.make(), case.problem.params()
    state = optimizer.init(params)
    chex.assert_trees_all_equal(state, optimizer.init(params))
    before = jax.tree.map(np.array, (params, state))
    first, second = (
        str(jax.make_jaxpr(lambda p, s: _step(case, optimizer, p, s))(params, state))
        for _ in range(2)
    )
    assert first == second
    chex.assert_trees_all_equal(before, jax.tree.map(np.array, (params, state)))


@every_case
def test_it_moves_the_params(case):
    params, (after, _) = case.problem.params(), _trained(case)
    leaves = zip(*map(jax.tree.leaves, (params, after)), strict=True)
    assert all(bool(jnp.any(x != y)) for x, y in leaves)
    chex.assert_tree_all_finite(after)


@every_case
def test_unknown_extra_arguments_are_ignored(case):
    optimizer, params = case.make(), case.problem.params()
    state = optimizer.init(params)
    without, given = (
        str(jax.make_jaxpr(lambda p, s, e=extra: _step(case, optimizer, p, s, **e))(params, state))
        for extra in ({}, {"surely_nobody_knows_this": object()})
    )
    assert without == given


@every_case
def test_state_is_a_named_tuple_with_documented_fields(case):
    state = case.make().init(case.problem.params())
    assert isinstance(state, tuple)
    fields = getattr(type(state), "_fields", None)
    assert fields is not None, f"{type(state)} is not a NamedTuple"
    assert fields or not jax.tree.leaves(state)
    for field in fields:
        assert re.search(rf"^\s+{field}: \S", type(state).__doc__, re.M), f"{field} is undocumented"
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))


@every_case
def test_state_keeps_its_types(case):
    optimizer, params = case.make(), case.problem.params()
    types = _types(optimizer.init(params))
    assert not any(weak for *_, weak in types)
    assert _types(_trained(case)[1]) == types


@every_case_slow_for_solvers
def test_state_is_the_carry_of_a_scan(case):
    optimizer, params = case.make(), case.problem.params()

    def body(carry, _):
        return _step(case, optimizer, *carry), None

    scanned, _ = jax.jit(lambda p: jax.lax.scan(body, (p, optimizer.init(p)), length=STEPS))(params)
    _close(scanned, _trained(case))


@every_case_slow_for_solvers
def test_update_is_a_branch_of_a_cond(case):
    optimizer, params = case.make(), case.problem.params()
    state = optimizer.init(params)

    @jax.jit
    def maybe(flag, params, state):
        return jax.lax.cond(
            flag, functools.partial(_step, case, optimizer), lambda p, s: (p, s), params, state
        )

    _close(maybe(True, params, state), _trained(case, steps=1))
    chex.assert_trees_all_equal(maybe(False, params, state), (params, state))


@every_case
def test_no_two_leaves_share_a_buffer(case):
    params = case.problem.params()
    for pair in ((params, case.make().init(params)), _trained(case)):
        leaves = [leaf for leaf in jax.tree.leaves(pair) if leaf.size]
        assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


@every_case_slow_for_solvers
def test_buffers_can_be_donated(case):
    optimizer, params = case.make(), case.problem.params()
    step = jax.jit(functools.partial(_step, case, optimizer), donate_argnums=(0, 1))
    params, state = jax.tree.map(jnp.array, params), optimizer.init(params)
    for _ in range(STEPS):
        params, state = step(params, state)  # a buffer that is not used would warn
    _close((params, state), _trained(case))


@every_case
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_updates_have_the_dtype_of_the_params(case, dtype):
    optimizer, params = case.make(), case.problem.params(dtype=jnp.dtype(dtype))
    state = optimizer.init(params)

    def update(params, state):
        return optimizer.update(
            case.problem.gradient(params), state, params, **case.problem.extra(params)
        )

    updates, after = jax.eval_shape(update, params, state)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert _types(after) == _types(state)


@every_case_slow_for_solvers
def test_float16_does_not_overflow(case):
    """It has the least room of all dtypes."""
    optimizer, params = case.make(), case.problem.params(dtype=jnp.float16)
    after, state = _run(case, optimizer, params, steps=1)
    chex.assert_tree_all_finite((after, state))


@every_case_slow_for_solvers
def test_float64_params(case, x64):
    optimizer, params = case.make(), case.problem.params(dtype=jnp.float64)
    types = _types(optimizer.init(params))
    after, state = _run(case, optimizer, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype("float64")}
    assert _types(state) == types
    _close(after, _trained(case)[0], 1e-3)


@_each([case for case in RUN if case.problem.any_tree and case.complex_params])
def test_complex_params(case):
    """A gradient that is real-linear acts on real and imaginary parts alike: rotate and compare."""
    optimizer, params = case.make(), case.problem.params(dtype=jnp.complex64)
    after, _ = _run(case, optimizer, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype("complex64")}
    turned, _ = _run(case, optimizer, jax.tree.map(lambda w: 1j * w, params))
    _close(turned, jax.tree.map(lambda w: 1j * w, after), 1e-4)


@_each([c for c in RUN if "accumulator_dtype" in inspect.signature(c.factory).parameters])
def test_memory_is_kept_in_accumulator_dtype(case):
    params = case.problem.params(dtype=jnp.bfloat16)
    optimizer = case.make(accumulator_dtype="float32")
    state = optimizer.init(params)
    shapes = {leaf.shape for leaf in jax.tree.leaves(params) if leaf.shape}
    memory = [leaf for leaf in jax.tree.leaves(state) if leaf.shape in shapes]
    assert {leaf.dtype for leaf in memory} <= {jnp.dtype("float32")}
    types = _types(state)
    params, state = _run(case, optimizer, params)
    assert _types(state) == types
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    # The memory holds more digits than bfloat16 has, where anything but past gradients is kept.
    if memory and case.wide_memory:
        memory = [leaf for leaf in jax.tree.leaves(state) if leaf.shape in shapes]
        assert any(bool(jnp.any(leaf != leaf.astype(jnp.bfloat16))) for leaf in memory)


@every_tuned_case
def test_numbers_may_be_arrays_or_schedules(case):
    params, (expected, _) = case.problem.params(), _trained(case)
    arrays = {name: jnp.asarray(value) for name, value in case.numbers.items()}
    _close(_run(case, case.make(**arrays), params)[0], expected)
    schedules = {
        name: optax.constant_schedule(value)
        for name, value in case.numbers.items()
        if name not in case.constants
    }
    _close(_run(case, case.make(**schedules), params)[0], expected)
    for name in case.constants:
        with pytest.raises(TypeError, match=name):
            case.make(**{name: optax.constant_schedule(case.numbers[name])})


@every_tuned_case
def test_injected_hyperparameters_do_not_recompile(case):
    params = case.problem.params()
    optimizer = optax.inject_hyperparams(case.factory, static_args=tuple(case.static))(
        **case.numbers, **case.static
    )
    state = optimizer.init(params)
    step = jax.jit(functools.partial(_step, case, optimizer))
    for _ in range(3):
        params, state = step(params, state)
    _close(params, _trained(case, steps=3)[0])
    compiled = step._cache_size()
    for name in case.numbers:
        state.hyperparams[name] = state.hyperparams[name] * 0.5
    halfway, memory = params, jax.tree.map(jnp.array, state.inner_state)
    params, state = step(params, state)
    assert step._cache_size() == compiled
    # What was changed is what is used.
    halved = {name: jnp.asarray(0.5 * v) for name, v in case.numbers.items()}
    _close(params, _with_numbers(case)(halved, halfway, memory)[0])


@_each([case for case in RUN if case.numbers], slow=_is_solver)
def test_vmap_over_hyperparameters(case):
    params = case.problem.params()
    name, value = next(iter(case.numbers.items()))

    @jax.jit
    @jax.vmap
    def train(number):
        optimizer = case.make(**{name: number})

        def body(carry, _):
            return _step(case, optimizer, *carry), None

        return jax.lax.scan(body, (params, optimizer.init(params)), length=STEPS)[0][0]

    together = train(jnp.array([0.5 * value, value]))
    _close(jax.tree.map(lambda leaf: leaf[1], together), _trained(case)[0])
    numbers = {other: jnp.asarray(number) for other, number in case.numbers.items()}
    numbers[name] = 0.5 * numbers[name]
    half, state = params, case.make(**numbers).init(params)
    for _ in range(STEPS):
        half, state = _with_numbers(case)(numbers, half, state)
    _close(jax.tree.map(lambda leaf: leaf[0], together), half)


@every_case_slow_for_solvers
def test_vmap_over_seeds(case):
    optimizer, step = _usual(case)
    each = [case.problem.params(seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    state = jax.vmap(optimizer.init)(stacked)
    together = jax.jit(jax.vmap(functools.partial(_step, case, optimizer)))
    states = [optimizer.init(params) for params in each]
    for _ in range(STEPS):
        stacked, state = together(stacked, state)
        each, states = zip(*map(step, each, states), strict=True)
    for i, expected in enumerate(each):
        _close(jax.tree.map(lambda leaf, i=i: leaf[i], stacked), expected)


@every_case_slow_for_many_operations
def test_without_jit(case):
    params = case.problem.params()
    with jax.disable_jit():
        optimizer = case.make()
        after, _ = _step(case, optimizer, params, optimizer.init(params))
    _close(after, _trained(case, steps=1)[0])


@every_case
def test_one_compilation(case):
    _trained(case)
    assert _TRACES[case, jax.config.jax_enable_x64] == 1


@every_case
def test_in_a_chain(case):
    """The same program as by itself."""

    def program(optimizer):
        params = case.problem.params()
        state = jax.eval_shape(optimizer.init, params)
        return str(jax.make_jaxpr(functools.partial(_step, case, optimizer))(params, state))

    assert program(optax.chain(case.make(), optax.identity())) == program(case.make())


@every_tree_case
def test_masked_leaves_are_passed_through(case):
    params = case.problem.params()
    mask = {"matrix": False, "nested": [True, {"scalar": True}]}
    optimizer = optax.masked(case.make(), mask)
    state = optimizer.init(params)

    @jax.jit
    def update(params, state):
        extra = case.problem.extra(params)
        return optimizer.update(case.problem.gradient(params), state, params, **extra)[0]

    if not case.masked:
        with pytest.raises(ValueError, match="masked"):
            update(params, state)
        return
    updates = update(params, state)
    after = optax.apply_updates(params, updates)
    _close(after["nested"], _trained(case, steps=1)[0]["nested"])
    chex.assert_trees_all_equal(updates["matrix"], case.problem.gradient(params)["matrix"])


@_each([case for case in RUN if case.problem.any_tree and case.masked])
def test_partition(case):
    params = case.problem.params()
    labels = {"matrix": "frozen", "nested": ["trained", {"scalar": "trained"}]}
    transforms = {"trained": case.make(), "frozen": optax.set_to_zero()}
    after, _ = _run(case, optax.partition(transforms, labels), params)
    chex.assert_trees_all_equal(after["matrix"], params["matrix"])
    _close(after["nested"], _trained(case)[0]["nested"])


@_each([case for case in RUN if case.multi_steps], slow=_is_solver)
def test_multi_steps_accumulates_gradients(case):
    optimizer = optax.MultiSteps(case.make(), every_k_schedule=2)
    twice, state = _run(case, optimizer, case.problem.params(), steps=2)
    _close(twice, _trained(case, steps=1)[0])
    assert int(state.gradient_step) == 1


@every_tree_case
def test_apply_if_finite_rejects_a_bad_gradient(case):
    params = case.problem.params()
    optimizer = optax.apply_if_finite(case.make(), max_consecutive_errors=3)

    @jax.jit
    def step(scale, params, state):
        grads = jax.tree.map(lambda g: g * scale, case.problem.gradient(params))
        updates, state = optimizer.update(grads, state, params, **case.problem.extra(params))
        return optax.apply_updates(params, updates), state

    after, state = step(jnp.nan, params, optimizer.init(params))
    chex.assert_trees_all_equal(after, params)
    for _ in range(STEPS):
        after, state = step(1.0, after, state)
    _close(after, _trained(case)[0])


@every_case
def test_map_params_sees_every_copy_of_the_params(case):
    """Those that it should see are found by what they look like, params with params' shapes.

    A copy that lacks leaves takes `is_leaf`, as Optax's own masked states do.
    """
    optimizer, params = case.make(), case.problem.params()
    _, state = _trained(case)
    copies = _copies(params, state)
    seen = []

    def map_params(**settings):
        return optax.tree.map_params(
            optimizer,
            lambda leaf, param: seen.append((leaf, param)) or leaf,
            state,
            params,
            **settings,
        )

    settings = {}
    if any(map(_is_masked, itertools.chain(*copies))):
        with pytest.raises(ValueError, match="MaskedNode"):
            map_params()
        seen.clear()
        settings = {"is_leaf": _is_masked}
    chex.assert_trees_all_equal(map_params(**settings), state)
    expected = [pair for copy in copies for pair in zip(copy, jax.tree.leaves(params), strict=True)]
    assert [tuple(map(id, pair)) for pair in seen] == [tuple(map(id, pair)) for pair in expected]


# Of explicit axes are also tests/test_meshes.py and test_on_an_explicit_mesh.
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(AxisType.Auto, id="auto"),
        pytest.param(AxisType.Explicit, id="explicit", marks=pytest.mark.slow),
    ],
)
@every_case_slow_for_solvers
def test_shardings_are_kept(case, kind):
    """Params on two devices stay there, and every copy of them in the state lies as they do."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))

    def split(leaf):
        even = [axis for axis, size in enumerate(leaf.shape) if size % 2 == 0]
        spec = [None] * leaf.ndim
        if even:
            spec[even[-1]] = "data"
        return NamedSharding(mesh, PartitionSpec(*spec))

    whole = case.problem.params()
    shardings = jax.tree.map(split, whole)
    params = jax.device_put(whole, shardings)
    optimizer = case.make()
    step = jax.jit(functools.partial(_step, case, optimizer))

    def check(tree):
        for copy in _copies(params, tree):
            for leaf, sharding in zip(copy, jax.tree.leaves(shardings), strict=True):
                assert _is_masked(leaf) or leaf.sharding.is_equivalent_to(sharding, leaf.ndim)

    with jax.set_mesh(mesh) if kind == AxisType.Explicit else contextlib.nullcontext():
        state = optimizer.init(params)
        check(state)
        check(jax.jit(optimizer.init)(params))
        for _ in range(2):
            params, state = step(params, state)
            check((params, state))
    _close(jax.device_get(params), jax.device_get(_trained(case, steps=2)[0]))


@every_tree_case
def test_empty_scalar_and_none_leaves(case):
    optimizer = case.make()
    for params in ({}, (), {"a": None}, {"a": {}, "b": None}):
        state = optimizer.init(params)
        updates, after = jax.eval_shape(
            lambda p, s: optimizer.update(p, s, p, **case.problem.extra(p)), params, state
        )
        assert jax.tree.leaves(updates) == []
        assert _types(after) == _types(state)
    params = {"a": jnp.asarray(2.0), "b": None, "c": jnp.ones((0, 3))}
    after, state = _run(case, optimizer, params)
    assert _types(state) == _types(optimizer.init(params))
    assert after["b"] is None
    assert after["a"] != 2.0


@every_factory
def test_wrong_arguments_name_the_argument(case):
    for arguments, error, message in case.bad:
        with pytest.raises(error, match=message):
            case.factory(**{**case.numbers, **case.static, **arguments})
    for name in case.numbers:
        for wrong, error in (("fast", TypeError), (float("nan"), ValueError), (None, TypeError)):
            with pytest.raises(error, match=name):
                case.make(**{name: wrong})
        with pytest.raises(ValueError, match=name):
            case.make(**{name: jnp.ones(3)})


@_each_quickly([c for c in CASES if any(isinstance(v, int) for v in c.static.values())])
def test_a_static_argument_that_is_injected_says_so(case):
    for name, value in case.static.items():
        if isinstance(value, int) and not isinstance(value, bool):
            with pytest.raises(TypeError, match=f"{name} is static.*static_args"):
                case.make() and case.factory(
                    **{**case.numbers, **case.static, name: jnp.asarray(value)}
                )


@_each([case for case in RUN if case.problem.missing])
def test_a_missing_extra_argument_says_what_to_pass(case):
    optimizer, params = case.make(), case.problem.params()
    extra = case.problem.extra(params)
    del extra[case.problem.missing]
    with pytest.raises((TypeError, ValueError), match=rf"update\(.*{case.problem.missing}="):
        jax.jit(lambda p, s: optimizer.update(case.problem.gradient(p), s, p, **extra))(
            params, optimizer.init(params)
        )


@every_case
def test_a_saved_state_goes_on_bit_for_bit(case, tmp_path):
    step = _usual(case)[1]
    halfway = _trained(case, steps=3)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", halfway)
        checkpointer.wait_until_finished()
        template = jax.tree.map(jnp.zeros_like, halfway)
        restored = checkpointer.restore(tmp_path / "saved", template)
    chex.assert_trees_all_equal(restored, halfway)
    assert _types(restored) == _types(halfway)
    # As arrays that no device was chosen for, as the others are: `step` is not compiled again.
    again = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), restored)
    chex.assert_trees_all_equal(step(*again), step(*halfway))


@every_factory
def test_the_docstring_is_complete(case):
    doc = inspect.getdoc(case.factory)
    for section in ("Args:", "Returns:", "Examples:", ">>>"):
        assert section in doc, f"{section} is missing"
    for name in inspect.signature(case.factory).parameters:
        assert re.search(rf"^\s+\*{{0,2}}{name}(, \w+)*: ", doc, re.M), f"{name} is undocumented"


NUMERIC = {
    case: [
        name
        for name, value in case.static.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    for case in CASES
}


@_each_quickly([case for case in CASES if len(NUMERIC[case]) > 1])
def test_all_static_arguments_are_named_at_once(case):
    """Under inject_hyperparams, where one at a time would take as many attempts."""
    others = [name for name in case.static if name not in NUMERIC[case]]
    injected = optax.inject_hyperparams(case.factory, static_args=others)
    with pytest.raises(TypeError, match="static") as failed:
        injected(**case.numbers, **case.static).init(case.problem.params())
    assert all(name in str(failed.value) for name in NUMERIC[case])
