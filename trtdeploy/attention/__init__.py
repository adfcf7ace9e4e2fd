"""The catalogue of attention kinds: one folder per kind holds all that trtdeploy knows of it."""
