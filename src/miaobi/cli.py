"""The command line: a verb names a function, imported only when called. Options come
from the function's signature.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from miaobi import __version__
from miaobi.core.errors import MiaobiError, MissingPart, NotFound, nearest
from miaobi.core.language import say


class Verb(NamedTuple):
    """A verb's function ("module:function") and what it does, in both languages."""

    function: str
    english: str
    chinese: str


VERBS = {
    "quickstart": Verb(
        "miaobi.verbs.quickstart:quickstart",
        "from nothing to an answer, a trained poet and a report",
        "从零开始：得到回答、训练一位诗人、看到报告",
    ),
    "data list": Verb(
        "miaobi.verbs.data:list_packs",
        "the starter packs of models and data",
        "列出可获取的模型与数据包",
    ),
    "data fetch": Verb(
        "miaobi.verbs.data:fetch", "fetch a starter pack", "获取一个数据包"
    ),
    "data sample": Verb(
        "miaobi.verbs.data:sample",
        "write sample files to try the commands with",
        "写出可供试用的示例文件",
    ),
    "data inspect": Verb(
        "miaobi.verbs.data:inspect",
        "what is in a data file, and what is wrong with it",
        "查看数据文件的内容与问题",
    ),
    "train": Verb(
        "miaobi.verbs.train:command", "train a model from a recipe", "按配方训练模型"
    ),
    "finetune": Verb(
        "miaobi.verbs.finetune:command",
        "tune a pretrained model on labelled examples",
        "用标注数据微调预训练模型",
    ),
    "import": Verb(
        "miaobi.verbs.importing:import_recipe",
        "a recipe from LLaMA-Factory's or ms-swift's files",
        "把 LLaMA-Factory 或 ms-swift 的设置写成配方",
    ),
    "search": Verb(
        "miaobi.verbs.search:command",
        "better settings for a recipe, by many short runs",
        "通过多次短训练为配方寻找更好的设置",
    ),
    "generate text": Verb(
        "miaobi.verbs.generate.text:text",
        "write text with a model",
        "用模型生成文本",
    ),
    "generate image": Verb(
        "miaobi.verbs.generate.image:image",
        "make pictures with a model",
        "用模型生成图片",
    ),
    "generate speech": Verb(
        "miaobi.verbs.generate.speech:speech",
        "read a text aloud",
        "朗读一段文本",
    ),
    "embed": Verb(
        "miaobi.verbs.embed:embed",
        "vectors of the texts of a file, for search and matching",
        "把文件中的文本变成向量，用于检索与匹配",
    ),
    "code complete": Verb(
        "miaobi.verbs.code:complete",
        "fill in source code at a position",
        "在源代码的某个位置补全",
    ),
    "code explain": Verb(
        "miaobi.verbs.code:explain",
        "say in words what source code does",
        "用文字说明源代码的作用",
    ),
    "code refactor": Verb(
        "miaobi.verbs.code:refactor",
        "a diff that rewrites source code, applied on request",
        "给出改写源代码的差异，按需应用",
    ),
    "chat": Verb("miaobi.verbs.chat:chat", "talk with a model", "与模型对话"),
    "evaluate": Verb(
        "miaobi.verbs.evaluate:evaluate",
        "measure a model, with intervals",
        "评估模型并给出置信区间",
    ),
    "latent reconstruct": Verb(
        "miaobi.verbs.latent:reconstruct",
        "pictures beside their reconstructions",
        "图片与其重建对照",
    ),
    "latent interpolate": Verb(
        "miaobi.verbs.latent:interpolate",
        "the way between two pictures or seeds",
        "两张图片或两个种子之间的过渡",
    ),
    "latent arithmetic": Verb(
        "miaobi.verbs.latent:arithmetic",
        "add what distinguishes two groups of pictures",
        "加上两组图片之间的差别",
    ),
    "latent traverse": Verb(
        "miaobi.verbs.latent:traverse",
        "what each latent dimension does",
        "查看每个潜在维度的作用",
    ),
    "latent project": Verb(
        "miaobi.verbs.latent:project",
        "find a picture in the latent space",
        "在潜在空间中寻找给定图片",
    ),
    "latent truncate": Verb(
        "miaobi.verbs.latent:truncate",
        "the same seeds from average to varied",
        "同一批种子从平均到多样",
    ),
    "export": Verb(
        "miaobi.verbs.export:export",
        "a model in another program's format",
        "把模型导出为其他程序的格式",
    ),
    "models list": Verb(
        "miaobi.verbs.models:list_models", "the models in the store", "列出已保存的模型"
    ),
    "models show": Verb(
        "miaobi.verbs.models:show",
        "where a model came from and how it scores",
        "查看模型的来历与得分",
    ),
    "models promote": Verb(
        "miaobi.verbs.models:promote",
        "make a version the one in production",
        "把某个版本设为正式版",
    ),
    "models rollback": Verb(
        "miaobi.verbs.models:rollback", "back to the version before", "退回上一个正式版"
    ),
    "models merge": Verb(
        "miaobi.verbs.models:merge",
        "one adapter out of several",
        "把多个适配器合并为一个",
    ),
    "models remove": Verb(
        "miaobi.verbs.models:remove",
        "remove a version or a model",
        "删除一个版本或模型",
    ),
    "serve": Verb(
        "miaobi.serve.command:serve",
        "models over HTTP, in OpenAI's shapes, and a studio",
        "以 OpenAI 接口提供模型服务与网页工作台",
    ),
    "batch": Verb(
        "miaobi.serve.offline:batch",
        "answer a file of requests, without a server",
        "离线批量回答一个请求文件",
    ),
    "keys create": Verb(
        "miaobi.serve.keyring:create",
        "a key for a caller of the server",
        "为服务器的调用者创建密钥",
    ),
    "keys list": Verb(
        "miaobi.serve.keyring:list_keys",
        "the server's keys and their limits",
        "列出服务器的密钥与限额",
    ),
    "keys revoke": Verb("miaobi.serve.keyring:revoke", "end a key", "撤销一个密钥"),
    "doctor": Verb(
        "miaobi.verbs.doctor:doctor",
        "what is installed, what is missing, how to repair it",
        "检查安装情况并给出修复命令",
    ),
}

