"""How CBAM's kernels are launched: those of spatial attention, with the factor sigmoid(s) per channel."""

from __future__ import annotations

from trtdeploy.attention.cbam.operation import OPERATIONS
from trtdeploy.attention.spatial_attention.plugin import gate_launches, pool_launches
from trtdeploy.kernels.spec import PluginSpec

_POOL, _GATE = OPERATIONS
PLUGINS = (
    PluginSpec(operation=_POOL, launches=pool_launches("scaled_spatial_pool", scaled=True)),
    PluginSpec(operation=_GATE, launches=gate_launches("scaled_spatial_gate", scaled=True)),
)
