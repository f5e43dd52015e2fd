"""`patch`: puts dpad under one live model, and takes it off again."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch

from dpad import ops
from dpad.decode import graphs
from dpad.decode.full_forward import FullForward
from dpad.decode.workspace import Workspace, Workspaces
from dpad.generation import api, presets
from dpad.generation.checks import on_the_model
from dpad.generation.config import DPadGenerationConfig
from dpad.generation.diffusion import diffusion_generate
from dpad.generation.html import report_html
from dpad.models import forks, fused_projections, linear_layers
from dpad.models.adapter import Adapter, check_tensors, find_adapter, snapshot, unwrap
from dpad.models.parts import UnsupportedModelError


class _Missing:
    """Stands for an entry that the instance did not have; a class, so that copies keep it."""


class _Entry:
    """What stands in the patched instance for one of its methods.

    An object, not a closure: a deep copy or an unpickled model gets entries of its own handle.
    """

    __wrapped__: Any

    def __init__(self, handle: "Handle", stock: Callable[..., Any]) -> None:
        self.handle = handle
        # Names only: marks that torch.compile left on the stock method would make it look through.
        functools.update_wrapper(self, stock, updated=())
        del self.__wrapped__  # the stock method is the handle's to know
        self.__signature__ = inspect.signature(stock)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


class _Forward(_Entry):
    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
    def _prepare(self) -> bool:
        """Called by torch.compile, not traced: what it makes is no part of a graph."""
        return self.handle.full_forward is not None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        handle = self.handle
        self._prepare()
        return handle._full(handle.stock_forward, args, kwargs)


class _Generate(_Entry):
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return api.generate(self.handle.model, *args, **kwargs)


class _DiffusionGenerate(_Entry):
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return diffusion_generate(self.handle.model, *args, **kwargs)


class Handle:
    """What `patch` did to one model. Prints as a table; a context manager that undoes it.

    `model` is the patched model, `adapter` the decoder's view of it, `config` the defaults that
    `generate` uses, `fuse_projections` whether it keeps stacked weights, `cuda_graphs` whether it
    captures cached steps, `notes` everything that runs differently from what one might expect. A
    deep copy of the model, or one that was pickled, is patched too and has a handle of its own.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        config: DPadGenerationConfig | None,
        notes: list[str],
        fuse_projections: bool = False,
        cuda_graphs: bool = True,
        strict: bool = True,
    ) -> None:
        self.model, self.config, self.notes, self.strict = model, config, notes, strict
        self.fuse_projections, self.cuda_graphs = fuse_projections, cuda_graphs
        self._saved: dict[str, Any] = {}
        self._forget()

    def _forget(self) -> None:
        """Drops what follows from the model and is never copied."""
        self._adapter: Adapter | None = None
        self._full: Any = None  # a `FullForward` once it is needed
        self._seen: Any = None
        self._workspaces = Workspaces(self.cuda_graphs)

    def __getstate__(self) -> dict[str, Any]:
        kept = ("model", "config", "notes", "strict", "fuse_projections", "cuda_graphs", "_saved")
        return {n: getattr(self, n) for n in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def adapter(self) -> Adapter:
        """The decoder's view of the model as it is now: what was replaced, converted or configured
        since the last call is looked at anew. UnsupportedModelError if that cannot be decoded.
        """
        seen = None if torch.compiler.is_compiling() else snapshot(self.model)
        if self._adapter is None or (seen is not None and seen != self._seen):
            adapter = self._found(seen)
            if self._adapter is None or not adapter.same_as(self._adapter):
                adapter.strict = self.strict
                adapter.fused = fused_projections.of_layers(adapter.layers, self.fuse_projections)
                if self._adapter is not None:
                    self._forget()
                self._adapter = adapter
            self._seen = seen
        return self._adapter

    def _found(self, seen: Any) -> Adapter:
        """The adapter of the model as it is; the one at hand where only an MLP is another's now,
        which is called as a whole.
        """
        try:
            return find_adapter(self.model)
        except UnsupportedModelError:
            had = self._adapter
            same_words = self._seen is not None and seen is not None and seen[1] == self._seen[1]
            if had is None or not same_words or not had.stands():
                raise
            check_tensors(had)
            return had

    @property
    def active(self) -> bool:
        """True until `remove`."""
        return bool(self._saved)

    def stock_entry(self, name: str) -> Any:
        """What the instance had under a name that `patch` took, or None."""
        saved = self._saved.get(name, _Missing)
        return None if saved is _Missing else saved

    @property
    def stock_forward(self) -> Callable[..., Any]:
        """The model's own forward, bound."""
        saved: Callable[..., Any] | None = self.stock_entry("forward")
        if saved is not None:
            return saved
        # torch.compile of torch 2.11 can trace neither `forward.__get__` nor `MethodType`.
        return functools.partial(type(self.model).forward, self.model)

    @property
    def full_forward(self) -> FullForward:
        adapter = self.adapter
        if self._full is None or self._full.adapter is not adapter:
            self._full = FullForward(self.model, adapter, self.stock_forward)
        return self._full

    def _install(self) -> None:
        forward = _Forward(self, self.model.forward)
        generate = _Generate(self, functools.partial(api.generate, self.model))
        entries = {"_dpad_handle": self, "forward": forward, "generate": generate}
        if self.adapter.sampler is not None:
            sampler = functools.partial(diffusion_generate, self.model)
            entries[self.adapter.sampler] = _DiffusionGenerate(self, sampler)
        for name, value in entries.items():
            self._saved[name] = self.model.__dict__.get(name, _Missing)
            object.__setattr__(self.model, name, value)

    def remove(self) -> None:
        """Puts the model back as it was and frees the buffers; doing it twice is harmless."""
        for name, value in self._saved.items():
            if value is _Missing:
                self.model.__dict__.pop(name, None)
            else:
                object.__setattr__(self.model, name, value)
        self._saved = {}
        if self._adapter is not None and self._adapter.fused is not None:
            self._adapter.fused.free()
        self._workspaces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @contextmanager
    def workspace(self) -> Iterator[Workspace]:
        """Buffers that nobody else uses meanwhile, for one call; what is fused is up to date."""
        kept, fused = [], self.adapter.fused
        if fused is not None:
            fused.refresh()
            kept = fused.tensors()  # graphs read them, even if the handle is removed meanwhile
        with self._workspaces.borrow() as workspace:
            yield workspace
        del kept

    def _cached_steps(self) -> str:
        """How cached steps run, as words for the report."""
        if not self.cuda_graphs:
            return "eager (cuda_graphs=False)"
        count, why_not = self._workspaces.last_graphs or (0, graphs.obstacle(self.adapter))
        if why_not is not None:
            return f"eager ({why_not})"
        return f"replayed as CUDA graphs, captured when they are first needed ({count} so far)"

    def rows(self) -> Iterator[tuple[str, str]]:
        """(what, where it runs) for the table."""
        device = self.adapter.device.type
        info = ops.build_info()
        for name in graphs.OPERATORS:
            kernel = ops.has_kernel(name, device)
            where = f"{device} kernel" if kernel else "plain torch"
            if kernel and device == "cpu":
                where += f" ({info['cpu_isa']})"
            if not kernel:
                module = "_C_cuda" if device == "cuda" and ops.loaded("_C") else "_C"
                where += (
                    f" ({module}: {info[module]})" if info[module] != "loaded" else " (no kernel)"
                )
            yield name, where
        yield "cached steps", self._cached_steps()
        yield "linear", linear_layers.where(self.adapter.called())
        whole = {id(module) for module in self.adapter.called_whole()}
        if whole:
            names = [n for n, module in self.model.named_modules() if id(module) in whole]
            yield "called whole", f"{', '.join(names)} (hooks or a forward of their own)"
        if self.adapter.fused is not None:
            yield "fused", self.adapter.fused.where()

    def _sections(self) -> tuple[str, str, list[tuple[str, str]], str, list[tuple[str, Any]]]:
        """(title, what runs where, heading of the defaults, defaults) for the report."""
        adapter = self.adapter
        defaults = api.merge(self.model, self.config, None, {}, self.adapter)
        variant = presets.variant_of(self.model) or "no published values: nothing is approximated"
        state = "active" if self.active else "removed"
        sizes = (
            f"{len(adapter.layers)} layers, {adapter.num_heads}/{adapter.num_kv_heads} heads of "
            f"{adapter.head_dim}, {adapter.dtype}, {adapter.device}"
        )
        where = [
            ("forward", "full canvas on dpad's operators without gradients, else stock"),
            ("generate", "dpad"),
            *self.rows(),
            ("embed", "the model's own module, called"),
        ]
        shown = {**defaults.to_diff_dict(), "suffix": defaults.suffix}
        title = f"dpad on {type(self.model).__name__} ({adapter.family}), {state}"
        return title, sizes, where, f"defaults ({variant})", list(shown.items())

    def __repr__(self) -> str:
        title, sizes, where, heading, defaults = self._sections()
        lines = [title, f"  {sizes}", *(f"  {name:<16} {value}" for name, value in where)]
        lines += [heading, *(f"  {name:<22} {value}" for name, value in defaults)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        title, sizes, where, heading, defaults = self._sections()
        return report_html(title, [(sizes, where), (heading, defaults)], self.notes)


def _examine(model: torch.nn.Module, strict: bool) -> tuple[Adapter, list[str]]:
    """The adapter of a model, and notes for the report; UnsupportedModelError if it has none."""
    adapter = find_adapter(model)
    adapter.strict = strict
    adapter.refuse_unserved()
    left_out = forks.left_out(adapter)
    if left_out and strict:
        raise UnsupportedModelError(f"{'; '.join(left_out)}: pass strict=False to go on without")
    notes = [*adapter.notes, *left_out]
    skipped = ", ".join(adapter.unserved())
    if skipped:
        notes.append(f"hooks or a replaced forward on {skipped} are not run by dpad's forward")
    itself = " and ".join(on_the_model(adapter.model))
    if itself:
        does = "refuses them" if strict else "skips them"
        notes.append(f"{itself}: a call of the model runs them, generate {does}")
    return adapter, notes


def _check_flags(**flags: object) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} = {value!r}: expected True or False")


def patch(
    model: torch.nn.Module,
    config: DPadGenerationConfig | None = None,
    *,
    strict: bool = True,
    fuse_projections: bool = False,
    cuda_graphs: bool = True,
) -> Handle:
    """Accelerates one live model in place; `Handle.remove` undoes it.

    Only this instance changes, and only three entries of its ``__dict__``: parameters, modules,
    class and configuration stay as they are, so saving, LoRA and quantised layers keep working.

    Args:
        model: a LLaDA or Dream in the released remote code or in `dpad.models.hf`, or a PEFT,
            torch.compile or DataParallel wrapper of one: then the model inside is patched.
        config: `DPadGenerationConfig`, defaults of ``generate`` for this model.
        strict: refuse what a fork has beyond its family (weights, submodules, arguments and outputs
            of its forward), and hooks that dpad's forward would not run, now and at each call; else
            skip and report them. It runs those of projections, embedding and head, and of norms and
            MLPs: such a module is called, with the computed rows ``[rows, width]`` of a pass; and
            those on whole blocks, which see the same rows (`dpad.rows_of_pass`).
        fuse_projections: compute q, k, v in one product and gate, up in another, from copies of
            their weights that the handle keeps until `remove`: their bytes more memory, stated in
            its report. A changed or replaced layer is copied anew, one that is no plain Linear is
            called, each at the next call of the model's.
        cuda_graphs: on CUDA, replay cached steps, and refreshes that look back, as graphs. They are
            captured when first needed, on buffers that the handle keeps until `remove`; a step that
            cannot be captured runs eagerly, with the reason in the handle's report. While one is
            captured, other threads must not wait for the whole device (``torch.cuda.synchronize``):
            the capture would fail, and the call goes on eagerly.

    Returns:
        `Handle`.

    Raises:
        TypeError: not a torch module, or an argument of another type.
        UnsupportedModelError: a class or module tree that dpad does not know, with what was looked
            for; parameters offloaded or on several devices; hooks elsewhere while `strict`.
        RuntimeError: the model is already patched; the message names the handle.
    """
    if config is not None and not isinstance(config, DPadGenerationConfig):
        raise TypeError(f"config is a {type(config).__name__}: expected a DPadGenerationConfig")
    _check_flags(strict=strict, fuse_projections=fuse_projections, cuda_graphs=cuda_graphs)
    if isinstance(model, torch.nn.Module) and "_dpad_handle" in unwrap(model).__dict__:
        handle = unwrap(model)._dpad_handle
        raise RuntimeError(
            f"the model is already patched by the handle at {hex(id(handle))}: call its remove() "
            "first (model._dpad_handle.remove())"
        )
    adapter, notes = _examine(model, strict)
    handle = Handle(adapter.model, config, notes, fuse_projections, cuda_graphs, strict)
    if handle.adapter.fused is not None:
        handle.adapter.fused.refresh()
    handle._install()
    return handle


def patched(
    model: torch.nn.Module, config: DPadGenerationConfig | None = None, **options: Any
) -> Handle:
    """`patch` for a with-statement: the model is as it was when the block ends."""
    return patch(model, config, **options)


def supports(model: torch.nn.Module, *, strict: bool = True) -> "Support":
    """Whether `patch` would take the model, without touching it.

    Returns:
        a truthy or falsy `Support` with the family and the reason.
    """
    _check_flags(strict=strict)
    try:
        adapter, _ = _examine(model, strict)
    except (TypeError, ValueError) as error:
        return Support(None, str(error))
    return Support(adapter.family, None)


class Support:
    """Answer of `supports`: truthy if supported; `family`, and `reason` where it is not."""

    def __init__(self, family: str | None, reason: str | None) -> None:
        self.family, self.reason = family, reason

    def __bool__(self) -> bool:
        return self.family is not None

    def __repr__(self) -> str:
        return f"supported ({self.family})" if self else f"not supported: {self.reason}"
