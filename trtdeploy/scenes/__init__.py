"""Draw synthetic scenes with exact labels, as video sources and training data."""
