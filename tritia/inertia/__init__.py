"""Inertia: three extrapolations around any optimizer, and their optimal values."""

from tritia.inertia.evaluation import eval_params
from tritia.inertia.smoothness import estimate_smoothness
from tritia.inertia.triple_momentum import triple_momentum
from tritia.inertia.wrapper import TripleInertiaState, nesterov_schedule, triple_inertia

__all__ = [
    "TripleInertiaState",
    "estimate_smoothness",
    "eval_params",
    "nesterov_schedule",
    "triple_inertia",
    "triple_momentum",
]
