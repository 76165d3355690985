"""Trains the example speech model on digits that espeak-ng speaks, and writes what the registry imports.

    python -m tools.example_models.words --out examples/speech-to-text

Needs espeak-ng, torch, onnx and numpy; about ten minutes on two cores, no network and no GPU.
"""

import argparse
import io
import json
import math
import shutil
import subprocess
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATE = 8_000
WINDOW, HOP, BANDS, WIDTH = 256, 80, 32, 64
# What the logarithm of a band is like in speech, so that the network sees numbers near one.
LOG_MEAN, LOG_DEVIATION = -4.0, 4.0
VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029")
VARIANTS = ("", "+m1", "+m3", "+m4", "+m7", "+f1", "+f2", "+f4")
# Never trained on; the committed recording and the figure at the end are by it.
HELD_OUT = ("en-us+f3", "en-gb+m2")


@dataclass(frozen=True, slots=True)
class Phrase:
    """Samples from -1 to 1, and the digits that are said."""

    samples: np.ndarray
    digits: tuple[int, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phrases", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    chance = np.random.default_rng(arguments.seed)
    spoken = [phrase(chance, voices()) for _ in range(arguments.phrases)]
    unheard = [phrase(chance, HELD_OUT) for _ in range(100)]
    print(f"{sum(len(each.samples) for each in spoken) / RATE / 60:.0f} minutes of speech")
    model = recogniser()
    train(model, spoken, chance, arguments.steps)
    model.eval()
    right = sum(transcribed(model, each.samples) == each.digits for each in unheard)
    print(f"{right} of {len(unheard)} phrases by unheard voices are right word for word")
    write(model, arguments.out)


def voices() -> list[str]:
    return [voice + variant for voice in VOICES for variant in VARIANTS]


def phrase(chance: np.random.Generator, speakers: "list[str] | tuple[str, ...]") -> Phrase:
    digits = tuple(int(digit) for digit in chance.integers(10, size=chance.integers(1, 7)))
    speaker = speakers[chance.integers(len(speakers))]
    speed, pitch, gap = chance.integers(110, 190), chance.integers(25, 75), chance.integers(0, 8)
    return Phrase(say(" ".join(WORDS[digit] for digit in digits), speaker, speed, pitch, gap), digits)


def say(text: str, speaker: str, speed: int = 150, pitch: int = 50, gap: int = 2) -> np.ndarray:
    """What the synthesiser says, at 8 kHz."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        options = ("-v", speaker, "-s", str(speed), "-p", str(pitch), "-g", str(gap), "-w", file.name)
        subprocess.run(("espeak-ng", *options, text), check=True)
        with wave.open(io.BytesIO(Path(file.name).read_bytes())) as recording:
            rate = recording.getframerate()
            samples = np.frombuffer(recording.readframes(recording.getnframes()), "<i2").astype(np.float32) / 32768
    smooth = np.convolve(samples, np.full(3, 1 / 3, dtype=np.float32), "same")
    places = np.linspace(0, len(smooth) - 1, round(len(smooth) * RATE / rate))
    return np.interp(places, np.arange(len(smooth)), smooth).astype(np.float32)


def recogniser() -> nn.Sequential:
    """`audio` [batch, samples] in, `scores` [batch, time, symbol] out; symbol 0 is CTC's blank."""
    layers: list[object] = [nn.Unflatten(1, (1, -1)), *features()]
    channels = BANDS
    for stride, dilation in ((2, 1), (2, 1), (1, 1), (1, 2), (1, 2)):
        layers += [
            nn.Conv1d(channels, WIDTH, 7, stride=stride, dilation=dilation, padding=3 * dilation),
            nn.BatchNorm1d(WIDTH),
            nn.ReLU(),
            nn.Dropout(0.1),
        ]
        channels = WIDTH
    return nn.Sequential(*layers, nn.Conv1d(WIDTH, len(WORDS) + 1, 1), Turned())


def features() -> list[object]:
    """Logarithms of mel bands, computed by fixed convolutions so that they are part of the graph.

    The filters are triangles on the mel scale (S. Davis, P. Mermelstein, 1980, with O'Shaughnessy's 2595 log10 form).
    """
    window, place = np.hanning(WINDOW), np.arange(WINDOW)
    bins = WINDOW // 2 + 1
    angles = 2 * math.pi * np.outer(np.arange(bins), place) / WINDOW
    transform = np.concatenate([np.cos(angles) * window, np.sin(angles) * window])
    mel = np.linspace(0, 2595 * math.log10(1 + RATE / 2 / 700), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1) / RATE * WINDOW
    rising = (np.arange(bins)[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - np.arange(bins)[None]) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return [fixed(transform, HOP), Power(), fixed(np.concatenate([triangles, triangles], axis=1)), Logarithm()]


def fixed(weights: np.ndarray, stride: int = 1) -> object:
    """A convolution that learns nothing: one row of weights for each channel that it gives."""
    taps = weights[:, None] if stride > 1 else weights[:, :, None]
    layer = nn.Conv1d(taps.shape[1], taps.shape[0], taps.shape[2], stride=stride, bias=False)
    layer.weight = nn.Parameter(torch.from_numpy(taps.astype(np.float32)), requires_grad=False)
    return layer


class Power(nn.Module):  # type: ignore[misc]  # torch is not installed where types are checked
    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:
        return spectrum * spectrum


class Logarithm(nn.Module):  # type: ignore[misc]  # as above
    def forward(self, bands: torch.Tensor) -> torch.Tensor:
        return (torch.log(bands + 1e-5) - LOG_MEAN) / LOG_DEVIATION


class Turned(nn.Module):  # type: ignore[misc]  # as above
    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.transpose(1, 2)


def train(model: nn.Sequential, spoken: list[Phrase], chance: np.random.Generator, steps: int) -> None:
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        chosen = [spoken[place] for place in chance.integers(len(spoken), size=24)]
        heard = [disturbed(each.samples, chance) for each in chosen]
        longest = max(len(samples) for samples in heard)
        audio = np.stack([np.pad(samples, (0, longest - len(samples))) for samples in heard])
        scores = model(torch.from_numpy(audio)).log_softmax(2).transpose(0, 1)
        target = torch.tensor([digit + 1 for each in chosen for digit in each.digits])
        lengths = torch.tensor([len(each.digits) for each in chosen])
        loss = nn.functional.ctc_loss(scores, target, torch.full((len(chosen),), len(scores)), lengths)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)


def disturbed(samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Louder or softer, with a pause before and after, and noise or none."""
    before, after = chance.integers(0, RATE // 2, size=2)
    loud = np.pad(samples, (before, after)) * chance.uniform(0.2, 1.5)
    noise = chance.normal(0, chance.choice([0.0, 10 ** chance.uniform(-4, -2)]), len(loud))
    return (loud + noise).astype(np.float32)


def transcribed(model: nn.Sequential, samples: np.ndarray) -> tuple[int, ...]:
    with torch.no_grad():
        path = model(torch.from_numpy(samples[None]))[0].argmax(1).tolist()
    return tuple(place - 1 for before, place in zip([0, *path], path, strict=False) if place not in (0, before))


def write(model: nn.Sequential, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model,
        (torch.zeros(1, RATE),),
        str(folder / "model.onnx"),
        input_names=["audio"],
        output_names=["scores"],
        dynamic_axes={"audio": {0: "batch", 1: "samples"}, "scores": {0: "batch", 1: "time"}},
        opset_version=17,
        dynamo=False,
    )
    serving = {
        "batching": {"max_batch_size": 8, "preferred_batch_sizes": [4], "max_queue_delay_us": 5000},
        "input": {"kind": "audio", "sample_rate": RATE, "max_seconds": 60},
        "output": {"kind": "ctc", "symbols": ["", *(f" {word}" for word in WORDS)], "blank": 0},
    }
    (folder / "serving.json").write_text(json.dumps(serving, indent=2) + "\n")
    samples = folder.parent / "samples"
    samples.mkdir(exist_ok=True)
    with wave.open(str(samples / "three-one-four.wav"), "wb") as recording:
        recording.setparams((1, 2, RATE, 0, "NONE", ""))
        spoken = say("three one four", HELD_OUT[0])
        recording.writeframes((spoken * 32767).clip(-32768, 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    if shutil.which("espeak-ng") is None:
        raise SystemExit("espeak-ng is needed; install the package of that name")
    main()
