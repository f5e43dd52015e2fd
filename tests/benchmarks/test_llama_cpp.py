"""benchmarks.llama_cpp: all of it that does not need llama.cpp."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import dpad
from benchmarks import llama_cpp, llama_cpp_peer
from benchmarks.random_models import mid_model

NEW = 64  # two blocks


def small(**fields):
    return mid_model(width=128, n_layers=2, **fields)


def forward(found, ids, heads, theta, eps):
    """Logits of GGUF tensors, as llama.cpp computes a LLaDA: RoPE turns neighbours."""
    found = {name: torch.from_numpy(values) for name, values in found.items()}

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], found[f"{name}_norm.weight"], eps)

    def linear(x, name):
        return x @ found[f"{name}.weight"].T

    x = found["token_embd.weight"][ids]
    head = x.shape[1] // heads
    angles = torch.outer(torch.arange(len(ids)), theta ** (-torch.arange(0, head, 2) / head))
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    for layer in range(sum(name.endswith("attn_q.weight") for name in found)):
        here = f"blk.{layer}."
        y = norm(x, here + "attn")
        q, k = (
            torch.view_as_real(
                torch.view_as_complex(linear(y, n).view(len(ids), heads, -1, 2)) * turn
            )
            for n in (here + "attn_q", here + "attn_k")
        )
        q, k, v = (t.reshape(len(ids), heads, head) for t in (q, k, linear(y, here + "attn_v")))
        weights = torch.softmax(torch.einsum("ihd,jhd->hij", q, k) / head**0.5, dim=-1)
        mixed = torch.einsum("hij,jhd->ihd", weights, v).reshape(len(ids), -1)
        x = x + linear(mixed, here + "attn_output")
        y = norm(x, here + "ffn")
        x = x + linear(
            F.silu(linear(y, here + "ffn_gate")) * linear(y, here + "ffn_up"), here + "ffn_down"
        )
    return norm(x, "output") @ found["output.weight"].T


def test_tensors_are_what_llama_cpp_computes_with():
    model = small()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or "ln_f" in name:
                weight.uniform_(0.5, 1.5)
    ids, config = llama_cpp.half_masked(24), model.config
    found = llama_cpp_peer.tensors(model)
    assert len(found) == 3 + 9 * 2 and all(v.flags.c_contiguous for v in found.values())
    got = forward(found, ids, config.n_heads, config.rope_theta, config.rms_norm_eps)
    with torch.no_grad():
        want = model(torch.from_numpy(ids)[None]).logits[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_decoding_is_dpads_with_the_same_forward():
    model, calls = small(), []

    def counted(ids):
        calls.append(len(ids))
        return llama_cpp.step(model, ids)

    with dpad.patch(model):
        turns = llama_cpp.decodings({"peer": counted}, {"float32": model}, NEW)
        got, want = turns["peer"](), turns["float32, same work"]()
    assert calls == [llama_cpp.PROMPT + NEW] * (NEW // llama_cpp.COMMITS)
    assert (got != llama_cpp.MASK).all() and np.array_equal(got, want)


def test_figures_and_tables(capsys):
    models = {"float32": small(), "bfloat16": small().bfloat16()}
    for model in models.values():
        dpad.patch(model)
    peers = {"F32": lambda ids: llama_cpp.step(models["float32"], ids)}
    found = llama_cpp.measure(peers, models, [16, 24], NEW, rounds=2)
    assert found["argmax equal to float32"]["F32"] == 32 + NEW
    tokens = found["tokens equal to float32"]
    assert tokens["of"] == tokens["F32"] == tokens["float32, same work"] == NEW
    assert len(tokens) == 2 + 2 * len(llama_cpp.WAYS)
    assert {len(s) for s in found["decodings"].values()} == {2}
    assert list(found["steps"]) == [16, 24] and set(found["steps"][16]) == {"F32", *models}
    json.dumps(found)
    tables = list(llama_cpp.report(found, peers, models))
    assert len(tables) == 2 + len(llama_cpp.WAYS) + 1
    assert "| a step of 16 " in tables[0] and "| F32: " in tables[0] and " float32: " in tables[0]
    assert "of': 96" in capsys.readouterr().out


def test_the_tables_compare_the_named_figures():
    seconds = {"F32": [4.0, 4.0]}
    seconds |= {f"float32, {way}": [2.0 / 2**n] * 2 for n, way in enumerate(llama_cpp.WAYS)}
    found = {"steps": {8: {"F32": [3.0, 3.0], "float32": [1.0, 1.0]}}, "decodings": seconds}
    step, *ways, factors = llama_cpp.report(found, ["F32"], ["float32"])
    assert "F32: 3 s" in step and "float32: 1 s" in step and "3.00 [3.00, 3.00]" in step
    for text, ratio in zip(ways, ("2.00", "4.00", "8.00"), strict=True):
        assert f"{ratio} [{ratio}, {ratio}]" in text and "F32: 4 s" in text
    assert factors.count("2.00 [2.00, 2.00]") == 2


def test_another_forward_is_refused():
    models = {"float32": small()}
    dpad.patch(models["float32"])
    peers = {"F32": lambda ids: -llama_cpp.step(models["float32"], ids)}
    with pytest.raises(RuntimeError, match="computes something else"):
        llama_cpp.measure(peers, models, [16], NEW, rounds=1)


def test_a_folder_without_the_bindings_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no llama_cpp and no gguf in it"):
        llama_cpp.main(["--peer", str(tmp_path / "none")])
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").touch()
    with pytest.raises(FileNotFoundError, match="no gguf in it"):
        llama_cpp_peer.bindings(tmp_path)
