"""Files that a forge reads: they parse, and say what the project says."""

import re

import pytest
import yaml

import dpad


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_citation_names_every_source(root):
    cited = load(root / "CITATION.cff")
    assert cited["cff-version"] == "1.2.0" and cited["version"] == dpad.__version__
    assert all(r["authors"] and r["title"] and r["year"] for r in cited["references"])
    papers = {r["url"].rsplit("/", 1)[-1] for r in cited["references"]}
    named = re.compile(r"arXiv\s*:?\s*(\d{4}\.\d{5})")
    files = [*(root / "dpad").rglob("*.py"), *(root / "docs").glob("*.md"), root / "README.md"]
    sources = {paper for f in files for paper in named.findall(f.read_text(encoding="utf-8"))}
    assert len(sources) > 3
    assert sources - papers == set()


@pytest.mark.parametrize("name", ("bug", "accuracy", "wish"))
def test_issue_forms(root, name):
    form = load(root / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert form["name"] and form["description"]
    kinds = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    assert {part["type"] for part in form["body"]} <= kinds
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert len(ids) == len(set(ids))
    required = [p for p in form["body"] if p.get("validations", {}).get("required")]
    assert required


def targets(root):
    text = (root / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", text, flags=re.MULTILINE))


@pytest.mark.parametrize("name", ("tests", "wheels"))
def test_workflows_run_targets_that_exist(root, name):
    flow = load(root / ".github" / "workflows" / f"{name}.yml")
    assert flow["permissions"] == {"contents": "read"}
    steps = [step for job in flow["jobs"].values() for step in job["steps"]]
    made = {m for s in steps for m in re.findall(r"make ([a-z-]+)", s.get("run", ""))}
    assert made and made <= targets(root)
    pins = re.compile(r"[\w./-]+@v\d+")
    assert all(pins.fullmatch(step["uses"]) for step in steps if "uses" in step)


def test_hooks_are_pinned_like_the_tools(root):
    pinned = (root / "requirements" / "test.txt").read_text(encoding="utf-8").splitlines()
    hooks = [h for repo in load(root / ".pre-commit-config.yaml")["repos"] for h in repo["hooks"]]
    assert {h["id"] for h in hooks} == {"ruff-check", "ruff-format", "clang-format"}
    for hook in hooks:
        assert hook["additional_dependencies"][0] in pinned


def test_the_changelog_has_the_form_of_one(root):
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", text, flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    sections = re.findall(r"^### (\w+)$", text, flags=re.MULTILINE)
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_links_of_the_root_s_pages_lead_somewhere(root):
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"):
        text = (root / name).read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (root / link).exists(), f"{name}: {link}"


def test_paths_named_where_to_add_something_exist(root):
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = text.split("## Where to add something")[1]
    for path in re.findall(r"`((?:csrc|dpad|tests|docs|examples|benchmarks)/[\w./-]+)`", text):
        assert (root / path).exists(), path
