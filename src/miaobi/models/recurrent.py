"""A bidirectional LSTM as a Transformers model, so that the heads of fine-tuning can be
trained on it from scratch.

    h_t = [LSTM→(e_1 ... e_t) ; LSTM←(e_T ... e_t)]        a vector for each token
    s = 1/T Σ_t h_t                                        one for the text

Graves & Schmidhuber 2005 (Neural Networks 18). With a text of its own, or two joined as
for any encoder; padding is never read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)


class RecurrentConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Sizes of the encoder and its heads."""

    model_type = "miaobi-recurrent"

    def __init__(
        self,
        vocab_size: int = 4096,
        embedding_size: int = 128,
        hidden_size: int = 128,
        layers: int = 1,
        max_position_embeddings: int = 512,
        classifier_dropout: float = 0.1,
        pad_token_id: int = 0,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.layers = layers
        self.max_position_embeddings = max_position_embeddings
        self.classifier_dropout = classifier_dropout
        self.pad_token_id = pad_token_id
        super().__init__(**others)


class RecurrentPreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What all heads share."""

    config_class = RecurrentConfig
    base_model_prefix = "encoder"

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
        elif isinstance(module, nn.LSTM):
            module.reset_parameters()


class RecurrentModel(RecurrentPreTrainedModel):
    """ids, mask [B, T], padded on the right -> last_hidden_state [B, T, H], pooled [B, H]."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.embedding_size)
        self.lstm = nn.LSTM(
            config.embedding_size,
            config.hidden_size // 2,
            config.layers,
            batch_first=True,
            bidirectional=True,
        )
        self.drop = nn.Dropout(config.classifier_dropout)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPooling:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        lengths = attention_mask.sum(1).clamp(min=1)
        packed = pack_padded_sequence(
            self.drop(self.embed(input_ids)),
            lengths.cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        output, _ = self.lstm(packed)
        hidden, _ = pad_packed_sequence(
            output, batch_first=True, total_length=input_ids.shape[1]
        )
        pooled = hidden.sum(1) / lengths[:, None]
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden, pooler_output=pooled
        )


class RecurrentForSequenceClassification(RecurrentPreTrainedModel):
    """logits [B, labels] of the text."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.encoder = RecurrentModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, label_count(config))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, input_ids: Tensor, **inputs: Any) -> SequenceClassifierOutput:
        pooled = self.encoder(input_ids, **inputs).pooler_output
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(pooled)))


class RecurrentForTokenClassification(RecurrentPreTrainedModel):
    """logits [B, T, labels] of every token."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.encoder = RecurrentModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, label_count(config))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, input_ids: Tensor, **inputs: Any) -> TokenClassifierOutput:
        hidden = self.encoder(input_ids, **inputs).last_hidden_state
        return TokenClassifierOutput(logits=self.classifier(self.dropout(hidden)))


class RecurrentForQuestionAnswering(RecurrentPreTrainedModel):
    """start_logits, end_logits [B, T] of the answer."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.encoder = RecurrentModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, input_ids: Tensor, **inputs: Any) -> QuestionAnsweringModelOutput:
        hidden = self.encoder(input_ids, **inputs).last_hidden_state
        logits = self.qa_outputs(self.dropout(hidden))
        return QuestionAnsweringModelOutput(
            start_logits=logits[..., 0], end_logits=logits[..., 1]
        )


def label_count(config: RecurrentConfig) -> int:
    """Return how many labels a head has."""
    count: int | None = config.num_labels
    assert count is not None
    return count


AutoConfig.register(RecurrentConfig.model_type, RecurrentConfig)
AutoModel.register(RecurrentConfig, RecurrentModel)
AutoModelForSequenceClassification.register(
    RecurrentConfig, RecurrentForSequenceClassification
)
AutoModelForTokenClassification.register(
    RecurrentConfig, RecurrentForTokenClassification
)
AutoModelForQuestionAnswering.register(RecurrentConfig, RecurrentForQuestionAnswering)
