"""One wheel for every Python from 3.11 on, whole, sound, and working where nothing else is."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile

import pytest


def run(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clean():
    """The environment variables without those that lead to this checkout or change dpad."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "DPAD_DISABLE", "DPAD_ISA")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def examine(tool, *arguments):
    """What a tool of requirements/package.txt says; a complaint of its fails the test."""
    return run(sys.executable, "-m", tool, *arguments)


def test_one_wheel_serves_every_python(wheel):
    assert re.search(r"-cp311-abi3-manylinux_2_\d+_\w+$", wheel.stem), wheel.name
    with zipfile.ZipFile(wheel) as file:
        modules = {name for name in file.namelist() if name.endswith(".so")}
    assert {"dpad/_C.abi3.so"} <= modules <= {"dpad/_C.abi3.so", "dpad/_C_cuda.abi3.so"}


def test_the_cuda_module_is_in_where_it_was_built(wheel, root):
    with zipfile.ZipFile(wheel) as file:
        packed = "dpad/_C_cuda.abi3.so" in file.namelist()
    assert packed == (root / "dpad/_C_cuda.abi3.so").exists()


def test_what_stands_in_the_checkout_stands_in_the_wheel(wheel, root):
    """Every file, as it is now: nothing stale, nothing forgotten, no test."""
    here = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in (root / "dpad").rglob("*")
        if path.is_file() and path.suffix not in (".so", ".pyc")
    }
    with zipfile.ZipFile(wheel) as file:
        names = [n for n in file.namelist() if not n.endswith((".so", "/"))]
        names = [name for name in names if ".dist-info/" not in name]
        packed = {name: file.read(name) for name in names}
    assert set(packed) == set(here)
    assert "dpad/py.typed" in packed  # whoever installs it has its types
    assert not [name for name in here if packed[name] != here[name]]


def test_python_symbols(wheel):
    report = json.loads(examine("abi3audit", "--strict", "--report", wheel))
    (found,) = report["specs"].values()
    results = [entry["result"] for entry in found["wheel"]]
    assert results
    assert all(r["is_abi3"] and not r["non_abi3_symbols"] for r in results)
    assert {(r["baseline"], r["is_abi3_baseline_compatible"]) for r in results} == {("3.11", True)}


def test_contents(wheel):
    assert "OK" in examine("check_wheel_contents", wheel)


def test_metadata(wheel, sdist):
    assert examine("twine", "check", "--strict", wheel, sdist).count("PASSED") == 2


def test_the_wheel_keeps_to_its_platform_tag(wheel):
    """No library of the C++ build comes along, and torch's are the only ones from elsewhere."""
    report = json.loads(examine("auditwheel", "show", "--json", wheel))
    assert report["wheel"] == wheel.name
    with zipfile.ZipFile(wheel) as file:
        assert not [name for name in file.namelist() if ".libs/" in name]


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment with the wheel, and torch and the command line's packages as they are here.

    Those are found through a .pth file: so this checkout, which is installed beside them in a way
    of its own (editable), is not found.
    """
    folder = tmp_path_factory.mktemp("clean") / "env"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin/python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "-q",
        wheel,
        env=clean(),
    )
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def in_environment(folder, *command):
    return run(folder / "bin" / command[0], *command[1:], cwd=folder, env=clean())


def test_doctor_in_a_clean_environment(environment):
    found = json.loads(in_environment(environment, "dpad", "doctor", "--json"))
    assert found["ok"] and found["versions"]["location"].startswith(str(environment))
    assert found["modules"]["_C"] == "loaded"
    assert found["modules"]["_host"] == "not in wheels; decoding does not need it"
    assert found["operators"] and all(row["ok"] for row in found["operators"])


def test_the_demonstration_model_comes_along(environment):
    code = (
        "import dpad; model, tokenizer = dpad.demo.load(); problem = dpad.demo.problems(1, seed=0);"
        "ids = tokenizer(problem[0].prompt, return_tensors='pt').input_ids;"
        "print(dpad.generate(model, ids, max_new_tokens=32).shape[0])"
    )
    assert in_environment(environment, "python", "-c", code) == "1\n"
