"""Graph rewrites, one per file. Each takes a model and returns it rewritten; callers pass a clone they own."""
