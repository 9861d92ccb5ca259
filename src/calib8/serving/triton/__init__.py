"""Triton Inference Server: a model repository for a model or an engine, text in and vectors out for encoders."""
