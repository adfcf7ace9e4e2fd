"""Provide a small YOLO family in torch."""
