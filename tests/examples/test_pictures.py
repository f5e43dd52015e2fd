"""Every picture of the documents comes from a command that stands beside it, and is up to date."""

import re
import shlex
from pathlib import Path

import numpy
import pytest
from PIL import Image
from typer.testing import CliRunner

from dpad.cli.app import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^dpad (.+)$", PAGE, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Folder in which the page's commands have run."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "docs" / "pictures").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in COMMANDS:
            result = CliRunner().invoke(app, shlex.split(command), prog_name="dpad")
            assert result.exit_code == 0, f"{command}: {result.output}"
    return folder


def test_every_picture_has_a_command(drawn):
    shown = set()
    for document in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        text = document.read_text(encoding="utf-8")
        for name in re.findall(r'(?:src|srcset)="([^"]+)"|!\[[^]]*\]\(([^)]+)\)', text):
            path = (document.parent / (name[0] or name[1])).relative_to(ROOT)
            assert (ROOT / path).exists(), path
            shown.add(str(path))
    by_chart = {f"docs/pictures/speed-{theme}.svg" for theme in ("light", "dark")}
    by_browser = {"docs/pictures/page.png"}
    assert "`make test-web` draws this picture" in (ROOT / "docs/serving.md").read_text("utf-8")
    by_page = {str(p.relative_to(drawn)) for p in drawn.glob("docs/pictures/*")}
    assert shown == by_chart | by_browser | by_page


def pixels(path):
    """float32 ``[frames, height, width, 3]`` of a picture."""
    with Image.open(path) as picture:
        frames = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            frames.append(numpy.asarray(picture.convert("RGB"), dtype=numpy.float32))
    return numpy.stack(frames)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"--output (docs/\S+)", PAGE))))
def test_stored_pictures_are_up_to_date(drawn, name):
    stored, now = pixels(ROOT / name), pixels(drawn / name)
    assert stored.shape == now.shape, "type the commands of docs/pictures.md"
    assert numpy.abs(stored - now).mean() < 2, "type the commands of docs/pictures.md"
