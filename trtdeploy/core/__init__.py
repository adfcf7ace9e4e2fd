"""Floor 0: errors, types and discovery. Imports nothing else of trtdeploy."""
