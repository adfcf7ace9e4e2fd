"""The nodes that surgery writes are those that the real bindings' plugin creators take."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import trt_bindings
from torch import nn

from trtdeploy.attention import catalogue
from trtdeploy.attention.operations import is_operation
from trtdeploy.attention.plugins import plugin_specs
from trtdeploy.graph.dispatch import dispatch
from trtdeploy.graph.load import load_model
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.surgery import operate

SCRIPT = Path(__file__).with_name("quick_protocol.py")
KINDS = ("simam", "coordatt", "cbam", "spatial_attention", "se", "mhsa")
FIELD_TYPES = {"FLOAT32": ir.AttributeType.FLOATS, "INT32": ir.AttributeType.INTS}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    """Return a network with every operation, after surgery."""
    torch.manual_seed(0)
    layers = [layer for kind in KINDS for layer in (nn.Conv2d(64, 64, 1), catalogue.kind(kind).make(64))]
    net = nn.Sequential(nn.Conv2d(3, 64, 3), *layers, nn.Conv2d(64, 4, 1))
    path = tmp_path_factory.mktemp("nodes") / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net.eval(), (torch.rand(1, 3, 10, 26),), str(path), dynamo=False, opset_version=17)
    return operate(Prepare(verify=False).run(load_model(path).model).model, verify=False)[0]


@pytest.fixture(scope="module")
def nodes(model: ir.Model) -> list[ir.Node]:
    bodies = [function for function in model.functions.values() if not is_operation(function.domain, function.name)]
    return [node for body in bodies for node in body if is_operation(node.domain, node.op_type)]


@pytest.fixture(scope="module", params=trt_bindings.VERSIONS)
def creators(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param, trt_bindings.run(request.param, SCRIPT, "creators")


def test_the_network_has_every_operation(nodes: list[ir.Node]) -> None:
    assert {node.op_type for node in nodes} == set(plugin_specs())


def test_what_registering_returns_is_in_the_registry(creators: tuple[str, dict[str, Any]]) -> None:
    _, found = creators
    assert sorted(found["told"]) == sorted(
        [name, one["version"], one["namespace"]] for name, one in found["kept"].items()
    )
    assert set(found["kept"]) == set(plugin_specs())


def test_nodes_have_all_fields_of_their_creator(nodes: list[ir.Node], creators: tuple[str, dict[str, Any]]) -> None:
    _, found = creators
    for node in nodes:
        creator = found["kept"][node.op_type]
        given = dict(node.attributes)
        assert given.pop("plugin_namespace").as_string() == creator["namespace"]
        assert given.pop("plugin_version").as_string() == creator["version"]
        assert given.pop("aot").as_int() == 1
        assert {name: FIELD_TYPES[kind] for name, kind in creator["fields"]} == {
            name: attribute.type for name, attribute in given.items()
        }


def test_every_node_goes_to_its_plugin(model: ir.Model, nodes: list[ir.Node], creators: tuple[str, Any]) -> None:
    version, found = creators
    major, minor = (int(part) for part in version.split(".")[:2])
    taken = dispatch(model, [tuple(one) for one in found["told"]], (major, minor))
    assert [one.problem for one in taken if one.problem] == []
    handlers = [(one.op_type, one.handler) for one in taken if is_operation(one.domain, one.op_type)]
    assert sorted(handlers) == sorted((node.op_type, "plugin") for node in nodes)


def test_the_numbers_of_a_node_reach_its_kernel(nodes: list[ir.Node]) -> None:
    (node,) = (node for node in nodes if node.op_type == "TrtdeploySimAMGate")
    epsilon = list(node.attributes["epsilon"].as_floats())
    shapes = [[1, 64, 8, 24]]
    case = {"op_type": node.op_type, "data_type": "float16", "shapes": shapes, "runs": [shapes]}
    order = {"target": "sm80", "cases": [{**case, "attributes": {"epsilon": epsilon}}], "mutation": None}
    (result,) = trt_bindings.run("11.4.0.106", SCRIPT, "walk", order)
    seen = {np.int32(launch["arguments"][0][-1]).view(np.float32).item() for launch in result["launches"]}
    assert seen == {np.float32(1e-4).item()}
