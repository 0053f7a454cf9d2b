"""The page holds all that it is given, escaped, in one file, and works in a real browser."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from benchmark.page.html import (
    MISSING,
    Confusion,
    Gain,
    Picture,
    ProblemRow,
    ReportData,
    Table,
    Verdict,
    render_report,
)
from benchmark.page.leaderboard import RankingRow
from benchmark.page.rendering import Drawing
from benchmark.stages.report.headline import name_method, write_headline

EVIL = "<script>alert(1)</script>"
DRAWING = Drawing(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "svg")

RANKING = (
    RankingRow(
        rank=1,
        backbone="efficientnet_lite0",
        method="logistic_regression",
        value=0.8641,
        ci_low=0.8212,
        ci_high=0.9023,
        seed_std=0.00651,
        num_seeds=5,
        num_trials=10,
        seconds=421.0,
    ),
    RankingRow(rank=2, backbone="efficientnet_lite0", method="knn", value=0.85, num_trials=3),
    RankingRow(
        rank=3,
        backbone="mean_color",
        method="mlp",
        value=0.5412,
        ci_low=float("nan"),
        ci_high=float("nan"),
        is_floor=True,
    ),
)


def report(**changes: object) -> ReportData:
    names = ("water", EVIL, "barren")
    frame = pd.DataFrame({"cell": ["a · b"], "accuracy": [0.98765], "patches": [2586]})
    data = ReportData(
        title="Quickstart",
        experiment="quickstart",
        dataset="synthetic",
        is_synthetic=True,
        headline=write_headline(RANKING, ties=["efficientnet_lite0 · knn"]),
        interval_reason="Intervals come from 1000 bootstrap resamples of 12 scenes.",
        ranking=RANKING,
        absent_classes=("barren", EVIL),
        notes=("The split is random.", EVIL),
        metrics=(Table.from_frame(frame, title="All metrics", caption=EVIL),),
        gains=(Gain(backbone=EVIL, head=EVIL, gain=4.1, low=2.0, high=6.3, verdict=EVIL),),
        choices=(Verdict(backbone=EVIL, head="", sentence=f"fine-tuning {EVIL}"),),
        comparisons=(Table(title="Frozen?", columns=("backbone", EVIL), rows=((EVIL, EVIL),)),),
        recalls=(Table(title="Recall", columns=("cell", EVIL), rows=((EVIL, None),)),),
        confusions=(
            Confusion(title=EVIL, classes=names, counts=((64, 2, 0), (1, 1987, 0), (0, 0, 0))),
        ),
        class_counts=(Table(title="Patches", columns=names, rows=((1, 22_450, 3),)),),
        backbones=(Table(title="Fed", columns=("backbone", "size"), rows=((EVIL, EVIL),)),),
        timings=(Table(title="Stages", columns=("stage", "seconds"), rows=(("embed", 12.34),)),),
        repairs=(Table(title="1 machine lost", columns=("stage", EVIL), rows=(("tune", EVIL),)),),
        problems=(ProblemRow(cell="x · finetune", status="failed", reason=EVIL),),
        provenance={"dataset digest": "9af0", EVIL: EVIL},
        pictures=(
            Picture(section="ranking", title=EVIL, caption=EVIL, alt='" onload="', drawing=DRAWING),
        ),
    )
    return dataclasses.replace(data, **changes)  # type: ignore[arg-type]


class Page(HTMLParser):
    """Collects what a browser would load, the text, and the attributes of each tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_everything_is_on_the_page() -> None:
    page = Page(render_report(report()))
    for word in (
        "Synthetic data.",
        "efficientnet_lite0 with logistic_regression leads with 0.864 balanced accuracy on test "
        "(95 % interval 0.821 to 0.902); the best floor, mean_color with mlp, is 32.3 points "
        "below at 0.541. No detectable difference from the leader: efficientnet_lite0 · knn.",
        "1000 bootstrap resamples of 12 scenes",
        "Classes without patches in test, which its balanced accuracy leaves out: barren",
        "The split is random.",
        "1 of the grid's cells has no result",
        "0.821 to 0.902",
        "± 0.0065",
        "7 min",
        "All metrics",
        "0.988",
        "2,586",
        "1,987",
        "barren (absent)",
        "22,450",
        "12.340",
        "x · finetune",
        "Recovered failures",
        "1 machine lost",
        "9af0",
        "How to read it",
        "Fed",
    ):
        assert word in page.text, word


