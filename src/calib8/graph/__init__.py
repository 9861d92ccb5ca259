"""Reading and understanding ONNX models: load, save, find weighted ops, find input limits."""
