"""Engine files: their metadata, and how to tell their kinds apart by content."""
