"""One GPU through cuda-python: memory, copies, streams. Nothing else in calib8 calls CUDA."""
