"""The models of sentence-transformers. Only this module imports it, and so torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sentence_transformers import CrossEncoder, SentenceTransformer

from services.supervisor.engines.sentence_transformers import SentenceServerOptions
from services.supervisor.engines.sentence_transformers.model import (
    EmbeddedText,
    ModelProblem,
    Pair,
    ScoredPair,
)

_SAFE: dict[str, Any] = {
    "local_files_only": True,
    "trust_remote_code": False,
    # Other weight formats can contain code.
    "model_kwargs": {"use_safetensors": True},
}


class LoadedEncoder:
    def __init__(self, options: SentenceServerOptions) -> None:
        self._model = SentenceTransformer(options.model, device=options.device, **_SAFE)
        self.tasks = tuple(self._model.prompts)
        (sample,) = self.embed(None, ["sample"])
        self.dimensions = len(sample.vector)

    def embed(self, task: str | None, texts: Sequence[str]) -> list[EmbeddedText]:
        """The library prepends the prompts, since it decides whether they are pooled."""
        vectors = self._model.encode(
            list(texts),
            prompt_name=task,
            batch_size=len(texts),
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=False,
        )
        prompt = self._model.prompts.get(task or self._model.default_prompt_name or "", "")
        counts = _count(self._model, [prompt + text for text in texts])
        return [
            EmbeddedText(vector=np.asarray(vector, dtype=np.float32), tokens=tokens)
            for vector, tokens in zip(vectors, counts, strict=True)
        ]


class LoadedRanker:
    """A CrossEncoder with one score a pair."""

    def __init__(self, options: SentenceServerOptions) -> None:
        self._model = CrossEncoder(options.model, device=options.device, **_SAFE)
        if self._model.num_labels != 1:
            raise ModelProblem(
                f"The model gives {self._model.num_labels} scores a pair; a reranker gives one."
            )

    def score(self, _kind: None, pairs: Sequence[Pair]) -> list[ScoredPair]:
        """Scores in the range of the model's configuration, most often 0 to 1."""
        scores = self._model.predict(
            list(pairs), batch_size=len(pairs), show_progress_bar=False, convert_to_numpy=True
        )
        counts = _count(self._model, [query for query, _ in pairs], [document for _, document in pairs])
        scored = zip(scores, counts, strict=True)
        return [ScoredPair(score=float(score), tokens=tokens) for score, tokens in scored]


def _count(model: Any, *texts: list[str]) -> list[int]:
    """The number of tokens of each text or pair, after truncation."""
    tokenizer = model.tokenizer
    if not callable(tokenizer):
        return [len(encoding.ids) for encoding in tokenizer.encode_batch(*texts)]
    limit = model.max_seq_length if isinstance(model.max_seq_length, int) else None
    encoded = tokenizer(*texts, truncation=limit is not None, max_length=limit)
    return [len(ids) for ids in encoded["input_ids"]]
