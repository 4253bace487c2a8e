"""What the tasks of causal language models share: a net that is read packed."""

from __future__ import annotations

from torch import nn

from miaobi.tune.learner import Learner
from miaobi.tune.text.packing.reader import Reader


class PackedLearner(Learner):
    """A learner whose net is a causal language model that is read by a `Reader`."""

    adapter_kind = "CAUSAL_LM"
    _reader: Reader | None = None

    @property
    def reader(self) -> Reader:
        """Of the net as it is now: adapters are put in after the learner was made."""
        if self._reader is None or self._reader.net is not self.net:
            self._reader = Reader(self.net)
        return self._reader

    @property
    def shares_prefix(self) -> bool:
        """Whether what all sequences of a batch begin with is computed once.

        It is not where something random would then be common to them.
        """
        return self.reader.packs and not (self.training and self._is_random())

    def _is_random(self) -> bool:
        return bool(self.neftune_alpha) or any(
            isinstance(module, nn.Dropout) and module.p > 0
            for module in self.net.modules()
        )


def layers_of(net: nn.Module) -> str:
    """Return the name of a language model's layers, its first ModuleList; else ""."""
    for name, module in net.named_modules():
        if isinstance(module, nn.ModuleList):
            return str(name)
    return ""
