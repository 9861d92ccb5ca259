"""How long engines would take on GPUs that are not at hand: a model of kernels, not a measurement."""
