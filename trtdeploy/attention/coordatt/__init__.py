"""Provide coordinate attention."""
