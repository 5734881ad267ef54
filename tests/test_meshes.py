"""Params on two devices: explicit mesh axes, and `jax.shard_map` with its check of varying axes.

equinox 364, jax's explicit sharding: constants that are made anew must be laid out as the params
are where they start a loop or end a branch.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import tritia
from tests.contract import CASES, each, tree_gradient

TREES = [case for case in CASES if case.problem.any_tree]
OPTIMIZERS = {case: case.make() for case in TREES}
each_case = each(TREES)
SCHEDULE = optax.linear_schedule(0.1, 0.2, 5)

# Clipping divides by what is left of a difference of sums, whose order differs between devices.
ROUNDING = {"scale_by_spectral_clipping": 1e-4, "spectral_momentum": 1e-4}

VARIANTS = "difference36_schedule", "heun_schedule"  # of bdf3_schedule and rkc_schedule

each_transform = pytest.mark.parametrize(
    ("optimizer", "rtol"),
    [
        *(
            pytest.param(
                OPTIMIZERS[case],
                ROUNDING.get(case.name, 1e-5),
                id=case.name,
                marks=pytest.mark.slow if case.variant or case.alias else [],
            )
            for case in TREES
        ),
        *(
            pytest.param(
                optimizer,
                1e-5,
                id=name,
                marks=pytest.mark.slow if name in VARIANTS else [],
            )
            for name, optimizer in {
                "difference36_schedule": tritia.difference(SCHEDULE, 3, 6),
                "bdf3_schedule": tritia.bdf(SCHEDULE, 3),
                "adaptive_heun": tritia.adaptive_runge_kutta(0.1, "heun"),
                "rkc_schedule": tritia.rkc(SCHEDULE, 4),
                "heun_schedule": tritia.heun(SCHEDULE, mode="transparent"),
            }.items()
        ),
    ],
)


def _params():
    return {"w": jnp.arange(1.0, 9.0).reshape(4, 2), "b": jnp.linspace(-1, 1, 4)}


def _train(optimizer, params, gradient=tree_gradient):
    update = optax.with_extra_args_support(optimizer).update

    def step(carry, _):
        params, state = carry
        updates, state = update(gradient(params), state, params, grad_fn=gradient)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=3)[0][0]


@functools.cache
def _alone(optimizer):
    """A compiled `_train` on one device."""
    return jax.jit(functools.partial(_train, optimizer))


def _mesh(kind):
    return jax.make_mesh((2,), ("data",), axis_types=(kind,))


@each_transform
def test_explicit_axes(optimizer, rtol):
    mesh = _mesh(AxisType.Explicit)
    alone = _alone(optimizer)(_params())
    with jax.set_mesh(mesh):
        split = {
            "w": NamedSharding(mesh, PartitionSpec("data")),
            "b": NamedSharding(mesh, PartitionSpec()),
        }
        params = jax.device_put(_params(), split)
        after = jax.jit(functools.partial(_train, optimizer))(params)
    assert after["w"].sharding.spec == PartitionSpec("data", None)
    chex.assert_trees_all_close(jax.device_get(after), jax.device_get(alone), rtol=rtol)


@each_transform
def test_params_that_vary_over_an_axis_of_shard_map(optimizer, rtol):
    """Each device trains its own part, as if it were alone."""
    train = functools.partial(_train, optimizer)
    parts = PartitionSpec("data")
    split = jax.shard_map(train, mesh=_mesh(AxisType.Auto), in_specs=(parts,), out_specs=parts)
    together = jax.jit(split)(_params())
    halves = [jax.tree.map(lambda leaf, i=i: jnp.split(leaf, 2)[i], _params()) for i in range(2)]
    alone = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *map(_alone(optimizer), halves))
    chex.assert_trees_all_close(together, alone, rtol=rtol)


@each_case
def test_data_parallel_in_shard_map(case):
    """Gradients are averaged over the devices; the params are the same on both."""
    optimizer = OPTIMIZERS[case]

    def train(params, weights):
        def gradient(params):
            local = jax.tree.map(lambda leaf: leaf * weights[0], tree_gradient(params))
            return jax.tree.map(lambda leaf: jax.lax.pmean(leaf, "data"), local)

        return _train(optimizer, params, gradient)

    specs = (PartitionSpec(), PartitionSpec("data"))
    split = jax.shard_map(
        train, mesh=_mesh(AxisType.Auto), in_specs=specs, out_specs=PartitionSpec()
    )
    after = jax.jit(split)(_params(), jnp.array([0.5, 1.5]))
    chex.assert_trees_all_close(after, _alone(optimizer)(_params()), rtol=1e-5)


@each(CASES)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_scalars_of_a_new_state_lie_where_the_params_lie(case, kind):
    """Or a state that is saved before the first update comes back on another device than they."""
    everywhere = NamedSharding(_mesh(kind), PartitionSpec())
    params = jax.device_put(case.problem.params(), everywhere)
    state = case.make().init(params)
    scalars = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim == 0]
    assert scalars or not jax.tree.leaves(state)
    assert all(leaf.sharding.device_set == everywhere.device_set for leaf in scalars)
