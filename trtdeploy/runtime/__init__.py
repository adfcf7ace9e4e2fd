"""The runtime: sources, batcher, slots, sinks and the pipeline that joins them."""
