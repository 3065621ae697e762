"""The page of ``ctxembed attend --html`` in a real browser: its numbers, its keys, its silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctxembed.config import EncoderConfig, PoolingConfig
from ctxembed.inspection.trace import Trace, trace_sentence
from ctxembed.inspection.worked import worked_example
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint
from ctxembed.model.encoder import TransformerEncoder
from ctxembed.report.lesson import write_lesson_page

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

    from ctxembed.tokenizer import SubwordTokenizer

    from .conftest import Run

SENTENCES = ("The bank, unbelievably, lent money.", "She sat on the bank of the river.")
ATTENTION = ("query", "key", "value", "scores", "scaled", "weights", "mixed", "joined", "output")
LAYER = ("given", "asked", "residual", "fed", "inner", "feed_forward")


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    """Chromium without a window, which notes every request and every line of its console."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def page(browser: WebDriver, run: Run, tiny_model: Path) -> WebDriver:
    """The page of two sentences in the tiny model."""
    run("attend", *SENTENCES, "--word", "bank", "-m", tiny_model, "--html", "page.html", "--format", "json")
    browser.get(Path("page.html").absolute().as_uri())
    return browser


@pytest.fixture(scope="module")
def traces(tiny_model: Path) -> list[Trace]:
    model = load_checkpoint(tiny_model)
    return [trace_sentence(model, text) for text in SENTENCES]


def choose(browser: WebDriver, **choices: int) -> None:
    """Choose a sentence, layer, head or token by its number, as a user does."""
    from selenium.webdriver.support.select import Select

    for name, number in choices.items():
        Select(browser.find_element("id", name)).select_by_value(str(number))


def click_step(browser: WebDriver, title: str) -> None:
    browser.find_element("xpath", f"//ol[@id='steps']//button[contains(., '{title}')]").click()


STEP_OF = {
    **dict.fromkeys(("token", "position", "embedded"), "Embedding"),
    **dict.fromkeys(("query", "key", "value"), "Q, K, V"),
    "scores": "Scores",
    "scaled": "Scaling",
    "weights": "Softmax",
    "mixed": "Weighted sum",
    "joined": "Heads",
    **dict.fromkeys(("given", "asked", "output", "residual"), "Residual"),
    **dict.fromkeys(("fed", "inner", "feed_forward", "layer_output"), "Feed-forward"),
}


READ = """
const place = [...document.querySelectorAll(`.matrix[data-name=${arguments[0]}]`)].find((each) => each.offsetParent);
const pages = [];
for (;;) {
  const rows = [...place.querySelectorAll("tr")].slice(1);
  pages.push(rows.map((row) => [...row.querySelectorAll("td")].map((cell) => [cell.dataset.value, cell.textContent])));
  const later = [...place.querySelectorAll("button")].find((each) => each.textContent === "Later columns");
  if (!later || later.disabled) return pages;
  later.click();
}
"""
"""Reads the visible matrix of a name, turning over its columns as a user does."""


def shown(browser: WebDriver, name: str) -> np.ndarray[Any, Any]:
    """Read a whole matrix off the page, and check that what is seen are these numbers."""
    click_step(browser, STEP_OF[name])
    pages = browser.execute_script(READ, name)
    cells = [cell for page in pages for row in page for cell in row]
    assert all(f"{float(value):.3f}".lstrip("-") == text.lstrip("-") for value, text in cells)
    return np.concatenate([[[float(value) for value, _ in row] for row in page] for page in pages], axis=1)


def noted(browser: WebDriver) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]  # type: ignore[no-untyped-call]


def test_numbers_of_a_layer_equal_the_library_exactly(page: WebDriver, traces: list[Trace]) -> None:
    choose(page, sentence=1, layer=1, head=1)
    steps = traces[1].layers[1]
    for name in ATTENTION:
        expected = getattr(steps.attention, name)
        np.testing.assert_array_equal(shown(page, name), expected[1] if expected.ndim == 3 else expected)
    for name in LAYER:
        np.testing.assert_array_equal(shown(page, name), getattr(steps, name))
    np.testing.assert_array_equal(shown(page, "layer_output"), steps.output)
    assert noted(page) == []


def test_numbers_of_the_embedding_equal_the_library_exactly(page: WebDriver, traces: list[Trace]) -> None:
    embedding = traces[0].embedding
    np.testing.assert_array_equal(shown(page, "token"), embedding.token)
    np.testing.assert_array_equal(shown(page, "position"), embedding.position)
    np.testing.assert_array_equal(shown(page, "embedded"), embedding.output)


