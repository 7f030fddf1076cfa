"""What a detector found, drawn on the picture in which it was found."""

from __future__ import annotations

import io
from collections.abc import Sequence

from legion_iot.orchestrator.inputs import upright_picture
from legion_iot.wire.messages import Answer

# Colours that people with any colour vision can tell apart. Source: Okabe and Ito, Color Universal Design, 2008.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def draw_boxes(payload: bytes, answers: Sequence[Answer]) -> bytes:
    """The picture, upright, as a PNG with a labelled box around each object; raises InputError where it is none."""
    from PIL import ImageDraw, ImageFont  # noqa: PLC0415 — only who draws needs Pillow

    picture = upright_picture(payload)
    width, height = picture.size
    line, size = max(2, min(width, height) // 200), max(10, min(width, height) // 30)
    font, pen = ImageFont.load_default(size), ImageDraw.Draw(picture)
    for answer in reversed(answers):  # the best ones lie on top
        if answer.box is None:
            continue
        top, left, bottom, right = answer.box
        box = (left * (width - 1), top * (height - 1), right * (width - 1), bottom * (height - 1))
        colour = COLOURS[answer.index % len(COLOURS)]
        pen.rectangle(box, outline=colour, width=line)
        text = f"{answer.label} {answer.score:.0%}"
        place = (box[0] + line, max(0.0, box[1] - size - 2 * line))
        pen.rectangle(pen.textbbox(place, text, font=font), fill=colour)
        pen.text(place, text, fill="black", font=font)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
