r"""One sweep over all blocks: the pure core under `tritia.tiam`.

The problem, with h the activations, R the loss and :math:`m_l = a_{l-1} W_l + b_l`:

.. math::

  \min \; R(z_L, y) + \sum_l \frac{\mu_l}{2} |W_l|^2 + \sum_l \frac{\rho_l}{2} |z_l - m_l|^2
      + \sum_{l < L} \frac{\gamma_l}{2} |a_l - h(z_l)|^2

(coupling "penalty"), or with :math:`|a_l - h(z_l)| \le \epsilon` in place of the last sum (coupling
"inequality"). A sweep visits the blocks in turn; each goes through the three inertial
extrapolations of `tritia.inertia.triple` with a history of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tritia.alternating import activations as act, blocks, losses
from tritia.alternating.blocks import Layer, Number
from tritia.alternating.rows import Rows, Spectrum
from tritia.inertia import triple


class Inertia(NamedTuple):
    """The three coefficients of triple inertia.

    Attributes:
      predict: p1, where a block's step starts: c = u + p1 (u - u_prev).
      evaluate: p2, where its gradient is taken: e = u + p2 (u - u_prev).
      correct: p3, how the result is extrapolated: u_next = v + p3 (v - u).
    """

    predict: Any = 0.0
    evaluate: Any = 0.0
    correct: Any = 0.0


class Variables(NamedTuple):
    """The blocks of a network of L layers on n examples.

    Attributes:
      kernels: L arrays W_l, (d_{l-1}, d_l).
      biases: L arrays b_l, (d_l,), or None for a layer without bias.
      pre_activations: L arrays z_l, (n, d_l).
      activations: L - 1 arrays a_l, (n, d_l).
    """

    kernels: tuple[jax.Array, ...]
    biases: tuple[jax.Array | None, ...]
    pre_activations: tuple[jax.Array, ...]
    activations: tuple[jax.Array, ...]


class Numbers(NamedTuple):
    """The numbers of one sweep.

    Attributes:
      rho: L penalties of |z_l - m_l|^2, > 0.
      gamma: L - 1 penalties of |a_l - h(z_l)|^2, > 0 (coupling "penalty").
      mu: L penalties of |W_l|^2, >= 0.
      tau: the proximal penalty of the exact weight step, >= 0.
      eps: the width of |a_l - h(z_l)| <= eps, >= 0 (coupling "inequality").
    """

    rho: tuple[Number, ...]
    gamma: tuple[Number, ...]
    mu: tuple[Number, ...]
    tau: Number
    eps: Number


class Inertias(NamedTuple):
    """Coefficients for each kind of block: numbers, not schedules."""

    weights: Inertia = Inertia()
    biases: Inertia = Inertia()
    pre_activations: Inertia = Inertia()
    activations: Inertia = Inertia()
    outputs: Inertia = Inertia()


@dataclasses.dataclass(frozen=True)
class Method:
    """What shapes the computation of a sweep; hashable, static under `jax.jit`.

    Attributes:
      activations: L - 1 activations.
      loss: the output's loss.
      coupling: "penalty" or "inequality".
      weight_steps: L of "exact", "line_search", "backtracking".
      by_rows: L flags: whether the layer's Gram matrix is n x n (else d x d).
      sweep: "forward", "backward" or "symmetric".
      safeguard: whether an accelerated block that raises the objective is replaced.
      activation_steps: projected gradient steps of an activation block in its box.
    """

    activations: tuple[act.Activation, ...]
    loss: losses.Loss
    coupling: str = "penalty"
    weight_steps: tuple[str, ...] = ()
    by_rows: tuple[bool, ...] = ()
    sweep: str = "backward"
    safeguard: bool = True
    activation_steps: int = 5


class History(NamedTuple):
    """What the blocks remember from sweep to sweep.

    Attributes:
      kernels: L displacements of the kernels, or () where predict and evaluate are the number 0.
      activations: L - 1 displacements of the activations, or () likewise.
      tau: (L,), the last tau that backtracking accepted, or () where no layer backtracks.
    """

    kernels: tuple[jax.Array, ...] = ()
    activations: tuple[jax.Array, ...] = ()
    tau: Any = ()


class Rejected(NamedTuple):
    """Which share of each block the safeguard put back to the plain or the old values.

    Attributes:
      weights: (L,), 0 or 1.
      pre_activations: (L,), the share of elements (of rows for the last, the output).
      activations: (L - 1,), the share of rows.
    """

    weights: jax.Array
    pre_activations: jax.Array
    activations: jax.Array


class Data(NamedTuple):
    """The examples of a sweep.

    Attributes:
      inputs: a_0, (n, d_0).
      targets: y, as the loss takes them.
      rows: how the rows count.
      spectrum: of the first layer's Gram matrix, or None.
    """

    inputs: jax.Array
    targets: jax.Array
    rows: Rows
    spectrum: Spectrum | None = None


def is_zero(number: Any) -> bool:
    """Whether a coefficient is the Python number 0, so that its block needs no history."""
    return isinstance(number, (int, float)) and number == 0


def needs_history(inertia: Inertia) -> bool:
    """Whether a block with these coefficients reads its displacement."""
    return not (is_zero(inertia.predict) and is_zero(inertia.evaluate))


def forward(
    method: Method,
    inputs: jax.Array,
    kernels: tuple[jax.Array, ...],
    biases: tuple[jax.Array | None, ...],
    first_fit: jax.Array | None = None,
) -> Variables:
    """Returns the variables of a forward pass, where every coupling holds exactly.

    Args:
      method: holds the activations.
      inputs: a_0, (n, d_0).
      kernels: L kernels.
      biases: L biases or None.
      first_fit: a_0 W_1 + b_1 where it is known.
    """
    z = [blocks.fit(inputs, kernels[0], biases[0]) if first_fit is None else first_fit]
    a = []
    for activation, kernel, bias in zip(method.activations, kernels[1:], biases[1:], strict=True):
        a.append(activation.value(z[-1]))
        z.append(blocks.fit(a[-1], kernel, bias))
    return Variables(tuple(kernels), tuple(biases), tuple(z), tuple(a))


def objective(
    method: Method,
    numbers: Numbers,
    variables: Variables,
    data: Data,
    fits: list[jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the objective and the loss alone, both summed over the rows.

    Args:
      method: holds the activations, the loss and the coupling.
      numbers: rho, gamma and mu.
      variables: all blocks.
      data: the examples.
      fits: L arrays a_{l-1} W_l + b_l where they are known.
    """
    kernels, biases, z, a = variables
    rows = data.rows
    if fits is None:
        inputs = (data.inputs, *a)
        fits = [blocks.fit(x, w, b) for x, w, b in zip(inputs, kernels, biases, strict=True)]
    loss = rows.sum(method.loss.value(z[-1], data.targets)[:, None])
    total = loss
    for layer, kernel in enumerate(kernels):
        total += 0.5 * numbers.rho[layer] * rows.sum((z[layer] - fits[layer]) ** 2)
        total += 0.5 * numbers.mu[layer] * jnp.sum(kernel**2)
    if method.coupling == "penalty":
        for layer, activation in enumerate(method.activations):
            gap = a[layer] - activation.value(z[layer])
            total += 0.5 * numbers.gamma[layer] * rows.sum(gap**2)
    return total, loss


