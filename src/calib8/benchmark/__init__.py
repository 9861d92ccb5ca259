"""Models and engines against each other, and the fastest CPU runtime for one."""
