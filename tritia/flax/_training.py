"""The public functions of `tritia.flax`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import jax
import optax
from flax import linen, nnx
from flax.linen.fp8_ops import OVERWRITE_WITH_GRADIENT
from flax.training.train_state import TrainState

import tritia
from tritia._arguments import ScalarOrSchedule, with_extra_args
from tritia.alternating import Activation
from tritia.alternating._blocks.activations import ActivationName
from tritia.flax import _perceptron as perceptron

Model = TypeVar("Model", bound=nnx.Module)


def grad_fn(
    model: nnx.Module,
    loss: Callable[..., Any],
    *arguments: Any,
    wrt: nnx.filterlib.Filter = nnx.Param,
    has_aux: bool = False,
) -> Callable[[optax.Params], optax.Updates]:
    r"""Makes the gradient as a function of params, as Runge-Kutta steps need it.

    .. math::

      w \mapsto \nabla_w \, loss(model_w, \ldots)

    Everything but the parameters stays as it is at this call: every stage sees the same running
    averages and the same dropout masks, and changes that a stage makes to them are dropped. Make
    the function before the first gradient is taken, so that the first gradient sees the same masks.

    Args:
      model: an NNX module, outside or inside of `nnx.jit`.
      loss: a function `loss(model, *arguments)` that returns a scalar.
      *arguments: the minibatch, and whatever else the loss takes.
      wrt: what is trained, as in `nnx.Optimizer`.
      has_aux: whether the loss returns (scalar, something else); the latter is dropped.

    Returns:
      A function from params, as `nnx.Optimizer` hands them on, to gradients of that structure.

    Raises:
      TypeError: `model` is not an NNX module, or `loss` is not a function.

    References:
      `Optax: GradientTransformationExtraArgs
      <https://optax.readthedocs.io/en/latest/api/transformations.html>`_

    Examples:
      >>> import jax.numpy as jnp, tritia, tritia.flax
      >>> from flax import nnx
      >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
      >>> optimizer = nnx.Optimizer(model, tritia.rk4(0.1), wrt=nnx.Param)
      >>> def loss(model, x, y):
      ...   return jnp.mean((model(x) - y) ** 2)
      >>> @nnx.jit
      ... def step(model, optimizer, x, y):
      ...   grad_fn = tritia.flax.grad_fn(model, loss, x, y)
      ...   grads = nnx.grad(loss)(model, x, y)
      ...   optimizer.update(model, grads, grad_fn=grad_fn)
      >>> x, y = jnp.eye(2), jnp.ones((2, 1))
      >>> for _ in range(100):
      ...   step(model, optimizer, x, y)
      >>> bool(loss(model, x, y) < 1e-4)
      True
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            "model must be an NNX module; with Linen, write the gradient as a function of params:"
            " jax.grad(lambda params: loss(module.apply({'params': params}, x), y))."
            f" Got {type(model).__name__}."
        )
    if not callable(loss):
        raise TypeError(f"loss must be a function loss(model, ...) to a scalar; got {loss!r}.")
    structure, _, rest = nnx.split(model, wrt, ...)
    rest = jax.tree.map(lambda leaf: leaf, rest)  # as it is now, not the model's own variables

    def of_params(params: Any) -> Any:
        # Variables of this trace, which the loss may change; those of the model stay out of it.
        own = jax.tree.map(lambda leaf: leaf, rest)
        result = loss(nnx.merge(structure, params, own), *arguments)
        return result[0] if has_aux else result

    def gradient(params: Any) -> Any:
        return jax.grad(of_params)(params)

    return gradient


