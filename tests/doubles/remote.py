"""Model doubles as remote code is loaded: in modules of their own under `transformers_modules`."""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).parent


def _files(modelling, double, *parts):
    """A checkpoint folder's code, name -> source; a double imports its parts by their names."""
    return {modelling: HERE / f"{double}.py"} | {f"{p}.py": HERE / f"{p}.py" for p in parts}


LLADA = _files("modeling_llada.py", "llada_stock", "llada_stock_config")
DREAM = _files("modeling_dream.py", "dream_stock", "dream_stock_config", "dream_stock_generation")


def llada(revision=2):
    """The module of LLaDA's double at a hub revision, with LLaDAConfig and LLaDAModelLM.

    Two revisions give distinct classes of equal names, as two downloads of remote code do.
    """
    if revision not in (1, 2):
        raise ValueError(f"revision = {revision!r}: expected 1 or 2")
    name = f"transformers_modules.llada_stock_v{revision}"
    if name not in sys.modules:
        source = LLADA["modeling_llada.py"]
        # A package, whose parts are found beside the file and are the revision's own.
        spec = importlib.util.spec_from_file_location(
            name, source, submodule_search_locations=[str(HERE)]
        )
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
