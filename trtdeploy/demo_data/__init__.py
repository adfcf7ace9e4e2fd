"""Carry the demo model as package data."""
