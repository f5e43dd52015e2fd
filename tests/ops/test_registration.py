"""What torch knows of the operators: schemas, opcheck, fakes; and what an import brings along."""

import os
import re
import subprocess
import sys

import pytest
import torch
from op_helpers import CPU_ONLY, DTYPES, twin
from op_samples import NAMES, WRITTEN, sample
from torch._subclasses.fake_tensor import FakeTensorMode

from dpad import ops

# Long lines go on behind an indent.
SCHEMAS = """
suffix_table(str kind, str grid, SymInt window, float decay, float scale, float count, SymInt
    near, SymInt length) -> Tensor
transfer_schedule(SymInt masks, SymInt steps) -> Tensor
suffix_sample(Tensor seed, Tensor row_key, Tensor block, Tensor redraw, Tensor end, Tensor total,
    str kind, str grid, SymInt window, float decay, float scale, float count, SymInt near, bool
    keep_last, SymInt length) -> (Tensor, Tensor)
plan_pass(Tensor start, Tensor end, Tensor kept, Tensor kept_count, Tensor scope, Tensor first,
    Tensor first_target, Tensor unseen, Tensor predecessor, int shift, SymInt block_length) ->
    (Tensor, Tensor, Tensor, Tensor)
suffix_gather(Tensor canvas, Tensor canvas_row, Tensor q_offsets, Tensor position, Tensor?
    hidden_until, SymInt mask_id) -> Tensor
rope_kv_write_(Tensor q, Tensor k, Tensor v, Tensor q_position, Tensor position, Tensor slot,
    Tensor q_offsets, Tensor kv_start, Tensor cos, Tensor sin, Tensor(a!) k_cache, Tensor(b!)
    v_cache, bool full_precision) -> Tensor
block_attention(Tensor q, Tensor k_cache, Tensor v_cache, Tensor q_offsets, Tensor kv_start,
    Tensor n_keys, float scale, Tensor? key_mask, Tensor? key_limit) -> Tensor
add_rms_norm_(Tensor(a!) residual, Tensor? delta, Tensor weight, float eps) -> Tensor
swiglu(Tensor gate, Tensor up) -> Tensor
linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor
route(Tensor logits, Tensor? bias, SymInt top_k, str score, bool normalise, SymInt groups, SymInt
    top_groups, float scaling) -> (Tensor, Tensor, Tensor, Tensor)
grouped_linear(Tensor x, Tensor weight, Tensor offsets) -> Tensor
grouped_swiglu(Tensor x, Tensor row, Tensor gate, Tensor up, Tensor offsets) -> Tensor
combine(Tensor y, Tensor order, Tensor weight, bool full_precision, bool round_weights) -> Tensor
int8_linear(Tensor x, Tensor weight, Tensor scale, Tensor? bias, Tensor? smoothing) -> Tensor
confidence(Tensor logits, Tensor l_offsets, Tensor position, Tensor rng, Tensor temperature,
    Tensor suppress, Tensor exclude, Tensor? noise, bool round_to_dtype) -> (Tensor, Tensor,
    Tensor, Tensor)
uniform(Tensor rng, Tensor l_offsets, Tensor position) -> Tensor
unmask_(Tensor(a!) canvas, Tensor(b!) committed_at, Tensor(c!) committed, Tensor(d!) masks_left,
    Tensor(e!) status, Tensor(f!) forward, Tensor canvas_row, Tensor l_offsets, Tensor position,
    Tensor token, Tensor score, Tensor probability, Tensor rule_value, Tensor quota, Tensor length,
    Tensor end_ids, int rule, int early_stop, SymInt mask_id, SymInt fill_id) -> ()
build_info() -> str
cpu_isa() -> str
set_cpu_isa(str name) -> ()
cpu_extensions() -> str
"""


def overload(name):
    return getattr(torch.ops.dpad, name).default


def registered():
    """Every operator of the namespace with its schema."""
    schemas = torch._C._jit_get_all_schemas()
    return {s.name.removeprefix("dpad::"): s for s in schemas if s.name.startswith("dpad::")}


def test_the_list_of_schemas():
    """A change here is a change of the binary interface: raise the schema version with it."""
    from dpad import _C

    lines = re.sub(r"\n +", " ", SCHEMAS.strip()).splitlines()
    expected = {line.split("(")[0]: line for line in lines}
    assert {n: str(s).removeprefix("dpad::") for n, s in registered().items()} == expected
    assert _C.schema_version == "6"


def test_numbers_come_from_the_compiled_module():
    """And are those that Python gives the names where the module is missing."""
    from dpad import _C
    from dpad.ops import _names

    for kind, names in _names._NAMES.items():
        compiled = getattr(_C, kind).split()
        assert compiled == names.split()
        assert getattr(ops, kind) == {name: number for number, name in enumerate(compiled)}


def test_names_of_mutating_operators_end_in_an_underscore():
    for name, schema in registered().items():
        written = [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write]
        assert bool(written) == name.endswith("_")
        assert tuple(written) == WRITTEN.get(name, ())
        assert not any(r.alias_info for r in schema.returns)


