"""What is wrong with a plan, a machine or a run is said, and what was sound stays so."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny_detector
from device_cases import VERSION, check, images, network, opened
from simulated_device import Machine
from simulated_device.plans import Traits, make_plan
from simulated_device.tensorrt import IExecutionContext

from trtdeploy.backends.base import SessionOptions
from trtdeploy.backends.device import open_plan, time_plan
from trtdeploy.backends.device.libraries import error_log
from trtdeploy.backends.device.session import DeviceSession
from trtdeploy.core.engine_info import EngineInfo, PlanInfo
from trtdeploy.core.errors import DeviceMemoryError, EngineError, MissingDependencyError

MIB = 1 << 20


def info(**plan: Any) -> EngineInfo:
    return tiny_detector.info("tensorrt", plan=PlanInfo(**plan))


def refused(
    machine: Machine,
    path: Path,
    about: EngineInfo | None = None,
    version: str = VERSION,
    library: str = "tensorrt",
    kind: type[EngineError] = EngineError,
) -> str:
    """Return the message of a plan that is not opened; nothing of it may stay on the device."""
    libraries = machine.libraries(version, library=library)
    with pytest.raises(kind) as caught:
        open_plan(path, about or info(), SessionOptions(), library=library, libraries=libraries)  # type: ignore[arg-type]
    assert type(caught.value) is kind
    message = str(caught.value)
    assert str(path) in message
    del caught  # its frames hold what had been opened
    gc.collect()
    assert machine.memory.left() == []
    assert machine.context_stack == []
    return message


class TestPlans:
    def plan(self, folder: Path, about: EngineInfo | None = None, **changes: Any) -> Path:
        return make_plan(folder / "x.engine", network(), about or info(), **changes)

    @pytest.mark.parametrize(
        ("built", "here", "options", "opens"),
        [
            ("10.13.3.9", "10.13.3.9", [], True),
            ("10.13.3.9", "10.13.3.11", [], True),
            ("10.13.3.9", "10.16.1.11", [], False),
            ("10.16.1.11", "10.13.3.9", ["--version-compatible"], False),
            ("10.13.3.9", "10.16.1.11", ["--version-compatible"], True),
            ("10.13.3.9", "11.4.0.106", ["--version-compatible"], True),
        ],
        ids=["same", "another build of it", "newer", "older", "newer and compatible", "11 and compatible"],
    )
    def test_a_plan_opens_with_the_version_it_was_built_for(
        self, tmp_path: Path, built: str, here: str, options: list[str], opens: bool
    ) -> None:
        about = info(options=options)
        with Machine() as machine:
            path = self.plan(tmp_path, about, version=built)
            if opens:
                libraries = machine.libraries(here)
                open_plan(path, about, SessionOptions(), library="tensorrt", libraries=libraries).close()
            else:
                message = refused(machine, path, about, here)
                assert f"it was built by TensorRT {built}, and {here} is installed" in message
                assert "Build it again" in message

    @pytest.mark.parametrize(
        ("capability", "targets", "options", "opens"),
        [
            ((8, 6), ["sm86"], [], True),
            ((8, 9), ["sm86"], [], False),
            ((8, 9), ["sm86"], ["--hardware-compatible"], True),
            ((7, 5), ["sm86"], ["--hardware-compatible"], False),
        ],
        ids=["same", "another", "another and compatible", "before Ampere and compatible"],
    )
    def test_a_plan_opens_on_the_gpu_it_was_built_for(
        self, tmp_path: Path, capability: tuple[int, int], targets: list[str], options: list[str], opens: bool
    ) -> None:
        about = info(targets=targets, options=options)
        with Machine(capability=capability) as machine:
            path = self.plan(tmp_path, about)
            if opens:
                libraries = machine.libraries()
                open_plan(path, about, SessionOptions(), library="tensorrt", libraries=libraries).close()
            else:
                gpu = "sm{}{}".format(*capability)
                assert f"it was built for sm86, and Simulated GPU is {gpu}" in refused(machine, path, about)

    def test_the_targets_of_tensorrt_rtx_are_read_from_the_plan(self, tmp_path: Path) -> None:
        rtx = {"version": "1.7.1.116", "library": "tensorrt_rtx"}
        with Machine(capability=(12, 0)) as machine:
            path = self.plan(tmp_path, targets=["sm80", "sm86"], **rtx)
            message = refused(machine, path, version="1.7.1.116", library="tensorrt_rtx")
            assert "it was built for sm80, sm86, and Simulated GPU is sm120" in message
            path = self.plan(tmp_path, targets=["sm86", "sm120"], **rtx)
            libraries = machine.libraries("1.7.1.116", library="tensorrt_rtx")
            session = open_plan(path, info(), SessionOptions(), library="tensorrt_rtx", libraries=libraries)
            batch = images(0)
            check(session.create_context().infer(batch), batch)
            session.close()

    def test_everything_that_differs_is_said_at_once_and_before_deserialising(self, tmp_path: Path) -> None:
        about = info(targets=["sm80"])
        with Machine() as machine:
            path = self.plan(tmp_path, about, version="10.3.0.26", traits=Traits(plugin="never asked for"))
            message = refused(machine, path, about)
        assert "TensorRT 10.3.0.26, and 10.13.3.9 is installed; it was built for sm80, and Simulated GPU" in message
        assert "never asked for" not in message

    def test_a_plan_that_was_changed_is_refused_before_it_is_deserialised(self, tmp_path: Path) -> None:
        path = self.plan(tmp_path)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with Machine() as machine:
            message = refused(machine, path)
            assert machine.calls == []
        assert re.search(r"changed after it was built.*SHA-256 is [0-9a-f]{64}", message)

    def test_a_plan_that_was_cut_is_refused(self, tmp_path: Path) -> None:
        path = self.plan(tmp_path)
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:-100])
        with Machine() as machine:
            assert f"the plan is cut: it has {size - 100} bytes and says {size}" in refused(machine, path)

    def test_a_plan_of_the_other_library_is_named(self, tmp_path: Path) -> None:
        path = self.plan(tmp_path, library="tensorrt_rtx", version="1.7.1.116")
        with Machine() as machine:
            assert "this is a plan of tensorrt-rtx, not of TensorRT" in refused(machine, path)

    def test_what_the_library_says_of_a_damaged_plan_is_passed_on(self, tmp_path: Path) -> None:
        path = self.plan(tmp_path)
        path.with_name("x.engine.sha256").unlink()
        path.write_bytes(path.read_bytes().replace(b"simulated-plan", b"simulated-plon"))
        with Machine() as machine:
            message = refused(machine, path)
        assert "TensorRT refused the plan" in message
        assert "TensorRT says: Serialization assertion" in message

    def test_host_code_is_refused(self, tmp_path: Path) -> None:
        path = self.plan(tmp_path, traits=Traits(host_code=True))
        with Machine() as machine:
            message = refused(machine, path)
        assert "contains host code, which runs with the rights of this process" in message
        assert "lean runtime excluded" in message

    def test_a_missing_plugin_is_named_with_the_fix(self, tmp_path: Path) -> None:
        path = self.plan(tmp_path, traits=Traits(plugin="FancyAttention"))
        with Machine() as machine:
            message = refused(machine, path)
        assert "needs plugins that are not loaded: FancyAttention (version 1, namespace 'acme')" in message
        assert "load_library" in message
        assert "--attention native" in message

    def test_the_plugin_registry_keeps_the_logger_of_the_first_session(self, tmp_path: Path) -> None:
        with Machine() as machine:
            libraries = machine.libraries()
            for name in ("a.engine", "b.engine"):
                sound = make_plan(tmp_path / name, network(), info())
                open_plan(sound, info(), SessionOptions(), library="tensorrt", libraries=libraries).close()
                gc.collect()
            path = self.plan(tmp_path, traits=Traits(plugin="FancyAttention"))
            with pytest.raises(EngineError, match=r"not loaded: FancyAttention"):
                open_plan(path, info(), SessionOptions(), library="tensorrt", libraries=libraries)

    def test_errors_of_one_run_are_not_told_again_of_another(self, tmp_path: Path) -> None:
        with Machine() as machine, opened(machine, tmp_path, Traits(capturable=False)) as session:
            context = session.create_context()
            for seed in range(3):  # the second logs that it cannot be captured
                context.infer(images(seed))
            machine.break_at("network begins")
            with pytest.raises(EngineError) as caught:
                context.infer(images(0))
            assert "captured" not in str(caught.value)

    def test_errors_from_a_thread_of_the_library_are_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with Machine() as machine:
            trt = machine.libraries().trt
            error_log(trt).log(trt.ILogger.Severity.ERROR, "from elsewhere")
            error_log(trt).log(trt.ILogger.Severity.WARNING, "not worth a line")
        assert caplog.messages == ["TensorRT: from elsewhere"]

    @pytest.mark.parametrize(
        "said",
        [
            "IPluginRegistry::getCreator: Error Code 4: Usage Error (Cannot find plugin: X, version: 1, namespace:.)",
            "getPluginCreator could not find plugin: X version: 1",
            "3: getPluginCreator could not find plugin X version 1 namespace ns",
        ],
    )
    def test_the_ways_in_which_versions_name_a_missing_plugin_are_known(self, said: str) -> None:
        from trtdeploy.backends.device.opening import _refusal

        assert "not loaded: X (version 1" in str(_refusal(Path("x"), "TensorRT", [said]))

    def test_no_memory_for_the_weights(self, tmp_path: Path) -> None:
        path = self.plan(tmp_path, traits=Traits(weight_bytes=2 * MIB))
        with Machine(memory_bytes=MIB) as machine:
            message = refused(machine, path, kind=DeviceMemoryError)
        assert "no memory for the engine's weights" in message

    def test_metadata_of_another_network(self, tmp_path: Path) -> None:
        with Machine() as machine:
            path = self.plan(tmp_path)
            other = msgspec.structs.replace(info(), outputs=info().outputs[:3])
            assert "the network's outputs are" in refused(machine, path, other)


class TestMemory:
    def test_a_context_too_many_says_how_much_it_wanted_and_the_others_go_on(self, tmp_path: Path) -> None:
        traits = Traits(scratch_bytes=3 * MIB)
        with Machine(memory_bytes=8 * MIB) as machine, opened(machine, tmp_path, traits) as session:
            contexts = [session.create_context() for _ in range(2)]
            left = len(machine.memory.left()), len(machine.handles)
            with pytest.raises(DeviceMemoryError) as caught:
                session.create_context()
            assert (len(machine.memory.left()), len(machine.handles)) == left, "what it had taken is given back"
            message = str(caught.value)
            assert "x.engine: no memory for context 3 (scratch memory of a context: 3.0 MiB)" in message
            assert "cudaMalloc of 3.0 MiB failed (2 of 8 MiB are free)" in message
            assert "Use fewer contexts" in message
            for seed in range(3):
                for context in contexts:
                    batch = images(seed)
                    check(context.infer(batch), batch)

    def test_no_memory_for_a_context_of_the_library(self, tmp_path: Path) -> None:
        traits = Traits(context_bytes=9 * MIB)
        with (
            Machine(memory_bytes=8 * MIB) as machine,
            opened(machine, tmp_path, traits) as session,
            pytest.raises(DeviceMemoryError, match=r"not make an execution context\. TensorRT says: .*memory"),
        ):
            session.create_context()

    def test_a_large_batch_makes_room_by_forgetting_other_shapes(self, tmp_path: Path) -> None:
        with Machine(memory_bytes=800_000) as machine, opened(machine, tmp_path) as session:
            context = session.create_context()
            for shape in [(4, 160, 192), (4, 128, 128), (3, 160, 192), (4, 160, 192)] * 3:
                batch = images(5, *shape)
                check(context.infer(batch), batch)

    def test_a_batch_that_never_fits_says_so_and_smaller_ones_still_run(self, tmp_path: Path) -> None:
        with Machine(memory_bytes=200_000) as machine, opened(machine, tmp_path) as session:
            context = session.create_context()
            for _ in range(3):
                with pytest.raises(DeviceMemoryError, match=r"no memory for input \[4, 160, 192, 3\]"):
                    context.infer(images(0, 4, 160, 192))
                batch = images(1)
                check(context.infer(batch), batch)

    def test_what_was_taken_before_memory_ended_is_given_back(self, tmp_path: Path) -> None:
        with Machine() as machine, opened(machine, tmp_path) as session:
            context = session.create_context()
            machine.memory.device_bytes = machine.memory.used(0)
            with pytest.raises(DeviceMemoryError):
                context.infer(images(0))
            assert not [block for block in machine.memory.left() if block.kind == "pinned"]


class TestRunning:
    @pytest.mark.parametrize(
        "work", ["cudaMemcpyHostToDevice", "network begins", "network ends", "cudaMemcpyDeviceToHost"]
    )
    @pytest.mark.parametrize("count", [0, 2], ids=["in the first run", "in a graph"])
    def test_a_failing_device_ends_the_session_and_closing_stays_safe(
        self, tmp_path: Path, work: str, count: int
    ) -> None:
        with Machine() as machine:
            with opened(machine, tmp_path) as session:
                first, second = session.create_context(), session.create_context()
                machine.break_at(work, count)
                for seed in range(count):
                    batch = images(seed)
                    check(first.infer(batch), batch)
                with pytest.raises(EngineError) as caught:
                    first.infer(images(9))
                assert "cudaErrorIllegalAddress" in str(caught.value)
                assert "start the process again" in str(caught.value)
                launched = machine.calls.count("cudaGraphLaunch")
                for use in (lambda: first.infer(images(1)), lambda: second.infer(images(1)), session.create_context):
                    with pytest.raises(
                        EngineError,
                        match=r"earlier run on the device did not end: .*cudaError.*Nothing more is started",
                    ):
                        use()
                assert machine.calls.count("cudaGraphLaunch") == launched
            session.close()

    def test_a_refused_start_ends_the_session_with_what_the_library_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(self: IExecutionContext, stream_handle: int) -> bool:
            return self._refuse("unit test")

        with Machine() as machine, opened(machine, tmp_path) as session:
            context = session.create_context()
            monkeypatch.setattr(IExecutionContext, "execute_async_v3", refuse)
            with pytest.raises(
                EngineError, match=r"could not start the network for input .* TensorRT says: .*unit test"
            ):
                context.infer(images(0))
            with pytest.raises(EngineError, match="Nothing more is started"):
                context.infer(images(0))

    @pytest.mark.parametrize(
        ("batch", "message"),
        [
            (lambda: images(0, 5), r"accepts batch 1 to 4, got 5"),
            (lambda: images(0, 1, 256, 256), r"accepts images of 96x96 to 160x192|accepts images of from 96x96"),
            (lambda: images(0)[:, ::2], r"not C-contiguous"),
            (lambda: images(0).astype("float32"), r"expected images .* uint8 in BGR order, got float32"),
        ],
        ids=["batch", "size", "layout", "type"],
    )
    def test_a_wrong_batch_is_refused_and_the_session_goes_on(
        self, tmp_path: Path, batch: Callable[[], Any], message: str
    ) -> None:
        with Machine() as machine, opened(machine, tmp_path) as session:
            context = session.create_context()
            with pytest.raises(EngineError, match=message):
                context.infer(batch())
            good = images(0)
            check(context.infer(good), good)

    def test_an_interrupt_in_the_middle_ends_the_session(self, tmp_path: Path) -> None:
        def interrupted(event: int) -> None:
            raise KeyboardInterrupt

        with Machine() as machine, opened(machine, tmp_path) as session:
            context = session.create_context()
            wait, session.libraries.cuda.synchronise = session.libraries.cuda.synchronise, interrupted  # type: ignore[method-assign]
            with pytest.raises(KeyboardInterrupt):
                context.infer(images(0))
            session.libraries.cuda.synchronise = wait  # type: ignore[method-assign]
            with pytest.raises(EngineError, match=r"did not end: KeyboardInterrupt\. Nothing more is started"):
                context.infer(images(0))


class TestInstallation:
    def test_without_tensorrt_the_message_says_how_to_install_it(self, tmp_path: Path) -> None:
        pytest.importorskip("cuda.bindings")
        path = make_plan(tmp_path / "x.engine", network(), info())
        with pytest.raises(MissingDependencyError, match=r"TensorRT is needed for engine .*x\.engine .*pip install"):
            open_plan(path, info(), SessionOptions(), library="tensorrt")

    def test_without_a_gpu_the_message_says_what_to_check(self, tmp_path: Path) -> None:
        pytest.importorskip("tensorrt_rtx")
        pytest.importorskip("cuda.bindings")
        path = make_plan(tmp_path / "x.engine", network(), info(), version="1.7.1.116", library="tensorrt_rtx")
        with pytest.raises(EngineError, match=r"GPU 0: cudaGetDeviceCount failed: cudaError(Insuff|NoDev).*nvidia-smi"):
            open_plan(path, info(), SessionOptions(), library="tensorrt_rtx")

    def test_without_cuda_python_the_message_says_how_to_install_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from trtdeploy.backends.device import cuda

        monkeypatch.setattr(cuda, "_MODULES", (("no_such_cuda.runtime", "no_such_cuda.driver"),))
        path = make_plan(tmp_path / "x.engine", network(), info())
        with pytest.raises(MissingDependencyError, match=r"cuda-python is needed .*pip install cuda-bindings"):
            cuda.load_cuda(f"engine {path}")

    def test_a_gpu_that_does_not_exist(self) -> None:
        text = r"GPU 2 does not exist: this machine has 2\. .*nvidia-smi -L"
        with Machine(devices=2) as machine, pytest.raises(EngineError, match=text):
            machine.libraries(device=2)


def test_a_plan_is_timed_by_the_device_with_its_graph(tmp_path: Path) -> None:
    with Machine("random") as machine:
        path = make_plan(tmp_path / "x.engine", network(), info())
        seconds = time_plan(path, info(), "tensorrt", runs=5, warm_up=3, libraries=machine.libraries())
        assert 1e-5 < seconds < 1
        assert machine.calls.count("cudaGraphLaunch") == 7
        assert machine.calls.count("cudaMemcpyAsync") == 0
        assert machine.memory.left() == []


def test_a_session_is_what_the_backends_expect(tmp_path: Path) -> None:
    from trtdeploy.backends.base import Context, Session

    with Machine() as machine, opened(machine, tmp_path) as session:
        typed: Session = session
        context: Context = typed.create_context()
        assert isinstance(session, DeviceSession)
        assert typed.info.backend == "tensorrt"
        assert context.infer(images(0))