class SweepResult(NamedTuple):
    """What a sweep returns.

    Attributes:
      variables: all blocks.
      moved: L arrays: how far each kernel has moved.
      history: what the next sweep needs.
      objective: the objective after the sweep.
      loss: its term R alone.
      rejected: what the safeguard put back.
    """

    variables: Variables
    moved: tuple[jax.Array, ...]
    history: History
    objective: jax.Array
    loss: jax.Array
    rejected: Rejected


def sweep(
    method: Method,
    numbers: Numbers,
    inertias: Inertias,
    variables: Variables,
    history: History,
    data: Data,
    first_fit: jax.Array | None = None,
) -> SweepResult:
    """Visits every block once (twice where the sweep is "symmetric").

    Args:
      method: what shapes the computation.
      numbers: the penalties.
      inertias: the coefficients of each kind of block.
      variables: all blocks.
      history: displacements from the sweep before; zeros at the first.
      data: the examples.
      first_fit: a_0 W_1 + b_1 where it is known.

    Returns:
      The variables after the sweep, with what changed on the way.
    """
    kernels, biases = list(variables.kernels), list(variables.biases)
    z, a = list(variables.pre_activations), list(variables.activations)
    old = variables
    depth = len(kernels)
    dtype = z[0].dtype
    rows = data.rows
    zero = jnp.zeros((), dtype)
    fits: list[jax.Array | None] = [first_fit] + [None] * (depth - 1)
    moved: list[Any] = [None] * depth
    tau = list(history.tau) if len(history.tau) else [zero] * depth
    rejected_weights, rejected_z = [zero] * depth, [zero] * depth
    rejected_a = [zero] * (depth - 1)

    def inputs_of(layer: int) -> jax.Array:
        return a[layer - 1] if layer else data.inputs

    def fit_of(layer: int) -> jax.Array:
        known = fits[layer]
        if known is None:
            known = blocks.fit(inputs_of(layer), kernels[layer], biases[layer])
            fits[layer] = known
        return known

    def update_weights(layer: int) -> None:
        current = Layer(kernels[layer], biases[layer], fit_of(layer))
        displacement = history.kernels[layer] if history.kernels else None
        updated, step, tau[layer], rejected_weights[layer] = _weights(
            method,
            layer,
            inputs_of(layer),
            z[layer],
            current,
            displacement,
            inertias,
            rho=numbers.rho[layer],
            mu=numbers.mu[layer],
            tau=tau[layer] if method.weight_steps[layer] == "backtracking" else numbers.tau,
            rows=rows,
            spectrum=data.spectrum if layer == 0 else None,
        )
        kernels[layer], biases[layer], fits[layer] = updated
        moved[layer] = step if moved[layer] is None else moved[layer] + step

    def update_output() -> None:
        layer = depth - 1
        z[layer], rejected_z[layer] = _output(
            method, z[layer], fit_of(layer), data.targets, inertias.outputs, numbers.rho[layer]
        )

    def update_pre_activation(layer: int) -> None:
        if layer == depth - 1:
            return update_output()
        block = _pre_activation_penalty if method.coupling == "penalty" else _pre_activation_box
        z[layer], rejected_z[layer] = block(
            method, layer, z[layer], fit_of(layer), a[layer], inertias.pre_activations, numbers
        )
        return None

    def update_activation(layer: int) -> None:
        following = Layer(kernels[layer + 1], biases[layer + 1], fit_of(layer + 1))
        displacement = history.activations[layer] if history.activations else None
        block = _activation_penalty if method.coupling == "penalty" else _activation_box
        a[layer], fits[layer + 1], rejected_a[layer] = block(
            method,
            layer,
            a[layer],
            displacement,
            z[layer],
            following,
            z[layer + 1],
            inertias.activations,
            numbers,
        )

    if method.sweep in ("backward", "symmetric"):
        for layer in reversed(range(depth)):
            update_pre_activation(layer)
            update_weights(layer)
            if layer:
                update_activation(layer - 1)
    if method.sweep in ("forward", "symmetric"):
        for layer in range(depth):
            update_weights(layer)
            update_pre_activation(layer)
            if layer < depth - 1:
                update_activation(layer)

    new = Variables(tuple(kernels), tuple(biases), tuple(z), tuple(a))
    total, loss = objective(method, numbers, new, data, [fit_of(layer) for layer in range(depth)])
    return SweepResult(
        new,
        tuple(moved),
        History(
            tuple(moved) if history.kernels else (),
            triple.displacement(new.activations, old.activations) if history.activations else (),
            jnp.stack(tau) if len(history.tau) else (),
        ),
        total,
        loss,
        Rejected(
            jnp.stack(rejected_weights),
            jnp.stack(rejected_z),
            jnp.stack(rejected_a) if rejected_a else jnp.zeros((0,), dtype),
        ),
    )


