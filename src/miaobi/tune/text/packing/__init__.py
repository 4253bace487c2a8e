"""Batches without padding, for any causal language model of Transformers: sequences lie
end to end and never see each other.

    ids        a a a a b b c c c ...     positions start again with each sequence
    attention  causal within a, within b, within c

What all sequences of a batch begin with (a system prompt) is computed once: they attend
to the same keys and values, so loss and gradient are those of each alone. Layers see
[1, T, C]; only attention knows about sequences.

    layout     what a packed batch is, and which of its sequences attend together
    attention  attention by such a layout, for Transformers' attention interface
    reader     a language model's losses and hidden states of such a batch
    learner    what the tasks of such models share
"""

from miaobi.tune.text.packing.layout import Layout, by_sequence, pack
from miaobi.tune.text.packing.learner import PackedLearner, layers_of
from miaobi.tune.text.packing.reader import Reader

__all__ = ["Layout", "PackedLearner", "Reader", "by_sequence", "layers_of", "pack"]
