"""The report of a run: all its parts, from records alone, and nothing in it that runs."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import db3kd.job.report
from conftest import Sandbox
from db3kd import Run
from db3kd.config.settings import Budget, Search, Training
from db3kd.data import TensorImages
from db3kd.errors import InputError
from db3kd.job.reporting import write_report
from db3kd.student.networks import build
from db3kd.teachers import function

FOLDERS = Path(__file__).parents[1] / "fixtures" / "folders"
PARTS = (
    "Which student is best?",
    "What were the answers spent on, and when?",
    "Where do teacher and student differ?",
    "What if the teacher still answers where the student is unsure?",
    "How far is the boundary between classes?",
    "Distances by queries",
    "Images beside their nearest boundary points",
    "Images by the class that the teacher gave",
    "Loss while training",
    "What did it cost?",
    "Provenance",
)
EVIL = [
    "<script>alert(1)</script>",
    "\"onload='x'",
    "\x1b[31mred\x1b[0m",
    "cat\u202egod",
    "$x^2$",
    "{{ 7*7 }}",
    "</title><img src=x>",
    "]]>&amp;<!--",
    "<img src=x onerror=\"document.title='broken into'\">",
    "</text></svg><script>document.title='broken into'</script>",
]
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a page holds: text and attributes by tag; refuses tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = self.title = ""
        self.open: list[str] = []
        self.headings: list[str] = []
        self.images = self.charts = 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.images += tag == "img"
        self.charts += tag == "svg"
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "title":
            self.title += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open and self.open[-1] != "style":
            self.text += data


def page_of(file: Path) -> Page:
    """A page that was read, and found to be harmless and complete in itself."""
    text = file.read_text("utf-8")
    page = Page(text)
    assert page.tags.isdisjoint({"script", "iframe", "object", "link", "base", "form", "embed"})
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in sources)
    assert "url(http" not in text
    policy = next(v for t, n, v in page.attributes if (t, n) == ("meta", "content") and "src" in v)
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    assert not [sign for sign in page.text if not sign.isprintable() and sign not in "\n\xa0"]
    return page


@pytest.fixture(scope="module", autouse=True)
def with_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DB3KD_REPORT", "1")
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Sandbox:
    from conftest import make_sandbox

    made = make_sandbox(tmp_path_factory.mktemp("report") / "here", digits)
    done = made.call("run", "recipe.toml", "-q", "-s", "budget.queries=60000")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Report: run/report.html"
    return made


def test_a_finished_run_is_told_in_every_part(finished: Sandbox) -> None:
    page = page_of(finished.run / "report.html")
    assert tuple(page.headings) == PARTS
    summary = json.loads((finished.run / "summary.json").read_text())
    spent = summary["queries"]["spent"]
    assert f"{spent:,}" in page.text
    assert "of 60,000" in page.text
    for method, row in summary["methods"].items():
        assert f"{100 * row['agreement'][0]:.2f} %" in page.text, method
    assert "not recorded" not in page.text
    assert "no such pictures" not in page.text
    # students, spending, passing images on, shares, distances by queries, losses
    assert page.charts == 6
    best = max(summary["methods"].values(), key=lambda row: row["agreement"][0])
    passed = best["cascade"][0]["points"][3]
    assert f"{passed['threshold']:.3g}" in page.text
    assert f"{100 * passed['agreement']:.2f} %" in page.text
    assert page.images >= 3 * 6 + 30  # nearest points; own images by class
    assert "recipe.student.network" in page.text
    assert re.search(r"the network 'small', [\d,]+ parameters, students/ce-", page.text)


def test_the_same_records_give_the_same_page(
    finished: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.folder)
    again = write_report(["run"], tmp_path / "again.html").read_bytes()
    assert again == (finished.run / "report.html").read_bytes()


def test_predictions_are_what_the_figures_are_made_of(finished: Sandbox) -> None:
    from db3kd.job.reporting.records import Records

    records = Records.of(finished.run)
    for (name, seed), figures in records.evaluations.items():
        mine = records.predictions(name)[seed]
        assert int((mine == records.answers).sum()) / len(mine) == figures["agreement"]
    counts = records.confusion
    assert counts is not None
    best = records.evaluations[str(records.best), 0]
    assert int(counts.diagonal().sum()) / int(counts.sum()) == best["agreement"]


def test_nearest_points_are_as_far_as_the_distances_say(finished: Sandbox) -> None:
    from db3kd.job.reporting.records import Records

    parts = Records.of(finished.run).nearest
    assert sum(len(part["image"]) for part in parts) >= 5
    for part in parts:
        apart = (part["image"].float() - part["point"].float()).flatten(1).norm(dim=1)
        assert torch.allclose(apart, part["distance"], atol=5e-3)
        assert bool((part["own"] != part["other"]).all())


def test_a_damaged_file_is_named_and_the_rest_is_told(finished: Sandbox, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished.run, copy)
    for name in ("distances/00000.safetensors", "gallery.safetensors"):
        (copy / name).write_bytes(b"cut")
    (copy / "summary.json").write_text("{")
    page = page_of(write_report([copy]))
    assert "00000.safetensors is cut or altered" in page.text
    assert "gallery.safetensors cannot be read" in page.text
    assert "summary.json cannot be read" in page.text
    assert tuple(page.headings) == PARTS


@pytest.mark.parametrize("kind", sorted(p.name for p in FOLDERS.iterdir() if p.name != "images"))
def test_folders_of_earlier_versions_have_a_report(kind: str, tmp_path: Path) -> None:
    page = page_of(write_report([FOLDERS / kind / "run"], tmp_path / "old.html"))
    assert tuple(page.headings) == PARTS
    assert "predictions of the students were not recorded" in page.text
    assert "No loss was recorded" in page.text
    assert "This was not measured" in page.text
    queries = json.loads((FOLDERS / kind / "expected.json").read_text())["queries"]
    assert f"{queries['spent']:,}" in page.text


def test_runs_side_by_side(finished: Sandbox, tmp_path: Path) -> None:
    old = FOLDERS / "together" / "run"
    page = page_of(write_report([finished.run, old], tmp_path / "both.html"))
    assert "2 runs side by side" in page.text
    assert "not measured on the same test images" in page.text
    assert page.headings == [
        title for folder in (finished.run, old) for title in (str(folder), f"Students of {folder}")
    ]
    assert page.charts == 3  # the frontier, and the students of each


def hostile(finished: Sandbox, tmp_path: Path) -> Path:
    """A run whose names are attacks."""
    copy = tmp_path / "a<b>&'\"{{ 7*7 }}$x^2$"
    shutil.copytree(finished.run, copy)
    summary = json.loads((copy / "summary.json").read_text())
    summary["class_names"] = EVIL
    summary["warnings"] = EVIL
    summary["recipe"]["run"] = EVIL[0] + "\u202e${DOOR}"
    (copy / "summary.json").write_text(json.dumps(summary))
    return copy


def test_names_inject_nothing(
    finished: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOOR", "open sesame")
    folder = hostile(finished, tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    summary["warnings"].append("the server said: open sesame")
    (folder / "summary.json").write_text(json.dumps(summary))
    for runs in ([folder], [folder, finished.run]):
        file = write_report(runs, tmp_path / "page.html")
        page, text = page_of(file), file.read_text("utf-8")
        assert "<script" not in text
        assert "\u202e" not in text
        assert "\x1b" not in text
        assert "{{ 7*7 }}" in page.text
        assert "$x^2$" in page.text
        assert "cat\\u202egod" in page.text
        assert "<script>alert(1)</script>" in page.text
        assert "open sesame" not in text
        assert "the server said: ***" in page.text


@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")
def test_a_real_browser_shows_hostile_names_as_text(finished: Sandbox, tmp_path: Path) -> None:
    page = write_report([hostile(finished, tmp_path)], tmp_path / "page.html")
    seen = browsed(page, tmp_path)
    assert "broken into" not in seen.title
    assert seen.tags.isdisjoint({"script", "iframe", "object", "link"})
    assert tuple(seen.headings) == PARTS
    for name in (EVIL[0], EVIL[6], *EVIL[8:]):
        assert name in seen.text

    # The same browser does run what a page lets it run, so the test can fail.
    (tmp_path / "open.html").write_text(f"<title>shut</title>{EVIL[8]}")
    assert "broken into" in browsed(tmp_path / "open.html", tmp_path).title


def browsed(file: Path, tmp_path: Path) -> Page:
    """A page as Chromium has it after its scripts, if any, have run."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000",
        f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Page(done.stdout)


