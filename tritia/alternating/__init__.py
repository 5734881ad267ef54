"""Layer-wise alternating minimisation: TIAM, and its parts for use on their own."""

from tritia.alternating._blocks.activations import (
    ACTIVATIONS as ACTIVATIONS,
    Activation as Activation,
    leaky_relu as leaky_relu,
    monotone_activation as monotone_activation,
)
from tritia.alternating._blocks.losses import (
    LOSSES as LOSSES,
    Loss as Loss,
    smooth_loss as smooth_loss,
)
from tritia.alternating._full_batch.diagnostics import (
    Diagnostics as Diagnostics,
    diagnostics as diagnostics,
)
from tritia.alternating._full_batch.penalties import halving as halving
from tritia.alternating._full_batch.presets import bcd as bcd, dlam as dlam, mdlam as mdlam
from tritia.alternating._full_batch.state import TiamState as TiamState
from tritia.alternating._full_batch.tiam import tiam as tiam
from tritia.alternating._minibatch.input_gram import scale_by_input_gram as scale_by_input_gram
from tritia.alternating._minibatch.running_gram import (
    InputGramState as InputGramState,
    growing_period as growing_period,
)
from tritia.alternating._minibatch.stochastic import (
    StochasticTiamState as StochasticTiamState,
    stochastic_tiam as stochastic_tiam,
)
