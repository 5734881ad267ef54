"""Steps made for each layer as a matrix, for any model."""

from tritia.layerwise._layer_inputs import with_layer_inputs as with_layer_inputs
from tritia.layerwise._matrices import MatrixAxes as MatrixAxes
from tritia.layerwise._spectral_clipping import (
    SpectralClippingState as SpectralClippingState,
    scale_by_spectral_clipping as scale_by_spectral_clipping,
)
from tritia.layerwise._uses import LayerInputs as LayerInputs
