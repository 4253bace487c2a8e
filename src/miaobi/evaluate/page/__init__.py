"""HTML pages: self-contained, opened from disk, light and dark, printable, in either
language.

    page = Page("poet@1", lead="57,607 poems")
    page.add("Scores", score_table({"poet@1": scores}), prose("n counts documents."))
    page.add("Learning", loss_chart(read_log(run)))
    page.write(folder / "index.html")

Blocks are markup that the functions below return; they escape whatever they are given.
"""

from miaobi.evaluate.page.charts import Series, line_chart, loss_chart
from miaobi.evaluate.page.layout import (
    Page,
    Quote,
    bars,
    facts,
    highlighted_text,
    images,
    prose,
    quotes,
    steps,
    table,
)
from miaobi.evaluate.page.numbers import format_number
from miaobi.evaluate.page.scores import score_table
from miaobi.evaluate.page.template import Block

__all__ = [
    "Block",
    "Page",
    "Quote",
    "Series",
    "bars",
    "facts",
    "format_number",
    "highlighted_text",
    "images",
    "line_chart",
    "loss_chart",
    "prose",
    "quotes",
    "score_table",
    "steps",
    "table",
]
