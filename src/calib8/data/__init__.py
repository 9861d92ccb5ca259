"""Calibration and inference arrays: where they come from, whether they fit the model, how they are batched."""
