"""The registry: every optimizer that the comparison knows, and how it is built and tuned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import optax

import tritia
from tritia._compare.datasets import Task

Number = float | jax.Array
Setting = Mapping[str, Number]
"""One point of the sweep: "learning_rate" and the coefficients, by name."""


class LearningTask(NamedTuple):
    """What an optimizer may need to know when it is built.

    Attributes:
      rows: the number of training rows.
      task: "classification" or "regression".
      outputs: the width of the network's output.
    """

    rows: int
    task: Task
    outputs: int


def _params_themselves(state: Any, params: Any) -> Any:
    return params


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How to build an optimizer, how to call it and how to tune it.

    Attributes:
      call: what it is called in code, for the report.
      build: from a setting (numbers that may be traced) and the task to a transform.
      learning_rate: the middle of the learning rates tried, or None for a method without one.
      coefficients: further numbers to tune: values by name, the default first. They are tuned
        after the learning rate, all combinations of them.
      gradients_per_step: gradient evaluations of a minibatch that one step takes.
      extra: what `update` is passed besides gradients, state and params: nothing; `grad_fn`, the
        gradient on the same minibatch as a function of params; the loss as Optax's line searches
        take it, `value`, `grad` and `value_fn`; everything so far; or `inputs` and `targets`, with
        None for the gradients, which nobody computes.
      full_batch: whether every step sees all training rows.
      evaluation_params: from state and params to the params that are evaluated.
      diagnostics: from state to named scalars, written to metrics.csv after each epoch.
      source: SHA-256 of the file that defines it, where it may change between two runs.
    """

    call: str
    build: Callable[[Setting, LearningTask], optax.GradientTransformation]
    learning_rate: float | None
    coefficients: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    gradients_per_step: int = 1
    extra: Literal["nothing", "grad_fn", "loss", "everything", "examples"] = "nothing"
    full_batch: bool = False
    evaluation_params: Callable[[Any, Any], Any] = _params_themselves
    diagnostics: Callable[[Any], Mapping[str, jax.Array]] | None = None
    source: str | None = None

    @property
    def ours(self) -> bool:
        """Whether it is one of tritia's own."""
        return self.call.startswith("tritia.")


SWEEP_SIZE = 7


