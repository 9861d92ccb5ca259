"""Many machines: work in items over the workers of a Ray cluster."""
