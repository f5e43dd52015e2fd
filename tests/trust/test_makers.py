"""The table of operators: complete, in the order of the schemas, and right about the kernels."""

import pytest
import torch

from dpad import ops
from dpad.ops import inputs
from dpad.ops._signatures import SIGNATURES
from tests.trust.draws import SIZES, call


def schema(name):
    return getattr(torch.ops.dpad, name).default._schema


def test_every_operator_stands_in_every_table():
    names = set(ops.reference.__all__) - {"gumbel"}
    assert set(inputs.NAMES) == set(SIGNATURES) == set(SIZES) == names
    written = {
        name: tuple(
            a.name for a in schema(name).arguments if a.alias_info and a.alias_info.is_write
        )
        for name in names
    }
    assert {name: w for name, w in written.items() if w} == inputs.WRITTEN


@pytest.mark.parametrize("name", inputs.NAMES)
def test_arguments_are_those_of_the_schema(name):
    made = inputs.make(name)
    assert list(made) == [a.name for a in schema(name).arguments]
    tensors = {a.name for a in schema(name).arguments if "Tensor" in str(a.type)}
    assert {operand.name for operand in SIGNATURES[name].operands} == tensors
    optional = {a.name for a in schema(name).arguments if "Optional[Tensor]" in str(a.type)}
    assert {o.name for o in SIGNATURES[name].operands if o.optional} == optional


def test_fakes_give_what_the_kernels_give():
    """Shapes and dtypes of 200 random calls on the meta device; of plans the fixed ones."""
    for seed in range(200):
        name, _, arguments = call(seed)
        if name == "plan_pass":
            continue  # the number of its rows depends on values
        on_meta = {
            key: v.to("meta") if isinstance(v, torch.Tensor) else v for key, v in arguments.items()
        }
        fake, real = (getattr(torch.ops.dpad, name)(*a.values()) for a in (on_meta, arguments))
        for f, r in zip(*(x if isinstance(x, tuple) else (x,) for x in (fake, real)), strict=True):
            assert r is None or (f.shape, f.dtype) == (r.shape, r.dtype), name
