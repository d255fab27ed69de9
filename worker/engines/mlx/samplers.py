"""The sampling state of one request, as far as its answer has come."""

from __future__ import annotations

from worker.answers.form import call_ids
from worker.engines.mlx.decode.sampling import RowSampler
from worker.engines.mlx.decode.thinking import ThinkingBudget
from worker.engines.mlx.model.models import LoadedModel
from worker.engines.mlx.prefill.sequence import Sequence
from worker.engines.tokens.constraints import Constraints
from worker.engines.tokens.output import OutputStream, output_format


def build_sampler(model: LoadedModel, constraints: Constraints, sequence: Sequence) -> RowSampler:
    """Raises `WorkerLostError` where what was generated elsewhere does not have the form that it must have."""
    sampler = RowSampler(
        sequence.params,
        prompt=sequence.prompt.tokens,
        vocab=model.vocab,
        constraint=constraints.start(sequence.grammar),
        budget=_budget(model, sequence),
    )
    sampler.replay(sequence.generated)
    return sampler


def _budget(model: LoadedModel, sequence: Sequence) -> ThinkingBudget | None:
    options, closing = sequence.request.reasoning, output_format(model.tokenizer).closing
    if options.budget_tokens is None or options.enabled is False or closing is None:
        return None
    reader = OutputStream(model.tokenizer, sequence.request, sequence.prompt, call_ids(sequence.request.id).__next__)
    return ThinkingBudget(reader, sequence.generated, options.budget_tokens, closing)
