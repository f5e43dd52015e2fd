"""examples/ops_in_your_model.py runs, compiled, and equals its plain-torch version."""

import runpy
from pathlib import Path

import pytest
from torch._dynamo.utils import counters

EXAMPLE = Path(__file__).parents[2] / "examples" / "ops_in_your_model.py"


@pytest.mark.slow(reason="torch.compile traces and compiles a model")
def test_it_compiles_and_agrees(capsys):
    counters.clear()
    module = runpy.run_path(str(EXAMPLE))
    module["main"](["--backend", "aot_eager"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == [
        "refresh, every position",
        "cached step, the blocks only",
    ]
    assert all("24 logit rows, tokens equal" in line for line in lines[:2])
    assert lines[2].startswith("compiled with fullgraph=True, backend aot_eager")
    assert counters["stats"]["unique_graphs"] == 1  # both passes, of 78 and 24 rows, in one graph
    assert not counters["graph_break"]
