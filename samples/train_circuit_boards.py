"""Train the demo model on drawn circuit boards, with and without attention, and compare the two.

Steps, from the repository root:

    python samples/train_circuit_boards.py data --work work/boards
    python samples/train_circuit_boards.py train --work work/boards --attention coordatt --minutes 60
    python samples/train_circuit_boards.py train --work work/boards --attention none --minutes 60
    python samples/train_circuit_boards.py evaluate --work work/boards
    python samples/train_circuit_boards.py video boards.mp4 --frames 300
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from trtdeploy.models.loss import Loss
from trtdeploy.models.onnx_export import verify_onnx, write_onnx
from trtdeploy.models.training import Batch, Trainer, TrainingOptions
from trtdeploy.models.yolo import yolo_n
from trtdeploy.scenes.circuit_boards import CLASS_NAMES, CircuitBoardScene

# boards are never shared: training, held-out and video use separate ranges of seeds
TRAIN_SEED, HELD_OUT_SEED, VIDEO_SEED = 0, 1_000_000, 2_000_000
CROP_WIDTH, CROP_HEIGHT = 416, 320
FRAME_WIDTH, FRAME_HEIGHT = 640, 384
MOST_OBJECTS = 160
WORK = click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for data and checkpoints.")


@click.group()
def main() -> None:
    """Draw data, train, evaluate and export the circuit-board model."""


@main.command()
@WORK
@click.option("--boards", default=500, show_default=True, help="Training boards.")
@click.option("--views", default=8, show_default=True, help="Training images per board.")
@click.option("--held-out", default=40, show_default=True, help="Held-out boards, three frames each.")
@click.option("--jobs", default=2, show_default=True, help="Processes that draw.")
def data(work: Path, boards: int, views: int, held_out: int, jobs: int) -> None:
    """Draw the training crops and the held-out frames into arrays."""
    work.mkdir(parents=True, exist_ok=True)
    _draw(work / "train", TRAIN_SEED, boards, views, (CROP_HEIGHT, CROP_WIDTH), jobs)
    _draw(work / "held_out", HELD_OUT_SEED, held_out, 3, (FRAME_HEIGHT, FRAME_WIDTH), jobs)


def _draw(stem: Path, first: int, boards: int, views: int, shape: tuple[int, int], jobs: int) -> None:
    """Draw `boards * views` images into `stem`.npy and their labels into `stem`.labels.npy."""
    images = np.lib.format.open_memmap(
        stem.with_suffix(".npy"), mode="w+", dtype=np.uint8, shape=(boards * views, *shape, 3)
    )
    labels = np.full((boards * views, MOST_OBJECTS, 5), -1, np.float32)
    tasks = [(first + i, views, shape) for i in range(boards)]
    with ProcessPoolExecutor(jobs) if jobs > 1 else nullcontext() as pool:
        results = pool.map(_draw_board, tasks, chunksize=4) if pool else map(_draw_board, tasks)
        for number, (drawn, labelled) in enumerate(results):
            images[number * views : (number + 1) * views] = drawn
            labels[number * views : (number + 1) * views] = labelled
    images.flush()
    np.save(stem.with_suffix(".labels.npy"), labels)
    found = np.bincount(labels[..., 0][labels[..., 0] >= 0].astype(int), minlength=len(CLASS_NAMES))
    counts = ", ".join(f"{name} {count}" for name, count in zip(CLASS_NAMES, found, strict=True))
    click.echo(f"{stem.name}: {boards * views} images, {counts}")


def _draw_board(task: tuple[int, int, tuple[int, int]]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draw one board's images at half of the camera's scale, as 1280x720 becomes 640x360."""
    seed, views, (height, width) = task
    cv2.setNumThreads(1)
    scene = CircuitBoardScene(seed, defect_rate=0.10)
    images = np.full((views, height, width, 3), 114, np.uint8)
    labels = np.full((views, MOST_OBJECTS, 5), -1, np.float32)
    full_frame = width == FRAME_WIDTH
    inner = height - 24 if full_frame else height
    top = (height - inner) // 2
    for view in range(views):
        image, boxes, classes = scene.sample(view, width=width * 2, height=inner * 2)
        rng = np.random.default_rng([seed, view])
        if rng.random() < 0.3:
            _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 95))])
            image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
        images[view, top : top + inner] = cv2.resize(image, (width, inner), interpolation=cv2.INTER_LINEAR)
        count = min(len(boxes), MOST_OBJECTS)
        labels[view, :count, 0] = classes[:count]
        labels[view, :count, 1:] = boxes[:count] / 2 + np.array([0, top, 0, top])
    return images, labels


def _batches(work: Path, size: int, seed: int) -> Iterator[Batch]:
    """Yield augmented training batches without end."""
    images = np.load(work / "train.npy", mmap_mode="r")
    labels = np.load(work / "train.labels.npy")
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(images))
        for start in range(0, len(order) - size + 1, size):
            chosen = np.sort(order[start : start + size])
            pairs = [_augment(np.asarray(images[i]), labels[i].copy(), rng) for i in chosen]
            target = np.stack([label for _, label in pairs])
            target = target[:, : max(1, int((target[..., 0] >= 0).sum(1).max()))]
            boxes = np.where(target[..., :1] >= 0, target[..., 1:], 0.0).astype(np.float32)
            batch = torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2)
            yield batch.float() / 255, torch.from_numpy(target[..., 0].astype(np.int64)), torch.from_numpy(boxes)


