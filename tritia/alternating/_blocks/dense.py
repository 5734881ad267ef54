r"""One function per block problem.

Shapes: a layer has inputs a (n, d), a kernel W (d, k), a bias b (k,) and pre-activations z (n, k);
:math:`m = a W + b` is its *fit*, (n, k). Nothing here differentiates through a network.

There are three steps of a kernel (`kernel_exact`, `kernel_line_search`, `kernel_backtracking`) for

.. math:: \varphi(W) = \min_b \frac\rho2 |z - a W - b|^2 + \frac\mu2 |W|^2

whose bias is eliminated: it is the mean over the rows of z - a W, and the rows are centred
(`tritia.alternating._blocks.rows`). A step starts from c, takes its gradient at e (both as in
`tritia.triple_inertia`) and returns the kernel, its bias and its fit; the fit is computed from
known products wherever that saves a pass over a wide `a`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tritia._factorisations import spd_inverse
from tritia.alternating._blocks.rows import Rows, Spectrum, gram

Number = float | jax.Array


class Layer(NamedTuple):
    """A dense layer on a batch.

    Attributes:
      kernel: W, (d, k).
      bias: b, (k,), or None for a layer without one.
      fit: a W + b, (n, k).
    """

    kernel: jax.Array
    bias: jax.Array | None
    fit: jax.Array


class KernelStep(NamedTuple):
    """The result of a kernel step.

    Attributes:
      layer: the layer at v.
      moved: v - c, (d, k): what a caller needs of a wide kernel, and all that is computed of it
        where `layer.kernel` is not read.
    """

    layer: Layer
    moved: jax.Array


def fit(a: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Returns a W + b, (n, k)."""
    product = a @ kernel
    return product if bias is None else product + bias[None]


def kernel_exact(
    a: jax.Array,
    z: jax.Array,
    start: Layer,
    *,
    rho: Number,
    mu: Number,
    tau: Number,
    rows: Rows,
    by_rows: bool,
    spectrum: Spectrum | None = None,
) -> KernelStep:
    r"""Returns the W that minimises :math:`\varphi(W) + \frac\tau2 |W - c|^2`, with its bias.

    In both cases the system is solved for a correction of c, so that a fixed point stays fixed
    to rounding. With :math:`\lambda = \mu + \tau` and :math:`r = \tilde a c - \tilde z`:

    * columns (d <= n): :math:`W = c - (\rho \tilde a^T \tilde a + \lambda I)^{-1}
      (\rho \tilde a^T r + \mu c)`;
    * rows (n < d): :math:`W = \frac\tau\lambda c - \rho \tilde a^T (\rho \tilde a \tilde a^T +
      \lambda I)^{-1} (r - \frac\mu\lambda \tilde a c)`.

    tau is raised by rounding times the trace of the Gram matrix: a proximal term that small keeps
    the factorisation stable for any rank, and the objective does not rise.

    Args:
      a: the layer's inputs, (n, d).
      z: the pre-activations to match, (n, k).
      start: the layer at c, where the step starts.
      rho: the penalty of |z - a W - b|^2, > 0.
      mu: the penalty of |W|^2, >= 0.
      tau: the penalty of |W - c|^2, >= 0.
      rows: their sample weights.
      by_rows: whether to solve an n x n system (for n < d) or a d x d one.
      spectrum: the eigendecomposition of the Gram matrix of that size, or None to factorise here.

    Returns:
      The step to the minimiser.
    """
    centred = start.bias is not None
    c = start.kernel
    product = rows.scale(start.fit, centred)  # centring takes the bias out
    residual = product - rows.scale(z, centred)

    if spectrum is not None:
        values, vectors = spectrum.values, spectrum.vectors
        tau = tau + _rounding(rho * jnp.sum(values))
        lam = mu + tau

        def solve_spectral(right: jax.Array) -> jax.Array:
            return vectors @ ((vectors.T @ right) / (rho * values + lam)[:, None])

        solve = solve_spectral
    else:
        matrix = gram(a, rows, centred, by_rows)
        tau = tau + _rounding(rho * jnp.trace(matrix))
        lam = mu + tau
        shifted = rho * matrix + lam * jnp.eye(matrix.shape[0], dtype=c.dtype)
        inverse = spd_inverse(shifted)

        def solve_cholesky(right: jax.Array) -> jax.Array:
            return inverse @ right

        solve = solve_cholesky

    if not by_rows:
        gradient = rho * (a.T @ rows.adjoint(residual, centred)) + mu * c
        return _step(a, z, start, -solve(gradient), None, rows, centred, spectrum)

    kept = tau / lam
    right = residual - (1 - kept) * product
    dual = solve(right)
    moved = (kept - 1) * c - rho * (a.T @ rows.adjoint(dual, centred))
    # rho K dual = right - lam dual, by the system itself
    scaled = kept * product - (right - lam * dual)
    return _step(a, z, start, moved, scaled, rows, centred, spectrum)


