"""Trains the example image classifier on shapes that it draws itself, and writes what the registry imports.

    python -m tools.example_models.shapes --out examples/image-classifier

Needs torch, onnx, numpy and pillow; about two minutes on two cores, no network and no GPU.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

LABELS = ("circle", "square", "triangle", "star", "cross", "ring")
SIDE = 32
FINE = 4  # drawn so many times larger, then scaled down
MEAN, DEVIATION = 0.5, 0.5


def classifier() -> nn.Sequential:
    """Three convolutions and a linear layer: `image` [batch, 1, 32, 32] in, `scores` [batch, 6] that sum to one out."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64 * 16, len(LABELS)), nn.Softmax(dim=1)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    chance = np.random.default_rng(arguments.seed)
    model = classifier()
    train(model, chance, arguments.steps)
    model.eval()
    print(f"right of 1200 unseen: {accuracy(model, np.random.default_rng(arguments.seed + 1)):.4f}")
    write(model, arguments.out, np.random.default_rng(arguments.seed + 2))


def train(model: nn.Sequential, chance: np.random.Generator, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        images, labels = batch(chance, 64)
        loss = nn.functional.cross_entropy(model[:-1](images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 0:
            print(f"step {step}: loss {loss.item():.4f}")


def accuracy(model: nn.Sequential, chance: np.random.Generator) -> float:
    images, labels = batch(chance, 1200)
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def batch(chance: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    labels = chance.integers(len(LABELS), size=size)
    pixels = np.stack(
        [np.asarray(picture(chance, LABELS[label]).convert("L").resize((SIDE, SIDE))) for label in labels]
    )
    images = (pixels.astype(np.float32) / 255 - MEAN) / DEVIATION
    return torch.from_numpy(images[:, None]), torch.from_numpy(labels)


def picture(chance: np.random.Generator, label: str, side: int = SIDE * FINE) -> Image.Image:
    """The shape, anywhere, of any size, turned, in any two colours that differ, with some noise."""
    while True:
        paper, ink = chance.integers(256, size=(2, 3))
        if abs(int(paper.mean()) - int(ink.mean())) > 50:
            break
    image = Image.new("RGB", (side, side), tuple(int(part) for part in paper))
    radius = side * chance.uniform(0.22, 0.42)
    centre = chance.uniform(radius, side - radius, size=2)
    draw(ImageDraw.Draw(image), label, centre, radius, chance.uniform(0, 2 * math.pi), tuple(int(p) for p in ink))
    noisy = np.asarray(image, dtype=np.float32) + chance.normal(0, chance.uniform(0, 20), (side, side, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def draw(
    pen: ImageDraw.ImageDraw, label: str, centre: np.ndarray, radius: float, turn: float, ink: tuple[int, ...]
) -> None:
    box = [*(centre - radius), *(centre + radius)]
    if label == "circle":
        pen.ellipse(box, fill=ink)
    elif label == "ring":
        pen.ellipse(box, outline=ink, width=int(radius * 0.3))
    else:
        points = [
            (centre[0] + radius * far * math.cos(turn + angle), centre[1] + radius * far * math.sin(turn + angle))
            for far, angle in outline(label)
        ]
        pen.polygon(points, fill=ink)


def outline(label: str) -> list[tuple[float, float]]:
    """Corners as distance and angle."""
    if label == "star":
        return [(1.0 if corner % 2 == 0 else 0.42, corner * math.pi / 5) for corner in range(10)]
    if label == "cross":
        wide, arm = math.atan(0.3), math.hypot(1.0, 0.3)
        inner = 0.3 * math.sqrt(2)
        return [
            corner
            for quarter in range(4)
            for corner in (
                (arm, quarter * math.pi / 2 - wide),
                (arm, quarter * math.pi / 2 + wide),
                (inner, quarter * math.pi / 2 + math.pi / 4),
            )
        ]
    corners = {"triangle": 3, "square": 4}[label]
    return [(1.0, corner * 2 * math.pi / corners) for corner in range(corners)]


def write(model: nn.Sequential, folder: Path, chance: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, SIDE, SIDE),),
        str(folder / "model.onnx"),
        input_names=["image"],
        output_names=["scores"],
        dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    serving = {
        "batching": {"max_batch_size": 16, "preferred_batch_sizes": [4, 8], "max_queue_delay_us": 2000},
        "input": {"kind": "image", "mean": [MEAN], "std": [DEVIATION]},
        "output": {"kind": "labels", "labels": LABELS, "top": 3},
    }
    (folder / "serving.json").write_text(json.dumps(serving, indent=2) + "\n")
    samples = folder.parent / "samples"
    samples.mkdir(exist_ok=True)
    for label in ("star", "ring"):
        picture(chance, label, 96).save(samples / f"{label}.png")


if __name__ == "__main__":
    main()
