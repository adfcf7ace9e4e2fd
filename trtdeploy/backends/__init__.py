"""Backends: one module for each library that builds and runs engines."""
