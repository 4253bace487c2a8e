"""The sentence encoder as a reader: where in a text the answer to a question begins and ends.

    g_j = σ(w · f_j)                                   how much is asked for by token j of the question
    m_t = min(1, Σ_j g_j [id_j = id_t])                whether token t of the text is one of those
    f'  = the encoder on e_t + m_t u                   so its n-grams see what stands beside such a token
    logits_t = W f'_t + (A f'_t) · (B q),  q = Σ_j g_j f_j / Σ_j g_j
The encoder sees four neighbours; the words that question and text share are what tells
far places (exact match as a feature and the product with the question: Chen et al.
2017, arXiv:1704.00051).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForQuestionAnswering
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from miaobi.models.use import UseConfig, UseModel, UsePreTrainedModel

MEETING = 64
"""Width in which the question meets the text."""
END = 2
"""The id of </s>, which ends the question."""


class UseForQuestionAnswering(UsePreTrainedModel):
    """ids [B, T] of `<s> question </s> <s> text </s>` -> start_logits, end_logits [B, T]."""

    def __init__(self, config: UseConfig) -> None:
        super().__init__(config)
        self.encoder = UseModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.qa_outputs = Meeting(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(
            module, Meeting
        ):  # what the stored weights lack is uninitialised memory otherwise
            nn.init.constant_(module.mark, 0.1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **others: Any
    ) -> QuestionAnsweringModelOutput:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        ended = (input_ids == END).cumsum(1)
        asked = (ended == 0) & (mask > 0)
        read = self.encoder(input_ids, mask).last_hidden_state
        gate = torch.sigmoid(self.qa_outputs.asks(read))[..., 0] * asked
        same = (input_ids[:, :, None] == input_ids[:, None, :]) & ~asked[:, :, None]
        met = (same * gate[:, None, :]).sum(-1).clamp(max=1)
        again = self.encoder(
            attention_mask=mask,
            inputs_embeds=self.encoder.embedded(input_ids)
            + met[..., None] * self.qa_outputs.mark,
        ).last_hidden_state
        question = (read * gate[..., None]).sum(1) / gate.sum(1, keepdim=True).clamp(
            min=1e-6
        )
        start, end = self.qa_outputs(self.dropout(again), question).unbind(-1)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


class Meeting(nn.Module):
    """All that is new. tokens [B, T, D], question [B, D] -> [B, T, 2]."""

    def __init__(self, config: UseConfig) -> None:
        super().__init__()
        self.asks = nn.Linear(config.token_size, 1)
        self.mark = nn.Parameter(torch.empty(config.hidden_size))
        self.of_text = nn.Linear(config.token_size, 2 * MEETING)
        self.of_question = nn.Linear(config.token_size, 2 * MEETING)
        self.score = nn.Linear(config.token_size, 2)

    def forward(self, tokens: Tensor, question: Tensor) -> Tensor:
        met = self.of_text(tokens) * self.of_question(question)[:, None]
        return self.score(tokens) + met.unflatten(-1, (2, MEETING)).sum(-1)


AutoModelForQuestionAnswering.register(UseConfig, UseForQuestionAnswering)
