"""Published methods as settings of `tritia.tiam`.

`optax.inject_hyperparams` reads names off a signature, which these do not list: wrap them, as in
`optax.inject_hyperparams(lambda rho: tritia.bcd(n, rho=rho))(rho=1e-2)`.
"""

from __future__ import annotations

from typing import Any

import optax

from tritia._schedules import halving
from tritia.alternating._full_batch.tiam import tiam
from tritia.inertia import Inertia, nesterov_schedule


def dlam(num_examples: int, **settings: Any) -> optax.GradientTransformationExtraArgs:
    """Deep learning alternating minimisation: forward passes under a shrinking constraint.

    Coupling "inequality", forward block passes, backtracked kernel steps, no inertia, inputs as
    they are; rho = 1e-3 and mu = 0.05 for every layer, eps from 100, halved at every update, down
    to 1e-3.

    Args:
      num_examples: the rows of inputs and targets.
      **settings: arguments of `tritia.tiam` that replace these.

    Returns:
      What `tritia.tiam` returns.

    References:
      Wang et al., `Accelerated Gradient-free Neural Network Training by Multi-convex Alternating
      Optimization <https://arxiv.org/abs/1811.04187>`_, 2018

    Examples:
      >>> import tritia
      >>> solver = tritia.dlam(100, kernel_step="exact")
    """
    published = {
        "coupling": "inequality",
        "block_order": "forward",
        "kernel_step": "backtracking",
        "rho": 1e-3,
        "mu": 0.05,
        "scale_mu": False,
        "standardize": False,
        "penalty_growth": 1.0,
        "eps": halving(100.0, floor=1e-3),
        "inertia": Inertia(),
        "safeguard": False,
    }
    return tiam(num_examples, **{**published, **settings})


def mdlam(num_examples: int, **settings: Any) -> optax.GradientTransformationExtraArgs:
    """Monotone DLAM: `dlam` with Nesterov's momentum, undone where it raises the objective.

    Predict and evaluate follow `tritia.nesterov_schedule`, and the safeguard is the monotone rule.

    Args:
      num_examples: the rows of inputs and targets.
      **settings: arguments of `tritia.tiam` that replace these.

    Returns:
      What `tritia.tiam` returns.

    References:
      Wang et al., `Accelerated Gradient-free Neural Network Training by Multi-convex Alternating
      Optimization <https://arxiv.org/abs/1811.04187>`_, 2018

    Examples:
      >>> import tritia
      >>> solver = tritia.mdlam(100)
    """
    momentum = nesterov_schedule()
    published = {"inertia": Inertia(momentum, momentum, 0.0), "safeguard": True}
    return dlam(num_examples, **{**published, **settings})


def bcd(num_examples: int, **settings: Any) -> optax.GradientTransformationExtraArgs:
    """Block coordinate descent: exact blocks under penalties, backward passes, no inertia.

    One penalty for every coupling and every layer, rho = gamma = 1e-2, and mu = 1e-3; inputs as
    they are.

    Args:
      num_examples: the rows of inputs and targets.
      **settings: arguments of `tritia.tiam` that replace these.

    Returns:
      What `tritia.tiam` returns.

    References:
      Zeng et al., `Global Convergence of Block Coordinate Descent in Deep Learning
      <https://arxiv.org/abs/1803.00225>`_, 2019

    Examples:
      >>> import tritia
      >>> solver = tritia.bcd(100, loss="squared_error")
    """
    published = {
        "coupling": "penalty",
        "block_order": "backward",
        "kernel_step": "exact",
        "rho": 1e-2,
        "gamma": 1e-2,
        "mu": 1e-3,
        "scale_mu": False,
        "standardize": False,
        "penalty_growth": 1.0,
        "inertia": Inertia(),
        "safeguard": False,
    }
    return tiam(num_examples, **{**published, **settings})
