"""The HTML page and the pictures: what a browser makes of them, and whether they are told from stale ones."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_pages import record, report, write

from recbole_diffusion.benchmark.boards import read_pages
from recbole_diffusion.benchmark.html import NAME, make_html
from recbole_diffusion.benchmark.pictures import pictures_of

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def results(tmp_path):
    beyond = {"beyond_accuracy": {"itemcoverage@10": 0.5}, "parameters": 1200}
    records = [
        record("low", 1, 0.2, 0.1, scoring_ms=1.0, **beyond),
        record("high", 1, 0.1, 0.3, scoring_ms=2.0, **beyond, model="DiffRec"),
        record("middle <&>", 1, 0.1, 0.2, scoring_ms=4.0, **beyond),
    ]
    write(tmp_path, records, ["low", "high", "middle <&>"])
    return tmp_path


def rows(html):
    """Name of each row, and whether it is hidden."""
    found = re.findall(r'<tr data-family="\w+"( hidden="")?>(?:<td>)(.*?)</td>', html)
    return [(name, bool(hidden)) for hidden, name in found]


def test_rows_are_best_first_with_their_values(results):
    html = make_html(read_pages(results))
    assert rows(html) == [("high", False), ("middle &lt;&amp;&gt;", False), ("low", False)]
    best = re.search(r"<tr[^>]*><td>high</td>(.*?)</tr>", html).group(1)
    shown = re.findall(r">([^<]*)</td>", best)
    assert shown[:3] == ["diffusion", "1", "0.3000"] and "1,200" in shown and "0.5000" in shown and "3.0" in shown
    assert not re.search(r'(src|href)="?http', html)


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium")
def test_a_browser_draws_sorts_and_filters(results):
    assert report(results) == 0
    page = (results / NAME).read_text(encoding="utf-8")
    use = """<script>
      document.querySelectorAll("th")[3].click(); document.querySelectorAll("th")[3].click();  // ndcg@10, upwards
      const box = document.querySelector('nav input[value="diffusion"]');
      box.checked = false; box.dispatchEvent(new Event("change"));
    </script></body>"""
    used = results / "used.html"
    used.write_text(page.replace("</body>", use), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"--user-data-dir={results / 'profile'}"]
    dom = subprocess.run([*command, used.as_uri()], capture_output=True, text=True, timeout=300, check=True).stdout
    assert rows(dom) == [("low", False), ("middle &lt;&amp;&gt;", False), ("high", True)]
    assert "main-svg" in dom and "milliseconds for the scores" in dom  # plotly has drawn


def test_pictures_stand_on_the_pages_and_stale_ones_are_told(results, capsys):
    pytest.importorskip("matplotlib")
    assert report(results) == 0
    pictures = {file.name for file in (results / "figures").iterdir()}
    assert pictures == {f"page-1-{kind}{suffix}" for kind in ("cost", "courses") for suffix in (".png", ".svg")}
    assert "](figures/page-1-cost.svg)" in (results / "page.md").read_text()
    assert "](figures/page-1-cost.svg)" in (results / "README.md").read_text()
    assert report(results, "--check") == 0

    (results / "figures" / "other.svg").write_text("<svg/>")
    assert report(results, "--check") == 1 and "other.svg" in capsys.readouterr().err
    (results / "figures" / "other.svg").unlink()

    html = (results / NAME).read_text()
    (results / NAME).write_text(
        re.sub("<!-- plotly -->.*<!-- /plotly -->", "<!-- plotly --><!-- /plotly -->", html, flags=re.S)
    )
    assert report(results, "--check") == 0  # another plotly is no other result
    (results / NAME).write_text(html.replace("0.3000", "0.4000"))
    assert report(results, "--check") == 1 and NAME in capsys.readouterr().err
    (results / NAME).write_text(html)

    first = Path(results, "runs", "000.json")
    first.write_text(json.dumps(json.loads(first.read_text()) | {"scoring_ms": 1.5}))
    assert report(results, "--check") == 1
    assert {"page-1-cost.svg", "page-1-cost.png", NAME, "page.md"} <= set(
        re.findall(r"[\w.-]+\.(?:svg|png|html|md)", capsys.readouterr().err)
    )


def test_the_picture_of_a_setting_leaves_out_what_older_records_lack(tmp_path):
    pytest.importorskip("matplotlib")
    how = record("", 1, 0.1, 0.1)["settings"]
    rows = [{"row": f"s {s}", "model": "EASE", "dataset": "toy", "settings": {"reg_weight": s}} for s in (1.0, 2.0, 3.0)]
    records = [record(row["row"], 1, 0.1, 0.1, settings=how | row["settings"], scoring_ms=1.0) for row in rows]
    write(tmp_path, records, rows)
    (page,) = read_pages(tmp_path)
    board, draw = pictures_of(page)["page-1-reg-weight"]
    assert [axis.get_ylabel() for axis in draw().axes] == ["ndcg@10 on test"]
    for entry in board.records:
        entry["beyond_accuracy"] = {"itemcoverage@10": 0.5}
    assert len(pictures_of(page)["page-1-reg-weight"][1]().axes) == 2
