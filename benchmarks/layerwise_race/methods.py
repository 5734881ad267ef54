"""The optimizers of the race, each with the settings that it may choose from.

Every one has 8 settings, a grid of learning rates with weight decay or damping. Learning rates fall
to 0 by half a cosine; decoupled weight decay is that of kernels alone, for every method.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

import tritia
import tritia.layerwise
from benchmarks.layerwise_race.tasks import Objective, cross_entropy

Params = Any
Batch = tuple[jax.Array, jax.Array]
Setting = Mapping[str, Any]
Schedule = Callable[[Any], Any]


class Problem(NamedTuple):
    """What an optimizer may know of the task.

    Attributes:
      forward: (params, inputs) -> outputs.
      objective: the loss and the score.
    """

    forward: Callable[[Params, jax.Array], jax.Array]
    objective: Objective

    def loss(self, params: Params, batch: Batch) -> jax.Array:
        """The mean loss of a batch."""
        inputs, targets = batch
        return self.objective.loss(self.forward(params, inputs), targets)


class Stepper(NamedTuple):
    """A method at one setting; both functions are traced.

    Attributes:
      init: (params, batch) -> state.
      step: (params, state, batch) -> (params, state, loss).
    """

    init: Callable[[Params, Batch], Any]
    step: Callable[[Params, Any, Batch], tuple[Params, Any, jax.Array]]


class Method(NamedTuple):
    """An optimizer of the race.

    Attributes:
      grid: the settings.
      build: (problem, setting, learning rate by step) -> the stepper.
      module: that it needs and that may be missing.
    """

    grid: tuple[Setting, ...]
    build: Callable[[Problem, Setting, Schedule], Stepper]
    module: str | None = None

    @property
    def missing(self) -> bool:
        """Whether its package is not installed."""
        return self.module is not None and importlib.util.find_spec(self.module) is None


def grid(**values: tuple[float, ...]) -> tuple[Setting, ...]:
    """All combinations."""
    return tuple(
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    )


def kernels(params: Params) -> Params:
    """True for kernels; False for biases, norms' scales and embeddings."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: "kernel" in jax.tree_util.keystr(path), params
    )


def with_gradients(
    build: Callable[[Setting, Schedule], optax.GradientTransformation],
) -> Callable[[Problem, Setting, Schedule], Stepper]:
    """A method that needs nothing but gradients."""

    def stepper(problem: Problem, setting: Setting, rate: Schedule) -> Stepper:
        optimizer = build(setting, rate)

        def step(params: Params, state: Any, batch: Batch) -> tuple[Params, Any, jax.Array]:
            loss, grads = jax.value_and_grad(problem.loss)(params, batch)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state, loss

        return Stepper(lambda params, batch: optimizer.init(params), step)

    return stepper


def adam(setting: Setting, rate: Schedule) -> optax.GradientTransformation:
    """Adam."""
    del setting
    return optax.adam(rate)


def adamw(setting: Setting, rate: Schedule) -> optax.GradientTransformation:
    """Adam with decoupled weight decay."""
    return optax.adamw(rate, weight_decay=setting["weight_decay"], mask=kernels)


def momentum(setting: Setting, rate: Schedule) -> optax.GradientTransformation:
    """SGD with momentum 0.9 and weight decay that is part of the gradient, as is usual with it."""
    decay = optax.add_decayed_weights(setting["weight_decay"], kernels)
    return optax.chain(decay, optax.sgd(rate, momentum=0.9))


def optax_muon(setting: Setting, rate: Schedule) -> optax.GradientTransformation:
    """Optax's Muon for kernels; Adam, at the same learning rate, for the rest."""

    def dimensions(params: Params) -> Params:
        def of_leaf(is_kernel: bool, leaf: jax.Array) -> MuonDimensionNumbers | None:
            last = leaf.ndim - 1
            return MuonDimensionNumbers(tuple(range(last)), last) if is_kernel else None

        return jax.tree.map(of_leaf, kernels(params), params)

    return muon(
        rate,
        weight_decay=setting["weight_decay"],
        muon_weight_dimension_numbers=dimensions,
    )


def spectral_momentum(setting: Setting, rate: Schedule) -> optax.GradientTransformationExtraArgs:
    """The layer-wise step without Gram matrices; Adam, at the same rate, for the rest."""
    return _spectral_momentum(setting, rate)


def spectral_momentum_ns(setting: Setting, rate: Schedule) -> optax.GradientTransformationExtraArgs:
    """The layer-wise step with two Newton-Schulz steps and Nesterov's momentum."""
    return _spectral_momentum(setting, rate, nesterov=True, newton_schulz_steps=2)


def spectral_momentum_gram(problem: Problem, setting: Setting, rate: Schedule) -> Stepper:
    """The layer-wise step, preconditioned by the Gram matrices of each layer's inputs."""
    optimizer = _spectral_momentum(setting, rate, tritia.layerwise.scale_by_input_gram())

    def step(params: Params, state: Any, batch: Batch) -> tuple[Params, Any, jax.Array]:
        recorded = jax.value_and_grad(tritia.with_layer_inputs(problem.loss), has_aux=True)
        (loss, inputs), grads = recorded(params, batch)
        updates, state = optimizer.update(grads, state, params, layer_inputs=inputs)
        return optax.apply_updates(params, updates), state, loss

    return Stepper(lambda params, batch: optimizer.init(params), step)


