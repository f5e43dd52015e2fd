"""Messages name cures that exist: packages of an index, which dpad itself is not in."""

import re
import tomllib

CURE = re.compile(r"pip install (.+?)(?:[\\)]|\", |$)", re.MULTILINE)  # to the command's end
WORD = re.compile(r"[A-Za-z][\w.-]*")


def named(root, path):
    """Names of the packages that the messages of a file tell the reader to install."""
    for command in CURE.findall((root / path).read_text(encoding="utf-8")):
        for word in command.split():
            found = WORD.match(word.strip("\"'().,;"))
            if found and "/" not in word:
                yield found[0]


def known(root):
    """Packages that pyproject.toml names, except dpad itself, which no index has."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    lists = [
        project["build-system"]["requires"],
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
    ]
    names = {WORD.match(requirement)[0] for requirements in lists for requirement in requirements}
    return names - {project["project"]["name"]}


def test_what_is_to_be_installed_can_be(root):
    files = [p for folder in ("dpad", "cmake") for p in sorted((root / folder).rglob("*"))]
    files = [p.relative_to(root) for p in files if p.suffix in (".py", ".cmake")]
    found = {name: path for path in (*files, "setup.py") for name in named(root, path)}
    assert {"matplotlib", "typer", "lm-eval", "torch", "cmeel-fmt"} <= set(found)
    assert not {n: str(p) for n, p in found.items() if n not in known(root)}
