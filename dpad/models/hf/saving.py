"""Saving of a model that has no ``generate`` of Transformers, and generates all the same."""

import shutil
from pathlib import Path

from transformers import GenerationConfig

FILE_NAME = "generation_config.json"


class SavesGenerationConfig:
    """Writes generation_config.json beside the weights, which Transformers leaves out here.

    It is ``model.generation_config`` if that is set, else the file of the folder that the model was
    loaded from.
    """

    def save_pretrained(self, save_directory, is_main_process=True, **kwargs):
        """As in Transformers."""
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if not is_main_process:
            return
        config = getattr(self, "generation_config", None)
        source = Path(getattr(self.config, "_name_or_path", None) or "") / FILE_NAME
        target = Path(save_directory) / FILE_NAME
        if isinstance(config, GenerationConfig):
            config.save_pretrained(save_directory)
        elif (
            self.config._name_or_path and source.is_file() and source.resolve() != target.resolve()
        ):
            shutil.copyfile(source, target)
