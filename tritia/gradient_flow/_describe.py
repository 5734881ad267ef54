"""What a scheme is like, as a small table and as a picture: how to choose one."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from tritia._arguments import check_static_int
from tritia.gradient_flow import _properties as properties
from tritia.gradient_flow._multistep.scheme import LinearMultistep
from tritia.gradient_flow._multistep.uneven_steps import growth_limit

if TYPE_CHECKING:
    import matplotlib.axes


@dataclasses.dataclass(frozen=True)
class Description:
    """The promises of one scheme; prints as a small table.

    Attributes:
      name: the scheme's name.
      order: order of accuracy; see `tritia.order`.
      error_constant: leading error coefficient; see `tritia.error_constant`.
      stability_interval: largest stable learning rate times sharpness; see
        `tritia.stability_interval`.
      damped_interval: the same with every mode damped by 2% a step; see `tritia.damped_interval`.
      noise_gain: variance of a step against SGD's; see `tritia.noise_gain`.
      memory: copies of the params in the state; see `tritia.memory`.
      gradients_per_step: gradients that a step costs.
      growth_limit: largest growth of the learning rate per step, None for one-step methods; see
        `tritia.growth_limit`.
    """

    name: str
    order: int
    error_constant: Fraction | float
    stability_interval: float
    damped_interval: float
    noise_gain: float
    memory: int
    gradients_per_step: int
    growth_limit: float | None

    def __str__(self) -> str:
        constant = f"{float(self.error_constant):.4g}"
        if isinstance(self.error_constant, Fraction) and self.error_constant.denominator < 10_000:
            constant = f"{self.error_constant} = {constant}"
        per_gradient = self.stability_interval / self.gradients_per_step
        rows = [
            ("order of accuracy", f"{self.order}"),
            ("error constant", constant),
            ("stability interval", f"{self.stability_interval:.4g}  (SGD: 2)"),
            ("  per gradient", f"{per_gradient:.4g}"),
            ("  damped by 2% a step", f"{self.damped_interval:.4g}  (SGD: 1.98)"),
            ("noise gain", f"{self.noise_gain:.4g}  (SGD: 1)"),
            ("memory", f"{self.memory} x params  (SGD: 0)"),
            ("gradients per step", f"{self.gradients_per_step}"),
        ]
        if self.growth_limit is not None:
            rows.append(("learning rate may grow", f"{self.growth_limit:.4g} x per step"))
        width = max(len(label) for label, _ in rows)
        return "\n".join([self.name, *(f"  {label:<{width}}  {value}" for label, value in rows)])

    __repr__ = __str__


def describe(scheme: Any) -> Description:
    r"""Tells what a scheme promises: order, error, stability, noise, memory and cost.

    How to read it: learning rate times sharpness (the largest curvature) must stay below the
    stability interval, so a scheme bears ``stability_interval / 2`` times the largest learning rate
    of SGD. At equal learning rates the one with the higher order, or the smaller error constant,
    follows the gradient flow more closely. On noisy minibatches a noise gain above 1 can cost more
    than the order wins.

    Args:
      scheme: a `LinearMultistep`, a `ButcherTableau` or a `ChebyshevScheme`.

    Returns:
      A `Description`, which prints as a table.

    Raises:
      TypeError: `scheme` is none of these.

    Examples:
      >>> import tritia
      >>> tritia.describe(tritia.difference_scheme(order=2, steps=3))
      difference, order 2, 3 steps
        order of accuracy       2
        error constant          5/12 = 0.4167
        stability interval      2  (SGD: 2)
          per gradient          2
          damped by 2% a step   1.845  (SGD: 1.98)
        noise gain              2  (SGD: 1)
        memory                  2 x params  (SGD: 0)
        gradients per step      1
        learning rate may grow  1.502 x per step
    """
    return Description(
        order=properties.order(scheme),
        name=scheme.name,
        error_constant=properties.error_constant(scheme),
        stability_interval=properties.stability_interval(scheme),
        damped_interval=properties.damped_interval(scheme),
        noise_gain=properties.noise_gain(scheme),
        memory=properties.memory(scheme),
        gradients_per_step=scheme.gradients_per_step,
        growth_limit=growth_limit(scheme) if isinstance(scheme, LinearMultistep) else None,
    )


def plot_stability_region(
    *schemes: Any, ax: matplotlib.axes.Axes | None = None, resolution: int = 301
) -> matplotlib.axes.Axes:
    r"""Draws where schemes are stable: the set of :math:`h \lambda` with amplification at most 1.

    Modes of a loss lie on the negative real axis, at minus learning rate times curvature; modes
    that rotate, as in games, lie off it.

    Args:
      *schemes: one or more of `LinearMultistep`, `ButcherTableau`, `ChebyshevScheme`.
      ax: where to draw; None makes a new figure.
      resolution: grid points in each direction, at least 2.

    Returns:
      The matplotlib axes.

    Raises:
      ImportError: matplotlib is missing.
      TypeError: a scheme is none of these.
      ValueError: no scheme is given.

    Examples:
      >>> import matplotlib
      >>> matplotlib.use("Agg")
      >>> import tritia
      >>> ax = tritia.plot_stability_region(
      ...     tritia.adams_bashforth_scheme(1), tritia.difference_scheme(order=2, steps=3)
      ... )
      >>> ax.get_xlabel()
      'learning rate x curvature, Re(hλ)'
    """
    if not schemes:
        raise ValueError("schemes is empty; pass at least one scheme.")
    check_static_int("resolution", resolution, minimum=2)
    extent = 1.15 * max(properties.stability_interval(scheme) for scheme in schemes)
    half = max(0.6 * extent, 1.5)
    real = np.linspace(-extent, 0.15 * extent, resolution)
    imaginary = np.linspace(-half, half, resolution)
    z = real[None, :] + 1j * imaginary[:, None]
    amplifications = [properties.amplification(scheme, z) for scheme in schemes]
    stable = np.any([np.any(factor <= 1, axis=1) for factor in amplifications], axis=0)
    half = max(1.3 * np.max(np.abs(imaginary[stable]), initial=0.0), 0.5)
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'plot_stability_region needs matplotlib: pip install "tritia[compare]".'
        ) from error
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for i, (scheme, factor) in enumerate(zip(schemes, amplifications, strict=True)):
        colour = colours[i % len(colours)]
        ax.contourf(real, imaginary, factor, levels=[0, 1], colors=[colour], alpha=0.15)
        ax.contour(real, imaginary, factor, levels=[1], colors=[colour], linewidths=1.5)
        ax.plot([], [], color=colour, label=scheme.name)
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.set(
        ylim=(-half, half),
        xlabel="learning rate x curvature, Re(hλ)",
        ylabel="Im(hλ)",
        title="Stable where the step does not amplify",
    )
    ax.legend(loc="upper left", fontsize="small")
    return ax
