"""Measure what reusing attention maps between video frames costs: `python benchmarks/attention_cache.py`.

A drawn circuit board is filmed by a camera that moves, stops and moves again; the sensor's noise goes on while it
stands. A network of the family with attention runs on every frame, once with the cache (as an ONNX graph with state in
ONNX Runtime) and once without. The table has, per threshold, the share of frames whose maps were reused, the change of
the network's raw output relative to its magnitude, the shift of the boxes that the plain network is most sure of, and
the time of the cached graph relative to the same graph with a threshold that never reuses.

Weights are random with a fixed seed, and batch normalisation is calibrated on other frames: the figures show how far
reused maps differ from new ones, not a change of mAP.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from trtdeploy.models.attention_cache import CachedAttention
from trtdeploy.models.choose import scripted
from trtdeploy.models.family import Network, NetworkOptions
from trtdeploy.models.insert import insert
from trtdeploy.scenes.circuit_boards import CircuitBoardScene

WIDTH, HEIGHT = 320, 192
TOP = 20
"""Boxes per frame that are compared."""
NOISE = 3.0
"""Standard deviation of the noise of a standing camera, in grey levels."""


def main(arguments: list[str] | None = None) -> int:
    """Print one row per kind and threshold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["cbam", "self_attention"])
    parser.add_argument("--thresholds", nargs="+", type=float, default=[0.01, 0.02, 0.05, 0.1])
    parser.add_argument("--frames", type=int, default=24, help="frames per part: moving, standing, moving")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    frames = video(options.frames)
    rows = []
    for kind in options.kinds:
        model = network(kind)
        never = run(model, 0.0, frames)
        for threshold in options.thresholds:
            rows.append({"kind": kind, "threshold": threshold, **compared(run(model, threshold, frames), never)})
            if not options.json:
                print(line(rows[-1]), flush=True)
    if options.json:
        print(json.dumps(rows, indent=1))
    return 0


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['kind']:>15}  threshold {row['threshold']:<5g} reused {row['reused']:6.1%}  output {row['output']:.2e}  "
        f"boxes median {row['box_median_px']:.3f} px, largest {row['box_largest_px']:.2f} px  time {row['time']:.2f}"
    )


def video(count: int) -> list[torch.Tensor]:
    """Return `[1, 3, H, W]` RGB frames: the camera moves, stands and moves on."""
    scene = CircuitBoardScene(5, width=WIDTH, height=HEIGHT)
    rng = np.random.default_rng(0)
    frames = []
    for index in [*range(count), *[count] * count, *range(count, 2 * count)]:
        image = scene.frame(index)[0].astype(np.float32)
        noisy = np.clip(image + rng.normal(0, NOISE, image.shape), 0, 255)[..., ::-1] / 255
        frames.append(torch.from_numpy(np.ascontiguousarray(noisy.transpose(2, 0, 1), np.float32))[None])
    return frames


def network(kind: str) -> torch.nn.Module:
    """Return a network of the family with attention after the backbone and on the neck, its learned factor at 1."""
    torch.manual_seed(0)
    model = Network(NetworkOptions(class_count=6)).eval()
    for place in ("backbone", "neck"):
        insert(model, kind, place)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            parameter.data.fill_(1.0)
    calibrate(model)
    return model


def calibrate(model: torch.nn.Module) -> None:
    """Set the statistics of batch normalisation from frames of another board, so that signals pass the layers."""
    scene = CircuitBoardScene(9, width=WIDTH, height=HEIGHT)
    images = np.stack([scene.frame(10 * index)[0][..., ::-1] for index in range(8)]).astype(np.float32) / 255
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
        norm.train()
    with torch.no_grad():
        model(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))))
    for norm in norms:
        norm.eval()


def run(model: torch.nn.Module, threshold: float, frames: list[torch.Tensor]) -> dict[str, Any]:
    """Run the cached graph in ONNX Runtime over the video; return the outputs, reuse per frame and seconds."""
    cached = CachedAttention(model, threshold).eval()
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        state = cached.start(frames[0])
        names = ["images", "grey", *(f"map_{i}" for i in range(len(state) - 1))]
        path = Path(folder) / "cached.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            args = (frames[0], *state)
            torch.onnx.export(
                scripted(cached, *args), args, str(path), dynamo=False, opset_version=18, input_names=names
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    values = [value.numpy() for value in state]
    outputs, reused, seconds = [], [], 0.0
    for frame in frames:
        feeds = dict(zip(names, [frame.numpy(), *values], strict=True))
        start = time.perf_counter()
        output, *after = session.run(None, feeds)
        seconds += time.perf_counter() - start
        reused.append(np.array_equal(after[0], values[0]))
        outputs.append(output)
        values = after
    return {"outputs": outputs, "reused": reused, "seconds": seconds}


def compared(cached: dict[str, Any], plain: dict[str, Any]) -> dict[str, float]:
    """Return the figures of one row, over the frames whose maps were reused."""
    differences, shifts = [0.0], [np.zeros(1)]
    for got, wanted, reused in zip(cached["outputs"], plain["outputs"], cached["reused"], strict=True):
        if not reused:
            continue
        differences.append(float(np.abs(got - wanted).max() / np.abs(wanted).max()))
        best = np.argsort(wanted[0, 4:].max(axis=0))[-TOP:]
        shifts.append(np.abs(corners(got[0, :4, best]) - corners(wanted[0, :4, best])).max(axis=1))
    moved = np.concatenate(shifts[1:] or shifts)
    return {
        "reused": float(np.mean(cached["reused"])),
        "output": max(differences),
        "box_median_px": float(np.median(moved)),
        "box_largest_px": float(moved.max()),
        "time": cached["seconds"] / plain["seconds"],
    }


def corners(boxes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return `[N, 4]` corners of boxes given by centre and size."""
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


if __name__ == "__main__":
    raise SystemExit(main())
