"""Preprocessing in words, and as the options that ask for it."""

from __future__ import annotations

from auditkit.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

__all__ = ["changed_aspects", "in_words", "left_out", "option_line"]

_PLAIN = Preprocessing()


def option_line(steps: Preprocessing, label_offset: int = 0) -> str:
    """Return all options that lead to these steps and this offset of the labels; empty for the defaults."""
    options: list[str] = []
    if steps.input_range != _PLAIN.input_range:
        options.append(f"--input-range {_range(steps.input_range)}")
    if steps.mean is not None:
        options.append(f"--mean {_channels(steps.mean, IMAGENET_MEAN)}")
    if steps.std is not None:
        options.append(f"--std {_channels(steps.std, IMAGENET_STD)}")
    if steps.channel_order != _PLAIN.channel_order:
        options.append(f"--channel-order {steps.channel_order}")
    if steps.layout != _PLAIN.layout:
        options.append(f"--layout {steps.layout}")
    if steps.outputs != _PLAIN.outputs:
        options.append(f"--outputs {steps.outputs}")
    if label_offset:
        options.append(f"--label-offset {label_offset}")
    return " ".join(options)


def left_out(configured: Preprocessing, wanted: Preprocessing) -> tuple[str, ...]:
    """Return the options behind `configured` that `wanted` does without."""
    pairs = {
        "--input-range": (configured.input_range, wanted.input_range, _PLAIN.input_range),
        "--mean": (configured.mean, wanted.mean, None),
        "--std": (configured.std, wanted.std, None),
        "--channel-order": (configured.channel_order, wanted.channel_order, _PLAIN.channel_order),
        "--layout": (configured.layout, wanted.layout, _PLAIN.layout),
        "--outputs": (configured.outputs, wanted.outputs, _PLAIN.outputs),
    }
    return tuple(option for option, (was, will, plain) in pairs.items() if was != plain and will == plain)


def changed_aspects(configured: Preprocessing, wanted: Preprocessing) -> tuple[str, ...]:
    """Return which of layout, input_range, normalisation and channel_order differ, the weightiest first."""
    differ = {
        "layout": configured.layout != wanted.layout,
        "input_range": configured.input_range != wanted.input_range,
        "normalisation": (configured.mean, configured.std) != (wanted.mean, wanted.std),
        "channel_order": configured.channel_order != wanted.channel_order,
    }
    return tuple(aspect for aspect, changed in differ.items() if changed)


def in_words(steps: Preprocessing, channels: int) -> str:
    """Return `RGB in 0..255, minus mean 123.675,116.28,103.53` and the like."""
    colour = "grey" if channels == 1 else steps.channel_order.upper()
    words = [f"{colour} in {_number(steps.input_range[0])}..{_number(steps.input_range[1])}"]
    if steps.mean is not None:
        words.append(f"minus mean {_channels(steps.mean, None)}")
    if steps.std is not None:
        words.append(f"divided by std {_channels(steps.std, None)}")
    if steps.mean is None and steps.std is None:
        words.append("not normalised")
    if steps.layout == "nhwc":
        words.append("channels last")
    return ", ".join(words)


def _range(bounds: tuple[float, float]) -> str:
    low, high = bounds
    return _number(high) if low == 0 else f"{_number(low)},{_number(high)}"


def _channels(values: tuple[float, ...], named: tuple[float, ...] | None) -> str:
    return "imagenet" if values == named else ",".join(map(_number, values))


def _number(value: float) -> str:
    return f"{value:.6g}"
