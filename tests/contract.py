"""The transforms of the library, as the contract battery in test_contract.py sees them.

A new transform is one more line in CASES.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import tritia


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something to train: params, a gradient, and what else `update` is given."""

    params: Callable[..., Any]  # seed, dtype -> params
    gradient: Callable[[Any], Any]  # params -> gradients (or whatever the transform takes)
    extra: Callable[[Any], dict[str, Any]] = lambda params: {}  # extra arguments of update
    any_tree: bool = True  # takes params of any structure, not only those of this problem
    missing: str | None = None  # an extra argument without which update must raise, naming it


def _tree_params(seed: int = 0, dtype: Any = jnp.float32) -> Any:
    keys = jax.random.split(jax.random.key(seed), 3)

    def draw(key: Any, shape: Any) -> jax.Array:
        values = jax.random.normal(key, shape, jnp.float32)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            values = values + 1j * jax.random.normal(jax.random.fold_in(key, 1), shape, jnp.float32)
        return values.astype(dtype)

    return {
        "matrix": draw(keys[0], (3, 2)),
        "nested": [draw(keys[1], (4,)), {"scalar": draw(keys[2], ())}],
    }


def tree_gradient(params: Any) -> Any:
    """The gradient of sum |w|^2 / 2 + |w|^4 / 20, written out so that it takes complex params."""
    return jax.tree.map(lambda w: w * (1 + jnp.abs(w) ** 2 / 5).astype(w.dtype), params)


TREE = Problem(params=_tree_params, gradient=tree_gradient)
TREE_WITH_GRAD_FN = dataclasses.replace(
    TREE, extra=lambda params: {"grad_fn": tree_gradient}, missing="grad_fn"
)


ROWS, INPUTS, CLASSES = 12, 4, 3


def _layers(seed: int = 0, dtype: Any = jnp.float32) -> Any:
    keys = jax.random.split(jax.random.key(seed), 2)
    return {
        "layers": [
            {
                "kernel": jax.random.normal(key, shape, jnp.float32).astype(dtype),
                "bias": jnp.zeros(shape[1], dtype),
            }
            for key, shape in zip(keys, ((INPUTS, 6), (6, CLASSES)), strict=True)
        ]
    }


def _examples(params: Any) -> dict[str, Any]:
    rows = jax.random.normal(jax.random.key(7), (ROWS, INPUTS), jnp.float32)
    return {"inputs": rows, "targets": jnp.arange(ROWS) % CLASSES}


# What inject_hyperparams would take for numbers to tune.
TIAM_STATIC = {
    "activation_steps": 5,
    "safeguard": True,
    "restart": None,
    "scale_mu": True,
    "standardize": True,
}
LAYERS = Problem(
    params=_layers,
    gradient=lambda params: jax.tree.map(jnp.zeros_like, params),
    extra=_examples,
    any_tree=False,
    missing="inputs",
)


def _layer_inputs(params: Any) -> dict[str, Any]:
    first = _examples(params)["inputs"]
    kernel = params["layers"][0]["kernel"]
    second = jax.nn.relu(first @ kernel.astype(jnp.float32))
    return {"layer_inputs": {"layers/0/kernel": first, "layers/1/kernel": second}}