HELP = ("--help", "-h")


def all_verbs() -> dict[str, Verb]:
    """Return VERBS, and a verb for every other registered request."""
    from miaobi.core.requests import requests

    verbs = dict(VERBS)
    for name in requests.names():
        verb = Verb(
            f"miaobi.verbs.generate.other:{name}",
            f"make {name} with a model",
            f"用模型生成 {name}",
        )
        verbs.setdefault(f"generate {name}", verb)
    return verbs


def overview() -> str:
    """Return the list of verbs."""
    verbs = all_verbs()
    width = max(map(len, verbs))
    rows = [
        f"  {name:<{width}}  {say(verb.english, verb.chinese)}"
        for name, verb in verbs.items()
    ]
    return "\n".join(
        [
            f"miaobi 妙笔 {__version__}: "
            + say(
                "from your own data to a generative model", "从您自己的数据到生成模型"
            ),
            "",
            *rows,
            "",
            say(
                "miaobi VERB --help says more. --json prints results for machines.",
                "miaobi 命令 --help 查看详情；--json 输出机器可读的结果。",
            ),
        ]
    )


def find(argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the verb at the start of `argv` and the arguments after it. Raises NotFound
    with the nearest verbs.
    """
    group = argv[0]
    verbs = all_verbs() if group == "generate" else VERBS
    for count in (2, 1):
        name = " ".join(argv[:count])
        if len(argv) >= count and name in verbs:
            return name, argv[count:]
    inner = [name.split()[1] for name in verbs if name.startswith(f"{group} ")]
    if inner:
        raise NotFound(
            say(f"miaobi {group} does what?", f"miaobi {group} 要做什么？"),
            say(f"One of: {', '.join(inner)}.", f"可选：{'、'.join(inner)}。"),
        )
    raise NotFound(
        say(f"There is no verb {group!r}.", f"没有名为 {group!r} 的命令。"),
        nearest(group, {name.split()[0] for name in VERBS}),
    )


def call(name: str, argv: Sequence[str]) -> Any:
    """Run a verb with its arguments and return its result; print the help for --help."""
    from importlib.metadata import EntryPoint

    from miaobi.core.config import arguments
    from miaobi.core.registry import load_entry_point

    verb = all_verbs()[name]
    function = load_entry_point(EntryPoint(name, verb.function, "miaobi.verbs"))
    rest = [item for item in argv if item not in HELP]
    if len(rest) < len(argv):
        print(usage(name, function, rest))
        return None
    return function(**arguments(function, argv))


def usage(name: str, function: Callable[..., Any], argv: Sequence[str] = ()) -> str:
    """Return the help of a verb; where its options depend on a recipe, a task or a
    model, of the one that `argv` names.
    """
    from miaobi.core import config

    verb = all_verbs()[name]
    page = config.usage(
        f"miaobi {name}",
        say(verb.english, verb.chinese),
        config.options(function),
        config.further(function, argv),
    )
    note = config.note(function, argv)
    return f"{page}\n\n{note}" if note else page


def missing(name: str, error: ModuleNotFoundError) -> Exception:
    """Return the error that says what to install for a verb whose package is missing;
    the error itself where it is a module of ours.
    """
    package = (error.name or "miaobi").partition(".")[0]
    if package == "miaobi" or isinstance(error, MiaobiError):
        return error
    extra = "serve" if all_verbs()[name].function.startswith("miaobi.serve.") else "all"
    return MissingPart(
        say(
            f"miaobi {name} needs the package {package}, which is not installed.",
            f"miaobi {name} 需要 {package} 包，目前未安装。",
        ),
        f"pip install 'miaobi[{extra}]'",
    )


def show(result: Any, as_json: bool) -> None:
    """Print a verb's result."""
    if result is None:
        return
    if as_json:
        from miaobi.core.config import plain

        print(json.dumps(plain(result), ensure_ascii=False, indent=1))
    elif text := str(result):
        print(text)


def show_error(error: MiaobiError, as_json: bool) -> None:
    """Print an error to stderr."""
    if not as_json:
        print(f"✗ {error}", file=sys.stderr)
        return
    content = {
        "code": error.code,
        "message": error.problem,
        "remedy": error.remedy,
    }
    print(json.dumps({"error": content}, ensure_ascii=False), file=sys.stderr)


def run(argv: Sequence[str], as_json: bool) -> None:
    """Carry out a command line without --json."""
    if not argv or argv[0] in (*HELP, "help"):
        print(overview())
        return
    if argv[0] == "--version":
        print(__version__)
        return
    name, rest = find(argv)
    try:
        show(call(name, rest), as_json)
    except ModuleNotFoundError as error:
        raise missing(name, error) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Return the process's exit code: 0, the error's own, 130 after Ctrl-C, 141 when
    the reader went away.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    try:
        run([item for item in arguments if item != "--json"], as_json)
    except MiaobiError as error:
        show_error(error, as_json)
        return error.exit_code
    except KeyboardInterrupt:
        stopped = say(
            "Stopped. Nothing half-written was left behind.",
            "已停止，没有留下写了一半的文件。",
        )
        print(f"\n{stopped}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


if __name__ == "__main__":
    sys.exit(main())
