"""PRECISION: which tensors of a graph are FP16."""
