"""How the cores of a machine are shared out among execution contexts."""

from __future__ import annotations

import os

from trtdeploy.backends.base import SessionOptions


def threads_per_context(options: SessionOptions) -> int:
    """Return the threads of one context; by default the usable cores are shared out evenly."""
    if options.threads > 0:
        return options.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, options.contexts))


def core_plans(cores: int) -> list[SessionOptions]:
    """Return the ways to fill `cores` that are worth measuring.

    One thread for each context wins on small networks (nothing is shared), all cores on one context has the lowest
    latency and memory; between them lie two contexts, and contexts of two and four threads.

    Returns:
        Distinct options, the one with the most contexts first.
    """
    cores = max(1, cores)
    contexts = sorted({cores, max(1, cores // 2), max(1, cores // 4), min(2, cores), 1}, reverse=True)
    return [SessionOptions(contexts=count, threads=cores // count) for count in contexts]