def _augment(
    image: NDArray[np.uint8], label: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Flip, recolour and sometimes letterbox one crop; BGR becomes RGB."""
    height, width = image.shape[:2]
    real = label[:, 0] >= 0
    if rng.random() < 0.5:
        image, x = image[:, ::-1], label[real, 1].copy()
        label[real, 1], label[real, 3] = width - label[real, 3], width - x
    if rng.random() < 0.5:
        image, y = image[::-1], label[real, 2].copy()
        label[real, 2], label[real, 4] = height - label[real, 4], height - y
    # one multiplication and shift per channel through a table: brightness, contrast and tint
    level = np.arange(256, dtype=np.float32)[:, None]
    contrast, tint = rng.uniform(0.8, 1.2), rng.uniform(0.9, 1.1, 3)
    table = (((level - 110) * contrast + 110 + rng.uniform(-18, 18)) * tint).clip(0, 255).astype(np.uint8)
    image = cv2.LUT(np.ascontiguousarray(image), table[:, None, :].reshape(1, 256, 3))
    if rng.random() < 0.15:
        bar = int(rng.integers(12, 90))
        image[:bar] = image[-bar:] = 114
        clipped = label[:, [2, 4]].clip(bar, height - bar)
        lost = (clipped[:, 1] - clipped[:, 0]) < 0.5 * (label[:, 4] - label[:, 2])
        label[:, [2, 4]] = clipped
        kept = label[real & ~lost]
        label = np.full_like(label, -1)
        label[: len(kept)] = kept
    return image[..., ::-1], label


@main.command()
@WORK
@click.option("--attention", type=click.Choice(["none", "cbam", "coordatt"]), default="coordatt", show_default=True)
@click.option("--minutes", default=60.0, show_default=True, help="Training time.")
@click.option("--batch", default=16, show_default=True, help="Images per step.")
@click.option("--threads", default=1, show_default=True, help="CPU threads.")
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
def train(work: Path, attention: str, minutes: float, batch: int, threads: int, device: str) -> None:
    """Train one variant; run it again to resume."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    torch.manual_seed(0)
    model = yolo_n(len(CLASS_NAMES), _kind(attention)).to(device)
    trainer = Trainer(model, TrainingOptions(budget_s=minutes * 60), work / f"{attention}.pt")

    def report(at: Trainer, loss: Loss) -> None:
        if at.step % 50 == 0:
            parts = f"box {loss.box:.3f} score {loss.score:.3f} bins {loss.bins:.3f}"
            click.echo(f"step {at.step} {at.clock.spent_s / 60:.1f} min {at.images} images {parts}")

    trainer.run(_batches(work, batch, seed=trainer.step), report)


def _kind(attention: str) -> Any:
    return None if attention == "none" else attention


@main.command()
@WORK
@click.option("--variant", "variants", multiple=True, default=("coordatt", "none"), show_default=True)
@click.option("--limit", default=0, help="Evaluate only so many frames; 0 means all.")
def evaluate(work: Path, variants: tuple[str, ...], limit: int) -> None:
    """Write each variant as ONNX, check it against torch and measure mAP through ONNX Runtime."""
    from board_scores import measure  # the file beside this one

    torch.set_num_threads(1)
    results = {}
    for attention in variants:
        state = torch.load(work / f"{attention}.pt", map_location="cpu", weights_only=True)
        model = yolo_n(len(CLASS_NAMES), _kind(attention))
        model.load_state_dict(state["averaged"])
        path = work / f"circuit_boards_{attention}.onnx"
        write_onnx(model, path, CLASS_NAMES)
        difference = verify_onnx(model, path, [(1, FRAME_HEIGHT, FRAME_WIDTH), (3, 160, 224), (2, 320, 320)])
        if difference > 1e-4:
            raise click.ClickException(f"{path}: ONNX Runtime differs from torch by {difference:.1e}, limit 1e-4.")
        images = np.load(work / "held_out.npy", mmap_mode="r")
        labels = np.load(work / "held_out.labels.npy")
        scores = measure(path, images[: limit or None], labels[: limit or None], CLASS_NAMES)
        parameters = sum(p.numel() for p in model.parameters())
        results[attention] = {
            "parameters": parameters, "GFLOPs": _gflops(model), "steps": state["step"], "images": state["images"],
            "minutes": round(state["spent_s"] / 60, 1), "difference": difference, **scores,
        }  # fmt: skip
    (work / "results.json").write_text(json.dumps(results, indent=1))
    rows = list(next(iter(results.values())))
    click.echo("| figure | " + " | ".join(results) + " |\n|---|" + "---|" * len(results))
    for row in rows:
        values = (results[name][row] for name in results)
        click.echo(f"| {row} | " + " | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values) + " |")


def _gflops(model: torch.nn.Module) -> float:
    """Count two operations per multiply-add of the convolutions at 640x384."""
    total = 0

    def count(layer: torch.nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * layer.get_parameter("weight")[0].numel() * output.numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, FRAME_HEIGHT, FRAME_WIDTH))
    for hook in hooks:
        hook.remove()
    return total / 1e9


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--frames", default=300, show_default=True)
@click.option("--seed", default=VIDEO_SEED, show_default=True)
@click.option("--width", default=1280, show_default=True)
@click.option("--height", default=720, show_default=True)
def video(path: Path, frames: int, seed: int, width: int, height: int) -> None:
    """Draw the demo's video at 30 frames a second."""
    scene = CircuitBoardScene(seed, width=width, height=height)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30.0, (width, height))
    if not writer.isOpened():
        raise click.ClickException(f"{path}: OpenCV cannot write this video. Use a name that ends in .mp4 or .avi.")
    try:
        for index in range(frames):
            writer.write(scene.frame(index)[0])
    finally:
        writer.release()


if __name__ == "__main__":
    main()
