"""Help texts, the version, and what is said where a package is missing."""

import os
import subprocess
import sys

import pytest

import dpad
from dpad.cli import chat, demo, doctor, evaluate, generate, plot, serve

COMMANDS = {
    "doctor": doctor,
    "generate": generate,
    "chat": chat,
    "demo": demo,
    "plot": plot,
    "serve": serve,
    "eval": evaluate,
}


def flat(text):
    """A help text without its line breaks and frames."""
    return " ".join(text.replace("│", " ").split())


def test_the_list_of_commands(run):
    text = flat(run("--help").stdout)
    for name, module in COMMANDS.items():
        assert name in text
        assert module.command.__doc__.split(".")[0] in text.replace("  ", " ")
    assert "Exit codes: 0 done; 1 failed" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_its_examples(run, name):
    result = run(f"{name} --help")
    text = flat(result.stdout)
    assert result.exit_code == 0
    assert "--json" in text
    for line in COMMANDS[name].EXAMPLES:
        assert line in text


def test_version(run):
    assert run("--version").stdout.strip() == dpad.__version__


def run_python(code, *names):
    environment = {**os.environ, "COLUMNS": "100"}
    command = [sys.executable, "-c", code, *names]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_a_missing_extra_is_named(module):
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from dpad.cli import main; sys.exit(main(['doctor']))"
    )
    done = run_python(code)
    assert done.returncode == 4
    assert "pip install rich typer" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_server_names_its_extra():
    code = (
        "import sys; sys.modules['fastapi'] = None\n"
        "from dpad.cli import main; sys.exit(main(['serve', 'demo']))"
    )
    done = run_python(code)
    assert done.returncode == 4
    assert "pip install fastapi uvicorn prometheus-client" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_page_has_no_key(run):
    result = run("serve demo --page --api-key secret")
    assert result.exit_code == 2 and "--api-key" in result.stderr


@pytest.mark.parametrize(
    "words, text",
    [
        ("--port 99999999", "--port = 99999999: expected a whole number from 0 to 65535"),
        ("--port -1", "--port = -1"),
        ("--max-tokens 0", "--max-tokens = 0: expected a whole number >= 1"),
        ("--max-body 0", "--max-body = 0: expected a whole number >= 1"),
        ("--max-choices 0", "--max-choices = 0: expected a whole number >= 1"),
        ("--timeout 0", "--timeout = 0.0: expected a number above 0"),
        ("--timeout nan", "--timeout = nan: expected a number above 0"),
        ("--drain -1", "--drain = -1.0: expected a number >= 0"),
        ("--drain nan", "--drain = nan: expected a number >= 0"),
        ("--log-level loud", "--log-level = 'loud': expected one of critical, error"),
    ],
)
def test_what_cannot_be_served_is_named(run, words, text):
    result = run(f"serve demo {words}")
    assert result.exit_code == 2 and text in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("words", [["--json"], []])
def test_a_full_disk_is_one_line(words):
    command = [
        sys.executable,
        "-m",
        "dpad.cli",
        "generate",
        "demo",
        "--prompt",
        "by 1 forward from",
    ]
    with open("/dev/full", "w") as full:
        done = subprocess.run([*command, *words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "dpad: [Errno 28]" in done.stderr and "Traceback" not in done.stderr


def test_help_imports_neither_torch_nor_transformers():
    code = (
        "import sys, typer.testing\nfrom dpad.cli.app import app\n"
        "assert typer.testing.CliRunner().invoke(app, ['generate', '--help']).exit_code == 0\n"
        "print(sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    done = run_python(code)
    assert done.stdout.strip() == "[]", done.stderr


def test_module_and_entry_point_are_the_same_program():
    command = [sys.executable, "-m", "dpad.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == dpad.__version__
