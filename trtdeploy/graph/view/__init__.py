"""What a graph computes, apart from how an exporter wrote it down: sizes, axes and normalised terms."""
