"""The page of `dpad serve --page` in a headless browser. Pictures go to build/pictures."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

if importlib.util.find_spec("gradio") is None or importlib.util.find_spec("playwright") is None:
    pytest.skip("no gradio or playwright: `make test-web` has them", allow_module_level=True)

from PIL import Image
from playwright.sync_api import expect, sync_playwright

import dpad
from tests.serving.conftest import served

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PICTURES = Path(__file__).parents[2] / "build/pictures"


@pytest.fixture(scope="module")
def url():
    from dpad.serving.page import add_page

    with served(*dpad.demo.load(), hosts=["127.0.0.1"], adds=add_page) as server:
        yield server.url


@pytest.fixture(scope="module")
def browser():
    found = os.environ.get("DPAD_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed, and DPAD_BROWSER names none")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, url):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.outside, page.failures = [], []
    page.on(
        "request", lambda r: r.url.startswith((url, "data:", "blob:")) or page.outside.append(r.url)
    )
    page.on("pageerror", lambda error: page.failures.append(str(error)))
    page.goto(url + "/page")
    page.get_by_role("button", name="Decode").wait_for(timeout=60_000)
    yield page
    page.close()


def decode(page, early_stop=True, **options):
    """Fills the options in, and begins."""
    page.get_by_role("button", name="Options").click()
    for label, value in options.items():
        page.get_by_label(label.replace("_", " "), exact=False).first.fill(str(value))
    page.get_by_label("Early stop").set_checked(early_stop)
    page.get_by_role("button", name="Decode").click()


def picture(page, name):
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as image:
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50
    return path


def test_a_race(page):
    """Both sides decode; while they do, the strip shows the suffix, and drafts are pale."""
    decode(page, early_stop=False, Canvas=256, Threshold=1)
    ours = page.locator("#dpad")
    expect(ours.locator("rect[fill='#fee838']").first).to_be_attached(timeout=30_000)
    expect(ours.get_by_role("cell", name="decoding")).to_be_visible()
    expect(page.locator("#ordinary span[title*='not committed']").first).to_be_attached()
    picture(page, "page-during")
    expect(page.locator("#result")).to_contain_text("times faster", timeout=60_000)
    tokens = ours.locator("span[title*='forward']")
    text = "".join(token.text_content() for token in tokens.all())
    assert text.startswith("4188d4191c4194b4197a")
    assert "confidence 0." in tokens.first.get_attribute("title") or "confidence 1." in (
        tokens.first.get_attribute("title")
    )
    assert ours.locator("span[title*='not committed']").count() == 0
    picture(page, "page-after")
    assert page.outside == [] and page.failures == []


def test_a_value_that_is_refused_is_told(page):
    decode(page, Canvas=100000)
    expect(page.get_by_text("the longest request has").first).to_be_visible(timeout=20_000)
    assert page.failures == []


def test_stop(page):
    decode(page, Canvas=900)
    pane = page.locator("#ordinary")
    expect(pane.get_by_role("cell", name="decoding")).to_be_visible(timeout=20_000)
    page.get_by_role("button", name="Stop").click()
    page.wait_for_timeout(500)
    before = pane.inner_text()
    page.wait_for_timeout(700)
    assert pane.inner_text() == before


def test_the_api_is_still_there(page, url):
    assert page.request.get(url + "/v1/models").json()["data"][0]["id"] == "demo"
    assert page.request.get(url + "/page", headers={"Host": "evil.example"}).status == 400
