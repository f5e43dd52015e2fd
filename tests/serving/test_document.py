"""The blocks of docs/serving.md run as shown, against a server of their own."""

import re
from pathlib import Path

import dpad
from dpad.serving.schema import CompletionRequest
from tests.serving.conftest import served

TEXT = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")


def test_blocks_run(demo, capsys):
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) == 5
    space = {}
    with served(*demo) as server:
        for block in blocks:
            exec(block.replace("http://127.0.0.1:8000", server.url), space)
        space["engine"].close()
    printed = capsys.readouterr().out
    problem = dpad.demo.Problem("<|startoftext|><|user|>by 3 forward from<|assistant|>4185e")
    assert problem.answer in printed and "looks like" in printed and "finished" in printed


def test_every_field_is_listed():
    listed = set(re.findall(r"`(\w+)`", TEXT[: TEXT.index("## Streams")]))
    assert set(CompletionRequest.model_fields) - {"confidence_threshold"} <= listed
