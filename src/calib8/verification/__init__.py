"""How close a candidate model is to its reference, and whether that is close enough."""