def _guard(
    safeguard: bool, change: Callable[[Any], jax.Array], old: Any, accelerated: Any, plain: Any
) -> tuple[Any, jax.Array]:
    """Returns the accelerated block, or the plain or the old one in cells where it is worse.

    Args:
      safeguard: False accepts the accelerated block as it is.
      change: maps a block to how much it changes the terms that contain it, per cell: an array that
        broadcasts against the block's arrays.
      old: the block before its step, a pytree.
      accelerated: the block after the step with inertia.
      plain: the block after the step without inertia, or None where that is `accelerated` itself.

    Returns:
      The block and the share of its cells where `accelerated` was refused.
    """
    dtype = jax.tree.leaves(old)[0].dtype
    if not safeguard:
        return accelerated, jnp.zeros((), dtype)

    def choose(accepted, block, otherwise):
        return jax.tree.map(lambda x, y: jnp.where(accepted, x, y), block, otherwise)

    fallback = old if plain is None else choose(change(plain) <= 0, plain, old)
    accepted = change(accelerated) <= 0  # False for NaN
    return choose(accepted, accelerated, fallback), jnp.mean(~accepted, dtype=dtype)


def _weights(
    method: Method,
    layer: int,
    a: jax.Array,
    z: jax.Array,
    current: Layer,
    displacement: jax.Array | None,
    inertias: Inertias,
    *,
    rho: Number,
    mu: Number,
    tau: Any,
    rows: Rows,
    spectrum: Spectrum | None,
) -> tuple[Layer, jax.Array, jax.Array, jax.Array]:
    """Returns the layer, how far its kernel moved, the accepted tau, and whether it was refused."""
    kind = method.weight_steps[layer]
    inertia = inertias.weights

    def step(start: Layer, point: Layer, tau):
        if kind == "exact":
            new = blocks.weights_exact(
                a,
                z,
                start,
                rho=rho,
                mu=mu,
                tau=tau,
                rows=rows,
                by_rows=method.by_rows[layer],
                spectrum=spectrum,
            )
            return new, tau
        gradient = blocks.weights_gradient(
            a, z, start, point, rho=rho, mu=mu, rows=rows, spectrum=spectrum
        )
        if kind == "line_search":
            new = blocks.weights_line_search(a, z, start, gradient, rows=rows, spectrum=spectrum)
            return new, tau
        return blocks.weights_backtracking(
            a, z, start, point, gradient, tau / 2, rho=rho, mu=mu, rows=rows, spectrum=spectrum
        )

    def extrapolated(coefficient):
        if displacement is None or is_zero(coefficient):
            return current
        kernel = triple.predict(current.kernel, displacement, coefficient)
        return Layer(kernel, current.bias, blocks.fit(a, kernel, current.bias))

    def settled(new: blocks.WeightStep, start: Layer, correct: bool) -> tuple[Move, jax.Array]:
        """How far to go along v - u, and whether that refused anything."""
        ahead = new.moved if start is current else new.moved + (start.kernel - current.kernel)
        plain = _move(new.layer, current, ahead, 0.0, 0.0)
        moves = [plain]
        if correct and not (is_zero(inertia.correct) and is_zero(inertias.biases.correct)):
            far = _move(new.layer, current, ahead, inertia.correct, inertias.biases.correct)
            moves = [far, plain]
        if not method.safeguard:
            return moves[0], jnp.zeros((), bool)
        # Along one direction the norm's change is a quadratic of two numbers.
        slope, square = jnp.sum(current.kernel * ahead), jnp.sum(ahead * ahead)

        def rise(move: Move):
            t = move.factor
            fits = rows.sum(move.fit * (move.fit + 2 * (current.fit - z)))
            return 0.5 * (rho * fits + mu * t * (2 * slope + t * square))

        allowed = [rise(move) <= 0 for move in moves]  # False for NaN
        chosen = jax.tree.map(jnp.zeros_like, plain)._replace(kernel=plain.kernel)
        for permitted, move in zip(reversed(allowed), reversed(moves), strict=True):
            parts = jax.tree.map(
                lambda x, y, permitted=permitted: jnp.where(permitted, x, y),
                move._replace(kernel=None),
                chosen._replace(kernel=None),
            )
            chosen = parts._replace(kernel=plain.kernel)
        return chosen, ~allowed[0]

    start = extrapolated(inertia.predict)
    same = inertia.evaluate is inertia.predict or kind == "exact"
    point = start if same else extrapolated(inertia.evaluate)
    stepped, tau = step(start, point, tau)
    move, refused = settled(stepped, start, correct=True)
    if method.safeguard and not (start is current and point is current):
        # The plain step costs as much as the accelerated one: make it only where that was refused.
        move = jax.lax.cond(
            refused,
            lambda: settled(step(current, current, tau)[0], current, correct=False)[0],
            lambda: move,
        )
    moved = jnp.where(move.factor == 0, 0, move.factor * move.kernel)
    bias = current.bias
    if bias is not None and move.bias is not None:
        bias = bias + move.bias
    updated = Layer(current.kernel + moved, bias, current.fit + move.fit)
    return updated, moved, tau, refused.astype(z.dtype)


