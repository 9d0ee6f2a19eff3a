"""The page about a bundle: complete, whole without a network, and no text of the bundle becomes markup."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from flextron_export import calibrate, report
from flextron_export.bundle.manifest import Bundle
from flextron_export.errors import InputError
from flextron_export.runtime.table import LatencyTable
from tests.random_bundle import random_bundle

HOSTILE = "<script>alert('x')</script> & \"quoted\" $a_b$"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.open(random_bundle(tmp_path_factory.mktemp("report")))


@pytest.fixture(scope="module")
def table(bundle):
    return calibrate(bundle, contexts=(16, 64), prompt_lengths=(8,), repeats=6, threads=1)


class Elements(HTMLParser):
    """Names of elements and every attribute's value."""

    def __init__(self, text):
        super().__init__()
        self.names, self.values, self.text, self.ids = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.values += [value for _, value in attrs if value]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        self.text += data


def test_the_page_has_every_budget_plot_and_device(bundle, table, tmp_path):
    path = report(bundle.path, tmp_path / "new" / "page.html", devices=["jetson-orin-nano"])
    found = Elements(path.read_text(encoding="utf-8"))
    assert found.names.count("svg") == 1 + 2 * 2 and found.names.count("h2") == 4
    for words in (
        *(budget.name for budget in bundle.budgets),
        f"({table.target}, {table.layout}, {table.dtype}): measured",
        "NVIDIA Jetson Orin Nano 8GB (tensorrt, fp16): predicted",
        "All times are predictions, not measurements",
        "milliseconds per token at context 64",
        "never compared",  # the bundle was exported without verification
        "ran while it was measured",
    ):
        assert words in found.text, words


def test_it_is_whole_without_a_network_and_runs_nothing(bundle, table, tmp_path):
    text = report(bundle.path, tmp_path / "page.html").read_text(encoding="utf-8")
    found = Elements(text)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(found.names)
    assert "default-src 'none'" in " ".join(found.values)
    loaded = [v for v in found.values if re.match(r"(https?:|//|data:|javascript:)", v)]
    assert all("www.w3.org" in v for v in loaded)  # names of XML namespaces
    assert len(found.ids) == len(set(found.ids))  # several plots on a page
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        root = ElementTree.fromstring(svg)
        ids = {element.get("id") for element in root.iter()}
        used = re.findall(r"url\(#([^)]*)\)", svg) + [v[1:] for v in re.findall(r'xlink:href="([^"]*)"', svg)]
        assert used and set(used) <= ids


def test_text_of_files_stays_text(bundle, table, tmp_path):
    path = table.path(bundle)
    hostile = {**table.to_json(), "device": {**table.device, "cpu": HOSTILE}, "conditions": {"date": HOSTILE}}
    other = bundle.path / "latency" / "other.json"
    other.write_text(json.dumps(hostile))
    try:
        found = Elements(report(bundle.path, tmp_path / "page.html").read_text(encoding="utf-8"))
    finally:
        other.unlink()
    assert path.exists() and "script" not in found.names and found.text.count(HOSTILE) >= 3


def test_names_of_budgets_are_no_formulas_in_plots(bundle, table):
    from flextron_export.planning import plan
    from flextron_export.reporting import figures

    name = "$a_b <i>"
    (first, *others) = bundle.budgets
    costs = {name: table.budgets[first.name], **table.budgets}
    renamed = replace(bundle, budgets=(replace(first, name=name), *others))
    changed = LatencyTable(table.device, table.target, table.layout, table.dtype, table.bundle, costs)
    for svg in (
        figures.costs(plan(renamed, device=changed), "x"),
        figures.widths(renamed),
        figures.lengths(changed, "y"),
    ):
        assert "$a_b &lt;i&gt;" in svg and "<i>" not in svg


def test_a_bundle_that_nobody_measured_has_a_page_too(bundle, tmp_path):
    import shutil

    bare = shutil.copytree(bundle.path, tmp_path / "bare", ignore=shutil.ignore_patterns("latency"))
    assert "measured on no device yet" in report(bare, tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_same_bundle_gives_the_same_page(bundle, table, tmp_path):
    assert (
        report(bundle.path, tmp_path / "a.html").read_bytes() == report(bundle.path, tmp_path / "b.html").read_bytes()
    )


def test_a_page_that_cannot_be_written_is_refused_first(bundle, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        report(bundle.path, tmp_path / "file" / "page.html")
    with pytest.raises(InputError, match="no device 'nope'"):
        report(bundle.path, tmp_path / "page.html", devices=["nope"])
    assert not (tmp_path / "page.html").exists()
