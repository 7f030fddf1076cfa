"""The page's colours, in both schemes: enough contrast for texts and for figures (WCAG 2.1, 1.4.3 and 1.4.11)."""

from __future__ import annotations

import re

import pytest

from .conftest import STATIC

STYLE = (STATIC / "page.css").read_text(encoding="utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block))
    for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
)
TEXTS = [
    *((text, ground) for text in ("text", "muted") for ground in ("surface", "ground", "faint")),
    *((text, "surface") for text in ("accent", "good", "warn", "bad", "measured", "predicted", "bound")),
    ("on-accent", "accent"),
]
FIGURES = [(figure, "surface") for figure in ("compute", "compute-2", "tail", "away", "good", "warn")]


def luminance(colour: str) -> float:
    def linear(value: int) -> float:
        share = value / 255
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    least, most = sorted((luminance(one), luminance(other)))
    return (most + 0.05) / (least + 0.05)


def test_the_formula() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # widely quoted as the gray that just fails


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_texts_and_figures_stand_out(scheme: dict[str, str]) -> None:
    assert set(LIGHT) == set(DARK)
    pale = [(a, b) for a, b in TEXTS if contrast(scheme[a], scheme[b]) < 4.5]
    faint = [(a, b) for a, b in FIGURES if contrast(scheme[a], scheme[b]) < 3]
    assert (pale, faint) == ([], [])
    # The numbers of blocks are white.
    assert min(contrast("#ffffff", scheme[name]) for name in ("compute", "compute-2", "tail")) >= 3
    # Kinds of bars differ in lightness, too, for whoever tells no colours apart.
    assert contrast(scheme["compute"], scheme["receive"]) >= 2
    assert contrast(scheme["compute"], scheme["send"]) >= 1.5