def _rounding(trace: jax.Array) -> jax.Array:
    """Returns a shift that keeps a Gram matrix of this trace positive definite, and is never 0."""
    return jnp.where(trace > 0, 16 * jnp.finfo(trace.dtype).eps * trace, 1)


class GradientStep(NamedTuple):
    """What the two gradient steps of a kernel share.

    Attributes:
      gradient: G, the gradient at e, (d, k).
      product: what G does to the scaled rows, (n, k).
      slope: <grad phi(c), G>.
      curvature: rho |a G|^2 + mu |G|^2.
    """

    gradient: jax.Array
    product: jax.Array
    slope: jax.Array
    curvature: jax.Array


def kernel_gradient(
    a: jax.Array,
    z: jax.Array,
    start: Layer,
    point: Layer,
    *,
    rho: Number,
    mu: Number,
    rows: Rows,
    spectrum: Spectrum | None = None,
) -> GradientStep:
    r"""Returns the gradient of :math:`\varphi` at e and the curvature along it.

    Args:
      a: the layer's inputs, (n, d).
      z: the pre-activations to match, (n, k).
      start: the layer at c.
      point: the layer at e, where the gradient is taken.
      rho: the penalty of |z - a W - b|^2.
      mu: the penalty of |W|^2.
      rows: their sample weights.
      spectrum: of the n x n Gram matrix, which saves a pass over a wide `a`; or None.
    """
    centred = start.bias is not None
    target = rows.scale(z, centred)
    product = rows.scale(point.fit, centred)
    residual = product - target
    gradient = rho * (a.T @ rows.adjoint(residual, centred)) + mu * point.kernel
    if spectrum is not None and spectrum.values.shape[0] == a.shape[0] < a.shape[1]:
        rotated = spectrum.vectors.T @ residual
        along = rho * (spectrum.vectors @ (spectrum.values[:, None] * rotated)) + mu * product
    else:
        along = rows.scale(a @ gradient, centred)
    if point is start:
        slope = jnp.sum(gradient * gradient)
    else:
        at_start = rows.scale(start.fit, centred) - target
        slope = rho * jnp.sum(at_start * along) + mu * jnp.sum(start.kernel * gradient)
    curvature = rho * jnp.sum(along * along) + mu * jnp.sum(gradient * gradient)
    return GradientStep(gradient, along, slope, curvature)


def kernel_line_search(
    a: jax.Array,
    z: jax.Array,
    start: Layer,
    step: GradientStep,
    *,
    rows: Rows,
    spectrum: Spectrum | None = None,
) -> KernelStep:
    r"""Returns the step to the best point of the line :math:`c - t G`.

    :math:`\varphi` is quadratic: :math:`t = \langle \nabla\varphi(c), G \rangle /
    (\rho |\tilde a G|^2 + \mu |G|^2)`, and 0 where G is 0.
    """
    t = jnp.where(
        step.curvature > 0, step.slope / jnp.where(step.curvature > 0, step.curvature, 1), 0
    )
    return _along(a, z, start, step, t, rows, spectrum)