def test_the_ranking_counts_failed_trials() -> None:
    row = dataclasses.replace(RANKING[0], num_trials=8, num_failed=2)
    assert "8 (2 failed)</td>" in render_report(report(ranking=(row,)))
    assert "failed)</td>" not in render_report(report())


def test_names_are_escaped_everywhere() -> None:
    text = render_report(report())
    assert EVIL not in text
    page = Page(text)
    # Only those of the ranking and of the command; the name is shown as it is written.
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert page.text.count(EVIL) >= 10
    assert not [attrs for _, attrs in page.tags if "onload" in attrs]


def test_odd_names_in_the_ranking_stay_text_in_cells_attributes_and_filters() -> None:
    odd = "\"><img src=x onerror=alert(1)>\u202e & 'co'"
    rows = tuple(
        dataclasses.replace(RANKING[0], rank=1 + n, backbone=name, method=name, family=name)
        for n, name in enumerate((odd, "plain"))
    )
    page = Page(render_report(report(ranking=rows)))
    assert [attrs for tag, attrs in page.tags if tag == "img" and attrs.get("src") == "x"] == []
    values = [attrs["data-backbone"] for tag, attrs in page.tags if "data-backbone" in attrs]
    shown = odd.replace("\u202e", "")
    assert values == [shown, "plain"]
    options = [attrs.get("value") for tag, attrs in page.tags if tag == "option"]
    assert options.count(shown) == 3


def test_a_long_name_of_a_class_does_not_widen_a_table() -> None:
    name = "<" + 119 * "x"
    table = Table(title="t", columns=("a_b", name), rows=(("m", 1.0),))
    html = render_report(report(recalls=(table,)))
    assert '<th scope="col">a_b</th>' in html
    assert "&lt;" + 19 * "x" + "<wbr>" + 20 * "x" + "<wbr>" in html


def test_the_page_loads_nothing() -> None:
    text = render_report(report())
    for address in Page(text).loads:
        assert address.startswith(("data:image/svg+xml;base64,", "#")), address
    assert "@import" not in text
    assert not re.search(r"url\((?!data:)", text.partition("<script")[0])
    targets = re.findall(r'href="#([^"]+)"', text)
    assert all(f'id="{target}"' in text for target in targets)
    assert len(targets) >= 8


def test_the_page_is_accessible() -> None:
    page = Page(render_report(report()))
    assert ("html", {"lang": "en"}) in page.tags
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    heads = [attrs for tag, attrs in page.tags if tag == "th"]
    assert heads
    assert all(attrs.get("scope") in ("row", "col") for attrs in heads)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_an_empty_report_renders() -> None:
    data = ReportData(
        title="Empty", experiment="e", dataset="d", is_synthetic=False, headline=write_headline([])
    )
    page = Page(render_report(data))
    assert "No cell has a score yet." in page.text
    assert "every cell of the grid has a result" in page.text
    assert "Synthetic" not in page.text


def test_headlines() -> None:
    leader, second, floor = RANKING
    alone = write_headline([leader])
    assert alone.endswith("there is no floor to compare with.")
    assert "(no interval)" in write_headline([second, floor])
    assert write_headline([floor, second]).startswith("Nothing beats the trivial floor: mean_color")
    many = write_headline(RANKING, ties=list("abcde"))
    assert many.endswith("No detectable difference from the leader: a, b, c and 2 more.")
    assert write_headline(RANKING, ties=[]).endswith("over every other row is detectable.")
    assert "detectable" not in write_headline(RANKING)
    assert "(90 % interval" in write_headline(RANKING, confidence=0.9)


def test_frozen_or_fine_tuned_is_answered_first() -> None:
    gain = Gain(
        backbone="efficientnet_lite0",
        head="mlp",
        gain=4.1,
        low=-2.0,
        high=6.3,
        ratio=38.2,
        verdict="gains",
    )
    pictures = (
        Picture(section="finetune", title="What fine-tuning gains", drawing=DRAWING),
        Picture(section="training", title="Learning curves", drawing=DRAWING),
    )
    text = render_report(report(gains=(gain,), choices=(), pictures=pictures))
    section = text[text.index('<section id="finetune"') : text.index('<section id="ranking"')]
    assert "lite0 +4.1 -2.0 to +6.3 38 times gains mlp" in Page(section).text
    assert "What fine-tuning gains" in section
    detail = text[text.index('<section id="training"') : text.index('<section id="metrics"')]
    assert "Frozen?" in detail and "Learning curves" in detail