def with_layer_inputs(
    loss: Callable[..., Any],
    *,
    wrt: nnx.filterlib.Filter = nnx.Param,
    has_aux: bool = False,
    skip: Sequence[str] = (),
) -> Callable[..., Any]:
    r"""Makes the loss of an NNX module also return what went into each of its layers.

    It is `tritia.with_layer_inputs` for a function of a module, for `nnx.value_and_grad`. What the
    loss changes in the module, such as running averages and the counts of random streams, is
    changed as without it. With Linen, use `tritia.with_layer_inputs` as it is. The inputs are those
    that the preconditioner

    .. math::

      g \leftarrow (G + \lambda I)^{-1} g

    of `tritia.scale_by_input_gram` takes.

    Args:
      loss: a function of an NNX module, and of anything else.
      wrt: what is trained, as in `nnx.Optimizer`.
      has_aux: whether the loss returns a pair, the value and something auxiliary.
      skip: names of leaves that are not looked at, such as "decoder/kernel" or "decoder".

    Returns:
      A function of the same arguments that returns (value, inputs), or (value, (aux, inputs)) where
      `has_aux` is True.

    Raises:
      TypeError: from the returned function, what it is given first is no NNX module.
      ValueError: from the returned function, params whose use is not understood.

    References:
      `tritia.with_layer_inputs`.

    Examples:
      >>> import jax.numpy as jnp, optax, tritia, tritia.flax
      >>> from flax import nnx
      >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
      >>> solver = tritia.spectral_momentum(
      ...   optax.linear_schedule(0.3, 0.0, 60), weight_decay=0.0, input_gram=True)
      >>> optimizer = nnx.Optimizer(model, solver, wrt=nnx.Param)
      >>> def loss(model, x, y):
      ...   return jnp.mean((model(x) - y) ** 2)
      >>> @nnx.jit
      ... def step(model, optimizer, x, y):
      ...   recorded = tritia.flax.with_layer_inputs(loss)
      ...   (value, inputs), grads = nnx.value_and_grad(recorded, has_aux=True)(model, x, y)
      ...   optimizer.update(model, grads, layer_inputs=inputs)
      >>> x, y = jnp.eye(2), jnp.ones((2, 1))
      >>> for _ in range(60):
      ...   step(model, optimizer, x, y)
      >>> bool(loss(model, x, y) < 1e-2)
      True
    """

    @functools.wraps(loss)
    def recorded(model: nnx.Module, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(model, nnx.Module):
            raise TypeError(
                "tritia.flax.with_layer_inputs makes losses of an NNX module; use"
                f" tritia.with_layer_inputs for one of params. Got {type(model).__name__}."
            )
        structure, params, rest = nnx.split(model, wrt, ...)

        def of_params(params: Any, rest: Any, *args: Any, **kwargs: Any) -> Any:
            own = nnx.merge(structure, params, rest)
            result = loss(own, *args, **kwargs)
            value, aux = result if has_aux else (result, None)
            return value, (aux, nnx.split(own, wrt, ...)[2])

        traced = tritia.with_layer_inputs(of_params, has_aux=True, skip=skip)
        value, ((aux, changed), inputs) = traced(params, rest, *args, **kwargs)
        nnx.update(model, changed)
        return value, (aux, inputs) if has_aux else inputs

    return recorded


def eval_model(model: Model, optimizer: Any, *, wrt: nnx.filterlib.Filter = nnx.Param) -> Model:
    r"""Returns a copy of the model that holds the evaluation parameters.

    See `tritia.eval_params`. With `tritia.polyak_average` the copy holds the average. With
    `tritia.triple_inertia` the model that the loop trains stands at the point where gradients are
    taken, and the copy at the iterate,

    .. math::

      u + q d = e + (q - p_2) d

    The copy shares no buffers or variables with the model: continue training the model and discard
    the copy. Its mode (`train()`, `eval()`) is the model's.

    Args:
      model: an NNX module, outside or inside of `nnx.jit`.
      optimizer: its `nnx.Optimizer`, or an optimizer's state that holds one of
        `tritia.triple_inertia`, `tritia.triple_momentum` or `tritia.polyak_average`.
      wrt: what is trained; that of the `nnx.Optimizer` where one is passed.

    Returns:
      The copy.

    Raises:
      TypeError: `model` is not an NNX module.
      ValueError: the optimizer holds no state of these transforms, or one for other params.

    Examples:
      >>> import optax, tritia, tritia.flax
      >>> from flax import nnx
      >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
      >>> solver = tritia.triple_inertia(optax.sgd(0.1), predict=0.9, evaluate=0.9)
      >>> optimizer = nnx.Optimizer(model, solver, wrt=nnx.Param)
      >>> def loss(model):
      ...   return (model.kernel[...] ** 2).sum()
      >>> for _ in range(2):
      ...   updates = optimizer.update(model, nnx.grad(loss)(model))
      >>> evaluated = tritia.flax.eval_model(model, optimizer)
      >>> bool(loss(evaluated) == loss(model))
      False
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            "model must be an NNX module; with Linen, call"
            f" tritia.eval_params(state.opt_state, state.params). Got {type(model).__name__}."
        )
    if isinstance(optimizer, nnx.Optimizer):
        wrt, optimizer = optimizer.wrt, optimizer.opt_state
    structure, params, rest = nnx.split(model, wrt, ...)
    params = tritia.eval_params(optimizer, params)
    # New buffers: an update that donates the model's must not delete the copy's.
    params, rest = jax.tree.map(lambda leaf: leaf.copy(), (params, rest))
    return nnx.merge(structure, params, rest)


def tiam(
    model: nnx.Module | linen.Module,
    num_examples: int,
    *,
    params: optax.Params | None = None,
    activation: ActivationName | Activation | Sequence[ActivationName | Activation] | None = None,
    layer_order: Sequence[str] | None = None,
    method: Callable[..., optax.GradientTransformationExtraArgs] = tritia.tiam,
    **settings: Any,
) -> optax.GradientTransformationExtraArgs:
    r"""Makes `tritia.tiam` for a Flax multilayer perceptron, whose layers and activations it finds.

    The model must compute

    .. math::

      x \mapsto h_{L-1}(\ldots h_1(x W_1 + b_1) \ldots) W_L + b_L

    Layers are taken in the order in which a call of the model uses them. Activations are the
    callables between the layers of an `nnx.Sequential` or `linen.Sequential`; of other modules, the
    one known activation with which this formula gives what the model gives on a few random rows and
    random params. The same comparison refuses a model that computes something else (a residual
    connection, dropout, a normalisation, a softmax at the end), because the solver would train
    another network. With both `activation` and `layer_order` given, the model is not called.

    Args:
      model: an NNX module, or a Linen module, which is called with the inputs alone.
      num_examples: n, the rows of the training set.
      params: the params of a Linen module, `module.init(key, x)["params"]`; None with NNX.
      activation: as in `tritia.tiam`; None finds it.
      layer_order: as in `tritia.tiam`; None finds it.
      method: `tritia.tiam`, `tritia.mdlam`, `tritia.dlam` or `tritia.bcd`.
      **settings: further arguments of `method`.

    Returns:
      What `method` returns, for `nnx.Optimizer(model, ..., wrt=nnx.Param)`, whose `update(model,
      None, inputs=x, targets=y)` writes the new params into the model; with a Linen `TrainState`
      call `tritia.flax.apply_gradients`.

    Raises:
      ValueError: the model is not a multilayer perceptron, or its activation is not found; the
        message names the layer or says what differs. And what `method` raises.
      TypeError: `model` is not a Flax module.

    References:
      Yan et al., `A Triple-Inertial Accelerated Alternating Optimization Method for Deep Learning
      Training <https://arxiv.org/abs/2503.08489>`_, 2025

    Examples:
      >>> import jax, jax.numpy as jnp, tritia, tritia.flax
      >>> from flax import nnx
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(
      ...   nnx.Linear(4, 20, rngs=rngs), nnx.relu, nnx.Linear(20, 2, rngs=rngs))
      >>> x = jax.random.normal(jax.random.key(0), (60, 4))
      >>> y = (x[:, 0] * x[:, 1] > 0).astype(int)
      >>> optimizer = nnx.Optimizer(model, tritia.flax.tiam(model, len(x)), wrt=nnx.Param)
      >>> @nnx.jit
      ... def step(model, optimizer, x, y):
      ...   optimizer.update(model, None, inputs=x, targets=y)
      >>> for _ in range(20):
      ...   step(model, optimizer, x, y)
      >>> bool(jnp.mean(model(x).argmax(axis=1) == y) > 0.9)
      True
    """
    found = _found(model, params, activation, layer_order, solver="tiam")
    return method(num_examples, **found, **settings)


def stochastic_tiam(
    model: nnx.Module | linen.Module,
    learning_rate: ScalarOrSchedule,
    *,
    params: optax.Params | None = None,
    activation: ActivationName | Activation | Sequence[ActivationName | Activation] | None = None,
    layer_order: Sequence[str] | None = None,
    **settings: Any,
) -> optax.GradientTransformationExtraArgs:
    r"""Makes `tritia.stochastic_tiam` for a Flax multilayer perceptron.

    The model must compute the same formula as for `tritia.flax.tiam`, which describes how layers
    and activations are found:

    .. math::

      x \mapsto h_{L-1}(\ldots h_1(x W_1 + b_1) \ldots) W_L + b_L

    Args:
      model: an NNX module, or a Linen module, which is called with the inputs alone.
      learning_rate: as in `tritia.stochastic_tiam`.
      params: the params of a Linen module, `module.init(key, x)["params"]`; None with NNX.
      activation: as in `tritia.stochastic_tiam`; None finds it.
      layer_order: as in `tritia.stochastic_tiam`; None finds it.
      **settings: further arguments of `tritia.stochastic_tiam`.

    Returns:
      The transform, for `nnx.Optimizer(model, ..., wrt=nnx.Param)`, whose `update(model, None,
      inputs=x, targets=y)` takes any minibatch; with a Linen `TrainState` call
      `tritia.flax.apply_gradients`.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, tritia, tritia.flax
      >>> from flax import nnx
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(
      ...   nnx.Linear(4, 20, rngs=rngs), nnx.relu, nnx.Linear(20, 2, rngs=rngs))
      >>> x = jax.random.normal(jax.random.key(0), (64, 4))
      >>> y = (x[:, 0] * x[:, 1] > 0).astype(int)
      >>> solver = tritia.flax.stochastic_tiam(model, optax.cosine_decay_schedule(0.03, 50))
      >>> optimizer = nnx.Optimizer(model, solver, wrt=nnx.Param)
      >>> @nnx.jit
      ... def step(model, optimizer, x, y):
      ...   optimizer.update(model, None, inputs=x, targets=y)
      >>> for i in range(50):
      ...   rows = slice(32 * (i % 2), 32 * (i % 2) + 32)
      ...   step(model, optimizer, x[rows], y[rows])
      >>> bool(jnp.mean(model(x).argmax(axis=1) == y) > 0.9)
      True
    """
    found = _found(model, params, activation, layer_order, solver="stochastic_tiam")
    return tritia.stochastic_tiam(learning_rate, **found, **settings)


def _found(
    model: Any, params: Any, activation: Any, layer_order: Any, *, solver: str
) -> dict[str, Any]:
    """Returns the solver's arguments `activation` and `layer_order`, found where they are None."""
    if activation is None or layer_order is None:
        found = perceptron.find(model, params, activation, layer_order, solver=solver)
        activation, layer_order = found.activations, found.layer_order
    return {"activation": activation, "layer_order": layer_order}


def apply_gradients(
    state: TrainState, *, grads: optax.Updates | None = None, **extra: Any
) -> TrainState:
    r"""Steps a Linen `TrainState` with extra arguments for its transform.

    `TrainState.apply_gradients` has no way to pass them on. This is

    .. math::

      w \leftarrow w + update(g, state, w, \ldots)

    and, as there, the collection `_overwrite_with_gradient` is replaced by its gradients.

    Args:
      state: the `TrainState`.
      grads: the gradients; None for a transform that takes none, such as `tritia.tiam`.
      **extra: what the transform's `update` takes: `grad_fn=`, or `inputs=` and `targets=`. Those
        that are fields of `state`, such as `batch_stats`, replace these instead, as they do in
        `TrainState.apply_gradients`.

    Returns:
      The next `TrainState`.

    Raises:
      ValueError: what the transform raises where an argument is missing.

    References:
      `Flax: TrainState
      <https://flax-linen.readthedocs.io/en/latest/api_reference/flax.training/train_state.html>`_

    Examples:
      >>> import jax, jax.numpy as jnp, tritia, tritia.flax
      >>> from flax import linen
      >>> from flax.training.train_state import TrainState
      >>> module = linen.Dense(2)
      >>> x, y = jnp.eye(4), jnp.ones((4, 2))
      >>> params = module.init(jax.random.key(0), x)["params"]
      >>> state = TrainState.create(apply_fn=module.apply, params=params, tx=tritia.rk4(0.1))
      >>> @jax.jit
      ... def step(state, x, y):
      ...   loss = lambda params: jnp.mean((state.apply_fn({"params": params}, x) - y) ** 2)
      ...   grads = jax.grad(loss)(state.params)
      ...   return tritia.flax.apply_gradients(state, grads=grads, grad_fn=jax.grad(loss))
      >>> state = step(state, x, y)
      >>> int(state.step)
      1
    """
    optimizer = with_extra_args(state.tx)
    fields = {field.name for field in dataclasses.fields(cast(Any, state))}
    replaced = {name: extra.pop(name) for name in fields & extra.keys()}
    params = state.params
    # As in TrainState: what this collection holds (FP8 scales) is replaced by its gradients.
    gradients = cast(Any, grads)  # or None, for a transform that ignores them
    replaces = grads is not None and OVERWRITE_WITH_GRADIENT in gradients
    rest = cast(dict[str, Any], dict(gradients) if replaces else {})
    trained, slopes = (params["params"], rest.pop("params")) if rest else (params, gradients)
    updates, opt_state = optimizer.update(slopes, state.opt_state, trained, **extra)
    trained = optax.apply_updates(trained, updates)
    params = {"params": trained, **rest} if rest else trained
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, **replaced)
