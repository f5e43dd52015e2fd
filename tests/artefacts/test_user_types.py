"""A user's script under ``mypy --strict``: what the installed package says of its calls."""

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("mypy", reason="mypy is not installed (requirements/test.txt)")

SCRIPT = """
import torch
import dpad

model, tokenizer = dpad.demo.load()
ids = tokenizer("by 3 forward from", return_tensors="pt").input_ids
with dpad.patch(model, dpad.DPadGenerationConfig(max_new_tokens=32)) as handle:
    reveal_type(handle)
    reveal_type(dpad.generate(model, ids))
    out = dpad.generate(model, ids, return_dict_in_generate=True)
    reveal_type(out)
    reveal_type(out.sequences)
    reveal_type(out.finish_reason)
reveal_type(model)
reveal_type(dpad.models.hf.AutoModel.from_pretrained("GSAI-ML/LLaDA-8B-Instruct"))
reveal_type(dpad.models.hf.DreamModel(dpad.models.hf.DreamConfig()))
reveal_type(dpad.supports(model))
reveal_type(dpad.loglikelihood(model, [([1], [2])]))
reveal_type(dpad.quantize(model))
reveal_type(dpad.calibrate(model, [ids]))
reveal_type(dpad.Engine(model, max_tokens=256).submit([1]))
reveal_type(dpad.Engine(model, max_tokens=256).submit([1]).result())
reveal_type(dpad.tune(model, [ids], lambda answer, problem: True))
reveal_type(dpad.Suffix("gaussian", window=64))
reveal_type(dpad.ops.swiglu(ids, ids))
reveal_type(dpad.demo.problems(3))
reveal_type(dpad.build_info())
if out.trace is not None:
    reveal_type(dpad.plot.overview(out.trace))
"""
WRONG = """
import dpad

dpad.patch(3)
dpad.Suffix(kind=3)
dpad.Engine()
dpad.genrate
dpad.ops.swiglu(1.0)
"""
CONFIG = """
[mypy]
strict = True
[mypy-transformers.*]
follow_imports = skip
"""


def checked(root, folder, script):
    """mypy's lines about a script for which the package is one that is installed."""
    (folder / "script.py").write_text(script)
    (folder / "mypy.ini").write_text(CONFIG)
    cache = root / "build" / "mypy"  # kept: the first time takes half a minute, mostly for torch
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(cache), "script.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow(reason="mypy reads torch")
def test_a_users_script_is_checked_strictly(root, tmp_path):
    *lines, last = checked(root, tmp_path, SCRIPT)
    assert last.startswith("Success"), "\n".join(lines)
    revealed = [re.search('Revealed type is "(.*)"', line)[1] for line in lines]
    assert len(revealed) == SCRIPT.count("reveal_type(")
    assert not [text for text in revealed if re.search(r"\bAny\b", text)]


@pytest.mark.slow(reason="mypy reads torch")
def test_wrong_calls_are_found(root, tmp_path):
    lines = checked(root, tmp_path, WRONG)
    found = {int(line.split(":")[1]) for line in lines if ": error:" in line}
    assert found == {n for n, line in enumerate(WRONG.splitlines(), 1) if line.startswith("dpad.")}
