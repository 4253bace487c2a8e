"""The sentence encoder with a question-answering head: where in a text an answer begins
and ends.

    g_j = σ(w · f_j)                                   how much token j of the question asks for
    m_t = min(1, Σ_j g_j [id_j = id_t])                whether token t of the text is one of those
    f'  = the encoder on e_t + m_t u                   so its n-grams see the neighbours of such a token
    logits_t = W f'_t + (A f'_t) · (B q),  q = Σ_j g_j f_j / Σ_j g_j

The encoder sees four neighbours; distant positions are distinguished by the words that
question and text share (exact match as a feature and the product with the question:
Chen et al. 2017, arXiv:1704.00051).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForQuestionAnswering
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from miaobi.models.use import UseConfig, UseModel, UsePreTrainedModel

MATCH_SIZE = 64
"""Width of the product of question and text."""
END = 2
"""The id of </s>, which ends the question."""


class UseForQuestionAnswering(UsePreTrainedModel):
    """ids [B, T] of `<s> question </s> <s> text </s>` -> start_logits, end_logits [B, T]."""

    def __init__(self, config: UseConfig) -> None:
        super().__init__(config)
        self.encoder = UseModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.qa_outputs = SpanHead(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # What the stored weights lack is uninitialised memory otherwise.
        if isinstance(module, SpanHead):
            nn.init.constant_(module.mark, 0.1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        **others: Any,
    ) -> QuestionAnsweringModelOutput:
        mask = attention_mask
        if mask is None:
            mask = torch.ones_like(input_ids)
        eos_count = (input_ids == END).cumsum(1)
        in_question = (eos_count == 0) & (mask > 0)
        features = self.encoder(input_ids, mask).last_hidden_state
        gate = self.qa_outputs.gate(features) * in_question
        match = shared_tokens(input_ids, in_question, gate)
        marked = self.encoder(
            attention_mask=mask,
            inputs_embeds=self.encoder.embedded(input_ids)
            + match[..., None] * self.qa_outputs.mark,
        ).last_hidden_state
        question = mean_question(features, gate)
        logits = self.qa_outputs(self.dropout(marked), question)
        return QuestionAnsweringModelOutput(
            start_logits=logits[..., 0],
            end_logits=logits[..., 1],
        )


def shared_tokens(ids: Tensor, in_question: Tensor, gate: Tensor) -> Tensor:
    """Return m_t for each token, [B, T]; 0 for the question's own.

    Shapes: ids [B, T]; in_question bool [B, T]; gate g [B, T].
    """
    same_BTT = ids[:, :, None] == ids[:, None, :]
    same_BTT = same_BTT & ~in_question[:, :, None]
    return (same_BTT * gate[:, None, :]).sum(-1).clamp(max=1)


def mean_question(features: Tensor, gate: Tensor) -> Tensor:
    """Return q, the mean of features [B, T, D] weighted by the gate [B, T]: [B, D]."""
    total = (features * gate[..., None]).sum(1)
    weight = gate.sum(1, keepdim=True).clamp(min=1e-6)
    return total / weight


class SpanHead(nn.Module):
    """All weights that are new: features [B, T, D], question [B, D] -> logits [B, T, 2]."""

    def __init__(self, config: UseConfig) -> None:
        super().__init__()
        self.asks = nn.Linear(config.token_size, 1)
        self.mark = nn.Parameter(torch.empty(config.hidden_size))
        self.of_text = nn.Linear(config.token_size, 2 * MATCH_SIZE)
        self.of_question = nn.Linear(config.token_size, 2 * MATCH_SIZE)
        self.score = nn.Linear(config.token_size, 2)

    def gate(self, features: Tensor) -> Tensor:
        """Return σ(w · f) for each token, [B, T]."""
        logits: Tensor = self.asks(features)
        return torch.sigmoid(logits)[..., 0]

    def forward(self, features: Tensor, question: Tensor) -> Tensor:
        product: Tensor = self.of_text(features) * self.of_question(question)[:, None]
        batch, length, _ = product.shape
        match_BT2 = product.view(batch, length, 2, MATCH_SIZE).sum(-1)
        logits: Tensor = self.score(features) + match_BT2
        return logits


AutoModelForQuestionAnswering.register(UseConfig, UseForQuestionAnswering)
