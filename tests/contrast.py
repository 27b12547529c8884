"""Contrast of a page's colours, by the rules of WCAG: 4.5 for text, 3 for marks."""

import json

TEXTS = ("--ink", "--muted", "--measured", "--predicted")
GROUNDS = ("--card", "--ground", "--chosen")


def check(page, marks):
    """Checks the texts of a page on its grounds, and each of `marks`: a colour and its ground."""
    names = sorted({*TEXTS, *GROUNDS, *(name for mark in marks for name in mark)})
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        style = "getComputedStyle(document.documentElement)"
        values = page.evaluate(f"{json.dumps(names)}.map(name => {style}.getPropertyValue(name).trim())")
        colours = dict(zip(names, values, strict=True))
        for text in TEXTS:
            for ground in GROUNDS:
                assert contrast(colours[text], colours[ground]) >= 4.5, (scheme, text, ground)
        for mark, ground in marks:
            assert contrast(colours[mark], colours[ground]) >= 3, (scheme, mark, ground)


def contrast(one, other):
    """The contrast ratio of two #rrggbb colours."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
