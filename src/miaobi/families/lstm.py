"""A stacked LSTM language model with tied output.

    i, f, g, o = W x_t + U h_{t-1} + b;   c_t = σ(f) c_{t-1} + σ(i) tanh(g);   h_t = σ(o) tanh(c_t)
    logits_t = E (P h_t),  E the embedding: input and output share it

LSTM: Hochreiter & Schmidhuber 1997. Stacking, dropout between layers: Zaremba et al. 2014
(arXiv:1409.2329). Tying: Press & Wolf 2017 (arXiv:1608.05859). The state is all it
remembers: a token costs the same, however long the text is.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from miaobi.data.text.tokens import TokenSpec
from miaobi.families.config import LSTMConfig as Config
from miaobi.families.folder import read_net, write_net
from miaobi.nn.graphs import Graph, language_graph
from miaobi.nn.language import LanguageModel
from miaobi.nn.language import sample_texts as sample
from miaobi.nn.sample import TextSample as Sample

__all__ = [
    "DATA",
    "MODALITY",
    "NAME",
    "Config",
    "Sample",
    "build",
    "load",
    "sample",
    "save",
]

NAME, MODALITY, DATA = "lstm", "text", "tokens"
State = tuple[Tensor, Tensor]
"""(h, c), each [layers, B, H]."""


class LSTM(nn.Module):
    """ids [B, T], state (h, c) each [layers, B, H] or None -> logits [B, T, V], state."""

    def __init__(self, config: Config, spec: TokenSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.embed = nn.Embedding(spec.vocab_size, config.embedding_size)
        self.lstm = nn.LSTM(
            config.embedding_size,
            config.hidden_size,
            config.num_layers,
            batch_first=True,
            dropout=config.dropout if config.num_layers > 1 else 0.0,
        )
        self.project = nn.Linear(config.hidden_size, config.embedding_size)
        self.drop = nn.Dropout(config.dropout)
        nn.init.normal_(self.embed.weight, std=config.embedding_size**-0.5)
        # Forget gates are open at first: Jozefowicz et al. 2015.
        forget = slice(config.hidden_size, 2 * config.hidden_size)
        for layer in range(config.num_layers):
            self.lstm.get_parameter(f"bias_ih_l{layer}").data[forget].fill_(1.0)

    def step(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the logits [B, T, V] of some more tokens, and the state after them."""
        hidden, state = self.lstm(self.drop(self.embed(ids)), state)
        return self.project(self.drop(hidden)) @ self.embed.weight.T, state

    def forward(self, ids: Tensor) -> Tensor:
        logits, _ = self.step(ids)
        return logits

    def graphs(self) -> list[Graph]:
        """Return the logits of every token of a text."""
        return [language_graph(self.forward, self.spec.vocab_size)]


def build(config: Config, spec: TokenSpec) -> LanguageModel:
    return LanguageModel(LSTM(config, spec))


def save(objective: LanguageModel, folder: Path) -> None:
    write_net(objective.net, NAME, folder)


def load(folder: Path) -> LSTM:
    return read_net(LSTM, Config, folder)
