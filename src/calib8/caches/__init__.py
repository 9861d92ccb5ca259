"""TensorRT's calibration cache, and what it was made from."""