def learning_rates(centre: float, extension: int = 0) -> tuple[float, ...]:
    """The learning rates of one sweep: `SWEEP_SIZE` of them, 1, 3, 10, 30, ... times apart.

    Args:
      centre: the middle one, for `extension` 0.
      extension: 0 for the sweep around the centre; n > 0 for the n-th one above it, n < 0 for the
        n-th one below it, without overlap.

    Returns:
      The learning rates, rising.
    """
    middle = SWEEP_SIZE // 2
    exponents = range(extension * SWEEP_SIZE - middle, extension * SWEEP_SIZE + middle + 1)
    factors = (10.0 ** (exponent // 2) * (3.0 if exponent % 2 else 1.0) for exponent in exponents)
    return tuple(float(f"{centre * factor:.3g}") for factor in factors)


def _alias(
    call: str,
    factory: Callable[..., optax.GradientTransformation],
    learning_rate: float,
    **arguments: Any,
) -> Optimizer:
    """An optimizer that needs a learning rate alone, besides fixed `arguments`."""

    def build(setting: Setting, task: LearningTask) -> optax.GradientTransformation:
        return factory(setting["learning_rate"], **arguments)

    written = "".join(f", {name}={value!r}" for name, value in arguments.items())
    return Optimizer(f"{call}(learning_rate{written})", build, learning_rate)


# The middle of each sweep. Methods whose step does not scale with the gradient move every weight by
# about the learning rate, hence the smaller numbers; those that scale a learning rate of their own
# start from 1.
_OPTAX_ALIASES: dict[str, float] = {
    "sgd": 0.1,
    "optimistic_gradient_descent": 0.1,
    "sign_sgd": 1e-3,
    "signum": 1e-3,
    "lion": 1e-3,
    "rprop": 1e-3,
    "adam": 3e-3,
    "adamw": 3e-3,
    "adamax": 3e-3,
    "adamaxw": 3e-3,
    "amsgrad": 3e-3,
    "nadam": 3e-3,
    "nadamw": 3e-3,
    "radam": 1e-2,
    "adabelief": 3e-3,
    "adan": 1e-2,
    "yogi": 1e-2,
    "rmsprop": 1e-3,
    "optimistic_adam_v2": 3e-3,
    "lamb": 1e-2,
    "lars": 1.0,
    "fromage": 1e-2,
    "novograd": 1e-2,
    "adagrad": 3e-2,
    "sm3": 3e-2,
    "adafactor": 1e-2,
    "adadelta": 1.0,
}
_OPTAX_CONTRIB_ALIASES: dict[str, float] = {
    "acprop": 3e-3,
    "ademamix": 3e-3,
    "simplified_ademamix": 1e-4,
    "adopt": 3e-3,
    "madgrad": 1e-2,
    "muon": 1e-2,
    "galore": 3e-3,
    "dog": 1.0,
    "dowg": 1.0,
    "dadapt_adamw": 1.0,
    "prodigy": 1.0,
}

LEFT_OUT: dict[str, str] = {
    "optimistic_adam": "deprecated in favour of optimistic_adam_v2",
    "momo": "needs the value of the loss",
    "momo_adam": "needs the value of the loss",
    "sophia": "needs the loss function",
    "dpsgd": "needs gradients per example, a clipping norm and a noise multiplier",
    "schedule_free": "needs another optimizer; schedule_free_sgd and schedule_free_adamw are here",
}
"""Optax optimizers that are not in the registry because a learning rate is not all they need."""


def _optax_optimizers() -> dict[str, Optimizer]:
    optimizers = {
        "sgd": _alias("optax.sgd", optax.sgd, 0.1),
        "momentum": _alias("optax.sgd", optax.sgd, 3e-2, momentum=0.9),
        "nesterov": _alias("optax.sgd", optax.sgd, 3e-2, momentum=0.9, nesterov=True),
        "noisy_sgd": _alias("optax.noisy_sgd", optax.noisy_sgd, 0.1, key=0),
    }
    # Optax gains and loses aliases from one version to the next: those it has are offered.
    for module, prefix, aliases in (
        (optax, "optax", _OPTAX_ALIASES),
        (optax.contrib, "optax.contrib", _OPTAX_CONTRIB_ALIASES),
    ):
        for name, learning_rate in aliases.items():
            factory = getattr(module, name, None)
            if factory is not None:
                optimizers[name] = _alias(f"{prefix}.{name}", factory, learning_rate)
    # Its line search compares losses, so all steps must see the same rows.
    optimizers["lbfgs"] = Optimizer(
        "optax.lbfgs()", lambda *_: optax.lbfgs(), None, extra="loss", full_batch=True
    )
    cocob = getattr(optax.contrib, "cocob", None)
    if cocob is not None:  # It bets: no learning rate changes what it does.
        optimizers["cocob"] = Optimizer("optax.contrib.cocob()", lambda *_: cocob(), None)
    for name, learning_rate in (("schedule_free_sgd", 0.3), ("schedule_free_adamw", 1e-2)):
        factory = getattr(optax.contrib, name)
        optimizers[name] = dataclasses.replace(
            _alias(f"optax.contrib.{name}", factory, learning_rate),
            evaluation_params=optax.contrib.schedule_free_eval_params,
        )
    return optimizers


def _multistep_optimizers() -> dict[str, Optimizer]:
    """One gradient per step, memory of earlier steps."""
    return {
        "adams_bashforth2": _alias("tritia.adams_bashforth", tritia.adams_bashforth, 0.1, order=2),
        "adams_bashforth3": _alias("tritia.adams_bashforth", tritia.adams_bashforth, 0.1, order=3),
        "bdf2": _alias("tritia.bdf", tritia.bdf, 0.1, order=2),
        "bdf3": _alias("tritia.bdf", tritia.bdf, 0.1, order=3),
        "difference3": _alias("tritia.difference", tritia.difference, 0.1, order=2, steps=3),
        "difference4": _alias("tritia.difference", tritia.difference, 0.1, order=2, steps=4),
        "difference5": _alias("tritia.difference", tritia.difference, 0.1, order=2, steps=5),
    }


def _runge_kutta_optimizers() -> dict[str, Optimizer]:
    """Several gradients per step, asked for through `grad_fn`."""

    def several(alias: Optimizer, stages: int) -> Optimizer:
        return dataclasses.replace(alias, gradients_per_step=stages, extra="grad_fn")

    optimizers = {
        name: several(_alias(f"tritia.{name}", factory, 0.1), stages)
        for name, factory, stages in (
            ("midpoint", tritia.midpoint, 2),
            ("heun", tritia.heun, 2),
            ("rk4", tritia.rk4, 4),
        )
    }
    for name in ("ralston", "ssp_rk3", "kutta3", "rk38"):
        alias = _alias("tritia.runge_kutta", tritia.runge_kutta, 0.1, scheme=name)
        optimizers[name] = several(alias, tritia.TABLEAUS[name].gradients_per_step)
    # A step of five stages is stable up to 24 (order 1) and 8 (order 2) times SGD's.
    for order, learning_rate in ((1, 1.0), (2, 0.3)):
        alias = _alias("tritia.rkc", tritia.rkc, learning_rate, stages=5, order=order)
        optimizers[f"rkc{order}"] = several(alias, 5)
    return optimizers


def _inertial_optimizers() -> dict[str, Optimizer]:
    """Triple inertia around SGD and Adam; its three coefficients are tuned after the learning rate.

    The loop's params are where gradients are taken; the iterate is what is evaluated.
    """

    def around(
        call: str,
        inner: Callable[..., Any],
        learning_rate: float,
        predict: tuple[float, ...],
        evaluate: tuple[float, ...],
        correct: tuple[float, ...],
    ) -> Optimizer:
        def build(setting: Setting, task: LearningTask) -> optax.GradientTransformation:
            return tritia.triple_inertia(
                inner(setting["learning_rate"]),
                predict=setting["predict"],
                evaluate=setting["evaluate"],
                correct=setting["correct"],
            )

        return Optimizer(
            f"tritia.triple_inertia({call}(learning_rate), predict=, evaluate=, correct=)",
            build,
            learning_rate,
            coefficients={"predict": predict, "evaluate": evaluate, "correct": correct},
            evaluation_params=tritia.eval_params,
        )

    # Every combination is tried, so all must have predict * (1 + correct) < 1, or they diverge.
    # Around SGD the learning rate is tuned for Nesterov's coefficients; Adam has a momentum of its
    # own, so there it is tuned without inertia.
    return {
        "triple_inertia_sgd": around(
            "optax.sgd", optax.sgd, 3e-2, (0.9, 0.8, 0.7), (0.9, 0.5, 0.0), (0.0, 0.1)
        ),
        "triple_inertia_adam": around(
            "optax.adam", optax.adam, 3e-3, (0.0, 0.3, 0.6), (0.0, 0.3, 0.6), (0.0, 0.3)
        ),
    }


_MU = 0.1  # the default of `tritia.tiam`


def alternating(**settings: Any) -> Optimizer:
    """Layer-wise alternating minimisation on all rows at once: no learning rate to tune.

    The weight decay is tuned, with as many values as others have learning rates.

    Args:
      **settings: arguments of `tritia.tiam` besides the number of rows and the loss; a `mu` among
        them is not tuned.

    Returns:
      The optimizer; its diagnostics are written to the metrics.
    """

    def build(setting: Setting, task: LearningTask) -> optax.GradientTransformation:
        loss = "softmax_cross_entropy" if task.task == "classification" else "squared_error"
        return tritia.tiam(task.rows, loss=loss, **{**settings, **setting})

    def diagnostics(state: Any) -> Mapping[str, jax.Array]:
        report = tritia.tiam_diagnostics(state)
        return {
            "objective": report.objective,
            "coupling_residual": report.coupling_residual.max(initial=0.0),
            "rejected_kernels": report.rejected.kernels.mean(),
            "step_norm": report.step_norms.max(),
        }

    mus = learning_rates(_MU)
    written = "".join(f", {name}={value!r}" for name, value in settings.items())
    return Optimizer(
        f"tritia.tiam(num_examples{written})",
        build,
        None,
        coefficients={} if "mu" in settings else {"mu": (_MU, *sorted({*mus} - {_MU}))},
        extra="examples",
        full_batch=True,
        diagnostics=diagnostics,
    )


def stochastic_alternating(learning_rate: float, **settings: Any) -> Optimizer:
    """Layer-wise alternating minimisation on minibatches.

    Args:
      learning_rate: the middle of those tried.
      **settings: arguments of `tritia.stochastic_tiam` besides the learning rate and the loss.

    Returns:
      The optimizer; the average or the iterate of its step is what is evaluated.
    """

    def build(setting: Setting, task: LearningTask) -> optax.GradientTransformation:
        loss = "softmax_cross_entropy" if task.task == "classification" else "squared_error"
        return tritia.stochastic_tiam(loss=loss, **{**settings, **setting})

    written = "".join(f", {name}={value!r}" for name, value in settings.items())
    return Optimizer(
        f"tritia.stochastic_tiam(learning_rate{written})",
        build,
        learning_rate,
        extra="examples",
        evaluation_params=tritia.eval_params,
    )


OPTIMIZERS: dict[str, Optimizer] = {
    **_optax_optimizers(),
    **_multistep_optimizers(),
    **_runge_kutta_optimizers(),
    **_inertial_optimizers(),
    "tiam": alternating(),
    "stochastic_tiam": stochastic_alternating(1e-2),
    "stochastic_tiam_inertia": stochastic_alternating(1.0, step=tritia.Inertia(0.9)),
    # Its average of the iterates is what is evaluated.
    "spectral_momentum": dataclasses.replace(
        _alias("tritia.spectral_momentum", tritia.spectral_momentum, 1e-2),
        evaluation_params=tritia.eval_params,
    ),
}
"""Every optimizer by its name on the command line."""

USUAL = (
    "sgd",
    "momentum",
    "adam",
    "adams_bashforth2",
    "bdf2",
    "difference3",
    "difference4",
    "tiam",
    "spectral_momentum",
)
"""What is compared where nothing is said."""
