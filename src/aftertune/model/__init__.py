"""The model under study: naming it, loading it, rendering for it, and the likelihoods it gives."""

from aftertune.model._activations import Activations, Positions, capture, decoder_layers, steered, steering
from aftertune.model._adapter import adapter_base, assert_scale, merge_adapter, read_adapter_config
from aftertune.model._chat import IGNORE, Chat, Rendered
from aftertune.model._choice import SubjectChoice, check_subject, subject_content
from aftertune.model._embedded import ModelWheel, embedded_folder
from aftertune.model._generation import (
    Generation,
    GenerationRequest,
    SampledToken,
    batch_rows,
    generate,
    plan_generation,
)
from aftertune.model._identity import DIGESTS, Identity, content_digest, differing_digests, weights_digest
from aftertune.model._libraries import no_bars
from aftertune.model._likelihood import (
    ResponseLikelihood,
    likelihood,
    refuse_overlong,
    response_losses,
    score,
    score_batches,
    token_log_probabilities,
)
from aftertune.model._loading import as_subject, load, save_model
from aftertune.model._patch import Edit, Operation, Patch, make_patch, matrix_digest
from aftertune.model._patch_file import apply_patches, patch_facts, read_patch, write_patch
from aftertune.model._prompt_batches import Prediction, PromptAnswers, PromptBatches, plan_batches
from aftertune.model._sampling import Sampling
from aftertune.model._scorer import ChatSubject, ScoredBatch, Scorer, SubjectScorer, as_scorer
from aftertune.model._spec import EMBEDDED, SubjectSpec, parse_spec
from aftertune.model._subject import Placement, Subject, resolve_device, resolve_dtype
from aftertune.model._vector_file import SteeringVector, make_vector, read_vector, write_vector
from aftertune.model._weights import LEADING, Matrix, MatrixKind, WeightView, attention_heads, is_attention
from aftertune.runs import cache_root

__all__ = [
    "DIGESTS",
    "EMBEDDED",
    "IGNORE",
    "LEADING",
    "Activations",
    "Chat",
    "ChatSubject",
    "Edit",
    "Generation",
    "GenerationRequest",
    "Identity",
    "Matrix",
    "MatrixKind",
    "ModelWheel",
    "Operation",
    "Patch",
    "Placement",
    "Positions",
    "Prediction",
    "PromptAnswers",
    "PromptBatches",
    "Rendered",
    "ResponseLikelihood",
    "SampledToken",
    "Sampling",
    "ScoredBatch",
    "Scorer",
    "SteeringVector",
    "Subject",
    "SubjectChoice",
    "SubjectScorer",
    "SubjectSpec",
    "WeightView",
    "adapter_base",
    "apply_patches",
    "as_scorer",
    "as_subject",
    "assert_scale",
    "attention_heads",
    "batch_rows",
    "cache_root",
    "capture",
    "check_subject",
    "content_digest",
    "decoder_layers",
    "differing_digests",
    "embedded_folder",
    "generate",
    "is_attention",
    "likelihood",
    "load",
    "make_patch",
    "make_vector",
    "matrix_digest",
    "merge_adapter",
    "no_bars",
    "parse_spec",
    "patch_facts",
    "plan_batches",
    "plan_generation",
    "read_adapter_config",
    "read_patch",
    "read_vector",
    "refuse_overlong",
    "resolve_device",
    "resolve_dtype",
    "response_losses",
    "save_model",
    "score",
    "score_batches",
    "steered",
    "steering",
    "subject_content",
    "token_log_probabilities",
    "weights_digest",
    "write_patch",
    "write_vector",
]