def test_columns_of_numbers_are_aligned_also_where_the_first_is_missing() -> None:
    rows = (("a", None, "p", 0.5, True), ("b", 2.0, "< 0.001", None, False))
    table = Table(title="t", columns=("name", "rate", "text", "p", "is it"), rows=rows)
    assert table.are_numbers == (False, True, True, True, False)
    text = render_report(report(labels=(table,)))
    assert f'<td class="num">{MISSING}</td>\n<td class="num">p</td>' in text
    assert '<th scope="col" class="num">rate</th>' in text and '<th scope="col">is it</th>' in text


def test_a_long_table_is_folded() -> None:
    rows = tuple((str(number),) for number in range(41))
    short, long = (
        Table(title=EVIL, columns=("x",), rows=rows[:count]) for count in (40, len(rows))
    )
    assert "rows)</summary>" not in render_report(report(labels=(short,)))
    text = render_report(report(labels=(long,)))
    folded = text[text.index("<details><summary><h3>") :].split("</details>")[0]
    assert " (41 rows)</summary>" in folded and folded.count("<tr>") == 42


def test_the_number_of_labels_has_a_section_where_it_was_asked() -> None:
    table = Table(title="Train sets", columns=("train_set",), rows=(("1%",),))
    sentence = "With a, fine-tuning overtakes the best frozen head from about 800 labels on."
    text = render_report(report(labels=(table,), crossings=(sentence,), train_set="all"))
    section = text[text.index('<section id="labels"') : text.index('<section id="metrics"')]
    assert sentence in section and "1%" in section
    assert "trained on all" in text[: text.index("<main>")]
    plain = render_report(report())
    assert 'id="labels"' not in plain and "trained on" not in plain


def test_other_regions_have_a_section_where_they_were_asked() -> None:
    table = Table(title="Drop", columns=("backbone", EVIL), rows=((EVIL, 3.25),))
    sentence = f"Drops least out of its regions: {EVIL}."
    figure = Picture(section="transfer", title="By region", drawing=DRAWING)
    text = render_report(report(transfer=(table,), drops_least=sentence, pictures=(figure,)))
    section = text[text.index('<section id="transfer"') : text.index('<section id="metrics"')]
    assert "Drops least out of its regions: &lt;script&gt;" in section
    assert "3.250" in section and "By region" in section and EVIL not in section
    assert 'href="#transfer"' in text
    assert "#transfer" not in render_report(report())


def test_without_fine_tuning_there_is_no_section() -> None:
    text = render_report(report(gains=(), choices=(), comparisons=()))
    assert "Frozen or fine-tuned" not in text
    assert 'id="finetune"' not in text and 'id="training"' not in text


def test_curves_without_a_comparison_say_why() -> None:
    pictures = (Picture(section="finetune", title="Scores and costs", drawing=DRAWING),)
    page = Page(render_report(report(gains=(), choices=(), pictures=pictures)))
    assert "no fine-tuned backbone has a frozen result with a head that is not a floor" in page.text


def test_the_headline_ends_with_the_best_backbones_verdict() -> None:
    verdicts = [
        Verdict(backbone="mean_color", head="mlp", sentence="fine-tuning is odd"),
        Verdict(backbone="efficientnet_lite0", head="knn", sentence="fine-tuning gains 4.1 points"),
    ]
    assert write_headline(RANKING, ties=[], verdicts=verdicts).endswith(
        "detectable. With efficientnet_lite0, fine-tuning gains 4.1 points."
    )
    assert write_headline(RANKING, verdicts=verdicts[:1]).endswith(
        "With mean_color, fine-tuning is odd."
    )
    tuned = dataclasses.replace(RANKING[0], method="finetune")
    assert write_headline([tuned]).startswith("Fine-tuned efficientnet_lite0 leads with 0.864")
    assert name_method("a", "finetune") == "fine-tuned a"


def test_an_unknown_section_is_refused() -> None:
    picture = Picture(section="rankings", title="x", drawing=DRAWING)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown section 'rankings'"):
        render_report(report(pictures=(picture,)))


def test_missing_values_become_dashes() -> None:
    frame = pd.DataFrame({"a": ["x", None], "n": pd.array([1, None], dtype="Int64")})
    data = report(metrics=(Table.from_frame(frame.assign(ok=[True, False]), title="T"),))
    text = Page(render_report(data)).text
    assert f"x 1 yes {MISSING} {MISSING} no" in text
