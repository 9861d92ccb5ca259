"""Models of Triton's Python back end, copied into repositories as ``model.py``: they know nothing of calib8."""
