"""Inertia: three extrapolations around any optimizer, and their optimal values.

`triple_inertia` puts them around an Optax optimizer. `extrapolate` and `over_relax` are the
extrapolations themselves, for a solver whose step is a prox or the minimiser of a block.
"""

from tritia.inertia._evaluation import eval_params as eval_params
from tritia.inertia._extrapolation import (
    Inertia as Inertia,
    Projection as Projection,
    extrapolate as extrapolate,
    over_relax as over_relax,
)
from tritia.inertia._polyak_average import (
    PolyakAverageState as PolyakAverageState,
    growing_decay as growing_decay,
    polyak_average as polyak_average,
)
from tritia.inertia._smoothness import estimate_smoothness as estimate_smoothness
from tritia.inertia._triple_inertia import (
    TripleInertiaState as TripleInertiaState,
    nesterov_schedule as nesterov_schedule,
    triple_inertia as triple_inertia,
)
from tritia.inertia._triple_momentum import triple_momentum as triple_momentum
