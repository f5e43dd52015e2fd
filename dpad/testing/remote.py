"""Model doubles as remote code is loaded: in modules of their own under `transformers_modules`."""

import importlib.util
import sys
from pathlib import Path

LLADA_SOURCE = Path(__file__).with_name("llada_stock.py")


def llada(revision=2):
    """The module of LLaDA's double at a hub revision, with LLaDAConfig and LLaDAModelLM.

    Two revisions give distinct classes of equal names, as two downloads of remote code do.
    """
    if revision not in (1, 2):
        raise ValueError(f"revision = {revision!r}: expected 1 or 2")
    name = f"transformers_modules.llada_stock_v{revision}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, LLADA_SOURCE)
        module = importlib.util.module_from_spec(spec)
        module.REVISION = revision
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def llada_model(config, revision=2, state_dict=None):
    """A double in eval mode and float32 from configuration fields (a dict), on any Transformers.

    Built from the class and its configuration, not by the loader, which fails on 5.x; 5.x also
    drops `use_cache` from the configuration, which the forward reads.
    """
    code = llada(revision)
    config = code.LLaDAConfig(**config)
    config.use_cache = False
    model = code.LLaDAModelLM(config).float().eval()
    if state_dict is not None:
        model.load_state_dict(state_dict)
    return model