def test_every_operator_has_a_twin_a_function_and_a_kernel():
    assert set(NAMES) == set(ops.reference.__all__) - {"gumbel"}
    assert set(NAMES) | {"build_info", "cpu_isa", "set_cpu_isa", "cpu_extensions"} == set(
        registered()
    )
    for name in NAMES:
        assert name in ops.__all__ and ops.has_kernel(name, "cpu")
        # With or without a device: the module registers what it was built with.
        assert ops.has_kernel(name, "cuda") == (ops.loaded("_C_cuda") and name not in CPU_ONLY)


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    args = tuple(sample(name).values())
    # The number of rows of a plan depends on values: nothing to compile around it on its own.
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if name != "plan_pass":
        tests.append("test_aot_dispatch_dynamic")
    results = torch.library.opcheck(overload(name), args, test_utils=tests)
    assert set(results.values()) == {"SUCCESS"}


def variants(name):
    """Arguments of other dtypes and sizes, and with non-contiguous inputs."""
    written = WRITTEN.get(name, ())
    for dtype in DTYPES:
        args = sample(name, dtype)
        yield args
        turned = {
            k: v.transpose(0, 1).contiguous().transpose(0, 1)
            for k, v in args.items()
            if isinstance(v, torch.Tensor) and v.dim() >= 2 and k not in (*written, "key_mask")
        }
        yield {**args, **turned}
    if name in ("add_rms_norm_", "swiglu"):
        for rows in (0, 1):
            args = sample(name)
            yield {k: v[:rows] if getattr(v, "ndim", 0) == 2 else v for k, v in args.items()}
    if name == "int8_linear":
        yield {**sample(name), "smoothing": None}
    if name in ("linear", "int8_linear"):
        yield {**sample(name), "bias": None}
        yield {**sample(name), "x": sample(name)["x"][:0]}
    if name == "route":
        yield {**sample(name), "bias": None}
        yield {**sample(name), "logits": sample(name)["logits"][:0]}
    if name == "add_rms_norm_":
        yield {**sample(name), "delta": None}


def layout(value):
    """What a fake has to know of a result."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype, value.stride(), value.device
    return None if value is None else tuple(layout(v) for v in value)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "plan_pass"])
def test_fakes_agree_with_kernels(name):
    for args in variants(name):
        real = overload(name)(*args.values())
        mode = FakeTensorMode()
        with mode:
            fake = overload(name)(
                *(mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for v in args.values())
            )
        expected, actual = layout(real), layout(fake)
        assert actual == expected


def test_meta_tensors():
    """Shapes without data, as a model built on the meta device asks for."""
    out = ops.swiglu(torch.empty(3, 4, device="meta"), torch.empty(3, 4, device="meta"))
    assert out.is_meta and out.shape == (3, 4)
    with pytest.raises(RuntimeError, match=r"'up' has shape \[3, 5\], expected \[3, 4\]"):
        ops.swiglu(torch.empty(3, 4, device="meta"), torch.empty(3, 5, device="meta"))


def run_python(code, **environment):
    """Runs `code` in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_import_brings_torch_and_nothing_else():
    """No heavy package by `import dpad.ops`. DPAD_ISA chooses the kernels."""
    heavy = ("transformers", "safetensors", "typer", "rich", "matplotlib", "tokenizers")
    code = (
        f"import sys, dpad.ops as o; print([m for m in {heavy} if m in sys.modules], o.cpu_isa())"
    )
    done = run_python(code, DPAD_ISA="portable")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[] portable", "")


TWINS = """
import torch, sys
sys.path.insert(0, {folder!r})
from dpad import ops
from op_samples import NAMES, sample
assert ops.build_info()["_C"] == "switched off by DPAD_DISABLE=1" and ops.cpu_isa() == "torch"
assert not hasattr(torch.ops.dpad, "swiglu")
torch.save({{n: getattr(ops, n)(**sample(n)) for n in NAMES}}, {path!r})
try:
    ops.set_cpu_isa("portable")
except RuntimeError as error:
    assert "not loaded" in str(error)
else:
    raise AssertionError("set_cpu_isa accepted a name without a module")
"""


@pytest.mark.slow(reason="a process of its own imports torch")
def test_dpad_disable_runs_the_twins(tmp_path):
    path = str(tmp_path / "results.pt")
    code = TWINS.format(folder=os.path.dirname(__file__), path=path)
    done = run_python(code, DPAD_DISABLE="1")
    assert done.returncode == 0, done.stderr
    for name, result in torch.load(path).items():
        expected = twin(name, sample(name))
        if expected is not None:
            torch.testing.assert_close(result, expected)


def test_an_unknown_dpad_isa_is_reported():
    """At the import, whatever is used then: the operators still run, on the best instruction set,
    and cpu_isa raises.
    """
    text = "DPAD_ISA=sse9: expected portable, avx2 or avx512"
    code = "from dpad import ops; import torch; x = torch.ones(1, 3); ops.swiglu(x, x)"
    done = run_python(code, DPAD_ISA="sse9")
    assert done.returncode == 0
    assert "RuntimeWarning" in done.stderr and text in done.stderr
    done = run_python(f"{code}; ops.cpu_isa()", DPAD_ISA="sse9")
    assert done.returncode == 1 and done.stderr.count(text) == 2
