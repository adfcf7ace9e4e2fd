"""Hold the catalogue of attention kinds, one folder per kind."""
