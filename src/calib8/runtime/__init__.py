"""Running models: one small context manager per runtime, all with the same three methods."""
