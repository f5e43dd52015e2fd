"""What a sweep has measured so far, as JSON lines: an interrupted one goes on from there."""

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

FORMAT, VERSION = "dpad-tune", 1
_SAMPLE = 64  # numbers of each parameter that the fingerprint reads


def fingerprint(model: torch.nn.Module) -> str:
    """Digest of a model's class, name, dtypes and some numbers of each parameter."""
    digest = blake2b(digest_size=8)
    config = getattr(model, "config", None)
    digest.update(f"{type(model).__name__} {getattr(config, '_name_or_path', '')}".encode())
    for name, value in model.named_parameters():
        digest.update(f"{name} {list(value.shape)} {value.dtype}".encode())
        if type(value.data) is torch.Tensor and value.device.type != "meta":
            some = value.detach().reshape(-1)[:_SAMPLE].double().cpu()
            digest.update(json.dumps(some.tolist()).encode())
    return digest.hexdigest()


def key(point: Any, prompts: Any) -> str:
    """Digest of a configuration, as plain values, and of the prompts that it decodes."""
    text = json.dumps([point, prompts], sort_keys=True)
    return blake2b(text.encode(), digest_size=12).hexdigest()


class Store:
    """Measured batches by their `key`; kept in a file if `path` names one.

    Args:
        path: file to continue or to begin, or None.
        header: what has to agree: option -> plain value.

    Raises:
        ValueError: the file is something else, or belongs to another model or seed.
    """

    def __init__(self, path: str | Path | None, header: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.cells: dict[str, dict[str, Any]] = {}
        header = {"format": FORMAT, "version": VERSION, **header}
        if self.path is None:
            return
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(header)
            return
        found, *cells = self._whole_lines(self.path)
        for name, value in header.items():
            if found.get(name) != value:
                raise ValueError(
                    f"path = {str(self.path)!r}: it was written with {name} = {found.get(name)!r}, "
                    f"this sweep has {value!r}; give it a file of its own"
                )
        self.cells = {cell.pop("key"): cell for cell in cells}

    def _whole_lines(self, path: Path) -> list[dict[str, Any]]:
        """The file's records; a last line that was cut off in writing is removed from it."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            if lines and not lines[-1].endswith("\n"):
                lines.pop()
                path.write_text("".join(lines), encoding="utf-8")
            records: list[dict[str, Any]] = [json.loads(line) for line in lines]
        except (ValueError, RecursionError) as error:
            raise ValueError(f"path = {str(path)!r}: not a sweep's file ({error})") from error
        if not records or not isinstance(records[0], dict):
            raise ValueError(f"path = {str(path)!r}: not a sweep's file")
        return records

    def _append(self, record: dict[str, Any]) -> None:
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def add(self, name: str, cell: dict[str, Any]) -> None:
        """Keeps a measured batch under its key."""
        self.cells[name] = cell
        self._append({"key": name, **cell})
