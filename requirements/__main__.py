"""Compiles requirements/*.in, what is named, into *.txt, what is installed, by `uv pip compile`.

    make pins                   # versions that still fit stay as they are
    make pins PINS=--upgrade    # the newest ones

test.in and build.in are the environment; torch is installed before it. Every other file is an
overlay folder that is put before it: pins that the environment, or an overlay named by `-r`, has in
the same version are left out.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
ENVIRONMENT = ("test", "build")
# Required by what is named here, and not used by it: torch is there already; the others belong to
# twine's way to an index, and to tasks and metrics of lm-eval.
LEFT_OUT = ("torch", "keyring", "evaluate", "more-itertools", "nltk", "rouge-score")
LEFT_OUT += ("scikit-learn", "word2number")
OPTIONS = ("--quiet", "--universal", "--python-version=3.11", "--fork-strategy=fewest")
OPTIONS += ("--no-annotate", "--custom-compile-command=make pins")
PLATFORM = " ; implementation_name == 'cpython' and sys_platform == 'linux'"  # of pyproject.toml


def pins(name):
    """Package -> its line, of a file that was compiled."""
    path = FOLDER / f"{name}.txt"
    lines = path.read_text().splitlines() if path.exists() else ()
    return {line.partition("==")[0]: line for line in lines if "==" in line}


def bases(name):
    """The files whose packages are there when those of this one are used."""
    found = re.findall(r"^-r (\S+)\.in$", (FOLDER / f"{name}.in").read_text(), re.MULTILINE)
    return [*(() if name in ENVIRONMENT else ENVIRONMENT), *found]


def compile_one(name, options, folder):
    """Writes one .txt; versions of its bases are preferred, and those of `test` hold in `build`."""
    have = {k: v for base in bases(name) for k, v in pins(base).items()}
    excludes, out = folder / "excludes.txt", folder / f"{name}.txt"
    excludes.write_text("\n".join(LEFT_OUT))
    out.write_text("\n".join({**have, **pins(name)}.values()))
    command = [sys.executable, "-m", "uv", "pip", "compile", *OPTIONS, *options]
    if name == "build":
        command.append(f"--constraints={FOLDER / 'test.txt'}")
    command += [f"--excludes={excludes}", f"--output-file={out}", FOLDER / f"{name}.in"]
    subprocess.run(command, check=True, cwd=FOLDER.parent)
    lines = [line.removesuffix(PLATFORM) for line in out.read_text().splitlines()]
    there = {line.partition(" ;")[0] for line in have.values()}
    kept = [line for line in lines if line.partition(" ;")[0] not in there]
    (FOLDER / f"{name}.txt").write_text("\n".join(kept) + "\n")


def main(options):
    names = sorted(path.stem for path in FOLDER.glob("*.in"))
    names.sort(key=lambda name: (name not in ENVIRONMENT, name == "build", len(bases(name))))
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            compile_one(name, options, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