def kernel_backtracking(
    a: jax.Array,
    z: jax.Array,
    start: Layer,
    point: Layer,
    step: GradientStep,
    tau: jax.Array,
    *,
    rho: Number,
    mu: Number,
    rows: Rows,
    spectrum: Spectrum | None = None,
    tries: int = 40,
) -> tuple[KernelStep, jax.Array]:
    r"""Returns the step to :math:`v = c - G / \tau` and the tau that was accepted.

    tau starts from `tau` and is doubled until
    :math:`\varphi(v) \le \varphi(e) + \langle G, v - e \rangle + \frac\tau2 |v - e|^2`. Because
    :math:`\varphi` is quadratic, that is
    :math:`\rho |\tilde a D|^2 + \mu |D|^2 \le \tau |D|^2` with :math:`D = v - e`, and a try costs
    a few products of scalars.

    Args:
      a: the layer's inputs, (n, d).
      z: the pre-activations to match, (n, k).
      start: the layer at c.
      point: the layer at e.
      step: what `kernel_gradient` returned.
      tau: the first value to try, > 0.
      rho: the penalty of |z - a W - b|^2.
      mu: the penalty of |W|^2.
      rows: their sample weights.
      spectrum: holds the mean row of `a`, or None.
      tries: the most doublings.
    """
    centred = start.bias is not None
    gradient, along = step.gradient, step.product
    square = jnp.sum(gradient * gradient)
    if point is start:
        # D = -G / tau: the test is curvature <= tau |G|^2 whatever tau is.
        def accepted(tau):
            return step.curvature <= tau * square
    else:
        gap = start.kernel - point.kernel
        gap_along = rows.scale(start.fit - point.fit, centred)
        along_terms = (jnp.sum(gap_along**2), jnp.sum(gap_along * along), jnp.sum(along * along))
        terms = (jnp.sum(gap * gap), jnp.sum(gap * gradient), square)

        def accepted(tau):
            d_along = along_terms[0] - 2 * along_terms[1] / tau + along_terms[2] / tau**2
            d = terms[0] - 2 * terms[1] / tau + terms[2] / tau**2
            return rho * d_along + mu * d <= tau * d

    # At once: devices would have to leave a loop together. Powers of 2 are exact, and constants to
    # autodiff.
    factors = 2.0 ** jnp.arange(tries + 1, dtype=tau.dtype)
    enough = jax.vmap(accepted)(factors * jax.lax.stop_gradient(tau)).at[-1].set(True)
    tau = factors[jnp.argmax(enough)] * tau
    return _along(a, z, start, step, 1 / tau, rows, spectrum), tau


def _along(a, z, start: Layer, step: GradientStep, t, rows: Rows, spectrum) -> KernelStep:
    centred = start.bias is not None
    scaled = rows.scale(start.fit, centred) - t * step.product
    return _step(a, z, start, -t * step.gradient, scaled, rows, centred, spectrum)


def _step(
    a, z, start: Layer, moved, scaled_product, rows: Rows, centred: bool, spectrum
) -> KernelStep:
    """Returns the step by `moved` with its best bias, from S a W where that is known."""
    kernel = start.kernel + moved
    if scaled_product is None:
        product = a @ kernel
        if not centred:
            return KernelStep(Layer(kernel, None, product), moved)
        best = rows.mean(z - product)
        return KernelStep(Layer(kernel, best, product + best[None]), moved)
    if start.bias is None:
        return KernelStep(Layer(kernel, None, rows.unscale(scaled_product)), moved)
    # The mean row of a W is that of the start, less its bias, and what `moved` adds.
    mean = rows.mean(a) if spectrum is None else spectrum.mean
    target = rows.mean(z)
    best = target - (rows.mean(start.fit) - start.bias) - mean @ moved
    return KernelStep(Layer(kernel, best, rows.unscale(scaled_product) + target[None]), moved)


