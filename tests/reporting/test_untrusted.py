"""Reports on artifacts whose names, texts and manifests are hostile."""

import dataclasses
import shlex
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from phi3quant.evaluation.evaluate import Artifact
from phi3quant.reporting.error_map import error_maps
from phi3quant.reporting.measured import from_manifests
from phi3quant.reporting.model_table import model_table
from phi3quant.reporting.outlook import outlooks
from phi3quant.reporting.page import render
from phi3quant.reporting.provenance_table import provenance_table
from phi3quant.reporting.report import Report
from phi3quant.reporting.summary import summary
from phi3quant.reporting.tables import error_table, variant_table
from phi3quant.reporting.variant import Variant
from phi3quant.visible import visible
from tests.reporting.pages import HOSTILE, parsed, renamed, words


def test_text_from_outside_stays_text(report: Report) -> None:
    page = render(renamed(report, HOSTILE))
    tree = parsed(page)
    assert not list(tree.iter("script"))
    for quoted in list(tree.iter("blockquote"))[:2]:
        assert "".join(quoted.itertext()) == f"text {visible(HOSTILE)}"
    assert "".join(next(iter(tree.iter("mark"))).itertext()) == visible(HOSTILE)
    assert "".join(next(iter(tree.iter("q"))).itertext()) == f"text {visible(HOSTILE)}"
    (command,) = tree.iter("pre")
    assert shlex.split("".join(command.itertext()))[2] == visible(HOSTILE)
    (first, *_) = [item for item in tree.iter("li") if item.find("span[@class]") is not None]
    assert words(first) == f"● {' '.join(visible(HOSTILE).split())}"
    assert not set("\x00\x1b\u202e") & set(page)
    assert "{{ 7 * 7 }}" in page


Json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["linears", "qkv_proj", "error", "error_rtn", "ratio", "artifact", "name", "text"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["blocks", "verification", "source", "recipe", "tools"]), Json, max_size=4
    )
)
def test_any_manifest_can_be_reported_on(report: Report, manifest: dict[str, Any]) -> None:
    opened: Artifact = dataclasses.replace(report.variants[0].opened, manifest=manifest)
    variant: Variant = dataclasses.replace(report.variants[0], opened=opened)
    maps = error_maps([variant])
    untrusted = Report(
        [variant], from_manifests([variant], "not asked for"), maps, outlooks([variant])
    )
    assert len(variant_table(untrusted).rows) >= 1
    assert provenance_table(variant).rows
    for each in maps:
        assert len(error_table(each).rows) == len(manifest["blocks"])
    assert summary(untrusted)
    assert model_table(untrusted).rows