LAYER_INPUTS = Problem(
    params=_layers,
    gradient=lambda params: jax.tree.map(lambda w: -0.1 * (w + 1), params),
    extra=_layer_inputs,
    any_tree=False,
    missing="layer_inputs",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One transform and what is to be known to put it through the battery."""

    name: str
    factory: Callable[..., optax.GradientTransformation]
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)  # tunable, with a value
    static: dict[str, Any] = dataclasses.field(default_factory=dict)
    problem: Problem = TREE
    constants: tuple[str, ...] = ()  # numbers that may not be schedules
    bad: tuple[tuple[dict[str, Any], type[Exception], str], ...] = ()  # arguments, error, message
    complex_params: bool = True
    masked: bool = True  # works inside optax.masked and optax.partition; if not, it must say so
    multi_steps: bool = True  # works inside optax.MultiSteps
    wide_memory: bool = True  # its memory has digits of its own, not only copies of gradients
    alias: bool = False  # another case runs the same code: only its arguments are tested
    variant: bool = False  # another case runs most of its code: its tests are slow ones

    def make(self, **numbers: Any) -> optax.GradientTransformationExtraArgs:
        """Builds the transform, with some numbers replaced."""
        return optax.with_extra_args_support(
            self.factory(**{**self.numbers, **numbers}, **self.static)
        )


BAD_RATE = ({"learning_rate": -1.0}, ValueError, "learning_rate")
BAD_DTYPE = ({"accumulator_dtype": "int32"}, TypeError, "accumulator_dtype")
BAD_SCHEME = (
    ({"scheme": "ab6"}, ValueError, "scheme is 'ab6'.*Did you mean"),
    (
        {"scheme": 2},
        TypeError,
        "scheme must be",
    ),
)
RATE = {"learning_rate": 0.1}

BAD_TABLEAU = ({"scheme": "rk5"}, ValueError, "scheme is 'rk5'.*Did you mean")
BAD_MODE = ({"mode": "clear"}, ValueError, "mode")
BAD_PRECONDITIONER = ({"preconditioner": 0.1}, TypeError, "preconditioner")
TOLERANCES = {"rtol": 1e-3, "atol": 1e-6, "max_learning_rate": 0.5}

CASES = [
    Case(
        "scale_by_linear_multistep",
        tritia.scale_by_linear_multistep,
        static={"scheme": tritia.difference_scheme(2, 3)},
        bad=(*BAD_SCHEME, BAD_DTYPE),
    ),
    Case(
        "linear_multistep",
        tritia.linear_multistep,
        RATE,
        {"scheme": tritia.heavy_ball_scheme("9/10")},
        bad=(BAD_RATE, *BAD_SCHEME, BAD_DTYPE),
        variant=True,  # displacements as in the case before, a rate as in adams_bashforth4
    ),
    *(
        Case(
            f"adams_bashforth{order}",
            tritia.adams_bashforth,
            RATE,
            {"order": order},
            wide_memory=False,
            variant=order == 1,
        )
        for order in (1, 4)
    ),
    Case(
        "adams_bashforth2",
        tritia.adams_bashforth,
        RATE,
        {"order": 2},
        alias=True,
        bad=(
            BAD_RATE,
            BAD_DTYPE,
            ({"order": 9}, ValueError, "order"),
            ({"order": 1.5}, TypeError, "order"),
        ),
    ),
    Case(
        "bdf2",
        tritia.bdf,
        RATE,
        {"order": 2},
        alias=True,
        bad=(BAD_RATE, ({"order": 0}, ValueError, "order")),
    ),
    Case(
        "difference23",
        tritia.difference,
        RATE,
        {"order": 2, "steps": 3},
        alias=True,
        bad=(BAD_RATE, ({"steps": 2}, ValueError, "steps"), ({"order": None}, TypeError, "order")),
    ),
    # Displacements as in scale_by_linear_multistep, step sizes as in adams_bashforth4.
    Case("difference36", tritia.difference, RATE, {"order": 3, "steps": 6}, variant=True),
    *(
        Case(
            f"{name}_opaque",
            factory,
            RATE,
            {"mode": "opaque", **static},
            problem=TREE_WITH_GRAD_FN,
            bad=bad,
            masked=False,
            alias=name == "rk4",
            variant=name == "rkc",  # a rule as in dormand_prince, stages as in rkc_transparent
        )
        for name, factory, static, bad in (
            ("rk4", tritia.rk4, {}, (BAD_RATE, BAD_MODE, BAD_PRECONDITIONER)),
            (
                "dormand_prince",
                tritia.runge_kutta,
                {"scheme": "dormand_prince"},
                (BAD_RATE, BAD_TABLEAU, BAD_MODE, BAD_PRECONDITIONER, BAD_DTYPE),
            ),
            (
                "rkc",
                tritia.rkc,
                {"stages": 5, "order": 1},
                (({"stages": 1}, ValueError, "stages"), ({"order": 3}, ValueError, "order")),
            ),
        )
    ),
    *(
        Case(
            f"{name}_transparent",
            factory,
            RATE,
            {"mode": "transparent", **static},
            wide_memory=False,  # between steps it keeps nothing
            alias=name == "heun",  # the case with a preconditioner has its memory, and more
            variant=name == "rk4",  # rk38 has a slot more
        )
        for name, factory, static in (
            # One for each way to use the memory between stages: none, a slope, a slope and then a
            # sum, two slots, and a three-term recurrence.
            ("midpoint", tritia.midpoint, {}),
            ("heun", tritia.heun, {}),
            ("rk4", tritia.rk4, {}),
            ("rk38", tritia.runge_kutta, {"scheme": "rk38"}),
            ("rkc", tritia.rkc, {"stages": 3, "order": 2}),
        )
    ),
    Case(
        "heun_with_a_stateful_preconditioner",
        tritia.heun,
        RATE,
        {"mode": "transparent", "preconditioner": optax.trace(0.9, accumulator_dtype="float32")},
        complex_params=False,
    ),
    Case(
        "adaptive_runge_kutta",
        tritia.adaptive_runge_kutta,
        TOLERANCES,
        {"scheme": "bogacki_shampine", "max_rejections": 10},
        problem=TREE_WITH_GRAD_FN,
        bad=(
            ({"scheme": "rk4"}, ValueError, "scheme"),
            ({"rtol": -1.0}, ValueError, "rtol"),
            ({"atol": 0.0}, ValueError, "atol"),
            ({"initial_learning_rate": 0.0}, ValueError, "initial_learning_rate"),
            ({"max_rejections": 0}, ValueError, "max_rejections"),
            BAD_PRECONDITIONER,
        ),
        masked=False,
    ),
    *(
        Case(
            f"triple_inertia{name}",
            tritia.triple_inertia,
            {"predict": 0.6, "evaluate": 0.4, "correct": 0.2},
            {"inner": optax.sgd(0.1), **static},
            bad=(
                ({"inner": 0.1}, TypeError, "inner"),
                ({"restart": "always"}, ValueError, "restart"),
                ({"projection": 1.0}, TypeError, "projection"),
                BAD_DTYPE,
            ),
            variant=name == "",  # what the other case does, and less
        )
        for name, static in (
            ("", {}),
            ("_restart_projection", {"restart": "gradient", "projection": lambda w: w}),
        )
    ),
    Case(
        "triple_momentum",
        tritia.triple_momentum,
        {"smoothness": 5.0, "strong_convexity": 0.5},
        bad=(
            ({"smoothness": -1.0}, ValueError, "smoothness"),
            ({"strong_convexity": 9.0}, ValueError, "strong_convexity"),
            BAD_DTYPE,
        ),
    ),
    *(
        Case(
            name,
            factory,
            numbers,
            {"num_examples": ROWS, **TIAM_STATIC, **static},
            problem=LAYERS,
            bad=(
                ({"num_examples": 0}, ValueError, "num_examples"),
                ({"coupling": "soft"}, ValueError, "coupling"),
                ({"block_order": "sideways"}, ValueError, "block_order"),
                ({"loss": "hinge"}, ValueError, "loss"),
                ({"rho": 0.0}, ValueError, "rho"),
                ({"mu": -1.0}, ValueError, "mu"),
            ),
            complex_params=False,
            masked=False,
            variant=name != "tiam",
        )
        for name, factory, numbers, static in (
            (
                "tiam",
                tritia.tiam,
                {"rho": 3e-3, "gamma": 3e-3, "mu": 12.0, "penalty_growth": 2.0, "tau": 1e-3},
                {},
            ),
            (
                "_tiam_restart",
                tritia.tiam,
                {"rho": 3e-3, "gamma": 3e-3, "mu": 12.0},
                {"restart": "guarded"},
            ),
        )
    ),
    *(
        Case(
            f"stochastic_tiam{name}",
            tritia.stochastic_tiam,
            {"learning_rate": rate, "damping": 0.2, "decay": 0.9, "refresh_period": 1.0},
            # The first Gram matrix by leading eigenvectors, the second as a diagonal.
            {"max_gram": 5, "rank": 2, "step": step},
            problem=LAYERS,
            bad=(
                BAD_RATE,
                ({"target_step": "newton"}, ValueError, "target_step"),
                ({"loss": "hinge"}, ValueError, "loss"),
                ({"activation": "step"}, ValueError, "activation"),
                ({"rho": 0.0}, ValueError, "rho"),
                ({"damping": -1.0}, ValueError, "damping"),
                ({"decay": 1.0}, ValueError, "decay"),
                ({"factor_period": 0}, ValueError, "factor_period"),
                ({"max_gram": -1}, ValueError, "max_gram"),
                ({"input_gram": jnp.ones(3)}, ValueError, "input_gram"),
                ({"step": 0.9}, TypeError, "step"),
            ),
            complex_params=False,
            masked=False,
            variant=name != "",
        )
        for name, rate, step in (
            ("", 0.03, tritia.SpectralStep(rank=1)),
            ("_inertia", 0.3, tritia.Inertia(0.5, 0.4, 0.1)),
        )
    ),
    Case(
        "scale_by_spectral_clipping",
        tritia.scale_by_spectral_clipping,
        {"refresh_period": 2.0},
        {"rank": 1},
        bad=(
            ({"rank": -1}, ValueError, "rank"),
            ({"rank": 2.5}, TypeError, "rank"),
            ({"refresh_period": 0.5}, ValueError, "refresh_period"),
        ),
    ),
    Case(
        "scale_by_newton_schulz",
        tritia.scale_by_newton_schulz,
        static={"steps": 2},
        bad=(
            ({"steps": 0}, ValueError, "steps"),
            ({"steps": 2.5}, TypeError, "steps"),
            ({"smallest": 1.0}, ValueError, "smallest"),
            ({"axes": 3}, TypeError, "axes"),
        ),
        wide_memory=False,  # it has none
    ),
    Case(
        "polyak_average",
        tritia.polyak_average,
        {"decay": 0.9},
        bad=(({"decay": 1.5}, ValueError, "decay"),),
    ),
    Case(
        "partition_matrices",
        tritia.partition_matrices,
        static={"matrices": optax.trace(0.9), "others": optax.scale_by_schedule(lambda n: 0.1)},
        bad=(
            ({"matrices": 0.1}, TypeError, "matrices"),
            ({"others": None}, TypeError, "others"),
        ),
        wide_memory=False,  # that of its parts
    ),
    *(
        Case(
            f"spectral_momentum{name}",
            tritia.spectral_momentum,
            {"learning_rate": 0.1, "weight_decay": 0.3, "momentum": 0.9},
            {"input_gram": False, **static},
            constants=("weight_decay", "momentum"),
            bad=(
                BAD_RATE,
                ({"weight_decay": -1.0}, ValueError, "weight_decay"),
                ({"momentum": 1.0}, ValueError, "momentum"),
                ({"rank": -1}, ValueError, "rank"),
                ({"newton_schulz_steps": 2.5}, TypeError, "newton_schulz_steps"),
                ({"others": 0.1}, TypeError, "others"),
                ({"input_gram": 0.1}, TypeError, "input_gram"),
                ({"axes": 3}, TypeError, "axes"),
                ({"is_matrix": "kernel"}, TypeError, "is_matrix"),
            ),
            variant=name != "",
        )
        for name, static in (
            ("", {"rank": 1, "newton_schulz_steps": 0, "nesterov": False}),
            ("_newton_schulz", {"rank": 0, "newton_schulz_steps": 2, "nesterov": True}),
        )
    ),
    Case(
        "scale_by_input_gram",
        tritia.scale_by_input_gram,
        {"damping": 0.2, "decay": 0.9, "refresh_period": 1.0},
        {"max_gram": 5, "rank": None},
        problem=LAYER_INPUTS,
        bad=(
            ({"damping": -1.0}, ValueError, "damping"),
            ({"refresh_period": 0.5}, ValueError, "refresh_period"),
            ({"max_gram": 10.5}, TypeError, "max_gram"),
            ({"axes": 3}, TypeError, "axes"),
        ),
        complex_params=False,
    ),
]

# Those that are run: an alias is the same program as another case.
RUN = [case for case in CASES if not case.alias]


def each(cases: list[Case], slow: Callable[[Case], bool] = lambda case: False) -> Any:
    """Gives a test every one of these cases as its argument `case`."""

    def marks(case: Case) -> Any:
        return pytest.mark.slow if case.variant or case.alias or slow(case) else []

    return pytest.mark.parametrize(
        "case", [pytest.param(case, marks=marks(case), id=case.name) for case in cases]
    )


def step(case: Case, optimizer: Any, params: Any, state: Any, **extra: Any) -> tuple[Any, Any]:
    """One step of training on the case's problem."""
    updates, state = optimizer.update(
        case.problem.gradient(params), state, params, **case.problem.extra(params), **extra
    )
    return optax.apply_updates(params, updates), state


def types(tree: Any) -> list[tuple[str, Any, Any, bool]]:
    """Path, shape, dtype and weak type of every leaf."""

    def described(leaf: Any) -> Any:
        return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)

    return [
        (jax.tree_util.keystr(path), leaf.shape, leaf.dtype, bool(leaf.weak_type))
        for path, leaf in jax.tree_util.tree_leaves_with_path(jax.tree.map(described, tree))
    ]
