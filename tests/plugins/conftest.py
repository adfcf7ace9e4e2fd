"""The probe of the part without TensorRT, running."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from plugin_probes import Probe, host_probe_path


@pytest.fixture
def probe() -> Iterator[Probe]:
    running = Probe(host_probe_path())
    yield running
    complaints = running.close()
    assert not complaints, f"A sanitizer complained: {complaints}"