def test_methods_of_any_name_are_safe_within_charts(tmp_path: Path) -> None:
    from db3kd.job.reporting import charts

    for name in EVIL:
        svg = str(charts.students({name: [0.5], "b": [0.6]}, 0.9, "accuracy"))
        svg += str(
            charts.curves({name: [(0.0, 1.0), (1.0, 2.0)], "b": [(0.0, 1.0)]}, "about", "x", "y")
        )
        svg += str(charts.frontier({name: [(10.0, 90.0)]}, [(10.0, 90.0), (20.0, 91.0)]))
        page = Page(svg)
        assert page.tags <= {"svg", "g", "path", "use", "defs", "text", "clippath", "rect"}, name
        assert "mathdefault" not in svg
        assert "#0" not in svg.replace('xlink:href="#', "").replace("url(#", "")


def test_a_thousand_classes_stay_small_and_readable(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    images = TensorImages(torch.rand(60, 3, 32, 32, generator=draw))

    def answers(some: torch.Tensor) -> torch.Tensor:
        return (some.flatten(1)[:, :50].sum(1) * 1e4).long() % 1000

    with Run(
        tmp_path / "run", function(answers, classes=1000), budget=Budget(queries=50_000)
    ) as run:
        transfer = run.label(images, Search(metric="sd", strategy="rows", references=1))
        network = build("small", (3, 32, 32), 1000, seed=0)
        run.distill(network, transfer, Training(steps=2), name="sd")
        run.evaluate(network, images, name="sd")
    file = write_report([tmp_path / "run"])
    page = page_of(file)
    assert file.stat().st_size < 5 * 2**20
    assert "980 other classes are left out" in page.text
    assert "classes were never met" in page.text
    assert page.text.count("\n") < 3000


def test_a_run_goes_on_without_what_a_report_needs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"report.html needs matplotlib: .*install"):
        write_report([FOLDERS / "rows" / "run"], tmp_path / "page.html")

    with caplog.at_level("INFO", logger="db3kd"):
        assert db3kd.job.report.show(FOLDERS / "rows" / "run") is None
    assert "report.html needs matplotlib" in caplog.text
    assert not (tmp_path / "page.html").exists()
