"""What lies in a folder, table or IDX file of pictures, for `miaobi data inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from miaobi.core.language import say
from miaobi.data.image.config import Config
from miaobi.data.image.first_pass import FirstPass
from miaobi.data.image.overview import few, pixel_remarks
from miaobi.data.image.packing import plan
from miaobi.data.image.sources import kind_of, pictures, remarks
from miaobi.data.progress import bar
from miaobi.data.survey import EXAMPLES, counted, problem_lines, table

LISTED_SIZES = 8
LISTED_KINDS = 8
LISTED_CLASSES = 12


@dataclass(frozen=True)
class PictureSurvey:
    """The content of a folder, table or IDX file of pictures."""

    path: Path
    layout: str
    """How it is read: folder, pairs, tables or idx."""
    pictures: int
    """Those that can be used."""
    sizes: Mapping[str, int]
    """Pictures by width × height, the most frequent first."""
    kinds: Mapping[str, int]
    """Pictures by format and mode, such as "JPEG CMYK"."""
    classes: Mapping[str, int]
    """Pictures by class, in the order of their numbers."""
    splits: Mapping[str, int]
    """Pictures by the split that the source names."""
    captions: int
    """Pictures with a caption."""
    duplicates: int
    """Exact copies, the first of each not counted."""
    near_duplicates: int
    """Pictures that look like an earlier one: they go to the same split."""
    distinct: int
    """Pictures that are neither."""
    remarks: tuple[str, ...]
    """How the layout and the pixels are read, and what is passed over."""
    problems: int
    first_problems: tuple[str, ...]
    examples: tuple[str, ...]
    """Captions."""

    def __str__(self) -> str:
        none = say("none", "无")
        rows = {
            say("layout", "结构"): self.layout,
            say("pictures", "图片"): say(
                f"{self.pictures:,} ({self.duplicates:,} exact and {self.near_duplicates:,} near duplicates)",
                f"{self.pictures:,}（完全重复 {self.duplicates:,}，近似重复 {self.near_duplicates:,}）",
            ),
            say("sizes", "尺寸"): counted(self.sizes, LISTED_SIZES),
            say("kinds", "格式"): counted(self.kinds, LISTED_KINDS),
            say("classes", "类别"): counted(self.classes, LISTED_CLASSES) or none,
            say("splits", "划分"): counted(self.splits) or none,
            say("captions", "说明"): f"{self.captions:,}",
            say("problems", "问题"): f"{self.problems:,}",
        }
        lines = [
            *table(self.path, rows),
            *problem_lines(self.problems, self.first_problems),
        ]
        warning = few(self.distinct)
        notes = [*self.remarks, *([warning] if warning else [])]
        lines += [
            say(f"  note           {note}", f"  注意           {note}")
            for note in notes
        ]
        for number, caption in enumerate(self.examples, 1):
            lines.append(
                say(f"  caption {number}      {caption}", f"  说明 {number}  {caption}")
            )
        return "\n".join(lines)


def inspect(
    path: Path, *, strict: bool = False, text_column: str | None = None
) -> PictureSurvey:
    """Read the pictures at `path` as training would.

    Args:
        path: a file or folder of pictures
        strict: raise BadInput at the first problem
        text_column: the column that holds the captions
    """
    layout = kind_of(path) or ""
    config = Config(
        path=str(path),
        source=layout,
        strict=strict,
        caption_column=text_column or "",
    )
    first_pass = FirstPass(config, None)
    with bar() as show:

        def show_count(count: int) -> None:
            label = say(f"Reading: {count:,} pictures", f"读取：{count:,} 张")
            show(label, 0, 0)

        first_pass.run(pictures(config, first_pass.report), show_count)
    return _survey(path, layout, config, first_pass)


def _survey(
    path: Path, layout: str, config: Config, first_pass: FirstPass
) -> PictureSurvey:
    rows = first_pass.rows
    duplicates = {"duplicates": 0, "near_duplicates": 0, "distinct": 0}
    if rows:
        _, duplicates = plan(rows, config)
    labels = Counter(row.label for row in rows)
    captions = [row.caption for row in rows if row.caption]
    sizes = {
        f"{width}×{height}": count
        for (width, height), count in first_pass.sizes.most_common()
    }
    return PictureSurvey(
        path=path,
        layout=layout,
        pictures=len(rows),
        sizes=sizes,
        kinds=dict(first_pass.kinds.most_common()),
        classes={name: labels[name] for name in first_pass.classes},
        splits=dict(Counter(row.split for row in rows if row.split)),
        captions=len(captions),
        duplicates=duplicates["duplicates"],
        near_duplicates=duplicates["near_duplicates"],
        distinct=duplicates["distinct"],
        remarks=(
            *remarks(config),
            *pixel_remarks(first_pass, config.fit),
            *_side_by_side(first_pass, layout),
        ),
        problems=first_pass.problems,
        first_problems=tuple(first_pass.first_problems),
        examples=tuple(captions[:EXAMPLES]),
    )


def _side_by_side(first_pass: FirstPass, layout: str) -> list[str]:
    """What to do where every picture of several is twice as wide as it is high."""
    is_double = all(width == 2 * height for width, height in first_pass.sizes)
    if layout != "folder" or len(first_pass.rows) < 2 or not is_double:
        return []
    return [
        say(
            "Every picture is twice as wide as high. If each is a pair side by side, "
            "train with --data.source side-by-side.",
            "每张图片的宽都是高的两倍。若每张是左右拼接的一对，训练时请加 --data.source side-by-side。",
        )
    ]
