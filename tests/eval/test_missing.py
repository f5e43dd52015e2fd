"""Where lm-eval is not installed the cure is named; importing `dpad.eval` needs nothing."""

import subprocess
import sys

import pytest

HIDE = "import sys; sys.modules['lm_eval'] = None\n"


def python(code):
    return subprocess.run(
        [sys.executable, "-c", HIDE + code], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("use", ["dpad.eval.DPadLM", "dpad.eval.register()", "dpad.eval.main()"])
def test_the_extra_is_named(use):
    done = python(f"import dpad.eval\nprint('imported')\n{use}")
    assert done.stdout == "imported\n"
    assert "ModuleNotFoundError: dpad.eval needs lm-eval" in done.stderr
    assert "pip install 'lm-eval>=0.4.13,<0.5'" in done.stderr


def test_the_command_says_so_in_one_line():
    done = python("import runpy; runpy.run_module('dpad.eval', run_name='__main__')")
    assert done.returncode == 4
    assert (
        done.stderr == "dpad: dpad.eval needs lm-eval. Type: pip install 'lm-eval>=0.4.13,<0.5'\n"
    )


def test_importing_it_imports_little():
    done = python(
        "import dpad.eval\nprint(sorted({'datasets', 'transformers'} & set(sys.modules)))"
    )
    assert done.stdout == "[]\n", done.stderr
