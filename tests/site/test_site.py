"""The site builds without a warning, and holds what a reader looks for."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import dpad

pytest.importorskip("sphinx", reason="make test-docs")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    trees = tmp_path_factory.mktemp("trees")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    run = subprocess.run(
        [*command, "-d", str(trees), "-c", "docs", ".", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return out


class Links(HTMLParser):
    """Targets of a page: what it links to, shows or draws."""

    def __init__(self, text):
        super().__init__()
        self.found = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src", "srcset") and value:
                self.found.add(value)


def test_every_page_is_there(site):
    pages = {p.relative_to(site).with_suffix("").as_posix() for p in site.rglob("*.html")}
    documents = {f"docs/{p.stem}" for p in (ROOT / "docs").glob("*.md")}
    books = {f"examples/notebooks/{p.stem}" for p in (ROOT / "examples/notebooks").glob("*.ipynb")}
    assert len(books) == 4
    assert pages >= documents | books | {"README", "CONTRIBUTING", "CHANGELOG", "SECURITY"}


def test_links_and_pictures_lead_somewhere(site):
    for page in site.rglob("*.html"):
        for link in Links(page.read_text(encoding="utf-8")).found:
            target = link.split("#")[0].split("?")[0]
            if target and not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), f"{page.relative_to(site)}: {link}"


def test_the_reference_holds_every_public_function(site):
    text = (site / "docs" / "api.html").read_text(encoding="utf-8")
    ids = set(re.findall(r'id="(dpad[\w.]*)"', text))
    found = {i.rsplit(".", 1)[-1] for i in ids}
    missing = set(dpad.__all__) - {"__version__", *dpad._MODULES} - found
    assert not missing
    from dpad import ops

    functions = {n for n, f in vars(ops).items() if getattr(f, "__module__", "") == "dpad.ops"}
    functions = {n for n in functions if not n.startswith("_")}
    assert {f"dpad.ops.{n}" for n in functions} <= ids
