"""Reference models: where they come from, how they are verified, how they become ONNX."""