def test_every_matrix_of_a_long_sentence_is_shown(
    browser: WebDriver, tmp_path: Path, tiny_tokenizer: SubwordTokenizer
) -> None:
    config = EncoderConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=8, num_layers=1, num_heads=1, intermediate_size=1024, max_length=256
    )
    model = Checkpoint("wide", TransformerEncoder(config), tiny_tokenizer, PoolingConfig())
    trace = trace_sentence(model, "the bank " * 120)
    write_lesson_page(tmp_path / "long.html", [(trace, None)])
    browser.get((tmp_path / "long.html").as_uri())
    assert trace.layers[0].inner.size > 240 * 1000  # more than a call can have arguments
    np.testing.assert_array_equal(shown(browser, "layer_output"), trace.layers[0].output)
    captions = [each.text for each in browser.find_elements("css selector", ".matrix caption") if each.is_displayed()]
    assert len(captions) == 4
    assert f"{len(trace.tokens)} × 1024, columns 1 to 12" in captions[1]
    assert browser.find_element("id", "now").text.endswith("Feed-forward")
    assert noted(browser) == []


def test_marked_word_asks_and_its_row_is_shown(page: WebDriver, traces: list[Trace]) -> None:
    click_step(page, "Softmax")
    chosen = [row for row in page.find_elements("css selector", "tr.chosen th") if row.is_displayed()]
    assert [each.text for each in chosen] == ["bank"]
    picture = page.find_element("css selector", ".weights-picture svg")
    assert "those of bank in orange" in (picture.get_attribute("aria-label") or "")
    assert len(picture.find_elements("tag name", "line")) == len(traces[0].tokens) ** 2


def test_keyboard_alone_goes_through_all_steps(page: WebDriver) -> None:
    from selenium.webdriver.common.keys import Keys

    buttons = page.find_elements("css selector", "#steps button")
    buttons[0].send_keys(Keys.ENTER)
    seen = []
    for number in range(len(buttons)):
        (visible,) = [each for each in page.find_elements("css selector", "section.step") if each.is_displayed()]
        seen.append(visible.find_element("tag name", "h2").text)
        assert page.find_element("id", "now").text == f"Showing step {seen[-1]}"
        assert page.switch_to.active_element == buttons[number]
        page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert [title.partition(". ")[2] for title in seen] == [
        *("Embedding", "Q, K, V", "Scores", "Scaling", "Softmax", "Weighted sum", "Heads", "Residual", "Feed-forward")
    ]


def test_everything_has_a_name_for_screen_readers(page: WebDriver) -> None:
    for select in page.find_elements("tag name", "select"):
        assert select.accessible_name.split()[0] in ("Sentence", "Layer", "Head", "Token")
    for svg in page.find_elements("css selector", "svg[role=img]"):
        assert svg.get_attribute("aria-label")
    for title in ("Embedding", "Softmax", "Feed-forward"):
        click_step(page, title)
        tables = [each for each in page.find_elements("css selector", ".matrix table") if each.is_displayed()]
        assert tables
        for each in tables:
            assert each.find_element("tag name", "caption").text
            assert each.find_elements("css selector", "th[scope=row]")
            assert each.find_elements("css selector", "th[scope=col]")


def test_no_request_leaves_the_page_and_the_console_is_empty(page: WebDriver) -> None:
    choose(page, sentence=1, layer=1, head=1, asks=2)
    for button in page.find_elements("css selector", "#steps button"):
        button.click()
    events = [json.loads(each["message"])["message"] for each in page.get_log("performance")]  # type: ignore[no-untyped-call]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert any(url.endswith("/page.html") for url in asked)
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []
    assert noted(page) == []


def test_worked_page_shows_the_example_and_its_random_heads(browser: WebDriver, run: Run) -> None:
    run("attend", "--worked", "--html", "worked.html", "--format", "json")
    browser.get(Path("worked.html").absolute().as_uri())
    np.testing.assert_array_equal(shown(browser, "scores"), [[2, 0, 2], [0, 2, 2], [2, 2, 4]])
    example = worked_example()
    choose(browser, layer=1, head=1)
    np.testing.assert_allclose(shown(browser, "weights"), example.random.weights[1], atol=1e-6)
    np.testing.assert_allclose(shown(browser, "joined"), example.random.joined, atol=1e-6)
    assert "softmax([6, 4]) = 0.88 and 0.12" in browser.page_source
    assert noted(browser) == []


def test_page_of_the_shipped_model_is_written_by_the_plain_call(run: Run, shipped_models: None) -> None:
    outcome = run("attend", "THE CAT SAT", "--html", "cat.html")
    page = Path("cat.html").read_text(encoding="utf-8")
    assert "written: cat.html" in outcome.stderr
    assert "<h1>Inside the Transformer: THE CAT SAT</h1>" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
