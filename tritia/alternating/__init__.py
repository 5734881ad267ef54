"""Layer-wise alternating minimisation: TIAM, and its parts for use on their own."""

from tritia.alternating.activations import (
    ACTIVATIONS as ACTIVATIONS,
    Activation as Activation,
    leaky_relu as leaky_relu,
    monotone_activation as monotone_activation,
)
from tritia.alternating.diagnostics import Diagnostics as Diagnostics, diagnostics as diagnostics
from tritia.alternating.input_gram import scale_by_input_gram as scale_by_input_gram
from tritia.alternating.losses import (
    LOSSES as LOSSES,
    Loss as Loss,
    smooth_loss as smooth_loss,
)
from tritia.alternating.penalties import halving as halving
from tritia.alternating.presets import bcd as bcd, dlam as dlam, mdlam as mdlam
from tritia.alternating.problem import Inertia as Inertia
from tritia.alternating.running_gram import (
    InputGramState as InputGramState,
    growing_period as growing_period,
)
from tritia.alternating.state import TiamState as TiamState
from tritia.alternating.stochastic import (
    StochasticTiamState as StochasticTiamState,
    stochastic_tiam as stochastic_tiam,
)
from tritia.alternating.tiam import tiam as tiam
