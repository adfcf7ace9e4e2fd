"""Provide CBAM, the convolutional block attention module."""