def activation_penalty(
    h: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    z: jax.Array,
    *,
    gamma: Number,
    rho: Number,
) -> jax.Array:
    r"""Returns the a that minimises :math:`\frac\gamma2 |a - h|^2 + \frac\rho2 |z - a W - b|^2`.

    :math:`a = h + (z - b - h W) (\frac\gamma\rho I + W^T W)^{-1} W^T` for a layer that narrows
    (k <= d), and :math:`a = h + (z - b - h W) W^T (\frac\gamma\rho I + W W^T)^{-1}` otherwise.

    Args:
      h: h(z_l), the activations that the layer below gives, (n, d).
      kernel: the next layer's W, (d, k).
      bias: the next layer's b, (k,), or None.
      z: the next layer's pre-activations, (n, k).
      gamma: the penalty of |a - h|^2, > 0.
      rho: the next layer's penalty, > 0.
    """
    residual = z - fit(h, kernel, bias)
    narrows = kernel.shape[1] <= kernel.shape[0]
    matrix = kernel.T @ kernel if narrows else kernel @ kernel.T
    shift = gamma / rho + jnp.finfo(h.dtype).eps * jnp.trace(matrix)
    matrix = matrix + shift * jnp.eye(matrix.shape[0], dtype=h.dtype)
    inverse = spd_inverse(matrix)
    if narrows:
        return h + residual @ (inverse @ kernel.T)
    return h + residual @ (kernel.T @ inverse)


def activation_box(
    start: jax.Array,
    point: jax.Array,
    project: Callable[[jax.Array], jax.Array],
    kernel: jax.Array,
    bias: jax.Array | None,
    z: jax.Array,
    *,
    steps: int,
) -> jax.Array:
    r"""Returns projected gradient steps on :math:`\frac12 |z - a W - b|^2` in a box.

    A step is :math:`a \leftarrow project(a - \nabla / \kappa)` with :math:`\kappa` just above the
    largest eigenvalue of :math:`W W^T`; the first one starts from c with the gradient at e.

    Args:
      start: c, (n, d).
      point: e, (n, d).
      project: onto the box, which is where |a - h(z_l)| <= eps.
      kernel: the next layer's W, (d, k).
      bias: the next layer's b, (k,), or None.
      z: the next layer's pre-activations, (n, k).
      steps: how many steps, >= 1.
    """
    curvature = largest_eigenvalue(kernel)
    inverse = jnp.where(curvature > 0, 1 / jnp.where(curvature > 0, curvature, 1), 0)

    def step(start, point):
        return project(start - inverse * ((fit(point, kernel, bias) - z) @ kernel.T))

    a = step(start, point)
    if steps > 1:
        a = jax.lax.fori_loop(1, steps, lambda _, a: step(a, a), a)
    return a


def largest_eigenvalue(kernel: jax.Array, squarings: int = 5) -> jax.Array:
    r"""Returns an upper bound of the largest eigenvalue of :math:`W W^T`, 0 where W is 0.

    For a positive semidefinite A of size s, :math:`\lambda_{max} \le tr(A^p)^{1/p} \le s^{1/p}
    \lambda_{max}`: five squarings (p = 32) are within 16 % for s = 100, and never below, as a power
    iteration may be.
    """
    matrix = kernel.T @ kernel if kernel.shape[1] <= kernel.shape[0] else kernel @ kernel.T
    scale = jnp.trace(matrix)
    a = matrix / jnp.where(scale > 0, scale, 1)
    log_bound = jnp.zeros((), kernel.dtype)
    weight = 1.0
    for _ in range(squarings):  # renormalise, or the powers underflow
        a = a @ a
        weight /= 2
        trace = jnp.maximum(jnp.trace(a), jnp.finfo(a.dtype).tiny)
        a = a / trace
        log_bound = log_bound + weight * jnp.log(trace)
    return scale * jnp.exp(log_bound) * (1 + 16 * jnp.finfo(kernel.dtype).eps)