def _spectral_momentum(
    setting: Setting,
    rate: Schedule,
    *before: optax.GradientTransformation,
    nesterov: bool = False,
    newton_schulz_steps: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """What `tritia.spectral_momentum` chains, without its average: the race keeps one for all."""
    after = [tritia.scale_by_newton_schulz(newton_schulz_steps)] if newton_schulz_steps else []
    of_matrices = optax.chain(
        *before,
        optax.trace(0.9, nesterov=nesterov),
        tritia.scale_by_spectral_clipping(),
        *after,
        optax.add_decayed_weights(setting["weight_decay"]),
        optax.scale_by_learning_rate(rate),
    )
    return tritia.partition_matrices(of_matrices, optax.adam(rate))


def psgd_kron(setting: Setting, rate: Schedule) -> optax.GradientTransformation:
    """PSGD with Kronecker factors, by rollfast: a relative of Shampoo without its roots."""
    import rollfast  # pyright: ignore[reportMissingImports]

    return rollfast.kron(rate, weight_decay=setting["weight_decay"], weight_decay_mask=kernels)


def kfac(problem: Problem, setting: Setting, rate: Schedule) -> Stepper:
    """K-FAC by kfac-jax, momentum 0.9 and its norm constraint after its preconditioner."""
    import kfac_jax  # pyright: ignore[reportMissingImports]

    def registered_loss(params: Params, batch: Batch) -> jax.Array:
        inputs, targets = batch
        outputs = problem.forward(params, inputs)
        if problem.objective.loss is cross_entropy:
            flat = outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1)
            kfac_jax.register_softmax_cross_entropy_loss(*flat)
        elif problem.objective.name == "R²":
            kfac_jax.register_squared_error_loss(outputs, targets, weight=0.5)
        else:
            kfac_jax.register_multi_bernoulli_predictive_distribution(outputs, targets)
        return problem.objective.loss(outputs, targets)

    preconditioner = kfac_jax.OptaxPreconditioner(
        registered_loss,
        damping=setting["damping"],
        norm_constraint=1e-3,
        inverse_update_period=20,
        distributed_inverses=False,
        distributed_precon_apply=False,
    )
    after = optax.chain(optax.trace(0.9), optax.scale_by_learning_rate(rate))

    def init(params: Params, batch: Batch) -> Any:
        key = jax.random.key(0)
        return preconditioner.init((params, batch), key), after.init(params), key

    def step(params: Params, state: Any, batch: Batch) -> tuple[Params, Any, jax.Array]:
        curvature, rest, key = state
        key, now = jax.random.split(key)
        loss, grads = jax.value_and_grad(problem.loss)(params, batch)
        curvature = preconditioner.maybe_update(curvature, (params, batch), now)
        grads = preconditioner.apply(grads, curvature)
        curvature = preconditioner.increment_count(curvature)
        updates, rest = after.update(grads, rest, params)
        return optax.apply_updates(params, updates), (curvature, rest, key), loss

    return Stepper(init, step)


METHODS: Mapping[str, Method] = {
    "adam": Method(
        grid(learning_rate=(3e-4, 6e-4, 1e-3, 2e-3, 3e-3, 6e-3, 1e-2, 2e-2)),
        with_gradients(adam),
    ),
    "adamw": Method(
        grid(learning_rate=(1e-3, 3e-3, 6e-3, 1e-2), weight_decay=(0.1, 0.3)),
        with_gradients(adamw),
    ),
    "momentum": Method(
        grid(learning_rate=(0.02, 0.05, 0.1, 0.2), weight_decay=(0.0, 5e-4)),
        with_gradients(momentum),
    ),
    "muon": Method(
        grid(learning_rate=(5e-3, 0.01, 0.02, 0.04), weight_decay=(0.1, 0.3)),
        with_gradients(optax_muon),
    ),
    "spectral_momentum": Method(
        grid(learning_rate=(5e-3, 0.01, 0.02, 0.04), weight_decay=(0.1, 0.3)),
        with_gradients(spectral_momentum),
    ),
    "spectral_momentum_ns": Method(
        grid(learning_rate=(5e-3, 0.01, 0.02, 0.04), weight_decay=(0.1, 0.3)),
        with_gradients(spectral_momentum_ns),
    ),
    "spectral_momentum_gram": Method(
        grid(learning_rate=(5e-3, 0.01, 0.02, 0.04), weight_decay=(0.1, 0.3)),
        spectral_momentum_gram,
    ),
    "psgd_kron": Method(
        grid(learning_rate=(5e-4, 1e-3, 2e-3, 5e-3), weight_decay=(0.1, 0.3)),
        with_gradients(psgd_kron),
        "rollfast",
    ),
    "kfac": Method(
        grid(learning_rate=(0.03, 0.1, 0.3, 1.0), damping=(1e-3, 1e-2)), kfac, "kfac_jax"
    ),
}
