"""Results as JSON files: a run that was interrupted goes on where it stopped."""

import json
import os
from pathlib import Path


def write_json(path, value):
    """Writes plain values whole or not at all; the folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


class Store:
    """One JSON file per cell in a folder; a cell counts as done if its settings are the same."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def _path(self, name):
        return self.folder / f"{name}.json"

    def get(self, name, settings):
        """The record of a finished cell, or None."""
        try:
            record = json.loads(self._path(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return record if record["settings"] == json.loads(json.dumps(settings)) else None

    def put(self, name, settings, machine, result):
        """Writes a cell and returns its record."""
        record = {"cell": name, "settings": settings, "machine": machine, "result": result}
        write_json(self._path(name), record)
        return json.loads(json.dumps(record))
