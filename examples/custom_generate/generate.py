"""For a model repository's folder ``custom_generate``: decodes with dpad where it is installed.

``model.generate(ids, custom_generate="<repository or folder>", trust_remote_code=True,
block_length=32)`` runs this file, if the model has Transformers' `GenerationMixin`.
"""

from dpad import custom_generate as generate

__all__ = ["generate"]
