"""ONNX model in, TensorRT engine out: profiles, build, plan check, and the sidecar that says what an engine is."""
