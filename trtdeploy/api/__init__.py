"""The Python API: build an engine, open it, inspect it, optimize a model. `trtdeploy.Pipeline` runs an engine."""

from trtdeploy.api.build import BuildOptions, BuildReport, build
from trtdeploy.api.engine import Engine, inspect, open
from trtdeploy.api.evaluate import EvaluateOptions, EvaluationReport, evaluate
from trtdeploy.api.gate_options import GateOptions
from trtdeploy.api.optimize import OptimizeOptions, OptimizeReport, optimize

__all__ = [
    "BuildOptions",
    "BuildReport",
    "Engine",
    "EvaluateOptions",
    "EvaluationReport",
    "GateOptions",
    "OptimizeOptions",
    "OptimizeReport",
    "build",
    "evaluate",
    "inspect",
    "open",
    "optimize",
]
