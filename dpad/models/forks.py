"""What a fork has beyond its family: weights, submodules, arguments and outputs of its forward.

Forks keep class and parameter names and add a head, a gate or an output. dpad's forward runs what
the family has and nothing else, so whatever is found here would be left out.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

from torch import nn

from dpad.models.adapter import Adapter

# Arguments of the released forwards: what is none of these may change what a model computes.
ARGUMENTS = {"self", "input_ids", "inputs_embeds", "attention_mask", "attention_bias", "mask_id"}
ARGUMENTS |= {"position_ids", "cache_position", "num_logits_to_keep", "logits_to_keep", "labels"}
ARGUMENTS |= {"output_attentions", "output_hidden_states", "output_router_logits", "return_dict"}
ARGUMENTS |= {"past_key_values", "use_cache", "update_past_key_values", "dual_cache", "store_kv"}
ARGUMENTS |= {"cache", "use_block_cache", "block_past_key_values", "block_size", "replace_position"}
ARGUMENTS |= {"timesteps", "sample_mode"}
OUTPUTS = {"loss", "aux_loss", "logits", "hidden_states", "attentions", "router_logits"}
OUTPUTS |= {"cache", "past_key_values", "block_past_key_values"}
# Modules without weights that change nothing in eval mode, or that the adapter stands in for: the
# activation and RoPE are checked by the configuration.
_PLAIN = (nn.Dropout, nn.Identity, nn.SiLU, nn.modules.loss._Loss)
_STOOD_IN_FOR = ("Rotary", "SiLU", "Silu")
_PLACES = ("rotary_emb",)


def _read(adapter: Adapter) -> list[nn.Module]:
    """The modules whose weights dpad's forward reads."""
    used = [*adapter.called(), adapter.embed.module, *(norm.module for norm in adapter.norms())]
    used += adapter.constant_modules()
    for layer in adapter.layers:
        used += [part.module for part in layer.attention.parts()]
        # A routed MLP is looked after by its own kind; a dense one may lie in the block itself.
        names = ("whole", "gate_proj", "up_proj", "down_proj")
        parts = (getattr(layer.mlp, name, None) for name in names)
        used += [part.module for part in parts if part is not None]
    return used


def unread_weights(adapter: Adapter) -> list[str]:
    """Names of weights that dpad's forward does not read."""
    known = {id(p) for module in _read(adapter) for p in module.parameters()}
    return [name for name, p in adapter.model.named_parameters() if id(p) not in known]


def unknown_modules(adapter: Adapter) -> list[str]:
    """Names of modules without weights that no part of dpad's forward stands for."""
    known = {id(m) for module in _read(adapter) for m in module.modules()}
    unknown = [
        name
        for name, module in adapter.model.named_modules()
        if not _is_plain(module)
        and name.rpartition(".")[2] not in _PLACES
        and not any(id(m) in known for m in module.modules())
    ]
    tops = [name for name in unknown if name.rpartition(".")[0] not in unknown]
    modules = dict(adapter.model.named_modules())
    return [name for name in tops if next(modules[name].parameters(), None) is None]


def _is_plain(module: nn.Module) -> bool:
    if isinstance(module, (nn.ModuleList, nn.ModuleDict, nn.Sequential)):
        return all(_is_plain(child) for child in module.children())
    return isinstance(module, _PLAIN) or any(n in type(module).__name__ for n in _STOOD_IN_FOR)


def further_arguments(adapter: Adapter) -> list[str]:
    """Names of arguments that no released forward has."""
    known = ARGUMENTS | adapter.forward_takes.keys()
    parameters = inspect.signature(type(adapter.model).forward).parameters.values()
    stars = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.kind not in stars and p.name not in known]


def further_outputs(model: nn.Module) -> list[str]:
    """Names of outputs that no released forward has, as far as its source shows them."""
    try:
        source = inspect.getsource(inspect.unwrap(type(model).forward))
        tree = ast.parse(textwrap.dedent(source))
    except (OSError, TypeError, SyntaxError):  # no source at hand
        return []
    return sorted({name for name in _outputs(tree) if name not in OUTPUTS})


def _outputs(tree: ast.AST) -> Iterator[str]:
    """Names beside `logits` where an output is made, and those put on what is returned."""
    nodes = list(ast.walk(tree))
    returned = {n.value.id for n in nodes if isinstance(n, ast.Return) and _is_name(n.value)}
    for node in nodes:
        names: list[Any] = []
        if isinstance(node, ast.Call) and "loss" not in _callee(node):
            names = [keyword.arg for keyword in node.keywords]
        elif isinstance(node, ast.Dict):
            names = [getattr(key, "value", None) for key in node.keys]
        if "logits" in names:
            yield from (name for name in names if isinstance(name, str))
        for target in node.targets if isinstance(node, ast.Assign) else ():
            owner = getattr(target, "value", None)
            if _is_name(owner) and owner.id in returned:
                name = getattr(target, "attr", None)
                key = getattr(getattr(target, "slice", None), "value", None)
                yield from (n for n in (name, key) if isinstance(n, str))


def _callee(call: ast.Call) -> str:
    """The last name of what is called: a loss takes logits beside labels, and is no output."""
    return str(getattr(call.func, "attr", getattr(call.func, "id", ""))).lower()


def _is_name(node: Any) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name)


def _listed(names: Iterable[str]) -> str:
    first = list(names)
    more = f" and {len(first) - 3} more" if len(first) > 3 else ""
    return ", ".join(first[:3]) + more


def left_out(adapter: Adapter) -> list[str]:
    """What dpad's forward leaves out of this model's, as sentences for its report."""
    forward = f"{type(adapter.model).__name__}.forward"
    found = {
        "does not read": unread_weights(adapter),
        "does not run": unknown_modules(adapter),
        f"does not know the arguments of {forward}:": further_arguments(adapter),
        f"does not give the outputs of {forward}:": further_outputs(adapter.model),
    }
    return [f"dpad's forward {what} {_listed(names)}" for what, names in found.items() if names]