class Move(NamedTuple):
    """A way to go from the current layer: `factor` times `kernel`, and what follows from it."""

    factor: jax.Array
    kernel: Any
    bias: jax.Array | None
    fit: jax.Array


def _move(stepped: Layer, current: Layer, ahead, weights: Any, biases: Any) -> Move:
    """Returns the move to v + p3 (v - u), where the bias has a p3 of its own; fits are linear."""
    factor = jnp.asarray(1 + weights, ahead.dtype)
    if stepped.bias is None or current.bias is None:
        return Move(factor, ahead, None, factor * (stepped.fit - current.fit))
    bias = stepped.bias - current.bias
    product = (stepped.fit - current.fit) - bias
    longer = (1 + biases) * bias
    return Move(factor, ahead, longer, factor * product + longer)


def _corrected(stepped, current, inertia: Inertia, projection=None):
    """Returns the corrected block, or the stepped one itself where there is no correction."""
    if is_zero(inertia.correct):
        return stepped
    return triple.correct(stepped, current, inertia.correct, projection)


def _output(method: Method, z, fit, targets, inertia: Inertia, rho):
    """Returns the output pre-activation after its prox, and the share of rows refused."""
    loss = method.loss
    stepped = losses.prox(loss, targets, fit, z, rho)

    def change(candidate):
        square = jnp.sum((candidate - z) * (candidate + z - 2 * fit), axis=-1)
        difference = loss.value(candidate, targets) - loss.value(z, targets)
        return (difference + 0.5 * rho * square)[:, None]

    return _guard(method.safeguard, change, z, _corrected(stepped, z, inertia), stepped)


