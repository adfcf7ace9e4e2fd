"""What an engine carries of a plugin: whole, no more than it needs, and safe to read when damaged."""

from __future__ import annotations

import pytest
from plugin_cases import OP_TYPES, PTX, spelled_attributes, tiny_definition, tiny_operation
from plugin_probes import Probe

from trtdeploy.attention.plugins import plugin_specs
from trtdeploy.kernels.store import launch_entry, ptx_text


def state(probe: Probe, op_type: str, capability: object = "-", data_types: str = "-") -> str:
    probe.ask("operation", op_type)
    return probe.ask("state", capability, data_types, spelled_attributes(op_type))


@pytest.mark.parametrize("op_type", OP_TYPES)
@pytest.mark.parametrize(
    ("capability", "data_types"), [("-", "-"), (75, "float16"), (87, "float32"), (89, "float16,float32")]
)
def test_an_engine_carries_what_its_device_and_types_need(
    probe: Probe, op_type: str, capability: object, data_types: str
) -> None:
    expected = [
        op_type,
        *(number for values in spelled_attributes(op_type).split(";") for number in values.split(",") if number != "-"),
    ]
    for launch in plugin_specs()[op_type].launches:
        if data_types == "-" or launch.data_type in data_types.split(","):
            targets = sorted(launch_entry(launch.name)["ptx"])
            if capability != "-":
                targets = [t for t in targets if int(t[2:]) <= int(str(capability))][-1:] or targets
            sizes = [f"{target[2:]}:{len(ptx_text(launch.name, target))}" for target in targets]
            expected.extend((launch.name, *sizes))
    assert probe.ask("read", state(probe, op_type, capability, data_types)) == " ".join(expected)


def test_an_engine_keeps_its_kernels_with_a_newer_library(probe: Probe) -> None:
    probe.ask("define", tiny_definition())
    old = probe.ask("state - - 4,-9;1065353216")
    newer = tiny_operation(launch={"entry": "newer"}, attributes=[])
    assert probe.ask("define", tiny_definition(newer, PTX.format(entry="newer"))) == "ok"
    assert probe.ask("read", old) == f"Tiny 4 -9 1065353216 tiny 75:{len(PTX.format(entry='tiny'))}"


def test_damaged_states_are_refused_at_every_byte(probe: Probe) -> None:
    probe.ask("define", tiny_definition(ptx=PTX.format(entry="tiny")))
    answer = probe.ask("damage", "2x5", "1,2;3")
    assert "accepted: 0 truncated, 0 corrupted, " in answer, answer
    assert int(answer.split()[-2]) > 100, "with a checksum made to fit, changed data are read and must not crash"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: "00" + s[2:], "do not begin as trtdeploy writes them"),
        (lambda s: s[:16] + "02" + s[18:], "have format 2, this library reads format 1"),
        (lambda s: s[:-2] + ("00" if s[-2:] != "00" else "01"), "are damaged (the checksum is wrong)"),
        (lambda s: s + "00", "are damaged (the checksum is wrong)"),
        (lambda s: s[:38], "do not begin as trtdeploy writes them"),
    ],
    ids=["magic", "format", "checksum", "longer", "shorter than the head"],
)
def test_the_message_says_what_is_wrong_with_a_state(probe: Probe, change: object, message: str) -> None:
    whole = state(probe, "TrtdeploySimAMGate", 87, "float16")
    assert message in probe.ask("read", change(whole))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (tiny_operation(outputs=[{"name": "y", "dims": [["dim", 1, 0]], "image": False}]), "a size that no input has"),
        (tiny_operation(outputs=[{"name": "y", "dims": [["dim", 0, 2]], "image": False}]), "a size that no input has"),
        (tiny_operation(outputs=[{"name": "y", "dims": [["dim", 0, -1]], "image": False}]), "a size that no input has"),
        (tiny_operation(conditions=[["attr", "heads", 2]]), "an attribute that is not there"),
        (tiny_operation(launch={"block": 1025}), "blocks of 1025 threads, expected 1 to 1024"),
        (tiny_operation(launch={"block": 0}), "blocks of 0 threads"),
        (tiny_operation(launch={"shared_bytes": 49153}), "Shared memory of a kernel: 49153, expected at most 49152"),
        (tiny_operation(launches=[]), "lacks inputs, outputs or launches"),
        (tiny_operation(launch={"ptx": {}}), "Kernel 'tiny' has no PTX text"),
        (tiny_operation(op_type=""), "Name of an operation: empty"),
        (tiny_operation(inputs=[{"name": "x", "rank": 9, "image": False}]), "Rank of an input: 9, expected at most 8"),
    ],
)
def test_definitions_that_make_no_sense_are_refused(probe: Probe, operation: dict[str, object], message: str) -> None:
    assert message in probe.ask("define", tiny_definition(operation))


def test_ptx_with_a_zero_byte_is_refused(probe: Probe) -> None:
    assert "with a zero byte" in probe.ask("define", tiny_definition(ptx=PTX.format(entry="tiny") + "\0"))


@pytest.mark.parametrize("cut", [1, 9, 40])
def test_definitions_that_end_early_or_late_are_refused(probe: Probe, cut: int) -> None:
    whole = tiny_definition()
    assert "error" in probe.ask("define", whole[: -2 * cut])
    assert f"{cut} bytes behind the end" in probe.ask("define", whole + "00" * cut)
