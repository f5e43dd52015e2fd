"""`calibrate`: which layers 8-bit products hurt, and factors against outliers of their inputs."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from dpad.models.adapter import Adapter, find_adapter
from dpad.models.int8_linear import Int8Linear
from dpad.models.quantized import check, layers_of
from dpad.values import entries, flag, real, several, whole

MEASURED_ROWS = 64  # of each canvas, evenly spread, whose outputs are compared
LEAST_GAIN = 0.9  # a layer is smoothed where its error falls below this share of the plain one


@dataclass
class Calibration:
    """What `calibrate` found; ``dpad.quantize(model, **found.options())`` uses it.

    `smoothing` maps names of layers to float32 ``[in_features]`` factors of their inputs, `keep`
    names the layers to leave as they are, `errors` maps every layer to the relative error of its
    outputs in 8 bits, plain and smoothed: ``|y8 - y| / |y|`` over the rows that were compared.
    """

    smoothing: dict[str, torch.Tensor]
    keep: list[str]
    errors: dict[str, tuple[float, float]]

    def options(self) -> dict[str, Any]:
        """The arguments `keep` and `smoothing` of `quantize`."""
        return {"keep": self.keep, "smoothing": self.smoothing}

    def __repr__(self) -> str:
        worst = sorted(self.errors.items(), key=lambda item: -min(item[1]))[:5]
        lines = [f"{len(self.errors)} layers, {len(self.smoothing)} smoothed, {self.keep} kept"]
        lines += [
            f"  {name}: {plain:.4f}, smoothed {smooth:.4f}" for name, (plain, smooth) in worst
        ]
        return "\n".join(lines)


@torch.no_grad()
def calibrate(
    model: nn.Module,
    canvases: Iterable[Any],
    *,
    head: bool = True,
    strength: float = 0.5,
    most_error: float = 0.05,
) -> Calibration:
    """Runs a model on some canvases and looks at what its linear layers get.

    Factors are SmoothQuant's (arXiv 2211.10438, eq. 4): with a the largest magnitude of an input
    channel over all canvases and w that of the weight's column, the input is multiplied by
    ``w**(1 - strength) / a**strength``, and the column divided by it. A layer gets them where
    that lowers its error by a tenth or more, and is kept as it is where its error exceeds
    `most_error` with and without.

    Args:
        model: what `quantize` takes; it is not changed.
        canvases: sequences of token ids (lists or 1-D tensors), as decoding meets them: prompts
            with the model's mask id behind, half-decoded and finished texts.
        head: whether the head is to be quantised.
        strength: how much of the difficulty moves from inputs to weights, 0 to 1.
        most_error: the largest error of a layer that is quantised. Without outliers it is about
            0.013; a channel 100 times as large as the others makes it 0.2.

    Returns:
        `Calibration`.

    Raises:
        TypeError, ValueError: as `quantize`; a bad argument, by name and value, before any work.
    """
    head, strength = flag("head", head), real(0, 1)("strength", strength)
    most_error = real(0)("most_error", most_error)
    canvases = list(entries("canvases", canvases, "sequences of token ids"))
    adapter = find_adapter(model)
    canvases = [_canvas(f"canvases[{i}]", ids, adapter) for i, ids in enumerate(canvases)]
    if not canvases:
        raise ValueError("canvases: expected at least one, each a sequence of token ids")
    names, _ = layers_of(adapter, head)
    check(adapter, names)
    layers = {name: cast("nn.Linear", adapter.model.get_submodule(name)) for name in names}
    largest: dict[str, torch.Tensor] = {}

    def look(name: str, x: torch.Tensor, y: torch.Tensor) -> None:
        most = x.float().abs().amax(0)
        largest[name] = torch.maximum(largest.get(name, most), most)

    _run(adapter, canvases, layers, look)
    factors = {n: _factors(layers[n].weight, most, strength) for n, most in largest.items()}
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in layers}  # |y|, plain, smoothed

    def compare(name: str, x: torch.Tensor, y: torch.Tensor) -> None:
        some = torch.linspace(0, len(x) - 1, min(len(x), MEASURED_ROWS)).round().long()
        x, y = x[some.to(x.device)], y[some.to(x.device)].float()
        outputs = (Int8Linear.of(layers[name], f)(x) for f in (None, factors[name]))
        squares = [y, *(out.float() - y for out in outputs)]
        sums[name] += torch.stack([s.double().square().sum().cpu() for s in squares])

    _run(adapter, canvases, layers, compare)
    errors = {}
    for name, s in sums.items():
        plain, smooth = (s[1:] / s[0].clamp(min=1e-300)).sqrt().tolist()
        errors[name] = (plain, smooth)
    keep = [name for name, pair in errors.items() if min(pair) > most_error]
    better = [n for n, (plain, smooth) in errors.items() if smooth < LEAST_GAIN * plain]
    return Calibration({n: factors[n] for n in better if n not in keep}, keep, errors)


def _canvas(name: str, ids: Any, adapter: Adapter) -> torch.Tensor:
    """int64 ``[n]``; ValueError for what the model cannot decode."""
    known = whole(0, adapter.vocab_size - 1)
    canvas = torch.tensor(several(known, "a sequence of token ids", least=1)(name, ids))
    if len(canvas) > adapter.max_positions:
        raise ValueError(
            f"{name} has {len(canvas)} positions, the model has {adapter.max_positions}"
        )
    return canvas


def _factors(weight: Any, most: torch.Tensor, strength: float) -> torch.Tensor:
    column = weight.detach().float().abs().amax(0)
    factors = column.pow(1 - strength) / most.pow(strength)
    usable = (column > 0) & (most > 0) & factors.isfinite()
    return torch.where(usable, factors, 1.0).clamp(1e-6, 1e6)


Look = Callable[[str, torch.Tensor, torch.Tensor], None]


def _run(
    adapter: Adapter, canvases: list[torch.Tensor], layers: Mapping[str, nn.Module], look: Look
) -> None:
    """The model's forward on every canvas; look(name, rows in, rows out) at every layer's call."""
    with _watched(layers, look):
        for ids in canvases:
            adapter.model(ids[None].to(adapter.device))


@contextmanager
def _watched(layers: Mapping[str, nn.Module], look: Look) -> Iterator[None]:
    def hook(name: str) -> Callable[..., None]:
        return lambda module, given, out: look(name, given[0].flatten(0, -2), out.flatten(0, -2))

    hooks = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