def _pre_activation_penalty(
    method: Method, layer: int, z, fit, a, inertia: Inertia, numbers: Numbers
):
    """Returns a hidden pre-activation after its prox, and the share of elements refused."""
    activation = method.activations[layer]
    gamma, rho = numbers.gamma[layer], numbers.rho[layer]
    stepped = act.prox(activation, a, fit, z, gamma, rho)
    height = activation.value(z)

    def change(candidate):
        new_height = activation.value(candidate)
        return 0.5 * (
            rho * (candidate - z) * (candidate + z - 2 * fit)
            + gamma * (new_height - height) * (new_height + height - 2 * a)
        )

    return _guard(method.safeguard, change, z, _corrected(stepped, z, inertia), stepped)


def _pre_activation_box(method: Method, layer: int, z, fit, a, inertia: Inertia, numbers: Numbers):
    """Returns a hidden pre-activation clipped to its interval, and the share refused.

    The interval is the constraint itself, so a z outside of it is no fallback: the old block does
    not stay where eps or a have moved away from it.
    """
    left, right = act.preimage(method.activations[layer], a, numbers.eps)

    def project(z):
        return jnp.clip(z, left, right)

    stepped = project(fit)
    accelerated = _corrected(stepped, z, inertia, project)

    def change(candidate):
        return (candidate - z) * (candidate + z - 2 * fit)

    return _guard(method.safeguard, change, stepped, accelerated, stepped)


