"""The offline page and its pictures: whole, escaped, asking nothing of any network."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from ctxembed.report import charts, page

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Reader(HTMLParser):
    """Collects text and addresses, and insists that every element is closed in its turn."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text = ""
        self.addresses: list[str] = []
        self.feed(str(document))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("href", "src") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"])))
def test_any_text_is_shown_as_it_is(text):
    parts = [page.section(text, page.paragraph(text)), page.table([{text: text, "n": 1}])]
    document = page.render_page(text, parts)
    assert Reader(document).text.count(text) >= 6 if text else Reader(document)


def test_a_page_asks_nothing_of_any_network():
    document = page.render_page("t", [charts.heatmap(np.eye(2), rows=["a", "b"], columns=["a", "b"], caption="c")])
    assert Reader(document).addresses == ["data:,"]
    assert "default-src 'none'" in document
    assert "http" not in document.replace("http-equiv", "")


def test_data_cannot_end_the_script():
    data = {"text": "</script><b>\u2028"}
    document = page.render_page("t", [], data=data, script="console.log(DATA.text)")
    assert document.count("</script>") == 1
    literal = re.search(r"const DATA = (.*);", document)
    assert literal is not None
    assert json.loads(literal.group(1)) == data


def test_no_script_is_written_without_one():
    assert "<script" not in page.render_page("t", [], data={"a": 1})


def test_a_written_page_is_read_back_whole(tmp_path):
    document = page.render_page("Wörter 言葉", [page.paragraph("x")])
    page.write_page(tmp_path / "new" / "p.html", document)
    assert (tmp_path / "new" / "p.html").read_text(encoding="utf-8") == document


def test_a_table_without_rows_says_so():
    assert "Nothing to show" in page.table([])


def test_table_cells_keep_markup_and_round_floats():
    made = page.table([{"use": Markup("<mark>a</mark>"), "x": 0.12345, "n": 3, "none": None, "yes": True}])
    assert "<td><mark>a</mark></td>" in made
    assert '<td class="number">0.123</td>' in made
    assert "<td></td><td>True</td>" in made


def _svg(markup: Markup) -> ElementTree.Element:
    found = re.search(r"<svg.*</svg>", markup, re.DOTALL)
    assert found is not None
    return ElementTree.fromstring(found.group(0))


def test_a_heatmap_writes_every_number_and_its_names():
    matrix = np.array([[1.0, -0.5], [0.25, 0.0]])
    svg = _svg(charts.heatmap(matrix, rows=["<a>", "b"], columns=["c", "d"], caption="<&>"))
    texts = [element.text for element in svg.iter("text")]
    assert [text for text in texts if re.fullmatch(r"-?\d\.\d\d", text)] == ["1.00", "-0.50", "0.25", "0.00"]
    assert {"<a>", "b", "c", "d"} <= set(texts)
    assert svg.get("aria-label") == "<&>"


def test_heatmap_shade_follows_magnitude():
    svg = _svg(charts.heatmap(np.array([[2.0, 1.0, 0.0]]), rows=["a"], columns=list("xyz"), caption=""))
    assert [float(rect.get("fill-opacity", "")) for rect in svg.iter("rect")] == [0.75, 0.375, 0.0]


def test_scatter_groups_differ_in_colour_and_shape():
    svg = _svg(charts.scatter(np.eye(2), texts=["p", "q"], groups=["one", "two"], caption="c"))
    shapes = [next(iter(mark)) for mark in svg.iter("g") if mark.get("tabindex")][:2]
    assert len({shape.tag for shape in shapes}) == 2
    assert len({shape.get("fill") for shape in shapes}) == 2
    assert [shape[0].text for shape in shapes] == ["p", "q"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_scatter_of_equal_points_stays_on_the_page(count):
    svg = _svg(charts.scatter(np.ones((count, 2)), texts=["t"] * count, caption="c"))
    places = re.findall(r"translate\(([-\d.]+) ([-\d.]+)\)", ElementTree.tostring(svg, encoding="unicode"))
    assert len(places) == count
    assert all(0 <= float(x) <= charts.WIDTH and 0 <= float(y) <= charts.HEIGHT for x, y in places)


def test_lines_rise_where_values_rise():
    made = charts.lines({"loss": [(1, 0.0), (2, 1.0), (3, 3.0)]}, x_label="x", y_label="y", caption="c")
    found = re.search(r'points="([^"]*)"', made)
    assert found is not None
    heights = [float(pair.split(",")[1]) for pair in found.group(1).split()]
    assert heights == sorted(heights, reverse=True)  # SVG counts downwards
    assert heights[0] - heights[1] == pytest.approx((heights[1] - heights[2]) / 2, abs=0.11)


def test_bars_are_as_long_as_their_values():
    svg = _svg(charts.bars({"a": 1.0, "b": 0.5, "c": -0.5}, caption="c", intervals={"a": (0.5, 1.0)}))
    widths = [float(rect.get("width", "")) for rect in svg.iter("rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    assert widths[1] == pytest.approx(widths[2], abs=0.2)


def test_weighted_text_keeps_the_text_and_shades_by_weight():
    made = charts.weighted_text("a <b> c", [(0, 1, 0.5), (2, 5, -1.0)], caption="why")
    assert Reader(made).text == "a <b> cwhy"
    assert re.findall(r"rgba\(\d+,\d+,\d+,([\d.]+)\)", made) == ["0.300", "0.600"]


def test_scatter_has_one_scale_for_both_axes():
    points = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 1.0]])
    svg = _svg(charts.scatter(points, texts=["a", "b", "c"], caption=""))
    places = [re.findall(r"-?[\d.]+", mark.get("transform", "")) for mark in svg.iter("g") if mark.get("tabindex")]
    (ax, ay), (bx, by), (cx, cy) = [(float(x), float(y)) for x, y in places]
    assert (bx - ax) == pytest.approx(4 * (ay - cy), abs=0.3)
    assert (ay - by, ax - cx) == pytest.approx((0, 0))


def test_heatmap_shows_what_is_unknown_as_a_dash():
    svg = _svg(charts.heatmap(np.array([[1.0, np.nan]]), rows=["a"], columns=["b", "c"], caption=""))
    assert [element.text for element in svg.iter("text")][-2:] == ["1.00", "-"]
    assert [float(rect.get("fill-opacity", "")) for rect in svg.iter("rect")] == [0.75, 0.0]


def test_weighted_text_shows_the_word_in_question_without_a_weight():
    made = charts.weighted_text("the bank lent", [(0, 3, 0.1), (9, 13, -0.2)], caption="c", mark=(4, 8))
    assert "<b><u>bank</u></b>" in made
    assert Reader(made).text == "the bank lentc"
    assert re.findall(r'title="(.*?)"', made) == ["0.1000", "-0.2000"]
