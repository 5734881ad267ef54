"""Steps made for each layer as a matrix, for any model."""

from tritia.layerwise._input_gram import scale_by_input_gram as scale_by_input_gram
from tritia.layerwise._layer_inputs import (
    layer_axes as layer_axes,
    with_layer_inputs as with_layer_inputs,
)
from tritia.layerwise._matrices import MatrixAxes as MatrixAxes
from tritia.layerwise._newton_schulz import scale_by_newton_schulz as scale_by_newton_schulz
from tritia.layerwise._partition import (
    MatrixPartitionState as MatrixPartitionState,
    is_matrix as is_matrix,
    partition_matrices as partition_matrices,
)
from tritia.layerwise._running_gram import InputGramState as InputGramState
from tritia.layerwise._spectral_clipping import (
    SpectralClippingState as SpectralClippingState,
    scale_by_spectral_clipping as scale_by_spectral_clipping,
)
from tritia.layerwise._spectral_momentum import (
    SpectralMomentumState as SpectralMomentumState,
    spectral_momentum as spectral_momentum,
)
from tritia.layerwise._uses import LayerInputs as LayerInputs
