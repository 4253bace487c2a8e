"""Recipes and other settings in YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from miaobi.core.errors import BadInput, NotFound, nearest
from miaobi.core.language import say
from miaobi.core.recipes import packaged


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises NotFound, or BadInput with the line."""
    import yaml

    if not path.is_file():
        siblings = [str(item) for item in path.parent.glob("*.y*ml")]
        raise NotFound(
            say(f"There is no file {path}.", f"找不到文件 {path}。"),
            nearest(str(path), siblings),
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise _not_yaml(f"{path}{line}", error.problem or str(error)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _not_yaml(str(path), str(error)) from None
    if not isinstance(content, dict):
        raise BadInput(
            say(f"{path} holds no settings.", f"{path} 中没有任何设置。"),
            say(
                "Write `key: value` lines; see the files under recipes/.",
                "请写成 `key: value`；可参考 recipes/ 下的文件。",
            ),
        )
    return content


def _not_yaml(where: str, problem: str) -> BadInput:
    return BadInput(
        say(
            f"{where} is not valid YAML: {problem}.",
            f"{where} 不是有效的 YAML：{problem}。",
        ),
        say("Mend that line.", "请修正该行。"),
    )


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Return a recipe's settings. Raises as `read_yaml` does.

    A path NAME/x.yaml that is not there means a recipe that comes in a package.
    """
    path = Path(path)
    if not path.exists():
        path = packaged(path) or path
    return read_yaml(path)
