"""The user's language: English or Chinese, chosen by MIAOBI_LANG or the system's locale.

Both wordings stand side by side where they are used, so neither can be forgotten.
"""

import os
from functools import cache


@cache
def language() -> str:
    """Return "zh" or "en"."""
    chosen = (
        os.environ.get("MIAOBI_LANG")
        or os.environ.get("LC_ALL")
        or os.environ.get("LANG")
        or "en"
    )
    return "zh" if chosen.lower().startswith("zh") else "en"


def say(english: str, chinese: str) -> str:
    """Return the wording in the user's language."""
    return chinese if language() == "zh" else english
