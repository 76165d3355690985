"""From what clients send to what the graph takes: pictures and recordings to numbers."""

import io
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_MOST_PIXELS = 50_000_000
# Shorter recordings end in silence, so that a graph's first window is full.
_LEAST_SECONDS = 0.25

Step = dict[str, Any]


def reader(step: Step) -> Callable[[Any], Any] | None:
    """A function from the request's tensor to the graph's, None where they are the same. It raises ValueError."""
    if step["kind"] == "image":
        return lambda tensor: np.stack([_image(content, step) for content in tensor.reshape(-1)])
    if step["kind"] == "audio":
        return lambda tensor: join([_audio(content, step)[None] for content in tensor.reshape(-1)])
    return None


def plain(tensor: Any) -> Any:
    """A tensor as the runtime takes it: Triton's strings are bytes, the runtime's are text."""
    if tensor.dtype != np.object_:
        return tensor
    return np.array([content.decode() for content in tensor.reshape(-1)], dtype=object).reshape(tensor.shape)


def join(tensors: Sequence[Any]) -> Any:
    """One tensor of all, along the first axis; shorter rows are filled with silence."""
    if len(tensors) == 1:
        return tensors[0]
    if len({tensor.shape[1:] for tensor in tensors}) == 1:
        return np.concatenate(tensors)
    longest = max(tensor.shape[1] for tensor in tensors)
    return np.concatenate([np.pad(tensor, ((0, 0), (0, longest - tensor.shape[1]))) for tensor in tensors])


def _image(content: bytes, step: Step) -> Any:
    """A picture of any size and format as [channels, height, width], normalised."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = _MOST_PIXELS
    try:
        with Image.open(io.BytesIO(content)) as image:
            mode = "L" if step["channels"] == 1 else "RGB"
            resized = image.convert(mode).resize((step["width"], step["height"]))
    except UnidentifiedImageError:
        raise ValueError("image is no picture of a known format; send PNG, JPEG or the like") from None
    except (Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ValueError(f"image cannot be read: {error}") from error
    pixels = np.asarray(resized, dtype=np.float32).reshape(step["height"], step["width"], -1) / 255
    normal = (pixels - np.float32(step["mean"])) / np.float32(step["std"])
    return normal.transpose(2, 0, 1)


def _audio(content: bytes, step: Step) -> Any:
    """A RIFF WAVE recording as samples from -1 to 1 at the step's rate."""
    samples, rate = _wave(content)
    if len(samples) > rate * step["max_seconds"]:
        raise ValueError(f"audio is longer than {step['max_seconds']} s")
    samples = np.pad(samples, (0, max(0, round(rate * _LEAST_SECONDS) - len(samples))))
    if rate == step["sample_rate"]:
        return samples
    count = max(1, round(len(samples) * step["sample_rate"] / rate))
    if rate > step["sample_rate"]:
        # What is above the new rate's reach would come back as noise.
        width = round(rate / step["sample_rate"])
        samples = np.convolve(samples, np.full(width, 1 / width, dtype=np.float32), "same")
    places = np.linspace(0, len(samples) - 1, count)
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


def _wave(content: bytes) -> tuple[Any, int]:
    """Samples of all channels' mean, and their rate. Format: Multimedia Programming Interface 1.0, "WAVE"."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError("audio is no WAV file; send PCM or float samples as RIFF WAVE")
    position, described, data = 12, b"", b""
    while position + 8 <= len(content):
        name, size = content[position : position + 4], struct.unpack("<I", content[position + 4 : position + 8])[0]
        body = content[position + 8 : position + 8 + size]
        described = body if name == b"fmt " else described
        data = body if name == b"data" else data
        position += 8 + size + size % 2
    if len(described) < 16 or not data:
        raise ValueError("audio is a WAV file without a format or without data")
    kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", described[:16])
    kind = struct.unpack("<H", described[24:26])[0] if kind == 0xFFFE and len(described) >= 26 else kind
    samples = _samples(data, kind, bits)
    if not 1 <= channels <= 32 or not 1000 <= rate <= 384_000 or len(samples) < channels:
        raise ValueError("audio is a WAV file without samples, or of an unknown kind")
    frames = samples[: len(samples) // channels * channels].reshape(-1, channels)
    return frames.mean(axis=1, dtype=np.float32), rate


def _samples(data: bytes, kind: int, bits: int) -> Any:
    types = {(1, 8): "u1", (1, 16): "<i2", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}
    if (kind, bits) not in types:
        raise ValueError(f"audio has samples of kind {kind} with {bits} bits; send 8, 16 or 32 bit PCM, or float")
    whole = np.frombuffer(data[: len(data) // (bits // 8) * (bits // 8)], types[kind, bits]).astype(np.float32)
    if bits == 8:
        return (whole - 128) / 128
    return np.nan_to_num(whole) if kind == 3 else whole / np.float32(2 ** (bits - 1))
