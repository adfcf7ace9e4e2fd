"""Graph passes: ONNX in, portable ONNX out, each with a report."""