def _activation_penalty(
    method: Method,
    layer: int,
    a,
    displacement,
    z,
    following: Layer,
    z_following,
    inertia: Inertia,
    numbers: Numbers,
):
    """Returns a hidden activation, the next layer's fit, and the share of rows refused."""
    del displacement  # an exact solve has neither a prox centre nor an evaluation point
    gamma, rho = numbers.gamma[layer], numbers.rho[layer + 1]
    height = method.activations[layer].value(z)
    stepped = blocks.activation_penalty(
        height, following.kernel, following.bias, z_following, gamma=gamma, rho=rho
    )
    stepped = (stepped, blocks.fit(stepped, following.kernel, following.bias))
    return _choose_activation(
        method, a, following, z_following, stepped, inertia, gamma, rho, height, None, stepped
    )


def _activation_box(
    method: Method,
    layer: int,
    a,
    displacement,
    z,
    following: Layer,
    z_following,
    inertia: Inertia,
    numbers: Numbers,
):
    """Returns a hidden activation in its box, the next layer's fit, and the share refused."""
    height = method.activations[layer].value(z)

    def project(a):
        return jnp.clip(a, height - numbers.eps, height + numbers.eps)

    def step(start, point):
        stepped = blocks.activation_box(
            start,
            point,
            project,
            following.kernel,
            following.bias,
            z_following,
            steps=method.activation_steps,
        )
        return stepped, blocks.fit(stepped, following.kernel, following.bias)

    def extrapolated(coefficient):
        if displacement is None or is_zero(coefficient):
            return a
        return triple.predict(a, displacement, coefficient)

    start = extrapolated(inertia.predict)
    point = start if inertia.evaluate is inertia.predict else extrapolated(inertia.evaluate)
    stepped = step(start, point)
    is_plain = start is a and point is a
    # The fallback must be feasible, and the old block need not be: project it.
    old = project(a)
    following = following._replace(fit=blocks.fit(old, following.kernel, following.bias))
    plain = stepped if is_plain or not method.safeguard else step(old, old)
    return _choose_activation(
        method,
        old,
        following,
        z_following,
        stepped,
        inertia,
        0.0,
        numbers.rho[layer + 1],
        height,
        project,
        plain,
    )


def _choose_activation(
    method: Method,
    a,
    following: Layer,
    z_following,
    stepped,
    inertia: Inertia,
    gamma,
    rho,
    height,
    project,
    plain,
):
    """Corrects and guards an activation together with the next layer's fit."""
    old = (a, following.fit)
    if is_zero(inertia.correct):
        accelerated = stepped
    else:
        corrected = triple.correct(stepped[0], a, inertia.correct, project)
        if project is None:  # the fit is linear in a
            fit = triple.correct(stepped[1], following.fit, inertia.correct)
        else:
            fit = blocks.fit(corrected, following.kernel, following.bias)
        accelerated = (corrected, fit)

    def change(candidate):
        new_a, new_fit = candidate
        fits = jnp.sum((new_fit - old[1]) * (new_fit + old[1] - 2 * z_following), axis=-1)
        gaps = jnp.sum((new_a - a) * (new_a + a - 2 * height), axis=-1)
        return 0.5 * (rho * fits + gamma * gaps)[:, None]

    # From u to the exact minimiser v of a quadratic and as far again, no point is above u.
    p3 = inertia.correct
    harmless = project is None and isinstance(p3, (int, float)) and -1 <= p3 <= 1
    guarded = method.safeguard and not harmless
    (new, fit), refused = _guard(guarded, change, old, accelerated, plain)
    return new, fit, refused
