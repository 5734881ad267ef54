"""The block problems of a dense network, each solved on its own: kernels, activations, losses."""
